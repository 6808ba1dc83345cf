/* generate.c - the smallest useful program with libroster: continue a prompt
 * and print the text as it comes.
 *
 *     cc examples/generate.c $(pkg-config --cflags --libs roster) -o generate
 *     roster up models/stories-moe.q8_0.gguf          (prints: ready ENDPOINT)
 *     ROSTER_ENDPOINT=tcp://127.0.0.1:PORT ./generate "Once upon a time" */
#include <roster.h>
#include <stdio.h>
#include <string.h>

/* Runs inside roster_generate(), in our own thread.  The text is on loan until
 * we return; any other value than 0 would cancel the generation. */
static int on_token(void *opaque, roster_generation *generation,
                    const roster_token *token) {
    (void)opaque;
    (void)generation;
    fwrite(token->text, 1, token->text_bytes, stdout);
    return fflush(stdout) != 0;
}

int main(int argc, char **argv) {
    const char *prompt = argc > 1 ? argv[1] : "Once upon a time";
    char why[ROSTER_WHY_BYTES];
    roster_client *client;
    roster_generation *generation;
    roster_request request;
    roster_stats stats;

    /* No configuration: the endpoint comes from ROSTER_ENDPOINT. */
    if (roster_client_create(&client, NULL, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }

    roster_request_init(&request);
    request.text = prompt;
    request.text_bytes = strlen(prompt);
    request.add_special = 1;
    request.max_tokens = 200;
    request.temperature = 0.8f;
    request.top_p = 0.95f;

    fputs(prompt, stdout);
    int rc = roster_generate(client, &request, on_token, NULL, &generation);
    putchar('\n');
    if (rc < 0) {
        fprintf(stderr, "%s\n", roster_client_error(client));
        roster_client_destroy(&client); /* and the generation with it */
        return 1;
    }

    roster_stats_init(&stats);
    if (roster_generation_stats(generation, &stats) == 0) {
        fprintf(stderr, "%u tokens, %u of %u experts run for each, seed %llu\n",
                stats.generated_tokens, stats.experts_per_token,
                stats.experts_stored,
                (unsigned long long)roster_generation_seed(generation));
    }
    roster_generation_destroy(&generation);
    roster_client_destroy(&client);
    return 0;
}
