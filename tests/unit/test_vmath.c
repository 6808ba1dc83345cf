/* test_vmath.c - accuracy against libm's wider types, and equal bits at every
 * CPU level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define MAX_N 4133

static uint64_t random_state;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float random_float(float low, float high) {
    return low + (high - low) * (float)(random_bits() >> 8) * 0x1p-24f;
}

static float float_from(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* ---- accuracy ---- */

static void expf_is_within_a_millionth(void **state) {
    double worst = 0;
    (void)state;
    for (double x = -87.0; x <= 88.0; x += 1.37e-4) {
        float in = (float)x;
        double want = exp((double)in);
        double error = fabs((double)vm_expf(in) - want) / want;
        worst = fmax(worst, error);
    }
    assert_true(worst < 1.3e-7);
}

static void expf_has_the_documented_limits(void **state) {
    (void)state;
    assert_true(vm_expf(0.0f) == 1.0f);
    assert_true(vm_expf(-0.0f) == 1.0f);
    assert_true(vm_expf(-87.31f) == 0.0f && !signbit(vm_expf(-87.31f)));
    assert_true(vm_expf(-INFINITY) == 0.0f);
    assert_true(vm_expf(-3e38f) == 0.0f);
    assert_true(vm_expf(88.73f) == INFINITY);
    assert_true(vm_expf(INFINITY) == INFINITY);
    assert_true(isnan(vm_expf(NAN)) && isnan(vm_expf(-NAN)));
    /* the ends of the range are normal and finite */
    assert_true(isnormal(vm_expf(-87.3f)));
    assert_true(isnormal(vm_expf(88.72f)));
    assert_true(vm_expf(float_from(1)) == 1.0f);
}

static void expf_never_falls(void **state) {
    float last = 0;
    (void)state;
    for (float x = -88.0f; x < 89.0f; x += 0.00173f) {
        float y = vm_expf(x);
        assert_true(y >= last);
        last = y;
    }
}

static void sigmoid_is_accurate_and_saturates(void **state) {
    (void)state;
    for (double x = -80; x <= 80; x += 0.0173) {
        double want = 1 / (1 + exp(-(double)(float)x));
        assert_true(fabs(vm_sigmoidf((float)x) - want) < 1e-6 * want);
    }
    assert_true(vm_sigmoidf(INFINITY) == 1.0f);
    assert_true(vm_sigmoidf(-INFINITY) == 0.0f);
    assert_true(vm_sigmoidf(0.0f) == 0.5f);
    assert_true(isnan(vm_sigmoidf(NAN)));
}

static void exp_is_within_1e_12(void **state) {
    (void)state;
    for (double x = -708; x <= 709.7; x += 0.00917) {
        long double want = expl((long double)x);
        assert_true(fabsl(vm_exp(x) - want) < 1e-15L * want);
    }
    for (double x = 1e-300; x < 1; x *= 3.7) {
        assert_true(fabs(vm_exp(x) - exp(x)) < 1e-15 * exp(x));
    }
    assert_true(vm_exp(0) == 1 && vm_exp(-INFINITY) == 0);
    assert_true(vm_exp(INFINITY) == INFINITY && vm_exp(710) == INFINITY);
    assert_true(vm_exp(-746) == 0 && isnan(vm_exp(NAN)));
    /* subnormal results are rounded once */
    assert_true(fabs(vm_exp(-740) - exp(-740)) <= 0x1p-1074);
}

static void log_is_within_1e_12(void **state) {
    (void)state;
    for (double x = 1e-321; x < 1e308; x *= 1.0317) {
        long double want = logl((long double)x);
        assert_true(fabsl(vm_log(x) - want) <= 5e-16L * fabsl(want));
    }
    for (double x = 0.5; x < 2.0; x += 1.7e-5) {
        long double want = logl((long double)x);
        assert_true(fabsl(vm_log(x) - want) <= 5e-16L * fabsl(want));
    }
    for (int k = -52; k < -3; k++) { /* close to 1 */
        double x = 1 + ldexp(1, k), y = 1 - ldexp(1, k - 1);
        assert_true(fabs(vm_log(x) - log1p(x - 1)) <= 5e-16 * (x - 1));
        assert_true(fabs(vm_log(y) - log1p(y - 1)) <= 1e-15 * (1 - y));
    }
    assert_true(vm_log(1) == 0);
    assert_true(vm_log(0) == -INFINITY && vm_log(INFINITY) == INFINITY);
    assert_true(isnan(vm_log(-1)) && isnan(vm_log(NAN)));
}

static void pow_is_within_1e_12(void **state) {
    const double bases[] = {1e-3, 0.37, 0.999999, 1.0, 1.7, 10, 1e4, 5e5, 1e7};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bases); i++) {
        for (double e = -40; e <= 40; e += 0.0137) {
            long double want = powl((long double)bases[i], (long double)e);
            assert_true(fabsl(vm_pow(bases[i], e) - want) < 1e-12L * want);
        }
        /* what rope asks for: much closer */
        for (double e = -1; e <= 0; e += 1.0 / 64) {
            long double want = powl((long double)bases[i], (long double)e);
            assert_true(fabsl(vm_pow(bases[i], e) - want) < 4e-15L * want);
        }
    }
    assert_true(vm_pow(10, 0) == 1 && vm_pow(1, 1e9) == 1);
    assert_true(vm_pow(10, 400) == INFINITY && vm_pow(10, -400) == 0);
    assert_true(isnan(vm_pow(-2, 0.5)));
}

static void check_sincos(double x) {
    double s, c;
    vm_sincos(x, &s, &c);
    assert_true(fabsl(s - sinl((long double)x)) < 3e-16L);
    assert_true(fabsl(c - cosl((long double)x)) < 3e-16L);
}

static void sincos_is_within_1e_12_up_to_ten_million(void **state) {
    (void)state;
    for (double x = -40; x < 40; x += 0.000731) {
        check_sincos(x);
    }
    for (double x = 1e-9; x < 1e7; x *= 1.00037) {
        check_sincos(x);
        check_sincos(-x);
    }
    for (int p = 0; p < 10000000; p += 9973) { /* whole positions */
        check_sincos((double)p);
    }
    for (int n = 0; n < 6366197; n += 1237) { /* next to multiples of pi/2 */
        check_sincos((double)n * 0x1.921fb54442d18p+0);
    }
}

static void sincos_of_what_has_no_angle_is_nan(void **state) {
    const double bad[] = {INFINITY, -INFINITY, NAN, 1e16, -1e300};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        double s = 0, c = 0;
        vm_sincos(bad[i], &s, &c);
        assert_true(isnan(s) && isnan(c));
    }
    double s, c;
    vm_sincos(-0.0, &s, &c);
    assert_true(s == 0 && c == 1);
}

static void tanh_is_within_1e_12(void **state) {
    (void)state;
    for (double x = 1e-300; x < 30; x *= 1.0131) {
        long double want = tanhl((long double)x);
        assert_true(fabsl(vm_tanh(x) - want) < 1e-15L * want);
        assert_true(vm_tanh(-x) == -vm_tanh(x));
    }
    for (double x = 0.1; x < 0.3; x += 1e-5) { /* where the formulas meet */
        long double want = tanhl((long double)x);
        assert_true(fabsl(vm_tanh(x) - want) < 1e-15L * want);
    }
    assert_true(vm_tanh(0) == 0 && signbit(vm_tanh(-0.0)));
    assert_true(vm_tanh(INFINITY) == 1 && vm_tanh(-INFINITY) == -1);
    assert_true(isnan(vm_tanh(NAN)));
}

/* ---- rows ---- */

static void sum_adds_sixteen_lanes_and_folds_them(void **state) {
    float x[37], lane[16] = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = random_float(-1e4f, 1e4f);
        lane[i % 16] += x[i];
    }
    for (size_t half = 8; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] = lane[j] + lane[j + half];
        }
    }
    assert_true(vm_sum(ARRAY_LEN(x), x) == lane[0]);
}

static void an_empty_row_has_sum_zero_and_no_maximum(void **state) {
    (void)state;
    assert_true(vm_sum(0, NULL) == 0 && vm_sum_squares(0, NULL) == 0);
    assert_true(vm_max(0, NULL) == -INFINITY);
    vm_softmax(0, NULL);
}

static void max_passes_over_nan(void **state) {
    float x[40];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = i % 3 == 0 ? NAN : -(float)i;
    }
    assert_true(vm_max(ARRAY_LEN(x), x) == -1);
    assert_true(vm_max(1, x) == -INFINITY);
}

static void softmax_sums_to_one_and_matches_double(void **state) {
    float x[333];
    double want[333], total = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = random_float(-30, 30);
        want[i] = exp((double)x[i] - 30);
        total += want[i];
    }
    vm_softmax(ARRAY_LEN(x), x);
    double sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        assert_true(fabs(x[i] - want[i] / total) < 4e-6 * want[i] / total);
        sum += x[i];
    }
    assert_true(fabs(sum - 1) < 1e-6);
}

static void rms_norm_matches_double_and_works_in_place(void **state) {
    float x[777], w[777], out[777];
    double squares = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = random_float(-3, 3);
        w[i] = random_float(0, 2);
        squares += (double)x[i] * x[i];
    }
    vm_rms_norm(ARRAY_LEN(x), x, w, 1e-5f, out);
    double r = 1 / sqrt(squares / (double)ARRAY_LEN(x) + 1e-5);
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        assert_true(fabs(out[i] - x[i] * r * w[i]) <=
                    1e-6 * fabs(x[i] * r) * w[i]);
    }
    vm_rms_norm(ARRAY_LEN(x), x, w, 1e-5f, x);
    assert_memory_equal(x, out, sizeof(x));
}

static void rms_norm_needs_no_weights(void **state) {
    float x[] = {3, -4, 0, 0}; /* mean square 25 / 4 */
    (void)state;
    vm_rms_norm(4, x, NULL, 0.0f, x);
    assert_true(x[0] == 3 * 0.4f && x[1] == -4 * 0.4f && x[2] == 0);
}

/* By hand: mean 3, deviations -2, 0, 2, 0, mean square 2, with eps 2: 2 / 4. */
static void layer_norm_takes_the_mean_away(void **state) {
    float x[] = {1, 3, 5, 3}, out[4];
    const float w[] = {1, 1, 3, 1};
    (void)state;
    vm_layer_norm(4, x, w, 2.0f, out);
    assert_true(out[0] == -1 && out[1] == 0 && out[2] == 3 && out[3] == 0);
    vm_layer_norm(4, x, w, 2.0f, x);
    assert_memory_equal(x, out, sizeof(out));
    const float flat[] = {7, 7, 7, 7};
    vm_layer_norm(4, flat, w, 1e-5f, out);
    assert_true(out[0] == 0 && out[3] == 0);
}

static void dot_adds_sixteen_lanes_and_folds_them(void **state) {
    float x[37], y[37], lane[16] = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = random_float(-10, 10);
        y[i] = random_float(-10, 10);
        lane[i % 16] = fmaf(x[i], y[i], lane[i % 16]);
    }
    for (size_t half = 8; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] = lane[j] + lane[j + half];
        }
    }
    assert_true(vm_dot(ARRAY_LEN(x), x, y) == lane[0]);
}

static void clamp_keeps_values_within_the_limit(void **state) {
    float x[] = {-9, -8, -0.5f, 0, 8, 8.5f, INFINITY, -INFINITY, NAN};
    (void)state;
    vm_clamp(ARRAY_LEN(x), x, 8);
    const float want[] = {-8, -8, -0.5f, 0, 8, 8, 8, -8};
    assert_memory_equal(x, want, sizeof(want));
    assert_true(isnan(x[8]));
}

static void softcap_matches_double(void **state) {
    (void)state;
    for (double x = -200; x < 200; x += 0.0173) {
        float in = (float)x;
        double want = 30 * tanh((double)in / 30);
        assert_true(fabs((double)vm_softcapf(in, 30) - want) < 3e-5);
    }
    assert_true(vm_softcapf(INFINITY, 15) == 15);
    assert_true(vm_softcapf(-INFINITY, 15) == -15);
    assert_true(vm_softcapf(0, 15) == 0);
    assert_true(isnan(vm_softcapf(NAN, 15)));
}

static void silu_mul_matches_double(void **state) {
    (void)state;
    for (float gate = -80; gate < 80; gate += 0.137f) {
        float up = 1.7f, out;
        vm_silu_mul(1, &gate, &up, &out);
        double want = gate / (1 + exp(-(double)gate)) * up;
        assert_true(fabs(out - want) <= 1e-6 * fabs(want));
    }
}

static void gelu_mul_matches_double(void **state) {
    (void)state;
    for (double x = -60; x < 60; x += 0.0137) {
        float gate = (float)x, up = -1.3f, out;
        vm_gelu_mul(1, &gate, &up, &out);
        double g = gate;
        double inner = sqrt(2 / acos(-1.0)) * (g + 0.044715 * g * g * g);
        double want = 0.5 * g * (1 + tanh(inner)) * (double)up;
        assert_true(fabs(out - want) <= 1e-6 * fabs(g * (double)up));
    }
}

/* Values of the formula in double precision, on both sides of each bound. */
static void
swiglu_clamped_bounds_gate_above_and_up_on_both_sides(void **state) {
    static const struct {
        float gate, up;
        double want;
    } cases[] = {
        {0.0f, 3.0f, 0.0},
        {1.0f, 0.0f, 0.8457957659328212}, /* 1 / (1 + exp(-1.702)) */
        {1.0f, -1.0f, 0.0},               /* up + 1 */
        {7.0f, 1.0f, 13.999906256606636}, /* 2 * 7 / (1 + exp(-11.914)) */
        {100.0f, 1.0f, 13.999906256606636},
        {1.0f, 50.0f, 6.7663661274625700}, /* 8 times the first */
        {1.0f, -50.0f, -5.074774595596928},
        {-9.0f, 7.0f, -1.602542389246808e-05}, /* gate has no bound below */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        float out;
        vm_swiglu_clamped(1, &cases[i].gate, &cases[i].up, &out);
        double want = cases[i].want;
        assert_true(fabs(out - want) <= 2e-6 * fabs(want));
    }
    const float infinite[] = {INFINITY, -INFINITY};
    for (size_t i = 0; i < 2; i++) {
        const float one = 1.0f;
        float out;
        vm_swiglu_clamped(1, &one, &infinite[i], &out);
        assert_true(isfinite(out));
    }
}

/* ---- equal bits ---- */

/* A level may return another NaN, never another number. */
static bool same_bits(size_t n, const float *a, const float *b) {
    for (size_t i = 0; i < n; i++) {
        if (a[i] != a[i] && b[i] != b[i]) continue;
        if (memcmp(&a[i], &b[i], sizeof(a[i])) != 0) return false;
    }
    return true;
}

enum { TAME, STEEP, WILD, KINDS };

/* TAME: activations.  STEEP: exponents that reach every limit.  WILD: any bit
 * pattern, among them NaN, infinities and subnormals. */
static void fill(int kind, size_t n, float *x) {
    for (size_t i = 0; i < n; i++) {
        switch (kind) {
        case TAME:
            x[i] = random_float(-4, 4);
            break;
        case STEEP:
            x[i] = random_float(-110, 110);
            break;
        default:
            x[i] = float_from(random_bits());
            break;
        }
    }
}

enum { N_SCALARS = 5, N_ROWS = 14 };

/* Every row operation's results at the level in force, one after the other in
 * `out` [N_ROWS][n] and `scalars`.  out[i][n] is a guard that must survive. */
static void run_rows(size_t n, const float *x, const float *y,
                     float (*out)[MAX_N + 1], float *scalars) {
    for (int i = 0; i < N_ROWS; i++) {
        memcpy(out[i], x, n * sizeof(float));
        out[i][n] = 12345.0f;
    }
    vm_silu_mul(n, x, y, out[0]);
    vm_rms_norm(n, x, y, 1e-6f, out[1]);
    vm_add(n, out[2], y);
    vm_axpy(n, out[3], 1.37f, y);
    vm_softmax(n, out[4]);
    vm_silu_mul(n, out[5], y, out[5]);
    vm_gelu_mul(n, x, y, out[6]);
    vm_swiglu_clamped(n, x, y, out[7]);
    vm_swiglu_clamped(n, y, out[8], out[8]);
    vm_rms_norm(n, x, NULL, 1e-6f, out[9]);
    vm_layer_norm(n, x, y, 1e-5f, out[10]);
    vm_scale(n, out[11], -1.37f);
    vm_clamp(n, out[12], 2.5f);
    vm_softcap(n, out[13], 30.0f);
    scalars[0] = vm_sum(n, x);
    scalars[1] = vm_sum_squares(n, x);
    scalars[2] = vm_max(n, x);
    scalars[3] = vm_sum(n, out[4]);
    scalars[4] = vm_dot(n, x, y);
    for (int i = 0; i < N_ROWS; i++) {
        assert_true(out[i][n] == 12345.0f);
    }
}

static void compare_levels(int kind, size_t n) {
    static float x[MAX_N], y[MAX_N];
    static float want[N_ROWS][MAX_N + 1], got[N_ROWS][MAX_N + 1];
    float want_scalars[N_SCALARS], got_scalars[N_SCALARS];

    fill(kind, n, x);
    fill(kind, n, y);
    assert_int_equal(cpu_force(CPU_SCALAR), 0);
    run_rows(n, x, y, want, want_scalars);
    for (cpu_level level = CPU_AVX2; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        run_rows(n, x, y, got, got_scalars);
        for (int i = 0; i < N_ROWS; i++) {
            assert_true(same_bits(n, want[i], got[i]));
        }
        assert_true(same_bits(N_SCALARS, want_scalars, got_scalars));
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

static void rows_have_equal_bits_at_every_level(void **state) {
    const size_t large[] = {127, 128, 255, 1000, 1024, 2049, 4096, MAX_N};
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        for (size_t n = 0; n <= 100; n++) {
            compare_levels(kind, n);
        }
        for (size_t i = 0; i < ARRAY_LEN(large); i++) {
            compare_levels(kind, large[i]);
        }
    }
}

/* One special value among ordinary ones, in every lane and in the tail. */
static void special_values_have_equal_bits_in_every_lane(void **state) {
    const float specials[] = {NAN,
                              -NAN,
                              INFINITY,
                              -INFINITY,
                              0.0f,
                              -0.0f,
                              0x1p-149f,
                              -0x1p-127f,
                              3.4e38f,
                              -3.4e38f,
                              float_from(0x7f800001)};
    float x[23], want[23], got[23];
    (void)state;
    for (size_t s = 0; s < ARRAY_LEN(specials); s++) {
        for (size_t at = 0; at < ARRAY_LEN(x); at++) {
            fill(TAME, ARRAY_LEN(x), x);
            x[at] = specials[s];
            memcpy(want, x, sizeof(x));
            assert_int_equal(cpu_force(CPU_SCALAR), 0);
            float want_max = vm_max(ARRAY_LEN(x), x);
            vm_softmax(ARRAY_LEN(x), want);
            for (cpu_level level = CPU_AVX2; level <= cpu_best(); level++) {
                assert_int_equal(cpu_force(level), 0);
                memcpy(got, x, sizeof(x));
                float got_max = vm_max(ARRAY_LEN(x), x);
                vm_softmax(ARRAY_LEN(x), got);
                assert_true(same_bits(ARRAY_LEN(x), want, got));
                assert_true(same_bits(1, &want_max, &got_max));
            }
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

/* A fine grid through exp's whole range, limits included. */
static void vector_exp_follows_the_scalar_one_densely(void **state) {
    static float gate[4096], up[4096], want[4096], got[4096];
    (void)state;
    float x = -120.0f;
    while (x < 120.0f) {
        for (size_t i = 0; i < ARRAY_LEN(gate); i++) {
            gate[i] = x;
            up[i] = 1.0f;
            x += 0.00071f;
        }
        assert_int_equal(cpu_force(CPU_SCALAR), 0);
        vm_silu_mul(ARRAY_LEN(gate), gate, up, want);
        for (cpu_level level = CPU_AVX2; level <= cpu_best(); level++) {
            assert_int_equal(cpu_force(level), 0);
            vm_silu_mul(ARRAY_LEN(gate), gate, up, got);
            assert_memory_equal(want, got, sizeof(got));
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expf_is_within_a_millionth),
        cmocka_unit_test(expf_has_the_documented_limits),
        cmocka_unit_test(expf_never_falls),
        cmocka_unit_test(sigmoid_is_accurate_and_saturates),
        cmocka_unit_test(exp_is_within_1e_12),
        cmocka_unit_test(log_is_within_1e_12),
        cmocka_unit_test(pow_is_within_1e_12),
        cmocka_unit_test(sincos_is_within_1e_12_up_to_ten_million),
        cmocka_unit_test(sincos_of_what_has_no_angle_is_nan),
        cmocka_unit_test(tanh_is_within_1e_12),
        cmocka_unit_test(sum_adds_sixteen_lanes_and_folds_them),
        cmocka_unit_test(an_empty_row_has_sum_zero_and_no_maximum),
        cmocka_unit_test(max_passes_over_nan),
        cmocka_unit_test(softmax_sums_to_one_and_matches_double),
        cmocka_unit_test(rms_norm_matches_double_and_works_in_place),
        cmocka_unit_test(rms_norm_needs_no_weights),
        cmocka_unit_test(layer_norm_takes_the_mean_away),
        cmocka_unit_test(dot_adds_sixteen_lanes_and_folds_them),
        cmocka_unit_test(clamp_keeps_values_within_the_limit),
        cmocka_unit_test(softcap_matches_double),
        cmocka_unit_test(silu_mul_matches_double),
        cmocka_unit_test(gelu_mul_matches_double),
        cmocka_unit_test(swiglu_clamped_bounds_gate_above_and_up_on_both_sides),
        cmocka_unit_test(rows_have_equal_bits_at_every_level),
        cmocka_unit_test(special_values_have_equal_bits_in_every_lane),
        cmocka_unit_test(vector_exp_follows_the_scalar_one_densely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
