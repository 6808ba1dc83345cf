/* weight_q4_0.h - Q4_0's packed layout, for its kernels.
 *
 * A group is all its scales, then all its values: per block of 32 columns 16
 * f16 scales, one a row; per block 4 chunks of 16 rows x 4 bytes.  A byte of
 * chunk c is as stored: its low nibble is column 4c + its place among the 4,
 * its high nibble the column 16 further; a nibble is the value + 8. */
#ifndef ENGINE_WEIGHT_Q4_0_H
#define ENGINE_WEIGHT_Q4_0_H

#include <stddef.h>
#include <stdint.h>
#include "engine/weight_kernels.h"

#define Q4_0_LEN 32
#define Q4_0_BYTES 18
#define Q4_0_ZERO 8 /* the nibble of value 0 */
#define Q4_0_CHUNK 64
#define Q4_0_CHUNKS (Q4_0_LEN / 8)
#define Q4_0_HIGH (Q4_0_LEN / 2) /* columns between a byte's nibbles */
#define Q4_0_PACKED_SCALES (WEIGHT_GROUP * sizeof(uint16_t))
#define Q4_0_PACKED_VALUES (WEIGHT_GROUP * Q4_0_LEN / 2)

static inline size_t q4_0_values_offset(size_t cols) {
    size_t scales = cols / Q4_0_LEN * Q4_0_PACKED_SCALES;
    return (scales + Q4_0_CHUNK - 1) / Q4_0_CHUNK * Q4_0_CHUNK;
}
static inline size_t q4_0_group_bytes(size_t cols) {
    return q4_0_values_offset(cols) + cols / Q4_0_LEN * Q4_0_PACKED_VALUES;
}

#endif
