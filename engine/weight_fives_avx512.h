/* weight_fives_avx512.h - values of 5 bits with AVX-512 and VNNI.
 *
 * Private to weight_*_avx512.c.  A tile is one group: opening the weights takes
 * far longer than an addition's latency, so one row needs no more chains. */
#ifndef ENGINE_WEIGHT_FIVES_AVX512_H
#define ENGINE_WEIGHT_FIVES_AVX512_H

#include "engine/weight_fives.h"
#include "engine/weight_q0_avx512.h"

/* The chunks of 32 columns, values 0 to 31.  Shifts move bits between bytes,
 * too; those are masked away. */
TILE_INLINE void fives_open(const uint8_t *chunks, __m512i w[FIVES_OPENED]) {
    const __m512i five_bits = _mm512_set1_epi8(31);
    __m512i p[FIVES_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < FIVES_CHUNKS; c++) {
        p[c] = _mm512_loadu_si512(chunks + c * FIVES_CHUNK);
        w[c] = p[c];
    }
    w[5] = tile_select_bits(7, _mm512_srli_epi16(p[0], 5),
                            _mm512_srli_epi16(p[1], 3));
    w[6] = tile_select_bits(7, _mm512_srli_epi16(p[2], 5),
                            _mm512_srli_epi16(p[3], 3));
    __m512i top = tile_select_bits(8, _mm512_srli_epi16(p[1], 2),
                                   _mm512_srli_epi16(p[3], 1));
    w[7] = tile_select_bits(7, _mm512_srli_epi16(p[4], 5), top);
    TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
        w[c] = _mm512_and_si512(w[c], five_bits);
    }
}

/* ---- Q5_0 and Q5_1: A8 ---- */

TILE_INLINE void fives_mul_a8(const q0_layout *l, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    const uint8_t *chunks = q0_values_at(l, t->cols, t->weights, t->col0);

    tile_load_sums(1, n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        __m512i w[FIVES_OPENED], sum[TILE_GROUPS][TILE_ROWS];
        tile_prefetch(n_x, chunks, FIVES_CHUNKS);
        fives_open(chunks, w);
        tile_start_block(1, n_x, t, b, sum);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
                __m512i four = tile_broadcast_4(x[i] + b * Q0_LEN + c * 4);
                sum[0][i] = _mm512_dpbusd_epi32(sum[0][i], w[c], four);
            }
        }
        q0_end_block(l, 1, n_x, t, b, sum, acc);
        chunks += FIVES_CHUNKS * Q0_CHUNK;
    }
    tile_store_sums(1, n_x, t, acc);
}

TILE_INLINE void fives_open_panel(const q0_layout *l, const tile *t,
                                  size_t n_groups, tile_opened *out) {
    for (size_t b = 0; b < (t->col1 - t->col0) / Q0_LEN; b++) {
        for (size_t g = 0; g < n_groups; g++) {
            const uint8_t *chunks =
                q0_values_at(l, t->cols, t->weights, t->col0 + b * Q0_LEN);
            fives_open(chunks + g * t->group_bytes,
                       q0_open_block(l, t, b, g, out));
        }
    }
}

/* ---- F32 ---- */

/* acc += the 4 columns of an opened chunk, `zero` too high. */
TILE_INLINE void fives_add_columns(const q0_layout *l, int8_t zero, size_t n_x,
                                   __m512i w, const q0_factors *f,
                                   const float *const *x, size_t at,
                                   __m512 *acc) {
    __m512i bytes = _mm512_sub_epi8(w, _mm512_set1_epi8(zero));
    TILE_UNROLL for (unsigned k = 0; k < 4; k++) {
        __m512i top = _mm512_slli_epi32(bytes, 24 - 8 * k);
        __m512 value = _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
        __m512 column = q0_weights(l, f, value);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            acc[i] =
                _mm512_fmadd_ps(column, _mm512_set1_ps(x[i][at + k]), acc[i]);
        }
    }
}

TILE_INLINE void fives_mul_f32(const q0_layout *l, int8_t zero, size_t n_x,
                               const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(1, n_x, t, acc);
    tile_rows_f32(n_x, t, x);
    for (size_t col = t->col0; col < t->col1; col += Q0_LEN) {
        __m512i w[FIVES_OPENED];
        q0_factors f = q0_load_f32(l, t, 0, col);
        fives_open(q0_values_at(l, t->cols, t->weights, col), w);
        TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
            fives_add_columns(l, zero, n_x, w[c], &f, x, col + c * 4, acc[0]);
        }
    }
    tile_store_sums(1, n_x, t, acc);
}

#define FIVES_PRODUCTS_AVX512(id, zero, end)                                   \
    TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {                  \
        fives_mul_a8(&id##_layout, n_x, t);                                    \
    }                                                                          \
    TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {                 \
        fives_mul_f32(&id##_layout, zero, n_x, t);                             \
    }                                                                          \
    static void prepare(size_t cols, size_t col0, size_t col1, const void *x,  \
                        tile_prep *out) {                                      \
        q0_prepare(&id##_layout, zero, cols, col0, col1, x, out);              \
    }                                                                          \
    static void open_panel(const tile *t, size_t n_groups, tile_opened *out) { \
        fives_open_panel(&id##_layout, t, n_groups, out);                      \
    }                                                                          \
    TILE_PRODUCTS_AVX512_ONE(id, Q0_PANEL, TILE_OPENED_AVX512(end))

#endif
