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
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = act_values(t->cols, t->x[i]);
    }
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
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                __m256 four = _mm256_set1_ps(x[i][at + c * 4 + k]);
                acc[i] = _mm256_fmadd_ps(column, four, acc[i]);
            }
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
    }
    for (size_t at = t->col0; at < t->col1; at += ACT_BLOCK) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            add_columns(n_x, t, at, h, x, acc[h]);
        }
    }
    tile_store_sums(n_x, t, acc);
}

/* ---- tiles: one group, 1 to 4 rows ---- */

#define TILE(form, n)                                                          \
    static void form##_1x##n(const tile *t) {                                  \
        mul_tile_##form(n, t);                                                 \
    }

TILE(a8, 1)
TILE(a8, 2)
TILE(a8, 4)
TILE(f32, 1)
TILE(f32, 2)
TILE(f32, 4)

void weight_q5_k_mul_a8_avx2(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4},
        .mul = {{a8_1x1, a8_1x2, a8_1x4, NULL}},
        .panel = K_PANEL,
        .prepare = k_prepare,
    };
    tile_run(&set, q5_k_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}

void weight_q5_k_mul_f32_avx2(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4},
        .mul = {{f32_1x1, f32_1x2, f32_1x4, NULL}},
        .panel = K_PANEL,
    };
    tile_run(&set, q5_k_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}
