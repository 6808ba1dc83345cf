/* weight_q2_k_avx512.c - Q2_K with AVX-512 and VNNI.
 *
 * Two bits at bit 6 are at most 192, still an unsigned byte, so no sub-block's
 * values are shifted. */
#include "engine/weight_k16_avx512.h"
#include "engine/weight_q2_k.h"

/* The A8 block at column `at`, the first of a quarter, or the one after it. */
TILE_INLINE k16_block open_block(size_t n_x, const tile *t, size_t at,
                                 size_t odd) {
    const q2_k_packed *packed = (const q2_k_packed *)t->weights + at / K_LEN;
    const size_t j = at % K_LEN / ACT_BLOCK;
    const unsigned shift = odd != 0 ? 4 : 0;
    const __m512i low = _mm512_set1_epi8((char)(3u << shift));
    const __m512i high = _mm512_set1_epi8((char)(12u << shift));
    k16_block k = {.shift = {shift, shift + 2}, .has_min = true};

    TILE_UNROLL for (size_t c = 0; c < Q2_K_CHUNKS; c++) {
        const uint8_t *chunk = packed->values[j / 2][c];
        if (odd == 0) tile_prefetch(n_x, chunk, 1);
        __m512i bits = _mm512_loadu_si512(chunk);
        k.w[0][c] = _mm512_and_si512(bits, low);
        k.w[1][c] = _mm512_and_si512(bits, high);
    }
    k.scale = tile_f16(packed->scales);
    k.min = tile_f16(packed->mins);
    __m512i subs = _mm512_cvtepu8_epi16(
        _mm256_loadu_si256((const void *)packed->subs[j + odd]));
    k.sub_scales = _mm512_and_si512(subs, _mm512_set1_epi16(15));
    k.sub_mins = _mm512_srli_epi16(subs, 4);
    return k;
}

/* Of 4 bits only the lower two count. */
TILE_INLINE __m512 float_values(void) {
    return _mm512_setr_ps(0.0f, 1.0f, 2.0f, 3.0f, 0.0f, 1.0f, 2.0f, 3.0f, 0.0f,
                          1.0f, 2.0f, 3.0f, 0.0f, 1.0f, 2.0f, 3.0f);
}

K16_PRODUCTS_AVX512(q2_k, float_values(), 1)
