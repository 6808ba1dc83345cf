/* vmath.c - f32 functions and row operations: the reference loops, and the
 * choice of a level.
 *
 * The loops here define the bits.  vmath_rows.h states the same operations
 * sixteen lanes at a time for AVX2 and AVX-512, with vec16.h's exp following
 * vm_expf() operation by operation.  fmaf() is exact on every machine (in
 * software where the CPU has no FMA), so it may come from libm; nothing else
 * does.  Double precision is in vmath_double.c. */
#include "engine/vmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/vmath_internal.h"

/* p * 2^n, where the low bits of `rounded` hold n (vmath_internal.h).  The
 * caller's limits keep the result a normal number. */
static float scale_by_rounded(float p, float rounded) {
    uint32_t bits, n;
    memcpy(&bits, &p, sizeof(bits));
    memcpy(&n, &rounded, sizeof(n));
    bits += n << 23;
    memcpy(&p, &bits, sizeof(p));
    return p;
}

float vm_expf(float x) {
    if (x != x) return NAN;
    if (x < VM_EXPF_LOW) return 0.0f;
    if (x > VM_EXPF_HIGH) return INFINITY;

    float rounded = fmaf(x, VM_EXPF_LOG2E, VM_EXPF_ROUND);
    float n = rounded - VM_EXPF_ROUND;
    float r = fmaf(n, -VM_EXPF_LN2_HI, x);
    r = fmaf(n, -VM_EXPF_LN2_LO, r);

    float p = VM_EXPF_C6;
    p = fmaf(p, r, VM_EXPF_C5);
    p = fmaf(p, r, VM_EXPF_C4);
    p = fmaf(p, r, VM_EXPF_C3);
    p = fmaf(p, r, VM_EXPF_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return scale_by_rounded(p, rounded);
}

float vm_sigmoidf(float x) {
    return 1.0f / (1.0f + vm_expf(-x));
}

float vm_softcapf(float x, float cap) {
    float e = vm_expf(2.0f * (x / cap));
    return cap * (1.0f - 2.0f / (e + 1.0f));
}

/* ---- reference loops ---- */

static void silu_mul(size_t n, const float *gate, const float *up, float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = gate[i] / (1.0f + vm_expf(-gate[i])) * up[i];
    }
}

static void gelu_mul(size_t n, const float *gate, const float *up, float *out) {
    for (size_t i = 0; i < n; i++) {
        float x = gate[i];
        float z = x * fmaf(x * x, VM_GELU_C3, VM_GELU_C1);
        out[i] = x / (1.0f + vm_expf(-z)) * up[i];
    }
}

static void swiglu_clamped(size_t n, const float *gate, const float *up,
                           float *out) {
    for (size_t i = 0; i < n; i++) {
        float g = VM_CLAMP_LIMIT < gate[i] ? VM_CLAMP_LIMIT : gate[i];
        float u = VM_CLAMP_LIMIT < up[i] ? VM_CLAMP_LIMIT : up[i];
        u = u < -VM_CLAMP_LIMIT ? -VM_CLAMP_LIMIT : u;
        out[i] = g / (1.0f + vm_expf(-(VM_CLAMP_SLOPE * g))) * (u + 1.0f);
    }
}

static float fold_sum(float lane[VM_LANES]) {
    for (size_t half = VM_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lane[j] += lane[j + half];
        }
    }
    return lane[0];
}

static float sum(size_t n, const float *x) {
    float lane[VM_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lane[i % VM_LANES] += x[i];
    }
    return fold_sum(lane);
}

static float sum_squares(size_t n, const float *x) {
    float lane[VM_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lane[i % VM_LANES] = fmaf(x[i], x[i], lane[i % VM_LANES]);
    }
    return fold_sum(lane);
}

static float dot(size_t n, const float *x, const float *y) {
    float lane[VM_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lane[i % VM_LANES] = fmaf(x[i], y[i], lane[i % VM_LANES]);
    }
    return fold_sum(lane);
}

/* A NaN is never larger, so it is passed over.  The lanes decide which zero is
 * returned where the maximum is both +0 and -0. */
static float max(size_t n, const float *x) {
    float lane[VM_LANES];
    for (size_t j = 0; j < VM_LANES; j++) {
        lane[j] = -INFINITY;
    }
    for (size_t i = 0; i < n; i++) {
        float *best = &lane[i % VM_LANES];
        if (x[i] > *best) *best = x[i];
    }
    for (size_t half = VM_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            if (lane[j + half] > lane[j]) lane[j] = lane[j + half];
        }
    }
    return lane[0];
}

static void scale(size_t n, const float *x, float r, const float *w,
                  float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = (x[i] * r) * w[i];
    }
}

static void times(size_t n, const float *x, float a, float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = x[i] * a;
    }
}

static void minus(size_t n, const float *x, float a, float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = x[i] - a;
    }
}

static void clamp(size_t n, float *x, float limit) {
    for (size_t i = 0; i < n; i++) {
        if (x[i] < -limit) x[i] = -limit;
        if (limit < x[i]) x[i] = limit;
    }
}

static void softcap(size_t n, float *x, float cap) {
    for (size_t i = 0; i < n; i++) {
        x[i] = vm_softcapf(x[i], cap);
    }
}

static void add(size_t n, float *x, const float *y) {
    for (size_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

static void axpy(size_t n, float *x, float a, const float *y) {
    for (size_t i = 0; i < n; i++) {
        x[i] = fmaf(a, y[i], x[i]);
    }
}

static void exp_shifted(size_t n, float *x, float shift) {
    for (size_t i = 0; i < n; i++) {
        x[i] = vm_expf(x[i] - shift);
    }
}

static void divide(size_t n, float *x, float divisor) {
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] / divisor;
    }
}

/* ---- dispatch ---- */

static const vmath_rows rows_scalar = {
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

static const vmath_rows *const rows_by_level[CPU_LEVELS] = {
    [CPU_SCALAR] = &rows_scalar,
    [CPU_AVX2] = &vmath_rows_avx2,
    [CPU_AVX512] = &vmath_rows_avx512,
};

static const vmath_rows *rows(void) {
    return rows_by_level[cpu_current()];
}

void vm_silu_mul(size_t n, const float *gate, const float *up, float *out) {
    rows()->silu_mul(n, gate, up, out);
}

void vm_gelu_mul(size_t n, const float *gate, const float *up, float *out) {
    rows()->gelu_mul(n, gate, up, out);
}

void vm_swiglu_clamped(size_t n, const float *gate, const float *up,
                       float *out) {
    rows()->swiglu_clamped(n, gate, up, out);
}

float vm_sum(size_t n, const float *x) {
    return rows()->sum(n, x);
}

float vm_sum_squares(size_t n, const float *x) {
    return rows()->sum_squares(n, x);
}

float vm_max(size_t n, const float *x) {
    return rows()->max(n, x);
}

float vm_dot(size_t n, const float *x, const float *y) {
    return rows()->dot(n, x, y);
}

void vm_rms_norm(size_t n, const float *x, const float *w, float eps,
                 float *out) {
    const vmath_rows *level = rows();
    float r = 1.0f / sqrtf(level->sum_squares(n, x) / (float)n + eps);
    if (w == NULL) {
        level->times(n, x, r, out);
    } else {
        level->scale(n, x, r, w, out);
    }
}

void vm_layer_norm(size_t n, const float *x, const float *w, float eps,
                   float *out) {
    const vmath_rows *level = rows();
    level->minus(n, x, level->sum(n, x) / (float)n, out);
    vm_rms_norm(n, out, w, eps, out);
}

void vm_scale(size_t n, float *x, float a) {
    rows()->times(n, x, a, x);
}

void vm_clamp(size_t n, float *x, float limit) {
    rows()->clamp(n, x, limit);
}

void vm_softcap(size_t n, float *x, float cap) {
    rows()->softcap(n, x, cap);
}

void vm_add(size_t n, float *x, const float *y) {
    rows()->add(n, x, y);
}

void vm_axpy(size_t n, float *x, float a, const float *y) {
    rows()->axpy(n, x, a, y);
}

void vm_softmax(size_t n, float *x) {
    const vmath_rows *level = rows();
    level->exp_shifted(n, x, level->max(n, x));
    level->divide(n, x, level->sum(n, x));
}
