/* weight_q2_k.h - Q2_K, packed.
 *
 * Private to weight_q2_k*.c.  A block is 16 f16 scales and minima, a row's side
 * by side with the others'; for each 32 columns and row two bytes as stored,
 * one a sub-block of 16 columns, scale in the low and minimum in the high
 * nibble; and for each 64 columns, four sub-blocks, 4 chunks of 16 rows x 4
 * bytes: bits 2s and 2s + 1 of a byte of chunk c are sub-block s's column 4c +
 * its place among the 4. */
#ifndef ENGINE_WEIGHT_Q2_K_H
#define ENGINE_WEIGHT_Q2_K_H

#include "engine/weight_k.h"

#define Q2_K_BYTES 84
#define Q2_K_CHUNK 64 /* bytes: 16 rows x 16 columns */
#define Q2_K_CHUNKS 4 /* of 64 columns */
#define Q2_K_QUARTERS 4

typedef struct {
    uint16_t scales[WEIGHT_GROUP]; /* f16 */
    uint16_t mins[WEIGHT_GROUP];   /* f16 */
    uint8_t subs[K_ACT_BLOCKS][WEIGHT_GROUP][2];
    uint8_t values[Q2_K_QUARTERS][Q2_K_CHUNKS][Q2_K_CHUNK];
} q2_k_packed;
_Static_assert(sizeof(q2_k_packed) == 1344, "84 bytes a row, as stored");

static inline size_t q2_k_group_bytes(size_t cols) {
    return cols / K_LEN * sizeof(q2_k_packed);
}

#endif
