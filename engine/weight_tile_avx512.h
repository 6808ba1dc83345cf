/* weight_tile_avx512.h - what the AVX-512 tiles of integer formats share.
 *
 * Private to weight_*_avx512.c.  A group is one vector of 16 rows. */
#ifndef ENGINE_WEIGHT_TILE_AVX512_H
#define ENGINE_WEIGHT_TILE_AVX512_H

#include <immintrin.h>
#include <string.h>
#include "engine/weight_tile.h"

TILE_INLINE void tile_load_sums(size_t n_groups, size_t n_x, const tile *t,
                                __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            const float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            acc[g][i] = t->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }
}

TILE_INLINE void tile_store_sums(size_t n_groups, size_t n_x, const tile *t,
                                 __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            _mm512_storeu_ps(y, acc[g][i]);
        }
    }
}

/* 16 f16, and 16 bytes, one a row. */
TILE_INLINE __m512 tile_f16(const void *at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(at));
}
TILE_INLINE __m512 tile_bytes(const void *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at)));
}

/* Bits of `a` where the mask, a byte, has ones; of `b` elsewhere. */
TILE_INLINE __m512i tile_select_bits(int mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), a, b, 0xca);
}

/* Four activations in every lane. */
TILE_INLINE __m512i tile_broadcast_4(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof(four));
    return _mm512_set1_epi32(four);
}

/* Ask for the weights that a single row, which is as fast as memory, wants 32
 * cache lines later. */
TILE_INLINE void tile_prefetch(size_t n_x, const uint8_t *at) {
    if (n_x == 1) _mm_prefetch((const char *)at + 32 * 64, _MM_HINT_T0);
}

/* A prepare() of tile_set whose bias is the block's sum times `factor`. */
void tile_prepare_avx512(int32_t factor, size_t cols, size_t col0, size_t col1,
                         const void *x, tile_prep *out);

#endif
