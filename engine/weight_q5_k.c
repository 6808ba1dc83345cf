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

#define RUN 32 /* values whose low bits are neighbours */

typedef struct {
    k_head head;
    uint8_t high[RUN];                 /* the fifth bits: one of each run */
    uint8_t low[K_LEN / 2 / RUN][RUN]; /* two runs each: low and high nibbles */
} block_q5_k;
_Static_assert(sizeof(block_q5_k) == Q5_K_BYTES, "176 bytes on disk");

static void read_block(const void *row, size_t b, block_q5_k *out) {
    memcpy(out, (const uint8_t *)row + b * Q5_K_BYTES, Q5_K_BYTES);
}

/* The 32 values of run `run`, 0 to 31. */
static void read_run(const block_q5_k *block, size_t run, int8_t out[RUN]) {
    for (size_t i = 0; i < RUN; i++) {
        int low = block->low[run / 2][i] >> (run % 2 * 4) & 15;
        int high = block->high[i] >> run & 1;
        out[i] = (int8_t)(low | high << 4);
    }
}

/* The same as weights. */
static void dequantize_run(const block_q5_k *block, size_t run, float *out) {
    k_sub sub = k_head_sub(&block->head, run);
    float scale = f16_to_f32(block->head.scale) * (float)sub.scale;
    float min = f16_to_f32(block->head.min) * (float)sub.min;
    int8_t values[RUN];

    read_run(block, run, values);
    for (size_t i = 0; i < RUN; i++) {
        out[i] = scale * (float)values[i] - min;
    }
}

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % K_LEN == 0);

    for (size_t b = 0; b < n / K_LEN; b++) {
        block_q5_k block;
        read_block(stored, b, &block);
        for (size_t run = 0; run < K_ACT_BLOCKS; run++, out += RUN) {
            dequantize_run(&block, run, out);
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
                int8_t values[RUN];
                read_run(&block, run, values);
                weight_fives_pack(values, r, packed->values[run][0]);
            }
        }
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q5_k_packed *packed = (const q5_k_packed *)group + at / K_LEN;
    const size_t run = at % K_LEN / RUN;
    (void)cols;

    weight_k_open_head(&packed->head, run, out);
    weight_fives_open(packed->values[run][0], 0, out);
}

WEIGHT_BLOCK_FORMAT(q5_k, K_LEN, Q5_K_BYTES, WEIGHT_MIN_32);
