/* weight_q5_0.c - Q5_0: blocks of 32 values of 5 bits with one f16 scale.
 *
 * A value is the stored one - 16.  The packed layout is described in
 * weight_fives.h. */
#include <string.h>
#include "engine/weight_fives.h"

typedef struct {
    uint16_t scale; /* f16 */
    fives_stored values;
} block_q5_0;
_Static_assert(sizeof(block_q5_0) == 22, "22 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_q5_0 block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale);
    weight_fives_read(&block.values, Q5_0_ZERO, out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_q5_0 block;
    int8_t unsigned_values[FIVES_LEN];
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    weight_fives_read(&block.values, 0, unsigned_values);
    weight_fives_pack(unsigned_values, r, values);
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_fives_open(values, Q5_0_ZERO, out);
}

Q0_FORMAT(q5_0, Q0_LEN, 22, WEIGHT_NO_MIN);
