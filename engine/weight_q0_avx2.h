/* weight_q0_avx2.h - the heads of weight_q0.h with AVX2.
 *
 * Private to weight_*_avx2.c. */
#ifndef ENGINE_WEIGHT_Q0_AVX2_H
#define ENGINE_WEIGHT_Q0_AVX2_H

#include "engine/weight_q0.h"
#include "engine/weight_tile_avx2.h"

/* What the head of column `col` has for 8 rows, half h of a group. */
typedef struct {
    __m256 scale, sub_scale, min;
} q0_factors;

/* weight_e8m0_half() of 8 bytes: (e - 1) << 23, or for 0 and 1 a larger
 * denormal number. */
TILE_INLINE __m256 q0_e8m0(const uint8_t *at) {
    __m256i e = tile_bytes(at);
    __m256i normal =
        _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i denormal =
        _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000),
                          _mm256_min_epi32(e, _mm256_set1_epi32(1)));
    return _mm256_castsi256_ps(_mm256_max_epi32(normal, denormal));
}

TILE_INLINE q0_factors q0_load(const q0_layout *l, const tile *t, size_t h,
                               size_t col) {
    q0_factors f = {0};
    const uint8_t *head = q0_head_at(l, t->weights, col);
    const uint8_t *second = head + Q0_SECOND;
    f.scale =
        l->head == Q0_E8M0 ? q0_e8m0(head + h * 8) : tile_f16(head + h * 16);
    if (l->head == Q0_F16_MIN) f.min = tile_f16(second + h * 16);
    if (l->head == Q0_F16_SUBS) {
        const uint8_t *subs = second + q0_sub(col) * WEIGHT_GROUP + h * 8;
        f.sub_scale = _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)subs)));
    }
    return f;
}

/* acc += the sums of A8 block b of the panel, 8 rows. */
TILE_INLINE void q0_end_block(const q0_layout *l, size_t n_x, const tile *t,
                              size_t b, size_t h, const __m256i *sum,
                              __m256 *acc) {
    q0_factors f = q0_load(l, t, h, t->col0 + b * Q0_LEN);

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        const tile_prep *prep = &t->prep[i];
        __m256 x_scale = _mm256_set1_ps(prep->scale[b]);
        __m256i whole =
            _mm256_add_epi32(sum[i], _mm256_set1_epi32(prep->bias[b]));
        __m256 product = _mm256_cvtepi32_ps(whole);
        if (l->head == Q0_F16_SUBS) {
            product = _mm256_mul_ps(f.sub_scale, product);
        }
        acc[i] =
            _mm256_fmadd_ps(_mm256_mul_ps(f.scale, x_scale), product, acc[i]);
        if (l->head == Q0_F16_MIN) {
            acc[i] =
                _mm256_fnmadd_ps(f.min, _mm256_set1_ps(prep->min[b]), acc[i]);
        }
    }
}

/* For F32: the sub-scale is multiplied into the scale, exactly. */
TILE_INLINE q0_factors q0_load_f32(const q0_layout *l, const tile *t, size_t h,
                                   size_t col) {
    q0_factors f = q0_load(l, t, h, col);
    if (l->head == Q0_F16_SUBS) f.scale = _mm256_mul_ps(f.scale, f.sub_scale);
    return f;
}

/* acc += the columns of a chunk, 8 rows of signed bytes, times the rows' values
 * from x_at on.  With a minimum, scale * value is exact (16 bits at most), so
 * the fused subtraction is dequantize()'s. */
TILE_INLINE void q0_add_columns(const q0_layout *l, size_t n_x, __m256i bytes,
                                const q0_factors *f, const float *const *x,
                                size_t x_at, __m256 *acc) {
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        __m256i top = _mm256_slli_epi32(bytes, 24 - 8 * j);
        __m256 value = _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
        __m256 w = l->head == Q0_F16_MIN
                       ? _mm256_fmsub_ps(f->scale, value, f->min)
                       : _mm256_mul_ps(f->scale, value);
        tile_add_column(n_x, w, x, x_at + (size_t)j, acc);
    }
}

#endif
