/* test_rope.c - angles against libm, pairs by style, equal bits at every
 * level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/rope.h"
#include "engine/util.h"

static rope *make(rope_style style, uint32_t n_dims) {
    rope_config config = {
        .style = style, .n_dims = n_dims, .base = 10000.0, .scale = 1.0};
    rope *r = NULL;
    assert_int_equal(rope_new(&r, &config), 0);
    return r;
}

/* Values that differ in every place and have many significant bits. */
static void fill(size_t n, float *x) {
    for (size_t i = 0; i < n; i++) {
        x[i] = sinf((float)i * 0.7f + 0.3f) * 3.1f;
    }
}

static void table_holds_the_angles_of_the_formula(void **state) {
    const uint32_t positions[] = {0, 1, 77, 4095, 131071, 9999999};
    const double bases[] = {10000.0, 500000.0, 1e6};
    float table[128], factors[64];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(factors); i++) {
        factors[i] = 1.0f + (float)i * 0.37f;
    }
    for (size_t b = 0; b < ARRAY_LEN(bases); b++) {
        rope_config config = {.style = ROPE_NEOX,
                              .n_dims = 128,
                              .base = bases[b],
                              .scale = 4.0,
                              .factors = factors};
        rope *r;
        assert_int_equal(rope_new(&r, &config), 0);
        for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
            rope_table(r, positions[p], table);
            for (int i = 0; i < 64; i++) {
                long double angle = positions[p] *
                                    powl((long double)bases[b], -i / 64.0L) /
                                    factors[i] / 4.0L;
                assert_true(fabsl(table[i] - cosl(angle)) < 7e-8L);
                assert_true(fabsl(table[64 + i] - sinl(angle)) < 7e-8L);
            }
        }
        rope_free(r);
    }
}

/* Angles of a table by quadrant-free atan2, for pairs that turn less than pi.
 */
static double angle_in(const float *table, uint32_t n_pairs, uint32_t i) {
    return atan2((double)table[n_pairs + i], (double)table[i]);
}

/* base = e^4, N = 8, original context 2 pi e^4: d(r) = 4 - ln r, by hand. */
static void yarn_keeps_fast_pairs_and_scales_slow_ones(void **state) {
    const double e4 = 54.598150033144236, pi = 3.14159265358979;
    const double kept[4] = {1.0, 0.75, 0.5, 0.25};
    float table[8];
    rope *r;
    (void)state;
    rope_config config = {.style = ROPE_NORM, .n_dims = 8, .base = e4};
    config.scale = 10.0;
    /* ln r = 3.5 and -0.5: lo = floor(0.5), hi = ceil(4.5); hi - lo = 5 */
    config.yarn = (rope_yarn){2 * pi * e4, exp(3.5), exp(-0.5)};
    assert_int_equal(rope_new(&r, &config), 0);
    rope_table(r, 1, table);
    for (uint32_t i = 0; i < 4; i++) {
        double m = 1.0 - i / 5.0, theta = exp(-(double)i);
        double want = theta / 10 * (1 - m) + theta * m;
        assert_true(fabs(angle_in(table, 4, i) - want) < 1e-6);
    }
    rope_free(r);

    /* ln r = 4.5 and 0.5: lo is cut off at 0, hi = ceil(3.5) = 4 */
    config.yarn = (rope_yarn){2 * pi * e4, exp(4.5), exp(0.5)};
    assert_int_equal(rope_new(&r, &config), 0);
    rope_table(r, 1, table);
    for (uint32_t i = 0; i < 4; i++) {
        double theta = exp(-(double)i);
        double want = theta / 10 * (1 - kept[i]) + theta * kept[i];
        assert_true(fabs(angle_in(table, 4, i) - want) < 1e-6);
    }
    rope_free(r);
}

/* Equal betas, as Kimi-K2 has them, at ln r = 2.5: lo = 1, hi = 2, a step. */
static void yarn_may_have_no_width(void **state) {
    const double e4 = 54.598150033144236, pi = 3.14159265358979;
    float table[8];
    rope *r;
    (void)state;
    rope_config config = {.style = ROPE_NORM, .n_dims = 8, .base = e4};
    config.scale = 4.0;
    config.yarn = (rope_yarn){2 * pi * e4, exp(2.5), exp(2.5)};
    assert_int_equal(rope_new(&r, &config), 0);
    rope_table(r, 1, table);
    for (uint32_t i = 0; i < 4; i++) {
        double want = exp(-(double)i) / (i <= 1 ? 1.0 : 4.0);
        assert_true(fabs(angle_in(table, 4, i) - want) < 1e-6);
    }
    rope_free(r);
}

static void the_magnitude_lengthens_what_is_turned(void **state) {
    float table[8], plain[8];
    (void)state;
    rope_config config = {
        .style = ROPE_NEOX, .n_dims = 8, .base = 10000.0, .scale = 1.0};
    rope *r;
    assert_int_equal(rope_new(&r, &config), 0);
    rope_table(r, 5, plain);
    rope_free(r);
    config.magnitude = 1.25;
    assert_int_equal(rope_new(&r, &config), 0);
    rope_table(r, 5, table);
    rope_free(r);
    for (size_t i = 0; i < 8; i++) {
        assert_true(fabs((double)table[i] - 1.25 * (double)plain[i]) < 2e-7);
    }
}

static void position_zero_turns_nothing(void **state) {
    float x[64], before[64], table[32];
    rope *r = make(ROPE_NORM, 32);
    (void)state;
    fill(64, x);
    memcpy(before, x, sizeof(x));
    rope_table(r, 0, table);
    rope_apply(r, table, 2, 32, x);
    assert_memory_equal(x, before, sizeof(x));
    rope_free(r);
}

static void norm_turns_neighbours_and_neox_turns_halves(void **state) {
    float table[4];
    (void)state;
    for (int style = ROPE_NORM; style <= ROPE_NEOX; style++) {
        rope *r = make((rope_style)style, 4);
        float x[4] = {1, 2, 3, 5};
        int a = 0, b = style == ROPE_NORM ? 1 : 2;
        float want_a, want_b;
        rope_table(r, 3, table);
        float c = table[0], s = table[2];
        want_a = fmaf(-x[b], s, x[a] * c);
        want_b = fmaf(x[a], s, x[b] * c);
        rope_apply(r, table, 1, 4, x);
        assert_true(x[a] == want_a && x[b] == want_b);
        assert_true(fabs(c - cos(3)) < 1e-7 && fabs(s - sin(3)) < 1e-7);
        rope_free(r);
    }
}

static void dims_beyond_the_rotated_ones_stay(void **state) {
    (void)state;
    for (int style = ROPE_NORM; style <= ROPE_NEOX; style++) {
        rope *r = make((rope_style)style, 8);
        float x[24], before[24], table[8];
        fill(24, x);
        memcpy(before, x, sizeof(x));
        rope_table(r, 11, table);
        rope_apply(r, table, 2, 12, x);
        for (size_t head = 0; head < 2; head++) {
            assert_memory_equal(x + 12 * head + 8, before + 12 * head + 8,
                                4 * sizeof(float));
            assert_memory_not_equal(x + 12 * head, before + 12 * head,
                                    8 * sizeof(float));
        }
        rope_free(r);
    }
}

/* Scores depend on the distance of two positions alone. */
static void the_product_depends_on_the_distance(void **state) {
    rope *r = make(ROPE_NEOX, 64);
    float q[64], k[64], table[64];
    double products[2];
    (void)state;
    for (uint32_t shift = 0; shift < 2; shift++) {
        fill(64, q);
        fill(64, k);
        rope_table(r, 40 + 1000 * shift, table);
        rope_apply(r, table, 1, 64, q);
        rope_table(r, 13 + 1000 * shift, table);
        rope_apply(r, table, 1, 64, k);
        products[shift] = 0;
        for (int i = 0; i < 64; i++) {
            products[shift] += (double)q[i] * k[i];
        }
    }
    assert_true(fabs(products[0] - products[1]) < 1e-4);
    rope_free(r);
}

static void every_level_has_equal_bits(void **state) {
    const uint32_t dims[] = {2, 4, 12, 14, 16, 32, 34, 48, 64, 96, 128, 130};
    static float start[3 * 140], want[3 * 140], got[3 * 140];
    float table[130];
    (void)state;
    fill(ARRAY_LEN(start), start);
    start[5] = -0.0f;
    start[7] = 0x1p-140f;
    start[9] = INFINITY;
    for (int style = ROPE_NORM; style <= ROPE_NEOX; style++) {
        for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
            rope *r = make((rope_style)style, dims[i]);
            rope_table(r, 12345, table);
            assert_int_equal(cpu_force(CPU_SCALAR), 0);
            memcpy(want, start, sizeof(start));
            rope_apply(r, table, 3, 140, want);
            for (cpu_level level = CPU_AVX2; level <= cpu_best(); level++) {
                assert_int_equal(cpu_force(level), 0);
                memcpy(got, start, sizeof(start));
                rope_apply(r, table, 3, 140, got);
                assert_memory_equal(want, got, sizeof(want));
            }
            rope_free(r);
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

static void refuses_sizes_and_numbers_without_meaning(void **state) {
    const float bad_factors[4] = {1, 0, 1, 1};
    const float nan_factors[4] = {1, 1, NAN, 1};
    const rope_config good = {
        .style = ROPE_NORM, .n_dims = 8, .base = 10000.0, .scale = 1.0};
    rope_config bad[16];
    rope *r = (rope *)&good;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        bad[i] = good;
    }
    bad[0].n_dims = 7;
    bad[1].n_dims = 0;
    bad[2].base = 0;
    bad[3].base = NAN;
    bad[4].base = INFINITY;
    bad[5].scale = 0;
    bad[6].scale = -1;
    bad[7].factors = bad_factors;
    bad[8].factors = nan_factors;
    bad[9].style = (rope_style)9;
    for (size_t i = 10; i < ARRAY_LEN(bad); i++) {
        bad[i].yarn = (rope_yarn){4096, 32, 1};
    }
    bad[10].yarn.original_context = -1;
    bad[11].yarn.beta_fast = 0;
    bad[12].yarn.beta_slow = NAN;
    bad[13].base = 1; /* every pair turns alike: there is no ramp */
    bad[14].magnitude = -1;
    bad[15].magnitude = NAN;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int want = i == 9 ? ERR_UNSUPPORTED : ERR_RANGE;
        assert_int_equal(rope_new(&r, &bad[i]), want);
        assert_null(r);
    }
    rope_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_holds_the_angles_of_the_formula),
        cmocka_unit_test(yarn_keeps_fast_pairs_and_scales_slow_ones),
        cmocka_unit_test(yarn_may_have_no_width),
        cmocka_unit_test(the_magnitude_lengthens_what_is_turned),
        cmocka_unit_test(position_zero_turns_nothing),
        cmocka_unit_test(norm_turns_neighbours_and_neox_turns_halves),
        cmocka_unit_test(dims_beyond_the_rotated_ones_stay),
        cmocka_unit_test(the_product_depends_on_the_distance),
        cmocka_unit_test(every_level_has_equal_bits),
        cmocka_unit_test(refuses_sizes_and_numbers_without_meaning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
