/* test_nodes.c - the loop thread's side of the nodes: whom the coordinator
 * takes in, what it believes them, and what the step thread hears of it.
 *
 * A node is a ROUTER within the process that says what a test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/nodes_rig.h"

#define BOOT NODES_RIG_BOOT

/* ---- the one node ---- */

static void take(nodes_rig *r, message_kind kind) {
    nodes_rig_take(r, &r->one, kind);
}

static void send_message(nodes_rig *r, const message *m) {
    nodes_rig_send(&r->one, m);
}

static message welcome(const nodes_rig *r) {
    return nodes_rig_welcome(r);
}

static void pong(nodes_rig *r, uint64_t boot_id) {
    nodes_rig_pong(r, &r->one, boot_id, 0);
}

static bool has(const nodes_rig *r, const char *key, const char *part) {
    return nodes_rig_says(r, 0, key, part);
}

static json_int_t number(const nodes_rig *r, const char *key) {
    return nodes_rig_number(r, 0, key);
}

static json_int_t epoch(const nodes_rig *r) {
    return nodes_rig_epoch(r);
}

static void wait_state(nodes_rig *r, const char *state) {
    nodes_rig_wait(r, 0, "state", state);
}

static void come_up(nodes_rig *r) {
    take(r, MESSAGE_HELLO);
    message m = welcome(r);
    send_message(r, &m);
    wait_state(r, "up");
}

static void refused_for(nodes_rig *r, const message *m, const char *why) {
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
    nodes_rig *r = nodes_rig_open();
    assert_false(r->settled);
    exchange *x = memory_rack_exchange(r->rack);
    exchange_idle(x);
    come_up(r);
    assert_true(r->settled);
    assert_true(exchange_has_news(x));
    assert_int_equal(number(r, "experts"), r->model->config.n_experts);
    assert_string_equal(nodes_name(r->nodes, 0), "scripted");
    assert_false(nodes_all_covered(r->nodes)); /* layer 1 is missing */
    nodes_rig_close(r);
}

static void refuses_another_model(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    message m = welcome(r);
    m.fingerprint[3] = 1;
    refused_for(r, &m, "another model");
    nodes_rig_close(r);
}

static void refuses_another_cluster(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    message m = welcome(r);
    m.cluster = "other";
    refused_for(r, &m, "'other'");
    nodes_rig_close(r);
}

static void refuses_another_shape(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    message m = welcome(r);
    m.welcome.n_layers = 1;
    m.welcome.holdings_bytes = 1;
    refused_for(r, &m, "1 layers");
    nodes_rig_close(r);
}

static void refuses_batches_beyond_the_loopback(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    message m = welcome(r);
    m.welcome.data_endpoint = "tcp://10.1.2.3:80";
    refused_for(r, &m, "10.1.2.3");
    nodes_rig_close(r);
}

static void refuses_batches_to_no_socket(void **state) {
    (void)state;
    const char *const bad[] = {"inproc://x", "tcp://127.0.0.1:*",
                               "tcp://*:5",  "ipc:///tmp/x",
                               "tcp://[::1", "tcp://127.0.0.1:0"};
    nodes_rig *r = nodes_rig_open();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        message m = welcome(r);
        m.welcome.data_endpoint = bad[i];
        refused_for(r, &m, "");
        pong(r, BOOT + 1); /* restarted: greeted anew */
    }
    nodes_rig_close(r);
}

static void what_a_node_holds_changes_with_its_process_only(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
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
    nodes_rig_close(r);
}

static void asks_again_what_a_node_holds_when_that_has_changed(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    come_up(r);
    json_int_t before = epoch(r);
    holdings_add(&r->held, 1, 2);
    nodes_rig_pong(r, &r->one, BOOT, 7);
    take(r, MESSAGE_HELLO);
    message m = welcome(r);
    m.welcome.holdings_version = 7;
    send_message(r, &m);
    for (int i = 0; i < 3; i++)
        nodes_rig_pong(r, &r->one, BOOT, 7);
    assert_int_equal(number(r, "held"), r->model->config.n_experts + 1);
    assert_int_equal(epoch(r), before + 1);
    assert_true(has(r, "state", "up")); /* all the time: no rack without it */
    nodes_rig_close(r);
}

static void refuses_experts_that_are_cut_in_another_way(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    holdings halves;
    const model_config *c = &r->model->config;
    assert_int_equal(
        holdings_init_slices(&halves, c->n_layers, c->n_experts, 2), 0);
    holdings_add(&halves, 0, 1);
    message m = welcome(r);
    m.welcome.slices = 2;
    m.welcome.holdings = halves.bits;
    m.welcome.holdings_bytes = holdings_bytes(&halves);
    refused_for(r, &m, "cut into 2 slices, ours into 1");
    holdings_fini(&halves);
    nodes_rig_close(r);
}

static void a_node_that_finds_us_stale_stays_up(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    come_up(r);
    message m = {.kind = MESSAGE_ERROR, .cluster = "test", .boot_id = BOOT};
    m.error.code = ERR_STALE;
    m.error.text = "";
    assert_false(nodes_all_stale(r->nodes));
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    for (int i = 0; i < 3 || !nodes_all_stale(r->nodes); i++) {
        assert_true(now_ms() < until);
        take(r, MESSAGE_PING);
        send_message(r, &m);
    }
    while (nodes_all_stale(r->nodes)) {
        assert_true(now_ms() < until);
        pong(r, BOOT);
    }
    assert_true(has(r, "state", "up"));
    nodes_rig_close(r);
}

static void greets_a_node_on_that_learns_its_model(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    message m = {.kind = MESSAGE_ERROR, .cluster = "test", .boot_id = BOOT};
    m.error.code = ERR_NOT_HERE;
    m.error.text = "still learning the model";
    for (int i = 0; i < 3; i++) {
        take(r, MESSAGE_HELLO);
        send_message(r, &m);
    }
    nodes_rig_wait(r, 0, "why", "still learning");
    assert_true(has(r, "state", "greeting"));
    come_up(r);
    nodes_rig_close(r);
}

static void says_what_the_loss_of_a_node_would_mean(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    nodes_health h;
    uint32_t n_experts = r->model->config.n_experts;
    nodes_look(r->nodes, &h);
    assert_int_equal(h.units, 2 * n_experts);
    assert_int_equal(h.unheld, h.units);
    assert_false(h.survives_largest);
    come_up(r);
    nodes_look(r->nodes, &h);
    assert_int_equal(h.unheld, n_experts);
    assert_int_equal(h.single, n_experts);
    assert_int_equal(h.lost_units, n_experts);
    assert_string_equal(h.weakest, "scripted");
    nodes_rig_close(r);
}

/* Status is JSON, which takes whole characters only, and logs are lines. */
static void quotes_what_a_node_says_in_whole_characters(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
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
    nodes_rig_close(r);
}

static void garbage_changes_nothing(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    come_up(r);
    for (int i = 0; i < 50; i++) {
        frames f;
        frames_init(&f);
        memset(frames_add(&f, 40), i, 40);
        memcpy(f.address, r->one.in.address, r->one.in.address_bytes);
        f.address_bytes = r->one.in.address_bytes;
        assert_int_equal(link_send(r->one.link, &f), 0);
    }
    for (int i = 0; i < 3; i++)
        pong(r, BOOT);
    assert_true(has(r, "state", "up"));
    nodes_rig_close(r);
}

static void a_bad_endpoint_is_said_at_once(void **state) {
    (void)state;
    nodes_rig *r = nodes_rig_open();
    static const char *const endpoints[] = {"tcp://127.0.0.1:9", "nonsense"};
    nodes_config c = r->config;
    c.endpoints = endpoints;
    c.n_nodes = 2;
    char why[256] = "";
    nodes *n;
    assert_int_equal(nodes_open(&n, &c, why, sizeof(why)), ERR_USAGE);
    assert_non_null(strstr(why, "nonsense"));
    nodes_close(n);
    nodes_close(n); /* twice is fine */
    uv_run(&r->loop, UV_RUN_NOWAIT);
    nodes_free(n);
    nodes_rig_close(r);
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
        cmocka_unit_test(asks_again_what_a_node_holds_when_that_has_changed),
        cmocka_unit_test(refuses_experts_that_are_cut_in_another_way),
        cmocka_unit_test(a_node_that_finds_us_stale_stays_up),
        cmocka_unit_test(greets_a_node_on_that_learns_its_model),
        cmocka_unit_test(says_what_the_loss_of_a_node_would_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
