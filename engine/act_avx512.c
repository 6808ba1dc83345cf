/* act_avx512.c - A8 encoder for AVX-512; the rules are in act_kernels.h.
 *
 * The operand order of max and min decides what a NaN becomes. */
#include <float.h>
#include <immintrin.h>
#include <string.h>
#include "engine/act.h"
#include "engine/act_kernels.h"

static void store_quantized(__m512 x, __m512 inv, int8_t *q) {
    __m512 v = _mm512_mul_ps(x, inv);
    v = _mm512_min_ps(v, _mm512_set1_ps(127.0f));
    v = _mm512_max_ps(v, _mm512_set1_ps(-127.0f));
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
    _mm_storeu_si128((__m128i *)q, bytes);
}

static void encode_block(const float *at, float *scale, int8_t *q) {
    __m512 lo = _mm512_loadu_ps(at);
    __m512 hi = _mm512_loadu_ps(at + 16);
    __m512 m = _mm512_max_ps(_mm512_abs_ps(lo), _mm512_setzero_ps());
    m = _mm512_max_ps(_mm512_abs_ps(hi), m);
    float amax = _mm512_reduce_max_ps(m);
    if (amax > FLT_MAX) amax = FLT_MAX;

    float inv = 127.0f / amax;
    if (inv > FLT_MAX) {
        *scale = 0.0f;
        memset(q, 0, ACT_BLOCK);
        return;
    }

    *scale = act_round_scale(amax / 127.0f);
    store_quantized(lo, _mm512_set1_ps(inv), q);
    store_quantized(hi, _mm512_set1_ps(inv), q + 16);
}

void act_encode_a8_avx512(size_t n_blocks, const float *x, float *scales,
                          int8_t *values) {
    for (size_t b = 0; b < n_blocks; b++) {
        encode_block(x + b * ACT_BLOCK, &scales[b], values + b * ACT_BLOCK);
    }
}
