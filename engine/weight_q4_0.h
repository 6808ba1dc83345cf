/* weight_q4_0.h - Q4_0's packed layout, for its kernels.
 *
 * The layout of weight_q0.h with 4 chunks a block.  A byte of chunk c is as
 * stored: its low nibble is column 4c + its place among the 4, its high nibble
 * the column 16 further; a nibble is the value + 8. */
#ifndef ENGINE_WEIGHT_Q4_0_H
#define ENGINE_WEIGHT_Q4_0_H

#include "engine/weight_q0.h"

#define Q4_0_BYTES 18
#define Q4_0_ZERO 8 /* the nibble of value 0 */
#define Q4_0_CHUNKS (Q0_LEN / 8)
#define Q4_0_HIGH (Q0_LEN / 2) /* columns between a byte's nibbles */

static inline size_t q4_0_group_bytes(size_t cols) {
    return q0_group_bytes(cols, Q4_0_CHUNKS);
}

#endif
