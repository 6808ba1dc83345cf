/* weight_fives.h - values of 5 bits, packed: Q5_0, Q5_1 and Q5_K.
 *
 * Private to weight_*.c.  Of 32 columns the first 20 are five chunks of 16 rows
 * x 4 consecutive columns, a byte each; the bytes' three top bits hold the last
 * 12 columns in pieces:
 *   columns 20 to 23: bits 0 to 2 in chunk 0, bits 3 and 4 in chunk 1
 *   columns 24 to 27: bits 0 to 2 in chunk 2, bits 3 and 4 in chunk 3
 *   columns 28 to 31: bits 0 to 2 in chunk 4, bit 3 in chunk 1, bit 4 in 3
 * So 32 columns take 5 chunks, and opening all eight takes fewer steps than
 * from nibbles and separate bits. */
#ifndef ENGINE_WEIGHT_FIVES_H
#define ENGINE_WEIGHT_FIVES_H

#include "engine/weight_q0.h"

#define FIVES_LEN 32
#define FIVES_CHUNK 64 /* bytes: 16 rows x 4 columns */
#define FIVES_CHUNKS 5 /* stored, of 32 columns */
#define FIVES_OPENED (FIVES_LEN / 4)

/* As Q5_0 and Q5_1 store 32 of them: the fifth bits, one a value in ascending
 * order, and nibbles, the low ones being the first 16 values. */
typedef struct {
    uint8_t fifth[FIVES_LEN / 8];
    uint8_t nibbles[FIVES_LEN / 2];
} fives_stored;

/* The 32 stored values less `zero`. */
void weight_fives_read(const fives_stored *s, int8_t zero,
                       int8_t out[FIVES_LEN]);

/* Write 32 values, 0 to 31, as row r's of packed chunks. */
void weight_fives_pack(const int8_t values[FIVES_LEN], size_t r,
                       uint8_t *chunks);

/* The values of 32 packed columns less `zero`. */
void weight_fives_open(const uint8_t *chunks, int8_t zero, weight_block *out);

/* The formats that have small heads, and what their values are higher by when
 * they are packed. */
static const q0_layout q5_0_layout = {Q0_F16, FIVES_CHUNKS};
static const q0_layout q5_1_layout = {Q0_F16_MIN, FIVES_CHUNKS};
#define Q5_0_ZERO 16
#define Q5_1_ZERO 0

Q0_GROUP_BYTES(q5_0)
Q0_GROUP_BYTES(q5_1)

#endif
