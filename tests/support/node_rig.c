/* node_rig.c - see node_rig.h. */
#include "tests/support/node_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"

#define GIVE_UP_MS 60000 /* far beyond what any of this takes */

/* ---- the rig ---- */

static void load_model(node_rig *r, const model_shape *shape) {
    char why[256] = "";
    gguf *g = NULL;
    const char *path = fixture_path("worker.gguf");
    if (model_gen(shape, path, why, sizeof(why)) != 0 ||
        gguf_open(&g, path, why, sizeof(why)) != 0 ||
        model_read(&r->model, g, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    const expert_store_config store = {.g = g, .model = &r->model};
    if (expert_store_new(&r->store, &store, why, sizeof(why)) != 0)
        fail_msg("%s", why);
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        for (uint32_t e = 0; e < r->model.n_experts; e++) {
            if (l == NODE_RIG_MISSING_LAYER && e == NODE_RIG_MISSING_EXPERT)
                continue;
            assert_int_equal(
                expert_store_load(r->store, l, e, why, sizeof(why)), 0);
        }
    }
    gguf_close(g);
}

/* A worker that does not run yet; tests may change r->config before. */
void node_rig_make(node_rig *r, const model_shape *shape) {
    *r = (node_rig){0};
    load_model(r, shape);
    assert_int_equal(tally_new(&r->tally), 0);
    assert_int_equal(tally_cut(r->tally, r->store, r->model.n_layers), 0);
    r->config = (worker_config){
        .store = r->store,
        .width = r->model.n_embd,
        .expert_dim = r->model.expert_dim,
        .cluster = "test",
        .fingerprint = {1, 2, 3},
        .boot_id = NODE_RIG_BOOT,
        .threads = 2,
        .max_reply_bytes = 64 << 20,
        .tally = r->tally,
    };
}

void node_rig_connect(node_rig *r, int n_clients, int queue_messages) {
    for (int i = 0; i < n_clients; i++) {
        assert_int_equal(
            link_memory(&r->clients[i], &r->server, queue_messages), 0);
    }
    assert_int_equal(worker_new(&r->worker, &r->config, r->server), 0);
}

static void *run_worker(void *arg) {
    node_rig *r = arg;
    r->worker_rc = worker_run(r->worker);
    return NULL;
}

void node_rig_start(node_rig *r) {
    assert_int_equal(pthread_create(&r->thread, NULL, run_worker, r), 0);
    r->running = true;
}

void node_rig_stop(node_rig *r) {
    if (!r->running) return;
    worker_stop(r->worker);
    pthread_join(r->thread, NULL);
    r->running = false;
    assert_int_equal(r->worker_rc, 0);
}

void node_rig_fini(node_rig *r) {
    node_rig_stop(r);
    for (int i = 0; i < NODE_RIG_CLIENTS; i++)
        link_close(r->clients[i]);
    link_close(r->server);
    worker_free(r->worker);
    tally_free(r->tally);
    expert_store_free(r->store);
}

/* ---- requests ---- */

static float next_value(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*random >> 40) / (1 << 23) - 1.0);
}

/* Each of `n_rows` rows to each of the first `k` experts of a layer. */
node_rig_request node_rig_make_request(const node_rig *r, uint64_t id,
                                       uint32_t layer, uint32_t n_rows,
                                       uint32_t k) {
    uint32_t width = r->model.n_embd;
    act_form form = expert_store_form(r->store, layer, r->config.exact);
    node_rig_request q = {.row_bytes = act_row_bytes(form, width)};
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
        .to_boot_id = NODE_RIG_BOOT,
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

void node_rig_request_fini(node_rig_request *q) {
    free(q->rows);
    free(q->numbers);
}

void node_rig_seal_request(const node_rig_request *q, frames *f) {
    frames_init(f);
    size_t bytes = q->m.batch.n_rows * q->row_bytes;
    assert_non_null(frames_add(f, 0));
    uint8_t *payload = frames_add(f, bytes);
    assert_non_null(payload);
    memcpy(payload, q->rows, bytes);
    assert_int_equal(message_seal(f, &q->m), 0);
}

void node_rig_send_frames(struct link *l, frames *f) {
    uint64_t until = now_ms() + GIVE_UP_MS;
    int rc;
    while ((rc = link_send(l, f)) == -EAGAIN) {
        if (now_ms() > until) fail_msg("the worker takes nothing");
        poll(NULL, 0, 1);
    }
    assert_int_equal(rc, 0);
}

void node_rig_send_request(struct link *l, const node_rig_request *q) {
    frames f;
    node_rig_seal_request(q, &f);
    node_rig_send_frames(l, &f);
}

/* ---- answers ---- */

void node_rig_wait_answer(struct link *l, node_rig_answer *a) {
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
    assert_int_equal(message_open(&a->f, a->arena, &a->m, why, sizeof(why)), 0);
}

void node_rig_answer_fini(node_rig_answer *a) {
    frames_fini(&a->f);
    message_arena_free(a->arena);
}

void node_rig_assert_no_answer(struct link *l) {
    frames f;
    frames_init(&f);
    assert_int_equal(link_recv(l, &f), -EAGAIN);
}

/* What ffn_run() makes of each pair, one at a time. */
void node_rig_assert_right_rows(const node_rig *r, const node_rig_request *q,
                                node_rig_answer *a) {
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
            assert_int_equal(ffn_run(p, s, &job, 1, (act_form)q->m.batch.form,
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

void node_rig_expect_rows(const node_rig *r, struct link *l,
                          const node_rig_request *q) {
    node_rig_answer a;
    node_rig_wait_answer(l, &a);
    assert_int_equal(a.m.request_id, q->m.request_id);
    assert_int_equal(a.m.to_boot_id, q->m.boot_id);
    assert_int_equal(a.m.boot_id, NODE_RIG_BOOT);
    assert_int_equal(a.m.epoch, q->m.epoch);
    node_rig_assert_right_rows(r, q, &a);
    node_rig_answer_fini(&a);
}

void node_rig_expect_refusal(struct link *l, uint64_t id, int code,
                             const char *part) {
    node_rig_answer a;
    node_rig_wait_answer(l, &a);
    assert_int_equal(a.m.kind, MESSAGE_ERROR);
    assert_string_equal(err_name(a.m.error.code), err_name(code));
    assert_int_equal(a.m.request_id, id);
    assert_int_equal(a.m.boot_id, NODE_RIG_BOOT);
    if (strstr(a.m.error.text, part) == NULL) {
        fail_msg("'%s' does not say '%s'", a.m.error.text, part);
    }
    node_rig_answer_fini(&a);
}
