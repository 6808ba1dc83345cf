/* token_load.c - keeps a rack busy with streams of random tokens, and measures
 * it.
 *
 *   token_load --endpoint tcp://... --streams 8 --tokens 10000
 *
 * Each stream sends a prompt of random tokens, takes `length` tokens greedily,
 * and begins again, until `tokens` have come in all or `time` is over.  Prints
 * one JSON object: tokens per second, and the times between a stream's tokens.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include "client/include/roster.h"
#include "engine/options.h"
#include "engine/util.h"

#define MOST_STREAMS 64
#define MOST_PROMPT 4096
#define MOST_GAPS (1u << 22)

typedef struct {
    const char *endpoint;
    uint32_t streams, prompt, length, first, last, time_ms;
    uint64_t tokens, seed;
    bool series;
} settings;

typedef struct {
    struct load *load;
    uint64_t random, since_us; /* the last token of the present request */
    bool begun;
} stream;

typedef struct load {
    settings set;
    roster_client *client;
    stream streams[MOST_STREAMS];
    uint32_t running;
    bool ending;
    uint64_t begun_us, tokens, prompts, requests, failed;
    uint32_t *gaps_us; /* [n_gaps] */
    uint32_t n_gaps;
    char why[256];
} load;

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- a stream ---- */

static int on_token(void *opaque, roster_generation *g, const roster_token *t) {
    stream *s = opaque;
    load *l = s->load;
    (void)g;
    if (t->id == ROSTER_NO_TOKEN) return 0;
    uint64_t now = now_us();
    l->tokens++;
    if (s->begun && l->n_gaps < MOST_GAPS) {
        l->gaps_us[l->n_gaps++] = (uint32_t)(now - s->since_us);
        if (l->set.series) {
            printf("%.6f %.3f\n", (double)now / 1e6,
                   (double)(now - s->since_us) / 1e3);
        }
    }
    s->begun = true;
    s->since_us = now;
    if (l->set.tokens != 0 && l->tokens >= l->set.tokens) l->ending = true;
    return l->ending ? 1 : 0;
}

static void submit(stream *s);

static void on_end(void *opaque, roster_generation *g) {
    stream *s = opaque;
    load *l = s->load;
    int rc = roster_generation_result(g);
    l->running--;
    l->requests++;
    if (rc < 0) {
        l->failed++;
        snprintf(l->why, sizeof(l->why), "%s", roster_generation_error(g));
    }
    if (rc == ROSTER_ERR_CLOSED) l->ending = true;
    roster_generation_destroy(&g);
    if (!l->ending) submit(s);
}

static void submit(stream *s) {
    load *l = s->load;
    uint32_t prompt[MOST_PROMPT];
    uint32_t range = l->set.last - l->set.first + 1;
    for (uint32_t i = 0; i < l->set.prompt; i++) {
        prompt[i] = l->set.first + (uint32_t)(next_random(&s->random) % range);
    }
    roster_request r;
    roster_request_init(&r);
    r.tokens = prompt;
    r.n_tokens = l->set.prompt;
    r.max_tokens = l->set.length;
    r.ignore_end = 1;
    s->begun = false;
    l->prompts += l->set.prompt;
    roster_generation *g; /* on_end() releases it */
    int rc = roster_submit(l->client, &r, on_token, on_end, s, &g);
    if (rc == 0) {
        l->running++;
        return;
    }
    l->failed++;
    l->ending = true;
    snprintf(l->why, sizeof(l->why), "%s", roster_client_error(l->client));
}

/* ---- figures ---- */

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double gap_ms(const load *l, double share) {
    if (l->n_gaps == 0) return 0;
    return l->gaps_us[(uint32_t)((l->n_gaps - 1) * share)] / 1e3;
}

static void report(load *l) {
    double seconds = (double)(now_us() - l->begun_us) / 1e6;
    qsort(l->gaps_us, l->n_gaps, sizeof(*l->gaps_us), compare);
    printf("{\"requests\": %llu, \"failed\": %llu, \"prompt_tokens\": %llu, "
           "\"tokens\": %llu, \"seconds\": %.3f, \"tokens_per_s\": %.2f, "
           "\"gap_ms\": {\"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, "
           "\"max\": %.2f}}\n",
           (unsigned long long)l->requests, (unsigned long long)l->failed,
           (unsigned long long)l->prompts, (unsigned long long)l->tokens,
           seconds, (double)l->tokens / seconds, gap_ms(l, 0.5), gap_ms(l, 0.9),
           gap_ms(l, 0.99), gap_ms(l, 1));
    if (l->why[0] != '\0') fprintf(stderr, "token_load: %s\n", l->why);
}

static int run(load *l) {
    roster_config *config;
    char why[512] = "";
    int rc = roster_config_create(&config);
    if (rc == 0) {
        rc = roster_config_set(config, "endpoint", l->set.endpoint, why,
                               sizeof(why));
    }
    if (rc == 0) {
        rc = roster_client_create(&l->client, config, why, sizeof(why));
    }
    roster_config_destroy(&config);
    if (rc < 0) {
        fprintf(stderr, "token_load: %s\n", why);
        return rc;
    }
    uint32_t vocab = roster_client_n_vocab(l->client);
    if (l->set.last >= vocab) l->set.last = vocab - 1;
    if (l->set.first > l->set.last) l->set.first = l->set.last;
    l->begun_us = now_us();
    uint64_t until_us = UINT64_MAX;
    if (l->set.time_ms != 0) {
        until_us = l->begun_us + l->set.time_ms * 1000ull;
    }
    for (uint32_t i = 0; i < l->set.streams; i++) {
        l->streams[i] = (stream){.load = l, .random = l->set.seed * 1000 + i};
        submit(&l->streams[i]);
    }
    while (l->running > 0) {
        if (interrupted || now_us() >= until_us) l->ending = true;
        roster_process(l->client, 100);
    }
    report(l);
    roster_client_destroy(&l->client);
    return l->failed > 0 ? -1 : 0;
}

int main(int argc, char **argv) {
    static load l;
    settings *s = &l.set;
    *s = (settings){.streams = 8,
                    .prompt = 16,
                    .length = 64,
                    .first = 3,
                    .last = UINT32_MAX,
                    .seed = 1};
    const option table[] = {
        {"endpoint", 0, OPTION_STRING, &s->endpoint, "E", "Whom to ask."},
        {"streams", 0, OPTION_U32, &s->streams, "N", "Requests at a time."},
        {"prompt", 0, OPTION_U32, &s->prompt, "N", "Tokens of a prompt."},
        {"length", 0, OPTION_U32, &s->length, "N", "Tokens of an answer."},
        {"first", 0, OPTION_U32, &s->first, "ID", "Prompts from here ..."},
        {"last", 0, OPTION_U32, &s->last, "ID", "... to here."},
        {"tokens", 0, OPTION_U64, &s->tokens, "N",
         "End after so many generated tokens; 0: do not."},
        {"time", 0, OPTION_MS, &s->time_ms, "TIME", "End then; 0: do not."},
        {"seed", 0, OPTION_U64, &s->seed, "N", "Seed of the prompts."},
        {"series", 0, OPTION_FLAG, &s->series, NULL,
         "Print a line for each token: when (s, of the monotonic clock), and "
         "after how long (ms)."},
    };
    const option_set set = {
        .program = "token_load",
        .usage = "--endpoint E [options]",
        .about = "Keeps a rack busy with random tokens, and measures it.",
        .table = table,
        .count = sizeof(table) / sizeof(table[0]),
    };
    char why[512];
    options *o;
    int rc = options_parse(&o, &set, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) return EXIT_SUCCESS;
    if (rc < 0 || s->streams == 0 || s->streams > MOST_STREAMS ||
        s->prompt == 0 || s->prompt > MOST_PROMPT || s->length == 0) {
        fprintf(stderr, "token_load: %s\n",
                rc < 0 ? why : "1 to 64 streams, prompts of 1 to 4096 tokens");
        return 2;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    l.gaps_us = malloc(MOST_GAPS * sizeof(*l.gaps_us));
    rc = l.gaps_us != NULL ? run(&l) : -1;
    free(l.gaps_us);
    options_free(o);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
