/* weight_q4_0.c - Q4_0: blocks of 32 values of 4 bits with one f16 scale.
 *
 * A value is its nibble - 8; of a stored block's 16 bytes, the low nibbles are
 * the first 16 values.  The packed layout is described in weight_q4_0.h. */
#include "engine/weight_q4_0.h"

#include <assert.h>
#include <string.h>
#include "engine/weight_block.h"

typedef struct {
    uint16_t scale; /* f16 */
    uint8_t nibbles[Q4_0_LEN / 2];
} block_q4_0;
_Static_assert(sizeof(block_q4_0) == Q4_0_BYTES, "18 bytes on disk");

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % Q4_0_LEN == 0);

    for (size_t b = 0; b < n / Q4_0_LEN; b++, out += Q4_0_LEN) {
        block_q4_0 block;
        memcpy(&block, (const uint8_t *)stored + b * Q4_0_BYTES, Q4_0_BYTES);
        float scale = f16_to_f32(block.scale);
        for (size_t i = 0; i < Q4_0_LEN / 2; i++) {
            int low = block.nibbles[i] & 15, high = block.nibbles[i] >> 4;
            out[i] = scale * (float)(low - Q4_0_ZERO);
            out[i + Q4_0_HIGH] = scale * (float)(high - Q4_0_ZERO);
        }
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    uint8_t *scales = out;
    uint8_t *values = (uint8_t *)out + q4_0_values_offset(cols);
    memset(out, 0, q4_0_values_offset(cols));

    for (size_t b = 0; b < cols / Q4_0_LEN; b++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q4_0 block = {0};
            if (rows[r] != NULL) {
                memcpy(&block, (const uint8_t *)rows[r] + b * Q4_0_BYTES,
                       Q4_0_BYTES);
            }
            memcpy(scales + r * sizeof(block.scale), &block.scale,
                   sizeof(block.scale));
            for (size_t c = 0; c < Q4_0_CHUNKS; c++) {
                memcpy(values + c * Q4_0_CHUNK + r * 4, block.nibbles + c * 4,
                       4);
            }
        }
        scales += Q4_0_PACKED_SCALES;
        values += Q4_0_PACKED_VALUES;
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    size_t b = at / Q4_0_LEN;
    const uint8_t *scales = group + b * Q4_0_PACKED_SCALES;
    const uint8_t *values =
        group + q4_0_values_offset(cols) + b * Q4_0_PACKED_VALUES;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        uint16_t scale;
        memcpy(&scale, scales + r * sizeof(scale), sizeof(scale));
        out->scale[r] = f16_to_f32(scale);
        out->sub_scale[0][r] = out->sub_scale[1][r] = 1;
        for (size_t i = 0; i < Q4_0_LEN / 2; i++) {
            int byte = values[i / 4 * Q4_0_CHUNK + r * 4 + i % 4];
            out->values[i][r] = (int8_t)((byte & 15) - Q4_0_ZERO);
            out->values[i + Q4_0_HIGH][r] = (int8_t)((byte >> 4) - Q4_0_ZERO);
        }
    }
}

static const weight_blocks blocks = {
    .len = Q4_0_LEN,
    .group_bytes = q4_0_group_bytes,
    .open = open_block,
};

static void mul_a8(WEIGHT_MUL_ARGS) {
    weight_block_mul_a8(&blocks, packed, cols, group0, group1, col0, col1, x,
                        n_x, y);
}

static void mul_f32(WEIGHT_MUL_ARGS) {
    weight_block_mul_f32(&blocks, packed, cols, group0, group1, col0, col1, x,
                         n_x, y);
}

const weight_format weight_q4_0 = {
    .name = "q4_0",
    .block_len = Q4_0_LEN,
    .block_bytes = Q4_0_BYTES,
    .act = ACT_A8,
    .dequantize = dequantize,
    .group_bytes = q4_0_group_bytes,
    .pack = pack,
    .mul[ACT_F32] = {[CPU_SCALAR] = mul_f32,
                     [CPU_AVX2] = weight_q4_0_mul_f32_avx2,
                     [CPU_AVX512] = weight_q4_0_mul_f32_avx512},
    .mul[ACT_A8] = {[CPU_SCALAR] = mul_a8,
                    [CPU_AVX2] = weight_q4_0_mul_a8_avx2,
                    [CPU_AVX512] = weight_q4_0_mul_a8_avx512},
};
