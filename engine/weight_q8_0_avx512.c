/* weight_q8_0_avx512.c - Q8_0 with AVX-512 and VNNI.
 *
 * vpdpbusd multiplies unsigned by signed bytes, and weights are packed as value
 * + 128: the product is too large by 128 * (sum of the activations), so the
 * integer sum starts at minus that.  The start is the same for all rows of the
 * matrix and is prepared once per panel.  Integers are exact in any order. */
#include "engine/weight_q0_avx512.h"
#include "engine/weight_q8_0.h"

/* ---- A8 ---- */

TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    const uint8_t *values =
        q0_values_at(&q8_0_layout, t->cols, t->weights, t->col0);

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sum[TILE_GROUPS][TILE_ROWS];
        tile_start_block(n_groups, n_x, t, b, sum);
        TILE_UNROLL for (size_t c = 0; c < Q8_0_CHUNKS; c++) {
            __m512i w[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                w[g] =
                    _mm512_loadu_si512(values + g * group_bytes + c * Q0_CHUNK);
            }
            tile_add_products(n_groups, n_x, w, x, b * Q0_LEN + c * 4, sum);
        }
        q0_end_block(&q8_0_layout, n_groups, n_x, t, b, sum, acc);
        values += Q8_0_CHUNKS * Q0_CHUNK;
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    q0_prepare(&q8_0_layout, 128, cols, col0, col1, x, out);
}

/* ---- F32 ---- */

/* The weights of 16 rows at one of a chunk's four columns, times scale. */
TILE_INLINE __m512 column_of(__m512i chunk, unsigned j, __m512 scale) {
    __m512i top = _mm512_slli_epi32(chunk, 24 - 8 * j);
    return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24)));
}

TILE_INLINE void mul_tile_f32(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const uint8_t *weights =
        t->weights + q0_values_offset(&q8_0_layout, t->cols);

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_f32(n_x, t, x);

    for (size_t col = t->col0; col < t->col1; col += 4) {
        const uint8_t *scales = t->weights + col / Q0_LEN * Q0_SECOND;
        __m512 scale[TILE_GROUPS];
        __m512i chunk[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            scale[g] = tile_f16(scales + g * group_bytes);
            chunk[g] =
                _mm512_xor_si512(_mm512_loadu_si512(weights + g * group_bytes +
                                                    col * WEIGHT_GROUP),
                                 _mm512_set1_epi8(-128));
        }
        TILE_UNROLL for (unsigned j = 0; j < 4; j++) {
            __m512 w[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                w[g] = column_of(chunk[g], j, scale[g]);
            }
            tile_add_column(n_groups, n_x, w, x, col + j, acc);
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

/* Weights are bytes as they lie: there is nothing to open. */
TILE_PRODUCTS_AVX512(q8_0, Q0_PANEL, .prepare = prepare)
