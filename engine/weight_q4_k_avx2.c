/* weight_q4_k_avx2.c - Q4_K with AVX2.
 *
 * maddubs multiplies nibbles by activations and adds pairs: at most 2 * 15 *
 * 127 = 3810, so the 8 products of an A8 block add up in 16 bits (30480), and
 * one madd with the sub-scale ends the sum. */
#include "engine/weight_k_avx2.h"
#include "engine/weight_q4_k.h"

#define HALF_CHUNK (Q4_K_CHUNK / 2)

/* The low or the high nibbles of 8 rows x 4 columns. */
TILE_INLINE __m256i nibbles(const uint8_t *at, bool high) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)at);
    if (high) bytes = _mm256_srli_epi16(bytes, 4);
    return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

TILE_INLINE const q4_k_packed *block_of(const tile *t, size_t b) {
    return (const q4_k_packed *)(const void *)t->weights + b;
}

/* ---- A8 ---- */

/* acc += A8 block j of half a group's stored block; `at` is its first column in
 * the rows, b its number in the panel. */
TILE_INLINE void add_part(size_t n_x, const tile *t, const q4_k_packed *block,
                          size_t j, bool high, size_t h, size_t at,
                          const int8_t *const *x, __m256 *acc) {
    __m256i sum[TILE_ROWS];
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        sum[i] = _mm256_setzero_si256();
    }
    TILE_UNROLL for (size_t c = 0; c < Q4_K_CHUNKS; c++) {
        __m256i w = nibbles(block->values[j / 2][c] + h * HALF_CHUNK, high);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m256i four = tile_broadcast_4(x[i] + at + c * 4);
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w, four));
        }
    }
    k_half w = k_load_half(&block->head, j, h);
    size_t b = (at - t->col0) / ACT_BLOCK;
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        acc[i] = k_add_block(&w, &t->prep[i], b, sum[i], acc[i]);
    }
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const int8_t *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_a8(n_x, t, 0, x);
    for (size_t at = t->col0; at < t->col1; at += 2 * ACT_BLOCK) {
        const q4_k_packed *block = block_of(t, at / K_LEN);
        size_t j = at % K_LEN / ACT_BLOCK;
        tile_prefetch(n_x, block->values[j / 2][0], Q4_K_CHUNKS);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            add_part(n_x, t, block, j, false, h, at, x, acc[h]);
            add_part(n_x, t, block, j + 1, true, h, at + ACT_BLOCK, x, acc[h]);
        }
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- F32 ---- */

/* acc += 4 columns of 8 rows, times the rows' values from x_at on.  scale *
 * value is exact (21 bits at most), so the fused subtraction is dequantize()'s.
 */
TILE_INLINE void add_columns(size_t n_x, __m256i half, __m256 scale, __m256 min,
                             const float *const *x, size_t x_at, __m256 *acc) {
    TILE_UNROLL for (size_t k = 0; k < 4; k++) {
        __m256i nibble = _mm256_and_si256(_mm256_srli_epi32(half, 8 * (int)k),
                                          _mm256_set1_epi32(15));
        __m256 w = _mm256_fmsub_ps(scale, _mm256_cvtepi32_ps(nibble), min);
        tile_add_column(n_x, w, x, x_at + k, acc);
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_f32(n_x, t, x);
    for (size_t at = t->col0; at < t->col1; at += ACT_BLOCK) {
        const q4_k_packed *block = block_of(t, at / K_LEN);
        size_t j = at % K_LEN / ACT_BLOCK;
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            k_half w = k_load_half(&block->head, j, h);
            __m256 sub_scale = _mm256_cvtepi32_ps(
                tile_bytes(block->head.subs[j].scales + 8 * h));
            __m256 scale = _mm256_mul_ps(w.scale, sub_scale);
            for (size_t c = 0; c < Q4_K_CHUNKS; c++) {
                __m256i half = nibbles(block->values[j / 2][c] + h * HALF_CHUNK,
                                       j % 2 != 0);
                add_columns(n_x, half, scale, w.min, x, at + c * 4, acc[h]);
            }
        }
    }
    tile_store_sums(n_x, t, acc);
}

TILE_PRODUCTS_AVX2(q4_k, K_PANEL, k_prepare)
