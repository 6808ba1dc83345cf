/* test_dispatch_nodes.c - what becomes of pairs whose node refuses them, cannot
 * be reached, goes down or comes back. */
#include "tests/unit/dispatch_rig.h"

/* ---- refusals ---- */

static void rests_an_overloaded_node_and_asks_again(void **state) {
    rig r = rig_of(HELD("*:*"));
    const uint64_t rests[] = {2000, 4000, 8000, 16000, 32000, 50000, 50000};
    (void)state;

    rig_begin_same(&r, 1, 1);
    uint64_t id = rig_send(&r, 0, 1);
    for (int i = 0; i < 7; i++) {
        uint64_t refused = r.now;
        dispatch_refused(r.d, r.now, 0, id, ERR_OVERLOADED);
        assert_int_equal(rig_pass_time(&r), DISPATCH_SEND);
        assert_int_equal(r.now - refused, rests[i]);
        id = r.a.request_id;
    }
    assert_int_equal(rig_totals(&r).refusals, 7);
    assert_int_equal(rig_rows(&r, 0, id), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_begin_same(&r, 1, 1); /* an answer forgives */
    dispatch_refused(r.d, r.now, 0, rig_send(&r, 0, 1), ERR_OVERLOADED);
    rig_sleep(&r);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void asks_a_replica_of_an_overloaded_node_at_once(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    uint64_t id = rig_send(&r, 0, 2);
    dispatch_refused(r.d, r.now, 0, id, ERR_OVERLOADED);
    rig_send(&r, 1, 2);
    assert_true(r.a.takeover);
    rig_close(&r);
}

static void does_not_ask_again_who_refused_the_expert(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    uint64_t id = rig_send(&r, 0, 2);
    dispatch_refused(r.d, r.now, 0, id, ERR_NOT_HERE);
    rig_rows(&r, 1, rig_send(&r, 1, 2));
    rig_expect(&r, DISPATCH_DONE);

    rig_begin_same(&r, 1, 1); /* remembered in the next layers */
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    rig_begin_same(&r, 2, 1); /* for this expert only */
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void asks_again_who_refused_if_nobody_else_is_left(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    for (int i = 0; i < 3; i++) { /* once in each layer */
        rig_begin_same(&r, 1, 1);
        dispatch_refused(r.d, r.now, 0, rig_send(&r, 0, 1), ERR_NOT_HERE);
        rig_expect(&r, DISPATCH_DONE);
        assert_true(dispatch_row_lost(r.d, 0));
    }
    rig_close(&r);
}

static void asks_again_who_refused_after_a_while(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    dispatch_refused(r.d, r.now, 0, rig_send(&r, 0, 1), ERR_NOT_HERE);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    r.now += 20000000;
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void computes_here_what_everybody_refused(void **state) {
    rig r = rig_local(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    dispatch_refused(r.d, r.now, 0, rig_send(&r, 0, 1), ERR_INTERNAL);
    rig_expect(&r, DISPATCH_LOCAL);
    rig_close(&r);
}

static void waits_for_a_short_rest_before_computing_here(void **state) {
    rig r = rig_local(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    dispatch_refused(r.d, r.now, 0, rig_send(&r, 0, 1), ERR_OVERLOADED);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rig_pass_time(&r), DISPATCH_SEND);
        dispatch_refused(r.d, r.now, 0, r.a.request_id, ERR_OVERLOADED);
    }
    rig_expect(&r, DISPATCH_LOCAL); /* that rest would be a long one */
    rig_close(&r);
}

static void places_anew_what_could_not_be_sent(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    dispatch_send_failed(r.d, r.now, rig_send(&r, 0, 2));
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    uint64_t id = rig_send(&r, 1, 2);
    assert_false(r.a.takeover); /* nobody was asked before */
    rig_rows(&r, 1, id);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).takeover_pairs, 0);
    rig_close(&r);
}

static void sends_again_to_the_only_holder_after_a_rest(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    dispatch_send_failed(r.d, r.now, rig_send(&r, 0, 2));
    rig_sleep(&r);
    rig_send(&r, 0, 2);
    rig_close(&r);
}

static void gives_up_what_can_never_be_sent(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    uint64_t start = r.now;
    rig_begin_same(&r, 1, 2);
    while (rig_next(&r) != DISPATCH_DONE) {
        if (r.a.kind == DISPATCH_WAIT) r.now = r.a.wake_us;
        if (r.a.kind != DISPATCH_SEND) continue;
        dispatch_send_failed(r.d, r.now, r.a.request_id);
    }
    assert_int_equal(r.now - start, RIG_PATIENCE_US);
    rig_close(&r);
}

/* ---- down and up ---- */

static void places_anew_at_once_what_a_node_took_down_with_it(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 6);
    rig_send(&r, 0, 4);
    uint64_t second = rig_send(&r, 0, 2);
    rig_rows(&r, 0, second);
    dispatch_node_down(r.d, r.now, 0);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    uint64_t id = rig_send(&r, 1, 4);
    assert_true(r.a.takeover);
    rig_rows(&r, 1, id);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).takeover_pairs, 4);
    rig_close(&r);
}

static void gives_up_at_once_when_the_last_holder_goes(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 20);
    rig_send(&r, 0, 4);
    dispatch_node_down(r.d, r.now, 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).lost_pairs, 20);
    rig_close(&r);
}

static void ignores_answers_of_a_node_that_went_down(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    uint64_t id = rig_send(&r, 0, 1);
    dispatch_node_down(r.d, r.now, 0);
    assert_int_equal(rig_rows(&r, 0, id), 0);
    rig_send(&r, 1, 1);
    rig_close(&r);
}

static void does_not_use_a_node_before_it_is_up_again(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    dispatch_node_down(r.d, r.now, 0);
    rig_begin_same(&r, 1, 1);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    dispatch_node_up(r.d, 0);
    r.now += 60000000;
    rig_begin_same(&r, 1, 1);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void asks_a_restarted_node_again_in_the_same_layer(void **state) {
    rig r = rig_of(HELD("*:*", "*:1"));
    const uint32_t experts[] = {0, 1};
    (void)state;

    /* Expert 1 keeps the layer open while node 0 restarts. */
    rig_begin(&r, experts, 2);
    rig_send(&r, 0, 1);
    rig_send(&r, 1, 1);
    dispatch_node_up(r.d,
                     0); /* a new process: its predecessor's work is lost */
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void
uses_a_restarted_node_for_what_its_predecessor_refused(void **state) {
    rig r = rig_of(HELD("*:*", "*:1"));
    const uint32_t experts[] = {0, 1};
    (void)state;

    rig_begin(&r, experts, 2);
    uint64_t id = rig_send(&r, 0, 1);
    rig_send(&r, 1, 1);
    dispatch_refused(r.d, r.now, 0, id, ERR_NOT_HERE);
    dispatch_node_up(r.d, 0);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void keeps_nothing_of_the_placement_after_the_layer(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 1, 1);
    uint64_t late = rig_send(&r, 0, 1);
    rig_sleep(&r);
    rig_rows(&r, 1, rig_send(&r, 1, 1));
    rig_expect(&r, DISPATCH_DONE);
    placement_unref(r.where);
    r.where = NULL;
    dispatch_refused(r.d, r.now, 0, late, ERR_INTERNAL);
    dispatch_node_down(r.d, r.now, 0);
    dispatch_node_up(r.d, 0);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void makes_room_for_more_pairs_between_layers(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    static uint32_t many[8 * RIG_PAIRS];
    uint32_t first[2] = {0, 1};
    rig_begin(&r, first, 2);
    uint64_t late = 0;
    while (rig_next(&r) == DISPATCH_SEND)
        late = r.a.request_id;
    assert_int_equal(dispatch_begin(r.d, r.now, 0, NULL, 0, 1, r.where), 0);
    rig_expect(&r, DISPATCH_DONE); /* and a request is still in flight */

    assert_int_equal(
        dispatch_begin(r.d, r.now, 0, many, 8 * RIG_PAIRS, 1, r.where),
        ERR_RANGE);
    assert_int_equal(dispatch_reserve(r.d, 8 * RIG_PAIRS), 0);
    assert_int_equal(dispatch_reserve(r.d, RIG_PAIRS), 0); /* never less */
    uint64_t owed =
        rig_node(&r, 0).outstanding_bytes + rig_node(&r, 1).outstanding_bytes;
    assert_true(owed > 0);
    for (uint32_t node = 0; node < 2; node++)
        assert_int_equal(rig_rows(&r, node, late), 0); /* of an earlier layer */
    assert_true(rig_node(&r, 0).outstanding_bytes +
                    rig_node(&r, 1).outstanding_bytes <
                owed);
    assert_int_equal(
        dispatch_begin(r.d, r.now, 0, many, 8 * RIG_PAIRS, 1, r.where), 0);
    assert_int_equal(rig_next(&r), DISPATCH_SEND);
    rig_close(&r);
}

static void knows_nothing_of_a_node_that_takes_anothers_place(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    rig_begin_same(&r, 0, 1);
    uint64_t id = rig_send(&r, 0, 1);
    r.now += 5000;
    assert_int_equal(rig_rows(&r, 0, id), 1);
    assert_int_equal(rig_node(&r, 0).pairs, 1);
    rig_expect(&r, DISPATCH_DONE);
    dispatch_node_down(r.d, r.now, 0);
    dispatch_node_replaced(r.d, 0);
    assert_int_equal(rig_node(&r, 0).pairs, 0);
    assert_int_equal(rig_node(&r, 0).latency_us, 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rests_an_overloaded_node_and_asks_again),
        cmocka_unit_test(asks_a_replica_of_an_overloaded_node_at_once),
        cmocka_unit_test(does_not_ask_again_who_refused_the_expert),
        cmocka_unit_test(asks_again_who_refused_if_nobody_else_is_left),
        cmocka_unit_test(asks_again_who_refused_after_a_while),
        cmocka_unit_test(computes_here_what_everybody_refused),
        cmocka_unit_test(waits_for_a_short_rest_before_computing_here),
        cmocka_unit_test(places_anew_what_could_not_be_sent),
        cmocka_unit_test(sends_again_to_the_only_holder_after_a_rest),
        cmocka_unit_test(gives_up_what_can_never_be_sent),
        cmocka_unit_test(places_anew_at_once_what_a_node_took_down_with_it),
        cmocka_unit_test(gives_up_at_once_when_the_last_holder_goes),
        cmocka_unit_test(ignores_answers_of_a_node_that_went_down),
        cmocka_unit_test(does_not_use_a_node_before_it_is_up_again),
        cmocka_unit_test(asks_a_restarted_node_again_in_the_same_layer),
        cmocka_unit_test(
            uses_a_restarted_node_for_what_its_predecessor_refused),
        cmocka_unit_test(keeps_nothing_of_the_placement_after_the_layer),
        cmocka_unit_test(makes_room_for_more_pairs_between_layers),
        cmocka_unit_test(knows_nothing_of_a_node_that_takes_anothers_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
