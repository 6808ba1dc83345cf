/* weight_q0.h - what Q8_0 and Q4_0 share: blocks of 32 with one f16 scale.
 *
 * Private to weight_*.c.  Packed, a group is all its scales, then all its
 * values, so that the values' 64-byte chunks are aligned: per block 16 f16
 * scales, one a row; per block the format's number of chunks of 16 rows x 4
 * bytes. */
#ifndef ENGINE_WEIGHT_Q0_H
#define ENGINE_WEIGHT_Q0_H

#include <stddef.h>
#include <stdint.h>
#include "engine/weight_block.h"
#include "engine/weight_kernels.h"

#define Q0_LEN 32
#define Q0_CHUNK 64
#define Q0_SCALES (WEIGHT_GROUP * sizeof(uint16_t)) /* bytes of a block's */

static inline size_t q0_values_offset(size_t cols) {
    size_t scales = cols / Q0_LEN * Q0_SCALES;
    return (scales + Q0_CHUNK - 1) / Q0_CHUNK * Q0_CHUNK;
}
static inline size_t q0_group_bytes(size_t cols, size_t chunks) {
    return q0_values_offset(cols) + cols / Q0_LEN * chunks * Q0_CHUNK;
}

/* A block of a group. */
typedef struct {
    const uint8_t *scales, *values;
} q0_block;

/* The block that begins at column `col`. */
static inline q0_block q0_block_at(size_t cols, const uint8_t *group,
                                   size_t col, size_t chunks) {
    const size_t b = col / Q0_LEN;
    return (q0_block){
        .scales = group + b * Q0_SCALES,
        .values = group + q0_values_offset(cols) + b * chunks * Q0_CHUNK,
    };
}
static inline void q0_block_next(q0_block *block, size_t chunks) {
    block->scales += Q0_SCALES;
    block->values += chunks * Q0_CHUNK;
}

/* Write row r's scale, f16, of a block. */
void weight_q0_pack_scale(uint16_t scale, size_t r, uint8_t *scales);

/* The block's scales; the sub-scales are 1. */
void weight_q0_open_scales(const q0_block *block, weight_block *out);

#endif
