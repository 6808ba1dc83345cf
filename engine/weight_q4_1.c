/* weight_q4_1.c - Q4_1: blocks of 32 values of 4 bits with an f16 scale and an
 * f16 offset that is added.
 *
 * The contract in weight.h subtracts a minimum, so the offset's sign is turned
 * around: the bits stay the same. */
#include <string.h>
#include "engine/weight_nibbles.h"

typedef struct {
    uint16_t scale;  /* f16 */
    uint16_t offset; /* f16 */
    uint8_t nibbles[NIBBLES_BYTES];
} block_q4_1;
_Static_assert(sizeof(block_q4_1) == 20, "20 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_q4_1 block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale);
    out->min = -f16_to_f32(block.offset);
    weight_nibbles_read(&q4_1_nibbles, block.nibbles, out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_q4_1 block;
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    weight_q0_pack_f16(block.offset ^ 0x8000u, r, head + Q0_SECOND);
    weight_nibbles_pack(block.nibbles, r, values);
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_nibbles_open(&q4_1_nibbles, values, out);
}

Q0_FORMAT(q4_1, Q0_LEN, 20, WEIGHT_MIN_32);
