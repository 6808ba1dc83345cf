/* test_registry.c - what a registry does where no etcd answers.  With one:
 * tests/cluster/test_registry_etcd.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/registry.h"
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/util.h"
#include "tests/support/etcd_script.h"
#include "tests/support/etcd_sync.h"
#include "tests/support/etcd_words.h"
#include "tests/support/registry_rig.h"

/* Nobody listens there. */
static const char *nobody(void) {
    static char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d", etcd_sync_free_port());
    return url;
}

static void refuses_names_that_no_key_can_have(void **state) {
    static const char *const names[] = {"", "a/b", "a\nb"};
    const char *endpoint = "http://127.0.0.1:1";
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    for (int i = 0; i < 6; i++) {
        registry *r;
        char why[200] = "";
        registry_config c = {.loop = &loop,
                             .etcd = {.endpoints = &endpoint, .n_endpoints = 1},
                             .cluster = i < 3 ? names[i] : "rack",
                             .name = i < 3 ? "one" : names[i - 3],
                             .boot = 1};
        assert_int_equal(registry_open(&r, &c, why, sizeof(why)), ERR_USAGE);
        assert_null(r);
        assert_true(why[0] != '\0');
    }
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void refuses_an_endpoint_that_is_none(void **state) {
    const char *endpoint = "ftp://nowhere";
    uv_loop_t loop;
    registry *r;
    char why[200] = "";
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    registry_config c = {.loop = &loop,
                         .etcd = {.endpoints = &endpoint, .n_endpoints = 1},
                         .cluster = "rack",
                         .name = "one",
                         .boot = 1};
    assert_true(registry_open(&r, &c, why, sizeof(why)) < 0);
    assert_null(r);
    assert_true(why[0] != '\0');
    assert_int_equal(uv_loop_close(&loop), 0); /* no handle was left */
}

static void closes_before_its_loop_ever_ran(void **state) {
    const char *endpoint = nobody();
    registry_rig g;
    (void)state;
    registry_rig_open(&g, &endpoint, 1, REGISTRY_NODE, "one", 2);
    registry_rig_close(&g);
    registry_rig_open(&g, &endpoint, 1, REGISTRY_COORDINATOR, "one", 2);
    registry_rig_publish(&g, 7000);
    registry_rig_close(&g);
    registry_close(NULL, NULL, NULL);
}

static bool told_why(void *ctx) {
    const registry_rig *g = ctx;
    json_t *status = registry_status(g->registry);
    const char *why = json_string_value(json_object_get(status, "why"));
    bool says = why != NULL && why[0] != '\0';
    json_decref(status);
    return says && g->changes > 0;
}

static void waits_and_says_why_while_nobody_answers(void **state) {
    const char *endpoint = nobody();
    registry_rig g, *rig = &g;
    (void)state;
    registry_rig_open(&g, &endpoint, 1, REGISTRY_NODE, "one", 2);
    registry_rig_publish(&g, 7000);
    registry_rig_until(&rig, 1, told_why, &g);
    assert_false(registry_rig_says(&g, "connected"));
    assert_false(registry_rig_says(&g, "registered"));
    assert_false(registry_rig_says(&g, "leading"));
    assert_null(registry_view(g.registry));
    assert_true(registry_live_since(g.registry) == 0);
    assert_true(registry_term(g.registry) == 0);
    registry_rig_close(&g);
}

static void writes_no_placement_without_a_term(void **state) {
    const char *endpoint = nobody();
    char nodes[1][RECORD_NAME] = {"one"};
    epoch_record head = {.epoch = 1,
                         .n_layers = 1,
                         .slices = 1,
                         .min_replicas = 1,
                         .nodes = nodes,
                         .n_nodes = 1,
                         .writer = "one"};
    placement_write w = {.head = &head};
    registry_rig g;
    (void)state;
    registry_rig_open(&g, &endpoint, 1, REGISTRY_COORDINATOR, "one", 2);
    assert_int_equal(
        registry_write_placement(g.registry, &w, registry_rig_on_done, &g),
        ERR_NOT_LEADER);
    w.term = 5;
    w.n_layers = ETCD_TXN_OPS_MAX;
    assert_int_equal(
        registry_write_placement(g.registry, &w, registry_rig_on_done, &g),
        -E2BIG);
    assert_int_equal(
        registry_drain(g.registry, "a/b", false, registry_rig_on_done, &g),
        ERR_USAGE);
    assert_false(g.done);
    registry_rig_close(&g);
}

static void ends_what_is_under_way_when_it_closes(void **state) {
    const char *endpoint = nobody();
    registry_rig g;
    (void)state;
    registry_rig_open(&g, &endpoint, 1, REGISTRY_COORDINATOR, "one", 2);
    assert_int_equal(
        registry_drain(g.registry, "two", false, registry_rig_on_done, &g), 0);
    assert_false(g.done); /* never from within the call */
    registry_rig_close(&g);
    assert_true(g.done);
    assert_int_not_equal(g.code, ETCD_OK);
}

static void publishes_nothing_that_readers_would_refuse(void **state) {
    const char *endpoint = nobody();
    node_record n = {.control = "tcp://127.0.0.1:7000",
                     .zone = "Z\xc3\xbcrich",
                     .protocol = 1,
                     .profile = {1, "a8", "f32", "", "", ""}};
    ready_record ready = {.incarnation = 1, .epoch = 1};
    registry_rig g;
    (void)state;
    registry_rig_open(&g, &endpoint, 1, REGISTRY_NODE, "one", 2);
    n.boot = ready.boot = g.boot;
    assert_int_equal(registry_set_node(g.registry, &n), ERR_FORMAT);
    strcpy(n.zone, "Bern");
    assert_int_equal(registry_set_node(g.registry, &n), 0);
    assert_int_equal(registry_set_node(g.registry, &n), 0); /* unchanged */
    assert_int_equal(registry_set_ready(g.registry, &ready), 0);
    registry_rig_close(&g);
}

/* ---- an etcd that misbehaves ---- */

/* A node and the etcd that it is told of, each on a loop of its own. */
typedef struct {
    uv_loop_t loop;
    etcd_script *server;
    registry_rig rig;
    unsigned wanted;
    uint64_t end;
} scripted;

static void scripted_open(scripted *t) {
    memset(t, 0, sizeof(*t));
    assert_int_equal(uv_loop_init(&t->loop), 0);
    etcd_script_open(&t->server, &t->loop);
}

static void scripted_begin(scripted *t) {
    const char *url = etcd_script_url(t->server);
    registry_rig_open(&t->rig, &url, 1, REGISTRY_NODE, "one", 5);
    registry_rig_publish(&t->rig, 7000);
}

static void scripted_close(scripted *t) {
    registry_rig_close(&t->rig);
    etcd_script_close(t->server);
    assert_int_equal(uv_loop_close(&t->loop), 0);
}

static void turn(scripted *t, bool (*holds)(void *ctx)) {
    registry_rig *rig = &t->rig;
    registry_rig_until(&rig, 1, holds, t);
}

/* Conditions turn the server's loop as well. */
static bool asked_to_write(void *ctx) {
    scripted *t = ctx;
    uv_run(&t->loop, UV_RUN_NOWAIT);
    return etcd_script_asked(t->server, TXN) >= t->wanted;
}

static bool refused_all_along(void *ctx) {
    scripted *t = ctx;
    assert_true(told_why(&t->rig));
    return asked_to_write(t);
}

/* Out of space: what is read in between makes it no better, and a log would
 * fill up with what is said once. */
static void says_once_that_its_writes_are_refused(void **state) {
    scripted t;
    (void)state;
    scripted_open(&t);
    etcd_script_say(t.server, RANGE, 200, STORE_AT(5));
    etcd_script_stream(t.server, WATCH, CREATED(5));
    etcd_script_say(t.server, GRANT, 200,
                    "{" HEADER(5) ",\"ID\":\"77\",\"TTL\":\"5\"}");
    etcd_script_say(t.server, KEEP, 200,
                    "{\"result\":{" HEADER(5) ",\"ID\":\"77\",\"TTL\":\"5\"}}");
    etcd_script_say(t.server, TXN, 429,
                    "{\"error\":\"etcdserver: mvcc: database space "
                    "exceeded\",\"code\":8}");
    scripted_begin(&t);
    t.wanted = 2;
    turn(&t, asked_to_write);
    t.wanted = 5;
    turn(&t, refused_all_along);
    scripted_close(&t);
}

static void on_left(void *ctx) {
    *(bool *)ctx = true;
}

/* Listing, granting, writing, watching, leaving: whatever is under way. */
static void closes_at_any_moment(void **state) {
    (void)state;
    for (int moment = 0; moment < 60; moment++) {
        scripted t;
        bool left = false;
        scripted_open(&t);
        etcd_script_say(t.server, RANGE, 200, STORE_AT(5));
        etcd_script_stream(t.server, WATCH, CREATED(5));
        etcd_script_say(t.server, GRANT, 200,
                        "{" HEADER(5) ",\"ID\":\"77\",\"TTL\":\"5\"}");
        etcd_script_say(t.server, "/v3/lease/revoke", 200, STORE_AT(5));
        etcd_script_say(t.server, TXN, 200,
                        "{" HEADER(6) ",\"succeeded\":true,\"responses\":["
                                      "{\"response_put\":{}}]}");
        scripted_begin(&t);
        for (int i = 0; i < moment; i++) {
            uv_run(&t.rig.loop, UV_RUN_NOWAIT);
            uv_run(&t.loop, UV_RUN_NOWAIT);
        }
        registry_close(t.rig.registry, on_left, &left);
        while (!left) {
            uv_run(&t.rig.loop, UV_RUN_NOWAIT);
            uv_run(&t.loop, UV_RUN_NOWAIT);
        }
        assert_int_equal(uv_loop_close(&t.rig.loop), 0);
        etcd_script_close(t.server);
        assert_int_equal(uv_loop_close(&t.loop), 0);
    }
}

static bool is_over(void *ctx) {
    scripted *t = ctx;
    uv_run(&t->loop, UV_RUN_NOWAIT);
    return now_ms() >= t->end;
}

/* Behind the endpoint are two clusters in turn. */
static void does_not_hurry_to_list_what_is_lost_at_once(void **state) {
    scripted t;
    (void)state;
    scripted_open(&t);
    etcd_script_say(t.server, RANGE, 200, STORE_AT(5));
    etcd_script_stream(
        t.server, WATCH,
        "{\"result\":{\"header\":{\"cluster_id\":\"9\",\"member_id\":\"8\","
        "\"revision\":\"5\"},\"created\":true}}\n");
    const char *url = etcd_script_url(t.server);
    registry_rig_open(&t.rig, &url, 1, REGISTRY_NODE, "one", 5);
    t.end = now_ms() + 2500;
    turn(&t, is_over);
    assert_in_range(etcd_script_asked(t.server, WATCH), 2, 8);
    scripted_close(&t);
}

/* The last test: what was armed stays so. */
static void fails_to_write_where_a_test_wants_that(void **state) {
    const char *endpoint = nobody();
    epoch_record head = {.epoch = 1, .n_layers = 1, .slices = 1};
    placement_write w = {.head = &head, .term = 5};
    registry_rig g;
    (void)state;
    assert_int_equal(setenv("ROSTER_FAILPOINTS", "placement.write=fail", 1), 0);
    assert_int_equal(failpoint_setup(NULL, 0), 0);
    registry_rig_open(&g, &endpoint, 1, REGISTRY_COORDINATOR, "one", 2);
    assert_int_equal(
        registry_write_placement(g.registry, &w, registry_rig_on_done, &g),
        -EIO);
    registry_rig_close(&g);
    assert_false(g.done);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_names_that_no_key_can_have),
        cmocka_unit_test(refuses_an_endpoint_that_is_none),
        cmocka_unit_test(closes_before_its_loop_ever_ran),
        cmocka_unit_test(waits_and_says_why_while_nobody_answers),
        cmocka_unit_test(writes_no_placement_without_a_term),
        cmocka_unit_test(ends_what_is_under_way_when_it_closes),
        cmocka_unit_test(publishes_nothing_that_readers_would_refuse),
        cmocka_unit_test(says_once_that_its_writes_are_refused),
        cmocka_unit_test(closes_at_any_moment),
        cmocka_unit_test(does_not_hurry_to_list_what_is_lost_at_once),
        cmocka_unit_test(fails_to_write_where_a_test_wants_that),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
