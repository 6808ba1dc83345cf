/* weight_q4_0.c - Q4_0: blocks of 32 values of 4 bits with one f16 scale.
 *
 * A value is its nibble - 8; of a stored block's 16 bytes, the low nibbles are
 * the first 16 values.  The packed layout is described in weight_q4_0.h. */
#include "engine/weight_q4_0.h"

#include <assert.h>
#include <string.h>

typedef struct {
    uint16_t scale; /* f16 */
    uint8_t nibbles[Q0_LEN / 2];
} block_q4_0;
_Static_assert(sizeof(block_q4_0) == Q4_0_BYTES, "18 bytes on disk");

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % Q0_LEN == 0);

    for (size_t b = 0; b < n / Q0_LEN; b++, out += Q0_LEN) {
        block_q4_0 block;
        memcpy(&block, (const uint8_t *)stored + b * Q4_0_BYTES, Q4_0_BYTES);
        float scale = f16_to_f32(block.scale);
        for (size_t i = 0; i < Q0_LEN / 2; i++) {
            int low = block.nibbles[i] & 15, high = block.nibbles[i] >> 4;
            out[i] = scale * (float)(low - Q4_0_ZERO);
            out[i + Q4_0_HIGH] = scale * (float)(high - Q4_0_ZERO);
        }
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    uint8_t *scales = out;
    uint8_t *values = (uint8_t *)out + q0_values_offset(cols);
    memset(out, 0, q0_values_offset(cols));

    for (size_t b = 0; b < cols / Q0_LEN; b++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q4_0 block = {0};
            if (rows[r] != NULL) {
                memcpy(&block, (const uint8_t *)rows[r] + b * Q4_0_BYTES,
                       Q4_0_BYTES);
            }
            weight_q0_pack_scale(block.scale, r, scales);
            for (size_t c = 0; c < Q4_0_CHUNKS; c++) {
                memcpy(values + c * Q0_CHUNK + r * 4, block.nibbles + c * 4, 4);
            }
        }
        scales += Q0_SCALES;
        values += Q4_0_CHUNKS * Q0_CHUNK;
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q0_block block = q0_block_at(cols, group, at, Q4_0_CHUNKS);

    weight_q0_open_scales(&block, out);
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        for (size_t i = 0; i < Q0_LEN / 2; i++) {
            int byte = block.values[i / 4 * Q0_CHUNK + r * 4 + i % 4];
            out->values[i][r] = (int8_t)((byte & 15) - Q4_0_ZERO);
            out->values[i + Q4_0_HIGH][r] = (int8_t)((byte >> 4) - Q4_0_ZERO);
        }
    }
}

WEIGHT_BLOCK_FORMAT(q4_0, Q0_LEN, Q4_0_BYTES, false);
