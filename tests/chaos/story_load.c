/* story_load.c - keeps stories running and compares each with the truth.
 *
 *   story_load --truth tcp://ALONE --endpoint tcp://RACK[,tcp://...] --insecure
 *
 * First every story is told once by the coordinator of --truth.  Then `ready`
 * is printed, and after a line on stdin each stream asks the rack for one story
 * after another, with a client and a thread of its own.  Half of the stories
 * are greedy, half are drawn with a seed: both are the same wherever they are
 * told. A line for each:
 *
 *   done STREAM STORY TOKENS TAKEOVERS MOVES SILENCE_MS
 *   wrong STREAM STORY TOKENS at BYTE ...
 *   lost STREAM STORY TOKENS: WHY
 *
 * When stdin ends, the stories that are being told are told to their end.  A
 * story counts once, with the first thing that happens to it; SILENCE_MS is the
 * longest wait for a token. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/include/roster.h"
#include "engine/err.h"
#include "engine/options.h"
#include "engine/util.h"

#define EXIT_USAGE 2
#define MAX_STREAMS 32
#define CONNECT_MS "20000"
#define WHY 600
#define AFTER_LOSS_US 200000
#define STORIES_PER_CLIENT 4 /* then it connects anew: all shall be busy */

static const char *const prompts[] = {
    "Once upon a time",
    "One day, a little boy named Tim",
    "The cat sat on the",
    "There was a big red ball",
    "Lily and her mom went to the park",
    "The sun was warm and",
    "A small bird wanted to fly",
    "Tom had a toy car",
    "The dog ran after the",
    "In the forest there lived a bear",
    "Sara found a shiny stone",
    "It was raining and the children",
};
#define N_STORIES ARRAY_LEN(prompts)

typedef struct {
    char *text;
    size_t bytes;
} story;

typedef struct {
    const char *truth, *endpoint;
    uint32_t streams, tokens, timeout_ms;
    bool insecure;
} settings;

typedef struct {
    settings set;
    story stories[N_STORIES];
    atomic_bool ending;
    pthread_mutex_t output; /* guards stdout: lines stay whole */
} load;

typedef struct {
    load *of;
    uint32_t number;
    pthread_t thread;
    roster_client *client;
    uint32_t clients; /* how many it has made: each begins elsewhere */
    uint64_t last_us, silence_us; /* of the story that is told */
} stream;

static void say(load *l, const char *line) {
    pthread_mutex_lock(&l->output);
    puts(line);
    fflush(stdout);
    pthread_mutex_unlock(&l->output);
}

/* ---- asking ---- */

/* The list, beginning with its `first`th, so that each is somebody's first. */
static void rotate(const char *list, uint32_t first, char *out, size_t room) {
    const char *at = list;
    for (uint32_t i = 0; i < first; i++) {
        const char *comma = strchr(at, ',');
        at = comma != NULL ? comma + 1 : list;
    }
    int before = at > list ? (int)(at - list) - 1 : 0;
    snprintf(out, room, "%s%s%.*s", at, before > 0 ? "," : "", before, list);
}

static int connect_to(const settings *set, const char *endpoint,
                      roster_client **out, char *why, size_t why_size) {
    const char *const keys[][2] = {
        {"endpoint", endpoint},
        {"connect_timeout_ms", CONNECT_MS},
        {"insecure", set->insecure ? "true" : "false"},
    };
    roster_config *config;
    *out = NULL;
    int rc = roster_config_create(&config);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(keys); i++)
        rc = roster_config_set(config, keys[i][0], keys[i][1], why, why_size);
    if (rc == 0) rc = roster_client_create(out, config, why, why_size);
    roster_config_destroy(&config);
    return rc;
}

static roster_request request_of(const settings *set, uint32_t which) {
    roster_request r;
    roster_request_init(&r);
    r.text = prompts[which];
    r.text_bytes = strlen(r.text);
    r.add_special = 1;
    r.ignore_end = 1;
    r.max_tokens = set->tokens;
    r.timeout_ms = set->timeout_ms;
    if (which % 2 == 1) {
        r.temperature = 0.8f;
        r.has_seed = 1;
        r.seed = which;
    }
    return r;
}

static int learn(load *l, char *why, size_t why_size) {
    roster_client *client;
    int rc = connect_to(&l->set, l->set.truth, &client, why, why_size);

    for (uint32_t i = 0; rc == 0 && i < N_STORIES; i++) {
        roster_request r = request_of(&l->set, i);
        roster_generation *g = NULL;
        rc = roster_generate(client, &r, NULL, NULL, &g);
        if (rc < 0) {
            snprintf(why, why_size, "%s", roster_client_error(client));
            break;
        }
        size_t tokens = 0;
        const char *text = roster_generation_text(g, &l->stories[i].bytes);
        roster_generation_tokens(g, &tokens);
        if (tokens != l->set.tokens || l->stories[i].bytes == 0) {
            roster_generation_destroy(&g);
            rc = err_why(why, why_size, ERR_INTERNAL,
                         "story %u is %zu tokens long, not %u: nothing to "
                         "compare with",
                         i, tokens, l->set.tokens);
            break;
        }
        l->stories[i].text = malloc(l->stories[i].bytes + 1);
        if (l->stories[i].text == NULL) {
            roster_generation_destroy(&g);
            rc = -ENOMEM;
            break;
        }
        memcpy(l->stories[i].text, text, l->stories[i].bytes + 1);
        roster_generation_destroy(&g);
    }
    roster_client_destroy(&client);
    return rc;
}

/* ---- streams ---- */

static void heard(stream *s) {
    uint64_t now = now_us();
    if (now - s->last_us > s->silence_us) s->silence_us = now - s->last_us;
    s->last_us = now;
}

static int on_token(void *opaque, roster_generation *g, const roster_token *t) {
    (void)g;
    (void)t;
    heard(opaque);
    return 0;
}

static size_t differs_at(const char *a, size_t n_a, const char *b, size_t n_b) {
    size_t i = 0;
    while (i < n_a && i < n_b && a[i] == b[i])
        i++;
    return i;
}

/* What came of a story: one line. */
static void report(stream *s, uint32_t which, int rc, roster_generation *g,
                   const char *why) {
    load *l = s->of;
    const story *truth = &l->stories[which];
    char line[WHY + 200];
    size_t bytes = 0, tokens = 0;
    const char *text = g != NULL ? roster_generation_text(g, &bytes) : "";
    if (g != NULL) roster_generation_tokens(g, &tokens);
    size_t at = differs_at(text, bytes, truth->text, truth->bytes);

    if (at < bytes || (rc == 0 && bytes != truth->bytes)) {
        snprintf(line, sizeof(line),
                 "wrong %u %u %zu at byte %zu: '%.40s' for '%.40s'", s->number,
                 which, tokens, at, text + at, truth->text + at);
        make_printable(line);
    } else if (rc < 0) {
        snprintf(line, sizeof(line), "lost %u %u %zu: %s", s->number, which,
                 tokens, why);
        make_printable(line);
    } else {
        roster_stats stats;
        roster_stats_init(&stats);
        roster_generation_stats(g, &stats);
        snprintf(line, sizeof(line), "done %u %u %zu %llu %u %llu", s->number,
                 which, tokens, (unsigned long long)stats.takeovers,
                 stats.moves, (unsigned long long)(s->silence_us / 1000));
    }
    say(l, line);
}

/* One story; a client that is of no more use is made anew for the next. */
static void tell(stream *s, uint32_t which) {
    load *l = s->of;
    char why[WHY] = "";
    roster_generation *g = NULL;

    s->last_us = now_us();
    s->silence_us = 0;
    int rc = 0;
    if (s->client == NULL) {
        char endpoints[WHY];
        rotate(l->set.endpoint, s->clients++, endpoints, sizeof(endpoints));
        rc = connect_to(&l->set, endpoints, &s->client, why, sizeof(why));
    }
    if (rc == 0) {
        roster_request r = request_of(&l->set, which);
        rc = roster_generate(s->client, &r, on_token, s, &g);
        if (rc < 0)
            snprintf(why, sizeof(why), "%s", roster_client_error(s->client));
    }
    heard(s);
    report(s, which, rc, g, why);
    roster_generation_destroy(&g);
    if (rc == 0) return;
    roster_client_destroy(&s->client);
    usleep(AFTER_LOSS_US);
}

static void *run_stream(void *opaque) {
    stream *s = opaque;

    s->clients = s->number;
    for (uint32_t i = s->number; !atomic_load(&s->of->ending); i++) {
        if (i % STORIES_PER_CLIENT == 0) roster_client_destroy(&s->client);
        tell(s, i % N_STORIES);
    }
    roster_client_destroy(&s->client);
    return NULL;
}

/* Returns when stdin has ended and every story is told. */
static int run(load *l) {
    static stream streams[MAX_STREAMS];
    char line[64];
    uint32_t n = 0;
    int rc = 0;

    puts("ready");
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) == NULL) return 0;
    for (; n < l->set.streams; n++) {
        streams[n].of = l;
        streams[n].number = n;
        rc = -pthread_create(&streams[n].thread, NULL, run_stream, &streams[n]);
        if (rc < 0) break;
    }
    while (rc == 0 && fgets(line, sizeof(line), stdin) != NULL) {}
    atomic_store(&l->ending, true);
    for (uint32_t i = 0; i < n; i++)
        pthread_join(streams[i].thread, NULL);
    puts("end");
    return rc;
}

int main(int argc, char **argv) {
    static load l = {
        .set = {.streams = 6, .tokens = 40, .timeout_ms = 60000},
        .output = PTHREAD_MUTEX_INITIALIZER,
    };
    settings *set = &l.set;
    const option table[] = {
        {"truth", 0, OPTION_STRING, &set->truth, "ENDPOINT",
         "Coordinator that nothing happens to."},
        {"endpoint", 0, OPTION_STRING, &set->endpoint, "ENDPOINT[,ENDPOINT]",
         "Coordinators of the rack."},
        {"streams", 0, OPTION_U32, &set->streams, "N", "Stories at a time."},
        {"tokens", 0, OPTION_U32, &set->tokens, "N", "Of each story."},
        {"timeout", 0, OPTION_MS, &set->timeout_ms, "TIME",
         "Longest wait for a token before a story is lost."},
        {"insecure", 0, OPTION_FLAG, &set->insecure, NULL,
         "Endpoints beyond loopback."},
    };
    const option_set options_of = {
        .program = "story_load",
        .usage = "--truth ENDPOINT --endpoint ENDPOINT [options]",
        .about = "Keeps stories running and compares each with the truth.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    char why[WHY] = "";
    options *o;
    int rc = options_parse(&o, &options_of, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) return EXIT_SUCCESS;
    if (rc == 0 && (set->truth == NULL || set->endpoint == NULL ||
                    set->streams == 0 || set->streams > MAX_STREAMS)) {
        rc = err_why(why, sizeof(why), ERR_USAGE,
                     "--truth, --endpoint and 1 to %d streams are needed",
                     MAX_STREAMS);
    }
    if (rc < 0) {
        fprintf(stderr, "story_load: %s\n", why);
        return EXIT_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    rc = learn(&l, why, sizeof(why));
    if (rc == 0) rc = run(&l);
    if (rc < 0) fprintf(stderr, "story_load: %s\n", why);
    for (size_t i = 0; i < N_STORIES; i++)
        free(l.stories[i].text);
    options_free(o);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
