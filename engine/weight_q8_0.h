/* weight_q8_0.h - Q8_0's packed layout, for its kernels.
 *
 * The layout of weight_q0.h with 8 chunks a block.  A chunk is 4 consecutive
 * columns, stored as int8 ^ 0x80 (that is value + 128), the form in which
 * vpdpbusd wants its first operand. */
#ifndef ENGINE_WEIGHT_Q8_0_H
#define ENGINE_WEIGHT_Q8_0_H

#include "engine/weight_q0.h"

#define Q8_0_CHUNKS (Q0_LEN / 4)

static const q0_layout q8_0_layout = {Q0_F16, Q8_0_CHUNKS};

Q0_GROUP_BYTES(q8_0)

#endif
