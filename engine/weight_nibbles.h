/* weight_nibbles.h - the formats with small heads whose values are nibbles:
 * Q4_0, Q4_1, IQ4_NL, MXFP4 and IQ4_XS.
 *
 * Private to weight_*.c.  A nibble stands for one of 16 integers.  Of the 16
 * bytes that store 32 values the low nibbles are the first 16 values; packed,
 * a byte of chunk c is as stored: its low nibble is column 4c + its place among
 * the 4, its high nibble the column 16 further. */
#ifndef ENGINE_WEIGHT_NIBBLES_H
#define ENGINE_WEIGHT_NIBBLES_H

#include "engine/weight_q0.h"

#define NIBBLES_BYTES (Q0_LEN / 2)
#define NIBBLES_HIGH (Q0_LEN / 2) /* columns between a byte's nibbles */
#define NIBBLES_CHUNKS (Q0_LEN / 8)

typedef struct {
    int8_t values[16]; /* what the nibbles stand for */
    /* Added to a value, this makes it the unsigned byte that the fast kernels
     * multiply; without `looked_up`, that byte is the nibble itself. */
    uint8_t zero;
    bool looked_up;
    /* So many products of pairs of those bytes add up in 16 bits; 0 if not even
     * one does. */
    size_t pairs_in_16_bits;
} nibble_format;

/* clang-format off */
#define NIBBLES_IQ4 { -127, -104, -83, -65, -49, -35, -22, -10, \
                      1, 13, 25, 38, 53, 69, 89, 113 }

static const nibble_format q4_0_nibbles = {
    .values = { -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7 },
    .zero = 8,
    .pairs_in_16_bits = 8,
};
static const nibble_format q4_1_nibbles = {
    .values = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
    .zero = 0,
    .pairs_in_16_bits = 8,
};
static const nibble_format iq4_nl_nibbles = {
    .values = NIBBLES_IQ4,
    .zero = 128,
    .looked_up = true,
};
static const nibble_format iq4_xs_nibbles = {
    .values = NIBBLES_IQ4,
    .zero = 128,
    .looked_up = true,
};
static const nibble_format mxfp4_nibbles = { /* twice the value */
    .values = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 },
    .zero = 12,
    .looked_up = true,
    .pairs_in_16_bits = 4,
};

static const q0_layout q4_0_layout = { Q0_F16, NIBBLES_CHUNKS };
static const q0_layout q4_1_layout = { Q0_F16_MIN, NIBBLES_CHUNKS };
static const q0_layout iq4_nl_layout = { Q0_F16, NIBBLES_CHUNKS };
static const q0_layout iq4_xs_layout = { Q0_F16_SUBS, NIBBLES_CHUNKS };
static const q0_layout mxfp4_layout = { Q0_E8M0, NIBBLES_CHUNKS };
/* clang-format on */

Q0_GROUP_BYTES(q4_0)
Q0_GROUP_BYTES(q4_1)
Q0_GROUP_BYTES(iq4_nl)
Q0_GROUP_BYTES(iq4_xs)
Q0_GROUP_BYTES(mxfp4)

/* The 32 values of 16 stored bytes. */
void weight_nibbles_read(const nibble_format *f, const uint8_t *bytes,
                         int8_t out[Q0_LEN]);

/* Write 16 stored bytes as row r's of packed values. */
void weight_nibbles_pack(const uint8_t *bytes, size_t r, uint8_t *values);

/* The values of 32 packed columns. */
void weight_nibbles_open(const nibble_format *f, const uint8_t *values,
                         weight_block *out);

#endif
