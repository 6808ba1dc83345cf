/* test_nodes.c - the loop thread's side of the nodes: whom the coordinator
 * takes in, what it believes them, and what the step thread hears of it.
 *
 * A node is a ROUTER within the process that says what a test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/nodes.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/memory_rack.h"
#include "tests/support/model_gen.h"

#define WAIT_MS 20000
#define ENDPOINT "inproc://node"
#define DATA "tcp://127.0.0.1:4711"
#define BOOT 500

typedef struct {
    memory_model *model;
    tokenizer *words;
    memory_rack *rack;
    step *steps;
    void *zmq;
    uv_loop_t loop;
    identity self;
    profile profile;
    nodes *nodes;
    struct link *node; /* the node's end */
    message_arena *arena;
    frames in; /* the last message from the coordinator */
    message m;
    holdings held;
    bool settled;
} rig;

static void on_settled(void *ctx) {
    rig *r = ctx;
    r->settled = true;
}

static void ignore(void *ctx) {
    (void)ctx;
}

/* The parts that nodes tell of the rack; the step thread is not started. */
static void open_parts(rig *r) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    const char *path = fixture_path("nodes.gguf");
    assert_int_equal(model_gen(&shape, path, why, sizeof(why)), 0);
    r->model = memory_model_open(path);
    const model_config *m = &r->model->config;
    assert_int_equal(tokenizer_new(&r->words, r->model->file, why, sizeof(why)),
                     0);
    assert_int_equal(holdings_init(&r->held, m->n_layers, m->n_experts), 0);
    memory_rack_config c = {.n_nodes = 1,
                            .held = &r->held,
                            .threads = 1,
                            .kv = KV_F32,
                            .max_rows = 8,
                            .piece_bytes = 1 << 16,
                            .credit_bytes = 1 << 20,
                            .silent = 1};
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
    for (uint32_t e = 0; e < m->n_experts; e++)
        holdings_add(&r->held, 0, e);
}

static rig *open_rig(void) {
    static const char *const endpoints[] = {ENDPOINT};
    char why[256] = "";
    rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    open_parts(r);
    log_setup("test", (log_level)(LOG_ERROR + 1));
    r->zmq = zmq_ctx_new();
    link_config links = {
        .zmq = r->zmq, .max_part_bytes = 1 << 20, .queue_messages = 1000};
    assert_int_equal(link_bind(&r->node, &links, ENDPOINT, why, sizeof(why)),
                     0);
    assert_int_equal(message_arena_new(&r->arena, 1 << 20), 0);
    frames_init(&r->in);
    snprintf(r->self.cluster, sizeof(r->self.cluster), "test");
    r->self.boot_id = 77;
    r->profile = profile_of_coordinator(false, "f32", "none");
    assert_int_equal(uv_loop_init(&r->loop), 0);
    nodes_config c = {
        .loop = &r->loop,
        .self = &r->self,
        .profile = &r->profile,
        .model = &r->model->config,
        .links = links,
        .endpoints = endpoints,
        .n_nodes = 1,
        .experts = memory_rack_exchange(r->rack),
        .steps = r->steps,
        .timing = {.hello_ms = 20,
                   .ping_ms = 20,
                   .silent_ms = 60000,
                   .stuck_ms = 60000,
                   .refused_ms = 20},
        .on_settled = on_settled,
        .ctx = r,
    };
    assert_int_equal(nodes_open(&r->nodes, &c, why, sizeof(why)), 0);
    return r;
}

static void close_rig(rig *r) {
    nodes_close(r->nodes);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    nodes_free(r->nodes);
    frames_fini(&r->in);
    message_arena_free(r->arena);
    link_close(r->node);
    step_free(r->steps);
    memory_rack_close(r->rack);
    zmq_ctx_term(r->zmq);
    holdings_fini(&r->held);
    tokenizer_free(r->words);
    memory_model_close(r->model);
    free(r);
}

/* ---- the node's end ---- */

/* Turn the loop until a message of this kind comes; others are passed over. */
static void take(rig *r, message_kind kind) {
    uint64_t until = now_ms() + WAIT_MS;
    while (now_ms() < until) {
        uv_run(&r->loop, UV_RUN_NOWAIT);
        frames_fini(&r->in);
        if (link_recv(r->node, &r->in) != 0) continue;
        char why[160] = "";
        assert_int_equal(
            message_open(&r->in, r->arena, &r->m, why, sizeof(why)), 0);
        if (r->m.kind == kind) return;
    }
    fail_msg("no %s came", message_kind_name(kind));
}

static void send_message(rig *r, const message *m) {
    frames f;
    frames_init(&f);
    assert_non_null(frames_add(&f, 0));
    assert_int_equal(message_seal(&f, m), 0);
    memcpy(f.address, r->in.address, r->in.address_bytes);
    f.address_bytes = r->in.address_bytes;
    assert_int_equal(link_send(r->node, &f), 0);
}

static message welcome(const rig *r) {
    const profile *p = &r->profile;
    const model_config *c = &r->model->config;
    message m = {.kind = MESSAGE_WELCOME,
                 .cluster = "test",
                 .boot_id = BOOT,
                 .has_fingerprint = true};
    m.welcome.role = ROLE_NODE;
    m.welcome.name = "scripted";
    m.welcome.has_profile = true;
    m.welcome.profile = *p;
    m.welcome.data_endpoint = DATA;
    m.welcome.cpu = "none";
    m.welcome.model = "";
    m.welcome.n_layers = c->n_layers;
    m.welcome.n_experts = c->n_experts;
    m.welcome.holdings = r->held.bits;
    m.welcome.holdings_bytes = holdings_bytes(&r->held);
    return m;
}

static void pong(rig *r, uint64_t boot_id) {
    take(r, MESSAGE_PING);
    message m = {.kind = MESSAGE_PONG, .cluster = "test", .boot_id = boot_id};
    send_message(r, &m);
}

/* ---- what the coordinator says of the node ---- */

static json_t *status(const rig *r) {
    json_t *all = json_object();
    assert_int_equal(nodes_status(r->nodes, all), 0);
    return all;
}

static json_t *node_of(json_t *all) {
    json_t *node = json_array_get(json_object_get(all, "nodes"), 0);
    assert_non_null(node);
    return node;
}

static bool has(const rig *r, const char *key, const char *part) {
    json_t *all = status(r);
    const char *text = json_string_value(json_object_get(node_of(all), key));
    bool found = text != NULL && strstr(text, part) != NULL;
    json_decref(all);
    return found;
}

static json_int_t number(const rig *r, const char *key) {
    json_t *all = status(r);
    json_int_t n = json_integer_value(json_object_get(node_of(all), key));
    json_decref(all);
    return n;
}

static json_int_t epoch(const rig *r) {
    json_t *all = status(r);
    json_int_t n = json_integer_value(json_object_get(all, "epoch"));
    json_decref(all);
    return n;
}

static void wait_state(rig *r, const char *state) {
    uint64_t until = now_ms() + WAIT_MS;
    while (!has(r, "state", state)) {
        assert_true(now_ms() < until);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
}

static void come_up(rig *r) {
    take(r, MESSAGE_HELLO);
    message m = welcome(r);
    send_message(r, &m);
    wait_state(r, "up");
}

static void refused_for(rig *r, const message *m, const char *why) {
    take(r, MESSAGE_HELLO);
    send_message(r, m);
    wait_state(r, "refused");
    if (!has(r, "why", why)) fail_msg("the reason does not say '%s'", why);
    assert_true(r->settled);
    /* it is asked again, and may do better */
    take(r, MESSAGE_HELLO);
    message good = welcome(r);
    send_message(r, &good);
    wait_state(r, "up");
}

/* ---- tests ---- */

static void takes_in_a_node_that_fits(void **state) {
    (void)state;
    rig *r = open_rig();
    assert_false(r->settled);
    exchange *x = memory_rack_exchange(r->rack);
    exchange_idle(x);
    come_up(r);
    assert_true(r->settled);
    assert_true(exchange_has_news(x));
    assert_int_equal(number(r, "experts"), r->model->config.n_experts);
    assert_string_equal(nodes_name(r->nodes, 0), "scripted");
    assert_false(nodes_all_covered(r->nodes)); /* layer 1 is missing */
    close_rig(r);
}

static void refuses_another_model(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = welcome(r);
    m.fingerprint[3] = 1;
    refused_for(r, &m, "another model");
    close_rig(r);
}

static void refuses_another_cluster(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = welcome(r);
    m.cluster = "other";
    refused_for(r, &m, "'other'");
    close_rig(r);
}

static void refuses_another_shape(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = welcome(r);
    m.welcome.n_layers = 1;
    m.welcome.holdings_bytes = 1;
    refused_for(r, &m, "1 layers");
    close_rig(r);
}

static void refuses_batches_beyond_the_loopback(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = welcome(r);
    m.welcome.data_endpoint = "tcp://10.1.2.3:80";
    refused_for(r, &m, "10.1.2.3");
    close_rig(r);
}

static void refuses_batches_to_no_socket(void **state) {
    (void)state;
    const char *const bad[] = {"inproc://x", "tcp://127.0.0.1:*",
                               "tcp://*:5",  "ipc:///tmp/x",
                               "tcp://[::1", "tcp://127.0.0.1:0"};
    rig *r = open_rig();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        message m = welcome(r);
        m.welcome.data_endpoint = bad[i];
        refused_for(r, &m, "");
        pong(r, BOOT + 1); /* restarted: greeted anew */
    }
    close_rig(r);
}

static void what_a_node_holds_changes_with_its_process_only(void **state) {
    (void)state;
    rig *r = open_rig();
    come_up(r);
    json_int_t before = epoch(r);
    holdings more;
    assert_int_equal(holdings_init(&more, r->model->config.n_layers,
                                   r->model->config.n_experts),
                     0);
    message m = welcome(r);
    m.welcome.holdings = more.bits; /* nothing */
    for (int i = 0; i < 200; i++) {
        m.boot_id = BOOT + (uint64_t)i;
        send_message(r, &m);
    }
    for (int i = 0; i < 5; i++)
        pong(r, BOOT); /* they were all looked at */
    assert_int_equal(epoch(r), before);
    assert_int_equal(number(r, "experts"), r->model->config.n_experts);
    assert_true(has(r, "state", "up"));

    pong(r, BOOT + 1); /* another process */
    take(r, MESSAGE_HELLO);
    m.boot_id = BOOT + 1;
    send_message(r, &m);
    wait_state(r, "up");
    assert_int_equal(number(r, "experts"), 0);
    assert_true(epoch(r) > before);
    holdings_fini(&more);
    close_rig(r);
}

/* Status is JSON, which takes whole characters only, and logs are lines. */
static void quotes_what_a_node_says_in_whole_characters(void **state) {
    (void)state;
    rig *r = open_rig();
    for (int shift = 0; shift < 4; shift++) {
        char text[900];
        memset(text, 'x', sizeof(text));
        for (size_t i = (size_t)shift; i + 4 < sizeof(text); i += 4) {
            memcpy(text + i, "\xf0\x9f\x98\x80", 4);
        }
        text[sizeof(text) - 1] = '\0';
        message m = {.kind = MESSAGE_ERROR, .cluster = "test", .boot_id = BOOT};
        m.error.code = ERR_OVERLOADED;
        m.error.text = text;
        take(r, MESSAGE_HELLO);
        send_message(r, &m);
        wait_state(r, "refused");
        assert_true(has(r, "why", "\xf0\x9f\x98\x80"));
        come_up(r);
        pong(r, BOOT + 9);
        wait_state(r, "greeting");
    }
    message m = welcome(r);
    m.welcome.name = "two\nlines\x1b[2J";
    take(r, MESSAGE_HELLO);
    send_message(r, &m);
    wait_state(r, "up");
    assert_string_equal(nodes_name(r->nodes, 0), "two?lines?[2J");
    close_rig(r);
}

static void garbage_changes_nothing(void **state) {
    (void)state;
    rig *r = open_rig();
    come_up(r);
    for (int i = 0; i < 50; i++) {
        frames f;
        frames_init(&f);
        memset(frames_add(&f, 40), i, 40);
        memcpy(f.address, r->in.address, r->in.address_bytes);
        f.address_bytes = r->in.address_bytes;
        assert_int_equal(link_send(r->node, &f), 0);
    }
    for (int i = 0; i < 3; i++)
        pong(r, BOOT);
    assert_true(has(r, "state", "up"));
    close_rig(r);
}

static void a_bad_endpoint_is_said_at_once(void **state) {
    (void)state;
    rig *r = open_rig();
    static const char *const endpoints[] = {"tcp://127.0.0.1:9", "nonsense"};
    nodes_config c = {.loop = &r->loop,
                      .self = &r->self,
                      .profile = &r->profile,
                      .model = &r->model->config,
                      .links = {.zmq = r->zmq, .queue_messages = 10},
                      .endpoints = endpoints,
                      .n_nodes = 2,
                      .experts = memory_rack_exchange(r->rack),
                      .steps = r->steps,
                      .timing = {0, 20, 20, 60000, 60000, 20},
                      .on_settled = on_settled,
                      .ctx = r};
    char why[256] = "";
    nodes *n;
    assert_int_equal(nodes_open(&n, &c, why, sizeof(why)), ERR_USAGE);
    assert_non_null(strstr(why, "nonsense"));
    nodes_close(n);
    nodes_close(n); /* twice is fine */
    uv_run(&r->loop, UV_RUN_NOWAIT);
    nodes_free(n);
    close_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_in_a_node_that_fits),
        cmocka_unit_test(refuses_another_model),
        cmocka_unit_test(refuses_another_cluster),
        cmocka_unit_test(refuses_another_shape),
        cmocka_unit_test(refuses_batches_beyond_the_loopback),
        cmocka_unit_test(refuses_batches_to_no_socket),
        cmocka_unit_test(what_a_node_holds_changes_with_its_process_only),
        cmocka_unit_test(quotes_what_a_node_says_in_whole_characters),
        cmocka_unit_test(garbage_changes_nothing),
        cmocka_unit_test(a_bad_endpoint_is_said_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
