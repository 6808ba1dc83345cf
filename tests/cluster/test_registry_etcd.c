/* test_registry_etcd.c - registries against a real etcd: names, leases, the
 * leader, writes, and everything that etcd can do to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "tests/support/etcd_child.h"
#include "tests/support/etcd_sync.h"
#include "tests/support/registry_rig.h"

#define LAYERS 3
#define EXPERTS 8
#define TTL_S 2

static etcd_child child;

static int prepare(void **state) {
    (void)state;
    memset(&child, 0, sizeof(child));
    return 0;
}

static int clean_up(void **state) {
    (void)state;
    etcd_child_fini(&child);
    return 0;
}

static void start(void) {
    etcd_child_need();
    etcd_child_init(&child);
    etcd_child_start(&child);
}

static void open_at(registry_rig *g, registry_role role, const char *name,
                    uint32_t ttl_s) {
    registry_rig_open(g, child.endpoints, 1, role, name, ttl_s);
}

static void until(registry_rig *g, bool (*holds)(void *ctx)) {
    registry_rig_until(&g, 1, holds, g);
}

static void open_node(registry_rig *g, const char *name, int port) {
    open_at(g, REGISTRY_NODE, name, TTL_S);
    registry_rig_publish(g, port);
}

static void open_leader(registry_rig *g, const char *name, int port) {
    open_at(g, REGISTRY_COORDINATOR, name, TTL_S);
    registry_rig_publish(g, port);
    until(g, registry_rig_leads);
    until(g, registry_rig_live);
}

/* Two coordinators, of which the first leads; its term. */
static int64_t open_leader_and_other(registry_rig *leader,
                                     registry_rig *other) {
    registry_rig *both[] = {leader, other};
    open_leader(leader, "a", 7101);
    open_at(other, REGISTRY_COORDINATOR, "b", TTL_S);
    registry_rig_publish(other, 7102);
    registry_rig_until(both, 2, registry_rig_live, other);
    registry_rig_until(both, 2, registry_rig_registered, other);
    return registry_term(leader->registry);
}

/* ---- placements ---- */

/* Epoch `epoch` with every expert on node 0. */
static int write_epoch(registry_rig *g, uint64_t epoch, int64_t term,
                       int64_t expected) {
    char nodes[1][RECORD_NAME] = {"one"};
    epoch_record head = {.incarnation = 1,
                         .epoch = epoch,
                         .n_layers = LAYERS,
                         .n_experts = EXPERTS,
                         .slices = 1,
                         .min_replicas = 1,
                         .nodes = nodes,
                         .n_nodes = 1,
                         .term = term};
    const uint32_t numbers[] = {1, 2};
    layer_map map;
    assert_int_equal(layer_map_init(&map, 1, EXPERTS, EXPERTS), 0);
    for (uint32_t i = 0; i <= EXPERTS; i++)
        map.first[i] = i;
    const layer_map *const maps[] = {&map, &map};
    snprintf(head.writer, sizeof(head.writer), "%s", g->name);
    const placement_write w = {.head = &head,
                               .layer_numbers = numbers,
                               .layers = maps,
                               .n_layers = 2,
                               .term = term,
                               .expected_revision = expected};
    g->done = false;
    int rc = registry_write_placement(g->registry, &w, registry_rig_on_done, g);
    layer_map_fini(&map);
    return rc;
}

static etcd_code written(registry_rig *g, uint64_t epoch, int64_t term,
                         int64_t expected) {
    assert_int_equal(write_epoch(g, epoch, term, expected), 0);
    until(g, registry_rig_done);
    return g->code;
}

static bool has_placement(void *ctx) {
    const registry_rig *g = ctx;
    const rack_view *v = registry_view(g->registry);
    return v != NULL && rack_view_placement(v) != NULL;
}

/* ---- waiting for what others do ---- */

typedef struct {
    registry_rig *rig;
    const char *node;
    uint64_t boot; /* 0: it is to be gone */
} sight;

static bool sees_node(void *ctx) {
    const sight *s = ctx;
    const rack_view *v = registry_view(s->rig->registry);
    if (v == NULL) return false;
    const node_record *n = rack_view_node(v, s->node);
    return s->boot == 0 ? n == NULL : n != NULL && n->boot == s->boot;
}

static int64_t lease_of(etcd_sync *s, const char *key) {
    assert_int_equal(etcd_sync_get(s, key, false), ETCD_OK);
    assert_int_equal(s->n, 1);
    return s->kvs[0].lease;
}

/* ---- tests ---- */

static void sees_who_comes_and_who_goes(void **state) {
    registry_rig a, b;
    registry_rig *both[] = {&a, &b};
    (void)state;
    start();
    open_node(&a, "one", 7001);
    open_node(&b, "two", 7002);
    sight come = {&a, "two", b.boot};
    registry_rig_until(both, 2, sees_node, &come);
    const node_record *n = rack_view_node(registry_view(a.registry), "two");
    assert_string_equal(n->control, "tcp://127.0.0.1:7002");
    until(&a, registry_rig_registered);
    assert_true(registry_rig_says(&a, "connected"));
    assert_true(a.changes > 0);

    registry_rig_close(&b); /* gives its lease back: at once */
    sight go = {&a, "two", 0};
    registry_rig_until(both, 1, sees_node, &go);
    registry_rig_close(&a);
}

static void refuses_a_name_until_its_owner_is_gone(void **state) {
    registry_rig a, b;
    registry_rig *both[] = {&a, &b};
    (void)state;
    start();
    open_node(&a, "one", 7001);
    until(&a, registry_rig_registered);
    open_node(&b, "one", 7002);
    registry_rig_until(both, 2, registry_rig_name_taken, &b);
    assert_false(registry_rig_registered(&b));
    assert_true(registry_rig_registered(&a));
    registry_rig_close(&a);
    until(&b, registry_rig_registered);
    assert_false(registry_rig_name_taken(&b));
    registry_rig_close(&b);
}

/* The predecessor's lease would last for another minute. */
static void takes_over_at_once_what_names_its_own_endpoint(void **state) {
    node_record dead = {.boot = 99,
                        .control = "tcp://127.0.0.1:7001",
                        .protocol = 1,
                        .profile = {1, "a8", "f32", "", "", ""}};
    registry_rig g;
    etcd_sync s;
    (void)state;
    start();
    etcd_sync_open_at(&s, child.endpoints, 1);
    while (etcd_sync_grant(&s, 60) != ETCD_OK)
        continue;
    int64_t lease = s.lease;
    char *text = node_record_pack(&dead);
    assert_non_null(text);
    const char *key = "/roster/test/nodes/one";
    const etcd_compare compare = {.key = key,
                                  .key_len = strlen(key),
                                  .target = ETCD_CREATE_REVISION,
                                  .relation = ETCD_EQUAL};
    const etcd_op put = {.kind = ETCD_PUT,
                         .key = key,
                         .key_len = strlen(key),
                         .value = text,
                         .value_len = strlen(text),
                         .lease = lease};
    const etcd_txn txn = {
        .compares = &compare, .n_compares = 1, .then = &put, .n_then = 1};
    assert_int_equal(etcd_sync_commit(&s, &txn), ETCD_OK);
    free(text);

    open_node(&g, "one", 7001);
    until(&g, registry_rig_registered);
    assert_int_not_equal(lease_of(&s, key), lease);
    registry_rig_close(&g);
    etcd_sync_close(&s);
}

static bool lives_anew(void *ctx) {
    registry_rig *g = ctx;
    const rack_view *v = registry_view(g->registry);
    const node_record *n = v != NULL ? rack_view_node(v, g->name) : NULL;
    return n != NULL && n->create_revision > g->revision &&
           registry_rig_registered(g);
}

static void registers_anew_after_its_lease_or_its_key_has_gone(void **state) {
    const char *key = "/roster/test/nodes/one";
    registry_rig g;
    etcd_sync s;
    (void)state;
    start();
    etcd_sync_open_at(&s, child.endpoints, 1);
    open_node(&g, "one", 7001);
    until(&g, registry_rig_registered);
    until(&g, registry_rig_live);

    int64_t lease = lease_of(&s, key);
    g.revision = s.kvs[0].create_revision;
    assert_int_equal(etcd_sync_revoke(&s, lease), ETCD_OK);
    until(&g, lives_anew);
    int64_t second = lease_of(&s, key);
    assert_int_not_equal(second, lease);

    g.revision = s.kvs[0].create_revision;
    assert_int_equal(etcd_sync_delete(&s, key), ETCD_OK);
    until(&g, lives_anew);
    assert_true(lease_of(&s, key) == second);
    registry_rig_close(&g);
    etcd_sync_close(&s);
}

static void hands_the_lead_on_with_a_higher_term(void **state) {
    registry_rig a, b;
    (void)state;
    start();
    int64_t term = open_leader_and_other(&a, &b);
    assert_true(registry_term(b.registry) == 0);
    assert_true(registry_term(a.registry) == term);
    registry_rig_close(&a);
    until(&b, registry_rig_leads);
    assert_true(registry_term(b.registry) > term);
    registry_rig_close(&b);
}

static void leaves_the_lead_to_others_when_it_resigned(void **state) {
    registry_rig a, b;
    registry_rig *both[] = {&a, &b};
    (void)state;
    start();
    open_at(&a, REGISTRY_COORDINATOR, "a", TTL_S);
    registry_resign(a.registry);
    registry_rig_publish(&a, 7101);
    open_at(&b, REGISTRY_COORDINATOR, "b", TTL_S);
    registry_rig_publish(&b, 7102);
    registry_rig_until(both, 2, registry_rig_leads, &b);
    registry_rig_until(both, 2, registry_rig_registered, &a);
    assert_true(registry_term(a.registry) == 0);
    registry_rig_close(&b);
    registry_campaign(a.registry);
    until(&a, registry_rig_leads);
    registry_rig_close(&a);
}

static void
writes_placements_only_as_leader_and_over_what_it_read(void **state) {
    registry_rig a;
    (void)state;
    start();
    open_leader(&a, "a", 7101);
    int64_t term = registry_term(a.registry);
    assert_int_equal(write_epoch(&a, 1, 0, 0), ERR_NOT_LEADER);
    assert_int_equal(written(&a, 1, term - 1, 0), ETCD_FALSE);
    assert_int_equal(written(&a, 1, term, 7), ETCD_FALSE);
    assert_int_equal(written(&a, 1, term, 0), ETCD_OK);
    int64_t first = a.revision;
    until(&a, has_placement);
    const rack_view *v = registry_view(a.registry);
    const rack_placement *p = rack_view_placement(v);
    assert_true(rack_view_epoch_revision(v) == first);
    assert_true(rack_placement_units(p, 0) == 2 * EXPERTS);
    assert_string_equal(rack_placement_head(p)->writer, "a");
    assert_int_equal(written(&a, 2, term, 0), ETCD_FALSE);
    assert_int_equal(written(&a, 2, term, first), ETCD_OK);
    registry_rig_close(&a);
}

static void refuses_the_write_of_a_leader_whose_term_is_over(void **state) {
    registry_rig a, b;
    etcd_sync s;
    (void)state;
    start();
    open_leader(&a, "a", 7101);
    int64_t term = registry_term(a.registry);
    /* a stands still while its lease goes and b takes the lead */
    etcd_sync_open_at(&s, child.endpoints, 1);
    assert_int_equal(etcd_sync_revoke(&s, lease_of(&s, "/roster/test/leader")),
                     ETCD_OK);
    open_leader(&b, "b", 7102);
    assert_true(registry_term(b.registry) > term);
    assert_int_equal(written(&a, 1, term, 0), ETCD_FALSE);
    assert_int_equal(written(&b, 1, registry_term(b.registry), 0), ETCD_OK);
    registry_rig_close(&a);
    registry_rig_close(&b);
    etcd_sync_close(&s);
}

/* In a store that was wiped, revisions come again: a term is not enough. */
static void refuses_the_write_of_another_with_the_leaders_term(void **state) {
    registry_rig a, b;
    registry_rig *both[] = {&a, &b};
    (void)state;
    start();
    int64_t term = open_leader_and_other(&a, &b);
    assert_int_equal(write_epoch(&b, 1, term, 0), 0);
    registry_rig_until(both, 2, registry_rig_done, &b);
    assert_int_equal(b.code, ETCD_FALSE);
    assert_int_equal(written(&a, 1, term, 0), ETCD_OK);
    registry_rig_close(&a);
    registry_rig_close(&b);
}

static void goes_on_when_etcd_was_restarted(void **state) {
    registry_rig a;
    (void)state;
    start();
    open_leader(&a, "a", 7101);
    assert_int_equal(written(&a, 3, registry_term(a.registry), 0), ETCD_OK);
    until(&a, has_placement);
    const rack_placement *p = rack_view_placement(registry_view(a.registry));
    etcd_child_kill(&child);
    until(&a, registry_rig_away);
    assert_non_null(registry_view(a.registry));
    etcd_child_start(&child);
    until(&a, registry_rig_live);
    until(&a, registry_rig_leads);
    until(&a, registry_rig_registered);
    const rack_view *v = registry_view(a.registry);
    assert_ptr_equal(rack_view_placement(v), p);
    assert_false(rack_view_rolled_back(v));
    registry_rig_close(&a);
}

static bool is_rolled_back(void *ctx) {
    return registry_rig_says(ctx, "rolled_back");
}

static void keeps_the_placement_and_registers_in_a_wiped_etcd(void **state) {
    registry_rig a, n;
    registry_rig *both[] = {&a, &n};
    (void)state;
    start();
    open_leader(&a, "a", 7101);
    open_node(&n, "one", 7001);
    assert_int_equal(written(&a, 3, registry_term(a.registry), 0), ETCD_OK);
    registry_rig_until(both, 2, has_placement, &n);
    registry_rig_until(both, 2, registry_rig_registered, &n);
    registry_rig_until(both, 2, has_placement, &a);

    etcd_child_wipe(&child);
    etcd_child_start(&child);
    registry_rig_until(both, 2, is_rolled_back, &n);
    registry_rig_until(both, 2, is_rolled_back, &a);
    sight again = {&a, "one", n.boot};
    registry_rig_until(both, 2, sees_node, &again);
    registry_rig_until(both, 2, registry_rig_leads, &a);
    const rack_view *v = registry_view(n.registry);
    assert_true(rack_placement_epoch(rack_view_placement(v)) ==
                epoch_pack(1, 3));
    assert_true(rack_view_epoch_revision(v) == 0);
    registry_rig_close(&a);
    registry_rig_close(&n);
}

static void lists_anew_what_was_compacted_while_it_was_away(void **state) {
    char key[64];
    registry_rig g;
    etcd_sync s;
    (void)state;
    start();
    open_node(&g, "one", 7001);
    until(&g, registry_rig_live);
    until(&g, registry_rig_registered);
    etcd_child_kill(&child);
    until(&g, registry_rig_away);
    /* It stands still from here on, until the history it needs is gone. */
    etcd_child_start(&child);
    etcd_sync_open_at(&s, child.endpoints, 1);
    while (etcd_sync_put(&s, "/roster/test/drain/x", "{}") != ETCD_OK) {
        continue;
    }
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "/roster/test/drain/n%d", i);
        assert_int_equal(etcd_sync_put(&s, key, "{\"by\":\"me\"}"), ETCD_OK);
    }
    assert_int_equal(etcd_sync_delete(&s, "/roster/test/drain/x"), ETCD_OK);
    assert_int_equal(etcd_sync_compact(&s, s.revision), ETCD_OK);
    until(&g, registry_rig_live);
    size_t n;
    rack_view_drains(registry_view(g.registry), &n);
    assert_int_equal(n, 20);
    assert_null(rack_view_drain(registry_view(g.registry), "x"));
    until(&g, registry_rig_registered);
    registry_rig_close(&g);
    etcd_sync_close(&s);
}

static void finds_an_etcd_that_comes_later(void **state) {
    registry_rig g;
    (void)state;
    etcd_child_need();
    etcd_child_init(&child);
    open_node(&g, "one", 7001);
    while (g.changes == 0)
        uv_run(&g.loop, UV_RUN_ONCE); /* it was told */
    etcd_child_start(&child);
    until(&g, registry_rig_live);
    until(&g, registry_rig_registered);
    registry_rig_close(&g);
}

typedef struct {
    registry_rig *rig;
    bool there;
} drained;

static bool drain_is(void *ctx) {
    const drained *d = ctx;
    const rack_view *v = registry_view(d->rig->registry);
    return v != NULL && (rack_view_drain(v, "one") != NULL) == d->there;
}

static void drains_and_undoes_it_as_often_as_asked(void **state) {
    registry_rig g, *rig = &g;
    (void)state;
    start();
    open_leader(&g, "a", 7101);
    for (int i = 0; i < 4; i++) {
        bool undo = i >= 2;
        g.done = false;
        assert_int_equal(
            registry_drain(g.registry, "one", undo, registry_rig_on_done, &g),
            0);
        until(&g, registry_rig_done);
        assert_int_equal(g.code, ETCD_OK);
        drained d = {&g, !undo};
        registry_rig_until(&rig, 1, drain_is, &d);
    }
    g.done = false;
    assert_int_equal(
        registry_compact(g.registry, g.revision, registry_rig_on_done, &g), 0);
    until(&g, registry_rig_done);
    assert_int_equal(g.code, ETCD_OK);
    registry_rig_close(&g);
}

static bool ready_is_there(void *ctx) {
    registry_rig *g = ctx;
    const rack_view *v = registry_view(g->registry);
    const ready_record *r = v != NULL ? rack_view_ready(v, g->name) : NULL;
    return r != NULL && r->boot == g->boot && r->epoch == 9;
}

static void reports_readiness_under_its_name(void **state) {
    registry_rig g;
    (void)state;
    start();
    open_node(&g, "one", 7001);
    ready_record r = {.boot = g.boot, .incarnation = 1, .digest = 5};
    for (r.epoch = 1; r.epoch <= 9; r.epoch++) {
        assert_int_equal(registry_set_ready(g.registry, &r), 0);
    }
    until(&g, ready_is_there);
    registry_rig_close(&g);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, prepare, clean_up)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(sees_who_comes_and_who_goes),
        TEST(refuses_a_name_until_its_owner_is_gone),
        TEST(takes_over_at_once_what_names_its_own_endpoint),
        TEST(registers_anew_after_its_lease_or_its_key_has_gone),
        TEST(hands_the_lead_on_with_a_higher_term),
        TEST(leaves_the_lead_to_others_when_it_resigned),
        TEST(writes_placements_only_as_leader_and_over_what_it_read),
        TEST(refuses_the_write_of_a_leader_whose_term_is_over),
        TEST(refuses_the_write_of_another_with_the_leaders_term),
        TEST(goes_on_when_etcd_was_restarted),
        TEST(keeps_the_placement_and_registers_in_a_wiped_etcd),
        TEST(lists_anew_what_was_compacted_while_it_was_away),
        TEST(finds_an_etcd_that_comes_later),
        TEST(drains_and_undoes_it_as_often_as_asked),
        TEST(reports_readiness_under_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
