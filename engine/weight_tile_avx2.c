/* weight_tile_avx2.c - the sums of activation blocks. */
#include "engine/weight_tile_avx2.h"

static int32_t sum_of_block(const int8_t *x) {
    __m256i values = _mm256_loadu_si256((const __m256i *)x);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), values);
    __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(fours),
                                _mm256_extracti128_si256(fours, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

void tile_prepare_avx2(int32_t factor, size_t cols, size_t col0, size_t col1,
                       const void *x, tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / ACT_BLOCK;
    const size_t n_blocks = (col1 - col0) / ACT_BLOCK;

    for (size_t b = 0; b < n_blocks; b++) {
        int32_t sum = sum_of_block(values + b * ACT_BLOCK);
        out->bias[b] = factor * sum;
        out->min[b] = scales[b] * (float)sum;
        out->scale[b] = scales[b];
    }
}

void tile_prepare_halves(int32_t factor, size_t cols, size_t col0, size_t col1,
                         const void *x, tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / ACT_BLOCK;
    const size_t n_blocks = (col1 - col0) / ACT_BLOCK;

    for (size_t b = 0; b < n_blocks; b++) {
        __m256i v = _mm256_loadu_si256((const void *)(values + b * ACT_BLOCK));
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), v);
        __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        sum = _mm256_hadd_epi32(sum, sum);
        sum = _mm256_hadd_epi32(sum, sum);
        uint32_t low = (uint32_t)(factor * _mm256_extract_epi32(sum, 0));
        uint32_t high = (uint32_t)(factor * _mm256_extract_epi32(sum, 4));
        out->bias[b] = (int32_t)((low & 0xffff) | high << 16);
        out->scale[b] = scales[b];
    }
}
