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
    dispatch_node_replaced(r.d, 0, 7);
    assert_int_equal(rig_node(&r, 0).serial, 7);
    assert_int_equal(rig_node(&r, 0).pairs, 0);
    assert_int_equal(rig_node(&r, 0).latency_us, 0);
    rig_close(&r);
}

/* ---- nodes that are new ---- */

/* How long nodes take, whatever they are asked for: base + pair for each. */
typedef struct {
    uint64_t base_us[RIG_NODES], pair_us[RIG_NODES];
} speeds;

/* Layers of these experts, `gap_us` apart; answers come when they are due.
 * Returns how long all of them took, without the gaps. */
static uint64_t run_layers(rig *r, const speeds *s, uint32_t layers,
                           const uint32_t *experts, uint32_t n,
                           uint64_t gap_us) {
    uint64_t took_us = 0;
    for (uint32_t i = 0; i < layers; i++) {
        uint64_t ids[RIG_PAIRS], due[RIG_PAIRS], free_at[RIG_NODES] = {0};
        uint32_t node[RIG_PAIRS], sent = 0, left;
        uint64_t begun = r->now;
        rig_begin(r, experts, n);
        while (rig_next(r) == DISPATCH_SEND) {
            uint32_t to = node[sent] = r->a.node;
            uint64_t from =
                free_at[to] > 0 ? free_at[to] : r->now + s->base_us[to];
            free_at[to] = due[sent] = from + r->a.n_pairs * s->pair_us[to];
            ids[sent++] = r->a.request_id;
        }
        for (left = sent; left > 0; left--) {
            uint32_t first = 0;
            for (uint32_t j = 1; j < left; j++)
                if (due[j] < due[first]) first = j;
            r->now = due[first];
            rig_rows(r, node[first], ids[first]);
            due[first] = due[left - 1];
            ids[first] = ids[left - 1];
            node[first] = node[left - 1];
        }
        rig_expect(r, DISPATCH_DONE);
        took_us += r->now - begun;
        r->now += gap_us;
    }
    return took_us;
}

static const uint32_t eight[] = {1, 2, 3, 4, 5, 6, 7, 8};

/* Node 0 is known, node 1 comes. */
static rig rig_with_a_new_node(const speeds *s) {
    rig r = rig_of(HELD("*:*", "*:*"));
    dispatch_node_down(r.d, r.now, 1);
    run_layers(&r, s, 100, eight, 4, 1000);
    dispatch_node_up(r.d, 1);
    return r;
}

static void gives_a_new_node_its_share_at_once(void **state) {
    (void)state;
    const speeds s = {{250, 250}, {30, 30}};
    rig r = rig_with_a_new_node(&s);
    run_layers(&r, &s, 30, eight, 4, 1000);
    assert_in_range(rig_node(&r, 1).pairs, 40, 80); /* of 120 */
    rig_close(&r);
}

static void measures_a_new_node_also_with_single_pairs(void **state) {
    (void)state;
    const speeds s = {{250, 200}, {30, 30}};
    rig r = rig_with_a_new_node(&s);
    run_layers(&r, &s, 40, eight, 1, 1000);
    assert_in_range(rig_node(&r, 1).pairs, 30, 40); /* it is a bit faster */
    rig_close(&r);
}

static void does_not_bury_a_new_node_under_a_prompt(void **state) {
    (void)state;
    const speeds s = {{250, 250}, {300, 300}};
    uint32_t many[40];
    for (uint32_t i = 0; i < 40; i++)
        many[i] = i;
    dispatch_config c = rig_config();
    c.credit_bytes = 1000 * RIG_ROW;
    c.hedge_min_us = 100000;
    rig r = rig_open(&c, HELD("*:*", "*:*"));
    dispatch_node_down(r.d, r.now, 1);
    run_layers(&r, &s, 20, many, 40, 1000);
    dispatch_node_up(r.d, 1);
    run_layers(&r, &s, 1, many, 40, 1000);
    assert_in_range(rig_node(&r, 1).pairs, RIG_PIECE, 3 * RIG_PIECE);
    run_layers(&r, &s, 20, many, 40, 1000);
    assert_in_range(rig_node(&r, 1).pairs, 250, 550); /* of 840 */
    rig_close(&r);
}

/* The first answer of all waits for the connection, and for memory that was
 * never touched. */
static void forgives_a_new_node_its_slow_first_answer(void **state) {
    (void)state;
    const speeds s = {{250, 250}, {30, 30}}, cold = {{250, 8000}, {30, 30}};
    rig r = rig_with_a_new_node(&s);
    run_layers(&r, &cold, 1, eight, 4, 1000);
    uint64_t first = rig_node(&r, 1).pairs;
    assert_true(first > 0);
    run_layers(&r, &s, 400, eight, 4, 1000);
    assert_in_range(rig_node(&r, 1).pairs - first, 250, 1000); /* of 1600 */
    rig_close(&r);
}

static void finds_out_soon_that_a_new_node_is_slow(void **state) {
    (void)state;
    const speeds s = {{250, 5000}, {30, 100}};
    rig r = rig_with_a_new_node(&s);
    uint64_t alone = run_layers(&r, &s, 1, eight, 1, 1000);
    uint64_t took = run_layers(&r, &s, 1000, eight, 4, 1000);
    assert_in_range(rig_node(&r, 1).pairs, 1, 60); /* of 4000 */
    assert_in_range(took, 0, 1000 * 2 * (alone + 90));
    rig_close(&r);
}

/* A node that was slow for a while, and is not any more. */
static void takes_a_recovered_node_back_soon(void **state) {
    (void)state;
    const speeds s = {{250, 250}, {30, 30}}, slow = {{250, 9000}, {30, 30}};
    rig r = rig_with_a_new_node(&s);
    run_layers(&r, &s, 50, eight, 4, 1000);
    run_layers(&r, &slow, 300, eight, 4, 1000);
    uint64_t before = rig_node(&r, 1).pairs;
    run_layers(&r, &s, 2000, eight, 4, 1000);
    assert_in_range(rig_node(&r, 1).pairs - before, 1000, 5000); /* of 8000 */
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
        cmocka_unit_test(gives_a_new_node_its_share_at_once),
        cmocka_unit_test(measures_a_new_node_also_with_single_pairs),
        cmocka_unit_test(does_not_bury_a_new_node_under_a_prompt),
        cmocka_unit_test(forgives_a_new_node_its_slow_first_answer),
        cmocka_unit_test(finds_out_soon_that_a_new_node_is_slow),
        cmocka_unit_test(takes_a_recovered_node_back_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
