/* weight_q4_k.h - Q4_K's packed layout, for its kernels.
 *
 * A block is its head and, for each 64 columns, 8 chunks of 16 rows x 4 bytes.
 * A byte is as stored: its low nibble belongs to the first 32 columns, its high
 * nibble to the column 32 further. */
#ifndef ENGINE_WEIGHT_Q4_K_H
#define ENGINE_WEIGHT_Q4_K_H

#include <stddef.h>
#include <stdint.h>
#include "engine/weight_k.h"

#define Q4_K_BYTES 144
#define Q4_K_CHUNK 64
#define Q4_K_CHUNKS (ACT_BLOCK / 4)
#define Q4_K_PAIRS (K_ACT_BLOCKS / 2) /* of A8 blocks that share bytes */

typedef struct {
    k_packed_head head;
    uint8_t values[Q4_K_PAIRS][Q4_K_CHUNKS][Q4_K_CHUNK];
} q4_k_packed;
_Static_assert(sizeof(q4_k_packed) == 2368, "148 bytes a row, for 144 stored");

static inline size_t q4_k_group_bytes(size_t cols) {
    return cols / K_LEN * sizeof(q4_k_packed);
}

#endif
