/* test_step.c - the step thread: requests in, events out, over a rack in
 * memory with the real exchange, forward pass and node workers.
 *
 * Nothing here waits for a time to pass: a test waits for an event or a
 * counter, for as long as a slow machine may take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "coordinator/step.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/memory_rack.h"
#include "tests/support/model_gen.h"

#define WAIT_MS 60000
#define MAX_RUNNING 4
#define MAX_QUEUED 4
#define BATCH 24
#define PROMPT 20
#define N_NEW 6
#define PAGES 256
#define LONG_MS 50000 /* a timeout that does not matter */

static memory_model *model;
static tokenizer *words;

static int open_model(void **state) {
    (void)state;
    char why[256] = "";
    model_shape shape = model_shape_small();
    shape.n_vocab = 4096;
    const char *path = fixture_path("step.gguf");
    if (model_gen(&shape, path, why, sizeof(why)) < 0) return -1;
    model = memory_model_open(path);
    return tokenizer_new(&words, model->file, why, sizeof(why));
}

static int close_model(void **state) {
    (void)state;
    tokenizer_free(words);
    memory_model_close(model);
    return 0;
}

/* ---- a rack with a step thread ---- */

typedef struct {
    memory_rack *rack;
    holdings all;
    step *steps;
    bool started;
    int notified;              /* eventfd */
    step_event *first, **last; /* taken, not looked at yet */
} rig;

static void notify(void *ctx) {
    rig *r = ctx;
    uint64_t one = 1;
    ssize_t n = write(r->notified, &one, sizeof(one));
    (void)n;
}

static void hold_everything(holdings *h) {
    const model_config *m = &model->config;
    assert_int_equal(holdings_init(h, m->n_layers, m->n_experts), 0);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        for (uint32_t e = 0; e < m->n_experts; e++)
            holdings_add(h, l, e);
    }
}

/* n_nodes nodes that hold everything; 0: experts are computed here. */
static rig *open_rig(uint32_t n_nodes, uint32_t silent, uint32_t patience_us) {
    rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    hold_everything(&r->all);
    holdings held[2] = {r->all, r->all};
    memory_rack_config c = {
        .n_nodes = n_nodes,
        .held = held,
        .threads = 1,
        .local = n_nodes == 0,
        .kv = KV_F32,
        .max_rows = BATCH,
        .piece_bytes = 1 << 16,
        .credit_bytes = 1 << 20,
        .patience_us = patience_us,
        .silent = silent,
    };
    r->rack = memory_rack_open(model, &c);
    r->notified = eventfd(0, EFD_CLOEXEC);
    r->last = &r->first;
    step_config s = {
        .limits = {.max_running = MAX_RUNNING,
                   .max_queued = MAX_QUEUED,
                   .batch_tokens = BATCH,
                   .page_tokens = KV_PAGE,
                   .n_pages = PAGES,
                   .max_context = 512,
                   .queue_timeout_ms = 0},
        .forward = memory_rack_forward(r->rack),
        .experts = memory_rack_exchange(r->rack),
        .kv = memory_rack_kv(r->rack),
        .words = words,
        .n_vocab = model->config.n_vocab,
        .n_used = model->config.n_used,
        .notify = notify,
        .notify_ctx = r,
    };
    assert_int_equal(step_new(&r->steps, &s), 0);
    return r;
}

static void start(rig *r) {
    assert_int_equal(step_start(r->steps), 0);
    r->started = true;
}

static void close_rig(rig *r) {
    if (r->started) {
        step_stop(r->steps);
        step_join(r->steps);
    }
    while (r->first != NULL) {
        step_event *e = r->first;
        r->first = e->next;
        step_event_free(e);
    }
    step_free(r->steps);
    memory_rack_close(r->rack);
    holdings_fini(&r->all);
    close(r->notified);
    free(r);
}

/* ---- asking ---- */

static step_request make(uint64_t id, request_kind kind, uint32_t n_tokens) {
    step_request q = {
        .id = id,
        .kind = kind,
        .n_tokens = n_tokens,
        .max_new = kind == REQUEST_GENERATE ? N_NEW : 0,
        .sampling = {.top_p = 1.0f},
        .ignore_end = true,
        .timeout_ms = LONG_MS,
    };
    q.tokens = calloc(n_tokens, sizeof(*q.tokens));
    assert_non_null(q.tokens);
    for (uint32_t i = 0; i < n_tokens; i++) {
        q.tokens[i] = 3 + (uint32_t)(id * 31 + i * 7) % 250;
    }
    return q;
}

static void submit(rig *r, const step_request *q) {
    assert_int_equal(step_submit(r->steps, q), 0);
}

static void generate(rig *r, uint64_t id, uint32_t timeout_ms) {
    step_request q = make(id, REQUEST_GENERATE, PROMPT);
    q.timeout_ms = timeout_ms;
    submit(r, &q);
}

/* ---- waiting ---- */

static void take_events(rig *r) {
    step_event *e = step_events(r->steps);
    *r->last = e;
    while (*r->last != NULL)
        r->last = &(*r->last)->next;
    step_events_done(r->steps);
}

/* The next event of a request, taken out of the list; the caller frees it. */
static step_event *next_event(rig *r, uint64_t id) {
    uint64_t until = now_ms() + WAIT_MS;
    while (now_ms() < until) {
        take_events(r);
        for (step_event **at = &r->first; *at != NULL; at = &(*at)->next) {
            step_event *e = *at;
            if (e->id != id) continue;
            *at = e->next;
            if (r->last == &e->next) r->last = at;
            return e;
        }
        struct pollfd fd = {.fd = r->notified, .events = POLLIN};
        if (poll(&fd, 1, 100) > 0) {
            uint64_t n;
            assert_int_equal(read(r->notified, &n, sizeof(n)), sizeof(n));
        }
    }
    fail_msg("no event of request %llu came", (unsigned long long)id);
    return NULL;
}

static void expect_failure(rig *r, uint64_t id, int code, const char *part) {
    step_event *e = next_event(r, id);
    assert_int_equal(e->kind, EVENT_FAILED);
    assert_int_equal(e->code, code);
    if (strstr(e->why, part) == NULL) {
        fail_msg("'%s' does not contain '%s'", e->why, part);
    }
    step_event_free(e);
}

static void expect_tokens(rig *r, uint64_t id, uint32_t from,
                          uint32_t *tokens) {
    for (uint32_t i = from; i < N_NEW; i++) {
        step_event *e = next_event(r, id);
        assert_int_equal(e->kind, EVENT_TOKEN);
        assert_int_equal(e->index, i);
        tokens[i] = e->token;
        step_event_free(e);
    }
    step_event *e = next_event(r, id);
    assert_int_equal(e->kind, EVENT_FINISHED);
    assert_int_equal(e->reason, FINISH_LENGTH);
    assert_int_equal(e->timing.prompt_tokens, PROMPT);
    assert_int_equal(e->timing.generated, N_NEW);
    step_event_free(e);
}

static step_stats stats_of(rig *r) {
    step_stats s;
    step_read_stats(r->steps, &s);
    return s;
}

typedef bool (*condition)(const step_stats *s);

static bool one_is_parked(const step_stats *s) {
    return s->counts.parked == 1;
}
static bool one_is_cancelled(const step_stats *s) {
    return s->cancelled == 1;
}
static bool nothing_is_left(const step_stats *s) {
    const scheduler_counts *c = &s->counts;
    return c->queued + c->running + c->parked == 0 && c->free_pages == PAGES;
}

static void wait_for(rig *r, condition met) {
    uint64_t until = now_ms() + WAIT_MS;
    for (;;) {
        step_stats s = stats_of(r);
        if (met(&s)) return;
        assert_true(now_ms() < until);
        poll(NULL, 0, 1);
    }
}

/* What the model says after request `id`'s prompt, by a rack of its own. */
static void expected_tokens(uint64_t id, uint32_t *tokens) {
    rig *r = open_rig(0, 0, 0);
    start(r);
    generate(r, id, LONG_MS);
    expect_tokens(r, id, 0, tokens);
    close_rig(r);
}

static void assert_same_tokens(const uint32_t *a, const uint32_t *b) {
    assert_memory_equal(a, b, N_NEW * sizeof(*a));
}

/* ---- life ---- */

static void starts_and_stops_with_nothing_to_do(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    start(r);
    close_rig(r);
}

static void frees_what_was_never_started(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    generate(r, 1, LONG_MS);
    close_rig(r);
}

static void generates_over_nodes_what_it_generates_alone(void **state) {
    (void)state;
    uint32_t alone[N_NEW], tokens[N_NEW];
    expected_tokens(1, alone);
    rig *r = open_rig(2, 0, 0);
    start(r);
    generate(r, 1, LONG_MS);
    expect_tokens(r, 1, 0, tokens);
    assert_same_tokens(tokens, alone);
    wait_for(r, nothing_is_left);
    close_rig(r);
}

static void fails_a_prompt_that_cannot_fit(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    start(r);
    step_request q = make(1, REQUEST_GENERATE, 510);
    submit(r, &q);
    expect_failure(r, 1, ERR_CONTEXT, "context");
    /* its place is free again */
    for (uint64_t id = 2; id < 2 + MAX_RUNNING + MAX_QUEUED; id++) {
        generate(r, id, LONG_MS);
    }
    close_rig(r);
}

/* The tokens of a refused request are still the caller's: the address sanitizer
 * sees it if they are not. */
static void refuses_what_is_too_much_and_takes_nothing(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    for (uint64_t id = 1; id <= MAX_RUNNING + MAX_QUEUED; id++) {
        generate(r, id, LONG_MS);
    }
    for (uint64_t id = 100; id < 5000; id++) {
        step_request q = make(id, REQUEST_GENERATE, PROMPT);
        assert_int_equal(step_submit(r->steps, &q), ERR_OVERLOADED);
        free(q.tokens);
    }
    close_rig(r);
}

static void serves_everybody_of_a_full_queue(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    for (uint64_t id = 1; id <= MAX_RUNNING + MAX_QUEUED; id++) {
        generate(r, id, LONG_MS);
    }
    start(r);
    uint32_t tokens[N_NEW], alone[N_NEW];
    for (uint64_t id = 1; id <= MAX_RUNNING + MAX_QUEUED; id++) {
        expect_tokens(r, id, 0, tokens);
        if (id != 7) continue;
        expected_tokens(id, alone);
        assert_same_tokens(tokens, alone);
    }
    wait_for(r, nothing_is_left);
    assert_int_equal(stats_of(r).done, MAX_RUNNING + MAX_QUEUED);
    close_rig(r);
}

/* ---- wishes ---- */

static void cancels_before_the_thread_has_seen_it(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    generate(r, 1, LONG_MS);
    assert_int_equal(step_cancel(r->steps, 1), 0);
    assert_int_equal(step_cancel(r->steps, 1), ERR_NOT_HERE);
    generate(r, 2, LONG_MS);
    start(r);
    uint32_t tokens[N_NEW];
    expect_tokens(r, 2, 0, tokens);
    assert_null(r->first); /* nothing of the other */
    close_rig(r);
}

static void cancels_what_runs_and_gives_its_pages_back(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    start(r);
    step_request q = make(1, REQUEST_GENERATE, PROMPT);
    q.max_new = 400;
    submit(r, &q);
    step_event_free(next_event(r, 1));
    assert_int_equal(step_cancel(r->steps, 1), 0);
    wait_for(r, one_is_cancelled);
    wait_for(r, nothing_is_left);
    assert_int_equal(step_cancel(r->steps, 1), ERR_NOT_HERE);
    assert_int_equal(step_hold(r->steps, 1, true), ERR_NOT_HERE);
    close_rig(r);
}

static void a_held_request_waits_until_it_is_let_go(void **state) {
    (void)state;
    uint32_t alone[N_NEW], tokens[N_NEW];
    expected_tokens(1, alone);
    rig *r = open_rig(0, 0, 0);
    generate(r, 1, LONG_MS);
    assert_int_equal(step_hold(r->steps, 1, true), 0);
    generate(r, 2, LONG_MS);
    start(r);
    expect_tokens(r, 2, 0, tokens); /* others go on */
    assert_null(r->first);
    assert_int_equal(step_hold(r->steps, 1, false), 0);
    expect_tokens(r, 1, 0, tokens);
    assert_same_tokens(tokens, alone);
    close_rig(r);
}

static void the_last_of_many_wishes_counts(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    generate(r, 1, LONG_MS);
    for (int i = 0; i < 20001; i++) {
        assert_int_equal(step_hold(r->steps, 1, i % 2 == 1), 0);
    }
    start(r);
    uint32_t tokens[N_NEW];
    expect_tokens(r, 1, 0, tokens);
    close_rig(r);
}

static void a_request_held_for_too_long_fails(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    generate(r, 1, 150);
    assert_int_equal(step_hold(r->steps, 1, true), 0);
    start(r);
    expect_failure(r, 1, ERR_DEADLINE, "deadline");
    wait_for(r, nothing_is_left);
    close_rig(r);
}

/* ---- missing experts ---- */

static void a_parked_request_is_served_when_a_node_comes(void **state) {
    (void)state;
    uint32_t alone[N_NEW], tokens[N_NEW];
    expected_tokens(1, alone);
    rig *r = open_rig(1, 0, 0);
    const holdings *nobody[1] = {NULL}, *somebody[1] = {&r->all};
    memory_rack_post(r->rack, nobody);
    start(r);
    generate(r, 1, LONG_MS);
    wait_for(r, one_is_parked);
    memory_rack_post(r->rack, somebody);
    step_wake(r->steps);
    expect_tokens(r, 1, 0, tokens);
    assert_same_tokens(tokens, alone);
    close_rig(r);
}

static void fails_with_the_expert_that_nobody_holds(void **state) {
    (void)state;
    rig *r = open_rig(1, 0, 0);
    const holdings *nobody[1] = {NULL};
    memory_rack_post(r->rack, nobody);
    start(r);
    generate(r, 1, 1000);
    expect_failure(r, 1, ERR_UNAVAILABLE, "layer 0 expert");
    wait_for(r, nothing_is_left);
    close_rig(r);
}

/* The exchange would wait a minute: a request's own timeout comes first. */
static void fails_in_time_although_the_step_waits(void **state) {
    (void)state;
    rig *r = open_rig(1, 1, 0);
    start(r);
    uint64_t begun = now_ms();
    generate(r, 1, 1000);
    expect_failure(r, 1, ERR_UNAVAILABLE, "layer 0 expert");
    assert_true(now_ms() - begun < WAIT_MS / 2);
    wait_for(r, nothing_is_left);
    close_rig(r);
}

static void the_impatient_fail_alone(void **state) {
    (void)state;
    uint32_t alone[N_NEW], tokens[N_NEW];
    expected_tokens(2, alone);
    rig *r = open_rig(2, 1, 0); /* node 0 is silent */
    const holdings *silent[2] = {&r->all, NULL};
    const holdings *good[2] = {NULL, &r->all};
    memory_rack_post(r->rack, silent);
    generate(r, 1, 300);
    generate(r, 2, LONG_MS);
    start(r);
    expect_failure(r, 1, ERR_UNAVAILABLE, "layer 0 expert");
    take_events(r);
    assert_null(r->first); /* the other one waits */
    memory_rack_post(r->rack, good);
    step_wake(r->steps);
    expect_tokens(r, 2, 0, tokens);
    assert_same_tokens(tokens, alone);
    wait_for(r, nothing_is_left);
    assert_int_equal(stats_of(r).failed, 1);
    close_rig(r);
}

static void a_queued_request_fails_in_time_while_a_step_waits(void **state) {
    (void)state;
    rig *r = open_rig(1, 1, 0);
    start(r);
    generate(r, 1, LONG_MS);
    uint64_t begun = now_ms();
    generate(r, 2, 300); /* after the step began or in it: both fail in time */
    step_event *e = next_event(r, 2);
    assert_int_equal(e->kind, EVENT_FAILED);
    assert_true(now_ms() - begun < WAIT_MS / 2);
    step_event_free(e);
    close_rig(r);
}

static void ends_at_once_although_the_step_waits(void **state) {
    (void)state;
    rig *r = open_rig(1, 1, 0);
    start(r);
    generate(r, 1, 200); /* when this fails, the step surely waits for ... */
    generate(r, 2, LONG_MS);
    expect_failure(r, 1, ERR_UNAVAILABLE, "layer 0 expert");
    uint64_t begun = now_ms();
    step_stop(r->steps);
    step_join(r->steps);
    assert_true(now_ms() - begun < LONG_MS / 2);
    close_rig(r);
}

/* ---- EVAL ---- */

typedef struct {
    uint32_t n_rows, n_events;
    float *logits; /* [n][n_vocab] */
} logits;

static logits collect_logits(rig *r, uint64_t id, uint32_t n, bool routing) {
    size_t row = model->config.n_vocab;
    logits l = {.logits = calloc(n * row, sizeof(float))};
    for (;;) {
        step_event *e = next_event(r, id);
        if (e->kind == EVENT_FINISHED) {
            assert_int_equal(e->reason, FINISH_DONE);
            step_event_free(e);
            assert_int_equal(l.n_rows, n);
            return l;
        }
        assert_int_equal(e->kind, EVENT_LOGITS);
        assert_int_equal(e->first, l.n_rows);
        assert_true(e->n_rows > 0 && l.n_rows + e->n_rows <= n);
        assert_true(e->n_rows == 1 ||
                    e->n_rows * row * sizeof(float) <= STEP_LOGITS_BYTES);
        assert_int_equal(e->experts != NULL, routing);
        size_t chosen =
            (size_t)e->n_rows * model->config.n_layers * model->config.n_used;
        for (size_t i = 0; routing && i < chosen; i++) {
            assert_true(e->experts[i] < model->config.n_experts);
            assert_true(e->weights[i] > 0.0f && e->weights[i] <= 1.0f);
        }
        memcpy(l.logits + l.n_rows * row, e->logits,
               e->n_rows * row * sizeof(float));
        l.n_rows += e->n_rows;
        l.n_events++;
        step_event_free(e);
    }
}

static void eval_beside_generate_gives_the_same_bits(void **state) {
    (void)state;
    uint32_t alone[N_NEW], tokens[N_NEW];
    expected_tokens(1, alone);
    rig *r = open_rig(0, 0, 0);
    step_request q = make(2, REQUEST_EVAL, 50);
    q.routing = true;
    submit(r, &q);
    start(r);
    logits whole = collect_logits(r, 2, 50, true);
    close_rig(r);

    r = open_rig(2, 0, 0);
    generate(r, 1, LONG_MS);
    q = make(2, REQUEST_EVAL, 50);
    q.chunk = 7;
    submit(r, &q);
    generate(r, 3, LONG_MS);
    start(r);
    logits mixed = collect_logits(r, 2, 50, false);
    expect_tokens(r, 1, 0, tokens);
    assert_same_tokens(tokens, alone);
    expect_tokens(r, 3, 0, tokens);
    wait_for(r, nothing_is_left);
    close_rig(r);
    assert_memory_equal(whole.logits, mixed.logits,
                        50 * model->config.n_vocab * sizeof(float));
    assert_true(mixed.n_events >= 8);
    free(whole.logits);
    free(mixed.logits);
}

static void steps_pause_while_nobody_takes_the_events(void **state) {
    (void)state;
    rig *r = open_rig(0, 0, 0);
    size_t row_bytes = model->config.n_vocab * sizeof(float);
    uint64_t all = 4 * 400, bound = STEP_MAX_EVENT_BYTES / row_bytes + BATCH;
    assert_true(bound + BATCH < all);
    for (uint64_t id = 1; id <= 4; id++) {
        step_request q = make(id, REQUEST_EVAL, 400);
        submit(r, &q);
    }
    start(r);
    /* When the one that is cancelled now is gone, turns have passed in which
     * the others could have gone on. */
    step_request last = make(5, REQUEST_GENERATE, 1);
    submit(r, &last);
    assert_int_equal(step_hold(r->steps, 5, true), 0);
    uint64_t until = now_ms() + WAIT_MS;
    while (stats_of(r).tokens + BATCH < bound) {
        assert_true(now_ms() < until);
        poll(NULL, 0, 1);
    }
    assert_int_equal(step_cancel(r->steps, 5), 0);
    wait_for(r, one_is_cancelled);
    assert_true(stats_of(r).tokens <= bound);
    for (uint64_t id = 1; id <= 4; id++) {
        free(collect_logits(r, id, 400, false).logits);
    }
    close_rig(r);
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_and_stops_with_nothing_to_do),
        cmocka_unit_test(frees_what_was_never_started),
        cmocka_unit_test(generates_over_nodes_what_it_generates_alone),
        cmocka_unit_test(fails_a_prompt_that_cannot_fit),
        cmocka_unit_test(refuses_what_is_too_much_and_takes_nothing),
        cmocka_unit_test(serves_everybody_of_a_full_queue),
        cmocka_unit_test(cancels_before_the_thread_has_seen_it),
        cmocka_unit_test(cancels_what_runs_and_gives_its_pages_back),
        cmocka_unit_test(a_held_request_waits_until_it_is_let_go),
        cmocka_unit_test(the_last_of_many_wishes_counts),
        cmocka_unit_test(a_request_held_for_too_long_fails),
        cmocka_unit_test(a_parked_request_is_served_when_a_node_comes),
        cmocka_unit_test(fails_with_the_expert_that_nobody_holds),
        cmocka_unit_test(fails_in_time_although_the_step_waits),
        cmocka_unit_test(the_impatient_fail_alone),
        cmocka_unit_test(a_queued_request_fails_in_time_while_a_step_waits),
        cmocka_unit_test(ends_at_once_although_the_step_waits),
        cmocka_unit_test(eval_beside_generate_gives_the_same_bits),
        cmocka_unit_test(steps_pause_while_nobody_takes_the_events),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
