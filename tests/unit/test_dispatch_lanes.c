/* test_dispatch_lanes.c - two layers in flight: what they share, and what is
 * each one's own. */
#include "tests/unit/dispatch_rig.h"

/* Begin in a lane, and have all of it sent to the one node that holds it. */
static uint64_t send_in(rig *r, uint32_t lane, uint32_t expert, uint32_t n) {
    dispatch_choose(r->d, lane);
    rig_begin_same(r, expert, n);
    return rig_send(r, 0, n);
}

static int answer_pairs(rig *r, uint32_t node, uint64_t id, uint32_t *n) {
    const uint32_t *pairs;
    return dispatch_rows(r->d, r->now, node, id, &pairs, n, r->take);
}

static void answers_go_to_their_own_layer(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    uint64_t first = send_in(&r, 0, 1, 2), second = send_in(&r, 1, 2, 3);
    uint32_t n = 0;
    assert_int_equal(dispatch_lane_of(r.d, first), 0);
    assert_int_equal(dispatch_lane_of(r.d, second), 1);
    assert_int_equal(answer_pairs(&r, 0, first, &n), 0);
    assert_int_equal(n, 2);
    rig_expect(&r, DISPATCH_WAIT); /* the second lane is still chosen */
    dispatch_choose(r.d, 0);
    rig_expect(&r, DISPATCH_DONE);
    dispatch_choose(r.d, 1);
    assert_int_equal(answer_pairs(&r, 0, second, &n), 0);
    assert_int_equal(n, 3);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void an_answer_is_late_when_its_own_layer_is_over(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    uint64_t first = send_in(&r, 0, 1, 2), second = send_in(&r, 1, 2, 3);
    uint32_t n;
    rig_begin(&r, NULL, 0); /* the second layer is left, for an empty one */
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(dispatch_lane_of(r.d, second), DISPATCH_LANES);
    assert_int_equal(answer_pairs(&r, 0, second, &n), ERR_NOT_HERE);
    assert_int_equal(answer_pairs(&r, 0, first, &n), 0);
    dispatch_choose(r.d, 0);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void the_credit_of_a_node_is_shared(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    uint32_t n;
    dispatch_choose(r.d, 0);
    rig_begin_same(&r, 1, 8);
    uint64_t first = rig_send(&r, 0, RIG_PIECE);
    uint64_t more = rig_send(&r, 0, RIG_PIECE);
    rig_expect(&r, DISPATCH_WAIT);
    dispatch_choose(r.d, 1);
    rig_begin_same(&r, 2, 3); /* eight of ten rows are outstanding */
    rig_expect(&r, DISPATCH_WAIT);
    assert_int_equal(answer_pairs(&r, 0, first, &n), 0);
    rig_send(&r, 0, 3);
    assert_int_equal(answer_pairs(&r, 0, more, &n), 0);
    dispatch_choose(r.d, 0);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void a_lost_node_is_lost_for_both(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:*"));
    dispatch_choose(r.d, 0);
    rig_begin_same(&r, 1, 2);
    rig_expect(&r, DISPATCH_SEND);
    uint32_t node = r.a.node;
    dispatch_node_down(r.d, r.now, 1 - node); /* both on the same one */
    dispatch_choose(r.d, 1);
    rig_begin_same(&r, 2, 2);
    rig_send(&r, node, 2);
    dispatch_node_up(r.d, 1 - node);
    dispatch_node_down(r.d, r.now, node);
    rig_send(&r, 1 - node, 2);
    dispatch_choose(r.d, 0);
    rig_send(&r, 1 - node, 2);
    rig_close(&r);
}

static void a_refusal_counts_for_the_layer_that_asked(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:1"));
    dispatch_node_down(r.d, r.now, 1);
    uint64_t first = send_in(&r, 0, 1, 2), second = send_in(&r, 1, 2, 2);
    uint32_t n;
    dispatch_node_up(r.d, 1);
    dispatch_refused(r.d, r.now, 0, first, ERR_NOT_HERE);
    rig_expect(&r, DISPATCH_WAIT); /* nothing new in the second lane */
    dispatch_choose(r.d, 0);
    rig_send(&r, 1, 2);
    assert_int_equal(answer_pairs(&r, 0, second, &n), 0);
    rig_close(&r);
}

static void what_is_late_in_one_is_late_for_that_one_alone(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*", "*:1"));
    dispatch_node_down(r.d, r.now, 1);
    send_in(&r, 0, 1, 2);
    send_in(&r, 1, 2, 2);
    dispatch_node_up(r.d, 1);
    dispatch_choose(r.d, 0);
    rig_sleep(&r); /* until it is late */
    rig_send(&r, 1, 2);
    dispatch_choose(r.d, 1);
    rig_expect(&r, DISPATCH_WAIT); /* nobody else holds that */
    rig_close(&r);
}

static void pairs_out_of_patience_are_lost_in_their_lane(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    uint32_t n;
    send_in(&r, 0, 1, 1);
    r.now += RIG_PATIENCE_US / 2;
    uint64_t second = send_in(&r, 1, 2, 1);
    r.now += RIG_PATIENCE_US / 2 + 1;
    dispatch_choose(r.d, 0);
    while (rig_next(&r) == DISPATCH_SEND) {}
    assert_int_equal(r.a.kind, DISPATCH_DONE);
    assert_true(dispatch_row_lost(r.d, 0));
    dispatch_choose(r.d, 1);
    assert_int_not_equal(rig_next(&r), DISPATCH_DONE);
    assert_int_equal(answer_pairs(&r, 0, second, &n), 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_false(dispatch_row_lost(r.d, 0));
    rig_close(&r);
}

/* What one lane gave up comes back in the other: there is one table. */
static void what_was_given_up_in_one_is_taken_up_in_the_other(void **state) {
    (void)state;
    rig r = rig_of(HELD("*:*"));
    const uint64_t keys[1] = {7};
    uint64_t other = send_in(&r, 1, 2, 1);
    uint64_t first = send_in(&r, 0, 1, 1);
    uint32_t n;
    assert_true(dispatch_owes(r.d));
    dispatch_keep(r.d, keys);
    rig_begin(&r, NULL, 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_true(dispatch_has_kept(r.d, 0));
    assert_int_equal(answer_pairs(&r, 0, other, &n), 0);
    dispatch_choose(r.d, 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_begin_same(&r, 1, 1);
    dispatch_resume(r.d, r.now, keys);
    rig_expect(&r, DISPATCH_WAIT); /* it is under way */
    assert_int_equal(answer_pairs(&r, 0, first, &n), 0);
    assert_true(r.take[0]);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_go_to_their_own_layer),
        cmocka_unit_test(an_answer_is_late_when_its_own_layer_is_over),
        cmocka_unit_test(the_credit_of_a_node_is_shared),
        cmocka_unit_test(a_lost_node_is_lost_for_both),
        cmocka_unit_test(a_refusal_counts_for_the_layer_that_asked),
        cmocka_unit_test(what_is_late_in_one_is_late_for_that_one_alone),
        cmocka_unit_test(pairs_out_of_patience_are_lost_in_their_lane),
        cmocka_unit_test(what_was_given_up_in_one_is_taken_up_in_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
