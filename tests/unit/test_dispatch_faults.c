/* test_dispatch_faults.c - what dispatch does when an answer does not come:
 * late nodes, replicas, the coordinator's own file, and giving up. */
#include "tests/unit/dispatch_rig.h"

/* ---- late ---- */

static void asks_a_replica_when_an_answer_is_late(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 3);
    rig_send(&r, 0, 3);
    rig_sleep(&r);
    uint64_t second = rig_send(&r, 1, 3);
    assert_true(r.a.takeover);
    assert_true(rig_node(&r, 0).suspect);
    assert_int_equal(rig_totals(&r).hedges, 1);
    assert_int_equal(rig_rows(&r, 1, second), 3);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).takeover_pairs, 3);
    assert_int_equal(rig_totals(&r).takeover_local, 0);
    rig_close(&r);
}

static void is_never_late_before_the_least_time(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    r.now += RIG_HEDGE_US - 1;
    rig_expect(&r, DISPATCH_WAIT);
    assert_false(rig_node(&r, 0).suspect);
    rig_close(&r);
}

static void gives_a_slow_node_more_time(void **state) {
    dispatch_config c = rig_config();
    c.hedge_factor = 4;
    rig r = rig_open(&c, HELD("*:*", "*:1"));
    (void)state;

    /* Node 0 alone holds expert 0, and needs 8 ms for it. */
    for (int i = 0; i < 50; i++) {
        rig_begin_same(&r, 0, 1);
        uint64_t id = rig_send(&r, 0, 1);
        r.now += 8000;
        rig_rows(&r, 0, id);
        rig_expect(&r, DISPATCH_DONE);
    }
    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    r.now += 25000;
    rig_expect(&r, DISPATCH_WAIT);
    assert_false(rig_node(&r, 0).suspect);
    r.now += 25000;
    rig_expect(&r, DISPATCH_WAIT);
    assert_true(rig_node(&r, 0).suspect);
    rig_close(&r);
}

static void takes_the_first_answer_whoever_it_is_from(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    uint64_t first = rig_send(&r, 0, 2);
    rig_sleep(&r);
    uint64_t second = rig_send(&r, 1, 2);
    assert_int_equal(rig_rows(&r, 0, first), 2);
    assert_int_equal(rig_rows(&r, 1, second), 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).takeover_pairs, 0);
    assert_int_equal(rig_totals(&r).late_rows, 2);
    rig_close(&r);
}

static void does_not_send_what_was_answered_meanwhile(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 4);
    uint64_t first = rig_send(&r, 0, 4);
    r.now += RIG_HEDGE_US;
    /* Late, but the answer is read before the next action is asked for. */
    assert_int_equal(rig_rows(&r, 0, first), 4);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).hedges, 0);
    rig_close(&r);
}

/* A layer of one pair, which this node answers. */
static void serve_one(rig *r, uint32_t node) {
    rig_begin_same(r, 1, 1);
    uint64_t id = rig_send(r, node, 1);
    r->now += 1000;
    dispatch_node_works(r->d, r->now, node);
    assert_int_equal(rig_rows(r, node, id), 1);
    rig_expect(r, DISPATCH_DONE);
}

static void gets_the_credit_back_of_what_was_passed_by(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    rig_send(&r, 0, 2); /* this message is lost */
    rig_begin_same(&r, 1, 1);
    uint64_t slow = rig_send(&r, 0, 1); /* this one is only slow */
    rig_begin_same(&r, 1, 0);           /* nobody waits any more */
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 3 * RIG_ROW);

    for (int i = 0; i < 8; i++) /* so many may overtake a batch */
        serve_one(&r, 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 3 * RIG_ROW);
    assert_int_equal(rig_rows(&r, 0, slow), 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 2 * RIG_ROW);
    for (int i = 0; i < 8; i++)
        serve_one(&r, 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_close(&r);
}

static void counts_one_round_for_what_was_sent_together(void **state) {
    rig r = rig_of(HELD("*:*"));
    uint64_t ids[9];
    (void)state;

    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1); /* waits behind all that follows */
    for (int i = 0; i < 9; i++) {
        rig_begin_same(&r, 1, 1);
        ids[i] = rig_send(&r, 0, 1);
    }
    rig_begin_same(&r, 1, 0);
    rig_expect(&r, DISPATCH_DONE);
    for (int i = 0; i < 9; i++)
        rig_rows(&r, 0, ids[i]);
    for (int i = 0; i < 8; i++)
        serve_one(&r, 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, RIG_ROW);
    rig_close(&r);
}

static void prefers_others_to_a_suspect_node(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    for (int i = 0; i < 5; i++) {
        rig_begin_same(&r, 1, 1);
        rig_rows(&r, 1, rig_send(&r, 1, 1));
        rig_expect(&r, DISPATCH_DONE);
    }
    rig_close(&r);
}

static void trusts_a_node_again_that_answers_late(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    uint64_t late = rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    assert_true(rig_node(&r, 0).suspect);

    assert_int_equal(rig_rows(&r, 0, late), 0);
    assert_false(rig_node(&r, 0).suspect);
    assert_int_equal(rig_totals(&r).late_rows, 1);
    rig_close(&r);
}

static void tries_a_suspect_node_again_after_a_while(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1); /* this message was lost */
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);

    r.now += 10000000;
    rig_begin_same(&r, 1, 1);
    uint64_t trial = rig_send(&r, 0, 1);
    assert_true(rig_node(&r, 0).suspect);
    rig_rows(&r, 0, trial);
    assert_false(rig_node(&r, 0).suspect);
    rig_close(&r);
}

static void asks_a_suspect_node_if_nobody_else_holds_the_expert(void **state) {
    rig r = rig_of(HELD("*:0-1", "*:0"));
    (void)state;

    rig_begin_same(&r, 0, 1);
    rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void computes_here_what_is_late_without_a_replica(void **state) {
    rig r = rig_local(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    rig_send(&r, 0, 2);
    rig_sleep(&r);
    rig_expect(&r, DISPATCH_LOCAL);
    assert_int_equal(r.a.n_pairs, 2);
    assert_true(r.a.takeover);
    dispatch_local_done(r.d, r.now, r.a.pairs, 2, true);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).takeover_pairs, 2);
    assert_int_equal(rig_totals(&r).takeover_local, 2);
    rig_close(&r);
}

static void waits_for_the_node_if_computing_here_fails(void **state) {
    rig r = rig_local(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    uint64_t id = rig_send(&r, 0, 2);
    rig_sleep(&r);
    rig_expect(&r, DISPATCH_LOCAL);
    dispatch_local_done(r.d, r.now, r.a.pairs, 2, false);
    rig_expect(&r, DISPATCH_WAIT);
    assert_int_equal(rig_rows(&r, 0, id), 2);
    rig_expect(&r, DISPATCH_DONE);
    assert_false(dispatch_row_lost(r.d, 0));
    rig_close(&r);
}

static void gives_up_after_its_patience(void **state) {
    rig r = rig_of(HELD("*:0", "*:1"));
    const uint32_t experts[] = {0, 1};
    uint32_t expert;
    (void)state;

    uint64_t start = r.now;
    rig_begin(&r, experts, 2);
    rig_send(&r, 0, 1);
    uint64_t id = rig_send(&r, 1, 1);
    rig_rows(&r, 1, id);
    while (rig_next(&r) != DISPATCH_DONE) {
        if (r.a.kind == DISPATCH_WAIT) r.now = r.a.wake_us;
    }
    assert_int_equal(r.now - start, RIG_PATIENCE_US);
    assert_true(dispatch_row_lost(r.d, 0));
    assert_false(dispatch_row_lost(r.d, 1));
    assert_true(dispatch_lost_expert(r.d, &expert));
    assert_int_equal(expert, 0);
    rig_close(&r);
}

static void waits_for_a_node_that_is_at_work(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t start = r.now;
    rig_begin_same(&r, 1, 2);
    uint64_t id = rig_send(&r, 0, 2);
    while (r.now < start + 10 * RIG_PATIENCE_US) {
        dispatch_node_works(r.d, r.now, 0);
        rig_expect(&r, DISPATCH_WAIT); /* neither asked again nor given up */
        r.now += RIG_PATIENCE_US * 3 / 10;
    }
    assert_int_equal(rig_rows(&r, 0, id), 2);
    rig_expect(&r, DISPATCH_DONE);
    assert_false(dispatch_row_lost(r.d, 0));
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_close(&r);
}

static void gives_up_a_node_that_stopped_working(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    rig_send(&r, 0, 2);
    r.now += 3 * RIG_PATIENCE_US;
    dispatch_node_works(r.d, r.now, 0);
    uint64_t last = r.now;
    while (rig_next(&r) != DISPATCH_DONE) {
        if (r.a.kind == DISPATCH_WAIT) r.now = r.a.wake_us;
    }
    assert_int_equal(r.now - last, RIG_PATIENCE_US);
    assert_true(dispatch_row_lost(r.d, 0));
    rig_close(&r);
}

static void asks_the_only_holder_again_when_a_message_was_lost(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t start = r.now;
    rig_begin_same(&r, 1, 2);
    uint64_t lost = rig_send(&r, 0, 2);
    assert_int_equal(rig_pass_time(&r), DISPATCH_SEND);
    assert_true(r.now - start <= RIG_PATIENCE_US / 2);
    uint64_t again = r.a.request_id;
    assert_int_not_equal(again, lost);
    assert_int_equal(rig_rows(&r, 0, again), 2);
    assert_int_equal(rig_rows(&r, 0, lost), 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_close(&r);
}

static void gives_up_what_waits_for_credit_of_a_dead_node(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t start = r.now;
    rig_begin_same(&r, 1, 40);
    while (rig_next(&r) != DISPATCH_DONE) {
        if (r.a.kind == DISPATCH_WAIT) r.now = r.a.wake_us;
    }
    assert_true(r.now - start <= RIG_PATIENCE_US);
    assert_int_equal(rig_totals(&r).lost_pairs, 40);
    rig_close(&r);
}

static void moves_what_waits_for_credit_of_a_late_node(void **state) {
    rig r = rig_of(HELD("*:*", "*:1"));
    const uint32_t experts[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    (void)state;

    rig_begin(&r, experts, 14);
    rig_send(&r, 0, 4);
    rig_send(&r, 0, 4);
    uint32_t answered = 0;
    while (rig_next(&r) != DISPATCH_DONE) {
        if (r.a.kind == DISPATCH_WAIT) r.now = r.a.wake_us;
        if (r.a.kind != DISPATCH_SEND) continue;
        assert_int_equal(r.a.node, 1);
        answered += rig_rows(&r, 1, r.a.request_id);
    }
    assert_int_equal(answered, 14);
    rig_close(&r);
}

/* ---- earlier layers ---- */

static void counts_an_earlier_layers_request_against_the_credit(void **state) {
    rig r = rig_of(HELD("*:0-1", "*:0"));
    (void)state;

    rig_begin_same(&r, 0, 8);
    uint64_t a = rig_send(&r, 0, 4);
    uint64_t b = rig_send(&r, 0, 4);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 4));
    rig_rows(&r, 1, rig_send(&r, 1, 4));
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 8 * RIG_ROW);

    /* Only node 0 holds expert 1, and has credit for two rows. */
    rig_begin_same(&r, 1, 4);
    rig_expect(&r, DISPATCH_WAIT);
    uint32_t layer, n;
    assert_int_equal(dispatch_expected(r.d, 0, a, &layer, &n), 0);
    assert_int_equal(n, 4);
    assert_int_equal(rig_rows(&r, 0, a), 0);
    uint64_t id = rig_send(&r, 0, 4);
    dispatch_refused(r.d, r.now, 0, b, ERR_DEADLINE);
    assert_int_equal(rig_rows(&r, 0, id), 4);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_close(&r);
}

static void lets_a_layer_be_left_unfinished(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 0, 6);
    uint64_t a = rig_send(&r, 0, 4);
    uint64_t b = rig_send(&r, 0, 2);
    rig_begin(&r, NULL, 0);
    rig_expect(&r, DISPATCH_DONE);
    placement_unref(r.where);
    r.where = NULL;
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 6 * RIG_ROW);
    assert_int_equal(rig_rows(&r, 0, a), 0);
    dispatch_refused(r.d, r.now, 0, b, ERR_INTERNAL);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_close(&r);
}

static void forgets_a_request_that_is_long_over(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 0, 4);
    uint64_t lost = rig_send(&r, 0, 4);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 4));
    rig_expect(&r, DISPATCH_DONE);
    r.now += 2 * RIG_PATIENCE_US;
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    uint32_t layer, n;
    assert_int_equal(dispatch_expected(r.d, 0, lost, &layer, &n), ERR_NOT_HERE);
    rig_close(&r);
}

static void passes_over_a_node_whose_credit_is_lost(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 0, 9);
    rig_send(&r, 0, 4);
    rig_send(&r, 0, 4);
    uint64_t last = rig_send(&r, 0, 1);
    rig_sleep(&r);
    while (rig_next(&r) != DISPATCH_DONE) {
        assert_int_equal(r.a.kind, DISPATCH_SEND);
        rig_rows(&r, 1, r.a.request_id);
    }
    rig_rows(&r, 0, last);
    assert_false(rig_node(&r, 0).suspect);
    /* Trusted, but 8 of 10 rows will never come. */
    rig_begin_same(&r, 0, 4);
    rig_rows(&r, 1, rig_send(&r, 1, 4));
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void survives_a_table_full_of_stale_requests(void **state) {
    dispatch_config c = rig_config();
    c.credit_bytes = 1000000;
    c.piece_bytes = RIG_ROW;
    rig r = rig_open(&c, HELD("*:0", "*:1"));
    (void)state;

    /* Node 0 never answers; each layer leaves requests behind. */
    for (int layer = 0; layer < 10; layer++) {
        uint32_t sent = 0;
        rig_begin_same(&r, 0, RIG_PAIRS);
        while (rig_pass_time(&r) == DISPATCH_SEND)
            sent++;
        assert_int_equal(r.a.kind, DISPATCH_DONE);
        assert_true(sent >= RIG_PAIRS);
    }
    rig_begin_same(&r, 1, 1);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    /* The credit of what was dropped came back with it. */
    dispatch_node_down(r.d, r.now, 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_a_replica_when_an_answer_is_late),
        cmocka_unit_test(is_never_late_before_the_least_time),
        cmocka_unit_test(gives_a_slow_node_more_time),
        cmocka_unit_test(takes_the_first_answer_whoever_it_is_from),
        cmocka_unit_test(does_not_send_what_was_answered_meanwhile),
        cmocka_unit_test(gets_the_credit_back_of_what_was_passed_by),
        cmocka_unit_test(counts_one_round_for_what_was_sent_together),
        cmocka_unit_test(prefers_others_to_a_suspect_node),
        cmocka_unit_test(trusts_a_node_again_that_answers_late),
        cmocka_unit_test(tries_a_suspect_node_again_after_a_while),
        cmocka_unit_test(asks_a_suspect_node_if_nobody_else_holds_the_expert),
        cmocka_unit_test(computes_here_what_is_late_without_a_replica),
        cmocka_unit_test(waits_for_the_node_if_computing_here_fails),
        cmocka_unit_test(gives_up_after_its_patience),
        cmocka_unit_test(waits_for_a_node_that_is_at_work),
        cmocka_unit_test(gives_up_a_node_that_stopped_working),
        cmocka_unit_test(asks_the_only_holder_again_when_a_message_was_lost),
        cmocka_unit_test(gives_up_what_waits_for_credit_of_a_dead_node),
        cmocka_unit_test(moves_what_waits_for_credit_of_a_late_node),
        cmocka_unit_test(counts_an_earlier_layers_request_against_the_credit),
        cmocka_unit_test(lets_a_layer_be_left_unfinished),
        cmocka_unit_test(forgets_a_request_that_is_long_over),
        cmocka_unit_test(passes_over_a_node_whose_credit_is_lost),
        cmocka_unit_test(survives_a_table_full_of_stale_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
