/* weight_mxfp4.c - MXFP4: blocks of 32 numbers of 4 bits (sign, two bits of
 * exponent, one of mantissa), scaled by a power of two.
 *
 * Twice such a number is an integer of at most 12, so the table holds the
 * doubles, and byte e of a block means a scale of 2^(e - 128). */
#include <string.h>
#include "engine/weight_nibbles.h"

typedef struct {
    uint8_t exponent;
    uint8_t nibbles[NIBBLES_BYTES];
} block_mxfp4;
_Static_assert(sizeof(block_mxfp4) == 17, "17 bytes on disk");

static void read_part(const uint8_t *stored, size_t j, q0_part *out) {
    block_mxfp4 block;
    (void)j;
    memcpy(&block, stored, sizeof(block));
    out->scale = weight_e8m0_half(block.exponent);
    weight_nibbles_read(&mxfp4_nibbles, block.nibbles, out->values);
}

static void pack_block(const uint8_t *stored, size_t r, uint8_t *head,
                       uint8_t *values) {
    block_mxfp4 block;
    memcpy(&block, stored, sizeof(block));
    head[r] = block.exponent;
    weight_nibbles_pack(block.nibbles, r, values);
}

static void open_values(const uint8_t *values, weight_block *out) {
    weight_nibbles_open(&mxfp4_nibbles, values, out);
}

Q0_FORMAT(mxfp4, Q0_LEN, 17, WEIGHT_NO_MIN);
