/* weight_q6_k.c - Q6_K: 256 values of 6 bits, 16 sub-scales, one f16 scale.
 *
 * A weight is (scale * sub-scale) * value with a signed sub-scale and a value
 * in [-32, 31].  The integer sum of an A8 block, both sub-scales in it, is at
 * most 2 * 128 * 16 * 32 * 127 < 2^24, so a float holds it exactly.  The
 * packed layout is described in weight_q6_k.h. */
#include "engine/weight_q6_k.h"

#include <assert.h>
#include <string.h>

/* The values come in halves of 128; a half is four runs of 32. */
#define HALVES 2
#define RUNS 4
#define RUN 32

typedef struct {
    uint8_t low[HALVES][2][RUN]; /* 4 bits: runs 0 and 1, above them 2 and 3 */
    uint8_t high[HALVES][RUN];   /* 2 bits of each run, ascending */
    int8_t sub_scales[K_LEN / Q6_K_SUB];
    uint16_t scale; /* f16 */
} block_q6_k;
_Static_assert(sizeof(block_q6_k) == Q6_K_BYTES, "210 bytes on disk");

/* Value i of the block, 0 to 63: 32 more than it counts. */
static uint8_t stored_value(const block_q6_k *block, size_t i) {
    size_t half = i / (RUNS * RUN), run = i / RUN % RUNS, at = i % RUN;
    unsigned low = block->low[half][run % 2][at] >> (run / 2 * 4) & 15u;
    unsigned high = block->high[half][at] >> (run * 2) & 3u;
    return (uint8_t)(low | high << 4);
}

static void dequantize(size_t n, const void *blocks, float *out) {
    assert(n % K_LEN == 0);

    for (size_t b = 0; b < n / K_LEN; b++) {
        block_q6_k block;
        memcpy(&block, (const uint8_t *)blocks + b * Q6_K_BYTES, Q6_K_BYTES);
        float scale = f16_to_f32(block.scale);
        for (size_t i = 0; i < K_LEN; i++) {
            float sub_scale = scale * (float)block.sub_scales[i / Q6_K_SUB];
            int value = stored_value(&block, i) - Q6_K_OFFSET;
            out[b * K_LEN + i] = sub_scale * (float)value;
        }
    }
}

/* All values of the block, 0 to 63; in loops that a compiler vectorizes. */
static void stored_values(const block_q6_k *block, uint8_t out[K_LEN]) {
    for (size_t half = 0; half < HALVES; half++) {
        const uint8_t *high = block->high[half];
        for (size_t side = 0; side < 2; side++) { /* runs side and side + 2 */
            const uint8_t *low = block->low[half][side];
            uint8_t *to = out + half * RUNS * RUN + side * RUN;
            unsigned shift = (unsigned)side * 2;
            for (size_t i = 0; i < RUN; i++) {
                unsigned top = (unsigned)high[i] >> shift;
                to[i] = (uint8_t)((low[i] & 15u) | (top & 3u) << 4);
            }
            for (size_t i = 0; i < RUN; i++) {
                unsigned top = (unsigned)high[i] >> shift;
                to[2 * RUN + i] = (uint8_t)(low[i] >> 4 | (top & 48u));
            }
        }
    }
}

/* Row r's 16 values of a sub-block. */
static void pack_sub(const uint8_t values[Q6_K_SUB], size_t r,
                     uint8_t out[Q6_K_SUB_CHUNKS][Q6_K_CHUNK]) {
    weight_four last = weight_load_four(values + 12);
    for (unsigned c = 0; c < Q6_K_SUB_CHUNKS; c++) {
        weight_four four = weight_load_four(values + c * 4) |
                           weight_four_bits(last, 2 * c, 2) << 6;
        memcpy(out[c] + r * 4, &four, sizeof(four));
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    q6_k_packed *packed = out;

    for (size_t b = 0; b < cols / K_LEN; b++, packed++) {
        memset(packed->padding, 0, sizeof(packed->padding));
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q6_k block = {0};
            if (rows[r] != NULL) {
                memcpy(&block, (const uint8_t *)rows[r] + b * Q6_K_BYTES,
                       Q6_K_BYTES);
            }
            uint8_t values[K_LEN];
            stored_values(&block, values);
            packed->scales[r] = block.scale;
            for (size_t sub = 0; sub < K_LEN / Q6_K_SUB; sub++) {
                packed->sub_scales[sub][r] = block.sub_scales[sub];
                pack_sub(values + sub * Q6_K_SUB, r, packed->values[sub]);
            }
        }
    }
}

/* The inverse of pack_sub(). */
static void open_sub(const uint8_t in[Q6_K_SUB_CHUNKS][Q6_K_CHUNK],
                     int8_t values[Q6_K_SUB][WEIGHT_GROUP]) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        for (size_t j = 0; j < 4; j++) {
            unsigned last = 0;
            for (size_t c = 0; c < Q6_K_SUB_CHUNKS; c++) {
                unsigned byte = in[c][r * 4 + j];
                values[c * 4 + j][r] = (int8_t)((byte & 63) - Q6_K_OFFSET);
                last |= byte >> 6 << (2 * c);
            }
            values[12 + j][r] = (int8_t)(last - Q6_K_OFFSET);
        }
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q6_k_packed *packed = (const q6_k_packed *)group + at / K_LEN;
    (void)cols;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        out->scale[r] = f16_to_f32(packed->scales[r]);
    }
    for (size_t half = 0; half < 2; half++) {
        size_t sub = at % K_LEN / Q6_K_SUB + half;
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            out->sub_scale[half][r] = packed->sub_scales[sub][r];
        }
        open_sub(packed->values[sub], out->values + half * Q6_K_SUB);
    }
}

WEIGHT_BLOCK_FORMAT(q6_k, K_LEN, Q6_K_BYTES, WEIGHT_NO_MIN);
