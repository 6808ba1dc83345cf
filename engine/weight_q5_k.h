/* weight_q5_k.h - Q5_K, packed.
 *
 * Private to weight_q5_k*.c.  A block is the head of weight_k.h and 8
 * times 32 columns of 5-bit values, packed as weight_fives.h has them. */
#ifndef ENGINE_WEIGHT_Q5_K_H
#define ENGINE_WEIGHT_Q5_K_H

#include "engine/weight_fives.h"
#include "engine/weight_k.h"

#define Q5_K_BYTES 176

typedef struct {
    k_packed_head head;
    uint8_t values[K_ACT_BLOCKS][FIVES_CHUNKS][FIVES_CHUNK];
} q5_k_packed;
_Static_assert(sizeof(q5_k_packed) == 2880, "180 bytes a row, for 176 stored");

static inline size_t q5_k_group_bytes(size_t cols) {
    return cols / K_LEN * sizeof(q5_k_packed);
}

#endif
