/* weight_q2_k_avx2.c - Q2_K with AVX2. */
#include "engine/weight_k16_avx2.h"
#include "engine/weight_q2_k.h"

#define HALF_CHUNK (Q2_K_CHUNK / 2)

/* Half h of the A8 block at column `at`, the first of a quarter, or of the one
 * after it. */
TILE_INLINE k16_block open_block(size_t n_x, const tile *t, size_t at,
                                 size_t odd, size_t h) {
    const q2_k_packed *packed = (const q2_k_packed *)t->weights + at / K_LEN;
    const size_t j = at % K_LEN / ACT_BLOCK;
    const int shift = odd != 0 ? 4 : 0;
    const __m256i two_bits = _mm256_set1_epi8(3);
    k16_block k = {.has_min = true};

    TILE_UNROLL for (size_t c = 0; c < Q2_K_CHUNKS; c++) {
        const uint8_t *chunk = packed->values[j / 2][c];
        if (odd == 0 && h == 0) tile_prefetch(n_x, chunk, 1);
        __m256i bits =
            _mm256_loadu_si256((const void *)(chunk + h * HALF_CHUNK));
        k.w[0][c] = _mm256_and_si256(_mm256_srli_epi16(bits, shift), two_bits);
        k.w[1][c] =
            _mm256_and_si256(_mm256_srli_epi16(bits, shift + 2), two_bits);
    }
    k.scale = tile_f16(packed->scales + h * 8);
    k.min = tile_f16(packed->mins + h * 8);
    __m256i subs = _mm256_cvtepu8_epi16(
        _mm_loadu_si128((const void *)packed->subs[j + odd][h * 8]));
    k.sub_scales = _mm256_and_si256(subs, _mm256_set1_epi16(15));
    k.sub_mins = _mm256_srli_epi16(subs, 4);
    return k;
}

K16_PRODUCTS_AVX2(q2_k, 1)
