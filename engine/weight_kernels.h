/* weight_kernels.h - what the files of the weight formats share.
 *
 * Private to weight*.c.  A format file defines its row of the table; files
 * named by a CPU level define that level's kernels. */
#ifndef ENGINE_WEIGHT_KERNELS_H
#define ENGINE_WEIGHT_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include "engine/weight.h"

extern const weight_format weight_f32;
extern const weight_format weight_f16;
extern const weight_format weight_bf16;
extern const weight_format weight_q4_0;
extern const weight_format weight_q4_1;
extern const weight_format weight_q5_0;
extern const weight_format weight_q5_1;
extern const weight_format weight_q8_0;
extern const weight_format weight_q2_k;
extern const weight_format weight_q3_k;
extern const weight_format weight_q4_k;
extern const weight_format weight_q5_k;
extern const weight_format weight_q6_k;
extern const weight_format weight_iq4_nl;
extern const weight_format weight_iq4_xs;
extern const weight_format weight_mxfp4;

/* A product's arguments are always the same. */
#define WEIGHT_MUL_ARGS                                                        \
    const void *packed, size_t cols, size_t group0, size_t group1,             \
        size_t col0, size_t col1, const void *const *x, size_t n_x,            \
        float *const *y

void weight_f32_mul_avx2(WEIGHT_MUL_ARGS);
void weight_f32_mul_avx512(WEIGHT_MUL_ARGS);
void weight_f16_mul_avx2(WEIGHT_MUL_ARGS);
void weight_f16_mul_avx512(WEIGHT_MUL_ARGS);
void weight_bf16_mul_avx2(WEIGHT_MUL_ARGS);
void weight_bf16_mul_avx512(WEIGHT_MUL_ARGS);

/* The fast kernels of a format that stores integers. */
#define WEIGHT_BLOCK_KERNELS(id)                                               \
    void weight_##id##_mul_a8_avx2(WEIGHT_MUL_ARGS);                           \
    void weight_##id##_mul_a8_avx512(WEIGHT_MUL_ARGS);                         \
    void weight_##id##_mul_f32_avx2(WEIGHT_MUL_ARGS);                          \
    void weight_##id##_mul_f32_avx512(WEIGHT_MUL_ARGS)

WEIGHT_BLOCK_KERNELS(q4_0);
WEIGHT_BLOCK_KERNELS(q4_1);
WEIGHT_BLOCK_KERNELS(q5_0);
WEIGHT_BLOCK_KERNELS(q5_1);
WEIGHT_BLOCK_KERNELS(q8_0);
WEIGHT_BLOCK_KERNELS(q2_k);
WEIGHT_BLOCK_KERNELS(q3_k);
WEIGHT_BLOCK_KERNELS(q4_k);
WEIGHT_BLOCK_KERNELS(q5_k);
WEIGHT_BLOCK_KERNELS(q6_k);
WEIGHT_BLOCK_KERNELS(iq4_nl);
WEIGHT_BLOCK_KERNELS(iq4_xs);
WEIGHT_BLOCK_KERNELS(mxfp4);

/* acc[r] = fmaf(w[r], x, acc[r]) for the 16 rows of a group: the inner step of
 * the scalar F32 kernels.  Uses the CPU's FMA if it has one, since the library
 * call is 20 times slower; the bits are fmaf()'s in any case. */
void weight_fma_rows(float *restrict acc, const float *restrict w, float x);

#endif
