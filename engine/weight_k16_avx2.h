/* weight_k16_avx2.h - an A8 block of Q2_K and Q3_K, two sub-blocks of 16
 * columns, with AVX2.
 *
 * Private to weight_*_avx2.c.  maddubs multiplies values, at most 7, by
 * activations and adds pairs: at most 2 * 7 * 127 = 1778, so a sub-block's four
 * add up in 16 bits, and one madd with the sub-scale ends its sum. */
#ifndef ENGINE_WEIGHT_K16_AVX2_H
#define ENGINE_WEIGHT_K16_AVX2_H

#include "engine/weight_k.h"
#include "engine/weight_tile_avx2.h"

#define K16_CHUNKS (K_SUB / 4)

/* An opened A8 block of 8 rows, half a group. */
typedef struct {
    __m256i w[2]
             [K16_CHUNKS]; /* of the two sub-blocks; bytes, `zero` too high */
    int8_t zero;           /* a constant */
    bool has_min;          /* a constant */
    __m256 scale, min;
    __m256i sub_scales, sub_mins; /* pairs of int16 */
} k16_block;

/* A sub-block's member of each row's pair, in both places. */
TILE_INLINE __m256i k16_twice(__m256i pairs, size_t sub) {
    const __m256i first =
        _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0,
                         1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
    __m256i order = _mm256_add_epi8(first, _mm256_set1_epi8((char)(2 * sub)));
    return _mm256_shuffle_epi8(pairs, order);
}

/* The products of a sub-block, the two halves of a lane still apart. */
TILE_INLINE __m256i k16_dot(const __m256i w[K16_CHUNKS], const int8_t *x) {
    __m256i sum = _mm256_maddubs_epi16(w[0], tile_broadcast_4(x));
    TILE_UNROLL for (size_t c = 1; c < K16_CHUNKS; c++) {
        __m256i four = tile_broadcast_4(x + c * 4);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[c], four));
    }
    return sum;
}

/* acc[i] += the block times the rows' values from `at` on.  prep->bias is the
 * pair of the activations' sums times minus zero or, in formats with a minimum,
 * times one. */
TILE_INLINE void k16_add_block(const k16_block *k, size_t n_x,
                               const int8_t *const *x, size_t at, const tile *t,
                               __m256 *acc) {
    const size_t b = (at - t->col0) / ACT_BLOCK;
    const __m256i first = k16_twice(k->sub_scales, 0);
    const __m256i second = k16_twice(k->sub_scales, 1);

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        const tile_prep *prep = &t->prep[i];
        __m256i sums = _mm256_set1_epi32(prep->bias[b]);
        __m256 x_scale = _mm256_set1_ps(prep->scale[b]);
        __m256i low = k16_dot(k->w[0], x[i] + at);
        __m256i high = k16_dot(k->w[1], x[i] + at + K_SUB);
        __m256i product = _mm256_add_epi32(_mm256_madd_epi16(low, first),
                                           _mm256_madd_epi16(high, second));
        if (!k->has_min) {
            product = _mm256_add_epi32(product,
                                       _mm256_madd_epi16(k->sub_scales, sums));
        }
        acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(k->scale, x_scale),
                                 _mm256_cvtepi32_ps(product), acc[i]);
        if (!k->has_min) continue;
        __m256i minima = _mm256_madd_epi16(k->sub_mins, sums);
        acc[i] = _mm256_fnmadd_ps(_mm256_mul_ps(k->min, x_scale),
                                  _mm256_cvtepi32_ps(minima), acc[i]);
    }
}

/* A sub-block's factor in each row's pair, as a float. */
TILE_INLINE __m256 k16_factor(__m256i pairs, size_t sub) {
    if (sub == 0) pairs = _mm256_slli_epi32(pairs, 16);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(pairs, 16));
}

/* acc += the 32 columns from `at` on.  scale * value is exact, so the fused
 * subtraction is dequantize()'s. */
TILE_INLINE void k16_add_columns(const k16_block *k, size_t n_x,
                                 const float *const *x, size_t at,
                                 __m256 *acc) {
    TILE_UNROLL for (size_t s = 0; s < 2; s++) {
        __m256 scale = _mm256_mul_ps(k->scale, k16_factor(k->sub_scales, s));
        __m256 min = _mm256_setzero_ps();
        if (k->has_min) {
            min = _mm256_mul_ps(k->min, k16_factor(k->sub_mins, s));
        }
        TILE_UNROLL for (size_t i = 0; i < K_SUB; i++) {
            __m256i bytes =
                _mm256_sub_epi8(k->w[s][i / 4], _mm256_set1_epi8(k->zero));
            __m256i top = _mm256_slli_epi32(bytes, 24 - 8 * (int)(i % 4));
            __m256 value = _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
            __m256 column = k->has_min ? _mm256_fmsub_ps(scale, value, min)
                                       : _mm256_mul_ps(scale, value);
            tile_add_column(n_x, column, x, at + s * K_SUB + i, acc);
        }
    }
}

/* The products of a format with its open_block(), whose last arguments are the
 * parity of the A8 block and the half of the group; `factor` makes the bias. */
#define K16_PRODUCTS_AVX2(id, factor)                                          \
    TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {                  \
        __m256 acc[2][TILE_ROWS];                                              \
        const int8_t *x[TILE_ROWS];                                            \
        tile_load_sums(n_x, t, acc);                                           \
        tile_rows_a8(n_x, t, 0, x);                                            \
        for (size_t at = t->col0; at < t->col1; at += 2 * ACT_BLOCK) {         \
            TILE_UNROLL for (size_t i = 0; i < 4; i++) {                       \
                k16_block k = open_block(n_x, t, at, i / 2, i % 2);            \
                k16_add_block(&k, n_x, x, at + i / 2 * ACT_BLOCK, t,           \
                              acc[i % 2]);                                     \
            }                                                                  \
        }                                                                      \
        tile_store_sums(n_x, t, acc);                                          \
    }                                                                          \
    TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {                 \
        __m256 acc[2][TILE_ROWS];                                              \
        const float *x[TILE_ROWS];                                             \
        tile_load_sums(n_x, t, acc);                                           \
        tile_rows_f32(n_x, t, x);                                              \
        for (size_t at = t->col0; at < t->col1; at += 2 * ACT_BLOCK) {         \
            TILE_UNROLL for (size_t i = 0; i < 4; i++) {                       \
                k16_block k = open_block(n_x, t, at, i / 2, i % 2);            \
                k16_add_columns(&k, n_x, x, at + i / 2 * ACT_BLOCK,            \
                                acc[i % 2]);                                   \
            }                                                                  \
        }                                                                      \
        tile_store_sums(n_x, t, acc);                                          \
    }                                                                          \
    static void prepare(size_t cols, size_t col0, size_t col1, const void *x,  \
                        tile_prep *out) {                                      \
        tile_prepare_halves(factor, cols, col0, col1, x, out);                 \
    }                                                                          \
    TILE_PRODUCTS_AVX2(id, K_PANEL, prepare)

#endif
