/* weight.h - the table of weight formats: one row and one file a format.
 *
 * A format says how GGUF stores a block, how it is packed for the kernels and
 * which kernels multiply it.  Adding a format is adding a row in weight.c and a
 * file weight_<name>.c (with weight_<name>_avx2.c, _avx512.c where it has
 * fast kernels).
 *
 * Packed layout: rows in groups of 16 (the last group is padded with zero
 * rows), a group's blocks in ascending order, the 16 rows of a block
 * interleaved so that one SIMD lane works for one row.  The layout is the same
 * at every CPU level; it is an internal matter of the format's files.
 *
 * Numerics contract, for every kernel at every level: the result for (row,
 * activation) is one f32 accumulator, started at zero, blocks added in
 * ascending order:
 *   F32 form:  acc = fmaf(w, x, acc), one value after the other, w being the
 *              dequantized f32 weight
 *   A8 form:   isum = exact integer sum of the A8 block's 32 products, each
 *              times the weight's integer sub-scale in formats that have one
 *              (for 32 or for 16 values);
 *              acc = fmaf(w_scale * x_scale, (float)isum, acc); and in formats
 *              with a minimum, x_sum being the exact sum of the activations,
 *              acc = fmaf(-(w_min * w_sub_min), x_scale * x_sum, acc), where
 *              w_sub_min is 1 if there is none; in the format that has two
 *              sub-minima a block (Q2_K), msum = exact integer sum of the 32
 *              activations, each times its sub-minimum,
 *              acc = fmaf(-(w_min * x_scale), (float)msum, acc)
 * All these integers are below 2^24, hence exact as floats; and since the
 * scales that act_encode() makes have 11 bits, so are the products of two
 * factors above, short of overflow and of denormal numbers.  A weight's integer
 * may come from the format's table (IQ4_NL, IQ4_XS, MXFP4).  Where a format
 * adds an offset (Q4_1, Q5_1), the minimum is minus that.  Scales that are
 * infinite or NaN, and an A8 or F32 product that overflows, go on as IEEE
 * arithmetic has them, so every kernel is bit-identical to the scalar one. */
#ifndef ENGINE_WEIGHT_H
#define ENGINE_WEIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/act.h"
#include "engine/cpu.h"

#define WEIGHT_GROUP 16 /* rows that are interleaved */

/* GGUF's numbers of the formats we compute with. */
enum {
    WEIGHT_F32 = 0,
    WEIGHT_F16 = 1,
    WEIGHT_Q4_0 = 2,
    WEIGHT_Q4_1 = 3,
    WEIGHT_Q5_0 = 6,
    WEIGHT_Q5_1 = 7,
    WEIGHT_Q8_0 = 8,
    WEIGHT_Q2_K = 10,
    WEIGHT_Q3_K = 11,
    WEIGHT_Q4_K = 12,
    WEIGHT_Q5_K = 13,
    WEIGHT_Q6_K = 14,
    WEIGHT_IQ4_NL = 20,
    WEIGHT_IQ4_XS = 23,
    WEIGHT_BF16 = 30,
    WEIGHT_MXFP4 = 39,
};

/* y[t][r - 16 * group0] += nothing: the kernel writes, for each activation row
 * t < n_x and each output row r of groups [group0, group1), the product over
 * columns [col0, col1) (multiples of the format's block and of the A8 block).
 * `packed` is the whole matrix, `cols` its full width.  x[t] is a whole row of
 * `cols` values in the kernel's form; y[t] has room for 16 * (group1 - group0)
 * floats. */
typedef void (*weight_mul)(const void *packed, size_t cols, size_t group0,
                           size_t group1, size_t col0, size_t col1,
                           const void *const *x, size_t n_x, float *const *y);

typedef struct {
    const char *name;   /* "q8_0" */
    size_t block_len;   /* values per block as stored */
    size_t block_bytes; /* bytes per block as stored */
    act_form act;       /* the form of activations in the normal profile */
    /* n values (a multiple of block_len) of one row to f32. */
    void (*dequantize)(size_t n, const void *blocks, float *out);
    /* Bytes of one packed group of 16 rows of `cols` values. */
    size_t (*group_bytes)(size_t cols);
    /* Pack one group: rows[i] is the i-th row as stored, NULL for padding. */
    void (*pack)(size_t cols, const void *const rows[WEIGHT_GROUP], void *out);
    /* Kernels by form and level; a NULL falls back to the level below.  A form
     * without a scalar kernel is not supported by the format. */
    weight_mul mul[ACT_FORMS][CPU_LEVELS];
} weight_format;

/* NULL for a format we do not compute with. */
const weight_format *weight_format_find(uint32_t type);

/* The name and block sizes of any GGUF type number, known to us or not, for
 * error texts and for sizes; NULL and false for a number nobody uses. */
const char *weight_type_name(uint32_t type);
bool weight_type_size(uint32_t type, size_t *block_len, size_t *block_bytes);

/* The kernel in force for a form; NULL if the format has none. */
weight_mul weight_kernel(const weight_format *f, act_form form);

/* IEEE half and bfloat16 conversions, exact or round-half-to-even, the same
 * bits as the F16C instructions (quiet NaNs stay NaN). */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float x);
float bf16_to_f32(uint16_t b);

#endif
