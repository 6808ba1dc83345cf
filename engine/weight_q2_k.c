/* weight_q2_k.c - Q2_K: 256 values of 2 bits; each 16 have a scale and a
 * minimum, factors of the block's.
 *
 * A weight is (scale * sub-scale) * value - min * sub-min with values of 0 to 3
 * and factors of 0 to 15.  The packed layout is described in weight_q2_k.h. */
#include "engine/weight_q2_k.h"

#include <assert.h>
#include <string.h>

/* The values come in halves of 128; a half is four runs of 32. */
#define HALVES 2
#define RUNS 4
#define RUN 32
#define QUARTER (K_LEN / Q2_K_QUARTERS)

typedef struct {
    uint8_t subs[K_LEN / K_SUB]; /* scale, above it the minimum: 4 bits each */
    uint8_t values[HALVES][RUN]; /* 2 bits of each run, ascending */
    uint16_t scale;              /* f16 */
    uint16_t min;                /* f16 */
} block_q2_k;
_Static_assert(sizeof(block_q2_k) == Q2_K_BYTES, "84 bytes on disk");

/* Values i to i + 3 of the block, 0 to 3. */
static weight_four stored_four(const block_q2_k *block, size_t i) {
    size_t half = i / (RUNS * RUN), run = i / RUN % RUNS;
    return weight_four_bits(weight_load_four(&block->values[half][i % RUN]),
                            (unsigned)run * 2, 2);
}

/* The 16 values of sub-block `sub` as weights. */
static void dequantize_sub(const block_q2_k *block, size_t sub, float *out) {
    unsigned factors = block->subs[sub];
    float scale = f16_to_f32(block->scale) * (float)(factors & 15);
    float min = f16_to_f32(block->min) * (float)(factors >> 4);
    uint8_t values[K_SUB];

    for (size_t i = 0; i < K_SUB; i += 4) {
        weight_four four = stored_four(block, sub * K_SUB + i);
        memcpy(values + i, &four, sizeof(four));
    }
    for (size_t i = 0; i < K_SUB; i++) {
        out[i] = scale * (float)values[i] - min;
    }
}

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % K_LEN == 0);

    for (size_t b = 0; b < n / K_LEN; b++) {
        block_q2_k block;
        memcpy(&block, (const uint8_t *)stored + b * Q2_K_BYTES, Q2_K_BYTES);
        for (size_t sub = 0; sub < K_LEN / K_SUB; sub++, out += K_SUB) {
            dequantize_sub(&block, sub, out);
        }
    }
}

/* Row r's 64 values of a quarter of the block. */
static void pack_quarter(const block_q2_k *block, size_t quarter, size_t r,
                         uint8_t out[Q2_K_CHUNKS][Q2_K_CHUNK]) {
    for (size_t c = 0; c < Q2_K_CHUNKS; c++) {
        weight_four four = 0;
        for (size_t sub = 0; sub < QUARTER / K_SUB; sub++) {
            size_t i = quarter * QUARTER + sub * K_SUB + c * 4;
            four |= stored_four(block, i) << (2 * sub);
        }
        memcpy(out[c] + r * 4, &four, sizeof(four));
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    q2_k_packed *packed = out;
    memset(out, 0, q2_k_group_bytes(cols));

    for (size_t b = 0; b < cols / K_LEN; b++, packed++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q2_k block;
            if (rows[r] == NULL) continue;
            memcpy(&block, (const uint8_t *)rows[r] + b * Q2_K_BYTES,
                   Q2_K_BYTES);
            packed->scales[r] = block.scale;
            packed->mins[r] = block.min;
            for (size_t sub = 0; sub < K_LEN / K_SUB; sub++) {
                packed->subs[sub / 2][r][sub % 2] = block.subs[sub];
            }
            for (size_t q = 0; q < Q2_K_QUARTERS; q++) {
                pack_quarter(&block, q, r, packed->values[q]);
            }
        }
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q2_k_packed *packed = (const q2_k_packed *)group + at / K_LEN;
    const size_t j = at % K_LEN / ACT_BLOCK, first_sub = j % 2 * 2;
    (void)cols;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        out->scale[r] = f16_to_f32(packed->scales[r]);
        out->min[r] = f16_to_f32(packed->mins[r]);
        for (size_t half = 0; half < 2; half++) {
            out->sub_scale[half][r] = packed->subs[j][r][half] & 15;
            out->sub_min[half][r] = packed->subs[j][r][half] >> 4;
        }
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            const uint8_t *chunk = packed->values[j / 2][i % K_SUB / 4];
            size_t shift = 2 * (first_sub + i / K_SUB);
            out->values[i][r] = chunk[r * 4 + i % 4] >> shift & 3;
        }
    }
}

WEIGHT_BLOCK_FORMAT(q2_k, K_LEN, Q2_K_BYTES, WEIGHT_MIN_16);
