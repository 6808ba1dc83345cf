/* weight_nibbles_avx512.h - the formats of weight_nibbles.h with AVX-512 and
 * VNNI.
 *
 * Private to weight_*_avx512.c.  vpdpbusd takes the values plus the format's
 * zero, so the integer sum starts at minus zero * (sum of the activations),
 * which is prepared once per panel. */
#ifndef ENGINE_WEIGHT_NIBBLES_AVX512_H
#define ENGINE_WEIGHT_NIBBLES_AVX512_H

#include "engine/weight_nibbles.h"
#include "engine/weight_q0_avx512.h"

/* ---- A8 ---- */

/* The bytes to multiply of nibbles 0 to 15. */
TILE_INLINE __m512i nibbles_table(const nibble_format *f) {
    __m128i values = _mm_loadu_si128((const __m128i *)f->values);
    return _mm512_broadcast_i32x4(
        _mm_add_epi8(values, _mm_set1_epi8((char)f->zero)));
}

TILE_INLINE __m512i nibbles_open(const nibble_format *f, __m512i table,
                                 __m512i bytes) {
    __m512i nibbles = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
    return f->looked_up ? _mm512_shuffle_epi8(table, nibbles) : nibbles;
}

TILE_INLINE void nibbles_mul_a8(const nibble_format *f, const q0_layout *l,
                                size_t n_groups, size_t n_x, const tile *t) {
    const __m512i table = nibbles_table(f);
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    const uint8_t *values = q0_values_at(l, t->cols, t->weights, t->col0);

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sum[TILE_GROUPS][TILE_ROWS];
        tile_start_block(n_groups, n_x, t, b, sum);
        TILE_UNROLL for (size_t c = 0; c < NIBBLES_CHUNKS; c++) {
            __m512i chunk[TILE_GROUPS], w[TILE_GROUPS];
            size_t x_at = b * Q0_LEN + c * 4;
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                const uint8_t *from = values + g * group_bytes + c * Q0_CHUNK;
                tile_prefetch(n_x, from, 1);
                chunk[g] = _mm512_loadu_si512(from);
                w[g] = nibbles_open(f, table, chunk[g]);
            }
            tile_add_products(n_groups, n_x, w, x, x_at, sum);
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                w[g] = nibbles_open(f, table, _mm512_srli_epi16(chunk[g], 4));
            }
            tile_add_products(n_groups, n_x, w, x, x_at + NIBBLES_HIGH, sum);
        }
        q0_end_block(l, n_groups, n_x, t, b, sum, acc);
        values += NIBBLES_CHUNKS * Q0_CHUNK;
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

TILE_INLINE void nibbles_open_panel(const nibble_format *f, const q0_layout *l,
                                    const tile *t, size_t n_groups,
                                    tile_opened *out) {
    const __m512i table = nibbles_table(f);
    for (size_t b = 0; b < (t->col1 - t->col0) / Q0_LEN; b++) {
        for (size_t g = 0; g < n_groups; g++) {
            const uint8_t *from =
                q0_values_at(l, t->cols, t->weights, t->col0 + b * Q0_LEN) +
                g * t->group_bytes;
            __m512i *w = q0_open_block(l, t, b, g, out);
            TILE_UNROLL for (size_t c = 0; c < NIBBLES_CHUNKS; c++) {
                __m512i chunk = _mm512_loadu_si512(from + c * Q0_CHUNK);
                w[c] = nibbles_open(f, table, chunk);
                w[c + NIBBLES_CHUNKS] =
                    nibbles_open(f, table, _mm512_srli_epi16(chunk, 4));
            }
        }
    }
}

/* ---- F32 ---- */

/* Columns [at, at + 4) of the tile's rows, being the nibbles of a chunk of each
 * group from bit `shift` of each byte on. */
TILE_INLINE void nibbles_add_columns(const q0_layout *l, __m512 values,
                                     size_t n_groups, size_t n_x,
                                     const __m512i chunk[TILE_GROUPS],
                                     unsigned shift,
                                     const q0_factors factors[TILE_GROUPS],
                                     const float *const *x, size_t at,
                                     __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    /* the permutation looks at 4 bits of an index: no mask is needed */
    TILE_UNROLL for (unsigned j = 0; j < 4; j++) {
        __m512 w[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            __m512i nibble = _mm512_srli_epi32(chunk[g], 8 * j + shift);
            w[g] = q0_weights(l, &factors[g],
                              _mm512_permutexvar_ps(nibble, values));
        }
        tile_add_column(n_groups, n_x, w, x, at + j, acc);
    }
}

TILE_INLINE void nibbles_mul_f32(const nibble_format *f, const q0_layout *l,
                                 size_t n_groups, size_t n_x, const tile *t) {
    const __m512 values = _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)f->values)));
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_f32(n_x, t, x);

    for (size_t col = t->col0; col < t->col1; col += Q0_LEN) {
        const uint8_t *from = q0_values_at(l, t->cols, t->weights, col);
        q0_factors factors[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            factors[g] = q0_load_f32(l, t, g, col);
        }
        /* the columns of all low nibbles come before those of the high ones */
        for (size_t c = 0; c < 2 * NIBBLES_CHUNKS; c++) {
            __m512i chunk[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                chunk[g] = _mm512_loadu_si512(from + g * group_bytes +
                                              c % NIBBLES_CHUNKS * Q0_CHUNK);
            }
            nibbles_add_columns(l, values, n_groups, n_x, chunk,
                                c < NIBBLES_CHUNKS ? 0 : 4, factors, x,
                                col + c * 4, acc);
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

/* ---- both products of a format ---- */

#define NIBBLES_PRODUCTS_AVX512(id, end)                                       \
    TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) { \
        nibbles_mul_a8(&id##_nibbles, &id##_layout, n_groups, n_x, t);         \
    }                                                                          \
    TILE_INLINE void mul_tile_f32(size_t n_groups, size_t n_x,                 \
                                  const tile *t) {                             \
        nibbles_mul_f32(&id##_nibbles, &id##_layout, n_groups, n_x, t);        \
    }                                                                          \
    static void prepare(size_t cols, size_t col0, size_t col1, const void *x,  \
                        tile_prep *out) {                                      \
        q0_prepare(&id##_layout, id##_nibbles.zero, cols, col0, col1, x, out); \
    }                                                                          \
    static void open_panel(const tile *t, size_t n_groups, tile_opened *out) { \
        nibbles_open_panel(&id##_nibbles, &id##_layout, t, n_groups, out);     \
    }                                                                          \
    TILE_PRODUCTS_AVX512(id, Q0_PANEL, TILE_OPENED_AVX512(end))

#endif
