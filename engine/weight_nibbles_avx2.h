/* weight_nibbles_avx2.h - the formats of weight_nibbles.h with AVX2.
 *
 * Private to weight_*_avx2.c.  maddubs multiplies unsigned by signed bytes and
 * adds pairs with saturation to 16 bits.  Small values are multiplied plus the
 * format's zero, and zero times the sum of the activations is taken off at the
 * end: pairs are at most 2 * 15 * 127 = 3810, 8 of which add up in 16 bits
 * (30480), or 2 * 24 * 127 = 6096 in MXFP4, 4 of which do (24384).  Values that
 * need 8 bits are multiplied as |w| by x with w's sign: the largest pair is
 * 2 * 127 * 127 = 32258. */
#ifndef ENGINE_WEIGHT_NIBBLES_AVX2_H
#define ENGINE_WEIGHT_NIBBLES_AVX2_H

#include "engine/weight_nibbles.h"
#include "engine/weight_q0_avx2.h"

#define NIBBLES_HALF_CHUNK (Q0_CHUNK / 2)

/* Whether values are multiplied as they are. */
TILE_INLINE bool nibbles_signed(const nibble_format *f) {
    return f->pairs_in_16_bits == 0;
}

/* What the nibbles stand for, in both halves, plus `zero`. */
TILE_INLINE __m256i nibbles_table(const nibble_format *f, uint8_t zero) {
    __m128i values = _mm_loadu_si128((const __m128i *)f->values);
    return _mm256_broadcastsi128_si256(
        _mm_add_epi8(values, _mm_set1_epi8((char)zero)));
}

/* The low or the high nibbles of 8 rows x 4 columns. */
TILE_INLINE __m256i nibbles_load(const uint8_t *at, bool high) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)at);
    if (high) bytes = _mm256_srli_epi16(bytes, 4);
    return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

/* ---- A8 ---- */

/* The pairs' products of 8 rows x 4 columns with four activations. */
TILE_INLINE __m256i nibbles_products(const nibble_format *f, __m256i w,
                                     const int8_t *x) {
    __m256i four = tile_broadcast_4(x);
    if (!nibbles_signed(f)) return _mm256_maddubs_epi16(w, four);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four, w));
}

/* sum[i] = the products of 8 rows with each row's block at `x_at`. */
TILE_INLINE void nibbles_block(const nibble_format *f, __m256i table,
                               size_t n_x, const uint8_t *values,
                               const int8_t *const *x, size_t x_at,
                               __m256i *sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    const size_t n = nibbles_signed(f) ? 1 : f->pairs_in_16_bits;
    __m256i pairs[TILE_ROWS];

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        sum[i] = pairs[i] = _mm256_setzero_si256();
    }
    TILE_UNROLL for (size_t c = 0; c < 2 * NIBBLES_CHUNKS; c++) {
        __m256i w = nibbles_load(values + c % NIBBLES_CHUNKS * Q0_CHUNK,
                                 c >= NIBBLES_CHUNKS);
        if (f->looked_up) w = _mm256_shuffle_epi8(table, w);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m256i products = nibbles_products(f, w, x[i] + x_at + c * 4);
            pairs[i] =
                c % n == 0 ? products : _mm256_add_epi16(pairs[i], products);
            if (c % n + 1 < n) continue;
            sum[i] =
                _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs[i], ones));
        }
    }
}

TILE_INLINE void nibbles_mul_a8(const nibble_format *f, const q0_layout *l,
                                size_t n_x, const tile *t) {
    const __m256i table = nibbles_table(f, nibbles_signed(f) ? 0 : f->zero);
    __m256 acc[2][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    const uint8_t *values = q0_values_at(l, t->cols, t->weights, t->col0);

    tile_load_sums(n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        tile_prefetch(n_x, values, NIBBLES_CHUNKS);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            __m256i sum[TILE_ROWS];
            nibbles_block(f, table, n_x, values + h * NIBBLES_HALF_CHUNK, x,
                          b * Q0_LEN, sum);
            q0_end_block(l, n_x, t, b, h, sum, acc[h]);
        }
        values += NIBBLES_CHUNKS * Q0_CHUNK;
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- F32 ---- */

TILE_INLINE void nibbles_mul_f32(const nibble_format *f, const q0_layout *l,
                                 size_t n_x, const tile *t) {
    const __m256i table = nibbles_table(f, 0);
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_f32(n_x, t, x);

    for (size_t col = t->col0; col < t->col1; col += Q0_LEN) {
        const uint8_t *values = q0_values_at(l, t->cols, t->weights, col);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            const uint8_t *at = values + h * NIBBLES_HALF_CHUNK;
            q0_factors factors = q0_load_f32(l, t, h, col);
            for (size_t c = 0; c < 2 * NIBBLES_CHUNKS; c++) {
                __m256i nibbles = nibbles_load(
                    at + c % NIBBLES_CHUNKS * Q0_CHUNK, c >= NIBBLES_CHUNKS);
                __m256i bytes = _mm256_shuffle_epi8(table, nibbles);
                q0_add_columns(l, n_x, bytes, &factors, x, col + c * 4, acc[h]);
            }
        }
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- both products of a format ---- */

#define NIBBLES_PRODUCTS_AVX2(id)                                              \
    TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {                  \
        nibbles_mul_a8(&id##_nibbles, &id##_layout, n_x, t);                   \
    }                                                                          \
    TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {                 \
        nibbles_mul_f32(&id##_nibbles, &id##_layout, n_x, t);                  \
    }                                                                          \
    static void prepare(size_t cols, size_t col0, size_t col1, const void *x,  \
                        tile_prep *out) {                                      \
        const nibble_format *f = &id##_nibbles;                                \
        tile_prepare_avx2(nibbles_signed(f) ? 0 : -f->zero, cols, col0, col1,  \
                          x, out);                                             \
    }                                                                          \
    TILE_PRODUCTS_AVX2(id, Q0_PANEL, prepare)

#endif
