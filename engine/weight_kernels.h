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
extern const weight_format weight_q8_0;
extern const weight_format weight_q4_k;
extern const weight_format weight_q5_k;
extern const weight_format weight_q6_k;

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

void weight_q4_0_mul_a8_avx2(WEIGHT_MUL_ARGS);
void weight_q4_0_mul_a8_avx512(WEIGHT_MUL_ARGS);
void weight_q4_0_mul_f32_avx2(WEIGHT_MUL_ARGS);
void weight_q4_0_mul_f32_avx512(WEIGHT_MUL_ARGS);

void weight_q8_0_mul_a8_avx2(WEIGHT_MUL_ARGS);
void weight_q8_0_mul_a8_avx512(WEIGHT_MUL_ARGS);
void weight_q8_0_mul_f32_avx2(WEIGHT_MUL_ARGS);
void weight_q8_0_mul_f32_avx512(WEIGHT_MUL_ARGS);

void weight_q4_k_mul_a8_avx2(WEIGHT_MUL_ARGS);
void weight_q4_k_mul_a8_avx512(WEIGHT_MUL_ARGS);
void weight_q4_k_mul_f32_avx2(WEIGHT_MUL_ARGS);
void weight_q4_k_mul_f32_avx512(WEIGHT_MUL_ARGS);

void weight_q5_k_mul_a8_avx2(WEIGHT_MUL_ARGS);
void weight_q5_k_mul_a8_avx512(WEIGHT_MUL_ARGS);
void weight_q5_k_mul_f32_avx2(WEIGHT_MUL_ARGS);
void weight_q5_k_mul_f32_avx512(WEIGHT_MUL_ARGS);
void weight_q6_k_mul_a8_avx2(WEIGHT_MUL_ARGS);
void weight_q6_k_mul_a8_avx512(WEIGHT_MUL_ARGS);
void weight_q6_k_mul_f32_avx2(WEIGHT_MUL_ARGS);
void weight_q6_k_mul_f32_avx512(WEIGHT_MUL_ARGS);

/* acc[r] = fmaf(w[r], x, acc[r]) for the 16 rows of a group: the inner step of
 * the scalar F32 kernels.  Uses the CPU's FMA if it has one, since the library
 * call is 20 times slower; the bits are fmaf()'s in any case. */
void weight_fma_rows(float *restrict acc, const float *restrict w, float x);

/* ---- Q8_0, packed ----
 * A group is all its scales, then all its values, so that the values' 64-byte
 * chunks are aligned: per block 16 f16 scales, one a row; per block 8 chunks of
 * 16 rows x 4 consecutive values, stored as int8 ^ 0x80 (that is value + 128),
 * the form in which vpdpbusd wants its first operand. */
#define Q8_0_LEN 32
#define Q8_0_BYTES 34
#define Q8_0_CHUNK 64
#define Q8_0_PACKED_SCALES (WEIGHT_GROUP * sizeof(uint16_t))
#define Q8_0_PACKED_VALUES (WEIGHT_GROUP * Q8_0_LEN)

static inline size_t q8_0_values_offset(size_t cols) {
    size_t scales = cols / Q8_0_LEN * Q8_0_PACKED_SCALES;
    return (scales + Q8_0_CHUNK - 1) / Q8_0_CHUNK * Q8_0_CHUNK;
}
static inline size_t q8_0_group_bytes(size_t cols) {
    return q8_0_values_offset(cols) + cols / Q8_0_LEN * Q8_0_PACKED_VALUES;
}

#endif
