/* rope_rows.h - the turning of heads, sixteen lanes at a time.
 *
 * The body of rope_avx2.c and rope_avx512.c, which define the level for vec16.h
 * and the function's name, ROPE_TURN.  Pairs that do not fill a vector take the
 * reference's way. */
#ifndef ROPE_TURN
#error "rope_rows.h is the body of rope_avx2.c and rope_avx512.c"
#endif

#include "engine/rope_internal.h"
#include "engine/vec16.h"

/* Eight neighbouring pairs a step: in lane order a0 b0 a1 b1 ..., the partner
 * of each lane is its neighbour, and the sine counts negative for an a. */
static void turn_norm(size_t n_pairs, const float *c, const float *s,
                      float *x) {
    const size_t step = V16_LANES / 2;
    size_t i = 0;
    for (; i + step <= n_pairs; i += step) {
        v16 own = v16_load(x + 2 * i);
        v16 partner = v16_neg_even(v16_swap_pairs(own));
        v16 kept = v16_mul(own, v16_load_twice(c + i));
        v16_store(x + 2 * i, v16_fma(partner, v16_load_twice(s + i), kept));
    }
    for (; i < n_pairs; i++) {
        rope_turn_pair(&x[2 * i], &x[2 * i + 1], c[i], s[i]);
    }
}

static void turn_neox(size_t n_pairs, const float *c, const float *s,
                      float *x) {
    float *y = x + n_pairs;
    size_t i = 0;
    for (; i + V16_LANES <= n_pairs; i += V16_LANES) {
        v16 a = v16_load(x + i), b = v16_load(y + i);
        v16 cosine = v16_load(c + i), sine = v16_load(s + i);
        v16_store(x + i, v16_fma(v16_neg(b), sine, v16_mul(a, cosine)));
        v16_store(y + i, v16_fma(a, sine, v16_mul(b, cosine)));
    }
    for (; i < n_pairs; i++) {
        rope_turn_pair(&x[i], &y[i], c[i], s[i]);
    }
}

void ROPE_TURN(rope_style style, size_t n_pairs, const float *table,
               size_t n_heads, size_t head_dim, float *x) {
    const float *c = table, *s = table + n_pairs;
    for (size_t head = 0; head < n_heads; head++, x += head_dim) {
        if (style == ROPE_NORM) {
            turn_norm(n_pairs, c, s, x);
        } else {
            turn_neox(n_pairs, c, s, x);
        }
    }
}
