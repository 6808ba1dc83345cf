/* test_keeper_time.c - a keeper that is behind, was stopped, or fails again and
 * again: what it must not do too early, nor for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/err.h"
#include "expert_node/keeper.h"
#include "tests/support/rack_feed.h"

#define EXPERTS 64
#define ME 1u /* bits of nodes */
#define OTHER 2u
#define PEER 11

typedef struct {
    keeper *k;
    rack_feed feed;
    uint64_t now;
    keeper_action a; /* the last one */
} rig;

static uint32_t plan[EXPERTS * 4]; /* by unit; up to four slices */

static uint32_t planned(uint32_t layer, uint32_t unit) {
    (void)layer;
    return plan[unit];
}

static void place_sliced(rig *r, uint64_t epoch, uint32_t slices) {
    const char *const nodes[] = {"me", "other"};
    const rack_feed_plan p = {.epoch = epoch,
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
}

static void place(rig *r, uint64_t epoch) {
    place_sliced(r, epoch, 1);
}

static void expect(rig *r, keeper_kind kind) {
    keeper_next(r->k, r->now, &r->a);
    if (r->a.kind != kind)
        fail_msg("action %d instead of %d", (int)r->a.kind, (int)kind);
}

static void ping(rig *r, uint64_t epoch) {
    assert_int_equal(keeper_ping(r->k, r->now, PEER, epoch_pack(1, epoch), 0),
                     0);
}

static void wait_pinging(rig *r, uint32_t seconds, uint64_t epoch) {
    for (uint32_t i = 0; i < seconds; i++) {
        r->now += 1000;
        ping(r, epoch);
        expect(r, KEEPER_WAIT);
    }
}

/* Epoch 1 has two units here, and epoch 2 takes one of them away. */
static void rig_open(rig *r) {
    *r = (rig){.now = 100000};
    const keeper_config c = {.name = "me"};
    assert_int_equal(keeper_new(&r->k, &c), 0);
    rack_feed_open(&r->feed);
    memset(plan, 0, sizeof(plan));
    plan[0] = plan[1] = ME | OTHER;
    place(r, 1);
    expect(r, KEEPER_CUT);
    keeper_cut(r->k, r->now, 0, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        expect(r, KEEPER_LOAD);
        keeper_loaded(r->k, r->now, 0, i, 0);
    }
    expect(r, KEEPER_REPORT);
    ping(r, 1);
    plan[0] = OTHER;
    place(r, 2);
    expect(r, KEEPER_REPORT);
    r->now += 1000;
    expect(r, KEEPER_WAIT);
}

static void rig_close(rig *r) {
    keeper_free(r->k);
    rack_feed_close(&r->feed);
}

/* ---- behind ---- */

static void keeps_what_an_epoch_it_does_not_know_may_give_back(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    ping(&r, 3); /* the coordinator's etcd is faster than ours */
    expect(&r, KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 0));
    wait_pinging(&r, 9, 3);
    plan[0] = ME | OTHER;
    place(&r, 3);
    expect(&r, KEEPER_REPORT);
    wait_pinging(&r, 20, 3);
    assert_true(keeper_holds(r.k, 0, 0));
    rig_close(&r);
}

static void unloads_when_the_newer_epoch_agrees(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    ping(&r, 3);
    expect(&r, KEEPER_WAIT);
    place(&r, 3);
    expect(&r, KEEPER_UNLOAD);
    rig_close(&r);
}

static void does_not_wait_for_ever_for_an_epoch_that_never_comes(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    ping(&r, 3);
    expect(&r, KEEPER_WAIT);
    wait_pinging(&r, 9, 4);
    assert_true(r.a.wake_ms <= r.now + 1000);
    r.now += 1000;
    ping(&r, 5);
    expect(&r, KEEPER_UNLOAD);
    rig_close(&r);
}

static void waits_anew_once_it_has_followed(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    ping(&r, 3);
    expect(&r, KEEPER_WAIT);
    wait_pinging(&r, 8, 4);
    place(&r, 3); /* there is 4 already */
    expect(&r, KEEPER_REPORT);
    wait_pinging(&r, 9, 4);
    place(&r, 4);
    expect(&r, KEEPER_UNLOAD);
    rig_close(&r);
}

static void is_not_held_up_by_one_that_was_ahead_and_is_silent(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    ping(&r, 3);
    expect(&r, KEEPER_WAIT);
    r.now += 5000;
    expect(&r, KEEPER_UNLOAD);
    rig_close(&r);
}

/* ---- stopped ---- */

static void does_not_take_its_own_pause_for_silence(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    ping(&r, 1);
    r.now += 60000; /* in which nothing could be heard */
    keeper_paused(r.k, r.now, 59000);
    expect(&r, KEEPER_WAIT);
    assert_true(keeper_holds(r.k, 0, 0));
    r.now += 3999;
    expect(&r, KEEPER_WAIT);
    r.now += 1; /* now it is silence */
    expect(&r, KEEPER_UNLOAD);
    rig_close(&r);
}

static void counts_no_pause_as_lagging(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    wait_pinging(&r, 5, 1);
    r.now += 60000;
    ping(&r, 1); /* was heard first */
    keeper_paused(r.k, r.now, 60000);
    expect(&r, KEEPER_WAIT);
    assert_true(r.a.wake_ms > r.now && r.a.wake_ms <= r.now + 5000);
    wait_pinging(&r, 3, 1);
    ping(&r, 2);
    expect(&r, KEEPER_UNLOAD);
    rig_close(&r);
}

/* ---- cut anew ---- */

static void tells_again_who_is_refused_after_a_cut(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    wait_pinging(&r, 8, 1);
    memset(plan, 0, sizeof(plan));
    place_sliced(&r, 3, 4);
    r.now += 2000;
    ping(&r, 1);
    expect(&r, KEEPER_STALE);
    for (uint32_t i = 0; i < 2; i++)
        expect(&r, KEEPER_UNLOAD);
    for (uint32_t i = 0; i < 2; i++)
        keeper_unloaded(r.k, r.now, 0, i);
    expect(&r, KEEPER_CUT); /* and so another worker */
    keeper_cut(r.k, r.now, 0, NULL);
    expect(&r, KEEPER_STALE);
    assert_int_equal(r.a.peer, PEER);
    expect(&r, KEEPER_REPORT);
    expect(&r, KEEPER_WAIT);
    rig_close(&r);
}

/* ---- failing ---- */

/* Loads that are handed out, and fail, within a minute. */
static uint32_t attempts_in_a_minute(rig *r) {
    uint32_t n = 0;
    for (uint64_t until = r->now + 60000; r->now < until;) {
        keeper_next(r->k, r->now, &r->a);
        if (r->a.kind == KEEPER_LOAD) {
            n++;
            keeper_loaded(r->k, r->now, r->a.layer, r->a.unit, ERR_UNAVAILABLE);
        } else if (r->a.kind == KEEPER_WAIT) {
            assert_true(r->a.wake_ms > r->now);
            r->now = r->a.wake_ms < until ? r->a.wake_ms : until;
        }
    }
    return n;
}

static void does_not_storm_a_source_that_refuses_everything(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    for (uint32_t i = 0; i < EXPERTS; i++)
        plan[i] = ME;
    place(&r, 3);
    assert_in_range(attempts_in_a_minute(&r), 10, 25);

    /* One that is good, and all others go on at once. */
    r.now += 60000;
    uint32_t loaded = 0;
    for (expect(&r, KEEPER_LOAD); r.a.kind == KEEPER_LOAD; loaded++) {
        keeper_loaded(r.k, r.now, r.a.layer, r.a.unit, 0);
        keeper_next(r.k, r.now, &r.a);
    }
    assert_int_equal(loaded, EXPERTS - 2);
    rig_close(&r);
}

/* Loads that fail, one after the other. */
static void fail_times(rig *r, uint32_t times) {
    while (times > 0) {
        keeper_next(r->k, r->now, &r->a);
        if (r->a.kind == KEEPER_LOAD) {
            times--;
            keeper_loaded(r->k, r->now, r->a.layer, r->a.unit, ERR_CHECKSUM);
        } else if (r->a.kind == KEEPER_WAIT) {
            r->now = r->a.wake_ms;
        }
    }
}

static void place_and_load(rig *r, uint64_t epoch, uint32_t unit) {
    plan[unit] = ME;
    place(r, epoch);
    do {
        keeper_next(r->k, r->now, &r->a);
    } while (r->a.kind == KEEPER_REPORT);
    assert_int_equal(r->a.kind, KEEPER_LOAD);
    assert_int_equal(r->a.unit, unit);
}

/* Its bytes are damaged wherever they are, say. */
static void one_unit_that_always_fails_delays_no_other(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    plan[2] = ME;
    place(&r, 3);
    fail_times(&r, 6);
    place_and_load(&r, 4, 3);
    keeper_loaded(r.k, r.now, 0, 3, ERR_UNAVAILABLE);
    place_and_load(&r, 5, 4); /* no rest after this one either */
    rig_close(&r);
}

static void several_that_fail_do_not_delay_what_is_new(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    for (uint32_t i = 2; i < 8; i++)
        plan[i] = ME;
    place(&r, 3);
    fail_times(&r, 20);
    place_and_load(&r, 4, 8);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_an_epoch_it_does_not_know_may_give_back),
        cmocka_unit_test(unloads_when_the_newer_epoch_agrees),
        cmocka_unit_test(does_not_wait_for_ever_for_an_epoch_that_never_comes),
        cmocka_unit_test(waits_anew_once_it_has_followed),
        cmocka_unit_test(is_not_held_up_by_one_that_was_ahead_and_is_silent),
        cmocka_unit_test(does_not_take_its_own_pause_for_silence),
        cmocka_unit_test(counts_no_pause_as_lagging),
        cmocka_unit_test(tells_again_who_is_refused_after_a_cut),
        cmocka_unit_test(does_not_storm_a_source_that_refuses_everything),
        cmocka_unit_test(one_unit_that_always_fails_delays_no_other),
        cmocka_unit_test(several_that_fail_do_not_delay_what_is_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
