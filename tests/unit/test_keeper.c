/* test_keeper.c - what a node loads, unloads and reports as placements and
 * coordinators come and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
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

/* Which nodes hold each unit of the placement to come. */
static uint32_t plan[LAYERS][8 * EXPERTS];

static uint32_t planned(uint32_t layer, uint32_t unit) {
    return plan[layer][unit];
}

static void rig_open(rig *r, const keeper_config *c) {
    *r = (rig){.now = 100000};
    keeper_config config = c != NULL ? *c : (keeper_config){0};
    config.name = "me";
    assert_int_equal(keeper_new(&r->k, &config), 0);
    rack_feed_open(&r->feed);
    memset(plan, 0, sizeof(plan));
}

static void rig_close(rig *r) {
    keeper_free(r->k);
    rack_feed_close(&r->feed);
}

static void place_sliced(rig *r, uint64_t epoch, uint32_t slices) {
    const uint32_t cuts[LAYERS] = {slices, slices};
    const char *const nodes[] = {"me", "other"};
    const rack_feed_plan p = {.epoch = epoch,
                              .model = {1, 2, 3},
                              .n_layers = LAYERS,
                              .n_experts = EXPERTS,
                              .max_slices = slices,
                              .slices = cuts,
                              .nodes = nodes,
                              .n_nodes = 2,
                              .on = planned};
    rack_feed_placement(&r->feed, &p);
    rack_feed_settle(&r->feed);
    const rack_placement *made = rack_view_placement(r->feed.view);
    assert_non_null(made);
    assert_int_equal(keeper_placement(r->k, r->now, made), 0);
}

static void place(rig *r, uint64_t epoch) {
    place_sliced(r, epoch, 1);
}

static keeper_kind next(rig *r) {
    keeper_next(r->k, r->now, &r->a);
    return r->a.kind;
}

static void expect(rig *r, keeper_kind kind) {
    keeper_kind got = next(r);
    if (got != kind) fail_msg("action %d instead of %d", (int)got, (int)kind);
}

static void expect_unit(rig *r, keeper_kind kind, uint32_t layer,
                        uint32_t unit) {
    expect(r, kind);
    assert_int_equal(r->a.layer, layer);
    assert_int_equal(r->a.unit, unit);
}

static void cut(rig *r, const uint64_t *unit_bytes) {
    expect(r, KEEPER_CUT);
    keeper_cut(r->k, r->now, 0, unit_bytes);
}

/* Load everything that is to be loaded; its number. */
static uint32_t load_all(rig *r) {
    uint32_t n = 0;
    while (next(r) == KEEPER_LOAD) {
        keeper_loaded(r->k, r->now, r->a.layer, r->a.unit, 0);
        n++;
    }
    return n;
}

static keeper_figures look(const rig *r) {
    keeper_figures f;
    keeper_look(r->k, &f);
    return f;
}

/* A keeper at epoch 1 that holds units 0 and 1 of layer 0, as the other does.
 */
static void settle(rig *r) {
    plan[0][0] = plan[0][1] = ME | OTHER;
    place(r, 1);
    cut(r, NULL);
    assert_int_equal(load_all(r), 2);
    assert_int_equal(r->a.kind, KEEPER_REPORT);
    expect(r, KEEPER_WAIT);
}

/* ---- loading ---- */

static void waits_without_a_placement(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms == UINT64_MAX);
    assert_int_equal(look(&r).epoch, 0);
    assert_false(keeper_holds(r.k, 0, 0));
    rig_close(&r);
}

static void loads_what_is_assigned_and_reports_it_once(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    plan[0][1] = plan[1][3] = ME | OTHER;
    plan[1][0] = OTHER;
    place(&r, 7);
    expect(&r, KEEPER_CUT);
    assert_int_equal(r.a.slices, 1);
    expect(&r, KEEPER_WAIT); /* nothing before the store is there */
    keeper_cut(r.k, r.now, 0, NULL);
    expect_unit(&r, KEEPER_LOAD, 0, 1);
    expect(&r, KEEPER_WAIT); /* one at a time */
    assert_false(keeper_holds(r.k, 0, 1));
    keeper_loaded(r.k, r.now, 0, 1, 0);
    assert_true(keeper_holds(r.k, 0, 1));
    expect_unit(&r, KEEPER_LOAD, 1, 3);
    keeper_loaded(r.k, r.now, 1, 3, 0);

    expect(&r, KEEPER_REPORT);
    const rack_placement *p = rack_view_placement(r.feed.view);
    assert_true(r.a.epoch == epoch_pack(1, 7));
    assert_true(r.a.digest == rack_placement_digest(p, 0));
    assert_int_equal(r.a.units, 2);
    assert_int_equal(r.a.waiting, 0);
    expect(&r, KEEPER_WAIT);
    rig_close(&r);
}

static void loads_first_what_nobody_else_holds(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    plan[0][0] = ME | OTHER;
    plan[0][2] = plan[1][1] = ME;
    place(&r, 1);
    cut(&r, NULL);
    const uint32_t order[3][2] = {{0, 2}, {1, 1}, {0, 0}};
    for (int i = 0; i < 3; i++) {
        expect_unit(&r, KEEPER_LOAD, order[i][0], order[i][1]);
        keeper_loaded(r.k, r.now, r.a.layer, r.a.unit, 0);
    }
    rig_close(&r);
}

static void reports_at_once_what_needs_no_load(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    plan[1][0] = OTHER;
    place(&r, 2);
    expect(&r, KEEPER_REPORT);
    assert_true(r.a.epoch == epoch_pack(1, 2));
    rig_close(&r);
}

static void ignores_an_epoch_that_is_not_newer(void **state) {
    (void)state;
    rig r, old;
    rig_open(&r, NULL);
    rig_open(&old, NULL);
    place(&old, 5);
    plan[0][0] = ME;
    place(&r, 6);
    cut(&r, NULL);
    assert_int_equal(load_all(&r), 1);
    const rack_placement *p = rack_view_placement(old.feed.view);
    assert_int_equal(keeper_placement(r.k, r.now, p), 0);
    assert_int_equal(keeper_placement(r.k, r.now, NULL), 0);
    expect(&r, KEEPER_WAIT);
    assert_true(look(&r).epoch == epoch_pack(1, 6));
    assert_true(keeper_holds(r.k, 0, 0));
    rig_close(&r);
    rig_close(&old);
}

static void tries_a_failed_load_again_while_others_go_on(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    plan[0][0] = plan[0][1] = ME;
    place(&r, 1);
    cut(&r, NULL);
    expect_unit(&r, KEEPER_LOAD, 0, 0);
    keeper_loaded(r.k, r.now, 0, 0, ERR_CHECKSUM);
    assert_int_equal(look(&r).failed, 1);
    expect_unit(&r, KEEPER_LOAD, 0, 1);
    keeper_loaded(r.k, r.now, 0, 1, 0);

    const uint32_t waits[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    for (size_t i = 0; i < ARRAY_LEN(waits); i++) {
        expect(&r, KEEPER_WAIT);
        while (r.a.wake_ms < r.now + waits[i]) { /* the version, say */
            r.now = r.a.wake_ms;
            expect(&r, KEEPER_WAIT);
        }
        r.now = r.a.wake_ms;
        expect_unit(&r, KEEPER_LOAD, 0, 0);
        keeper_loaded(r.k, r.now, 0, 0, -EIO);
    }
    assert_int_equal(look(&r).waiting, 1);
    r.now += 30000;
    assert_int_equal(load_all(&r), 1);
    assert_int_equal(r.a.kind, KEEPER_REPORT);
    assert_int_equal(look(&r).failed, 0);
    rig_close(&r);
}

static void tells_how_much_waits_while_a_newer_epoch_loads(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    plan[1][0] = plan[1][1] = ME;
    place(&r, 2);
    r.now += 5000;
    expect_unit(&r, KEEPER_LOAD, 1, 0);
    expect(&r, KEEPER_REPORT);
    assert_true(r.a.epoch == epoch_pack(1, 1)); /* what is complete */
    assert_int_equal(r.a.waiting, 2);
    keeper_loaded(r.k, r.now, 1, 0, 0);
    expect_unit(&r, KEEPER_LOAD, 1, 1);
    expect(&r, KEEPER_WAIT); /* not with every unit */
    assert_true(r.a.wake_ms <= r.now + 2000);
    keeper_loaded(r.k, r.now, 1, 1, 0);
    expect(&r, KEEPER_REPORT);
    assert_true(r.a.epoch == epoch_pack(1, 2));
    assert_int_equal(r.a.waiting, 0);
    rig_close(&r);
}

/* ---- unloading ---- */

/* Epoch 2 takes unit 0 of layer 0 away. */
static void take_away(rig *r) {
    plan[0][0] = OTHER;
    place(r, 2);
}

static void unloads_at_once_if_nobody_is_connected(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    take_away(&r);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    assert_false(keeper_holds(r.k, 0, 0)); /* before it is gone */
    assert_int_equal(look(&r).unloading, 1);
    keeper_unloaded(r.k, r.now, 0, 0);
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    assert_int_equal(look(&r).resident, 1);
    rig_close(&r);
}

static void unloads_when_all_coordinators_have_switched(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_hello(r.k, r.now, 11), 0);
    assert_int_equal(keeper_hello(r.k, r.now, 12), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT); /* what is assigned is there */
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 2), 0), 0);
    assert_int_equal(keeper_ping(r.k, r.now, 12, epoch_pack(1, 1), 0), 0);
    expect(&r, KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 0));
    assert_int_equal(look(&r).leaving, 1);
    assert_int_equal(keeper_ping(r.k, r.now, 12, epoch_pack(1, 2), 0), 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    rig_close(&r);
}

/* Etcd was restored, and a leader that had been stopped wrote into it what it
 * had planned before: two placements have one number. */
static void waits_for_one_that_means_another_placement(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_hello(r.k, r.now, 11), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    const uint64_t epoch = epoch_pack(1, 2);
    const uint64_t sum = rack_placement_sum(rack_view_placement(r.feed.view));
    for (int i = 0; i < 10; i++) {
        assert_int_equal(keeper_ping(r.k, r.now, 11, epoch, sum + 1), 0);
        expect(&r, KEEPER_WAIT);
        r.now += 1000;
    }
    assert_true(keeper_holds(r.k, 0, 0));
    expect(&r, KEEPER_STALE); /* as one that lags */
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch, sum + 1), ERR_STALE);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch, sum), 0);
    expect(&r, KEEPER_UNSTALE);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    rig_close(&r);
}

static void waits_for_one_that_said_hello_and_did_not_ping(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_hello(r.k, r.now, 11), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms <= r.now + 5000);
    rig_close(&r);
}

static void does_not_wait_for_one_that_fell_silent(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    r.now += 4999;
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms == r.now + 1);
    r.now += 1;
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    assert_int_equal(look(&r).peers, 0);
    rig_close(&r);
}

/* Ping every second; the action then. */
static keeper_kind ping_for(rig *r, uint32_t seconds, uint64_t epoch) {
    for (uint32_t i = 0; i < seconds; i++) {
        r->now += 1000;
        (void)keeper_ping(r->k, r->now, 11, epoch, 0);
        if (next(r) != KEEPER_WAIT) break;
    }
    return r->a.kind;
}

static void refuses_a_laggard_until_it_has_caught_up(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    r.now += 1000;
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    assert_int_equal(ping_for(&r, 9, epoch_pack(1, 1)), KEEPER_WAIT);
    assert_int_equal(ping_for(&r, 1, epoch_pack(1, 1)), KEEPER_STALE);
    assert_int_equal(r.a.peer, 11);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0),
                     ERR_STALE);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    keeper_unloaded(r.k, r.now, 0, 0);
    expect(&r, KEEPER_WAIT);
    assert_int_equal(look(&r).stale, 1);

    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 2), 0), 0);
    expect(&r, KEEPER_UNSTALE);
    assert_int_equal(r.a.peer, 11);
    expect(&r, KEEPER_WAIT);
    rig_close(&r);
}

static void refuses_nobody_for_what_etcd_does_not_have(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    assert_int_equal(ping_for(&r, 5, epoch_pack(1, 1)), KEEPER_WAIT);
    keeper_can_learn(r.k, r.now, false); /* it is away, or was restored */
    assert_int_equal(ping_for(&r, 60, epoch_pack(1, 1)), KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 0));

    keeper_can_learn(r.k, r.now, true);
    keeper_can_learn(r.k, r.now, true);
    assert_int_equal(ping_for(&r, 9, epoch_pack(1, 1)), KEEPER_WAIT);
    assert_int_equal(ping_for(&r, 1, epoch_pack(1, 1)), KEEPER_STALE);
    rig_close(&r);
}

static void gives_a_newcomer_the_same_grace(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 12, 0, 0), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    for (int i = 0; i < 9; i++) { /* another one keeps the unit here */
        r.now += 1000;
        assert_int_equal(keeper_ping(r.k, r.now, 12, 0, 0), 0);
        expect(&r, KEEPER_WAIT);
    }
    assert_int_equal(keeper_hello(r.k, r.now, 11), 0);
    r.now += 1000;
    expect(&r, KEEPER_STALE);
    assert_int_equal(r.a.peer, 12);
    assert_int_equal(ping_for(&r, 8, 0), KEEPER_WAIT);
    assert_int_equal(ping_for(&r, 1, 0), KEEPER_STALE);
    assert_int_equal(r.a.peer, 11);
    rig_close(&r);
}

static void forgets_a_stale_one_that_is_gone(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, 0, 0), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    assert_int_equal(ping_for(&r, 10, 0), KEEPER_STALE);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    keeper_unloaded(r.k, r.now, 0, 0);
    r.now += 59999;
    expect(&r, KEEPER_WAIT);
    r.now += 1;
    expect(&r, KEEPER_UNSTALE);
    expect(&r, KEEPER_WAIT);
    assert_int_equal(look(&r).peers, 0);
    rig_close(&r);
}

static void keeps_what_is_assigned_again_in_time(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    plan[0][0] = ME | OTHER;
    place(&r, 3);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 3), 0), 0);
    expect(&r, KEEPER_REPORT);
    assert_true(r.a.epoch == epoch_pack(1, 3));
    expect(&r, KEEPER_WAIT);
    assert_int_equal(look(&r).leaving, 0);
    assert_true(keeper_holds(r.k, 0, 0));
    rig_close(&r);
}

static void loads_again_what_was_on_its_way_out(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    take_away(&r);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    plan[0][0] = ME;
    place(&r, 3);
    expect(&r, KEEPER_WAIT); /* it is not here, and cannot be loaded yet */
    keeper_unloaded(r.k, r.now, 0, 0);
    expect_unit(&r, KEEPER_LOAD, 0, 0);
    rig_close(&r);
}

static void gives_up_a_load_that_nobody_wants_any_more(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    plan[0][0] = ME;
    place(&r, 1);
    cut(&r, NULL);
    expect_unit(&r, KEEPER_LOAD, 0, 0);
    take_away(&r);
    expect(&r, KEEPER_REPORT);
    keeper_loaded(r.k, r.now, 0, 0, 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    keeper_unloaded(r.k, r.now, 0, 0);
    assert_int_equal(look(&r).resident, 0);
    rig_close(&r);
}

static void hands_out_no_more_unloads_than_allowed(void **state) {
    (void)state;
    const keeper_config c = {.max_unloads = 1};
    rig r;
    rig_open(&r, &c);
    settle(&r);
    plan[0][0] = plan[0][1] = 0;
    place(&r, 2);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    keeper_unloaded(r.k, r.now, 0, 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 1);
    rig_close(&r);
}

/* ---- memory ---- */

static const uint64_t ten_bytes[LAYERS] = {10, 10};

static void a_load_waits_for_what_leaves(void **state) {
    (void)state;
    const keeper_config c = {.memory_bytes = 25};
    rig r;
    rig_open(&r, &c);
    plan[0][0] = plan[0][1] = ME | OTHER;
    place(&r, 1);
    cut(&r, ten_bytes);
    assert_int_equal(load_all(&r), 2);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    plan[0][0] = OTHER;
    plan[1][2] = ME;
    place(&r, 2);
    expect(&r, KEEPER_WAIT);
    assert_true(look(&r).no_room);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 2), 0), 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    expect(&r, KEEPER_WAIT);
    keeper_unloaded(r.k, r.now, 0, 0);
    expect_unit(&r, KEEPER_LOAD, 1, 2);
    assert_false(look(&r).no_room);
    rig_close(&r);
}

static void never_takes_more_than_it_offered(void **state) {
    (void)state;
    const keeper_config c = {.memory_bytes = 25, .max_loads = 4};
    rig r;
    rig_open(&r, &c);
    plan[0][0] = plan[0][1] = plan[0][2] = ME;
    place(&r, 1);
    cut(&r, ten_bytes);
    expect_unit(&r, KEEPER_LOAD, 0, 0);
    expect_unit(&r, KEEPER_LOAD, 0, 1);
    expect(&r, KEEPER_WAIT);
    keeper_loaded(r.k, r.now, 0, 0, 0);
    keeper_loaded(r.k, r.now, 0, 1, 0);
    expect(&r, KEEPER_WAIT);
    assert_true(look(&r).no_room);
    assert_int_equal(look(&r).failed, 1);
    plan[0][1] = OTHER; /* the rack sees to it */
    place(&r, 2);
    expect_unit(&r, KEEPER_UNLOAD, 0, 1);
    keeper_unloaded(r.k, r.now, 0, 1);
    r.now += 1000;
    expect_unit(&r, KEEPER_LOAD, 0, 2);
    rig_close(&r);
}

/* ---- cuts ---- */

static void cuts_anew_once_all_of_the_old_cut_is_gone(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 1), 0), 0);
    memset(plan, 0, sizeof(plan));
    plan[0][5] = ME;
    place_sliced(&r, 2, 4);
    expect(&r, KEEPER_WAIT);
    assert_int_equal(look(&r).waiting, 1);
    assert_int_equal(keeper_ping(r.k, r.now, 11, epoch_pack(1, 2), 0), 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 1);
    expect(&r, KEEPER_WAIT);
    keeper_unloaded(r.k, r.now, 0, 0);
    keeper_unloaded(r.k, r.now, 0, 1);
    expect(&r, KEEPER_CUT);
    assert_int_equal(r.a.slices, 4);
    keeper_cut(r.k, r.now, 0, NULL);
    expect_unit(&r, KEEPER_LOAD, 0, 5);
    keeper_loaded(r.k, r.now, 0, 5, 0);
    expect(&r, KEEPER_REPORT);
    rig_close(&r);
}

static void asks_again_for_a_cut_that_failed(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    plan[0][0] = ME;
    place(&r, 1);
    expect(&r, KEEPER_CUT);
    keeper_cut(r.k, r.now, -ENOMEM, NULL);
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms == r.now + 1000);
    r.now += 1000;
    cut(&r, NULL);
    expect_unit(&r, KEEPER_LOAD, 0, 0);
    rig_close(&r);
}

static void gives_everything_up_that_is_placed_without_it(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    settle(&r);
    const uint32_t cuts[LAYERS] = {1, 1};
    const char *const nodes[] = {"", "other"};
    plan[0][0] = plan[0][1] = OTHER;
    const rack_feed_plan p = {.epoch = 2,
                              .model = {1, 2, 3},
                              .n_layers = LAYERS,
                              .n_experts = EXPERTS,
                              .max_slices = 1,
                              .slices = cuts,
                              .nodes = nodes,
                              .n_nodes = 2,
                              .on = planned};
    rack_feed_placement(&r.feed, &p);
    rack_feed_settle(&r.feed);
    const rack_placement *made = rack_view_placement(r.feed.view);
    assert_int_equal(keeper_placement(r.k, r.now, made), 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 0);
    expect_unit(&r, KEEPER_UNLOAD, 0, 1);
    expect(&r, KEEPER_WAIT); /* and has nothing to report */
    rig_close(&r);
}

/* ---- versions and peers ---- */

static void raises_the_version_but_not_with_every_unit(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    assert_int_equal(keeper_version(r.k), 1);
    for (uint32_t i = 0; i < EXPERTS; i++)
        plan[0][i] = ME;
    place(&r, 1);
    cut(&r, NULL);
    assert_int_equal(load_all(&r), EXPERTS);
    assert_int_equal(keeper_version(r.k), 2);
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms <= r.now + 100);
    r.now += 100;
    expect(&r, KEEPER_WAIT);
    assert_int_equal(keeper_version(r.k), 3);
    r.now += 100;
    expect(&r, KEEPER_WAIT);
    assert_int_equal(keeper_version(r.k), 3);
    rig_close(&r);
}

static void knows_so_many_coordinators_and_no_more(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    for (uint64_t i = 1; i <= KEEPER_MAX_PEERS; i++)
        assert_int_equal(keeper_hello(r.k, r.now, i), 0);
    assert_int_equal(keeper_hello(r.k, r.now, 999), ERR_OVERLOADED);
    assert_int_equal(keeper_ping(r.k, r.now, 999, 1, 0), ERR_OVERLOADED);
    assert_int_equal(keeper_hello(r.k, r.now, 1), 0);
    r.now += 5000; /* the silent ones make room */
    assert_int_equal(keeper_hello(r.k, r.now, 999), 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_without_a_placement),
        cmocka_unit_test(loads_what_is_assigned_and_reports_it_once),
        cmocka_unit_test(loads_first_what_nobody_else_holds),
        cmocka_unit_test(reports_at_once_what_needs_no_load),
        cmocka_unit_test(ignores_an_epoch_that_is_not_newer),
        cmocka_unit_test(tries_a_failed_load_again_while_others_go_on),
        cmocka_unit_test(tells_how_much_waits_while_a_newer_epoch_loads),
        cmocka_unit_test(unloads_at_once_if_nobody_is_connected),
        cmocka_unit_test(unloads_when_all_coordinators_have_switched),
        cmocka_unit_test(waits_for_one_that_means_another_placement),
        cmocka_unit_test(waits_for_one_that_said_hello_and_did_not_ping),
        cmocka_unit_test(does_not_wait_for_one_that_fell_silent),
        cmocka_unit_test(refuses_a_laggard_until_it_has_caught_up),
        cmocka_unit_test(refuses_nobody_for_what_etcd_does_not_have),
        cmocka_unit_test(gives_a_newcomer_the_same_grace),
        cmocka_unit_test(forgets_a_stale_one_that_is_gone),
        cmocka_unit_test(keeps_what_is_assigned_again_in_time),
        cmocka_unit_test(loads_again_what_was_on_its_way_out),
        cmocka_unit_test(gives_up_a_load_that_nobody_wants_any_more),
        cmocka_unit_test(hands_out_no_more_unloads_than_allowed),
        cmocka_unit_test(a_load_waits_for_what_leaves),
        cmocka_unit_test(never_takes_more_than_it_offered),
        cmocka_unit_test(cuts_anew_once_all_of_the_old_cut_is_gone),
        cmocka_unit_test(asks_again_for_a_cut_that_failed),
        cmocka_unit_test(gives_everything_up_that_is_placed_without_it),
        cmocka_unit_test(raises_the_version_but_not_with_every_unit),
        cmocka_unit_test(knows_so_many_coordinators_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
