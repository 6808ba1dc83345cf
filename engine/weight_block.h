/* weight_block.h - the scalar kernels of the formats that store integers.
 *
 * Private to weight_*.c.  A format says how to open 32 columns of a packed
 * group; both products follow from that, as the contract in weight.h has them.
 * They are the reference that the fast kernels are tested against. */
#ifndef ENGINE_WEIGHT_BLOCK_H
#define ENGINE_WEIGHT_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "engine/weight_kernels.h"

/* One A8 block's columns of a group, the rows' values in order again.  A weight
 * is (scale * sub_scale) * value, less min * sub_min if the format has one. */
typedef struct {
    float scale[WEIGHT_GROUP];
    int32_t sub_scale[2][WEIGHT_GROUP]; /* of columns 0 to 15 and 16 to 31 */
    float min[WEIGHT_GROUP];
    int32_t sub_min[2][WEIGHT_GROUP]; /* of the same */
    int8_t values[ACT_BLOCK][WEIGHT_GROUP];
} weight_block;

/* What a format takes off its products. */
typedef enum {
    WEIGHT_NO_MIN,
    WEIGHT_MIN_32, /* a minimum for each A8 block */
    WEIGHT_MIN_16, /* one for each half of it */
} weight_min;

typedef struct {
    size_t len; /* columns of a stored block: column ranges are multiples */
    weight_min min;
    size_t (*group_bytes)(size_t cols);
    /* Columns [at, at + 32) of a packed group.  A format without a minimum
     * leaves min and sub_min as they are. */
    void (*open)(size_t cols, const uint8_t *group, size_t at,
                 weight_block *out);
} weight_blocks;

/* Four values of a byte each, packed and opened at once; nothing depends on the
 * order of a word's bytes. */
typedef uint32_t weight_four;
#define WEIGHT_FOUR(byte) ((weight_four)(byte)*0x01010101u)

static inline weight_four weight_load_four(const void *at) {
    weight_four four;
    memcpy(&four, at, sizeof(four));
    return four;
}
/* Bits `shift` to `shift + n - 1` of each byte, from bit 0 on. */
static inline weight_four weight_four_bits(weight_four four, unsigned shift,
                                           unsigned n) {
    return four >> shift & WEIGHT_FOUR((1u << n) - 1u);
}

void weight_block_mul_a8(const weight_blocks *f, WEIGHT_MUL_ARGS);
void weight_block_mul_f32(const weight_blocks *f, WEIGHT_MUL_ARGS);

/* The end of a format's file: its scalar products and its row of the table,
 * with the file's dequantize(), pack() and open_block().  A stored block is
 * n_len values in n_bytes bytes. */
#define WEIGHT_BLOCK_FORMAT(id, n_len, n_bytes, minimum)                       \
    static const weight_blocks blocks = {                                      \
        .len = n_len,                                                          \
        .min = minimum,                                                        \
        .group_bytes = id##_group_bytes,                                       \
        .open = open_block,                                                    \
    };                                                                         \
    static void mul_a8(WEIGHT_MUL_ARGS) {                                      \
        weight_block_mul_a8(&blocks, packed, cols, group0, group1, col0, col1, \
                            x, n_x, y);                                        \
    }                                                                          \
    static void mul_f32(WEIGHT_MUL_ARGS) {                                     \
        weight_block_mul_f32(&blocks, packed, cols, group0, group1, col0,      \
                             col1, x, n_x, y);                                 \
    }                                                                          \
    const weight_format weight_##id = {                                        \
        .name = #id,                                                           \
        .block_len = n_len,                                                    \
        .block_bytes = n_bytes,                                                \
        .act = ACT_A8,                                                         \
        .dequantize = dequantize,                                              \
        .group_bytes = id##_group_bytes,                                       \
        .pack = pack,                                                          \
        .mul[ACT_F32] = {[CPU_SCALAR] = mul_f32,                               \
                         [CPU_AVX2] = weight_##id##_mul_f32_avx2,              \
                         [CPU_AVX512] = weight_##id##_mul_f32_avx512},         \
        .mul[ACT_A8] = {[CPU_SCALAR] = mul_a8,                                 \
                        [CPU_AVX2] = weight_##id##_mul_a8_avx2,                \
                        [CPU_AVX512] = weight_##id##_mul_a8_avx512},           \
    }

#endif
