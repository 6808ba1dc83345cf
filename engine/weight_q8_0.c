/* weight_q8_0.c - Q8_0: blocks of 32 int8 with one f16 scale.
 *
 * A weight may be -128: exact in both forms.  The packed layout is described in
 * weight_kernels.h. */
#include <assert.h>
#include <string.h>
#include "engine/weight_block.h"

typedef struct {
    uint16_t scale; /* f16 */
    int8_t values[Q8_0_LEN];
} block_q8_0;
_Static_assert(sizeof(block_q8_0) == Q8_0_BYTES, "34 bytes on disk");

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % Q8_0_LEN == 0);

    for (size_t b = 0; b < n / Q8_0_LEN; b++) {
        block_q8_0 block;
        memcpy(&block, (const uint8_t *)stored + b * Q8_0_BYTES, Q8_0_BYTES);
        float scale = f16_to_f32(block.scale);
        for (size_t i = 0; i < Q8_0_LEN; i++) {
            out[b * Q8_0_LEN + i] = scale * (float)block.values[i];
        }
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    uint8_t *scales = out;
    uint8_t *values = (uint8_t *)out + q8_0_values_offset(cols);
    memset(out, 0, q8_0_values_offset(cols));

    for (size_t b = 0; b < cols / Q8_0_LEN; b++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q8_0 block = {0};
            if (rows[r] != NULL) {
                memcpy(&block, (const uint8_t *)rows[r] + b * Q8_0_BYTES,
                       Q8_0_BYTES);
            }
            memcpy(scales + r * sizeof(uint16_t), &block.scale,
                   sizeof(uint16_t));
            for (size_t i = 0; i < Q8_0_LEN; i++) {
                values[i / 4 * Q8_0_CHUNK + r * 4 + i % 4] =
                    (uint8_t)(block.values[i] ^ 0x80);
            }
        }
        scales += Q8_0_PACKED_SCALES;
        values += Q8_0_PACKED_VALUES;
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    size_t b = at / Q8_0_LEN;
    const uint8_t *scales = group + b * Q8_0_PACKED_SCALES;
    const uint8_t *values =
        group + q8_0_values_offset(cols) + b * Q8_0_PACKED_VALUES;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        uint16_t scale;
        memcpy(&scale, scales + r * sizeof(scale), sizeof(scale));
        out->scale[r] = f16_to_f32(scale);
        out->sub_scale[0][r] = out->sub_scale[1][r] = 1;
        for (size_t i = 0; i < Q8_0_LEN; i++) {
            uint8_t v = values[i / 4 * Q8_0_CHUNK + r * 4 + i % 4];
            out->values[i][r] = (int8_t)(v ^ 0x80);
        }
    }
}

static const weight_blocks blocks = {
    .len = Q8_0_LEN,
    .group_bytes = q8_0_group_bytes,
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

const weight_format weight_q8_0 = {
    .name = "q8_0",
    .block_len = Q8_0_LEN,
    .block_bytes = Q8_0_BYTES,
    .act = ACT_A8,
    .dequantize = dequantize,
    .group_bytes = q8_0_group_bytes,
    .pack = pack,
    .mul[ACT_F32] = {[CPU_SCALAR] = mul_f32,
                     [CPU_AVX2] = weight_q8_0_mul_f32_avx2,
                     [CPU_AVX512] = weight_q8_0_mul_f32_avx512},
    .mul[ACT_A8] = {[CPU_SCALAR] = mul_a8,
                    [CPU_AVX2] = weight_q8_0_mul_a8_avx2,
                    [CPU_AVX512] = weight_q8_0_mul_a8_avx512},
};
