/* test_slice_choice.c - into how many slices experts are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "discovery/slice_choice.h"

#define MIXTRAL_BYTES ((uint64_t)3 * 4096 * 14336 * 9 / 16) /* q4_k */
#define OLMOE_BYTES ((uint64_t)3 * 2048 * 1024 * 9 / 16)

static slice_question mixtral(uint32_t n_nodes) {
    return (slice_question){.n_nodes = n_nodes,
                            .n_used = 2,
                            .most = 8,
                            .expert_bytes = MIXTRAL_BYTES,
                            .row_bytes = 4096 * sizeof(float)};
}

static void a_top_2_model_keeps_more_than_two_nodes_busy(void **state) {
    (void)state;
    slice_question q = mixtral(8);
    assert_in_range(slice_choice(&q), 4, 8);
    assert_true(slice_choice_us(&q, 1) > 2.5 * slice_choice_us(&q, 4));
}

static void one_node_or_none_has_whole_experts(void **state) {
    (void)state;
    for (uint32_t n = 0; n < 2; n++) {
        slice_question q = mixtral(n);
        assert_int_equal(slice_choice(&q), 1);
    }
}

static void
there_are_no_more_slices_than_nodes_or_than_layers_allow(void **state) {
    (void)state;
    slice_question q = mixtral(3);
    assert_int_equal(slice_choice(&q), 2);
    q = mixtral(8);
    q.most = 2;
    assert_int_equal(slice_choice(&q), 2);
}

static void small_experts_are_not_worth_the_rows(void **state) {
    (void)state;
    slice_question q = {.n_nodes = 8,
                        .n_used = 8,
                        .most = 8,
                        .expert_bytes = OLMOE_BYTES,
                        .row_bytes = 2048 * sizeof(float)};
    assert_int_equal(slice_choice(&q), 1);
}

static void a_slow_link_asks_for_fewer_slices(void **state) {
    (void)state;
    slice_question q = mixtral(8);
    uint32_t fast = slice_choice(&q);
    q.link_bytes_us = 10;
    assert_true(slice_choice(&q) < fast);
}

static void slow_nodes_ask_for_more(void **state) {
    (void)state;
    slice_question q = {.n_nodes = 8,
                        .n_used = 2,
                        .most = 8,
                        .expert_bytes = OLMOE_BYTES,
                        .row_bytes = 2048 * sizeof(float),
                        .node_bytes_us = 1000};
    assert_true(slice_choice(&q) > 1);
}

/* Two balls in two bins: 1.5 in the fullest; in one bin: 2. */
static void the_fullest_group_is_what_takes_long(void **state) {
    (void)state;
    slice_question q = mixtral(2);
    q.node_bytes_us = 1;
    q.link_bytes_us = 1e12;
    q.call_us = 1e-9;
    double expert_us = (double)MIXTRAL_BYTES;
    assert_float_equal(slice_choice_us(&q, 1) / expert_us, 1.5, 1e-6);
    assert_float_equal(slice_choice_us(&q, 2) / expert_us, 1.0, 1e-6);
    q.n_nodes = 4;
    assert_float_equal(slice_choice_us(&q, 1) / expert_us, 1.25, 1e-6);
    q.n_used = 3; /* of 64 ways, 24 in three bins, 4 in one */
    assert_float_equal(slice_choice_us(&q, 1) / expert_us, 1.6875, 1e-6);
}

static void many_used_experts_and_many_nodes_are_no_trouble(void **state) {
    (void)state;
    slice_question q = mixtral(1024);
    q.n_used = 200;
    assert_in_range(slice_choice(&q), 1, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_top_2_model_keeps_more_than_two_nodes_busy),
        cmocka_unit_test(one_node_or_none_has_whole_experts),
        cmocka_unit_test(
            there_are_no_more_slices_than_nodes_or_than_layers_allow),
        cmocka_unit_test(small_experts_are_not_worth_the_rows),
        cmocka_unit_test(a_slow_link_asks_for_fewer_slices),
        cmocka_unit_test(slow_nodes_ask_for_more),
        cmocka_unit_test(the_fullest_group_is_what_takes_long),
        cmocka_unit_test(many_used_experts_and_many_nodes_are_no_trouble),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
