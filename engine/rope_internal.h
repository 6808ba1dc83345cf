/* rope_internal.h - what the levels of rope share.  Only rope*.c include it. */
#ifndef ENGINE_ROPE_INTERNAL_H
#define ENGINE_ROPE_INTERNAL_H

#include <math.h>
#include <stddef.h>
#include "engine/rope.h"

/* rope_apply() with the rope opened up; table is [n_pairs] cos, [n_pairs] sin.
 */
typedef void (*rope_turn)(rope_style style, size_t n_pairs, const float *table,
                          size_t n_heads, size_t head_dim, float *x);
void rope_turn_avx2(rope_style style, size_t n_pairs, const float *table,
                    size_t n_heads, size_t head_dim, float *x);
void rope_turn_avx512(rope_style style, size_t n_pairs, const float *table,
                      size_t n_heads, size_t head_dim, float *x);

/* One pair: the reference. */
static inline void rope_turn_pair(float *a, float *b, float c, float s) {
    float x = *a, y = *b;
    *a = fmaf(-y, s, x * c);
    *b = fmaf(x, s, y * c);
}

#endif
