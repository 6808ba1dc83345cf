/* test_keeper_kept.c - what a keeper holds when a recovery begins a new
 * incarnation that knows nothing of it: make-before-break holds all the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/err.h"
#include "expert_node/keeper.h"
#include "tests/support/rack_feed.h"

#define EXPERTS 4
#define ME 1u /* bits of nodes */
#define OTHER 2u
#define OTHER_BOOT 77
#define GRACE_MS 1000

typedef struct {
    keeper *k;
    rack_feed feed;
    uint64_t now;
    keeper_action a; /* the last one */
} rig;

static uint32_t plan[8 * EXPERTS];
static const uint64_t ten_bytes[] = {10};

static uint32_t planned(uint32_t layer, uint32_t unit) {
    (void)layer;
    return plan[unit];
}

static void place_sliced(rig *r, uint64_t incarnation, uint64_t epoch,
                         uint32_t slices) {
    const char *const nodes[] = {"me", "other"};
    const rack_feed_plan p = {.incarnation = incarnation,
                              .epoch = epoch,
                              .model = {1, 2, 3},
                              .n_layers = 1,
                              .n_experts = EXPERTS,
                              .max_slices = slices,
                              .slices = &slices,
                              .nodes = nodes,
                              .n_nodes = 2,
                              .on = planned};
    rack_feed_placement(&r->feed, &p);
    rack_feed_settle(&r->feed);
    const rack_placement *made = rack_view_placement(r->feed.view);
    assert_int_equal(keeper_placement(r->k, r->now, made), 0);
    keeper_others(r->k, r->feed.view);
}

static void place(rig *r, uint64_t incarnation, uint64_t epoch) {
    place_sliced(r, incarnation, epoch, 1);
}

static void expect(rig *r, keeper_kind kind) {
    keeper_next(r->k, r->now, &r->a);
    if (r->a.kind != kind)
        fail_msg("action %d instead of %d", (int)r->a.kind, (int)kind);
}

static void expect_unit(rig *r, keeper_kind kind, uint32_t unit) {
    expect(r, kind);
    assert_int_equal(r->a.unit, unit);
}

static void load(rig *r, uint32_t unit) {
    expect_unit(r, KEEPER_LOAD, unit);
    keeper_loaded(r->k, r->now, 0, unit, 0);
}

static void other_is_ready(rig *r) {
    rack_feed_ready(&r->feed, "other", OTHER_BOOT);
    keeper_others(r->k, r->feed.view);
}

static uint32_t leaving(const rig *r) {
    keeper_figures f;
    keeper_look(r->k, &f);
    return f.leaving;
}

/* A keeper that has room for two units and holds units 0 and 1, alone, by
 * placement 1.1; another node is registered. */
static void rig_open(rig *r) {
    const keeper_config c = {
        .name = "me", .memory_bytes = 25, .grace_ms = GRACE_MS};
    *r = (rig){.now = 100000};
    assert_int_equal(keeper_new(&r->k, &c), 0);
    rack_feed_open(&r->feed);
    rack_feed_node(&r->feed, "other", OTHER_BOOT, "tcp://10.0.0.2:1");
    for (uint32_t u = 0; u < 8 * EXPERTS; u++)
        plan[u] = 0;
    plan[0] = plan[1] = ME;
    place(r, 1, 1);
    expect(r, KEEPER_CUT);
    keeper_cut(r->k, r->now, 0, ten_bytes);
    load(r, 0);
    load(r, 1);
    expect(r, KEEPER_REPORT);
    expect(r, KEEPER_WAIT);
    r->now += 5000;
    expect(r, KEEPER_WAIT);
}

static void rig_close(rig *r) {
    keeper_free(r->k);
    rack_feed_close(&r->feed);
}

static void keeps_what_the_recovery_gives_to_one_who_lacks_it(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[0] = OTHER;
    plan[1] = ME | OTHER;
    place(&r, 2, 1);
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 0));
    assert_int_equal(leaving(&r), 1);
    r.now += 1000000; /* however long that takes */
    expect(&r, KEEPER_WAIT);
    other_is_ready(&r);
    expect_unit(&r, KEEPER_UNLOAD, 0);
    expect(&r, KEEPER_WAIT);
    rig_close(&r);
}

static void keeps_what_the_recovery_gives_to_nobody(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[0] = plan[1] = 0;
    place(&r, 2, 1);
    other_is_ready(&r); /* for what it was given */
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    plan[0] = OTHER;
    place(&r, 2, 2); /* the leader sees to it */
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    other_is_ready(&r);
    expect_unit(&r, KEEPER_UNLOAD, 0);
    expect(&r, KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 1));
    rig_close(&r);
}

static void keeps_what_was_on_its_way_out_before_the_recovery(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    plan[0] = OTHER;
    place(&r, 1, 2); /* the other is ready, or the leader had not done so */
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    place(&r, 2, 1);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(2, 1), 0), 0);
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 0));
    other_is_ready(&r);
    expect_unit(&r, KEEPER_UNLOAD, 0);
    rig_close(&r);
}

static void trusts_the_leader_for_what_the_incarnation_gave_it(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[0] = ME | OTHER;
    place(&r, 2, 1);
    expect(&r, KEEPER_REPORT);
    plan[0] = OTHER;
    place(&r, 2, 2);
    expect_unit(&r, KEEPER_UNLOAD, 0);
    rig_close(&r);
}

static void does_not_believe_an_old_picture_of_the_others(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[0] = OTHER;
    place(&r, 2, 1);
    expect(&r, KEEPER_REPORT);
    keeper_can_learn(r.k, r.now, false); /* etcd is away */
    other_is_ready(&r);
    expect(&r, KEEPER_WAIT);
    keeper_can_learn(r.k, r.now, true);
    rack_feed_node(&r.feed, "other", OTHER_BOOT + 1, "tcp://10.0.0.2:1");
    keeper_others(r.k, r.feed.view); /* it has been started anew, empty */
    expect(&r, KEEPER_WAIT);
    rack_feed_ready(&r.feed, "other", OTHER_BOOT + 1);
    keeper_others(r.k, r.feed.view);
    expect_unit(&r, KEEPER_UNLOAD, 0);
    rig_close(&r);
}

static void gives_room_to_what_is_assigned_after_a_while(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[0] = plan[1] = OTHER;
    plan[2] = ME;
    place(&r, 2, 1);
    expect(&r, KEEPER_REPORT); /* that it waits */
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms == r.now + 6 * GRACE_MS);
    r.now += 5000; /* but this process did not run */
    keeper_paused(r.k, r.now, 5000);
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms == r.now + 6 * GRACE_MS);
    r.now += 6 * GRACE_MS;
    expect_unit(&r, KEEPER_UNLOAD, 0);
    expect_unit(&r, KEEPER_UNLOAD, 1);
    keeper_unloaded(r.k, r.now, 0, 0);
    load(&r, 2);
    keeper_unloaded(r.k, r.now, 0, 1);
    expect(&r, KEEPER_REPORT);
    rig_close(&r);
}

static void keeps_nothing_for_units_that_are_cut_in_another_way(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[0] = plan[1] = 0;
    plan[5] = ME;
    place_sliced(&r, 2, 1, 4);
    expect_unit(&r, KEEPER_UNLOAD, 0);
    expect_unit(&r, KEEPER_UNLOAD, 1);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_the_recovery_gives_to_one_who_lacks_it),
        cmocka_unit_test(keeps_what_the_recovery_gives_to_nobody),
        cmocka_unit_test(keeps_what_was_on_its_way_out_before_the_recovery),
        cmocka_unit_test(trusts_the_leader_for_what_the_incarnation_gave_it),
        cmocka_unit_test(does_not_believe_an_old_picture_of_the_others),
        cmocka_unit_test(gives_room_to_what_is_assigned_after_a_while),
        cmocka_unit_test(keeps_nothing_for_units_that_are_cut_in_another_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
