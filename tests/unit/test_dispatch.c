/* test_dispatch.c - pairs find their nodes, in pieces and within the credit;
 * answers are counted once.  What happens when answers do not come is in
 * test_dispatch_faults.c. */
#include "tests/unit/dispatch_rig.h"

/* ---- placing ---- */

static void groups_pairs_by_expert_then_row(void **state) {
    rig r = rig_of(HELD("*:*"));
    const uint32_t experts[] = {9, 2, 9, 2};
    const uint32_t expected[] = {1, 3, 0, 2};
    (void)state;

    rig_begin(&r, experts, 4);
    rig_send(&r, 0, 4);
    assert_memory_equal(r.a.pairs, expected, sizeof(expected));
    assert_false(r.a.takeover);
    rig_close(&r);
}

static void sorts_experts_beyond_one_byte(void **state) {
    rig r = rig_of(HELD("*:*"));
    const uint32_t experts[] = {258, 1, 257, 299};
    const uint32_t expected[] = {1, 2, 0, 3};
    (void)state;

    rig_begin(&r, experts, 4);
    rig_send(&r, 0, 4);
    assert_memory_equal(r.a.pairs, expected, sizeof(expected));
    rig_close(&r);
}

static void sends_each_expert_to_its_holder(void **state) {
    rig r = rig_of(HELD("*:0-1", "*:2-3"));
    const uint32_t experts[] = {3, 0, 2, 1};
    (void)state;

    rig_begin(&r, experts, 4);
    uint64_t a = rig_send(&r, 0, 2);
    assert_int_equal(r.a.pairs[0], 1);
    assert_int_equal(r.a.pairs[1], 3);
    uint64_t b = rig_send(&r, 1, 2);
    rig_expect(&r, DISPATCH_WAIT);
    assert_int_equal(rig_rows(&r, 1, b), 2);
    rig_expect(&r, DISPATCH_WAIT);
    assert_int_equal(rig_rows(&r, 0, a), 2);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_node(&r, 0).pairs, 2);
    assert_int_equal(rig_totals(&r).takeover_pairs, 0);
    rig_close(&r);
}

static void keeps_the_pairs_of_an_expert_on_one_replica(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    (void)state;

    rig_begin_same(&r, 5, 4);
    rig_send(&r, 0, 4);
    rig_expect(&r, DISPATCH_WAIT);
    rig_close(&r);
}

static void spreads_experts_over_replicas_by_load(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    const uint32_t experts[] = {1, 1, 1, 2, 3, 4};
    (void)state;

    rig_begin(&r, experts, 6);
    rig_send(&r, 0, 3);
    rig_send(&r, 1, 3);
    rig_close(&r);
}

static void gives_a_tie_to_the_lower_node(void **state) {
    rig r = rig_of(HELD("*:*", "*:*", "*:*"));
    const uint32_t experts[] = {7};
    (void)state;

    rig_begin(&r, experts, 1);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

/* Answer what is sent: node 0 takes 5 ms for a piece, node 1 takes 200 us. */
static void run_layer(rig *r, const uint32_t *experts, uint32_t n) {
    uint64_t slow[RIG_PAIRS], fast[RIG_PAIRS];
    uint32_t n_slow = 0, n_fast = 0;
    rig_begin(r, experts, n);
    while (rig_next(r) == DISPATCH_SEND) {
        if (r->a.node == 0) slow[n_slow++] = r->a.request_id;
        if (r->a.node == 1) fast[n_fast++] = r->a.request_id;
    }
    r->now += 200;
    for (uint32_t i = 0; i < n_fast; i++)
        rig_rows(r, 1, fast[i]);
    r->now += 4800;
    for (uint32_t i = 0; i < n_slow; i++)
        rig_rows(r, 0, slow[i]);
    rig_expect(r, DISPATCH_DONE);
}

static void learns_which_node_is_faster(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    const uint32_t experts[] = {1, 2, 3, 4};
    (void)state;

    for (int i = 0; i < 30; i++)
        run_layer(&r, experts, 4);
    assert_true(rig_node(&r, 0).pairs < rig_node(&r, 1).pairs);
    assert_true(rig_node(&r, 1).latency_us < 1000);
    rig_begin(&r, experts, 1);
    rig_send(&r, 1, 1);
    rig_close(&r);
}

static void tries_a_slow_node_again_after_a_while(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    const uint32_t experts[] = {1, 2, 3, 4};
    (void)state;

    for (int i = 0; i < 30; i++)
        run_layer(&r, experts, 4);
    r.now += 20000000;
    rig_begin(&r, experts, 1);
    rig_send(&r, 0, 1);
    rig_close(&r);
}

static void computes_everything_here_without_nodes(void **state) {
    rig r = rig_local((const char *const[]){NULL});
    const uint32_t experts[] = {3, 1, 3};
    const uint32_t expected[] = {1, 0, 2};
    (void)state;

    rig_begin(&r, experts, 3);
    rig_expect(&r, DISPATCH_LOCAL);
    assert_int_equal(r.a.n_pairs, 3);
    assert_memory_equal(r.a.pairs, expected, sizeof(expected));
    dispatch_local_done(r.d, r.now, r.a.pairs, 3, true);
    rig_expect(&r, DISPATCH_DONE);
    assert_int_equal(rig_totals(&r).local_pairs, 3);
    assert_int_equal(rig_totals(&r).takeover_pairs, 0);
    rig_close(&r);
}

static void sends_before_it_computes_here(void **state) {
    rig r = rig_local(HELD("*:200-299"));
    const uint32_t experts[] = {0, 250, 1, 251};
    (void)state;

    rig_begin(&r, experts, 4);
    rig_send(&r, 0, 2);
    rig_expect(&r, DISPATCH_LOCAL);
    assert_int_equal(r.a.n_pairs, 2);
    rig_expect(&r, DISPATCH_WAIT); /* until it is done */
    dispatch_local_done(r.d, r.now, r.a.pairs, 0, true);
    rig_close(&r);
}

static void takes_what_was_computed_here_in_parts(void **state) {
    rig r = rig_local((const char *const[]){NULL});
    const uint32_t experts[] = {0, 1, 2};
    (void)state;

    rig_begin(&r, experts, 3);
    rig_expect(&r, DISPATCH_LOCAL);
    const uint32_t *pairs = r.a.pairs;
    dispatch_local_done(r.d, r.now, pairs, 1, true);
    rig_expect(&r, DISPATCH_WAIT);
    dispatch_local_done(r.d, r.now, pairs + 1, 2, true);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void gives_up_at_once_what_nobody_can_compute(void **state) {
    rig r = rig_of(HELD("*:0-9"));
    const uint32_t experts[] = {3, 42, 4, 5};
    uint32_t expert;
    (void)state;

    assert_int_equal(dispatch_begin(r.d, r.now, 1, experts, 2, 2, r.where), 0);
    uint64_t id = rig_send(&r, 0, 3);
    assert_int_equal(rig_rows(&r, 0, id), 3);
    rig_expect(&r, DISPATCH_DONE);
    assert_true(dispatch_row_lost(r.d, 0));
    assert_false(dispatch_row_lost(r.d, 1));
    assert_true(dispatch_lost_expert(r.d, &expert));
    assert_int_equal(expert, 42);
    assert_int_equal(rig_totals(&r).lost_pairs, 1);
    rig_close(&r);
}

static void is_done_at_once_with_nothing_to_do(void **state) {
    rig r = rig_of(HELD("*:*"));
    uint32_t expert;
    (void)state;

    rig_expect(&r, DISPATCH_DONE);
    rig_begin(&r, NULL, 0);
    rig_expect(&r, DISPATCH_DONE);
    assert_false(dispatch_lost_expert(r.d, &expert));
    rig_close(&r);
}

static void refuses_more_pairs_than_agreed(void **state) {
    rig r = rig_of(HELD("*:*"));
    uint32_t experts[RIG_PAIRS + 1] = {0};
    (void)state;

    assert_int_equal(
        dispatch_begin(r.d, r.now, 0, experts, RIG_PAIRS + 1, 1, r.where),
        ERR_RANGE);
    assert_int_equal(
        dispatch_begin(r.d, r.now, 0, experts, UINT32_MAX, UINT32_MAX, r.where),
        ERR_RANGE);
    rig_close(&r);
}

static void refuses_a_configuration_that_cannot_work(void **state) {
    dispatch *d;
    (void)state;

    dispatch_config c = rig_config();
    c.max_pairs = 0;
    assert_int_equal(dispatch_new(&d, &c), ERR_RANGE);
    c = rig_config();
    c.reply_row_bytes = 0;
    assert_int_equal(dispatch_new(&d, &c), ERR_RANGE);
    c = rig_config();
    c.credit_bytes = 0;
    assert_int_equal(dispatch_new(&d, &c), ERR_RANGE);
    c = rig_config();
    c.patience_us = 0;
    assert_int_equal(dispatch_new(&d, &c), ERR_RANGE);
    c = rig_config();
    c.max_nodes = PLACEMENT_MAX_NODES + 1;
    assert_int_equal(dispatch_new(&d, &c), ERR_RANGE);
    assert_null(d);
    dispatch_free(NULL);
}

/* ---- pieces and credit ---- */

static void cuts_pieces_and_keeps_to_the_credit(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 16);
    uint64_t first = rig_send(&r, 0, 4);
    rig_send(&r, 0, 4);
    rig_expect(&r, DISPATCH_WAIT); /* 8 rows out, 4 more exceed 10 */
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 8 * RIG_ROW);
    rig_rows(&r, 0, first);
    rig_send(&r, 0, 4);
    rig_expect(&r, DISPATCH_WAIT);
    rig_close(&r);
}

static void sends_a_last_piece_that_just_fits(void **state) {
    rig r = rig_of(HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 10);
    rig_send(&r, 0, 4);
    rig_send(&r, 0, 4);
    rig_send(&r, 0, 2);
    rig_expect(&r, DISPATCH_WAIT);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, RIG_CREDIT * RIG_ROW);
    rig_close(&r);
}

static void sends_a_piece_larger_than_the_credit_alone(void **state) {
    dispatch_config c = rig_config();
    c.piece_bytes = 20 * RIG_ROW;
    rig r = rig_open(&c, HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 25);
    uint64_t id = rig_send(&r, 0, 20);
    rig_expect(&r, DISPATCH_WAIT);
    rig_rows(&r, 0, id);
    rig_send(&r, 0, 5);
    rig_close(&r);
}

static void sends_a_row_larger_than_a_piece_alone(void **state) {
    dispatch_config c = rig_config();
    c.piece_bytes = 1;
    rig r = rig_open(&c, HELD("*:*"));
    (void)state;

    rig_begin_same(&r, 1, 2);
    rig_send(&r, 0, 1);
    rig_send(&r, 0, 1);
    rig_expect(&r, DISPATCH_WAIT);
    rig_close(&r);
}

static void gives_all_nodes_something_early(void **state) {
    rig r = rig_of(HELD("*:0", "*:1"));
    const uint32_t experts[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
    (void)state;

    rig_begin(&r, experts, 14);
    rig_send(&r, 0, 4);
    rig_send(&r, 1, 4);
    rig_send(&r, 0, 4);
    rig_send(&r, 1, 2);
    rig_close(&r);
}

static void numbers_requests_upward(void **state) {
    rig r = rig_of(HELD("*:*"));
    uint64_t last = 0;
    (void)state;

    for (int layer = 0; layer < 100; layer++) {
        rig_begin_same(&r, 1, 1);
        uint64_t id = rig_send(&r, 0, 1);
        assert_true(id > last);
        last = id;
        rig_rows(&r, 0, id);
        rig_expect(&r, DISPATCH_DONE);
    }
    rig_close(&r);
}

/* ---- answers ---- */

static void counts_a_doubled_answer_once(void **state) {
    rig r = rig_of(HELD("*:0", "*:1"));
    const uint32_t experts[] = {0, 1};
    (void)state;

    rig_begin(&r, experts, 2);
    uint64_t id = rig_send(&r, 0, 1);
    rig_send(&r, 1, 1);
    assert_int_equal(rig_rows(&r, 0, id), 1);
    assert_int_equal(rig_rows(&r, 0, id), 0);
    assert_int_equal(rig_node(&r, 0).pairs, 1);
    assert_int_equal(rig_node(&r, 0).outstanding_bytes, 0);
    rig_expect(&r, DISPATCH_WAIT);
    rig_close(&r);
}

static void wants_nothing_of_a_forged_answer(void **state) {
    rig r = rig_of(HELD("*:*", "*:*"));
    const uint32_t *pairs;
    uint32_t n, layer;
    (void)state;

    rig_begin_same(&r, 0, 1);
    uint64_t id = rig_send(&r, 0, 1);
    const uint64_t forged[] = {0, id + 1, id - 1, id * 7919, UINT64_MAX};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(
            dispatch_rows(r.d, r.now, 0, forged[i], &pairs, &n, r.take),
            ERR_NOT_HERE);
        assert_int_equal(dispatch_expected(r.d, 0, forged[i], &layer, &n),
                         ERR_NOT_HERE);
        dispatch_refused(r.d, r.now, 0, forged[i], ERR_INTERNAL);
    }
    /* The right id from the wrong node. */
    assert_int_equal(dispatch_expected(r.d, 1, id, &layer, &n), ERR_NOT_HERE);
    assert_int_equal(rig_rows(&r, 1, id), 0);
    assert_int_equal(rig_totals(&r).refusals, 0);

    assert_int_equal(dispatch_expected(r.d, 0, id, &layer, &n), 0);
    assert_int_equal(layer, 0);
    assert_int_equal(n, 1);
    assert_int_equal(rig_rows(&r, 0, id), 1);
    rig_expect(&r, DISPATCH_DONE);
    rig_close(&r);
}

static void hands_back_the_pairs_in_the_order_asked(void **state) {
    rig r = rig_of(HELD("*:*"));
    const uint32_t experts[] = {2, 1};
    const uint32_t expected[] = {1, 0};
    const uint32_t *pairs;
    uint32_t n;
    (void)state;

    rig_begin(&r, experts, 2);
    uint64_t id = rig_send(&r, 0, 2);
    assert_int_equal(dispatch_rows(r.d, r.now, 0, id, &pairs, &n, r.take), 0);
    assert_int_equal(n, 2);
    assert_memory_equal(pairs, expected, sizeof(expected));
    rig_close(&r);
}

/* A fixed story of layers, late and doubled answers, told by a small generator;
 * returns a sum over all actions. */
static uint64_t tell_story(uint64_t seed) {
    rig r = rig_of(HELD("*:*", "*:*", "*:0-149"));
    uint64_t sum = seed, ids[512];
    uint32_t nodes[512], n = 0, experts[24];

    for (int layer = 0; layer < 40; layer++) {
        for (int i = 0; i < 24; i++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            experts[i] = (uint32_t)(seed >> 33) % RIG_EXPERTS;
        }
        rig_begin(&r, experts, 24);
        while (rig_next(&r) != DISPATCH_DONE) {
            sum = sum * 31 + r.a.kind + r.a.node + r.a.request_id;
            for (uint32_t i = 0; i < r.a.n_pairs; i++) {
                sum = sum * 31 + r.a.pairs[i];
            }
            if (r.a.kind == DISPATCH_SEND && n < 512) {
                nodes[n] = r.a.node;
                ids[n++] = r.a.request_id;
                continue;
            }
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            r.now += (seed >> 40) % 5000;
            uint32_t pick = (uint32_t)(seed >> 33) % (n + 1);
            if (pick == n || n == 0) continue;
            rig_rows(&r, nodes[pick], ids[pick]);
            if ((seed >> 60) == 0) continue; /* it will come twice */
            nodes[pick] = nodes[--n];
            ids[pick] = ids[n];
        }
        for (uint32_t i = 0; i < RIG_NODES; i++) {
            assert_true(rig_node(&r, i).outstanding_bytes <=
                        RIG_CREDIT * RIG_ROW);
        }
    }
    sum = sum * 31 + rig_totals(&r).takeover_pairs;
    rig_close(&r);
    return sum;
}

static void does_the_same_for_the_same_events(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        assert_true(tell_story(seed) == tell_story(seed));
    }
    assert_true(tell_story(1) != tell_story(2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_pairs_by_expert_then_row),
        cmocka_unit_test(sorts_experts_beyond_one_byte),
        cmocka_unit_test(sends_each_expert_to_its_holder),
        cmocka_unit_test(keeps_the_pairs_of_an_expert_on_one_replica),
        cmocka_unit_test(spreads_experts_over_replicas_by_load),
        cmocka_unit_test(gives_a_tie_to_the_lower_node),
        cmocka_unit_test(learns_which_node_is_faster),
        cmocka_unit_test(tries_a_slow_node_again_after_a_while),
        cmocka_unit_test(computes_everything_here_without_nodes),
        cmocka_unit_test(sends_before_it_computes_here),
        cmocka_unit_test(takes_what_was_computed_here_in_parts),
        cmocka_unit_test(gives_up_at_once_what_nobody_can_compute),
        cmocka_unit_test(is_done_at_once_with_nothing_to_do),
        cmocka_unit_test(refuses_more_pairs_than_agreed),
        cmocka_unit_test(refuses_a_configuration_that_cannot_work),
        cmocka_unit_test(cuts_pieces_and_keeps_to_the_credit),
        cmocka_unit_test(sends_a_last_piece_that_just_fits),
        cmocka_unit_test(sends_a_piece_larger_than_the_credit_alone),
        cmocka_unit_test(sends_a_row_larger_than_a_piece_alone),
        cmocka_unit_test(gives_all_nodes_something_early),
        cmocka_unit_test(numbers_requests_upward),
        cmocka_unit_test(counts_a_doubled_answer_once),
        cmocka_unit_test(wants_nothing_of_a_forged_answer),
        cmocka_unit_test(hands_back_the_pairs_in_the_order_asked),
        cmocka_unit_test(does_the_same_for_the_same_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
