/* server_rig.h - a coordinator's server, its step thread and a small model in
 * one process, and a client's link to it: what the tests of the server share.
 */
#ifndef TESTS_SERVER_RIG_H
#define TESTS_SERVER_RIG_H

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "coordinator/server.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/memory_rack.h"
#include "tests/support/model_gen.h"

#define WAIT_MS 60000
#define ENDPOINT "inproc://server"
#define CONTEXT 450
#define QUEUE 16

static const uint32_t prompt[] = {1, 70, 80, 90, 100};

static memory_model *model;
static tokenizer *words;

static inline int open_model_of(uint32_t n_vocab, const char *name) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    shape.n_vocab = n_vocab;
    const char *path = fixture_path(name);
    if (model_gen(&shape, path, why, sizeof(why)) < 0) return -1;
    model = memory_model_open(path);
    return tokenizer_new(&words, model->file, why, sizeof(why));
}

/* Rows of logits that fill an outbox. */
static inline int open_model(void **state) {
    (void)state;
    return open_model_of(4096, "large.gguf");
}

/* Each token, and so the end, comes up often. */
static inline int open_small_model(void **state) {
    (void)state;
    return open_model_of(MODEL_GEN_MIN_VOCAB, "small.gguf");
}

static inline int close_model(void **state) {
    (void)state;
    tokenizer_free(words);
    memory_model_close(model);
    return 0;
}

typedef struct {
    memory_rack *rack;
    local_experts *local; /* of the server's reports alone */
    step *steps;
    void *zmq;
    uv_loop_t loop;
    identity self;
    profile profile;
    server *server;
    struct link *client;
    int notified; /* eventfd: the step thread has events */
    message_arena *arena;
    frames in;
    message m; /* the last message to the client */
} rig;

static inline void notify(void *ctx) {
    const rig *r = ctx;
    uint64_t one = 1;
    ssize_t n = write(r->notified, &one, sizeof(one));
    (void)n;
}

static inline void open_steps(rig *r, bool local) {
    memory_rack_config c = {.threads = 1,
                            .local = local,
                            .kv = KV_F32,
                            .max_rows = 64,
                            .piece_bytes = 1 << 16,
                            .credit_bytes = 1 << 20};
    r->rack = memory_rack_open(model, &c);
    log_setup("test", (log_level)(LOG_ERROR + 1));
    step_config s = {
        .limits = {.max_running = 8,
                   .max_queued = 8,
                   .batch_tokens = 64,
                   .page_tokens = KV_PAGE,
                   .n_pages = 100,
                   .max_context = CONTEXT},
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
    assert_int_equal(step_start(r->steps), 0);
}

/* `local`: it computes experts itself; else nobody does. */
static inline rig *open_rig_of(bool local) {
    char why[256] = "";
    rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->notified = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    open_steps(r, local);
    local_config l = {model->file, &model->config, NULL, NULL, 0, 1, false};
    assert_int_equal(local_experts_new(&r->local, &l, why, sizeof(why)), 0);
    r->zmq = zmq_ctx_new();
    strcpy(r->self.cluster, "test");
    strcpy(r->self.name, "served");
    r->self.boot_id = 77;
    r->profile = profile_of_coordinator(false, "f32", "none");
    assert_int_equal(uv_loop_init(&r->loop), 0);
    server_config c = {
        .loop = &r->loop,
        .self = &r->self,
        .profile = &r->profile,
        .weights = model->weights,
        .words = words,
        .steps = r->steps,
        .experts = memory_rack_exchange(r->rack),
        .local = r->local,
        .max_context = CONTEXT,
        .timeout_ms = 50000,
        .links = {.zmq = r->zmq,
                  .max_part_bytes = 64 << 20,
                  .queue_messages = QUEUE},
        .listen = ENDPOINT,
    };
    assert_int_equal(server_open(&r->server, &c, why, sizeof(why)), 0);
    assert_int_equal(
        link_connect(&r->client, &c.links, ENDPOINT, why, sizeof(why)), 0);
    assert_int_equal(message_arena_new(&r->arena, 16 << 20), 0);
    frames_init(&r->in);
    return r;
}

static inline rig *open_rig(void) {
    return open_rig_of(true);
}

static inline void close_rig(rig *r) {
    step_stop(r->steps);
    step_join(r->steps);
    server_close(r->server);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    server_free(r->server);
    frames_fini(&r->in);
    link_close(r->client);
    message_arena_free(r->arena);
    step_free(r->steps);
    local_experts_free(r->local);
    memory_rack_close(r->rack);
    zmq_ctx_term(r->zmq);
    close(r->notified);
    free(r);
}

/* ---- asking and hearing ---- */

static inline void ask(rig *r, const message *m) {
    uint64_t until = now_ms() + WAIT_MS;
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    message named = *m;
    named.cluster = m->cluster != NULL ? m->cluster : "test";
    named.boot_id = 5;
    assert_int_equal(message_seal(&f, &named), 0);
    while (link_send(r->client, &f) == -EAGAIN) {
        assert_true(now_ms() < until);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
}

static inline void turn(rig *r) {
    uv_run(&r->loop, UV_RUN_NOWAIT);
    server_take_events(r->server);
}

static inline void wait_for_news(rig *r) {
    struct pollfd fds[] = {{link_fd(r->client), POLLIN, 0},
                           {uv_backend_fd(&r->loop), POLLIN, 0},
                           {r->notified, POLLIN, 0}};
    poll(fds, ARRAY_LEN(fds), 5);
    uint64_t n;
    if (read(r->notified, &n, sizeof(n)) < 0) return; /* something else */
}

/* The next message to the client. */
static inline message_kind hear(rig *r) {
    uint64_t until = now_ms() + WAIT_MS;
    for (;;) {
        turn(r);
        frames_fini(&r->in);
        if (link_recv(r->client, &r->in) == 0) break;
        assert_true(now_ms() < until);
        wait_for_news(r);
    }
    char why[160] = "";
    int rc = message_open(&r->in, r->arena, &r->m, why, sizeof(why));
    if (rc < 0) fail_msg("%s: %s", err_text(rc), why);
    return r->m.kind;
}

static inline void expect_error(rig *r, uint64_t id, int code,
                                const char *part) {
    assert_int_equal(hear(r), MESSAGE_ERROR);
    assert_int_equal(r->m.request_id, id);
    assert_int_equal(r->m.error.code, code);
    if (strstr(r->m.error.text, part) == NULL) {
        fail_msg("'%s' does not say '%s'", r->m.error.text, part);
    }
}

static inline message generate(uint64_t id, uint32_t max_tokens) {
    message m = {.kind = MESSAGE_GENERATE, .request_id = id};
    m.generate.tokens = (message_u32s){prompt, ARRAY_LEN(prompt)};
    m.generate.max_tokens = max_tokens;
    m.generate.ignore_end = true;
    return m;
}

static inline message eval(uint64_t id, const uint32_t *tokens, size_t n) {
    message m = {.kind = MESSAGE_EVAL, .request_id = id};
    m.eval.tokens = (message_u32s){tokens, n};
    return m;
}

#define WITH_LARGE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, open_model, close_model)
#define WITH_SMALL(test)                                                       \
    cmocka_unit_test_setup_teardown(test, open_small_model, close_model)

#endif
