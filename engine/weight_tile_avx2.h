/* weight_tile_avx2.h - what the AVX2 tiles of integer formats share.
 *
 * Private to weight_*_avx2.c.  A group is two vectors of 8 rows, its halves:
 * sums are [half][activation row]. */
#ifndef ENGINE_WEIGHT_TILE_AVX2_H
#define ENGINE_WEIGHT_TILE_AVX2_H

#include <immintrin.h>
#include <string.h>
#include "engine/weight_tile.h"

TILE_INLINE void tile_load_sums(size_t n_x, const tile *t,
                                __m256 acc[2][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            const float *y = t->y[i] + t->lane0 + h * 8;
            acc[h][i] = t->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        }
    }
}

TILE_INLINE void tile_store_sums(size_t n_x, const tile *t,
                                 __m256 acc[2][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            _mm256_storeu_ps(t->y[i] + t->lane0 + h * 8, acc[h][i]);
        }
    }
}

/* 8 f16, and 8 bytes, one a row. */
TILE_INLINE __m256 tile_f16(const void *at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(at));
}
TILE_INLINE __m256i tile_bytes(const void *at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(at));
}

/* Four activations in every lane. */
TILE_INLINE __m256i tile_broadcast_4(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof(four));
    return _mm256_set1_epi32(four);
}

/* acc += a column's weights times the rows' values at column `at`. */
TILE_INLINE void tile_add_column(size_t n_x, __m256 w, const float *const *x,
                                 size_t at, __m256 *acc) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        acc[i] = _mm256_fmadd_ps(w, _mm256_set1_ps(x[i][at]), acc[i]);
    }
}

/* A prepare() of tile_set whose bias is the block's sum times `factor`. */
void tile_prepare_avx2(int32_t factor, size_t cols, size_t col0, size_t col1,
                       const void *x, tile_prep *out);

/* Both products of a format: tiles of one group and 1 to 4 rows.  `prep` is the
 * A8 form's prepare() or NULL. */
#define TILE_PRODUCTS_AVX2(id, n_panel, prep)                                  \
    TILE_PRODUCT_AVX2(id, a8, n_panel, prep)                                   \
    TILE_PRODUCT_AVX2(id, f32, n_panel, NULL)

#define TILE_PRODUCT_AVX2(id, form, n_panel, prep)                             \
    TILE_OF_ONE(form, 1)                                                       \
    TILE_OF_ONE(form, 2)                                                       \
    TILE_OF_ONE(form, 4)                                                       \
    TILE_PRODUCT(id, form, avx2, n_panel, .prepare = prep, .rows = {1, 2, 4},  \
                 .mul = {{form##_1x1, form##_1x2, form##_1x4}})

#endif
