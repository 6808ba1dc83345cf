/* weight_iq4_nl.c - IQ4_NL: blocks of 32 values from a table of 16, with one
 * f16 scale.
 *
 * The table's steps grow with the distance from zero, as the density of usual
 * weights shrinks. */
#include <string.h>
#include "engine/weight_nibbles.h"

typedef struct {
    uint16_t scale; /* f16 */
    uint8_t nibbles[NIBBLES_BYTES];
} block_iq4_nl;
_Static_assert(sizeof(block_iq4_nl) == 18, "18 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_iq4_nl block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale);
    weight_nibbles_read(&iq4_nl_nibbles, block.nibbles, out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_iq4_nl block;
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    weight_nibbles_pack(block.nibbles, r, values);
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_nibbles_open(&iq4_nl_nibbles, values, out);
}

Q0_FORMAT(iq4_nl, Q0_LEN, 18, WEIGHT_NO_MIN);
