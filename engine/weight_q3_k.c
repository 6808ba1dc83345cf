/* weight_q3_k.c - Q3_K: 256 values of 3 bits, 16 sub-scales, one f16 scale.
 *
 * A weight is (scale * sub-scale) * value with a sub-scale in [-32, 31] and a
 * value in [-4, 3].  The packed layout is described in weight_q3_k.h. */
#include "engine/weight_q3_k.h"

#include <assert.h>
#include <string.h>
#include "engine/util.h"

/* The values come in halves of 128; a half is four runs of 32. */
#define HALVES 2
#define RUNS 4
#define RUN 32
#define QUARTER (K_LEN / Q3_K_QUARTERS)

typedef struct {
    uint8_t high[RUN];        /* the third bits: one of each of 8 runs */
    uint8_t low[HALVES][RUN]; /* 2 bits of each run, ascending */
    uint8_t low_subs[8];      /* 4 bits of sub-scale i, above them i + 8 */
    uint8_t high_subs[4];     /* 2 bits of i, i + 4, i + 8, i + 12 */
    uint16_t scale;           /* f16 */
} block_q3_k;
_Static_assert(sizeof(block_q3_k) == Q3_K_BYTES, "110 bytes on disk");

/* A run of bits somewhere in a packed word, and where it belongs. */
typedef struct {
    uint8_t word, shift; /* where it is */
    uint8_t bits;
    uint8_t of, at; /* the number it belongs to, and its place in it */
} piece;

/* Of the values of four columns each, in the chunks. */
static const piece value_pieces[] = {
    {0, 0, 3, 0, 0},  {1, 0, 3, 1, 0},  {2, 0, 3, 2, 0},  {3, 0, 3, 3, 0},
    {0, 3, 3, 4, 0},  {1, 3, 3, 5, 0},  {2, 3, 3, 6, 0},  {3, 3, 3, 7, 0},
    {4, 0, 3, 8, 0},  {5, 0, 3, 9, 0},  {4, 3, 3, 10, 0}, {5, 3, 3, 11, 0},
    {0, 6, 2, 12, 1}, {2, 6, 2, 13, 1}, {3, 6, 2, 14, 1}, {5, 6, 2, 15, 1},
    {1, 6, 1, 12, 0}, {1, 7, 1, 13, 0}, {4, 6, 1, 14, 0}, {4, 7, 1, 15, 0},
};

/* Of the sub-scales of the A8 blocks, in half a lane. */
static const piece sub_pieces[] = {
    {0, 0, 6, 0, 0},  {0, 6, 6, 1, 0},  {1, 0, 6, 2, 0},  {1, 6, 6, 3, 0},
    {2, 0, 6, 4, 0},  {2, 6, 6, 5, 0},  {0, 12, 4, 6, 0}, {1, 12, 2, 6, 4},
    {1, 14, 2, 7, 0}, {2, 12, 4, 7, 2},
};

static unsigned mask_of(const piece *p) {
    return (1u << p->bits) - 1u;
}

/* Values i to i + 3 of the block, 0 to 7: 4 more than they count. */
static weight_four stored_four(const block_q3_k *block, size_t i) {
    size_t half = i / (RUNS * RUN), run = i / RUN % RUNS, at = i % RUN;
    weight_four low = weight_load_four(&block->low[half][at]);
    weight_four high = weight_load_four(&block->high[at]);
    return weight_four_bits(low, (unsigned)run * 2, 2) |
           weight_four_bits(high, (unsigned)(i / RUN), 1) << 2;
}

/* Sub-scale i, 0 to 63: 32 more than it counts. */
static unsigned stored_sub(const block_q3_k *block, size_t i) {
    unsigned low = block->low_subs[i % 8] >> (i / 8 * 4) & 15u;
    unsigned high = block->high_subs[i % 4] >> (i / 4 * 2) & 3u;
    return low | high << 4;
}

/* The 16 values of sub-block `sub` as weights. */
static void dequantize_sub(const block_q3_k *block, size_t sub, float *out) {
    int factor = (int)stored_sub(block, sub) - Q3_K_SUB_OFFSET;
    float scale = f16_to_f32(block->scale) * (float)factor;
    uint8_t values[K_SUB];

    for (size_t i = 0; i < K_SUB; i += 4) {
        weight_four four = stored_four(block, sub * K_SUB + i);
        memcpy(values + i, &four, sizeof(four));
    }
    for (size_t i = 0; i < K_SUB; i++) {
        out[i] = scale * (float)(values[i] - Q3_K_OFFSET);
    }
}

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % K_LEN == 0);

    for (size_t b = 0; b < n / K_LEN; b++) {
        block_q3_k block;
        memcpy(&block, (const uint8_t *)stored + b * Q3_K_BYTES, Q3_K_BYTES);
        for (size_t sub = 0; sub < K_LEN / K_SUB; sub++, out += K_SUB) {
            dequantize_sub(&block, sub, out);
        }
    }
}

/* Row r's sub-scales. */
static void pack_subs(const block_q3_k *block, size_t r, q3_k_packed *out) {
    for (size_t half = 0; half < 2; half++) {
        for (size_t i = 0; i < ARRAY_LEN(sub_pieces); i++) {
            const piece *p = &sub_pieces[i];
            unsigned sub = stored_sub(block, 2 * p->of + half);
            out->sub_scales[p->word][r][half] |=
                (uint16_t)((sub >> p->at & mask_of(p)) << p->shift);
        }
    }
}

/* Row r's 64 values of a quarter of the block. */
static void pack_quarter(const block_q3_k *block, size_t quarter, size_t r,
                         uint8_t out[Q3_K_CHUNKS][Q3_K_CHUNK]) {
    weight_four chunks[Q3_K_CHUNKS] = {0};
    for (size_t i = 0; i < ARRAY_LEN(value_pieces); i++) {
        const piece *p = &value_pieces[i];
        weight_four values = stored_four(block, quarter * QUARTER + p->of * 4);
        chunks[p->word] |= weight_four_bits(values, p->at, p->bits) << p->shift;
    }
    for (size_t c = 0; c < Q3_K_CHUNKS; c++) {
        memcpy(out[c] + r * 4, &chunks[c], sizeof(chunks[c]));
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    q3_k_packed *packed = out;
    memset(out, 0, q3_k_group_bytes(cols));

    for (size_t b = 0; b < cols / K_LEN; b++, packed++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q3_k block;
            if (rows[r] == NULL) continue;
            memcpy(&block, (const uint8_t *)rows[r] + b * Q3_K_BYTES,
                   Q3_K_BYTES);
            packed->scales[r] = block.scale;
            pack_subs(&block, r, packed);
            for (size_t q = 0; q < Q3_K_QUARTERS; q++) {
                pack_quarter(&block, q, r, packed->values[q]);
            }
        }
    }
}

/* Row r's sub-scale of half an A8 block. */
static int32_t open_sub(const q3_k_packed *packed, size_t j, size_t r,
                        size_t half) {
    unsigned sub = 0;
    for (size_t i = 0; i < ARRAY_LEN(sub_pieces); i++) {
        const piece *p = &sub_pieces[i];
        unsigned lane = packed->sub_scales[p->word][r][half];
        if (p->of == j) sub |= (lane >> p->shift & mask_of(p)) << p->at;
    }
    return (int32_t)sub - Q3_K_SUB_OFFSET;
}

/* Row r's 64 values of a quarter. */
static void open_quarter(const uint8_t chunks[Q3_K_CHUNKS][Q3_K_CHUNK],
                         size_t r, uint8_t out[QUARTER]) {
    weight_four values[QUARTER / 4] = {0};
    for (size_t i = 0; i < ARRAY_LEN(value_pieces); i++) {
        const piece *p = &value_pieces[i];
        weight_four chunk = weight_load_four(chunks[p->word] + r * 4);
        values[p->of] |= weight_four_bits(chunk, p->shift, p->bits) << p->at;
    }
    memcpy(out, values, QUARTER);
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q3_k_packed *packed = (const q3_k_packed *)group + at / K_LEN;
    const size_t j = at % K_LEN / ACT_BLOCK;
    (void)cols;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        uint8_t values[QUARTER];
        open_quarter(packed->values[j / 2], r, values);
        out->scale[r] = f16_to_f32(packed->scales[r]);
        for (size_t half = 0; half < 2; half++) {
            out->sub_scale[half][r] = open_sub(packed, j, r, half);
        }
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            int value = values[j % 2 * ACT_BLOCK + i];
            out->values[i][r] = (int8_t)(value - Q3_K_OFFSET);
        }
    }
}

WEIGHT_BLOCK_FORMAT(q3_k, K_LEN, Q3_K_BYTES, WEIGHT_NO_MIN);
