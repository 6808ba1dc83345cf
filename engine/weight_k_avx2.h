/* weight_k_avx2.h - the end of an A8 block of Q4_K and Q5_K with AVX2.
 *
 * Private to weight_*_avx2.c. */
#ifndef ENGINE_WEIGHT_K_AVX2_H
#define ENGINE_WEIGHT_K_AVX2_H

#include "engine/weight_k.h"
#include "engine/weight_tile_avx2.h"

/* Scale and minimum of 8 rows, half h of a group, for A8 block j. */
typedef struct {
    __m256 scale, min;
    __m256i sub_scale; /* twice in each lane, as int16 */
} k_half;

TILE_INLINE k_half k_load_half(const k_packed_head *head, size_t j, size_t h) {
    __m256i sub_scale = tile_bytes(head->subs[j].scales + 8 * h);
    __m256i sub_min = tile_bytes(head->subs[j].mins + 8 * h);
    return (k_half){
        .scale = tile_f16(head->scales + 8 * h),
        .min = _mm256_mul_ps(tile_f16(head->mins + 8 * h),
                             _mm256_cvtepi32_ps(sub_min)),
        .sub_scale =
            _mm256_or_si256(sub_scale, _mm256_slli_epi32(sub_scale, 16)),
    };
}

/* acc += block b of a panel, whose products, times the sub-scale, add up to
 * `product`. */
TILE_INLINE __m256 k_add_product(const k_half *w, const tile_prep *prep,
                                 size_t b, __m256i product, __m256 acc) {
    __m256 x_scale = _mm256_set1_ps(prep->scale[b]);
    __m256 x_min = _mm256_set1_ps(prep->min[b]);
    acc = _mm256_fmadd_ps(_mm256_mul_ps(w->scale, x_scale),
                          _mm256_cvtepi32_ps(product), acc);
    return _mm256_fnmadd_ps(w->min, x_min, acc);
}

/* The same, its products adding up to the two int16 of each lane of `sum`. */
TILE_INLINE __m256 k_add_block(const k_half *w, const tile_prep *prep, size_t b,
                               __m256i sum, __m256 acc) {
    return k_add_product(w, prep, b, _mm256_madd_epi16(sum, w->sub_scale), acc);
}

/* The prepare() that goes with it. */
static inline void k_prepare(size_t cols, size_t col0, size_t col1,
                             const void *x, tile_prep *out) {
    tile_prepare_avx2(1, cols, col0, col1, x, out);
}

#endif
