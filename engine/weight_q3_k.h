/* weight_q3_k.h - Q3_K, packed.
 *
 * Private to weight_q3_k*.c.  A block is 16 f16 scales (and padding, so that
 * what follows is aligned), 16 times 16 sub-scales and the values of 256
 * columns.
 *
 * Sub-scales are 6 bits, stored value + 32.  A row's are in three lanes of 32
 * bits, whose lower and upper halves are for the even and the odd sub-blocks of
 * 16 columns.  Such a half-lane holds those of A8 blocks 0 and 1, 2 and 3, or 4
 * and 5 in bits 0 to 5 and 6 to 11; above them are, in the first, bits 0 to 3
 * of block 6; in the second, bits 4 and 5 of block 6 and 0 and 1 of block 7; in
 * the third, bits 2 to 5 of block 7.
 *
 * A value is 3 bits, stored value + 4.  64 columns, 16 times 4 consecutive
 * ones, take 6 chunks of 16 rows x 4 bytes.  By the first of the four:
 *   0, 4, 8, 12     bits 0 to 2 in chunks 0 to 3
 *   16, 20, 24, 28  bits 3 to 5 in chunks 0 to 3
 *   32, 36          bits 0 to 2 in chunks 4 and 5
 *   40, 44          bits 3 to 5 in chunks 4 and 5
 *   48, 52, 56, 60  bits 6 and 7 in chunks 0, 2, 3 and 5 are their upper two;
 *                   the lowest is bit 6 and 7 in chunk 1, bit 6 and 7 in 4 */
#ifndef ENGINE_WEIGHT_Q3_K_H
#define ENGINE_WEIGHT_Q3_K_H

#include "engine/weight_k.h"

#define Q3_K_BYTES 110
#define Q3_K_OFFSET 4      /* what is added to a value */
#define Q3_K_SUB_OFFSET 32 /* and to a sub-scale */
#define Q3_K_CHUNK 64      /* bytes */
#define Q3_K_CHUNKS 6      /* of 64 columns */
#define Q3_K_QUARTERS 4
#define Q3_K_LANES 3

typedef struct {
    uint16_t scales[WEIGHT_GROUP]; /* f16 */
    uint8_t padding[32];
    uint16_t sub_scales[Q3_K_LANES][WEIGHT_GROUP][2];
    uint8_t values[Q3_K_QUARTERS][Q3_K_CHUNKS][Q3_K_CHUNK];
} q3_k_packed;
_Static_assert(sizeof(q3_k_packed) == 1792, "112 bytes a row, for 110 stored");

static inline size_t q3_k_group_bytes(size_t cols) {
    return cols / K_LEN * sizeof(q3_k_packed);
}

#endif
