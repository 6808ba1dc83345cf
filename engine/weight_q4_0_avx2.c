/* weight_q4_0_avx2.c - Q4_0 with AVX2.
 *
 * maddubs multiplies the nibbles, value + 8, by the activations and adds pairs:
 * at most 2 * 15 * 127 = 3810, so the 8 products of a block add up in 16 bits
 * (30480).  8 times the sum of the activations is taken off at the end. */
#include "engine/weight_q4_0.h"
#include "engine/weight_tile_avx2.h"

#define PANEL (TILE_BLOCKS * Q0_LEN)
#define HALF_CHUNK (Q0_CHUNK / 2)

/* The low or the high nibbles of 8 rows x 4 columns. */
TILE_INLINE __m256i nibbles(const uint8_t *at, bool high) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)at);
    if (high) bytes = _mm256_srli_epi16(bytes, 4);
    return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

/* ---- A8 ---- */

/* sum[i] = the products of 8 rows' nibbles with each row's block at `x_at`; the
 * two halves of a lane still apart. */
TILE_INLINE void block_products(size_t n_x, const uint8_t *values,
                                const int8_t *const *x, size_t x_at,
                                __m256i *sum) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        sum[i] = _mm256_setzero_si256();
    }
    TILE_UNROLL for (size_t c = 0; c < 2 * Q4_0_CHUNKS; c++) {
        __m256i w =
            nibbles(values + c % Q4_0_CHUNKS * Q0_CHUNK, c >= Q4_0_CHUNKS);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m256i four = tile_broadcast_4(x[i] + x_at + c * 4);
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w, four));
        }
    }
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[2][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t n_blocks = (t->col1 - t->col0) / Q0_LEN;
    q0_block block = q0_block_at(t->cols, t->weights, t->col0, Q4_0_CHUNKS);

    tile_load_sums(n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);

    for (size_t b = 0; b < n_blocks; b++) {
        tile_prefetch(n_x, block.values, Q4_0_CHUNKS);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            __m256i sum[TILE_ROWS];
            block_products(n_x, block.values + h * HALF_CHUNK, x, b * Q0_LEN,
                           sum);
            __m256 w_scale = tile_f16(block.scales + h * 16);
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                const tile_prep *prep = &t->prep[i][b];
                __m256 scale =
                    _mm256_mul_ps(w_scale, _mm256_set1_ps(prep->scale));
                __m256i whole =
                    _mm256_add_epi32(_mm256_madd_epi16(sum[i], ones),
                                     _mm256_set1_epi32(prep->bias));
                acc[h][i] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(whole),
                                            acc[h][i]);
            }
        }
        q0_block_next(&block, Q4_0_CHUNKS);
    }
    tile_store_sums(n_x, t, acc);
}

static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    tile_prepare_avx2(-Q4_0_ZERO, cols, col0, col1, x, out);
}

/* ---- F32 ---- */

/* The weights of 8 rows at column j of 4. */
TILE_INLINE __m256 column_of(__m256i half, int j, __m256 scale) {
    __m256i nibble =
        _mm256_and_si256(_mm256_srli_epi32(half, 8 * j), _mm256_set1_epi32(15));
    __m256i value = _mm256_sub_epi32(nibble, _mm256_set1_epi32(Q4_0_ZERO));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(value));
}

/* acc += 4 columns of half a group, times the rows' values from x_at on. */
TILE_INLINE void add_columns(size_t n_x, __m256i half, __m256 scale,
                             const float *const *x, size_t x_at, __m256 *acc) {
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        __m256 w = column_of(half, j, scale);
        tile_add_column(n_x, w, x, x_at + (size_t)j, acc);
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    tile_rows_f32(n_x, t, x);

    for (size_t b = t->col0 / Q0_LEN; b < t->col1 / Q0_LEN; b++) {
        const q0_block block =
            q0_block_at(t->cols, t->weights, b * Q0_LEN, Q4_0_CHUNKS);
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            const uint8_t *at = block.values + h * HALF_CHUNK;
            __m256 scale = tile_f16(block.scales + h * 16);
            for (size_t c = 0; c < 2 * Q4_0_CHUNKS; c++) {
                __m256i half =
                    nibbles(at + c % Q4_0_CHUNKS * Q0_CHUNK, c >= Q4_0_CHUNKS);
                add_columns(n_x, half, scale, x, b * Q0_LEN + c * 4, acc[h]);
            }
        }
    }
    tile_store_sums(n_x, t, acc);
}

TILE_PRODUCTS_AVX2(q4_0, PANEL, prepare)
