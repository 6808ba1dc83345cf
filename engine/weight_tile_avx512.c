/* weight_tile_avx512.c - the sums of activation blocks, 16 at a time. */
#include "engine/weight_tile_avx512.h"

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

static int32_t sum_of_block(const int8_t *x) {
    int32_t sum = 0;
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        sum += x[i];
    }
    return sum;
}

void tile_prepare_avx512(int32_t factor, size_t cols, size_t col0, size_t col1,
                         const void *x, tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / ACT_BLOCK;
    const size_t n_blocks = (col1 - col0) / ACT_BLOCK;

    size_t b = 0;
    for (; b + 16 <= n_blocks; b += 16) {
        __m512i v[8];
        for (size_t i = 0; i < 8; i++) {
            v[i] = _mm512_dpbusd_epi32(
                _mm512_setzero_si512(), _mm512_set1_epi8(1),
                _mm512_loadu_si512(values + (b + 2 * i) * ACT_BLOCK));
        }
        int32_t sum[16];
        _mm512_storeu_si512(sum, fold_16(v));
        for (size_t i = 0; i < 16; i++) {
            out[b + i] = (tile_prep){.bias = factor * sum[i],
                                     .sum = (float)sum[i],
                                     .scale = scales[b + i]};
        }
    }
    for (; b < n_blocks; b++) {
        int32_t sum = sum_of_block(values + b * ACT_BLOCK);
        out[b] = (tile_prep){
            .bias = factor * sum, .sum = (float)sum, .scale = scales[b]};
    }
}
