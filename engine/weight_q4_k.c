/* weight_q4_k.c - Q4_K: blocks of 256 values of 4 bits, with a scale and a
 * minimum for each 32.
 *
 * Of the 32 bytes for 64 values, the low nibbles are the first 32.  The packed
 * layout is described in weight_q4_k.h. */
#include "engine/weight_q4_k.h"

#include <assert.h>
#include <string.h>
#include "engine/weight_block.h"

typedef struct {
    k_head head;
    uint8_t nibbles[Q4_K_PAIRS][ACT_BLOCK];
} block_q4_k;
_Static_assert(sizeof(block_q4_k) == Q4_K_BYTES, "144 bytes on disk");

/* The 32 values of A8 block j. */
static void dequantize_part(const block_q4_k *block, size_t j, float *out) {
    k_sub sub = k_head_sub(&block->head, j);
    float scale = f16_to_f32(block->head.scale) * (float)sub.scale;
    float min = f16_to_f32(block->head.min) * (float)sub.min;

    for (size_t i = 0; i < ACT_BLOCK; i++) {
        int nibble = block->nibbles[j / 2][i] >> (j % 2 * 4) & 15;
        out[i] = scale * (float)nibble - min;
    }
}

static void dequantize(size_t n, const void *stored, float *out) {
    assert(n % K_LEN == 0);

    for (size_t b = 0; b < n / K_LEN; b++) {
        block_q4_k block;
        memcpy(&block, (const uint8_t *)stored + b * Q4_K_BYTES, Q4_K_BYTES);
        for (size_t j = 0; j < K_ACT_BLOCKS; j++, out += ACT_BLOCK) {
            dequantize_part(&block, j, out);
        }
    }
}

static void pack(size_t cols, const void *const rows[WEIGHT_GROUP], void *out) {
    q4_k_packed *packed = out;

    for (size_t b = 0; b < cols / K_LEN; b++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            block_q4_k block = {0};
            if (rows[r] != NULL) {
                memcpy(&block, (const uint8_t *)rows[r] + b * Q4_K_BYTES,
                       Q4_K_BYTES);
            }
            weight_k_pack_head(&block.head, r, &packed[b].head);
            for (size_t p = 0; p < Q4_K_PAIRS; p++) {
                for (size_t c = 0; c < Q4_K_CHUNKS; c++) {
                    memcpy(packed[b].values[p][c] + r * 4,
                           block.nibbles[p] + c * 4, 4);
                }
            }
        }
    }
}

static void open_block(size_t cols, const uint8_t *group, size_t at,
                       weight_block *out) {
    const q4_k_packed *packed = (const void *)group;
    const q4_k_packed *block = &packed[at / K_LEN];
    size_t j = at % K_LEN / ACT_BLOCK;
    (void)cols;

    weight_k_open_head(&block->head, j, out);
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        const uint8_t *bytes = block->values[j / 2][i / 4] + i % 4;
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            out->values[i][r] = bytes[r * 4] >> (j % 2 * 4) & 15;
        }
    }
}

WEIGHT_BLOCK_FORMAT(q4_k, K_LEN, Q4_K_BYTES, WEIGHT_MIN_32);
