/* weight_q5_k.c - Q5_K: 256 values of 5 bits; each 32 have a scale and a
 * minimum, factors of the block's.
 *
 * A weight is (scale * sub-scale) * value - min * sub-min with values of 0 to
 * 31 and factors of 0 to 63.  The scaled integer sum of an A8 block stays
 * below 2^23 (63 by 31 by 32 activations of 127), so a float holds it exactly.
 * The packed layout is described in weight_q5_k.h. */
#include "engine/weight_q5_k.h"

#include <assert.h>
#include <string.h>
#include "engine/util.h"

#define RUN 32 /* values whose low bits are neighbours */

typedef struct {
    k_head head;
    uint8_t high[RUN];                 /* the fifth bits: one of each run */
    uint8_t low[K_LEN / 2 / RUN][RUN]; /* two runs each: low and high nibbles */
} block_q5_k;
_Static_assert(sizeof(block_q5_k) == Q5_K_BYTES, "176 bytes on disk");

/* Where the top bits of the chunks keep the last three. */
static const struct {
    uint8_t chunk, shift; /* where the piece is */
    uint8_t bits;
    uint8_t of, at; /* the chunk it belongs to, and its place in a value */
} pieces[] = {
    {0, 5, 3, 5, 0}, {1, 6, 2, 5, 3}, {2, 5, 3, 6, 0}, {3, 6, 2, 6, 3},
    {4, 5, 3, 7, 0}, {1, 5, 1, 7, 3}, {3, 5, 1, 7, 4},
};

static void read_block(const void *row, size_t b, block_q5_k *out) {
    memcpy(out, (const uint8_t *)row + b * Q5_K_BYTES, Q5_K_BYTES);
}

/* Value i of the block, 0 to 31. */
static uint8_t stored_value(const block_q5_k *block, size_t i) {
    size_t run = i / RUN, at = i % RUN;
    unsigned low = block->low[run / 2][at] >> (run % 2 * 4) & 15u;
    unsigned high = block->high[at] >> run & 1u;
    return (uint8_t)(low | high << 4);
}

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % K_LEN == 0);

    for (size_t b = 0; b < n / K_LEN; b++) {
        block_q5_k block;
        read_block(stored, b, &block);
        float scale = f16_to_f32(block.head.scale);
        float min = f16_to_f32(block.head.min);
        for (size_t i = 0; i < K_LEN; i++) {
            k_sub sub = k_head_sub(&block.head, i / RUN);
            float product =
                scale * (float)sub.scale * (float)stored_value(&block, i);
            out[b * K_LEN + i] = product - min * (float)sub.min;
        }
    }
}

/* Row r's 32 values of run `run`. */
static void pack_run(const block_q5_k *block, size_t run, size_t r,
                     uint8_t out[Q5_K_CHUNKS][Q5_K_CHUNK]) {
    for (size_t j = 0; j < 4; j++) {
        unsigned v[RUN / 4];
        for (size_t c = 0; c < RUN / 4; c++) {
            v[c] = stored_value(block, run * RUN + c * 4 + j);
        }
        for (size_t p = 0; p < ARRAY_LEN(pieces); p++) {
            unsigned bits = v[pieces[p].of] >> pieces[p].at;
            bits &= (1u << pieces[p].bits) - 1u;
            v[pieces[p].chunk] |= bits << pieces[p].shift;
        }
        for (size_t c = 0; c < Q5_K_CHUNKS; c++) {
            out[c][r * 4 + j] = (uint8_t)v[c];
        }
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    q5_k_packed *packed = out;

    for (size_t b = 0; b < cols / K_LEN; b++, packed++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q5_k block = {0};
            if (rows[r] != NULL) read_block(rows[r], b, &block);
            weight_k_pack_head(&block.head, r, &packed->head);
            for (size_t run = 0; run < K_ACT_BLOCKS; run++) {
                pack_run(&block, run, r, packed->values[run]);
            }
        }
    }
}

/* The inverse of pack_run(). */
static void open_run(const uint8_t in[Q5_K_CHUNKS][Q5_K_CHUNK], size_t r,
                     int8_t values[RUN][WEIGHT_GROUP]) {
    for (size_t j = 0; j < 4; j++) {
        unsigned v[RUN / 4] = {0};
        for (size_t c = 0; c < Q5_K_CHUNKS; c++) {
            v[c] = in[c][r * 4 + j] & 31u;
        }
        for (size_t p = 0; p < ARRAY_LEN(pieces); p++) {
            unsigned bits = in[pieces[p].chunk][r * 4 + j] >> pieces[p].shift;
            bits &= (1u << pieces[p].bits) - 1u;
            v[pieces[p].of] |= bits << pieces[p].at;
        }
        for (size_t c = 0; c < RUN / 4; c++) {
            values[c * 4 + j][r] = (int8_t)v[c];
        }
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q5_k_packed *packed = (const q5_k_packed *)group + at / K_LEN;
    const size_t run = at % K_LEN / RUN;
    (void)cols;

    weight_k_open_head(&packed->head, run, out);
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        open_run(packed->values[run], r, out->values);
    }
}

WEIGHT_BLOCK_FORMAT(q5_k, K_LEN, Q5_K_BYTES, true);
