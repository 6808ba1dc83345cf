/* bench_run.c - see bench_run.h.
 *
 * Streams do not all begin in the same step of the coordinator, so those of a
 * decode test go on until the last one has its tokens, and are cancelled then:
 * every step that is timed decodes all of them. */
#include "client/bench_run.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

/* Steps that the first stream may be ahead of the last. */
#define SPARE_TOKENS 256
#define SETTLE_MS 2000 /* for what was cancelled to be gone */
#define LOOK_MS 2
#define TRIES 20 /* of a repetition whose streams did not stay together */

typedef struct run run;

typedef struct {
    run *run;
    roster_generation *generation; /* owned */
    uint32_t counted;              /* tokens since the window opened */
    bool begun;                    /* has its first token */
} stream;

struct run {
    const bench_test *test;
    session *session;
    stream streams[BENCH_MAX_STREAMS];
    uint32_t n_begun, n_done;
    uint64_t opened_us, closed_us; /* the window; 0: not yet */
    bench_work opened, closed;     /* what the coordinator had done then */
    char *why;
    size_t why_size;
};

uint64_t bench_tokens(const bench_test *t) {
    return (uint64_t)t->streams * (t->n_prompt + t->n_gen);
}

/* ---- the window ---- */

static void on_first(run *r, stream *st) {
    st->begun = true;
    if (++r->n_begun < r->test->streams) return;
    if (r->test->n_gen > 0)
        r->opened_us = now_us();
    else
        r->closed_us = now_us();
}

static int on_token(void *opaque, roster_generation *g,
                    const roster_token *token) {
    stream *st = opaque;
    run *r = st->run;
    (void)g;

    if (token->id == ROSTER_NO_TOKEN || r->closed_us != 0) return 0;
    if (!st->begun) {
        on_first(r, st);
        return 0;
    }
    if (r->opened_us == 0 || ++st->counted != r->test->n_gen) return 0;
    if (++r->n_done == r->test->streams) r->closed_us = now_us();
    return 0;
}

/* ---- requests ---- */

/* splitmix64: every seed gives a stream of its own. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t max_tokens(const run *r) {
    const bench_test *t = r->test;
    uint32_t room = roster_client_n_context(r->session->client) - 1;
    uint32_t needed = t->n_gen + 1;

    if (t->n_gen == 0) return 1;
    if (t->streams == 1 || room < needed) return needed;
    return needed + (uint32_t)size_min(room - needed, SPARE_TOKENS);
}

static int failed(run *r, int rc, const char *sentence) {
    return session_explain(r->session, rc,
                           sentence[0] != '\0' ? sentence : err_text(rc),
                           r->why, r->why_size);
}

static int submit(run *r, stream *st, const roster_request *request) {
    roster_client *client = r->session->client;

    st->run = r;
    for (;;) {
        int rc =
            roster_submit(client, request, on_token, NULL, st, &st->generation);
        if (rc == 0) return 0;
        if (rc != -EAGAIN) return failed(r, rc, roster_client_error(client));
        rc = session_turn(r->session, -1);
        if (rc < 0) return failed(r, rc, roster_client_error(client));
    }
}

static int submit_all(run *r, const uint32_t *prompts, uint32_t prompt_tokens) {
    roster_request request;
    roster_request_init(&request);
    request.n_tokens = prompt_tokens;
    request.max_tokens = max_tokens(r);
    request.ignore_end = 1;

    for (uint32_t i = 0; i < r->test->streams; i++) {
        request.tokens = prompts + (size_t)i * prompt_tokens;
        int rc = submit(r, &r->streams[i], &request);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- until the end ---- */

/* A stream that ended too soon ends the repetition. */
static int check_streams(run *r) {
    for (uint32_t i = 0; i < r->test->streams; i++) {
        roster_generation *g = r->streams[i].generation;
        int rc = roster_generation_result(g);
        if (rc == -EINPROGRESS) continue;
        if (rc < 0) return failed(r, rc, roster_generation_error(g));
        return err_why(r->why, r->why_size, ERR_CONTEXT,
                       "an answer ended before its tokens were counted: the "
                       "context of %u tokens is too small, or too few requests "
                       "run at once",
                       roster_client_n_context(r->session->client));
    }
    return 0;
}

/* Until one side of the window is there. */
static int wait_for(run *r, const uint64_t *side_us) {
    while (*side_us == 0) {
        int rc = session_turn(r->session, -1);
        if (rc == -EINTR) return failed(r, rc, "");
        if (*side_us != 0) break;
        if (rc == 0) continue;
        rc = check_streams(r);
        if (rc < 0) return rc;
    }
    return 0;
}

/* Nothing of this repetition may run beside the next. */
static int wait_ended(run *r) {
    for (uint32_t i = 0; i < r->test->streams; i++) {
        roster_generation *g = r->streams[i].generation;
        roster_cancel(g);
        while (roster_generation_result(g) == -EINPROGRESS) {
            int rc = session_turn(r->session, -1);
            if (rc == -EINTR) return failed(r, rc, "");
        }
        int rc = roster_generation_result(g);
        if (rc < 0) return failed(r, rc, roster_generation_error(g));
    }
    return 0;
}

static int look(run *r, bench_work *out) {
    return bench_work_read(r->session, out, r->why, r->why_size);
}

/* A coordinator answers a cancel at once and ends its step after that: it
 * should not be computing when memory is measured.  (One that others use, too,
 * may never be idle.) */
static int settle(run *r) {
    uint64_t until_ms = now_ms() + SETTLE_MS;
    bench_work work;

    for (;;) {
        int rc = look(r, &work);
        if (rc < 0 || work.n_requests == 0 || now_ms() >= until_ms) return rc;
        (void)poll(NULL, 0, LOOK_MS);
    }
}

static uint32_t *draw_prompts(const run *r, uint32_t n, uint64_t seed) {
    uint32_t n_vocab = roster_client_n_vocab(r->session->client);
    uint32_t *tokens = calloc(n, sizeof(*tokens));

    if (tokens == NULL || n_vocab == 0) return tokens;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)(next_random(&seed) % n_vocab);
    return tokens;
}

/* Prompts: the window opens before they are sent.  Decoding: when all streams
 * have begun.  What the coordinator does is counted in whole steps; of one
 * stream also in the step of its prompt, which is like the others, so that the
 * coordinator need not be asked while it decodes. */
static int measure(run *r, const uint32_t *prompts, uint32_t prompt_tokens) {
    bool decodes = r->test->n_gen > 0;
    bool together = decodes && r->test->streams > 1;

    int rc = together ? 0 : look(r, &r->opened);
    if (!decodes) r->opened_us = now_us();
    if (rc == 0) rc = submit_all(r, prompts, prompt_tokens);
    if (rc == 0) rc = wait_for(r, &r->opened_us);
    if (rc == 0 && together) rc = look(r, &r->opened);
    if (rc == 0) rc = wait_for(r, &r->closed_us);
    if (rc == 0) rc = look(r, &r->closed);
    if (rc == 0) rc = wait_ended(r);
    if (rc == 0) rc = settle(r);
    return rc;
}

/* Steps were so short that the coordinator's answer came after them. */
static bool missed(const bench_sample *s) {
    return s->work.steps == 0;
}

static int run_once(session *s, const bench_test *t, uint64_t seed,
                    bench_sample *out, char *why, size_t why_size) {
    assert(t->streams > 0 && t->streams <= BENCH_MAX_STREAMS);
    uint32_t prompt_tokens = t->n_gen > 0 ? 1 : t->n_prompt;
    run *r = calloc(1, sizeof(*r));
    if (r == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    r->test = t;
    r->session = s;
    r->why = why;
    r->why_size = why_size;

    uint32_t *prompts = draw_prompts(r, t->streams * prompt_tokens, seed);
    int rc = prompts != NULL ? measure(r, prompts, prompt_tokens)
                             : err_why(why, why_size, -ENOMEM, "no memory");
    *out = (bench_sample){.us = r->closed_us - r->opened_us};
    bench_work_add(&out->work, &r->opened, &r->closed);
    for (uint32_t i = 0; i < t->streams; i++)
        roster_generation_destroy(&r->streams[i].generation);
    free(prompts);
    free(r);
    return rc;
}

int bench_run(session *s, const bench_test *t, uint64_t seed, bench_sample *out,
              char *why, size_t why_size) {
    for (int i = 1;; i++) {
        int rc = run_once(s, t, seed, out, why, why_size);
        bool again = rc == ERR_CONTEXT || (rc == 0 && missed(out));
        if (!again || i == TRIES) return rc;
    }
}
