/* weight_k16_avx512.h - an A8 block of Q2_K and Q3_K, two sub-blocks of 16
 * columns, with AVX-512 and VNNI.
 *
 * Private to weight_*_avx512.c.  A sub-block's products add up in 16 bits, so
 * the two sums become a pair of int16 in a row's lane; one madd with a pair of
 * sub-scales scales and adds them.  Weights are multiplied where their bits
 * are, which makes a sum 2^shift times too large; that is undone on the way
 * into the pair.  A tile is one group: opening the weights takes far longer
 * than an addition's latency, so one row needs no more chains. */
#ifndef ENGINE_WEIGHT_K16_AVX512_H
#define ENGINE_WEIGHT_K16_AVX512_H

#include "engine/weight_k.h"
#include "engine/weight_tile_avx512.h"

#define K16_CHUNKS (K_SUB / 4)

/* An opened A8 block of 16 rows: values where their bits are. */
typedef struct {
    __m512i w[2][K16_CHUNKS]; /* of the two sub-blocks */
    unsigned shift[2];        /* constants */
    bool has_min;             /* a constant */
    __m512 scale, min;
    __m512i sub_scales, sub_mins; /* pairs of int16 */
} k16_block;

TILE_INLINE __m512i k16_dot(const __m512i w[K16_CHUNKS], const int8_t *x) {
    __m512i sum = _mm512_setzero_si512();
    TILE_UNROLL for (size_t c = 0; c < K16_CHUNKS; c++) {
        sum = _mm512_dpbusd_epi32(sum, w[c], tile_broadcast_4(x + c * 4));
    }
    return sum;
}

/* acc[i] += the block times the rows' values from `at` on.  prep->bias is what
 * the pairs of sums start with or, in formats with a minimum, the activations'
 * sums. */
TILE_INLINE void k16_add_block(const k16_block *k, size_t n_x,
                               const int8_t *const *x, size_t at, const tile *t,
                               __m512 *acc) {
    const size_t b = (at - t->col0) / ACT_BLOCK;

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        const tile_prep *prep = &t->prep[i];
        __m512i start = _mm512_set1_epi32(prep->bias[b]);
        __m512 x_scale = _mm512_set1_ps(prep->scale[b]);
        __m512i low = k16_dot(k->w[0], x[i] + at);
        __m512i high = k16_dot(k->w[1], x[i] + at + K_SUB);
        if (k->shift[0] > 0) low = _mm512_srai_epi32(low, k->shift[0]);
        high = _mm512_slli_epi32(high, 16 - k->shift[1]);
        __m512i pair = _mm512_mask_blend_epi16(0xaaaaaaaa, low, high);
        if (!k->has_min) pair = _mm512_add_epi16(pair, start);
        __m512i product = _mm512_madd_epi16(pair, k->sub_scales);
        acc[i] = _mm512_fmadd_ps(_mm512_mul_ps(k->scale, x_scale),
                                 _mm512_cvtepi32_ps(product), acc[i]);
        if (!k->has_min) continue;
        __m512i minima = _mm512_madd_epi16(k->sub_mins, start);
        acc[i] = _mm512_fnmadd_ps(_mm512_mul_ps(k->min, x_scale),
                                  _mm512_cvtepi32_ps(minima), acc[i]);
    }
}

/* A sub-block's factor in each row's pair, as a float. */
TILE_INLINE __m512 k16_factor(__m512i pairs, size_t sub) {
    if (sub == 0) pairs = _mm512_slli_epi32(pairs, 16);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 16));
}

/* acc += the 32 columns from `at` on; `values` are what 4 bits from a value's
 * lowest on stand for.  scale * value is exact, so the fused subtraction is
 * dequantize()'s. */
TILE_INLINE void k16_add_columns(const k16_block *k, __m512 values, size_t n_x,
                                 const float *const *x, size_t at,
                                 __m512 *acc) {
    TILE_UNROLL for (size_t s = 0; s < 2; s++) {
        __m512 scale = _mm512_mul_ps(k->scale, k16_factor(k->sub_scales, s));
        __m512 min = _mm512_setzero_ps();
        if (k->has_min) {
            min = _mm512_mul_ps(k->min, k16_factor(k->sub_mins, s));
        }
        TILE_UNROLL for (size_t i = 0; i < K_SUB; i++) {
            __m512i index =
                _mm512_srli_epi32(k->w[s][i / 4], i % 4 * 8 + k->shift[s]);
            __m512 value = _mm512_permutexvar_ps(index, values);
            __m512 column = k->has_min ? _mm512_fmsub_ps(scale, value, min)
                                       : _mm512_mul_ps(scale, value);
            TILE_UNROLL for (size_t r = 0; r < n_x; r++) {
                __m512 x_value = _mm512_set1_ps(x[r][at + s * K_SUB + i]);
                acc[r] = _mm512_fmadd_ps(column, x_value, acc[r]);
            }
        }
    }
}

/* The products of a format with its open_block(), whose last argument is the
 * parity of the A8 block, and the float values of 4 bits. */
#define K16_PRODUCTS_AVX512(id, values, factor)                                \
    TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {                  \
        __m512 acc[TILE_GROUPS][TILE_ROWS];                                    \
        const int8_t *x[TILE_ROWS];                                            \
        tile_load_sums(1, n_x, t, acc);                                        \
        tile_rows_a8(n_x, t, 0, x);                                            \
        for (size_t at = t->col0; at < t->col1; at += 2 * ACT_BLOCK) {         \
            TILE_UNROLL for (size_t odd = 0; odd < 2; odd++) {                 \
                k16_block k = open_block(n_x, t, at, odd);                     \
                k16_add_block(&k, n_x, x, at + odd * ACT_BLOCK, t, acc[0]);    \
            }                                                                  \
        }                                                                      \
        tile_store_sums(1, n_x, t, acc);                                       \
    }                                                                          \
    TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {                 \
        __m512 acc[TILE_GROUPS][TILE_ROWS];                                    \
        const float *x[TILE_ROWS];                                             \
        tile_load_sums(1, n_x, t, acc);                                        \
        tile_rows_f32(n_x, t, x);                                              \
        for (size_t at = t->col0; at < t->col1; at += 2 * ACT_BLOCK) {         \
            TILE_UNROLL for (size_t odd = 0; odd < 2; odd++) {                 \
                k16_block k = open_block(n_x, t, at, odd);                     \
                k16_add_columns(&k, values, n_x, x, at + odd * ACT_BLOCK,      \
                                acc[0]);                                       \
            }                                                                  \
        }                                                                      \
        tile_store_sums(1, n_x, t, acc);                                       \
    }                                                                          \
    static void prepare(size_t cols, size_t col0, size_t col1, const void *x,  \
                        tile_prep *out) {                                      \
        tile_prepare_halves(factor, cols, col0, col1, x, out);                 \
    }                                                                          \
    TILE_PRODUCTS_AVX512_ONE(id, K_PANEL, .prepare = prepare)

#endif
