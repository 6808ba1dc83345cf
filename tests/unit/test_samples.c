/* test_samples.c - mean and deviation, by values worked out on paper. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "client/samples.h"
#include "engine/util.h"

static void fill(samples *s, const double *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        assert_int_equal(samples_add(s, values[i]), 0);
}

/* Squares of the distances from 5: 9 1 1 1 0 0 4 16, 32 in all; by 7. */
static void the_deviation_is_by_one_less_than_the_values(void **state) {
    const double values[] = {2, 4, 4, 4, 5, 5, 7, 9};
    samples s = {0};
    (void)state;
    fill(&s, values, ARRAY_LEN(values));
    assert_float_equal(samples_mean(&s), 5.0, 1e-12);
    assert_float_equal(samples_deviation(&s), 2.138089935299395, 1e-12);
    samples_fini(&s);
}

static void one_value_has_no_deviation(void **state) {
    const double values[] = {7};
    samples s = {0};
    (void)state;
    fill(&s, values, 1);
    assert_float_equal(samples_mean(&s), 7.0, 1e-12);
    assert_float_equal(samples_deviation(&s), 0.0, 0.0);
    samples_fini(&s);
}

static void nothing_is_zero(void **state) {
    samples s = {0};
    (void)state;
    assert_float_equal(samples_mean(&s), 0.0, 0.0);
    assert_float_equal(samples_deviation(&s), 0.0, 0.0);
    samples_fini(&s);
}

/* Nanoseconds of a minute: the squares do not fit a float's digits. */
static void large_values_keep_their_small_differences(void **state) {
    const double values[] = {60000000001.0, 60000000003.0};
    samples s = {0};
    (void)state;
    fill(&s, values, ARRAY_LEN(values));
    assert_float_equal(samples_deviation(&s), 1.4142135623730951, 1e-9);
    samples_fini(&s);
}

static void keeps_the_order_of_many(void **state) {
    samples s = {0};
    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(samples_add(&s, i), 0);
    assert_int_equal(s.count, 1000);
    assert_float_equal(s.values[999], 999.0, 0.0);
    assert_float_equal(samples_mean(&s), 499.5, 1e-9);
    samples_fini(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_deviation_is_by_one_less_than_the_values),
        cmocka_unit_test(one_value_has_no_deviation),
        cmocka_unit_test(nothing_is_zero),
        cmocka_unit_test(large_values_keep_their_small_differences),
        cmocka_unit_test(keeps_the_order_of_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
