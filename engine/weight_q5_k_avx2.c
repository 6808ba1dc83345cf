/* weight_q5_k_avx2.c - Q5_K with AVX2.
 *
 * A madd with the sub-scale widens the products' sums. */
#include "engine/weight_fives_avx2.h"
#include "engine/weight_k_avx2.h"
#include "engine/weight_q5_k.h"

TILE_INLINE const q5_k_packed *block_of(const tile *t, size_t b) {
    return (const q5_k_packed *)(const void *)t->weights + b;
}

/* ---- A8 ---- */

/* acc += the A8 block at column `at` of half h of a group. */
TILE_INLINE void add_part(size_t n_x, const tile *t, size_t at, size_t h,
                          const int8_t *const *x, __m256 *acc) {
    const q5_k_packed *block = block_of(t, at / K_LEN);
    const size_t j = at % K_LEN / ACT_BLOCK;
    const size_t b = (at - t->col0) / ACT_BLOCK;
    __m256i w[FIVES_OPENED];

    if (h == 0) tile_prefetch(n_x, block->values[j][0], FIVES_CHUNKS);
    fives_open(block->values[j][0], h, w);
    k_half head = k_load_half(&block->head, j, h);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m256i first = fives_dot(w, x[i] + at);
        __m256i second =
            fives_dot(w + FIVES_SUM_CHUNKS, x[i] + at + FIVES_SUM_CHUNKS * 4);
        __m256i product =
            _mm256_add_epi32(_mm256_madd_epi16(first, head.sub_scale),
                             _mm256_madd_epi16(second, head.sub_scale));
        acc[i] = k_add_product(&head, &t->prep[i], b, product, acc[i]);
    }
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const int8_t *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_a8(n_x, t, 0, x);
    for (size_t at = t->col0; at < t->col1; at += ACT_BLOCK) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            add_part(n_x, t, at, h, x, acc[h]);
        }
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- F32 ---- */

/* acc += the 32 columns from `at` on of half h of a group.  scale * value is
 * exact (22 bits at most), so the fused subtraction is dequantize()'s. */
TILE_INLINE void add_columns(size_t n_x, const tile *t, size_t at, size_t h,
                             const float *const *x, __m256 *acc) {
    const q5_k_packed *block = block_of(t, at / K_LEN);
    const size_t j = at % K_LEN / ACT_BLOCK;
    __m256i w[FIVES_OPENED];

    fives_open(block->values[j][0], h, w);
    k_half head = k_load_half(&block->head, j, h);
    __m256i sub_scale = tile_bytes(block->head.subs[j].scales + 8 * h);
    __m256 scale = _mm256_mul_ps(head.scale, _mm256_cvtepi32_ps(sub_scale));

    TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
        TILE_UNROLL for (size_t k = 0; k < 4; k++) {
            __m256i top = _mm256_slli_epi32(w[c], 24 - 8 * (int)k);
            __m256 value = _mm256_cvtepi32_ps(_mm256_srli_epi32(top, 24));
            __m256 column = _mm256_fmsub_ps(scale, value, head.min);
            tile_add_column(n_x, column, x, at + c * 4 + k, acc);
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_f32(n_x, t, x);
    for (size_t at = t->col0; at < t->col1; at += ACT_BLOCK) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            add_columns(n_x, t, at, h, x, acc[h]);
        }
    }
    tile_store_sums(n_x, t, acc);
}

TILE_PRODUCTS_AVX2(q5_k, K_PANEL, k_prepare)
