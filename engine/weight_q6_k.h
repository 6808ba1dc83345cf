/* weight_q6_k.h - Q6_K, packed.
 *
 * Private to weight_q6_k*.c.  A block is 16 f16 scales (and padding, so that
 * what follows is aligned), 16 times 16 sub-scales, one a row, and the values
 * of 16 times 16 columns.
 *
 * A value is 6 bits, stored value + 32.  Of a sub-block's 16 columns the first
 * 12 are three chunks of 16 rows x 4 consecutive columns, a byte each; the
 * bytes' two top bits hold the last 4 columns, two bits in each chunk, the
 * lowest in the first.  So 16 columns take 3 chunks, and opening all four takes
 * fewer steps than from nibbles and separate pairs of bits. */
#ifndef ENGINE_WEIGHT_Q6_K_H
#define ENGINE_WEIGHT_Q6_K_H

#include "engine/weight_k.h"

#define Q6_K_BYTES 210
#define Q6_K_SUB 16    /* columns of a sub-scale */
#define Q6_K_OFFSET 32 /* what is added to a value */
#define Q6_K_CHUNK 64  /* bytes: 16 rows x 4 columns */
#define Q6_K_SUB_CHUNKS 3

typedef struct {
    uint16_t scales[WEIGHT_GROUP]; /* f16 */
    uint8_t padding[32];
    int8_t sub_scales[K_LEN / Q6_K_SUB][WEIGHT_GROUP];
    uint8_t values[K_LEN / Q6_K_SUB][Q6_K_SUB_CHUNKS][Q6_K_CHUNK];
} q6_k_packed;
_Static_assert(sizeof(q6_k_packed) == 3392, "212 bytes a row, for 210 stored");

static inline size_t q6_k_group_bytes(size_t cols) {
    return cols / K_LEN * sizeof(q6_k_packed);
}

#endif
