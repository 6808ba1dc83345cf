/* weight_q4_0_avx512.c - Q4_0 with AVX-512 and VNNI.
 *
 * vpdpbusd takes the nibbles as they are, value + 8, so the integer sum starts
 * at -8 * (sum of the activations), which is prepared once per panel. */
#include "engine/weight_q4_0.h"
#include "engine/weight_tile_avx512.h"

#define PANEL (TILE_BLOCKS * Q0_LEN)

/* ---- A8 ---- */

TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    q0_block block = q0_block_at(t->cols, t->weights, t->col0, Q4_0_CHUNKS);

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sum[TILE_GROUPS][TILE_ROWS];
        tile_start_block(n_groups, n_x, t, b, sum);
        TILE_UNROLL for (size_t c = 0; c < Q4_0_CHUNKS; c++) {
            __m512i chunk[TILE_GROUPS], w[TILE_GROUPS];
            size_t x_at = b * Q0_LEN + c * 4;
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                const uint8_t *from =
                    block.values + g * group_bytes + c * Q0_CHUNK;
                tile_prefetch(n_x, from, 1);
                chunk[g] = _mm512_loadu_si512(from);
                w[g] = _mm512_and_si512(chunk[g], low);
            }
            tile_add_products(n_groups, n_x, w, x, x_at, sum);
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                w[g] = _mm512_and_si512(_mm512_srli_epi16(chunk[g], 4), low);
            }
            tile_add_products(n_groups, n_x, w, x, x_at + Q4_0_HIGH, sum);
        }
        tile_end_block(n_groups, n_x, t, b, block.scales, sum, acc);
        q0_block_next(&block, Q4_0_CHUNKS);
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    tile_prepare_avx512(-Q4_0_ZERO, cols, col0, col1, x, out);
}

/* ---- F32 ---- */

/* Columns [at, at + 4) of the tile's rows, being the nibbles of a chunk of each
 * group from bit `shift` of each byte on. */
TILE_INLINE void add_columns(size_t n_groups, size_t n_x,
                             const __m512i chunk[TILE_GROUPS], unsigned shift,
                             const __m512 scale[TILE_GROUPS],
                             const float *const *x, size_t at,
                             __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    /* the permutation looks at 4 bits of an index: no mask is needed */
    const __m512 values =
        _mm512_setr_ps(-8.0f, -7.0f, -6.0f, -5.0f, -4.0f, -3.0f, -2.0f, -1.0f,
                       0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f);

    TILE_UNROLL for (unsigned j = 0; j < 4; j++) {
        __m512 w[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            __m512i nibble = _mm512_srli_epi32(chunk[g], 8 * j + shift);
            w[g] =
                _mm512_mul_ps(scale[g], _mm512_permutexvar_ps(nibble, values));
        }
        tile_add_column(n_groups, n_x, w, x, at + j, acc);
    }
}

TILE_INLINE void mul_tile_f32(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_f32(n_x, t, x);

    for (size_t b = t->col0 / Q0_LEN; b < t->col1 / Q0_LEN; b++) {
        const q0_block block =
            q0_block_at(t->cols, t->weights, b * Q0_LEN, Q4_0_CHUNKS);
        __m512 scale[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            scale[g] = tile_f16(block.scales + g * group_bytes);
        }
        /* the columns of all low nibbles come before those of the high ones */
        for (size_t c = 0; c < 2 * Q4_0_CHUNKS; c++) {
            unsigned shift = c < Q4_0_CHUNKS ? 0 : 4;
            __m512i chunk[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                chunk[g] = _mm512_loadu_si512(block.values + g * group_bytes +
                                              c % Q4_0_CHUNKS * Q0_CHUNK);
            }
            add_columns(n_groups, n_x, chunk, shift, scale, x,
                        b * Q0_LEN + c * 4, acc);
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

TILE_PRODUCTS_AVX512(q4_0, PANEL, prepare)
