/* weight_q4_k_avx512.c - Q4_K with AVX-512 and VNNI.
 *
 * An A8 block's nibbles are all low or all high ones of their bytes.  High ones
 * are multiplied where they are, which makes their sums 16 times too large;
 * that is undone in the scale, exactly, and saves a shift a chunk. */
#include "engine/weight_k_avx512.h"
#include "engine/weight_q4_k.h"

/* Block b of a group, counted from the tile's first group. */
TILE_INLINE const q4_k_packed *block_of(const tile *t, size_t g, size_t b) {
    const void *group = t->weights + g * t->group_bytes;
    return (const q4_k_packed *)group + b;
}

/* ---- A8 ---- */

/* acc += A8 block j of stored block b. */
TILE_INLINE void add_part(size_t n_groups, size_t n_x, const tile *t, size_t b,
                          size_t j, bool high, const int8_t *const *x,
                          __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    const __m512i mask = _mm512_set1_epi8(high ? -16 : 15);
    const q4_k_packed *block = block_of(t, 0, b);
    const size_t at = b * K_LEN + j * ACT_BLOCK;
    __m512i sum[TILE_GROUPS][TILE_ROWS];

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            sum[g][i] = _mm512_set1_epi32(TILE_MAGIC_BITS);
        }
    }
    TILE_UNROLL for (size_t c = 0; c < Q4_K_CHUNKS; c++) {
        __m512i w[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            const uint8_t *chunk = block->values[j / 2][c] + g * t->group_bytes;
            if (!high) tile_prefetch(n_x, chunk, 1);
            w[g] = _mm512_and_si512(_mm512_loadu_si512(chunk), mask);
        }
        tile_add_products(n_groups, n_x, w, x, at + c * 4, sum);
    }
    k_add_block(n_groups, n_x, t, &block->head, j, (at - t->col0) / ACT_BLOCK,
                high ? 0.0625f : 1.0f, sum, acc);
}

TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_a8(n_x, t, 0, x);
    for (size_t b = t->col0 / K_LEN; b < t->col1 / K_LEN; b++) {
        for (size_t j = 0; j < K_ACT_BLOCKS; j += 2) {
            add_part(n_groups, n_x, t, b, j, false, x, acc);
            add_part(n_groups, n_x, t, b, j + 1, true, x, acc);
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

static void open_panel(const tile *t, size_t n_groups, tile_opened *out) {
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t b = 0; b < (t->col1 - t->col0) / ACT_BLOCK; b += 2) {
        const size_t col = t->col0 + b * ACT_BLOCK;
        const size_t j = col % K_LEN / ACT_BLOCK;
        for (size_t g = 0; g < n_groups; g++) {
            const q4_k_packed *block = block_of(t, g, col / K_LEN);
            __m512i *even = k_open_block(&block->head, j, b, g, out);
            __m512i *odd = k_open_block(&block->head, j + 1, b + 1, g, out);
            TILE_UNROLL for (size_t c = 0; c < Q4_K_CHUNKS; c++) {
                __m512i chunk = _mm512_loadu_si512(block->values[j / 2][c]);
                even[c] = _mm512_and_si512(chunk, low);
                odd[c] = _mm512_and_si512(_mm512_srli_epi16(chunk, 4), low);
            }
        }
    }
}

/* ---- F32 ---- */

/* acc += 32 columns, A8 block j of stored block b.  scale * value is exact (21
 * bits at most), so the fused subtraction is dequantize()'s. */
TILE_INLINE void add_columns(size_t n_groups, size_t n_x, const tile *t,
                             size_t b, size_t j, const float *const *x,
                             __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    /* the permutation looks at 4 bits of an index: no mask is needed */
    const __m512 values =
        _mm512_setr_ps(0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f,
                       9.0f, 10.0f, 11.0f, 12.0f, 13.0f, 14.0f, 15.0f);
    __m512 scale[TILE_GROUPS], min[TILE_GROUPS];

    TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
        const k_packed_head *head = &block_of(t, g, b)->head;
        scale[g] = _mm512_mul_ps(tile_f16(head->scales),
                                 tile_bytes(head->subs[j].scales));
        min[g] =
            _mm512_mul_ps(tile_f16(head->mins), tile_bytes(head->subs[j].mins));
    }
    for (size_t i4 = 0; i4 < ACT_BLOCK; i4 += 4) {
        __m512i chunk[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            chunk[g] = _mm512_srli_epi32(
                _mm512_loadu_si512(block_of(t, g, b)->values[j / 2][i4 / 4]),
                j % 2 * 4);
        }
        TILE_UNROLL for (unsigned k = 0; k < 4; k++) {
            __m512 w[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                __m512i nibble = _mm512_srli_epi32(chunk[g], 8 * k);
                w[g] = _mm512_fmsub_ps(
                    scale[g], _mm512_permutexvar_ps(nibble, values), min[g]);
            }
            tile_add_column(n_groups, n_x, w, x,
                            b * K_LEN + j * ACT_BLOCK + i4 + k, acc);
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_f32(n_x, t, x);
    for (size_t b = t->col0 / K_LEN; b < t->col1 / K_LEN; b++) {
        for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
            add_columns(n_groups, n_x, t, b, j, x, acc);
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

TILE_PRODUCTS_AVX512(q4_k, K_PANEL, TILE_OPENED_AVX512(TILE_END_SUB_MIN))
