/* weight_k_avx512.h - the end of an A8 block of Q4_K and Q5_K with AVX-512.
 *
 * Private to weight_*_avx512.c.  Scales, minima and sums are below 2^24 when
 * multiplied, so their products are exact as floats, without the slow integer
 * multiplication. */
#ifndef ENGINE_WEIGHT_K_AVX512_H
#define ENGINE_WEIGHT_K_AVX512_H

#include "engine/weight_k.h"
#include "engine/weight_tile_avx512.h"

/* The factors of 16 rows for A8 block j; `unit`, a power of two, multiplies the
 * sub-scale. */
typedef struct {
    __m512 scale, sub_scale, offset, min;
} k_factors;

TILE_INLINE k_factors k_load(const k_packed_head *head, size_t j, float unit) {
    k_factors f = {.scale = tile_f16(head->scales),
                   .sub_scale = tile_bytes(head->subs[j].scales)};
    f.min = _mm512_mul_ps(tile_f16(head->mins), tile_bytes(head->subs[j].mins));
    if (unit != 1.0f) {
        f.sub_scale = _mm512_mul_ps(f.sub_scale, _mm512_set1_ps(unit));
    }
    f.offset = tile_magic_offset(f.sub_scale);
    return f;
}

/* acc += A8 block j of a stored block, which is block b of the panel.  `head`
 * is the first group's; `sum` is in units of 1 / unit and started at
 * TILE_MAGIC_BITS. */
TILE_INLINE void k_add_block(size_t n_groups, size_t n_x, const tile *t,
                             const k_packed_head *head, size_t j, size_t b,
                             float unit, __m512i sum[TILE_GROUPS][TILE_ROWS],
                             __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
        const k_packed_head *h =
            (const void *)((const uint8_t *)head + g * t->group_bytes);
        k_factors f = k_load(h, j, unit);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            const tile_prep *prep = &t->prep[i];
            __m512 x_scale = _mm512_set1_ps(prep->scale[b]);
            __m512 x_min = _mm512_set1_ps(prep->min[b]);
            __m512 product = _mm512_fmadd_ps(
                f.sub_scale, _mm512_castsi512_ps(sum[g][i]), f.offset);
            acc[g][i] = _mm512_fmadd_ps(_mm512_mul_ps(f.scale, x_scale),
                                        product, acc[g][i]);
            acc[g][i] = _mm512_fnmadd_ps(f.min, x_min, acc[g][i]);
        }
    }
}

/* Open the factors of A8 block j, which is block b of the panel; its values are
 * to be written to what is returned. */
TILE_INLINE __m512i *k_open_block(const k_packed_head *head, size_t j, size_t b,
                                  size_t g, tile_opened *out) {
    k_factors f = k_load(head, j, 1.0f);
    _mm512_store_ps(out->block[b][g].scale, f.scale);
    _mm512_store_ps(out->block[b][g].sub_scale, f.sub_scale);
    _mm512_store_ps(out->block[b][g].offset, f.offset);
    _mm512_store_ps(out->block[b][g].min, f.min);
    return (__m512i *)(void *)out->block[b][g].values;
}

/* The prepare() that goes with it. */
static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    tile_prepare_avx512(TILE_MAGIC_BITS, 0, cols, col0, col1, x, out);
}

#endif
