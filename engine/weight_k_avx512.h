/* weight_k_avx512.h - the end of an A8 block of Q4_K and Q5_K with AVX-512.
 *
 * Private to weight_*_avx512.c.  Scales, minima and sums are below 2^24 when
 * multiplied, so their products are exact as floats, without the slow integer
 * multiplication. */
#ifndef ENGINE_WEIGHT_K_AVX512_H
#define ENGINE_WEIGHT_K_AVX512_H

#include "engine/weight_k.h"
#include "engine/weight_tile_avx512.h"

/* acc += A8 block j of a stored block, which is block b of the panel.  `head`
 * is the first group's; `sum` is in units of 1 / unit, a power of two. */
TILE_INLINE void k_add_block(size_t n_groups, size_t n_x, const tile *t,
                             const k_packed_head *head, size_t j, size_t b,
                             float unit, __m512i sum[TILE_GROUPS][TILE_ROWS],
                             __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
        const k_packed_head *h =
            (const void *)((const uint8_t *)head + g * t->group_bytes);
        __m512 scale = tile_f16(h->scales), min = tile_f16(h->mins);
        __m512 sub_min = tile_bytes(h->subs[j].mins);
        __m512 sub_scale = tile_bytes(h->subs[j].scales);
        if (unit != 1.0f) {
            sub_scale = _mm512_mul_ps(sub_scale, _mm512_set1_ps(unit));
        }
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            const tile_prep *prep = &t->prep[i][b];
            __m512 x_scale = _mm512_set1_ps(prep->scale);
            __m512 x_sum = _mm512_set1_ps(prep->sum);
            __m512 product =
                _mm512_mul_ps(sub_scale, _mm512_cvtepi32_ps(sum[g][i]));
            acc[g][i] = _mm512_fmadd_ps(_mm512_mul_ps(scale, x_scale), product,
                                        acc[g][i]);
            acc[g][i] =
                _mm512_fnmadd_ps(_mm512_mul_ps(min, x_scale),
                                 _mm512_mul_ps(sub_min, x_sum), acc[g][i]);
        }
    }
}

/* The prepare() that goes with it. */
static inline void k_prepare(size_t cols, size_t col0, size_t col1,
                             const void *x, tile_prep *out) {
    tile_prepare_avx512(1, cols, col0, col1, x, out);
}

#endif
