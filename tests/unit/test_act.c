/* test_act.c - rounding, odd values, checks, and equal bits at every level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>
#include "engine/act.h"
#include "engine/cpu.h"
#include "tests/support/plain.h"

#define N 320                      /* values of a row */
#define A8_FLOATS (N / 32 + N / 4) /* an A8 row of N values, as floats */

static void rows_have_the_size_of_their_form(void **state) {
    (void)state;
    assert_int_equal(act_row_bytes(ACT_F32, 60), 240);
    assert_int_equal(act_row_bytes(ACT_A8, 32), 36);
    assert_int_equal(act_row_bytes(ACT_A8, 4096), 4096 + 512);
}

static void f32_rows_are_copies(void **state) {
    float x[61], row[61];
    uint64_t seed = 1;
    (void)state;
    for (size_t i = 0; i < 61; i++) {
        x[i] = plain_random_float(&seed);
    }
    act_encode(ACT_F32, 61, x, row);
    assert_memory_equal(row, x, sizeof(x));
}

static void rounds_half_to_even(void **state) {
    /* amax is 127, so a value is its own quotient */
    float x[32] = {127.0f, 0.5f,  1.5f,   2.5f, -0.5f,
                   -1.5f,  -2.5f, 126.5f, 0.49f};
    const int8_t want[32] = {127, 0, 2, 2, 0, -2, -2, 126, 0};
    float row[9];
    (void)state;

    act_encode(ACT_A8, 32, x, row);
    assert_true(act_scales(row)[0] == 1.0f);
    assert_memory_equal(act_values(32, row), want, 32);
}

/* x, normal, rounded to 11 significant bits. */
static float eleven_bits(float x) {
    int exponent;
    float mantissa = frexpf(x, &exponent);
    return ldexpf(rintf(ldexpf(mantissa, 11)), exponent - 11);
}

/* The rule as act.h states it, for usual values. */
static void encodes_by_the_written_rule(void **state) {
    uint64_t seed = 2;
    (void)state;
    for (int round = 0; round < 200; round++) {
        float x[32], row[9];
        float size = exp2f(plain_random_float(&seed) * 100.0f);
        float amax = 0.0f;
        for (size_t i = 0; i < 32; i++) {
            x[i] = plain_random_float(&seed) * size;
            amax = fmaxf(amax, fabsf(x[i]));
        }
        act_encode(ACT_A8, 32, x, row);
        assert_true(act_scales(row)[0] == eleven_bits(amax / 127.0f));
        float inv = 127.0f / amax;
        for (size_t i = 0; i < 32; i++) {
            assert_int_equal(act_values(32, row)[i], (int)rintf(x[i] * inv));
        }
    }
}

static void zeros_and_very_small_blocks_become_zero(void **state) {
    static const float small[] = {0.0f, -0.0f, 1.4e-45f, 1e-40f, 3.7e-37f};
    (void)state;
    for (size_t k = 0; k < 5; k++) {
        float x[32], row[9];
        for (size_t i = 0; i < 32; i++) {
            x[i] = i % 2 ? small[k] : -small[k];
        }
        memset(row, 0x55, sizeof(row));
        act_encode(ACT_A8, 32, x, row);
        const float zero[9] = {0};
        assert_memory_equal(row, zero, sizeof(row));
    }
}

static void the_smallest_block_that_counts_is_exact(void **state) {
    float x[32] = {3.8e-37f, -3.8e-37f, 1.9e-37f};
    float row[9];
    (void)state;
    act_encode(ACT_A8, 32, x, row);
    assert_int_equal(act_values(32, row)[0], 127);
    assert_int_equal(act_values(32, row)[1], -127);
    assert_true(act_scales(row)[0] > 0.0f);
}

/* Fill with usual values and, at random places, with anything. */
static void wild_values(uint64_t *seed, size_t n, float *x) {
    static const float odd[] = {INFINITY, -INFINITY, NAN,      FLT_MAX,
                                -FLT_MAX, 1e-45f,    -1e-39f,  0.0f,
                                -0.0f,    FLT_MIN,   3.74e-37f};
    for (size_t i = 0; i < n; i++) {
        x[i] = plain_random_float(seed);
        if (plain_random(seed) % 8 == 0) x[i] = odd[plain_random(seed) % 11];
        if (plain_random(seed) % 8 == 0) {
            uint32_t bits = plain_random(seed);
            memcpy(&x[i], &bits, sizeof(bits));
        }
    }
}

static void any_input_gives_a_valid_row(void **state) {
    uint64_t seed = 3;
    (void)state;
    for (int round = 0; round < 500; round++) {
        float x[N], row[A8_FLOATS];
        wild_values(&seed, N, x);
        act_encode(ACT_A8, N, x, row);
        assert_true(act_row_valid(ACT_A8, N, row));
    }
}

static void all_levels_give_the_same_bits(void **state) {
    uint64_t seed = 4;
    (void)state;
    for (int round = 0; round < 1000; round++) {
        float x[N], want[A8_FLOATS], row[A8_FLOATS];
        wild_values(&seed, N, x);
        if (round % 2) { /* blocks without anything odd */
            plain_row(&seed, PLAIN_USUAL, ACT_F32, N, x);
        }
        assert_int_equal(cpu_force(CPU_SCALAR), 0);
        act_encode(ACT_A8, N, x, want);
        for (int level = CPU_AVX2; level <= (int)cpu_best(); level++) {
            assert_int_equal(cpu_force((cpu_level)level), 0);
            memset(row, 0x55, sizeof(row));
            act_encode(ACT_A8, N, x, row);
            assert_memory_equal(row, want, sizeof(row));
        }
    }
    cpu_force(cpu_best());
}

static void a_row_in_parts_is_the_row(void **state) {
    static const act_form forms[] = {ACT_F32, ACT_A8};
    static const size_t cuts[] = {0, 32, 32, 160, 192, N};
    uint64_t seed = 5;
    (void)state;

    for (size_t f = 0; f < 2; f++) {
        float x[N], whole[N], parts[N];
        plain_row(&seed, PLAIN_USUAL, ACT_F32, N, x);
        act_encode(forms[f], N, x, whole);
        for (size_t i = 5; i-- > 0;) {
            act_encode_part(forms[f], N, cuts[i], cuts[i + 1], x + cuts[i],
                            parts);
        }
        assert_memory_equal(parts, whole, act_row_bytes(forms[f], N));
    }
}

static void refuses_rows_that_no_encoder_makes(void **state) {
    static const float bad_scales[] = {-1.0f, -1e-45f, INFINITY, NAN};
    float x[N], row[A8_FLOATS];
    uint64_t seed = 6;
    (void)state;

    plain_row(&seed, PLAIN_USUAL, ACT_F32, N, x);
    act_encode(ACT_A8, N, x, row);
    assert_true(act_row_valid(ACT_A8, N, row));
    for (size_t i = 0; i < 4; i++) {
        float kept = row[7];
        row[7] = bad_scales[i];
        assert_false(act_row_valid(ACT_A8, N, row));
        row[7] = kept;
    }
    for (size_t i = 0; i < N; i += 29) {
        int8_t *value = (int8_t *)row + N / 32 * 4 + i;
        int8_t kept = *value;
        *value = -128;
        assert_false(act_row_valid(ACT_A8, N, row));
        *value = kept;
    }
    assert_true(act_row_valid(ACT_A8, N, row));
    assert_false(act_row_valid(ACT_A8, 33, row));
}

static void refuses_floats_that_are_not_finite(void **state) {
    static const float bad[] = {INFINITY, -INFINITY, NAN, -NAN};
    float x[60];
    uint64_t seed = 7;
    (void)state;

    plain_row(&seed, PLAIN_EXTREME, ACT_F32, 60, x);
    assert_true(act_row_valid(ACT_F32, 60, x));
    for (size_t i = 0; i < 4; i++) {
        x[59] = bad[i];
        assert_false(act_row_valid(ACT_F32, 60, x));
        assert_true(act_row_valid(ACT_F32, 59, x));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_the_size_of_their_form),
        cmocka_unit_test(f32_rows_are_copies),
        cmocka_unit_test(rounds_half_to_even),
        cmocka_unit_test(encodes_by_the_written_rule),
        cmocka_unit_test(zeros_and_very_small_blocks_become_zero),
        cmocka_unit_test(the_smallest_block_that_counts_is_exact),
        cmocka_unit_test(any_input_gives_a_valid_row),
        cmocka_unit_test(all_levels_give_the_same_bits),
        cmocka_unit_test(a_row_in_parts_is_the_row),
        cmocka_unit_test(refuses_rows_that_no_encoder_makes),
        cmocka_unit_test(refuses_floats_that_are_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
