/* nodes_rig.c - see nodes_rig.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/log.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"
#include "tests/support/nodes_rig.h"

/* ---- the coordinator's end ---- */

static void on_settled(void *ctx) {
    nodes_rig *r = ctx;
    r->settled = true;
}

static void on_rack(void *ctx) {
    nodes_rig *r = ctx;
    r->racks++;
}

static void ignore(void *ctx) {
    (void)ctx;
}

static void open_model(nodes_rig *r, uint32_t slices) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    const char *path = fixture_path("nodes.gguf");
    assert_int_equal(model_gen(&shape, path, why, sizeof(why)), 0);
    r->model = memory_model_open(path);
    const model_config *m = &r->model->config;
    assert_int_equal(
        model_cut_init(&r->cut, r->model->file, m, slices, why, sizeof(why)),
        0);
    assert_int_equal(tokenizer_new(&r->words, r->model->file, why, sizeof(why)),
                     0);
    assert_int_equal(
        holdings_init_slices(&r->held, m->n_layers, m->n_experts, slices), 0);
}

/* The parts that nodes tell of the rack; the step thread is not started. */
static void open_parts(nodes_rig *r, uint32_t slices) {
    open_model(r, slices);
    const model_config *m = &r->model->config;
    holdings nothing[NODES_RIG_PLACES];
    for (size_t i = 0; i < ARRAY_LEN(nothing); i++)
        nothing[i] = r->held; /* nothing yet */
    memory_rack_config c = {.n_nodes = NODES_RIG_PLACES,
                            .held = nothing,
                            .threads = 1,
                            .kv = KV_F32,
                            .max_rows = 8,
                            .piece_bytes = 1 << 16,
                            .credit_bytes = 1 << 20,
                            .silent = (1 << NODES_RIG_PLACES) - 1};
    r->rack = memory_rack_open(r->model, &c);
    exchange_idle(memory_rack_exchange(r->rack)); /* takes the rack's own */
    step_config s = {.limits = {1, 1, 8, KV_PAGE, 8, 64, 0},
                     .forward = memory_rack_forward(r->rack),
                     .experts = memory_rack_exchange(r->rack),
                     .kv = memory_rack_kv(r->rack),
                     .words = r->words,
                     .n_vocab = m->n_vocab,
                     .n_used = m->n_used,
                     .notify = ignore};
    assert_int_equal(step_new(&r->steps, &s), 0);
    for (uint32_t unit = 0; unit < m->n_experts * r->cut.slices[0]; unit++)
        holdings_add(&r->held, 0, unit);
}

static void open_scripted(const nodes_rig *r, scripted_node *n,
                          const char *listen) {
    char why[256] = "";
    assert_int_equal(
        link_bind(&n->link, &r->config.links, listen, why, sizeof(why)), 0);
    assert_int_equal(message_arena_new(&n->arena, 1 << 20), 0);
    frames_init(&n->in);
}

static void close_scripted(scripted_node *n) {
    frames_fini(&n->in);
    message_arena_free(n->arena);
    link_close(n->link);
}

static nodes_rig *make_rig(uint32_t slices) {
    nodes_rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    open_parts(r, slices);
    log_setup("test", (log_level)(LOG_ERROR + 1));
    r->zmq = zmq_ctx_new();
    snprintf(r->self.cluster, sizeof(r->self.cluster), "test");
    r->self.boot_id = 77;
    r->profile = profile_of_coordinator(false, "f32", "none");
    assert_int_equal(uv_loop_init(&r->loop), 0);
    r->config = (nodes_config){
        .loop = &r->loop,
        .self = &r->self,
        .profile = &r->profile,
        .model = &r->model->config,
        .links = {.zmq = r->zmq,
                  .max_part_bytes = 1 << 20,
                  .queue_messages = 1000},
        .slices = slices,
        .layer_slices = r->cut.slices,
        .experts = memory_rack_exchange(r->rack),
        .steps = r->steps,
        .timing = {.hello_ms = 20,
                   .ping_ms = 20,
                   .silent_ms = 60000,
                   .stuck_ms = 60000,
                   .refused_ms = 20},
        .load_every_ms = 20,
        .on_settled = on_settled,
        .on_rack = on_rack,
        .ctx = r,
    };
    return r;
}

static void open_nodes(nodes_rig *r) {
    char why[256] = "";
    assert_int_equal(nodes_open(&r->nodes, &r->config, why, sizeof(why)), 0);
}

nodes_rig *nodes_rig_open(void) {
    static const char *const endpoints[] = {"inproc://node"};
    nodes_rig *r = make_rig(1);
    open_scripted(r, &r->one, endpoints[0]);
    r->config.endpoints = endpoints;
    r->config.n_nodes = 1;
    open_nodes(r);
    return r;
}

nodes_rig *nodes_rig_open_registered(uint32_t slices) {
    nodes_rig *r = make_rig(slices);
    open_scripted(r, &r->one, "tcp://127.0.0.1:*");
    open_scripted(r, &r->two, "tcp://127.0.0.1:*");
    open_scripted(r, &r->three, "tcp://127.0.0.1:*");
    r->config.registered = true;
    open_nodes(r);
    return r;
}

void nodes_rig_close(nodes_rig *r) {
    nodes_close(r->nodes);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    nodes_free(r->nodes);
    close_scripted(&r->one);
    close_scripted(&r->two);
    close_scripted(&r->three);
    step_free(r->steps);
    memory_rack_close(r->rack);
    zmq_ctx_term(r->zmq);
    holdings_fini(&r->held);
    model_cut_fini(&r->cut);
    tokenizer_free(r->words);
    memory_model_close(r->model);
    free(r);
}

/* ---- the node's end ---- */

void nodes_rig_take(nodes_rig *r, scripted_node *n, message_kind kind) {
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    while (now_ms() < until) {
        uv_run(&r->loop, UV_RUN_NOWAIT);
        frames_fini(&n->in);
        if (link_recv(n->link, &n->in) != 0) continue;
        char why[160] = "";
        assert_int_equal(
            message_open(&n->in, n->arena, &n->m, why, sizeof(why)), 0);
        if (n->m.kind == MESSAGE_HELLO) n->greeting = n->m.request_id;
        if (n->m.kind == kind) return;
    }
    fail_msg("no %s came", message_kind_name(kind));
}

void nodes_rig_send(scripted_node *n, const message *m) {
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    message sent = *m;
    if (m->kind == MESSAGE_WELCOME) sent.request_id = n->greeting;
    assert_int_equal(message_seal(&f, &sent), 0);
    frames_copy_address(&f, &n->in);
    assert_int_equal(link_send(n->link, &f), 0);
}

message nodes_rig_welcome(const nodes_rig *r) {
    const model_config *c = &r->model->config;
    message m = {.kind = MESSAGE_WELCOME,
                 .cluster = "test",
                 .boot_id = NODES_RIG_BOOT,
                 .has_fingerprint = true};
    m.welcome.role = ROLE_NODE;
    m.welcome.name = "scripted";
    m.welcome.has_profile = true;
    m.welcome.profile = r->profile;
    m.welcome.data_endpoint = NODES_RIG_DATA;
    m.welcome.cpu = "none";
    m.welcome.model = "";
    m.welcome.n_layers = c->n_layers;
    m.welcome.n_experts = c->n_experts;
    m.welcome.slices = r->held.slices;
    m.welcome.holdings = r->held.bits;
    m.welcome.holdings_bytes = holdings_bytes(&r->held);
    return m;
}

void nodes_rig_pong(nodes_rig *r, scripted_node *n, uint64_t boot_id,
                    uint64_t holdings_version) {
    nodes_rig_take(r, n, MESSAGE_PING);
    message m = {.kind = MESSAGE_PONG, .cluster = "test", .boot_id = boot_id};
    m.pong.holdings_version = holdings_version;
    nodes_rig_send(n, &m);
}

/* ---- what the coordinator says of it ---- */

json_t *nodes_rig_status(const nodes_rig *r, const rack_view *view) {
    json_t *all = json_object();
    assert_int_equal(nodes_status(r->nodes, view, all), 0);
    return all;
}

/* NULL: there is no such node. */
static const json_t *entry(const json_t *all, size_t node) {
    return json_array_get(json_object_get(all, "nodes"), node);
}

bool nodes_rig_says(const nodes_rig *r, size_t node, const char *key,
                    const char *part) {
    json_t *all = nodes_rig_status(r, NULL);
    const char *text =
        json_string_value(json_object_get(entry(all, node), key));
    bool found = text != NULL && strstr(text, part) != NULL;
    json_decref(all);
    return found;
}

json_int_t nodes_rig_number(const nodes_rig *r, size_t node, const char *key) {
    json_t *all = nodes_rig_status(r, NULL);
    json_int_t n = json_integer_value(json_object_get(entry(all, node), key));
    json_decref(all);
    return n;
}

json_int_t nodes_rig_epoch(const nodes_rig *r) {
    json_t *all = nodes_rig_status(r, NULL);
    json_int_t n = json_integer_value(json_object_get(all, "epoch"));
    json_decref(all);
    return n;
}

void nodes_rig_wait(nodes_rig *r, size_t node, const char *key,
                    const char *part) {
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    while (!nodes_rig_says(r, node, key, part)) {
        if (now_ms() >= until) fail_msg("%s never says '%s'", key, part);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
}
