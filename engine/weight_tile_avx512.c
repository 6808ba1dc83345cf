/* weight_tile_avx512.c - the sums of activation blocks, 16 at a time. */
#include "engine/weight_tile_avx512.h"

#include "engine/util.h"

/* The sum of each of 8 pairs' two blocks of 32 values, 16 sums: v[i] holds 8
 * partial sums of block 2i in its lower and of block 2i + 1 in its upper half.
 */
static __m512i fold_16(const __m512i v[8]) {
    __m512i four[4], two[2];
    for (int i = 0; i < 4; i++) {
        four[i] =
            _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                             _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        __m512i a = four[2 * i], b = four[2 * i + 1];
        two[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b),
                                  _mm512_unpackhi_epi64(a, b));
    }
    __m512i all = _mm512_add_epi32(_mm512_shuffle_i32x4(two[0], two[1], 0x88),
                                   _mm512_shuffle_i32x4(two[0], two[1], 0xdd));
    /* Now each quarter holds one half of v[0] to v[3] or of v[4] to v[7]. */
    const __m512i order =
        _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    return _mm512_permutexvar_epi32(order, all);
}

/* Blocks [b, b + 16), or as many of them as the panel has. */
static void prepare_16(int32_t start, int32_t factor, size_t n_blocks,
                       const int8_t *values, const float *scales, size_t b,
                       tile_prep *out) {
    const size_t n = size_min(n_blocks - b, 16);
    const __mmask16 has = (__mmask16)((1u << n) - 1);
    __m512i v[8];
    for (size_t i = 0; i < 8; i++) { /* two blocks each */
        __mmask16 both = 2 * i + 1 < n ? 0xffff : 2 * i < n ? 0xff : 0;
        v[i] = _mm512_dpbusd_epi32(
            _mm512_setzero_si512(), _mm512_set1_epi8(1),
            _mm512_maskz_loadu_epi32(both, values + (b + 2 * i) * ACT_BLOCK));
    }
    __m512i sum = fold_16(v);
    __m512i bias =
        _mm512_add_epi32(_mm512_mullo_epi32(sum, _mm512_set1_epi32(factor)),
                         _mm512_set1_epi32(start));
    __m512 scale = _mm512_maskz_loadu_ps(has, scales + b);
    __m512 min = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum));
    _mm512_mask_storeu_epi32(out->bias + b, has, bias);
    _mm512_mask_storeu_ps(out->min + b, has, min);
    _mm512_mask_storeu_ps(out->scale + b, has, scale);
}

void tile_prepare_avx512(int32_t start, int32_t factor, size_t cols,
                         size_t col0, size_t col1, const void *x,
                         tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / ACT_BLOCK;
    const size_t n_blocks = (col1 - col0) / ACT_BLOCK;

    for (size_t b = 0; b < n_blocks; b += 16) {
        prepare_16(start, factor, n_blocks, values, scales, b, out);
    }
}
