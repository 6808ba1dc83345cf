/* weight_q5_k_avx2.c - Q5_K with AVX2.
 *
 * maddubs multiplies values by activations and adds pairs: at most 2 * 31 * 127
 * = 7874, so four products add up in 16 bits (31496) before a madd with the
 * sub-scale widens them. */
#include "engine/weight_k_avx2.h"
#include "engine/weight_q5_k.h"

#define CHUNKS (ACT_BLOCK / 4) /* opened */
#define SUM_CHUNKS 4           /* that add up in 16 bits */
#define HALF_CHUNK (Q5_K_CHUNK / 2)

/* 8-bit shifts to the right of bytes whose lost bits are zero. */
TILE_INLINE __m256i piece(__m256i bytes, int mask, int shift) {
    __m256i bits = _mm256_and_si256(bytes, _mm256_set1_epi8((char)mask));
    return _mm256_srli_epi16(bits, shift);
}

/* Half h of the chunks of 32 columns, 8 rows: values 0 to 31. */
TILE_INLINE void open_chunks(const uint8_t at[Q5_K_CHUNKS][Q5_K_CHUNK],
                             size_t h, __m256i w[CHUNKS]) {
    __m256i p[Q5_K_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < Q5_K_CHUNKS; c++) {
        p[c] = _mm256_loadu_si256((const __m256i *)(at[c] + h * HALF_CHUNK));
        w[c] = _mm256_and_si256(p[c], _mm256_set1_epi8(31));
    }
    w[5] = _mm256_or_si256(piece(p[0], 0xe0, 5), piece(p[1], 0xc0, 3));
    w[6] = _mm256_or_si256(piece(p[2], 0xe0, 5), piece(p[3], 0xc0, 3));
    __m256i top = _mm256_or_si256(piece(p[1], 0x20, 2), piece(p[3], 0x20, 1));
    w[7] = _mm256_or_si256(piece(p[4], 0xe0, 5), top);
}

TILE_INLINE const q5_k_packed *block_of(const tile *t, size_t b) {
    return (const q5_k_packed *)(const void *)t->weights + b;
}

/* ---- A8 ---- */

/* Four chunks times a row, in 16 bits. */
TILE_INLINE __m256i dot(const __m256i w[SUM_CHUNKS], const int8_t *x) {
    __m256i sum = _mm256_maddubs_epi16(w[0], tile_broadcast_4(x));
    TILE_UNROLL for (size_t c = 1; c < SUM_CHUNKS; c++) {
        __m256i four = tile_broadcast_4(x + c * 4);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[c], four));
    }
    return sum;
}

/* acc += the A8 block at column `at` of half h of a group. */
TILE_INLINE void add_part(size_t n_x, const tile *t, size_t at, size_t h,
                          const int8_t *const *x, __m256 *acc) {
    const q5_k_packed *block = block_of(t, at / K_LEN);
    const size_t j = at % K_LEN / ACT_BLOCK;
    const size_t b = (at - t->col0) / ACT_BLOCK;
    __m256i w[CHUNKS];

    if (h == 0) tile_prefetch(n_x, block->values[j][0], Q5_K_CHUNKS);
    open_chunks(block->values[j], h, w);
    k_half head = k_load_half(&block->head, j, h);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m256i first = dot(w, x[i] + at);
        __m256i second = dot(w + SUM_CHUNKS, x[i] + at + SUM_CHUNKS * 4);
        __m256i product =
            _mm256_add_epi32(_mm256_madd_epi16(first, head.sub_scale),
                             _mm256_madd_epi16(second, head.sub_scale));
        acc[i] = k_add_product(&head, &t->prep[i][b], product, acc[i]);
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
    __m256i w[CHUNKS];

    open_chunks(block->values[j], h, w);
    k_half head = k_load_half(&block->head, j, h);
    __m256i sub_scale = tile_bytes(block->head.subs[j].scales + 8 * h);
    __m256 scale = _mm256_mul_ps(head.scale, _mm256_cvtepi32_ps(sub_scale));
    __m256 min = _mm256_mul_ps(head.min, head.sub_min);

    TILE_UNROLL for (size_t c = 0; c < CHUNKS; c++) {
        TILE_UNROLL for (size_t k = 0; k < 4; k++) {
            __m256i top = _mm256_slli_epi32(w[c], 24 - 8 * (int)k);
            __m256 value = _mm256_cvtepi32_ps(_mm256_srli_epi32(top, 24));
            __m256 column = _mm256_fmsub_ps(scale, value, min);
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
