/* test_worker.c - a node's worker over links in memory: the rows it answers with
 * and everything it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/worker.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define OUR_BOOT 77
#define MISSING_LAYER 1 /* the one expert that is not loaded */
#define MISSING_EXPERT 3
#define MAX_CLIENTS 3
#define GIVE_UP_MS 60000 /* far beyond what any of this takes */

typedef struct {
    model_config model;
    expert_store *store;
    worker_config config;
    worker *worker;
    struct link *server, *clients[MAX_CLIENTS];
    pthread_t thread;
    bool running;
    int worker_rc;
} rig;

/* ---- the rig ---- */

static void load_model(rig *r, const model_shape *shape) {
    char why[256] = "";
    gguf *g = NULL;
    const char *path = fixture_path("worker.gguf");
    if (model_gen(shape, path, why, sizeof(why)) != 0 ||
        gguf_open(&g, path, why, sizeof(why)) != 0 ||
        model_read(&r->model, g, why, sizeof(why)) != 0 ||
        expert_store_new(&r->store, g, &r->model, NULL, why, sizeof(why)) !=
            0) {
        fail_msg("%s", why);
    }
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        for (uint32_t e = 0; e < r->model.n_experts; e++) {
            if (l == MISSING_LAYER && e == MISSING_EXPERT) continue;
            assert_int_equal(
                expert_store_load(r->store, l, e, why, sizeof(why)), 0);
        }
    }
    gguf_close(g);
}

/* A worker that does not run yet; tests may change r->config before. */
static void rig_make(rig *r, const model_shape *shape) {
    *r = (rig){0};
    load_model(r, shape);
    r->config = (worker_config){
        .store = r->store,
        .width = r->model.n_embd,
        .expert_dim = r->model.expert_dim,
        .cluster = "test",
        .fingerprint = {1, 2, 3},
        .boot_id = OUR_BOOT,
        .threads = 2,
        .max_reply_bytes = 64 << 20,
    };
}

static void rig_connect(rig *r, int n_clients, int queue_messages) {
    for (int i = 0; i < n_clients; i++) {
        assert_int_equal(
            link_memory(&r->clients[i], &r->server, queue_messages), 0);
    }
    assert_int_equal(worker_new(&r->worker, &r->config, r->server), 0);
}

static void *run_worker(void *arg) {
    rig *r = arg;
    r->worker_rc = worker_run(r->worker);
    return NULL;
}

static void rig_start(rig *r) {
    assert_int_equal(pthread_create(&r->thread, NULL, run_worker, r), 0);
    r->running = true;
}

static void rig_stop(rig *r) {
    if (!r->running) return;
    worker_stop(r->worker);
    pthread_join(r->thread, NULL);
    r->running = false;
    assert_int_equal(r->worker_rc, 0);
}

static void rig_fini(rig *r) {
    rig_stop(r);
    for (int i = 0; i < MAX_CLIENTS; i++)
        link_close(r->clients[i]);
    link_close(r->server);
    worker_free(r->worker);
    expert_store_free(r->store);
}

/* ---- requests ---- */

typedef struct {
    message m;
    uint8_t *rows; /* encoded */
    size_t row_bytes;
    uint32_t *numbers; /* experts, counts, pair rows */
} request;

static float next_value(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*random >> 40) / (1 << 23) - 1.0);
}

/* Each of `n_rows` rows to each of the first `k` experts of a layer. */
static request make_request(const rig *r, uint64_t id, uint32_t layer,
                            uint32_t n_rows, uint32_t k) {
    uint32_t width = r->model.n_embd;
    act_form form = expert_store_form(r->store, layer, r->config.exact);
    request q = {.row_bytes = act_row_bytes(form, width)};
    q.rows = malloc(n_rows * q.row_bytes);
    q.numbers = malloc((2 * k + n_rows * k) * sizeof(uint32_t));
    float *x = malloc(width * sizeof(float));
    uint64_t random = id * 1000 + layer;
    for (uint32_t i = 0; i < n_rows; i++) {
        for (uint32_t j = 0; j < width; j++)
            x[j] = next_value(&random);
        act_encode(form, width, x, q.rows + i * q.row_bytes);
    }
    free(x);
    for (uint32_t e = 0; e < k; e++) {
        q.numbers[e] = e;
        q.numbers[k + e] = n_rows;
        for (uint32_t i = 0; i < n_rows; i++)
            q.numbers[2 * k + e * n_rows + i] = n_rows - 1 - i;
    }
    q.m = (message){
        .kind = MESSAGE_BATCH,
        .cluster = "test",
        .fingerprint = {1, 2, 3},
        .has_fingerprint = true,
        .boot_id = 5,
        .to_boot_id = OUR_BOOT,
        .epoch = 9,
        .request_id = id,
    };
    q.m.batch.layer = layer;
    q.m.batch.form = form;
    q.m.batch.width = width;
    q.m.batch.n_rows = n_rows;
    q.m.batch.experts = (message_u32s){q.numbers, k};
    q.m.batch.counts = (message_u32s){q.numbers + k, k};
    q.m.batch.rows = (message_u32s){q.numbers + 2 * k, (size_t)n_rows * k};
    return q;
}

static void request_fini(request *q) {
    free(q->rows);
    free(q->numbers);
}

static void seal_request(const request *q, frames *f) {
    frames_init(f);
    size_t bytes = q->m.batch.n_rows * q->row_bytes;
    assert_non_null(frames_add(f, 0));
    uint8_t *payload = frames_add(f, bytes);
    assert_non_null(payload);
    memcpy(payload, q->rows, bytes);
    assert_int_equal(message_seal(f, &q->m), 0);
}

static void send_frames(struct link *l, frames *f) {
    uint64_t until = now_ms() + GIVE_UP_MS;
    int rc;
    while ((rc = link_send(l, f)) == -EAGAIN) {
        if (now_ms() > until) fail_msg("the worker takes nothing");
        poll(NULL, 0, 1);
    }
    assert_int_equal(rc, 0);
}

static void send_request(struct link *l, const request *q) {
    frames f;
    seal_request(q, &f);
    send_frames(l, &f);
}

/* ---- answers ---- */

typedef struct {
    frames f;
    message_arena *arena;
    message m;
} answer;

static void wait_answer(struct link *l, answer *a) {
    char why[256];
    uint64_t until = now_ms() + GIVE_UP_MS;
    frames_init(&a->f);
    int rc;
    while ((rc = link_recv(l, &a->f)) == -EAGAIN) {
        struct pollfd fd = {.fd = link_fd(l), .events = POLLIN};
        if (now_ms() > until) fail_msg("no answer");
        poll(&fd, 1, 1000);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(message_arena_new(&a->arena, MESSAGE_ARENA_MAX), 0);
    assert_int_equal(
        message_open(&a->f, a->arena, &a->m, why, sizeof(why)), 0);
}

static void answer_fini(answer *a) {
    frames_fini(&a->f);
    message_arena_free(a->arena);
}

static void assert_no_answer(struct link *l) {
    frames f;
    frames_init(&f);
    assert_int_equal(link_recv(l, &f), -EAGAIN);
}

/* What ffn_run() makes of each pair, one at a time. */
static void assert_right_rows(const rig *r, const request *q, answer *a) {
    uint32_t width = r->model.n_embd;
    size_t padded = round_up(width, WEIGHT_GROUP);
    pool *p;
    ffn_scratch *s;
    assert_int_equal(a->m.kind, MESSAGE_ROWS);
    assert_int_equal(a->m.rows.n_pairs, q->m.batch.rows.count);
    assert_int_equal(a->m.rows.width, width);
    assert_int_equal(a->m.rows.layer, q->m.batch.layer);
    assert_int_equal(pool_new(&p, 1), 0);
    assert_int_equal(ffn_scratch_new(&s, 1, 1, r->model.expert_dim, width), 0);
    float *want = aligned_alloc_zero(padded * sizeof(float));

    const float *got = frames_data(&a->f, 1);
    size_t pair = 0;
    for (size_t g = 0; g < q->m.batch.experts.count; g++) {
        const ffn_weights *w = expert_store_get(r->store, q->m.batch.layer,
                                                q->m.batch.experts.items[g]);
        for (uint32_t i = 0; i < q->m.batch.counts.items[g]; i++, pair++) {
            const void *x =
                q->rows + q->m.batch.rows.items[pair] * q->row_bytes;
            const ffn_job job = {w, 1, &x, &want};
            assert_int_equal(ffn_run(p, s, &job, 1,
                                     (act_form)q->m.batch.form,
                                     r->config.exact),
                             0);
            assert_memory_equal(got + pair * width, want,
                                width * sizeof(float));
        }
    }
    aligned_release(want);
    ffn_scratch_free(s);
    pool_free(p);
}

static void expect_rows(const rig *r, struct link *l, const request *q) {
    answer a;
    wait_answer(l, &a);
    assert_int_equal(a.m.request_id, q->m.request_id);
    assert_int_equal(a.m.to_boot_id, q->m.boot_id);
    assert_int_equal(a.m.boot_id, OUR_BOOT);
    assert_int_equal(a.m.epoch, q->m.epoch);
    assert_right_rows(r, q, &a);
    answer_fini(&a);
}

static void expect_refusal(struct link *l, uint64_t id, int code,
                           const char *part) {
    answer a;
    wait_answer(l, &a);
    assert_int_equal(a.m.kind, MESSAGE_ERROR);
    assert_string_equal(err_name(a.m.error.code), err_name(code));
    assert_int_equal(a.m.request_id, id);
    assert_int_equal(a.m.boot_id, OUR_BOOT);
    if (strstr(a.m.error.text, part) == NULL) {
        fail_msg("'%s' does not say '%s'", a.m.error.text, part);
    }
    answer_fini(&a);
}

/* ---- rows ---- */

static void check_rows_of(const model_shape *shape, bool exact,
                          uint32_t n_rows) {
    rig r;
    rig_make(&r, shape);
    r.config.exact = exact;
    rig_connect(&r, 1, 8);
    rig_start(&r);
    for (uint32_t layer = 0; layer < 2; layer++) {
        request q = make_request(&r, 1 + layer, layer, n_rows, 3);
        send_request(r.clients[0], &q);
        expect_rows(&r, r.clients[0], &q);
        request_fini(&q);
    }
    rig_fini(&r);
}

static void answers_with_the_bits_of_a_direct_run(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    check_rows_of(&shape, false, 1);
    check_rows_of(&shape, false, 5);
    check_rows_of(&shape, true, 5);
}

static void cuts_a_long_batch_into_pieces_without_changing_a_bit(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    check_rows_of(&shape, false, 700); /* 2,100 pairs */
}

static void keeps_the_padding_of_odd_widths_out_of_the_reply(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    shape.type = WEIGHT_F32;
    shape.width = 40;
    shape.n_heads = 2;
    shape.n_kv_heads = 1;
    shape.head_dim = 20;
    shape.expert_width = 72;
    check_rows_of(&shape, false, 7);
}

static void merges_what_two_coordinators_ask(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 2, 16);
    request asked[2][6];
    for (uint32_t c = 0; c < 2; c++) { /* all waits before the worker runs */
        for (uint32_t i = 0; i < 6; i++) {
            asked[c][i] = make_request(&r, 10 * c + i, i % 2, i + 1, 3);
            asked[c][i].m.boot_id = 100 + c;
            send_request(r.clients[c], &asked[c][i]);
        }
    }
    rig_start(&r);
    for (uint32_t c = 0; c < 2; c++) {
        bool seen[6] = {false};
        for (uint32_t n = 0; n < 6; n++) {
            answer a;
            wait_answer(r.clients[c], &a);
            uint64_t i = a.m.request_id - 10 * c;
            assert_true(i < 6 && !seen[i]);
            seen[i] = true;
            assert_int_equal(a.m.to_boot_id, 100 + c);
            assert_right_rows(&r, &asked[c][i], &a);
            answer_fini(&a);
        }
    }
    for (uint32_t c = 0; c < 2; c++) {
        for (uint32_t i = 0; i < 6; i++)
            request_fini(&asked[c][i]);
    }
    worker_counts n;
    rig_stop(&r);
    worker_read_counts(r.worker, &n);
    assert_int_equal(n.batches, 12);
    assert_int_equal(n.pairs, 2 * 3 * (1 + 2 + 3 + 4 + 5 + 6));
    assert_int_equal(n.jobs, 0);
    assert_int_equal(n.reply_bytes, 0);
    assert_int_equal(n.refused, 0);
    assert_true(n.progress > 0);
    rig_fini(&r);
}

static void answers_a_request_once_although_it_came_twice(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 8);
    request q = make_request(&r, 1, 0, 2, 2);
    send_request(r.clients[0], &q);
    send_request(r.clients[0], &q);
    rig_start(&r);

    expect_rows(&r, r.clients[0], &q);
    rig_stop(&r);
    assert_no_answer(r.clients[0]);
    request_fini(&q);
    rig_fini(&r);
}

/* ---- refusals ---- */

/* One wrong thing in an otherwise good request. */
static void wrong_cluster(const rig *r, request *q) {
    (void)r;
    q->m.cluster = "other";
}
static void wrong_fingerprint(const rig *r, request *q) {
    (void)r;
    q->m.fingerprint[31] ^= 1;
}
static void no_fingerprint(const rig *r, request *q) {
    (void)r;
    q->m.has_fingerprint = false;
}
static void wrong_boot(const rig *r, request *q) {
    (void)r;
    q->m.to_boot_id++;
}
static void no_boot(const rig *r, request *q) {
    (void)r;
    q->m.to_boot_id = 0;
}
static void expert_not_held(const rig *r, request *q) {
    (void)r;
    q->m.batch.layer = MISSING_LAYER;
    q->numbers[2] = MISSING_EXPERT;
}
static void expert_beyond_the_model(const rig *r, request *q) {
    q->numbers[2] = r->model.n_experts;
}
static void layer_beyond_the_model(const rig *r, request *q) {
    q->m.batch.layer = r->model.n_layers;
}
static void wrong_width(const rig *r, request *q) {
    (void)r;
    q->m.batch.width /= 2;
    q->row_bytes /= 2;
}
static void wrong_form(const rig *r, request *q) {
    q->m.batch.form = ACT_F32;
    q->row_bytes = act_row_bytes(ACT_F32, r->model.n_embd);
    free(q->rows);
    q->rows = calloc(q->m.batch.n_rows, q->row_bytes);
}
static void useless_rows(const rig *r, request *q) {
    (void)r;
    q->m.batch.experts.count = q->m.batch.counts.count = 1;
    q->numbers[3] = 1; /* of one pair, for two rows */
    q->m.batch.rows.count = 1;
}
static void value_that_saturates(const rig *r, request *q) {
    ((int8_t *)q->rows)[q->row_bytes + r->model.n_embd / 8] = -128;
}
static void scale_that_is_not_finite(const rig *r, request *q) {
    (void)r;
    const float bad = NAN;
    memcpy(q->rows, &bad, sizeof(bad));
}

static void refuses_every_request_it_cannot_compute(void **state) {
    (void)state;
    static const struct {
        void (*spoil)(const rig *r, request *q);
        int code;
        const char *says;
    } cases[] = {
        {wrong_cluster, ERR_WRONG_CLUSTER, "'other'"},
        {wrong_fingerprint, ERR_WRONG_MODEL, "model"},
        {no_fingerprint, ERR_WRONG_MODEL, "model"},
        {wrong_boot, ERR_WRONG_BOOT, "earlier process"},
        {no_boot, ERR_WRONG_BOOT, "earlier process"},
        {expert_not_held, ERR_NOT_HERE, "expert 3 of layer 1"},
        {expert_beyond_the_model, ERR_NOT_HERE, "expert 4 of layer 0"},
        {layer_beyond_the_model, ERR_NOT_HERE, "layer 2"},
        {wrong_width, ERR_MALFORMED, "32 wide"},
        {wrong_form, ERR_MALFORMED, "form 0"},
        {useless_rows, ERR_MALFORMED, "2 rows for 1 pairs"},
        {value_that_saturates, ERR_MALFORMED, "row 1"},
        {scale_that_is_not_finite, ERR_MALFORMED, "row 0"},
    };
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 8);
    rig_start(&r);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        request q = make_request(&r, 50 + i, 0, 2, 3);
        cases[i].spoil(&r, &q);
        send_request(r.clients[0], &q);
        expect_refusal(r.clients[0], 50 + i, cases[i].code, cases[i].says);
        request_fini(&q);
    }
    /* and is none the worse for it */
    request q = make_request(&r, 1, 0, 2, 3);
    send_request(r.clients[0], &q);
    expect_rows(&r, r.clients[0], &q);
    request_fini(&q);

    worker_counts n;
    worker_read_counts(r.worker, &n);
    assert_int_equal(n.refused, ARRAY_LEN(cases));
    rig_fini(&r);
}

static void refuses_what_does_not_belong_among_batches(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 8);
    rig_start(&r);
    const message ping = {
        .kind = MESSAGE_PING, .cluster = "test", .request_id = 3};
    frames f;
    frames_init(&f);
    frames_add(&f, 0);
    assert_int_equal(message_seal(&f, &ping), 0);
    send_frames(r.clients[0], &f);
    expect_refusal(r.clients[0], 3, ERR_MALFORMED, "ping");
    rig_fini(&r);
}

static void refuses_a_flipped_byte_and_a_message_cut_short(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 8);
    rig_start(&r);
    request q = make_request(&r, 4, 0, 2, 3);
    frames f;

    seal_request(&q, &f);
    ((uint8_t *)frames_data(&f, 1))[7] ^= 1;
    send_frames(r.clients[0], &f);
    expect_refusal(r.clients[0], 4, ERR_CHECKSUM, "");

    seal_request(&q, &f);
    zmq_msg_close(&f.part[--f.count]); /* the payload is lost */
    send_frames(r.clients[0], &f);
    answer a;
    wait_answer(r.clients[0], &a);
    assert_int_equal(a.m.kind, MESSAGE_ERROR);
    answer_fini(&a);
    request_fini(&q);
    rig_fini(&r);
}

static void never_answers_an_error_with_an_error(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 8);
    const message from = {.cluster = "test"}, to = {.request_id = 8};
    frames f;
    frames_init(&f);
    assert_int_equal(message_error(&f, &from, &to, ERR_INTERNAL, "x"), 0);
    send_frames(r.clients[0], &f);
    request q = make_request(&r, 1, 0, 1, 1);
    send_request(r.clients[0], &q);
    rig_start(&r);

    expect_rows(&r, r.clients[0], &q); /* which came after it */
    rig_stop(&r);
    assert_no_answer(r.clients[0]);
    request_fini(&q);
    rig_fini(&r);
}

/* ---- limits ---- */

static void refuses_a_reply_beyond_its_limit(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    r.config.max_reply_bytes = 10 * 64 * sizeof(float);
    rig_connect(&r, 1, 8);
    rig_start(&r);
    request q = make_request(&r, 1, 0, 11, 1);
    send_request(r.clients[0], &q);
    expect_refusal(r.clients[0], 1, ERR_TOO_LARGE, "limit");
    request_fini(&q);

    q = make_request(&r, 2, 0, 10, 1);
    send_request(r.clients[0], &q);
    expect_rows(&r, r.clients[0], &q);
    request_fini(&q);
    rig_fini(&r);
}

static void refuses_a_coordinator_that_asks_and_does_not_read(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    uint64_t one = 64 * sizeof(float);
    r.config.max_reply_bytes = 8 * 4 * one;
    assert_int_equal(worker_peer_bytes(&r.config), 4 * one);
    rig_connect(&r, 2, 32);
    for (uint64_t id = 0; id < 10; id++) {
        request q = make_request(&r, id, 0, 1, 1);
        send_request(r.clients[0], &q);
        request_fini(&q);
    }
    rig_start(&r);
    /* The other one is served all the same. */
    request other = make_request(&r, 1, 0, 2, 1);
    other.m.boot_id = 6;
    send_request(r.clients[1], &other);
    expect_rows(&r, r.clients[1], &other);
    request_fini(&other);

    int rows = 0, refused = 0;
    for (int i = 0; i < 10; i++) {
        answer a;
        wait_answer(r.clients[0], &a);
        if (a.m.kind == MESSAGE_ROWS) rows++;
        if (a.m.kind == MESSAGE_ERROR) {
            assert_int_equal(a.m.error.code, ERR_OVERLOADED);
            refused++;
        }
        answer_fini(&a);
    }
    assert_int_equal(rows, 4);
    assert_int_equal(refused, 6);
    rig_fini(&r);
}

static void keeps_replies_for_a_peer_that_reads_late(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 2, 2); /* two replies fill the link */
    rig_start(&r);
    for (uint64_t id = 0; id < 20; id++) {
        request q = make_request(&r, id, 0, 1, 2);
        send_request(r.clients[0], &q);
        request_fini(&q);
    }
    for (uint64_t id = 0; id < 5; id++) { /* nobody waits for the first */
        request q = make_request(&r, id, 1, 3, 2);
        q.m.boot_id = 6;
        send_request(r.clients[1], &q);
        expect_rows(&r, r.clients[1], &q);
        request_fini(&q);
    }
    for (uint64_t id = 0; id < 20; id++) {
        answer a;
        wait_answer(r.clients[0], &a);
        request q = make_request(&r, a.m.request_id, 0, 1, 2);
        assert_right_rows(&r, &q, &a);
        request_fini(&q);
        answer_fini(&a);
    }
    rig_fini(&r);
}

static void goes_on_when_a_peer_has_gone(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 2, 4);
    for (uint64_t id = 0; id < 4; id++) {
        request q = make_request(&r, id, 0, 1, 2);
        send_request(r.clients[0], &q);
        request_fini(&q);
    }
    link_close(r.clients[0]);
    r.clients[0] = NULL;
    rig_start(&r);

    request q = make_request(&r, 1, 1, 3, 2);
    q.m.boot_id = 6;
    send_request(r.clients[1], &q);
    expect_rows(&r, r.clients[1], &q);
    request_fini(&q);
    rig_fini(&r);
}

static void answers_no_restarted_coordinator_for_its_predecessor(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 8);
    request before = make_request(&r, 1, 0, 2, 2);
    request after = make_request(&r, 1, 0, 2, 2);
    before.m.boot_id = 1000;
    after.m.boot_id = 1001;
    send_request(r.clients[0], &before);
    send_request(r.clients[0], &after);
    rig_start(&r);

    expect_rows(&r, r.clients[0], &after);
    rig_stop(&r);
    assert_no_answer(r.clients[0]);
    request_fini(&before);
    request_fini(&after);
    rig_fini(&r);
}

/* ---- stopping and failing ---- */

static void stops_while_it_is_busy(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 64);
    for (uint64_t id = 0; id < 40; id++) {
        request q = make_request(&r, id, id % 2, 40, 3);
        send_request(r.clients[0], &q);
        request_fini(&q);
    }
    rig_start(&r);
    answer a;
    wait_answer(r.clients[0], &a); /* it is in the middle of them */
    answer_fini(&a);
    rig_stop(&r);

    /* What was answered is whole: rows, or that it is closing. */
    frames f;
    frames_init(&f);
    while (link_recv(r.clients[0], &f) == 0) {
        char why[256];
        message m;
        message_arena *arena;
        assert_int_equal(message_arena_new(&arena, MESSAGE_ARENA_MAX), 0);
        assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
        assert_true(m.kind == MESSAGE_ROWS ||
                    (m.kind == MESSAGE_ERROR && m.error.code == ERR_CLOSED));
        message_arena_free(arena);
        frames_fini(&f);
    }
    rig_fini(&r);
}

static void stops_when_it_has_nothing_to_do(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_make(&r, &shape);
    rig_connect(&r, 1, 4);
    rig_start(&r);
    poll(NULL, 0, 5); /* asleep or about to be: both must do */
    rig_stop(&r);
    rig_fini(&r);
}

/* Last: failpoints stay armed. */
static void says_so_when_computing_fails(void **state) {
    (void)state;
    rig r;
    char why[256];
    model_shape shape = model_shape_small();
    setenv("ROSTER_FAILPOINTS", "node.compute=fail", 1);
    assert_int_equal(failpoint_setup(why, sizeof(why)), 0);
    rig_make(&r, &shape);
    rig_connect(&r, 1, 4);
    rig_start(&r);
    request q = make_request(&r, 1, 0, 1, 1);
    send_request(r.clients[0], &q);
    expect_refusal(r.clients[0], 1, ERR_INTERNAL, "");
    request_fini(&q);
    rig_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_with_the_bits_of_a_direct_run),
        cmocka_unit_test(cuts_a_long_batch_into_pieces_without_changing_a_bit),
        cmocka_unit_test(keeps_the_padding_of_odd_widths_out_of_the_reply),
        cmocka_unit_test(merges_what_two_coordinators_ask),
        cmocka_unit_test(answers_a_request_once_although_it_came_twice),
        cmocka_unit_test(refuses_every_request_it_cannot_compute),
        cmocka_unit_test(refuses_what_does_not_belong_among_batches),
        cmocka_unit_test(refuses_a_flipped_byte_and_a_message_cut_short),
        cmocka_unit_test(never_answers_an_error_with_an_error),
        cmocka_unit_test(refuses_a_reply_beyond_its_limit),
        cmocka_unit_test(refuses_a_coordinator_that_asks_and_does_not_read),
        cmocka_unit_test(keeps_replies_for_a_peer_that_reads_late),
        cmocka_unit_test(goes_on_when_a_peer_has_gone),
        cmocka_unit_test(answers_no_restarted_coordinator_for_its_predecessor),
        cmocka_unit_test(stops_while_it_is_busy),
        cmocka_unit_test(stops_when_it_has_nothing_to_do),
        cmocka_unit_test(says_so_when_computing_fails),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
