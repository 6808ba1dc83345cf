/* weight_fives_avx2.h - values of 5 bits with AVX2.
 *
 * Private to weight_*_avx2.c.  maddubs multiplies values by activations and
 * adds pairs: at most 2 * 31 * 127 = 7874, so four products add up in 16 bits
 * (31496) before they are widened. */
#ifndef ENGINE_WEIGHT_FIVES_AVX2_H
#define ENGINE_WEIGHT_FIVES_AVX2_H

#include "engine/weight_fives.h"
#include "engine/weight_q0_avx2.h"

#define FIVES_SUM_CHUNKS 4 /* that add up in 16 bits */

/* 8-bit shifts to the right of bytes whose lost bits are zero. */
TILE_INLINE __m256i fives_piece(__m256i bytes, int mask, int shift) {
    __m256i bits = _mm256_and_si256(bytes, _mm256_set1_epi8((char)mask));
    return _mm256_srli_epi16(bits, shift);
}

/* Half h of the chunks of 32 columns, 8 rows: values 0 to 31. */
TILE_INLINE void fives_open(const uint8_t *chunks, size_t h,
                            __m256i w[FIVES_OPENED]) {
    const uint8_t *at = chunks + h * (FIVES_CHUNK / 2);
    __m256i p[FIVES_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < FIVES_CHUNKS; c++) {
        p[c] = _mm256_loadu_si256((const __m256i *)(at + c * FIVES_CHUNK));
        w[c] = _mm256_and_si256(p[c], _mm256_set1_epi8(31));
    }
    w[5] =
        _mm256_or_si256(fives_piece(p[0], 0xe0, 5), fives_piece(p[1], 0xc0, 3));
    w[6] =
        _mm256_or_si256(fives_piece(p[2], 0xe0, 5), fives_piece(p[3], 0xc0, 3));
    __m256i top =
        _mm256_or_si256(fives_piece(p[1], 0x20, 2), fives_piece(p[3], 0x20, 1));
    w[7] = _mm256_or_si256(fives_piece(p[4], 0xe0, 5), top);
}

/* Four chunks times a row, in 16 bits. */
TILE_INLINE __m256i fives_dot(const __m256i w[FIVES_SUM_CHUNKS],
                              const int8_t *x) {
    __m256i sum = _mm256_maddubs_epi16(w[0], tile_broadcast_4(x));
    TILE_UNROLL for (size_t c = 1; c < FIVES_SUM_CHUNKS; c++) {
        __m256i four = tile_broadcast_4(x + c * 4);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[c], four));
    }
    return sum;
}

/* ---- Q5_0 and Q5_1: A8 ---- */

/* sum[i] = the products of 8 rows with each row's block at `x_at`. */
TILE_INLINE void fives_block(size_t n_x, const uint8_t *chunks, size_t h,
                             const int8_t *const *x, size_t x_at,
                             __m256i *sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i w[FIVES_OPENED];

    fives_open(chunks, h, w);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m256i first = fives_dot(w, x[i] + x_at);
        __m256i second =
            fives_dot(w + FIVES_SUM_CHUNKS, x[i] + x_at + FIVES_SUM_CHUNKS * 4);
        sum[i] = _mm256_add_epi32(_mm256_madd_epi16(first, ones),
                                  _mm256_madd_epi16(second, ones));
    }
}

TILE_INLINE void fives_mul_a8(const q0_layout *l, size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    const uint8_t *chunks = q0_values_at(l, t->cols, t->weights, t->col0);

    tile_load_sums(n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        tile_prefetch(n_x, chunks, FIVES_CHUNKS);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            __m256i sum[TILE_ROWS];
            fives_block(n_x, chunks, h, x, b * Q0_LEN, sum);
            q0_end_block(l, n_x, t, b, h, sum, acc[h]);
        }
        chunks += FIVES_CHUNKS * Q0_CHUNK;
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- F32 ---- */

TILE_INLINE void fives_mul_f32(const q0_layout *l, int8_t zero, size_t n_x,
                               const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_f32(n_x, t, x);
    for (size_t col = t->col0; col < t->col1; col += Q0_LEN) {
        const uint8_t *chunks = q0_values_at(l, t->cols, t->weights, col);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            __m256i w[FIVES_OPENED];
            q0_factors f = q0_load_f32(l, t, h, col);
            fives_open(chunks, h, w);
            TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
                __m256i bytes = _mm256_sub_epi8(w[c], _mm256_set1_epi8(zero));
                q0_add_columns(l, n_x, bytes, &f, x, col + c * 4, acc[h]);
            }
        }
    }
    tile_store_sums(n_x, t, acc);
}

#define FIVES_PRODUCTS_AVX2(id, zero)                                          \
    TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {                  \
        fives_mul_a8(&id##_layout, n_x, t);                                    \
    }                                                                          \
    TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {                 \
        fives_mul_f32(&id##_layout, zero, n_x, t);                             \
    }                                                                          \
    static void prepare(size_t cols, size_t col0, size_t col1, const void *x,  \
                        tile_prep *out) {                                      \
        tile_prepare_avx2(-(zero), cols, col0, col1, x, out);                  \
    }                                                                          \
    TILE_PRODUCTS_AVX2(id, Q0_PANEL, prepare)

#endif
