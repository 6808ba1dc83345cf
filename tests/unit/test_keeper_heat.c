/* test_keeper_heat.c - what a keeper loads first, and what it does when a unit
 * that is resident turns out to be damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "expert_node/keeper.h"
#include "tests/support/rack_feed.h"

#define LAYERS 2
#define EXPERTS 4
#define ME 1u /* bits of nodes */
#define OTHER 2u

typedef struct {
    keeper *k;
    rack_feed feed;
    uint64_t now;
    keeper_action a; /* the last one */
} rig;

static uint32_t plan[LAYERS][EXPERTS];
static uint64_t heat[LAYERS][EXPERTS];

static uint32_t planned(uint32_t layer, uint32_t unit) {
    return plan[layer][unit];
}

static uint64_t heat_of(void *ctx, uint32_t layer, uint32_t unit) {
    (void)ctx;
    return heat[layer][unit];
}

static void rig_open(rig *r) {
    const keeper_config c = {.name = "me", .heat = heat_of};
    *r = (rig){.now = 100000};
    assert_int_equal(keeper_new(&r->k, &c), 0);
    rack_feed_open(&r->feed);
    memset(plan, 0, sizeof(plan));
    memset(heat, 0, sizeof(heat));
}

static void rig_close(rig *r) {
    keeper_free(r->k);
    rack_feed_close(&r->feed);
}

static void place(rig *r, uint64_t epoch) {
    const uint32_t cuts[LAYERS] = {1, 1};
    const char *const nodes[] = {"me", "other"};
    const rack_feed_plan p = {.epoch = epoch,
                              .model = {1, 2, 3},
                              .n_layers = LAYERS,
                              .n_experts = EXPERTS,
                              .max_slices = 1,
                              .slices = cuts,
                              .nodes = nodes,
                              .n_nodes = 2,
                              .on = planned};
    rack_feed_placement(&r->feed, &p);
    rack_feed_settle(&r->feed);
    assert_int_equal(
        keeper_placement(r->k, r->now, rack_view_placement(r->feed.view)), 0);
}

static keeper_kind next(rig *r) {
    keeper_next(r->k, r->now, &r->a);
    return r->a.kind;
}

static void expect_unit(rig *r, keeper_kind kind, uint32_t layer,
                        uint32_t unit) {
    keeper_kind got = next(r);
    if (got != kind) fail_msg("action %d instead of %d", (int)got, (int)kind);
    assert_int_equal(r->a.layer, layer);
    assert_int_equal(r->a.unit, unit);
}

static void expect_load(rig *r, uint32_t layer, uint32_t unit) {
    expect_unit(r, KEEPER_LOAD, layer, unit);
    keeper_loaded(r->k, r->now, layer, unit, 0);
}

static void cut(rig *r) {
    assert_int_equal(next(r), KEEPER_CUT);
    keeper_cut(r->k, r->now, 0, (const uint64_t[LAYERS]){10, 10});
}

static keeper_figures look(const rig *r) {
    keeper_figures f;
    keeper_look(r->k, &f);
    return f;
}

/* Units 0 and 1 of layer 0, which the other has as well. */
static void settle(rig *r) {
    plan[0][0] = plan[0][1] = ME | OTHER;
    place(r, 1);
    cut(r);
    expect_load(r, 0, 0);
    expect_load(r, 0, 1);
    assert_int_equal(next(r), KEEPER_REPORT);
    assert_int_equal(next(r), KEEPER_WAIT);
}

static void loads_the_hottest_first(void **state) {
    rig r;
    (void)state;
    rig_open(&r);
    for (int i = 0; i < EXPERTS; i++)
        plan[0][i] = plan[1][i] = ME | OTHER;
    heat[1][2] = 50;
    heat[0][3] = 70;
    heat[0][1] = 50;
    place(&r, 1);
    cut(&r);
    expect_load(&r, 0, 3);
    expect_load(&r, 0, 1);
    expect_load(&r, 1, 2);
    expect_load(&r, 0, 0); /* as cold as the rest: in order */
    expect_load(&r, 0, 2);
    rig_close(&r);
}

static void loads_what_nobody_else_has_before_what_is_hot(void **state) {
    rig r;
    (void)state;
    rig_open(&r);
    plan[0][0] = plan[0][1] = ME | OTHER;
    plan[1][0] = plan[1][3] = ME;
    heat[0][1] = 900;
    heat[1][3] = 1;
    place(&r, 1);
    cut(&r);
    expect_load(&r, 1, 3);
    expect_load(&r, 1, 0);
    expect_load(&r, 0, 1);
    expect_load(&r, 0, 0);
    rig_close(&r);
}

static void loads_a_damaged_unit_again(void **state) {
    rig r;
    (void)state;
    rig_open(&r);
    settle(&r);
    uint64_t version = keeper_version(r.k);
    r.now += 1000;
    keeper_lost(r.k, r.now, 0, 1);
    assert_false(keeper_holds(r.k, 0, 1));
    assert_int_equal(look(&r).waiting, 1);
    assert_int_equal(look(&r).failed, 0);
    expect_load(&r, 0, 1); /* at once */
    assert_true(keeper_version(r.k) > version);
    assert_true(keeper_holds(r.k, 0, 1));
    assert_int_equal(look(&r).waiting, 0);
    rig_close(&r);
}

static void forgets_a_damaged_unit_that_was_leaving(void **state) {
    rig r;
    (void)state;
    rig_open(&r);
    settle(&r);
    assert_int_equal(keeper_hello(r.k, r.now, 7), 0);
    plan[0][1] = OTHER;
    place(&r, 2); /* peer 7 has not switched yet */
    assert_int_equal(next(&r), KEEPER_REPORT);
    keeper_lost(r.k, r.now, 0, 1);
    assert_int_equal(keeper_ping(r.k, r.now, 7, epoch_pack(1, 2), 0), 0);
    assert_int_not_equal(next(&r), KEEPER_UNLOAD);
    assert_int_equal(look(&r).leaving, 0);
    assert_int_equal(look(&r).resident, 1);

    plan[0][1] = ME; /* and back again */
    place(&r, 3);
    expect_load(&r, 0, 1);
    rig_close(&r);
}

/* Many times, so that the lists' room would be missed. */
static void keeps_its_books_when_leaving_units_are_lost(void **state) {
    rig r;
    (void)state;
    rig_open(&r);
    settle(&r);
    assert_int_equal(keeper_hello(r.k, r.now, 7), 0);
    for (uint64_t epoch = 2; epoch < 40; epoch += 2) {
        plan[0][0] = plan[0][1] = OTHER;
        place(&r, epoch);
        while (next(&r) != KEEPER_WAIT)
            assert_int_equal(r.a.kind, KEEPER_REPORT);
        keeper_lost(r.k, r.now, 0, epoch / 2 % 2);
        plan[0][0] = plan[0][1] = ME;
        place(&r, epoch + 1);
        expect_load(&r, 0, epoch / 2 % 2);
        while (next(&r) != KEEPER_WAIT)
            assert_int_equal(r.a.kind, KEEPER_REPORT);
        assert_int_equal(look(&r).resident, 2);
        assert_int_equal(keeper_hello(r.k, r.now, 7), 0);
    }
    rig_close(&r);
}

static void takes_no_notice_of_a_loss_of_what_it_has_not(void **state) {
    rig r;
    (void)state;
    rig_open(&r);
    settle(&r);
    keeper_lost(r.k, r.now, 0, 3);
    keeper_lost(r.k, r.now, 9, 0);
    plan[0][1] = OTHER;
    place(&r, 2);
    expect_unit(&r, KEEPER_UNLOAD, 0, 1);
    keeper_lost(r.k, r.now, 0, 1); /* found before the order was carried out */
    assert_int_equal(look(&r).unloading, 1);
    keeper_unloaded(r.k, r.now, 0, 1);
    assert_int_equal(look(&r).resident, 1);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_the_hottest_first),
        cmocka_unit_test(loads_what_nobody_else_has_before_what_is_hot),
        cmocka_unit_test(loads_a_damaged_unit_again),
        cmocka_unit_test(forgets_a_damaged_unit_that_was_leaving),
        cmocka_unit_test(keeps_its_books_when_leaving_units_are_lost),
        cmocka_unit_test(takes_no_notice_of_a_loss_of_what_it_has_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
