/* vmath_rows.h - vmath.c's reference loops, sixteen lanes at a time.
 *
 * Included once by vmath_avx2.c and once by vmath_avx512.c, which define the
 * level for vec16.h and name the table, VMATH_ROWS.  A tail is one more step
 * over its first lanes; in sums the other lanes add +0, which changes nothing,
 * since a lane that started at +0 never becomes -0. */
#ifndef VMATH_ROWS
#error "vmath_rows.h is the body of vmath_avx2.c and vmath_avx512.c"
#endif

#include <math.h>
#include "engine/vec16.h"
#include "engine/vmath_internal.h"

V16_INLINE v16 silu_mul_lanes(v16 gate, v16 up) {
    v16 below = v16_add(v16_set(1.0f), v16_exp(v16_neg(gate)));
    return v16_mul(v16_div(gate, below), up);
}

static void silu_mul(size_t n, const float *gate, const float *up, float *out) {
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(out + i,
                  silu_mul_lanes(v16_load(gate + i), v16_load(up + i)));
    }
    if (i == n) return;
    v16 last =
        silu_mul_lanes(v16_load_n(gate + i, n - i), v16_load_n(up + i, n - i));
    v16_store_n(out + i, n - i, last);
}

static float sum(size_t n, const float *x) {
    v16 acc = v16_set(0.0f);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        acc = v16_add(acc, v16_load(x + i));
    }
    if (i < n) acc = v16_add(acc, v16_load_n(x + i, n - i));
    return v16_fold_sum(acc);
}

static float sum_squares(size_t n, const float *x) {
    v16 acc = v16_set(0.0f);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16 a = v16_load(x + i);
        acc = v16_fma(a, a, acc);
    }
    if (i < n) {
        v16 a = v16_load_n(x + i, n - i);
        acc = v16_fma(a, a, acc);
    }
    return v16_fold_sum(acc);
}

static float max(size_t n, const float *x) {
    const v16 lowest = v16_set(-INFINITY);
    v16 best = lowest;
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        best = v16_max(v16_load(x + i), best);
    }
    if (i < n) {
        v16 last = v16_first_n(n - i, v16_load_n(x + i, n - i), lowest);
        best = v16_max(last, best);
    }
    return v16_fold_max(best);
}

static void scale(size_t n, const float *x, float r, const float *w,
                  float *out) {
    const v16 factor = v16_set(r);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16 a = v16_mul(v16_load(x + i), factor);
        v16_store(out + i, v16_mul(a, v16_load(w + i)));
    }
    if (i == n) return;
    v16 a = v16_mul(v16_load_n(x + i, n - i), factor);
    v16_store_n(out + i, n - i, v16_mul(a, v16_load_n(w + i, n - i)));
}

static void add(size_t n, float *x, const float *y) {
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(x + i, v16_add(v16_load(x + i), v16_load(y + i)));
    }
    if (i == n) return;
    v16 last = v16_add(v16_load_n(x + i, n - i), v16_load_n(y + i, n - i));
    v16_store_n(x + i, n - i, last);
}

static void axpy(size_t n, float *x, float a, const float *y) {
    const v16 factor = v16_set(a);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(x + i, v16_fma(factor, v16_load(y + i), v16_load(x + i)));
    }
    if (i == n) return;
    v16 last =
        v16_fma(factor, v16_load_n(y + i, n - i), v16_load_n(x + i, n - i));
    v16_store_n(x + i, n - i, last);
}

static void exp_shifted(size_t n, float *x, float shift) {
    const v16 less = v16_set(shift);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(x + i, v16_exp(v16_sub(v16_load(x + i), less)));
    }
    if (i == n) return;
    v16 last = v16_exp(v16_sub(v16_load_n(x + i, n - i), less));
    v16_store_n(x + i, n - i, last);
}

static void divide(size_t n, float *x, float divisor) {
    const v16 by = v16_set(divisor);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(x + i, v16_div(v16_load(x + i), by));
    }
    if (i == n) return;
    v16_store_n(x + i, n - i, v16_div(v16_load_n(x + i, n - i), by));
}

const vmath_rows VMATH_ROWS = {
    .silu_mul = silu_mul,
    .sum = sum,
    .sum_squares = sum_squares,
    .max = max,
    .scale = scale,
    .add = add,
    .axpy = axpy,
    .exp_shifted = exp_shifted,
    .divide = divide,
};
