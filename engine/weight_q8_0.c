/* weight_q8_0.c - Q8_0: blocks of 32 int8 with one f16 scale.
 *
 * A weight may be -128: exact in both forms.  The packed layout is described in
 * weight_q8_0.h. */
#include "engine/weight_q8_0.h"

#include <assert.h>
#include <string.h>

typedef struct {
    uint16_t scale; /* f16 */
    int8_t values[Q0_LEN];
} block_q8_0;
_Static_assert(sizeof(block_q8_0) == Q8_0_BYTES, "34 bytes on disk");

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % Q0_LEN == 0);

    for (size_t b = 0; b < n / Q0_LEN; b++) {
        block_q8_0 block;
        memcpy(&block, (const uint8_t *)stored + b * Q8_0_BYTES, Q8_0_BYTES);
        float scale = f16_to_f32(block.scale);
        for (size_t i = 0; i < Q0_LEN; i++) {
            out[b * Q0_LEN + i] = scale * (float)block.values[i];
        }
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    uint8_t *scales = out;
    uint8_t *values = (uint8_t *)out + q0_values_offset(cols);
    memset(out, 0, q0_values_offset(cols));

    for (size_t b = 0; b < cols / Q0_LEN; b++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q8_0 block = {0};
            if (rows[r] != NULL) {
                memcpy(&block, (const uint8_t *)rows[r] + b * Q8_0_BYTES,
                       Q8_0_BYTES);
            }
            weight_q0_pack_scale(block.scale, r, scales);
            for (size_t i = 0; i < Q0_LEN; i++) {
                values[i / 4 * Q0_CHUNK + r * 4 + i % 4] =
                    (uint8_t)(block.values[i] ^ 0x80);
            }
        }
        scales += Q0_SCALES;
        values += Q8_0_CHUNKS * Q0_CHUNK;
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q0_block block = q0_block_at(cols, group, at, Q8_0_CHUNKS);

    weight_q0_open_scales(&block, out);
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        for (size_t i = 0; i < Q0_LEN; i++) {
            uint8_t v = block.values[i / 4 * Q0_CHUNK + r * 4 + i % 4];
            out->values[i][r] = (int8_t)(v ^ 0x80);
        }
    }
}

WEIGHT_BLOCK_FORMAT(q8_0, Q0_LEN, Q8_0_BYTES, false);
