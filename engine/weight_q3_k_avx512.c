/* weight_q3_k_avx512.c - Q3_K with AVX-512 and VNNI.
 *
 * vpdpbusd wants unsigned weights, which are packed as value + 4: sums start at
 * minus 4 * (sum of the activations).  Three bits at bit 5 are at most 224,
 * still an unsigned byte, so most values are not shifted. */
#include "engine/weight_k16_avx512.h"
#include "engine/weight_q3_k.h"

/* Sub-scales of A8 block j as pairs of int16. */
TILE_INLINE __m512i load_sub_scales(const q3_k_packed *packed, size_t j) {
    const __m512i six_bits = _mm512_set1_epi16(63);
    __m512i lanes = _mm512_loadu_si512(packed->sub_scales[j < 6 ? j / 2 : 1]);
    __m512i subs = j % 2 != 0 ? _mm512_srli_epi16(lanes, 6) : lanes;
    if (j == 6) { /* 4 bits of the first lane, 2 of the second */
        __m512i first = _mm512_loadu_si512(packed->sub_scales[0]);
        subs = _mm512_ternarylogic_epi32(_mm512_set1_epi16(15),
                                         _mm512_srli_epi16(first, 12),
                                         _mm512_srli_epi16(lanes, 8), 0xca);
    }
    if (j == 7) { /* 2 bits of the second, 4 of the third */
        __m512i third = _mm512_loadu_si512(packed->sub_scales[2]);
        subs = _mm512_ternarylogic_epi32(_mm512_set1_epi16(3),
                                         _mm512_srli_epi16(lanes, 14),
                                         _mm512_srli_epi16(third, 10), 0xca);
    }
    return _mm512_sub_epi16(_mm512_and_si512(subs, six_bits),
                            _mm512_set1_epi16(Q3_K_SUB_OFFSET));
}

/* Bits 5 to 7 of a value whose upper two are in place in `upper`, and whose
 * lowest is bit 5 + shift of `lowest`. */
TILE_INLINE __m512i join(__m512i upper, __m512i lowest, unsigned shift) {
    __m512i joined =
        tile_select_bits(0xc0, upper, _mm512_srli_epi16(lowest, shift));
    return _mm512_and_si512(joined, _mm512_set1_epi8(-32));
}

/* The 64 columns' first or second 32. */
TILE_INLINE void open_values(const uint8_t chunks[Q3_K_CHUNKS][Q3_K_CHUNK],
                             size_t odd, __m512i w[2][K16_CHUNKS]) {
    const __m512i low = _mm512_set1_epi8(7), high = _mm512_set1_epi8(7 << 3);
    __m512i p[Q3_K_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < Q3_K_CHUNKS; c++) {
        p[c] = _mm512_loadu_si512(chunks[c]);
    }
    if (odd == 0) {
        TILE_UNROLL for (size_t c = 0; c < K16_CHUNKS; c++) {
            w[0][c] = _mm512_and_si512(p[c], low);
            w[1][c] = _mm512_and_si512(p[c], high);
        }
        return;
    }
    w[0][0] = _mm512_and_si512(p[4], low);
    w[0][1] = _mm512_and_si512(p[5], low);
    w[0][2] = _mm512_and_si512(_mm512_srli_epi16(p[4], 3), low);
    w[0][3] = _mm512_and_si512(_mm512_srli_epi16(p[5], 3), low);
    w[1][0] = join(p[0], p[1], 1);
    w[1][1] = join(p[2], p[1], 2);
    w[1][2] = join(p[3], p[4], 1);
    w[1][3] = join(p[5], p[4], 2);
}

/* The A8 block at column `at`, the first of a quarter, or the one after it. */
TILE_INLINE k16_block open_block(size_t n_x, const tile *t, size_t at,
                                 size_t odd) {
    const q3_k_packed *packed = (const q3_k_packed *)t->weights + at / K_LEN;
    const size_t j = at % K_LEN / ACT_BLOCK;
    k16_block k = {.shift = {0, odd != 0 ? 5 : 3}};

    if (odd == 0) tile_prefetch(n_x, packed->values[j / 2][0], Q3_K_CHUNKS);
    open_values(packed->values[j / 2], odd, k.w);
    k.scale = tile_f16(packed->scales);
    k.sub_scales = load_sub_scales(packed, j + odd);
    return k;
}

/* Of 4 bits only the lower three count. */
TILE_INLINE __m512 float_values(void) {
    return _mm512_setr_ps(-4.0f, -3.0f, -2.0f, -1.0f, 0.0f, 1.0f, 2.0f, 3.0f,
                          -4.0f, -3.0f, -2.0f, -1.0f, 0.0f, 1.0f, 2.0f, 3.0f);
}

K16_PRODUCTS_AVX512(q3_k, float_values(), -Q3_K_OFFSET)
