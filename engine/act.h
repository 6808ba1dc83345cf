/* act.h - the two forms an activation row takes, in kernels and on the wire.
 *
 * F32: n floats.  A8, for quantized weights: blocks of 32 values, int8 in
 * [-127, 127] with one f32 scale = amax / 127, itself of 11 significant bits;
 * both rounded half to even.  A row is stored as [n/32 f32 scales][n int8],
 * little-endian, so it can be sent and multiplied as it stands.  Part of the
 * numerics contract: a change of form or rounding is a new profile version. */
#ifndef ENGINE_ACT_H
#define ENGINE_ACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACT_BLOCK 32

typedef enum { ACT_F32 = 0, ACT_A8 = 1, ACT_FORMS } act_form;

/* Bytes of one row of n values.  n is a multiple of 32 for A8. */
size_t act_row_bytes(act_form form, size_t n);

/* Encode one row.  `row` is 4-byte aligned, `x` is finite; NaN and infinities
 * encode to some valid row (no trap, no value outside [-127, 127]). */
void act_encode(act_form form, size_t n, const float *x, void *row);

/* Encode only values [from, to), multiples of 32 for A8, of the row: pieces of
 * one row may be encoded by several threads.  x[0] is value `from`. */
void act_encode_part(act_form form, size_t n, size_t from, size_t to,
                     const float *x, void *row);

/* Check a row that came from a peer: A8 values of -128 and scales that are not
 * finite or negative are refused, as are non-finite F32 values. */
bool act_row_valid(act_form form, size_t n, const void *row);

static inline const float *act_scales(const void *row) {
    return (const float *)row;
}
static inline const int8_t *act_values(size_t n, const void *row) {
    return (const int8_t *)row + n / ACT_BLOCK * sizeof(float);
}

#endif
