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

/* 1 + exp(-a) */
V16_INLINE v16 one_and_exp(v16 a) {
    return v16_add(v16_set(1.0f), v16_exp(v16_neg(a)));
}

V16_INLINE v16 silu_mul_lanes(v16 gate, v16 up) {
    return v16_mul(v16_div(gate, one_and_exp(gate)), up);
}

V16_INLINE v16 gelu_mul_lanes(v16 gate, v16 up) {
    v16 square = v16_mul(gate, gate);
    v16 slope = v16_fma(square, v16_set(VM_GELU_C3), v16_set(VM_GELU_C1));
    v16 z = v16_mul(gate, slope);
    return v16_mul(v16_div(gate, one_and_exp(z)), up);
}

V16_INLINE v16 swiglu_clamped_lanes(v16 gate, v16 up) {
    const v16 most = v16_set(VM_CLAMP_LIMIT), least = v16_set(-VM_CLAMP_LIMIT);
    v16 g = v16_if_less(most, gate, most, gate);
    v16 u = v16_if_less(most, up, most, up);
    u = v16_if_less(u, least, least, u);
    v16 below = one_and_exp(v16_mul(v16_set(VM_CLAMP_SLOPE), g));
    return v16_mul(v16_div(g, below), v16_add(u, v16_set(1.0f)));
}

/* One of these over rows of any length. */
V16_INLINE void join(v16 (*lanes)(v16 gate, v16 up), size_t n,
                     const float *gate, const float *up, float *out) {
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(out + i, lanes(v16_load(gate + i), v16_load(up + i)));
    }
    if (i == n) return;
    v16 last = lanes(v16_load_n(gate + i, n - i), v16_load_n(up + i, n - i));
    v16_store_n(out + i, n - i, last);
}

static void silu_mul(size_t n, const float *gate, const float *up, float *out) {
    join(silu_mul_lanes, n, gate, up, out);
}

static void gelu_mul(size_t n, const float *gate, const float *up, float *out) {
    join(gelu_mul_lanes, n, gate, up, out);
}

static void swiglu_clamped(size_t n, const float *gate, const float *up,
                           float *out) {
    join(swiglu_clamped_lanes, n, gate, up, out);
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

static float dot(size_t n, const float *x, const float *y) {
    v16 acc = v16_set(0.0f);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        acc = v16_fma(v16_load(x + i), v16_load(y + i), acc);
    }
    if (i < n) {
        acc = v16_fma(v16_load_n(x + i, n - i), v16_load_n(y + i, n - i), acc);
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

static void times(size_t n, const float *x, float a, float *out) {
    const v16 factor = v16_set(a);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(out + i, v16_mul(v16_load(x + i), factor));
    }
    if (i == n) return;
    v16_store_n(out + i, n - i, v16_mul(v16_load_n(x + i, n - i), factor));
}

static void minus(size_t n, const float *x, float a, float *out) {
    const v16 less = v16_set(a);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(out + i, v16_sub(v16_load(x + i), less));
    }
    if (i == n) return;
    v16_store_n(out + i, n - i, v16_sub(v16_load_n(x + i, n - i), less));
}

V16_INLINE v16 clamp_lanes(v16 x, v16 low, v16 high) {
    x = v16_if_less(x, low, low, x);
    return v16_if_less(high, x, high, x);
}

static void clamp(size_t n, float *x, float limit) {
    const v16 low = v16_set(-limit), high = v16_set(limit);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(x + i, clamp_lanes(v16_load(x + i), low, high));
    }
    if (i == n) return;
    v16 last = clamp_lanes(v16_load_n(x + i, n - i), low, high);
    v16_store_n(x + i, n - i, last);
}

static void softcap(size_t n, float *x, float cap) {
    const v16 limit = v16_set(cap);
    size_t i = 0;
    for (; i + V16_LANES <= n; i += V16_LANES) {
        v16_store(x + i, v16_softcap(v16_load(x + i), limit));
    }
    if (i == n) return;
    v16_store_n(x + i, n - i, v16_softcap(v16_load_n(x + i, n - i), limit));
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
    .gelu_mul = gelu_mul,
    .swiglu_clamped = swiglu_clamped,
    .sum = sum,
    .sum_squares = sum_squares,
    .dot = dot,
    .max = max,
    .scale = scale,
    .times = times,
    .minus = minus,
    .clamp = clamp,
    .softcap = softcap,
    .add = add,
    .axpy = axpy,
    .exp_shifted = exp_shifted,
    .divide = divide,
};
