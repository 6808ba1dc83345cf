/* test_exchange_lanes.c - two layers under way at once, of two parts of a step:
 * what comes, is late or gets lost in the middle. */
#include "tests/unit/exchange_rig.h"

typedef struct {
    exchange_outputs outputs[EXCHANGE_LANES];
    bool lost[EXCHANGE_LANES][ROWS];
} lanes;

static int begin(rig *r, uint32_t lane, uint32_t layer) {
    const exchange_layer l = {
        .layer = layer,
        .n_rows = ROWS,
        .k = K,
        .rows = (const void *const *)r->rows,
        .experts = experts,
        .deadline_us = now_us() + 60000000,
    };
    return exchange_begin(r->x, lane, &l);
}

static int finish(rig *r, lanes *l, uint32_t lane) {
    return exchange_finish(r->x, lane, &l->outputs[lane], l->lost[lane]);
}

static void assert_lane_right(rig *r, const lanes *l, uint32_t lane) {
    r->outputs = l->outputs[lane];
    memcpy(r->lost, l->lost[lane], sizeof(r->lost));
    assert_all_right(r);
}

static void both_layers_are_sent_before_either_is_waited_for(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    lanes l;
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_lane_right(r, &l, 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_lane_right(r, &l, 1);
    close_rig(r);
}

static void they_follow_each_other_layer_by_layer(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    uint32_t n_layers = r->model->config.n_layers;
    lanes l;
    post(r, BOTH, 0);
    for (uint32_t layer = 0; layer <= n_layers; layer++) {
        for (uint32_t lane = 0; lane < EXCHANGE_LANES; lane++) {
            if (layer > 0) {
                assert_int_equal(finish(r, &l, lane), 0);
                assert_lane_right(r, &l, lane);
            }
            if (layer < n_layers) assert_int_equal(begin(r, lane, layer), 0);
            exchange_turn(r->x);
        }
    }
    close_rig(r);
}

/* The outputs of one are there until its lane is used again. */
static void the_second_may_be_finished_first(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, DOUBLED, PATIENT);
    lanes l;
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 1), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_lane_right(r, &l, 1);
    assert_lane_right(r, &l, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_lane_right(r, &l, 0);
    close_rig(r);
}

static void a_node_that_hangs_up_is_lost_for_both(void **state) {
    (void)state;
    rig *r = open_rig(HANGING_UP, GOOD, PATIENT);
    lanes l;
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_lane_right(r, &l, 0);
    assert_lane_right(r, &l, 1);
    close_rig(r);
}

static void a_node_that_goes_in_the_middle_is_lost_for_both(void **state) {
    (void)state;
    rig *r = open_rig(SILENT, GOOD, PATIENT);
    lanes l;
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 0), 0);
    post(r, 2u, 0); /* only the second one is up */
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_lane_right(r, &l, 0);
    assert_lane_right(r, &l, 1);
    close_rig(r);
}

static void refusals_find_their_layer(void **state) {
    (void)state;
    rig *r = open_rig(REFUSING, GOOD, PATIENT);
    lanes l;
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 1), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_lane_right(r, &l, 0);
    assert_lane_right(r, &l, 1);
    close_rig(r);
}

static void rows_that_nobody_computes_are_lost_in_both(void **state) {
    (void)state;
    rig *r = open_rig(SILENT, SILENT, HASTY);
    lanes l;
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_int_equal(finish(r, &l, 0), ROWS);
    assert_int_equal(finish(r, &l, 1), ROWS);
    close_rig(r);
}

static bool no_more(void *ctx) {
    (void)ctx;
    return false;
}

static void abandoning_ends_both_and_the_next_layers_run(void **state) {
    (void)state;
    rig *r = open_rig(SILENT, SILENT, PATIENT);
    lanes l;
    post(r, BOTH, 0);
    exchange_on_wait(r->x, no_more, NULL);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_int_equal(finish(r, &l, 0), ERR_CANCELLED);
    exchange_abandon(r->x);
    exchange_on_wait(r->x, NULL, NULL);
    atomic_store(&r->nodes[0].manner, GOOD);
    atomic_store(&r->nodes[1].manner, GOOD);
    post(r, 0, 0); /* they are greeted anew */
    exchange_idle(r->x);
    post(r, BOTH, 0);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_lane_right(r, &l, 0);
    assert_lane_right(r, &l, 1);
    close_rig(r);
}

/* Buffers are of one size for all: the new cut waits for the open layer. */
static void another_cut_counts_when_no_layer_is_open(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    lanes l;
    post_rack(r, 1, 1, NODES, BOTH);
    assert_int_equal(begin(r, 0, 0), 0);
    post_rack(r, 2, 2, NODES, BOTH);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_true(exchange_epoch(r->x) == 1);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    assert_int_equal(l.outputs[1].slices, 1);
    assert_lane_right(r, &l, 1);
    assert_int_equal(begin(r, 0, 0), 0);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(l.outputs[0].slices, 2);
    assert_true(exchange_epoch(r->x) == 2);
    close_rig(r);
}

static void the_epoch_is_that_of_the_oldest_open_layer(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    lanes l;
    post_rack(r, 1, 1, NODES, BOTH);
    assert_int_equal(begin(r, 0, 0), 0);
    post_rack(r, 2, 1, NODES, BOTH);
    assert_int_equal(begin(r, 1, 0), 0);
    assert_true(exchange_epoch(r->x) == 1);
    assert_int_equal(finish(r, &l, 0), 0);
    assert_int_equal(finish(r, &l, 1), 0);
    exchange_idle(r->x);
    assert_true(exchange_epoch(r->x) == 2);
    close_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_layers_are_sent_before_either_is_waited_for),
        cmocka_unit_test(they_follow_each_other_layer_by_layer),
        cmocka_unit_test(the_second_may_be_finished_first),
        cmocka_unit_test(a_node_that_hangs_up_is_lost_for_both),
        cmocka_unit_test(a_node_that_goes_in_the_middle_is_lost_for_both),
        cmocka_unit_test(refusals_find_their_layer),
        cmocka_unit_test(rows_that_nobody_computes_are_lost_in_both),
        cmocka_unit_test(abandoning_ends_both_and_the_next_layers_run),
        cmocka_unit_test(another_cut_counts_when_no_layer_is_open),
        cmocka_unit_test(the_epoch_is_that_of_the_oldest_open_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
