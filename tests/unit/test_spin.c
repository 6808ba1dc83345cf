/* test_spin.c - staying awake goes on as long as it pays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/spin.h"

static void gives_up_after_some_misses_in_a_row(void **state) {
    spin_luck s = {0};
    (void)state;
    for (int i = 0; i < SPIN_MISSES; i++) {
        assert_true(spin_pays(&s));
        spin_told(&s, false);
    }
    assert_false(spin_pays(&s));
}

static void a_hit_between_misses_keeps_it_up(void **state) {
    spin_luck s = {0};
    (void)state;
    for (int i = 0; i < 10 * SPIN_MISSES; i++) {
        assert_true(spin_pays(&s));
        spin_told(&s, i % SPIN_MISSES == 0);
    }
}

static void tries_again_now_and_then(void **state) {
    spin_luck s = {0};
    (void)state;
    for (int i = 0; i < SPIN_MISSES; i++)
        spin_told(&s, false);
    int tried = 0;
    for (int i = 0; i < 10 * SPIN_RETRY; i++)
        tried += spin_pays(&s);
    assert_int_equal(tried, 10);
    spin_told(&s, true); /* things have changed */
    assert_true(spin_pays(&s));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_up_after_some_misses_in_a_row),
        cmocka_unit_test(a_hit_between_misses_keeps_it_up),
        cmocka_unit_test(tries_again_now_and_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
