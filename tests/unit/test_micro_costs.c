/* test_micro_costs.c - when a pass is computed in two parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "coordinator/micro_costs.h"

#define EXPERTS 64
#define USED 8

static micro_costs fresh(void) {
    micro_costs c;
    micro_costs_init(&c, EXPERTS, USED);
    return c;
}

static void a_long_prompt_hides_the_shorter_behind_the_longer(void **state) {
    (void)state;
    micro_costs c = fresh();
    double us = micro_costs_predict(&c, 512, 1000, 3000);
    assert_in_range((int)us, 3000, 3300);
    us = micro_costs_predict(&c, 512, 3000, 1000);
    assert_in_range((int)us, 3000, 3300);
}

static void a_small_batch_reads_more_weights(void **state) {
    (void)state;
    micro_costs c = fresh();
    /* Two rows share next to nothing: of experts all is the same, of what is
     * here nearly all is read twice. */
    assert_in_range((int)micro_costs_predict(&c, 2, 0, 1000), 1000, 1100);
    assert_in_range((int)micro_costs_predict(&c, 2, 1000, 0), 1700, 2000);
}

/* The passes that are in one to see what that takes. */
static void see(micro_costs *c, uint32_t n_rows, uint64_t us, uint64_t wait) {
    for (int i = 0; i < 2; i++) {
        assert_int_equal(micro_costs_choose(c, n_rows), 1);
        micro_costs_note(c, n_rows, 1, us, wait);
    }
}

static void the_first_passes_of_a_size_are_in_one(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 256, 2000, 1000);
    assert_int_equal(micro_costs_choose(&c, 256), 2);
    assert_int_equal(micro_costs_choose(&c, 64), 1); /* another size */
}

static void a_first_pass_with_cold_caches_is_forgotten(void **state) {
    (void)state;
    micro_costs c = fresh();
    assert_int_equal(micro_costs_choose(&c, 256), 1);
    micro_costs_note(&c, 256, 1, 90000, 89000);
    assert_int_equal(micro_costs_choose(&c, 256), 1);
    micro_costs_note(&c, 256, 1, 2000, 0);
    assert_int_equal(micro_costs_choose(&c, 256), 1);
}

static void nothing_is_split_that_waits_for_nobody(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 256, 2000, 0);
    assert_int_equal(micro_costs_choose(&c, 256), 1);
}

static void one_row_is_never_split(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 1, 2000, 1000);
    assert_int_equal(micro_costs_choose(&c, 1), 1);
}

static void a_small_batch_is_split_only_where_it_waits_enough(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 8, 2000, 200);
    assert_int_equal(micro_costs_choose(&c, 8), 1);
    c = fresh();
    see(&c, 4, 2000, 1500); /* experts share little */
    assert_int_equal(micro_costs_choose(&c, 4), 2);
}

static void what_was_seen_counts_more_than_what_was_predicted(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 256, 2000, 1000);
    micro_costs_note(&c, 256, 2, 2100, 100);
    assert_int_equal(micro_costs_choose(&c, 256), 1);
}

static void it_is_learnt_anew_after_many_passes(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 256, 2000, 1000);
    uint32_t passes = 0;
    while (micro_costs_choose(&c, 256) == 2) {
        micro_costs_note(&c, 256, 2, 1200, 100);
        assert_true(++passes < 1000);
    }
    assert_in_range(passes, 100, 999);
}

static void a_model_without_experts_has_nobody_to_wait_for(void **state) {
    (void)state;
    micro_costs c;
    micro_costs_init(&c, 0, 0);
    see(&c, 256, 2000, 1000);
    assert_int_equal(micro_costs_choose(&c, 256), 1);
}

static void sizes_beyond_the_table_share_the_last_one(void **state) {
    (void)state;
    micro_costs c = fresh();
    see(&c, 1u << 20, 2000000, 1000000);
    assert_int_equal(micro_costs_choose(&c, UINT32_MAX), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_prompt_hides_the_shorter_behind_the_longer),
        cmocka_unit_test(a_small_batch_reads_more_weights),
        cmocka_unit_test(the_first_passes_of_a_size_are_in_one),
        cmocka_unit_test(a_first_pass_with_cold_caches_is_forgotten),
        cmocka_unit_test(nothing_is_split_that_waits_for_nobody),
        cmocka_unit_test(one_row_is_never_split),
        cmocka_unit_test(a_small_batch_is_split_only_where_it_waits_enough),
        cmocka_unit_test(what_was_seen_counts_more_than_what_was_predicted),
        cmocka_unit_test(it_is_learnt_anew_after_many_passes),
        cmocka_unit_test(a_model_without_experts_has_nobody_to_wait_for),
        cmocka_unit_test(sizes_beyond_the_table_share_the_last_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
