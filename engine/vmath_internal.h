/* vmath_internal.h - what the levels of vmath share: the constants of exp in
 * f32 and the table of row operations that each level fills.  Only vmath*.c,
 * vec16.h and attention include it. */
#ifndef ENGINE_VMATH_INTERNAL_H
#define ENGINE_VMATH_INTERNAL_H

#include <stddef.h>

/* exp(x) = 2^n * p(r), n = x / ln 2 rounded to even, r = x - n * ln 2.
 *
 * Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the
 * sum, from where it is shifted into p's exponent.  Subtracting n * LN2_HI by
 * fma is exact; LN2_LO is the rest of ln 2.  The polynomial is 1 + r + r^2 *
 * (C2 + C3 r + ...) with least relative error (3.1e-9) on |r| <= ln(2) / 2.
 * Within the limits n is in [-126, 128] and the result is a normal number. */
#define VM_EXPF_LOW (-87.3f) /* below: 0 */
#define VM_EXPF_HIGH 88.72f  /* above: infinity */
#define VM_EXPF_ROUND 12582912.0f
#define VM_EXPF_LOG2E 0x1.715476p+0f
#define VM_EXPF_LN2_HI 0x1.62e430p-1f
#define VM_EXPF_LN2_LO (-0x1.05c610p-29f)
#define VM_EXPF_C2 0x1.fffffcp-2f
#define VM_EXPF_C3 0x1.555492p-3f
#define VM_EXPF_C4 0x1.5558f2p-5f
#define VM_EXPF_C5 0x1.123a20p-7f
#define VM_EXPF_C6 0x1.6a23cep-10f

/* GELU's argument: sqrt(8 / pi), and 0.044715 times that. */
#define VM_GELU_C1 0x1.988454p+0f
#define VM_GELU_C3 0x1.2444f2p-4f

/* The clamped SwiGLU's bound and slope. */
#define VM_CLAMP_LIMIT 7.0f
#define VM_CLAMP_SLOPE 1.702f

/* Lanes of a sum or maximum: see vm_sum(). */
#define VM_LANES 16

/* One level's loops, for any n.  A value is computed by the same operations in
 * the same order at every level; a NaN is a NaN at every level, but which NaN
 * is left to the CPU. */
typedef struct {
    void (*silu_mul)(size_t n, const float *gate, const float *up, float *out);
    void (*gelu_mul)(size_t n, const float *gate, const float *up, float *out);
    void (*swiglu_clamped)(size_t n, const float *gate, const float *up,
                           float *out);
    float (*sum)(size_t n, const float *x);
    float (*sum_squares)(size_t n, const float *x);
    float (*dot)(size_t n, const float *x, const float *y);
    float (*max)(size_t n, const float *x);
    /* out[i] = (x[i] * r) * w[i] */
    void (*scale)(size_t n, const float *x, float r, const float *w,
                  float *out);
    /* out[i] = x[i] * a, and x[i] - a */
    void (*times)(size_t n, const float *x, float a, float *out);
    void (*minus)(size_t n, const float *x, float a, float *out);
    void (*clamp)(size_t n, float *x, float limit);
    void (*softcap)(size_t n, float *x, float cap);
    void (*add)(size_t n, float *x, const float *y);
    void (*axpy)(size_t n, float *x, float a, const float *y);
    /* x[i] = exp(x[i] - shift) */
    void (*exp_shifted)(size_t n, float *x, float shift);
    /* x[i] = x[i] / divisor */
    void (*divide)(size_t n, float *x, float divisor);
} vmath_rows;

extern const vmath_rows vmath_rows_avx2;
extern const vmath_rows vmath_rows_avx512;

#endif
