/* test_heat.c - decayed counts of tokens per unit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "coordinator/heat.h"

static heat *make(void) {
    static const uint32_t units[3] = {4, 0, 8};
    heat *h;
    assert_int_equal(heat_new(&h, 3, units), 0);
    return h;
}

static void expect(double a, double b) {
    assert_true(fabs(a - b) < 1e-9);
}

static void begins_cold(void **state) {
    heat *h = make();
    (void)state;
    assert_int_equal(heat_layers(h), 3);
    assert_int_equal(heat_units(h, 2), 8);
    expect(heat_total(h, 0), 0);
    expect(heat_layer(h, 0)[3], 0);
    heat_free(h);
}

static void has_nothing_for_a_dense_layer(void **state) {
    heat *h = make();
    (void)state;
    assert_null(heat_layer(h, 1));
    assert_int_equal(heat_units(h, 1), 0);
    heat_add(h, 1, 0, 5);
    expect(heat_total(h, 1), 0);
    heat_free(h);
}

static void adds_up_by_layer_and_unit(void **state) {
    heat *h = make();
    (void)state;
    heat_add(h, 0, 3, 5);
    heat_add(h, 0, 3, 1);
    heat_add(h, 0, 0, 2);
    heat_add(h, 2, 0, 7);
    expect(heat_layer(h, 0)[3], 6);
    expect(heat_layer(h, 0)[0], 2);
    expect(heat_layer(h, 2)[0], 7);
    expect(heat_total(h, 0), 8);
    expect(heat_total(h, 2), 7);
    heat_free(h);
}

static void halves_in_its_time(void **state) {
    heat *h = make();
    (void)state;
    heat_decay(h, 1000);
    heat_add(h, 0, 1, 64);
    heat_decay(h, 1000 + HEAT_HALF_MS);
    expect(heat_layer(h, 0)[1], 32);
    heat_decay(h, 1000 + 3 * HEAT_HALF_MS);
    expect(heat_layer(h, 0)[1], 8);
    expect(heat_total(h, 0), 8);
    heat_free(h);
}

static void decays_the_same_in_many_steps(void **state) {
    heat *once = make(), *often = make();
    (void)state;
    heat_decay(once, 1);
    heat_decay(often, 1);
    heat_add(once, 2, 4, 1000);
    heat_add(often, 2, 4, 1000);
    for (uint64_t t = 2; t <= 4001; t++)
        heat_decay(often, t);
    heat_decay(once, 4001);
    assert_true(fabs(heat_total(once, 2) - heat_total(often, 2)) < 1e-6);
    heat_free(once);
    heat_free(often);
}

static void does_not_decay_backwards(void **state) {
    heat *h = make();
    (void)state;
    heat_decay(h, 5000);
    heat_add(h, 0, 0, 10);
    heat_decay(h, 4000);
    heat_decay(h, 5000);
    expect(heat_total(h, 0), 10);
    heat_free(h);
}

static void counts_before_the_first_time_stay(void **state) {
    heat *h = make();
    (void)state;
    heat_add(h, 0, 0, 10);
    heat_decay(h, 123456789);
    expect(heat_total(h, 0), 10);
    heat_free(h);
}

static void forgets_everything_after_a_long_pause(void **state) {
    heat *h = make();
    (void)state;
    heat_decay(h, 1);
    heat_add(h, 0, 0, 1e12);
    heat_decay(h, UINT64_MAX);
    expect(heat_total(h, 0), 0);
    heat_free(h);
}

static void ignores_what_is_not_there_or_no_number(void **state) {
    heat *h = make();
    (void)state;
    heat_add(h, 3, 0, 1);
    heat_add(h, 0, 4, 1);
    heat_add(h, 0, 0, -1);
    heat_add(h, 0, 0, NAN);
    expect(heat_total(h, 0), 0);
    expect(heat_total(h, 2), 0);
    heat_free(h);
}

static void is_made_for_a_model_without_experts(void **state) {
    static const uint32_t none[2] = {0, 0};
    heat *h;
    (void)state;
    assert_int_equal(heat_new(&h, 2, none), 0);
    heat_decay(h, 10);
    expect(heat_total(h, 1), 0);
    heat_free(h);
    heat_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_cold),
        cmocka_unit_test(has_nothing_for_a_dense_layer),
        cmocka_unit_test(adds_up_by_layer_and_unit),
        cmocka_unit_test(halves_in_its_time),
        cmocka_unit_test(decays_the_same_in_many_steps),
        cmocka_unit_test(does_not_decay_backwards),
        cmocka_unit_test(counts_before_the_first_time_stay),
        cmocka_unit_test(forgets_everything_after_a_long_pause),
        cmocka_unit_test(ignores_what_is_not_there_or_no_number),
        cmocka_unit_test(is_made_for_a_model_without_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
