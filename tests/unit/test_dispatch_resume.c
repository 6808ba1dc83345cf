/* test_dispatch_resume.c - what was given up comes back, while the node is
 * still at work for it: it is waited for, not asked for again. */
#include "tests/unit/dispatch_rig.h"

/* Rows of one pair each, of expert 1, with these keys. */
static void begin_rows(rig *r, const uint64_t *keys, uint32_t n) {
    rig_begin_same(r, 1, n);
    if (dispatch_has_kept(r->d, 0)) dispatch_resume(r->d, r->now, keys);
}

/* Wait until it is given up; the node shows no sign of work, and is asked once
 * more on the way, or twice. */
static void give_up(rig *r, const uint64_t *keys) {
    while (rig_next(r) != DISPATCH_DONE) {
        if (r->a.kind == DISPATCH_WAIT) r->now = r->a.wake_us;
    }
    assert_true(dispatch_row_lost(r->d, 0));
    assert_true(dispatch_owes(r->d));
    dispatch_keep(r->d, keys);
}

static void waits_for_what_is_under_way(void **state) {
    const uint64_t keys[] = {7, 8};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    begin_rows(&r, keys, 2);
    uint64_t id = rig_send(&r, 0, 2);
    give_up(&r, keys);
    assert_true(dispatch_is_kept(r.d, id));
    uint64_t calls = rig_totals(&r).calls, owed = 2 * RIG_ROW * calls;
    assert_in_range(calls, 1, 3);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, owed);

    r.now += 20000;
    begin_rows(&r, keys, 2);
    assert_false(dispatch_is_kept(r.d, id));
    rig_expect(&r, DISPATCH_WAIT);
    assert_int_equal(rig_totals(&r).calls, calls);
    assert_int_equal(rig_totals(&r).resumed_pairs, 2 * calls);
    assert_int_equal(rig_rows(&r, 0, id), 2);
    rig_expect(&r, DISPATCH_DONE);
    assert_false(dispatch_row_lost(r.d, 0));
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, owed - 2 * RIG_ROW);
    rig_close(&r);
}

/* Ends a layer whose request is in flight, and keeps what it is for. */
static uint64_t leave_behind(rig *r, const uint64_t *keys, uint32_t n) {
    begin_rows(r, keys, n);
    uint64_t id = rig_send(r, 0, n);
    assert_true(dispatch_owes(r->d));
    dispatch_keep(r->d, keys);
    rig_begin_same(r, 1, 0);
    rig_expect(r, DISPATCH_DONE);
    assert_false(dispatch_owes(r->d));
    return id;
}

static void asks_for_what_is_new_beside_it(void **state) {
    const uint64_t keys[] = {7, 8, 9}, later[] = {5, 9, 6, 7};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t old = leave_behind(&r, keys, 3);
    begin_rows(&r, later, 4);
    uint64_t new = rig_send(&r, 0, 2);
    assert_int_equal(r.a.pairs[0], 0);
    assert_int_equal(r.a.pairs[1], 2);
    rig_expect(&r, DISPATCH_WAIT);

    const uint32_t *pairs;
    uint32_t n;
    assert_int_equal(dispatch_rows(r.d, r.now, 0, old, &pairs, &n, r.take), 0);
    assert_int_equal(n, 3);
    assert_int_equal(pairs[0], 3);
    assert_int_equal(pairs[1], DISPATCH_NO_PAIR);
    assert_int_equal(pairs[2], 1);
    assert_true(r.take[0] && !r.take[1] && r.take[2]);
    assert_int_equal(rig_rows(&r, 0, new), 2);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void takes_a_row_up_once(void **state) {
    const uint64_t keys[] = {7}, twice[] = {7, 7};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t old = leave_behind(&r, keys, 1);
    begin_rows(&r, twice, 2);
    uint64_t new = rig_send(&r, 0, 1);
    assert_int_equal(rig_rows(&r, 0, old), 1);
    assert_int_equal(rig_rows(&r, 0, new), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void another_layer_or_row_takes_nothing_up(void **state) {
    const uint64_t keys[] = {7}, other[] = {8};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t old = leave_behind(&r, keys, 1);
    assert_false(dispatch_has_kept(r.d, 1));
    begin_rows(&r, other, 1);
    assert_true(dispatch_is_kept(r.d, old));
    uint64_t new = rig_send(&r, 0, 1);
    assert_int_equal(rig_rows(&r, 0, old), 0);
    assert_int_equal(rig_rows(&r, 0, new), 1);
    rig_expect(&r, DISPATCH_DONE);
    assert_false(dispatch_has_kept(r.d, 0));
    rig_close(&r);
}

static void asks_anew_when_the_node_lost_it(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*", "*:2"));
    (void)state;

    (void)leave_behind(&r, keys, 1);
    begin_rows(&r, keys, 1);
    rig_expect(&r, DISPATCH_WAIT);
    dispatch_node_down(r.d, r.now, 0);
    dispatch_node_up(r.d, 0);
    uint64_t again = rig_send(&r, 0, 1);
    assert_int_equal(rig_rows(&r, 0, again), 1);
    rig_expect(&r, DISPATCH_DONE);

    uint64_t old = leave_behind(&r, keys, 1);
    begin_rows(&r, keys, 1);
    dispatch_refused(r.d, r.now, 0, old, ERR_OVERLOADED);
    assert_int_equal(rig_pass_time(&r), DISPATCH_SEND);
    rig_close(&r);
}

static void asks_a_replica_when_it_is_late_again(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    (void)leave_behind(&r, keys, 1);
    begin_rows(&r, keys, 1);
    rig_sleep(&r);
    uint64_t second = rig_send(&r, 1, 1);
    assert_int_equal(rig_rows(&r, 1, second), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

/* A node that takes three times our patience for each piece of work, without a
 * sign meanwhile, serves all the same. */
static void a_node_slower_than_our_patience_is_heard(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*"));
    uint64_t id = 0, done_us = 0;
    (void)state;

    for (int tries = 0; tries < 8; tries++) {
        begin_rows(&r, keys, 1);
        for (;;) {
            if (rig_next(&r) == DISPATCH_DONE) break;
            if (r.a.kind == DISPATCH_SEND && id == 0) {
                id = r.a.request_id;
                done_us = r.now + 3 * RIG_PATIENCE_US;
            }
            if (r.a.kind != DISPATCH_WAIT) continue;
            r.now = r.a.wake_us;
            if (r.now >= done_us) rig_rows(&r, 0, id);
        }
        if (!dispatch_row_lost(r.d, 0)) {
            assert_in_range(rig_totals(&r).calls, 1, 5);
            rig_close(&r);
            return;
        }
        if (dispatch_owes(r.d)) dispatch_keep(r.d, keys);
        r.now += 20000;
    }
    fail_msg("it was never heard");
}

/* It was lost on the way, and the connection did not break: nobody computes
 * what is taken up again and again. */
static void asks_again_for_what_was_lost_on_the_way(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    begin_rows(&r, keys, 1);
    (void)rig_send(&r, 0, 1);
    give_up(&r, keys);
    uint64_t calls = rig_totals(&r).calls;
    for (int tries = 0; tries < 4; tries++) {
        r.now += 20000;
        begin_rows(&r, keys, 1);
        if (rig_pass_time(&r) == DISPATCH_SEND) {
            assert_int_equal(rig_totals(&r).calls, calls + 1);
            assert_int_equal(rig_rows(&r, 0, r.a.request_id), 1);
            rig_expect(&r, DISPATCH_DONE);
            rig_close(&r);
            return;
        }
        dispatch_keep(r.d, keys);
    }
    fail_msg("it was never asked again");
}

/* So much was lost that the node has no credit left: it is not owed for ever.
 */
static void credit_of_lost_work_returns(void **state) {
    uint64_t keys[RIG_CREDIT];
    rig r = rig_of(HELD("*:*"));
    (void)state;

    for (uint32_t i = 0; i < RIG_CREDIT; i++)
        keys[i] = i + 1;
    begin_rows(&r, keys, RIG_CREDIT);
    give_up(&r, keys);
    for (int tries = 0; tries < 20; tries++) {
        r.now += 20000;
        begin_rows(&r, keys, RIG_CREDIT);
        if (rig_pass_time(&r) == DISPATCH_SEND) {
            rig_close(&r);
            return;
        }
        dispatch_keep(r.d, keys);
    }
    fail_msg("it was never asked again");
}

static uint64_t kept_answer(rig *r, const uint64_t *keys, uint32_t n) {
    uint64_t id = leave_behind(r, keys, n);
    r->now += 2000;
    assert_true(dispatch_hold(r->d, r->now, 0, id));
    return id;
}

static void an_answer_that_is_kept_is_used_once(void **state) {
    const uint64_t keys[] = {7, 8};
    uint32_t layer, n;
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t id = kept_answer(&r, keys, 2);
    assert_int_equal(dispatch_expected(r.d, 0, id, &layer, &n), ERR_NOT_HERE);
    assert_false(dispatch_hold(r.d, r.now, 0, id));
    assert_false(dispatch_hold(r.d, r.now, 1, id));
    begin_rows(&r, keys, 2);
    assert_int_equal(rig_rows(&r, 0, id), 2);
    assert_int_equal(rig_rows(&r, 0, id), 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    assert_int_equal(rig_node(&r, 0).pairs, 2);
    rig_close(&r);
}

/* The time that it waits here is none of the node's. */
static void a_kept_answer_speaks_of_its_node_at_once(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t id = kept_answer(&r, keys, 1);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    assert_in_range(rig_node(&r, 0).latency_us, 1, 2000);
    r.now += 1000000;
    begin_rows(&r, keys, 1);
    assert_int_equal(rig_rows(&r, 0, id), 1);
    assert_in_range(rig_node(&r, 0).latency_us, 1, 2000);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void other_layers_do_not_make_a_kept_answer_forgotten(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t id = kept_answer(&r, keys, 1);
    for (int i = 0; i < 40; i++) {
        rig_begin_same(&r, 2, 1);
        assert_int_equal(rig_rows(&r, 0, rig_send(&r, 0, 1)), 1);
        rig_expect(&r, DISPATCH_DONE);
    }
    begin_rows(&r, keys, 1);
    assert_int_equal(rig_rows(&r, 0, id), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void a_node_whose_answers_are_wrong_is_not_waited_for(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    uint64_t old = kept_answer(&r, keys, 1);
    dispatch_node_trust(r.d, 0, NODE_WRONG);
    begin_rows(&r, keys, 1);
    uint64_t new = rig_send(&r, 1, 1);
    assert_int_equal(rig_rows(&r, 0, old), 0);
    assert_int_equal(rig_rows(&r, 1, new), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void a_row_without_a_key_takes_nothing_up(void **state) {
    const uint64_t none[] = {0}, keys[] = {7, 0}, later[] = {0, 7};
    rig r = rig_of(HELD("*:*"));
    (void)state;

    (void)leave_behind(&r, none, 1);
    assert_false(dispatch_has_kept(r.d, 0));
    uint64_t old = leave_behind(&r, keys, 2);
    begin_rows(&r, later, 2);
    uint64_t new = rig_send(&r, 0, 1);
    assert_int_equal(r.a.pairs[0], 0);
    assert_int_equal(rig_rows(&r, 0, old), 1);
    assert_int_equal(rig_rows(&r, 0, new), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void what_the_placement_has_no_more_is_not_taken_up(void **state) {
    const uint64_t keys[] = {7};
    rig r = rig_of(HELD("*:*"));
    placement *small;
    (void)state;

    rig_begin_same(&r, RIG_EXPERTS - 1, 1);
    uint64_t old = rig_send(&r, 0, 1);
    dispatch_keep(r.d, keys);
    rig_begin_same(&r, 1, 0);
    rig_expect(&r, DISPATCH_DONE);

    const placement_shape shape = {
        .epoch = 2, .n_layers = RIG_LAYERS, .n_experts = 2};
    holdings set;
    assert_int_equal(holdings_init(&set, RIG_LAYERS, 2), 0);
    assert_int_equal(holdings_add_spec(&set, "*:*", NULL, 0), 0);
    const holdings *held[] = {&set};
    assert_int_equal(placement_new(&small, &shape, held, 1), 0);
    placement_unref(r.where);
    r.where = small;
    begin_rows(&r, keys, 1);
    uint64_t new = rig_send(&r, 0, 1);
    assert_int_equal(rig_rows(&r, 0, old), 0);
    assert_int_equal(rig_rows(&r, 0, new), 1);
    rig_expect(&r, DISPATCH_DONE);
    holdings_fini(&set);
    rig_close(&r);
}

static void has_patience_anew_after_a_pause_of_its_own(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    uint64_t id = rig_send(&r, 0, 1);
    r.now += 2 * RIG_PATIENCE_US; /* nobody read what the node said */
    dispatch_paused(r.d, r.now);
    rig_next(&r);
    assert_int_equal(rig_totals(&r).lost_pairs, 0);
    r.now += RIG_PATIENCE_US - 1;
    rig_next(&r);
    assert_int_equal(rig_totals(&r).lost_pairs, 0);
    assert_int_equal(rig_rows(&r, 0, id), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_for_what_is_under_way),
        cmocka_unit_test(asks_for_what_is_new_beside_it),
        cmocka_unit_test(takes_a_row_up_once),
        cmocka_unit_test(another_layer_or_row_takes_nothing_up),
        cmocka_unit_test(asks_anew_when_the_node_lost_it),
        cmocka_unit_test(asks_a_replica_when_it_is_late_again),
        cmocka_unit_test(a_node_slower_than_our_patience_is_heard),
        cmocka_unit_test(asks_again_for_what_was_lost_on_the_way),
        cmocka_unit_test(credit_of_lost_work_returns),
        cmocka_unit_test(an_answer_that_is_kept_is_used_once),
        cmocka_unit_test(a_kept_answer_speaks_of_its_node_at_once),
        cmocka_unit_test(other_layers_do_not_make_a_kept_answer_forgotten),
        cmocka_unit_test(a_node_whose_answers_are_wrong_is_not_waited_for),
        cmocka_unit_test(a_row_without_a_key_takes_nothing_up),
        cmocka_unit_test(what_the_placement_has_no_more_is_not_taken_up),
        cmocka_unit_test(has_patience_anew_after_a_pause_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
