/* vmath.h - elementary functions and row operations with fixed bits.
 *
 * glibc's functions differ in the last bit between machines; these use only
 * IEEE +, -, *, / and fma in a written order, so scalar, AVX2 and AVX-512
 * versions agree on every bit.  Accuracy is stated per function. */
#ifndef ENGINE_VMATH_H
#define ENGINE_VMATH_H

#include <stddef.h>

/* exp(x) in f32, below 1e-6 relative error on [-87, 88]; 0 below -87.3,
 * infinity above 88.72; NaN stays NaN. */
float vm_expf(float x);

/* Double precision, below 1e-12 relative (sin, cos: absolute) error for the
 * ranges a model needs: |x| <= 1e7 for sin and cos, x > 0 for log. */
double vm_exp(double x);
double vm_log(double x);
double vm_pow(double base, double exponent); /* base > 0 */
void vm_sincos(double x, double *sin_out, double *cos_out);
double vm_tanh(double x);
float vm_sigmoidf(float x); /* 1 / (1 + vm_expf(-x)) */

/* out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]: the product is last. */
void vm_silu_mul(size_t n, const float *gate, const float *up, float *out);

/* The tanh form of GELU: with z = sqrt(8 / pi) * (x + 0.044715 x^3),
 * 0.5 x (1 + tanh(z / 2)) = x / (1 + exp(-z)); z as x * fma(x * x, C3, C1), and
 * the product with up is last.  The error is below 1e-6 * |x * up|. */
void vm_gelu_mul(size_t n, const float *gate, const float *up, float *out);

/* With g = min(gate, 7) and u = up clamped to [-7, 7]:
 * out = g / (1 + exp(-(1.702 * g))) * (u + 1), the product last. */
void vm_swiglu_clamped(size_t n, const float *gate, const float *up,
                       float *out);

/* Sum in the contract's order: 16 lanes, lane j adds x[j], x[j+16], ...;
 * then lanes fold 8, 4, 2, 1 (lane j += lane j + 8, ...). */
float vm_sum(size_t n, const float *x);
float vm_sum_squares(size_t n, const float *x); /* acc = fmaf(x, x, acc) */
float vm_dot(size_t n, const float *x, const float *y); /* fmaf(x, y, acc) */
float vm_max(size_t n, const float *x);                 /* -inf for n = 0 */

/* out = x / sqrt(mean(x^2) + eps) * w, as (x * r) * w with
 * r = 1 / sqrtf(sum / n + eps); w NULL: x * r.  out may be x. */
void vm_rms_norm(size_t n, const float *x, const float *w, float eps,
                 float *out);
/* The same of d = x - vm_sum(x) / n. */
void vm_layer_norm(size_t n, const float *x, const float *w, float eps,
                   float *out);

/* x[i] += y[i]; x[i] = fmaf(a, y[i], x[i]); x[i] *= a. */
void vm_add(size_t n, float *x, const float *y);
void vm_axpy(size_t n, float *x, float a, const float *y);
void vm_scale(size_t n, float *x, float a);

/* Values below -limit become it, above limit it; NaN stays. */
void vm_clamp(size_t n, float *x, float limit);

/* x = cap * tanh(x / cap), as cap * (1 - 2 / (exp(2 * (x / cap)) + 1)): below
 * 1e-6 * cap of absolute error. */
void vm_softcap(size_t n, float *x, float cap);
float vm_softcapf(float x, float cap);

/* Softmax over x in place: exp(x - max) / sum. */
void vm_softmax(size_t n, float *x);

#endif
