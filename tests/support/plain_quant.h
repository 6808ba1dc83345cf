/* plain_quant.h - stored blocks of the integer formats, value by value.
 *
 * Written from the formats' definitions, apart from the code under test.  A
 * format is a row of a table here, too. */
#ifndef TESTS_SUPPORT_PLAIN_QUANT_H
#define TESTS_SUPPORT_PLAIN_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tests/support/plain.h"

/* (scale * sub_scale) * value - min * sub_min */
typedef struct {
    float scale;
    int sub_scale; /* 1 in formats without */
    int value;
    float min;
    int sub_min;
} plain_quant;

/* Whether it is one of these formats. */
bool plain_quant_known(uint32_t type);
bool plain_quant_has_min(uint32_t type);

/* Value i of a stored row. */
plain_quant plain_quant_at(uint32_t type, const uint8_t *row, size_t i);

/* n random values, whole blocks. */
void plain_quant_random(uint64_t *seed, plain_kind kind, uint32_t type,
                        size_t n, uint8_t *out);

/* Set a block's scale, a power of two, and its f16 minimum if it has one. */
void plain_quant_scales(uint32_t type, float scale, uint8_t *block);

/* Make a block's scale, or its minimum, one that no quantizer writes: f16 bits
 * such as infinity or NaN; where the scale is a byte, their upper eight. */
void plain_quant_break(uint32_t type, bool minimum, uint16_t bits,
                       uint8_t *block);

#endif
