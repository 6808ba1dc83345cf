/* weight_q3_k_avx2.c - Q3_K with AVX2. */
#include "engine/weight_k16_avx2.h"
#include "engine/weight_q3_k.h"

#define HALF_CHUNK (Q3_K_CHUNK / 2)

/* Lane `word` of 8 rows' sub-scales, shifted in its halves. */
TILE_INLINE __m256i sub_lanes(const q3_k_packed *packed, size_t word, size_t h,
                              int shift) {
    const void *at = packed->sub_scales[word][h * 8];
    return _mm256_srli_epi16(_mm256_loadu_si256(at), shift);
}

/* Sub-scales of A8 block j as pairs of int16. */
TILE_INLINE __m256i load_sub_scales(const q3_k_packed *packed, size_t j,
                                    size_t h) {
    __m256i subs;
    if (j < 6) {
        subs = sub_lanes(packed, j / 2, h, j % 2 != 0 ? 6 : 0);
    } else if (j == 6) { /* 4 bits of the first lane, 2 of the second */
        __m256i upper = _mm256_and_si256(sub_lanes(packed, 1, h, 8),
                                         _mm256_set1_epi16(0x30));
        subs = _mm256_or_si256(sub_lanes(packed, 0, h, 12), upper);
    } else { /* 2 bits of the second, 4 of the third */
        __m256i upper = _mm256_and_si256(sub_lanes(packed, 2, h, 10),
                                         _mm256_set1_epi16(0x3c));
        subs = _mm256_or_si256(sub_lanes(packed, 1, h, 14), upper);
    }
    return _mm256_sub_epi16(_mm256_and_si256(subs, _mm256_set1_epi16(63)),
                            _mm256_set1_epi16(Q3_K_SUB_OFFSET));
}

/* Three bits of each byte, from bit `shift` on. */
TILE_INLINE __m256i three_bits(__m256i bytes, int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, shift),
                            _mm256_set1_epi8(7));
}

/* A value whose upper two bits are the top of `upper`, and whose lowest is bit
 * 5 + shift of `lowest`. */
TILE_INLINE __m256i join(__m256i upper, __m256i lowest, int shift) {
    __m256i two = _mm256_and_si256(upper, _mm256_set1_epi8(-64));
    __m256i one = _mm256_and_si256(_mm256_srli_epi16(lowest, shift),
                                   _mm256_set1_epi8(32));
    return _mm256_srli_epi16(_mm256_or_si256(two, one), 5);
}

/* The first or second 32 of 64 columns, 8 rows. */
TILE_INLINE void open_values(const uint8_t chunks[Q3_K_CHUNKS][Q3_K_CHUNK],
                             size_t odd, size_t h, __m256i w[2][K16_CHUNKS]) {
    __m256i p[Q3_K_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < Q3_K_CHUNKS; c++) {
        const void *at = chunks[c] + h * HALF_CHUNK;
        p[c] = _mm256_loadu_si256(at);
    }
    if (odd == 0) {
        TILE_UNROLL for (size_t c = 0; c < K16_CHUNKS; c++) {
            w[0][c] = three_bits(p[c], 0);
            w[1][c] = three_bits(p[c], 3);
        }
        return;
    }
    w[0][0] = three_bits(p[4], 0);
    w[0][1] = three_bits(p[5], 0);
    w[0][2] = three_bits(p[4], 3);
    w[0][3] = three_bits(p[5], 3);
    w[1][0] = join(p[0], p[1], 1);
    w[1][1] = join(p[2], p[1], 2);
    w[1][2] = join(p[3], p[4], 1);
    w[1][3] = join(p[5], p[4], 2);
}

/* Half h of the A8 block at column `at`, the first of a quarter, or of the one
 * after it. */
TILE_INLINE k16_block open_block(size_t n_x, const tile *t, size_t at,
                                 size_t odd, size_t h) {
    const q3_k_packed *packed = (const q3_k_packed *)t->weights + at / K_LEN;
    const size_t j = at % K_LEN / ACT_BLOCK;
    k16_block k = {.zero = Q3_K_OFFSET};

    if (odd == 0 && h == 0) {
        tile_prefetch(n_x, packed->values[j / 2][0], Q3_K_CHUNKS);
    }
    open_values(packed->values[j / 2], odd, h, k.w);
    k.scale = tile_f16(packed->scales + h * 8);
    k.sub_scales = load_sub_scales(packed, j + odd, h);
    return k;
}

K16_PRODUCTS_AVX2(q3_k, -Q3_K_OFFSET)
