/* weight_q5_1.c - Q5_1: blocks of 32 values of 5 bits with an f16 scale and an
 * f16 offset that is added.
 *
 * The offset's sign is turned around, as in Q4_1.  The packed layout is
 * described in weight_fives.h. */
#include <string.h>
#include "engine/weight_fives.h"

typedef struct {
    uint16_t scale;  /* f16 */
    uint16_t offset; /* f16 */
    fives_stored values;
} block_q5_1;
_Static_assert(sizeof(block_q5_1) == 24, "24 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_q5_1 block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale);
    out->min = -f16_to_f32(block.offset);
    weight_fives_read(&block.values, Q5_1_ZERO, out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_q5_1 block;
    int8_t unsigned_values[FIVES_LEN];
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    weight_q0_pack_f16(block.offset ^ 0x8000u, r, head + Q0_SECOND);
    weight_fives_read(&block.values, 0, unsigned_values);
    weight_fives_pack(unsigned_values, r, values);
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_fives_open(values, Q5_1_ZERO, out);
}

Q0_FORMAT(q5_1, Q0_LEN, 24, WEIGHT_MIN_32);
