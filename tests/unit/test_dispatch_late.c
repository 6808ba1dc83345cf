/* test_dispatch_late.c - when dispatch calls an answer late, how often it asks
 * somebody else as well, and what becomes of nodes that are lost, slow or not
 * to be relied on. */
#include "tests/unit/dispatch_rig.h"

/* One layer of one pair, answered after `took_us`; by whoever is asked. */
static uint32_t one_call(rig *r, uint32_t expert, uint64_t took_us) {
    rig_begin_same(r, expert, 1);
    assert_int_equal(rig_next(r), DISPATCH_SEND);
    uint32_t node = r->a.node;
    uint64_t id = r->a.request_id;
    r->now += took_us;
    rig_rows(r, node, id);
    rig_expect(r, DISPATCH_DONE);
    return node;
}

/* After this time the only request in flight is late. */
static uint64_t late_after(rig *r, uint32_t node) {
    uint64_t begun = r->now;
    for (rig_next(r); !rig_node(r, node).suspect; rig_next(r))
        r->now = r->a.wake_us;
    return r->now - begun;
}

/* ---- deadlines ---- */

static rig regular_rig(uint32_t start_us) {
    dispatch_config c = rig_config();
    c.hedge_min_us = 5000;
    c.hedge_factor = 4;
    c.hedge_start_us = start_us;
    c.patience_us = 1000000;
    return rig_open(&c, HELD("*:0-1", "*:1"));
}

static void allows_an_unknown_node_much(void **state) {
    (void)state;
    rig r = regular_rig(100000);
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    assert_in_range(late_after(&r, 0), 100000, 150000);
    rig_close(&r);
}

static void expects_a_regular_node_to_stay_so(void **state) {
    (void)state;
    rig r = regular_rig(100000);
    for (uint32_t i = 0; i < 3000; i++)
        one_call(&r, 0, 900 + i % 200);
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    assert_int_equal(late_after(&r, 0), 5000); /* the least there is */
    rig_close(&r);
}

/* Every hundredth answer is held up for a while: that is no reason to ask
 * twice. */
static void gets_used_to_irregular_answers(void **state) {
    (void)state;
    rig r = regular_rig(100000);
    for (uint32_t i = 0; i < 4000; i++)
        one_call(&r, 0, i % 100 == 50 ? 30000 : 1000);
    assert_int_equal(rig_totals(&r).hedges, 0);
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    assert_in_range(late_after(&r, 0), 56000, 80000);
    rig_close(&r);
}

static void forgets_irregularity_that_is_over(void **state) {
    (void)state;
    rig r = regular_rig(100000);
    for (uint32_t i = 0; i < 1000; i++)
        one_call(&r, 0, i % 20 == 10 ? 60000 : 1000);
    for (uint32_t i = 0; i < 8000; i++)
        one_call(&r, 0, 1000);
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    assert_true(late_after(&r, 0) < 10000);
    rig_close(&r);
}

static void allows_long_work_more_time(void **state) {
    (void)state;
    rig r = regular_rig(0);
    for (uint32_t i = 0; i < 300; i++)
        one_call(&r, 0, 20000);
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    assert_in_range(late_after(&r, 0), 75000, 85000);
    rig_close(&r);
}

static void is_late_within_half_its_patience_at_the_latest(void **state) {
    (void)state;
    rig r = regular_rig(0);
    for (uint32_t i = 0; i < 100; i++)
        one_call(&r, 0, 400000);
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    assert_int_equal(late_after(&r, 0), 500000);
    assert_int_equal(rig_node(&r, 0).late_us, 500000);
    rig_close(&r);
}

/* ---- the budget ---- */

static rig frugal_rig(void) {
    dispatch_config c = rig_config();
    c.hedge_percent = 5;
    c.patience_us = 2000000;
    return rig_open(&c, HELD("*:*", "*:*"));
}

/* A layer whose first answer never comes; how long it took. */
static uint64_t lose_one(rig *r) {
    uint64_t begun = r->now;
    rig_begin_same(r, 1, 1);
    assert_int_equal(rig_next(r), DISPATCH_SEND);
    uint32_t first = r->a.node;
    assert_int_equal(rig_pass_time(r), DISPATCH_SEND);
    uint64_t took = r->now - begun;
    rig_rows(r, r->a.node, r->a.request_id);
    rig_expect(r, DISPATCH_DONE);
    dispatch_node_up(r->d, first); /* so that it is trusted again */
    return took;
}

static void hedges_no_more_than_its_share_of_calls(void **state) {
    (void)state;
    rig r = frugal_rig();
    uint32_t second = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        uint64_t took = lose_one(&r);
        if (took == RIG_HEDGE_US) continue;
        assert_int_equal(took, 200000); /* late for much longer */
        second++;
    }
    dispatch_stats s = rig_totals(&r);
    assert_int_equal(s.calls, 4000);
    assert_int_equal(s.hedges + s.retries, 2000);
    assert_int_equal(s.retries, second);
    assert_true(s.hedges <= 32 + s.calls / 20);
    assert_true(s.hedges >= s.calls / 25);
    assert_int_equal(s.hedge_wins, s.hedges);
    rig_close(&r);
}

static void has_enough_saved_up_for_a_lost_node(void **state) {
    (void)state;
    rig r = frugal_rig();
    for (uint32_t i = 0; i < 30; i++)
        assert_int_equal(lose_one(&r), RIG_HEDGE_US);
    rig_close(&r);
}

static void saves_up_while_all_goes_well(void **state) {
    (void)state;
    rig r = frugal_rig();
    while (lose_one(&r) == RIG_HEDGE_US)
        continue;
    for (uint32_t i = 0; i < 60; i++)
        one_call(&r, 1, 300);
    assert_int_equal(lose_one(&r), RIG_HEDGE_US);
    rig_close(&r);
}

static void does_not_count_a_retry_as_a_hedge(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    rig_begin_same(&r, 1, 2);
    rig_send(&r, 0, 2);
    dispatch_node_down(r.d, r.now, 0);
    rig_rows(&r, 1, rig_send(&r, 1, 2));
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).hedges, 0);
    assert_int_equal(rig_totals(&r).retries, 1);
    assert_int_equal(rig_totals(&r).calls, 2);
    rig_close(&r);
}

/* ---- broken connections ---- */

static void asks_a_replica_at_once_when_a_connection_breaks(void **state) {
    (void)state;
    rig r = frugal_rig();
    rig_begin_same(&r, 1, 6);
    rig_send(&r, 0, 4);
    rig_send(&r, 0, 2);
    dispatch_node_broken(r.d, r.now, 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    assert_true(rig_node(&r, 0).suspect);
    uint64_t a = rig_send(&r, 1, 4);
    assert_true(r.a.takeover);
    uint64_t b = rig_send(&r, 1, 2);
    rig_rows(&r, 1, a);
    rig_rows(&r, 1, b);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).broken, 1);
    assert_int_equal(rig_totals(&r).retries, 2);
    assert_int_equal(rig_totals(&r).hedges, 0);
    rig_close(&r);
}

static void tries_a_broken_connection_again_soon(void **state) {
    (void)state;
    rig r = frugal_rig();
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    dispatch_node_broken(r.d, r.now, 0);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(one_call(&r, 1, 300), 1);
    r.now += 150000;
    rig_begin_same(&r, 1, 1);
    uint64_t trial = rig_send(&r, 0, 1); /* a copy */
    uint64_t real = rig_send(&r, 1, 1);
    rig_rows(&r, 0, trial);
    assert_false(rig_node(&r, 0).suspect);
    rig_rows(&r, 1, real);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void still_asks_the_only_holder_whose_connection_broke(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    dispatch_node_broken(r.d, r.now, 0);
    dispatch_send_failed(r.d, r.now, rig_send(&r, 0, 1)); /* not yet again */
    assert_int_equal(rig_pass_time(&r), DISPATCH_SEND);
    rig_rows(&r, 0, r.a.request_id);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).lost_pairs, 0);
    rig_close(&r);
}

/* ---- trials ---- */

static void waits_for_nobody_on_trial(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);

    r.now += 600000; /* it has not come back */
    rig_begin_same(&r, 1, 2);
    rig_send(&r, 0, 2);
    uint64_t id = rig_send(&r, 1, 2);
    assert_false(r.a.takeover);
    r.now += 300;
    rig_rows(&r, 1, id);
    rig_expect(&r, DISPATCH_DONE);
    dispatch_stats s = rig_totals(&r);
    assert_int_equal(s.trials, 1);
    assert_int_equal(s.hedges, 1); /* of the first layer */
    assert_int_equal(s.takeover_pairs, 1);

    r.now += 400000;
    assert_int_equal(one_call(&r, 1, 300), 1);
    r.now += 200000;
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    r.now += 900000; /* twice as long until the next one */
    assert_int_equal(one_call(&r, 1, 300), 1);
    rig_close(&r);
}

static void tries_a_node_with_few_pairs_of_many(void **state) {
    (void)state;
    dispatch_config c = rig_config();
    c.credit_bytes = 1000 * RIG_ROW;
    c.piece_bytes = 40 * RIG_ROW;
    rig r = rig_open(&c, HELD("*:*", "*:*"));
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    r.now += 600000;
    rig_begin_same(&r, 1, 40);
    rig_send(&r, 0, 16);
    rig_send(&r, 1, 40);
    rig_close(&r);
}

static void computes_here_what_it_asks_on_trial(void **state) {
    (void)state;
    rig r = rig_local(HELD("*:*"));
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_expect(&r, DISPATCH_LOCAL);
    dispatch_local_done(r.d, r.now, r.a.pairs, 1, true);
    rig_expect(&r, DISPATCH_DONE);
    r.now += 600000;
    rig_begin_same(&r, 1, 1);
    uint64_t trial = rig_send(&r, 0, 1);
    rig_expect(&r, DISPATCH_LOCAL);
    dispatch_local_done(r.d, r.now, r.a.pairs, 1, true);
    rig_expect(&r, DISPATCH_DONE);
    rig_rows(&r, 0, trial);
    assert_false(rig_node(&r, 0).suspect);
    rig_close(&r);
}

/* ---- slow nodes ---- */

/* Layers of 4 experts that both nodes hold; node 1 takes so long for each. */
static void run_pair(rig *r, uint32_t layers, uint64_t slow_us) {
    static const uint32_t four[] = {1, 2, 3, 4};
    for (uint32_t i = 0; i < layers; i++) {
        uint64_t ids[8], due[8];
        uint32_t nodes[8], n = 0;
        rig_begin(r, four, 4);
        while (rig_next(r) == DISPATCH_SEND) {
            assert_in_range(n, 0, 7);
            nodes[n] = r->a.node;
            due[n] = r->now + (nodes[n] == 1 ? slow_us : 300) * r->a.n_pairs;
            ids[n++] = r->a.request_id;
        }
        while (n > 0) {
            uint32_t first = 0;
            for (uint32_t j = 1; j < n; j++)
                if (due[j] < due[first]) first = j;
            if (due[first] > r->now) r->now = due[first];
            rig_rows(r, nodes[first], ids[first]);
            n--;
            nodes[first] = nodes[n];
            due[first] = due[n];
            ids[first] = ids[n];
        }
        rig_expect(r, DISPATCH_DONE);
        r->now += 2000;
    }
}

static rig patient_rig(void) {
    dispatch_config c = rig_config();
    c.hedge_min_us = 300000;
    c.patience_us = 1000000;
    return rig_open(&c, HELD("*:*", "*:*", "*:5"));
}

static void marks_a_node_that_is_slow_for_a_while(void **state) {
    (void)state;
    rig r = patient_rig();
    run_pair(&r, 100, 300);
    assert_true(rig_node(&r, 1).slow_us == 0);
    run_pair(&r, 3000, 5000);
    assert_true(rig_node(&r, 1).slow_us != 0);
    assert_true(rig_node(&r, 1).slow_us < r.now);
    assert_false(rig_node(&r, 1).suspect);
    assert_true(rig_node(&r, 0).slow_us == 0);

    /* From then on it is asked on trial alone. */
    uint64_t before = rig_totals(&r).trials, pairs = rig_node(&r, 1).pairs;
    run_pair(&r, 300, 5000);
    uint64_t trials = rig_totals(&r).trials - before;
    assert_in_range(trials, 1, 4); /* one in half a second */
    assert_true(rig_node(&r, 1).pairs - pairs <= trials);
    rig_close(&r);
}

static void does_not_mark_a_node_for_a_short_while(void **state) {
    (void)state;
    rig r = patient_rig();
    run_pair(&r, 300, 300);
    run_pair(&r, 60, 5000); /* some 0.3 s */
    run_pair(&r, 300, 300);
    assert_true(rig_node(&r, 1).slow_us == 0);
    rig_close(&r);
}

static void takes_a_slow_node_back_that_is_fast_again(void **state) {
    (void)state;
    rig r = patient_rig();
    run_pair(&r, 100, 300);
    run_pair(&r, 3000, 5000);
    assert_true(rig_node(&r, 1).slow_us != 0);
    uint64_t begun = r.now, before = rig_node(&r, 1).pairs;
    run_pair(&r, 1000, 300);
    assert_true(rig_node(&r, 1).slow_us == 0);
    assert_true(rig_node(&r, 1).pairs - before > 800); /* of 4000 */
    assert_true(r.now - begun < 5000000);
    rig_close(&r);
}

static void compares_a_node_with_others_alone(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    for (uint32_t i = 0; i < 100; i++)
        one_call(&r, 1, 300);
    for (uint32_t i = 0; i < 1000; i++)
        one_call(&r, 1, 5000);
    assert_true(rig_node(&r, 0).slow_us == 0);
    rig_close(&r);
}

/* ---- trust ---- */

static void asks_a_node_in_quarantine_for_what_only_it_holds(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:0-1", "*:0"));
    dispatch_node_trust(r.d, 0, NODE_LAST);
    assert_int_equal(one_call(&r, 0, 300), 1);
    assert_int_equal(one_call(&r, 1, 300), 0);
    dispatch_node_trust(r.d, 0, NODE_TRUSTED);
    r.now += 5000000;
    assert_int_equal(one_call(&r, 0, 300), 0);
    rig_close(&r);
}

static void prefers_quarantine_to_a_node_that_is_late(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    dispatch_node_trust(r.d, 0, NODE_LAST);
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 1, 1);
    rig_sleep(&r);
    rig_rows(&r, 0, rig_send(&r, 0, 1));
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(one_call(&r, 1, 300), 0);
    rig_close(&r);
}

static void asks_a_wrong_node_last_of_all(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    dispatch_node_trust(r.d, 0, NODE_WRONG);
    rig_begin_same(&r, 1, 1);
    dispatch_refused(r.d, r.now, 1, rig_send(&r, 1, 1), ERR_NOT_HERE);
    rig_rows(&r, 0, rig_send(&r, 0, 1)); /* nobody else will */
    rig_expect(&r, DISPATCH_DONE);
    /* Who is late, or refused before, is preferred all the same. */
    assert_int_equal(one_call(&r, 1, 300), 1);
    rig_close(&r);
}

static void computes_here_before_it_asks_in_quarantine(void **state) {
    (void)state;
    rig r = rig_local(HELD("*:*"));
    dispatch_node_trust(r.d, 0, NODE_LAST);
    rig_begin_same(&r, 1, 1);
    rig_expect(&r, DISPATCH_LOCAL);
    rig_close(&r);
}

static void trusts_who_takes_anothers_place(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    dispatch_node_trust(r.d, 0, NODE_WRONG);
    dispatch_node_down(r.d, r.now, 0);
    dispatch_node_replaced(r.d, 0, 9);
    dispatch_node_up(r.d, 0);
    assert_int_equal(one_call(&r, 1, 300), 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allows_an_unknown_node_much),
        cmocka_unit_test(expects_a_regular_node_to_stay_so),
        cmocka_unit_test(gets_used_to_irregular_answers),
        cmocka_unit_test(forgets_irregularity_that_is_over),
        cmocka_unit_test(allows_long_work_more_time),
        cmocka_unit_test(is_late_within_half_its_patience_at_the_latest),
        cmocka_unit_test(hedges_no_more_than_its_share_of_calls),
        cmocka_unit_test(has_enough_saved_up_for_a_lost_node),
        cmocka_unit_test(saves_up_while_all_goes_well),
        cmocka_unit_test(does_not_count_a_retry_as_a_hedge),
        cmocka_unit_test(asks_a_replica_at_once_when_a_connection_breaks),
        cmocka_unit_test(tries_a_broken_connection_again_soon),
        cmocka_unit_test(still_asks_the_only_holder_whose_connection_broke),
        cmocka_unit_test(waits_for_nobody_on_trial),
        cmocka_unit_test(tries_a_node_with_few_pairs_of_many),
        cmocka_unit_test(computes_here_what_it_asks_on_trial),
        cmocka_unit_test(marks_a_node_that_is_slow_for_a_while),
        cmocka_unit_test(does_not_mark_a_node_for_a_short_while),
        cmocka_unit_test(takes_a_slow_node_back_that_is_fast_again),
        cmocka_unit_test(compares_a_node_with_others_alone),
        cmocka_unit_test(asks_a_node_in_quarantine_for_what_only_it_holds),
        cmocka_unit_test(prefers_quarantine_to_a_node_that_is_late),
        cmocka_unit_test(asks_a_wrong_node_last_of_all),
        cmocka_unit_test(computes_here_before_it_asks_in_quarantine),
        cmocka_unit_test(trusts_who_takes_anothers_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
