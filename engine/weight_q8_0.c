/* weight_q8_0.c - Q8_0: blocks of 32 int8 with one f16 scale.
 *
 * A weight may be -128: exact in both forms.  The packed layout is described in
 * weight_q8_0.h. */
#include "engine/weight_q8_0.h"

#include <string.h>

typedef struct {
    uint16_t scale; /* f16 */
    int8_t values[Q0_LEN];
} block_q8_0;
_Static_assert(sizeof(block_q8_0) == 34, "34 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_q8_0 block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = f16_to_f32(block.scale);
    memcpy(out->values, block.values, sizeof(block.values));
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_q8_0 block;
    memcpy(&block, stored, sizeof(block));
    weight_q0_pack_f16(block.scale, r, head);
    for (size_t i = 0; i < Q0_LEN; i += 4) {
        weight_four four =
            weight_load_four(block.values + i) ^ WEIGHT_FOUR(0x80);
        memcpy(values + i / 4 * Q0_CHUNK + r * 4, &four, sizeof(four));
    }
}

static void open_values(const uint8_t *values, weight_block *out) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        for (size_t i = 0; i < Q0_LEN; i++) {
            uint8_t v = values[i / 4 * Q0_CHUNK + r * 4 + i % 4];
            out->values[i][r] = (int8_t)(v ^ 0x80);
        }
    }
}

Q0_FORMAT(q8_0, Q0_LEN, 34, WEIGHT_NO_MIN);
