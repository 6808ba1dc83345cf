/* weight_q8_0_avx2.c - Q8_0 with AVX2.
 *
 * maddubs multiplies unsigned by signed bytes and adds pairs with saturation
 * to 16 bits, so it gets |w| and x with w's sign: the largest pair is 2 * 128 *
 * 127 = 32512, and nothing saturates.  (x is never -128: act.h.)  A group is
 * two vectors of 8 rows. */
#include "engine/weight_q0_avx2.h"
#include "engine/weight_q8_0.h"

#define HALF_CHUNK (Q0_CHUNK / 2)

/* Half a chunk: 8 rows x 4 columns, as signed bytes. */
TILE_INLINE __m256i load_half(const uint8_t *at) {
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)at),
                            _mm256_set1_epi8(-128));
}

/* ---- A8 ---- */

/* sum[i] += the products of 8 rows of weights with four activations of each
 * row. */
TILE_INLINE void add_products(size_t n_x, __m256i w, const int8_t *const *x,
                              size_t offset, __m256i *sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i magnitude = _mm256_abs_epi8(w);

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m256i four = tile_broadcast_4(x[i] + offset);
        __m256i signed_x = _mm256_sign_epi8(four, w);
        __m256i pairs = _mm256_maddubs_epi16(magnitude, signed_x);
        sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
    }
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t block0 = t->col0 / Q0_LEN;
    const size_t block1 = t->col1 / Q0_LEN;
    const uint8_t *values =
        q0_values_at(&q8_0_layout, t->cols, t->weights, t->col0);

    tile_load_sums(n_x, t, acc);
    tile_rows_a8(n_x, t, 0, x);

    for (size_t b = block0; b < block1; b++) {
        tile_prefetch(n_x, values, Q8_0_CHUNKS);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            const uint8_t *at = values + h * HALF_CHUNK;
            __m256i sum[TILE_ROWS];
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                sum[i] = _mm256_setzero_si256();
            }
            TILE_UNROLL for (size_t c = 0; c < Q8_0_CHUNKS; c++) {
                add_products(n_x, load_half(at + c * Q0_CHUNK), x,
                             b * Q0_LEN + c * 4, sum);
            }
            __m256 w_scale = tile_f16(t->weights + b * Q0_SECOND + h * 16);
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                __m256 x_scale = _mm256_set1_ps(act_scales(t->x[i])[b]);
                acc[h][i] =
                    _mm256_fmadd_ps(_mm256_mul_ps(w_scale, x_scale),
                                    _mm256_cvtepi32_ps(sum[i]), acc[h][i]);
            }
        }
        values += Q8_0_CHUNKS * Q0_CHUNK;
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- F32 ---- */

/* The weights of 8 rows at one of a chunk's four columns, times scale. */
TILE_INLINE __m256 column_of(__m256i half, int j, __m256 scale) {
    __m256i top = _mm256_slli_epi32(half, 24 - 8 * j);
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24)));
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];
    const uint8_t *weights =
        t->weights + q0_values_offset(&q8_0_layout, t->cols);

    tile_load_sums(n_x, t, acc);
    tile_rows_f32(n_x, t, x);

    for (size_t col = t->col0; col < t->col1; col += 4) {
        const uint8_t *at = weights + col * WEIGHT_GROUP;
        const uint8_t *scales = t->weights + col / Q0_LEN * Q0_SECOND;
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            __m256i half = load_half(at + h * HALF_CHUNK);
            __m256 scale = tile_f16(scales + h * 16);
            TILE_UNROLL for (int j = 0; j < 4; j++) {
                __m256 w = column_of(half, j, scale);
                tile_add_column(n_x, w, x, col + (size_t)j, acc[h]);
            }
        }
    }
    tile_store_sums(n_x, t, acc);
}

TILE_PRODUCTS_AVX2(q8_0, Q0_PANEL, NULL)
