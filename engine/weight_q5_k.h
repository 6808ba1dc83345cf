/* weight_q5_k.h - Q5_K, packed.
 *
 * Private to weight_q5_k*.c.  A block is the head of weight_k.h and the values
 * of 8 times 32 columns.
 *
 * A value is 5 bits.  Of 32 columns the first 20 are five chunks of 16 rows x 4
 * consecutive columns, a byte each; the bytes' three top bits hold the last 12
 * columns in pieces:
 *   columns 20 to 23: bits 0 to 2 in chunk 0, bits 3 and 4 in chunk 1
 *   columns 24 to 27: bits 0 to 2 in chunk 2, bits 3 and 4 in chunk 3
 *   columns 28 to 31: bits 0 to 2 in chunk 4, bit 3 in chunk 1, bit 4 in 3
 * So 32 columns take 5 chunks, and opening all eight takes fewer steps than
 * from nibbles and separate bits. */
#ifndef ENGINE_WEIGHT_Q5_K_H
#define ENGINE_WEIGHT_Q5_K_H

#include "engine/weight_k.h"

#define Q5_K_BYTES 176
#define Q5_K_CHUNK 64 /* bytes: 16 rows x 4 columns */
#define Q5_K_CHUNKS 5 /* of 32 columns */

typedef struct {
    k_packed_head head;
    uint8_t values[K_ACT_BLOCKS][Q5_K_CHUNKS][Q5_K_CHUNK];
} q5_k_packed;
_Static_assert(sizeof(q5_k_packed) == 2880, "180 bytes a row, for 176 stored");

static inline size_t q5_k_group_bytes(size_t cols) {
    return cols / K_LEN * sizeof(q5_k_packed);
}

#endif
