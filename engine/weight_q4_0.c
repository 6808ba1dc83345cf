/* weight_q4_0.c - Q4_0: blocks of 32 values of 4 bits with one f16 scale.
 *
 * A value is its nibble - 8. */
#include <string.h>
#include "engine/weight_nibbles.h"

typedef struct {
    uint16_t scale; /* f16 */
    uint8_t nibbles[NIBBLES_BYTES];
} block_q4_0;
_Static_assert(sizeof(block_q4_0) == 18, "18 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_q4_0 block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale);
    weight_nibbles_read(&q4_0_nibbles, block.nibbles, out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_q4_0 block;
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    weight_nibbles_pack(block.nibbles, r, values);
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_nibbles_open(&q4_0_nibbles, values, out);
}

Q0_FORMAT(q4_0, Q0_LEN, 18, WEIGHT_NO_MIN);
