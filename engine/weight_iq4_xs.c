/* weight_iq4_xs.c - IQ4_XS: blocks of 256 values from IQ4_NL's table, with an
 * f16 scale and for each 32 values a sub-scale of 6 bits that multiplies it.
 *
 * A sub-scale is -32 to 31 and a value -127 to 113, so the scaled integer sum
 * of an A8 block is at most 32 * 127 * 32 * 127 = 16,516,096 < 2^24. */
#include <string.h>
#include "engine/weight_k.h"
#include "engine/weight_nibbles.h"

#define SUB_OFFSET 32 /* what is added to a stored sub-scale */

typedef struct {
    uint16_t scale;           /* f16 */
    uint16_t high;            /* of sub-scale j, bits 4 and 5: from bit 2j on */
    uint8_t low[Q0_SUBS / 2]; /* and its bits 0 to 3, two in a byte */
    uint8_t nibbles[Q0_SUBS][NIBBLES_BYTES];
} block_iq4_xs;
_Static_assert(sizeof(block_iq4_xs) == 136, "136 bytes on disk");

static int8_t sub_scale(const block_iq4_xs *block, size_t j) {
    int low = block->low[j / 2] >> (j % 2 * 4) & 15;
    int high = block->high >> (2 * j) & 3;
    return (int8_t)((low | high << 4) - SUB_OFFSET);
}

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_iq4_xs block;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale) * (float)sub_scale(&block, j);
    weight_nibbles_read(&iq4_xs_nibbles, block.nibbles[j], out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_iq4_xs block;
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    for (size_t j = 0; j < Q0_SUBS; j++) {
        head[Q0_SECOND + j * WEIGHT_GROUP + r] = (uint8_t)sub_scale(&block, j);
        weight_nibbles_pack(block.nibbles[j], r,
                            values + j * NIBBLES_CHUNKS * Q0_CHUNK);
    }
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_nibbles_open(&iq4_xs_nibbles, values, out);
}

Q0_FORMAT(iq4_xs, K_LEN, 136, WEIGHT_NO_MIN);
