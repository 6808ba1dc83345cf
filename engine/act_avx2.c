/* act_avx2.c - A8 encoder for AVX2; the rules are in act_kernels.h.
 *
 * The operand order of max and min decides what a NaN becomes. */
#include <float.h>
#include <immintrin.h>
#include <string.h>
#include "engine/act.h"
#include "engine/act_kernels.h"

static float max_of_8(__m256 v) {
    __m128 m =
        _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_movehdup_ps(m));
    return _mm_cvtss_f32(m);
}

static __m256i quantize(__m256 x, __m256 inv) {
    __m256 v = _mm256_mul_ps(x, inv);
    v = _mm256_min_ps(v, _mm256_set1_ps(127.0f));
    v = _mm256_max_ps(v, _mm256_set1_ps(-127.0f));
    return _mm256_cvtps_epi32(v);
}

static void encode_block(const float *at, float *scale, int8_t *q) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 x[4], m = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_loadu_ps(at + 8 * i);
        m = _mm256_max_ps(_mm256_andnot_ps(sign, x[i]), m);
    }
    float amax = max_of_8(m);
    if (amax > FLT_MAX) amax = FLT_MAX;

    float inv = 127.0f / amax;
    if (inv > FLT_MAX) {
        *scale = 0.0f;
        memset(q, 0, ACT_BLOCK);
        return;
    }

    *scale = act_round_scale(amax / 127.0f);
    __m256 k = _mm256_set1_ps(inv);
    __m256i ab = _mm256_packs_epi32(quantize(x[0], k), quantize(x[1], k));
    __m256i cd = _mm256_packs_epi32(quantize(x[2], k), quantize(x[3], k));
    /* Packing works within halves; this puts the groups of four in order. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i all =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), order);
    _mm256_storeu_si256((__m256i *)q, all);
}

void act_encode_a8_avx2(size_t n_blocks, const float *x, float *scales,
                        int8_t *values) {
    for (size_t b = 0; b < n_blocks; b++) {
        encode_block(x + b * ACT_BLOCK, &scales[b], values + b * ACT_BLOCK);
    }
}
