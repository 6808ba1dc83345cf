/* weight_q4_0_avx2.c - Q4_0 with AVX2.
 *
 * maddubs multiplies the nibbles, value + 8, by the activations and adds pairs:
 * at most 2 * 15 * 127 = 3810, so the 8 products of a block add up in 16 bits
 * (30480).  8 times the sum of the activations is taken off at the end. */
#include "engine/weight_q4_0.h"
#include "engine/weight_tile_avx2.h"

#define PANEL (TILE_BLOCKS * Q4_0_LEN)
#define HALF_CHUNK (Q4_0_CHUNK / 2)

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
            nibbles(values + c % Q4_0_CHUNKS * Q4_0_CHUNK, c >= Q4_0_CHUNKS);
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
    const size_t block0 = t->col0 / Q4_0_LEN;
    const size_t n_blocks = (t->col1 - t->col0) / Q4_0_LEN;
    const uint8_t *scales = t->weights + block0 * Q4_0_PACKED_SCALES;
    const uint8_t *values =
        t->weights + q4_0_values_offset(t->cols) + block0 * Q4_0_PACKED_VALUES;

    tile_load_sums(n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = act_values(t->cols, t->x[i]) + t->col0;
    }

    for (size_t b = 0; b < n_blocks; b++) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            __m256i sum[TILE_ROWS];
            block_products(n_x, values + h * HALF_CHUNK, x, b * Q4_0_LEN, sum);
            __m256 w_scale = tile_f16(scales + h * 16);
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
        scales += Q4_0_PACKED_SCALES;
        values += Q4_0_PACKED_VALUES;
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
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m256 value = _mm256_set1_ps(x[i][x_at + (size_t)j]);
            acc[i] = _mm256_fmadd_ps(w, value, acc[i]);
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const float *x[TILE_ROWS];
    const uint8_t *values = t->weights + q4_0_values_offset(t->cols);

    tile_load_sums(n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
    }

    for (size_t b = t->col0 / Q4_0_LEN; b < t->col1 / Q4_0_LEN; b++) {
        TILE_UNROLL for (size_t h = 0; h < 2; h++) {
            const uint8_t *at =
                values + b * Q4_0_PACKED_VALUES + h * HALF_CHUNK;
            __m256 scale =
                tile_f16(t->weights + b * Q4_0_PACKED_SCALES + h * 16);
            for (size_t c = 0; c < 2 * Q4_0_CHUNKS; c++) {
                __m256i half = nibbles(at + c % Q4_0_CHUNKS * Q4_0_CHUNK,
                                       c >= Q4_0_CHUNKS);
                add_columns(n_x, half, scale, x, b * Q4_0_LEN + c * 4, acc[h]);
            }
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

void weight_q4_0_mul_a8_avx2(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4},
        .mul = {{a8_1x1, a8_1x2, a8_1x4, NULL}},
        .panel = PANEL,
        .prepare = prepare,
    };
    tile_run(&set, q4_0_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}

void weight_q4_0_mul_f32_avx2(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4},
        .mul = {{f32_1x1, f32_1x2, f32_1x4, NULL}},
        .panel = PANEL,
    };
    tile_run(&set, q4_0_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}
