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

/* ---- steps over a tile's groups and rows ---- */

/* The bits of 1.5 * 2^23.  An integer sum that starts there, itself below 2^22,
 * is at its end the bits of the float TILE_MAGIC + sum: instead of converting
 * it and multiplying it by a sub-scale, one multiply-add with the sub-scale and
 * the offset below gives the same exact product. */
#define TILE_MAGIC_BITS 0x4b400000
#define TILE_MAGIC 0x1.8p+23f

TILE_INLINE __m512 tile_magic_offset(__m512 sub_scale) {
    return _mm512_mul_ps(sub_scale, _mm512_set1_ps(-TILE_MAGIC));
}

/* Integer sums of block b of the panel, as prepared. */
TILE_INLINE void tile_start_block(size_t n_groups, size_t n_x, const tile *t,
                                  size_t b,
                                  __m512i sum[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            sum[g][i] = _mm512_set1_epi32(t->prep[i].bias[b]);
        }
    }
}

TILE_INLINE void tile_start_high(size_t n_groups, size_t n_x, const tile *t,
                                 size_t b,
                                 __m512i sum[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            sum[g][i] = _mm512_set1_epi32(t->prep[i].bias_high[b]);
        }
    }
}

/* sum += 4 columns of each group times 4 activations of each row; x_at is the
 * first column's place in the rows. */
TILE_INLINE void tile_add_products(size_t n_groups, size_t n_x,
                                   const __m512i w[TILE_GROUPS],
                                   const int8_t *const *x, size_t x_at,
                                   __m512i sum[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m512i four = tile_broadcast_4(x[i] + x_at);
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            sum[g][i] = _mm512_dpbusd_epi32(sum[g][i], w[g], four);
        }
    }
}

/* acc += a column's weights of each group times the rows' values at column
 * `at`. */
TILE_INLINE void tile_add_column(size_t n_groups, size_t n_x,
                                 const __m512 w[TILE_GROUPS],
                                 const float *const *x, size_t at,
                                 __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m512 value = _mm512_set1_ps(x[i][at]);
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            acc[g][i] = _mm512_fmadd_ps(w[g], value, acc[g][i]);
        }
    }
}

/* A prepare() of tile_set whose bias is `start` and the block's sum times
 * `factor`. */
void tile_prepare_avx512(int32_t start, int32_t factor, size_t cols,
                         size_t col0, size_t col1, const void *x,
                         tile_prep *out);

/* ---- opened panels ---- */

/* What ends a block that is opened: what acc gets beside the contract's
 * w_scale * x_scale times the sum. */
typedef enum {
    TILE_END_PLAIN,
    TILE_END_MIN,
    TILE_END_SUB,     /* a sub-scale; the bias starts at TILE_MAGIC_BITS */
    TILE_END_SUB_MIN, /* both */
    TILE_END_HALVES,  /* two sub-scales; so does bias, bias_high at zero */
    TILE_ENDS
} tile_end;

extern const tile_set tile_opened_avx512[TILE_ENDS];

/* ---- both products of a format ----
 *
 * What the tile_set of A8 has beside tiles comes last: `.prepare`, and more if
 * panels are opened, by the format's prepare() and open_panel(). */
#define TILE_OPENED_AVX512(end)                                                \
    .prepare = prepare, .open = open_panel, .opened = &tile_opened_avx512[end]

/* Tiles of 1, 2 or 4 groups.  Each sum of A8 takes two registers, an integer
 * and a float one, so 6 rows are the most; 12 chains of vpdpbusd keep both of
 * its ports busy, 8 do not. */
#define TILE_PRODUCTS_AVX512(id, n_panel, ...)                                 \
    TILE_PRODUCT_AVX512(id, a8, 6, n_panel, __VA_ARGS__)                       \
    TILE_PRODUCT_AVX512(id, f32, 8, n_panel, .prepare = NULL)

#define TILE_PRODUCT_AVX512(id, form, most, n_panel, ...)                      \
    TILE_OF_GROUPS(form, 1, 1)                                                 \
    TILE_OF_GROUPS(form, 1, 2)                                                 \
    TILE_OF_GROUPS(form, 1, 4)                                                 \
    TILE_OF_GROUPS(form, 1, most)                                              \
    TILE_OF_GROUPS(form, 2, 1)                                                 \
    TILE_OF_GROUPS(form, 2, 2)                                                 \
    TILE_OF_GROUPS(form, 2, 4)                                                 \
    TILE_OF_GROUPS(form, 2, most)                                              \
    TILE_OF_GROUPS(form, 4, 1)                                                 \
    TILE_OF_GROUPS(form, 4, 2)                                                 \
    TILE_PRODUCT(                                                              \
        id, form, avx512, n_panel, __VA_ARGS__, .rows = {1, 2, 4, most},       \
        .mul = {{form##_1x1, form##_1x2, form##_1x4, form##_1x##most},         \
                {form##_2x1, form##_2x2, form##_2x4, form##_2x##most},         \
                {form##_4x1, form##_4x2}})

/* Tiles of one group, for formats whose weights take far longer to open than
 * an addition's latency: one row needs no more chains. */
#define TILE_PRODUCTS_AVX512_ONE(id, n_panel, ...)                             \
    TILE_PRODUCT_AVX512_ONE(id, a8, n_panel, __VA_ARGS__)                      \
    TILE_PRODUCT_AVX512_ONE(id, f32, n_panel, .prepare = NULL)

#define TILE_PRODUCT_AVX512_ONE(id, form, n_panel, ...)                        \
    TILE_OF_ONE(form, 1)                                                       \
    TILE_OF_ONE(form, 2)                                                       \
    TILE_OF_ONE(form, 4)                                                       \
    TILE_OF_ONE(form, 8)                                                       \
    TILE_PRODUCT(id, form, avx512, n_panel, __VA_ARGS__, .rows = {1, 2, 4, 8}, \
                 .mul = {{form##_1x1, form##_1x2, form##_1x4, form##_1x8}})

#endif
