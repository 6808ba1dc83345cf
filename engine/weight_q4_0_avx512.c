/* weight_q4_0_avx512.c - Q4_0 with AVX-512 and VNNI.
 *
 * vpdpbusd takes the nibbles as they are, value + 8, so the integer sum starts
 * at -8 * (sum of the activations), which is prepared once per panel. */
#include "engine/weight_q4_0.h"
#include "engine/weight_tile_avx512.h"

#define PANEL (TILE_BLOCKS * Q4_0_LEN)

/* ---- A8 ---- */

/* sum += 4 columns of each group times 4 activations of each row; x_at is the
 * first column's place in the rows. */
TILE_INLINE void add_products(size_t n_groups, size_t n_x,
                              const __m512i w[TILE_GROUPS],
                              const int8_t *const *x, size_t x_at,
                              __m512i sum[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m512i four = tile_broadcast_4(x[i] + x_at);
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            sum[g][i] = _mm512_dpbusd_epi32(sum[g][i], w[g], four);
        }
    }
}

TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const size_t block0 = t->col0 / Q4_0_LEN;
    const size_t n_blocks = (t->col1 - t->col0) / Q4_0_LEN;
    const uint8_t *scales = t->weights + block0 * Q4_0_PACKED_SCALES;
    const uint8_t *values =
        t->weights + q4_0_values_offset(t->cols) + block0 * Q4_0_PACKED_VALUES;

    tile_load_sums(n_groups, n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = act_values(t->cols, t->x[i]) + t->col0;
    }

    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sum[TILE_GROUPS][TILE_ROWS];
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                sum[g][i] = _mm512_set1_epi32(t->prep[i][b].bias);
            }
        }
        TILE_UNROLL for (size_t c = 0; c < Q4_0_CHUNKS; c++) {
            __m512i chunk[TILE_GROUPS], w[TILE_GROUPS];
            size_t x_at = b * Q4_0_LEN + c * 4;
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                const uint8_t *from = values + g * group_bytes + c * Q4_0_CHUNK;
                tile_prefetch(n_x, from);
                chunk[g] = _mm512_loadu_si512(from);
                w[g] = _mm512_and_si512(chunk[g], low);
            }
            add_products(n_groups, n_x, w, x, x_at, sum);
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                w[g] = _mm512_and_si512(_mm512_srli_epi16(chunk[g], 4), low);
            }
            add_products(n_groups, n_x, w, x, x_at + Q4_0_HIGH, sum);
        }
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            __m512 w_scale = tile_f16(scales + g * group_bytes);
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                __m512 x_scale = _mm512_set1_ps(t->prep[i][b].scale);
                acc[g][i] =
                    _mm512_fmadd_ps(_mm512_mul_ps(w_scale, x_scale),
                                    _mm512_cvtepi32_ps(sum[g][i]), acc[g][i]);
            }
        }
        scales += Q4_0_PACKED_SCALES;
        values += Q4_0_PACKED_VALUES;
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
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m512 value = _mm512_set1_ps(x[i][at + j]);
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                acc[g][i] = _mm512_fmadd_ps(w[g], value, acc[g][i]);
            }
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const uint8_t *values = t->weights + q4_0_values_offset(t->cols);

    tile_load_sums(n_groups, n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
    }

    for (size_t b = t->col0 / Q4_0_LEN; b < t->col1 / Q4_0_LEN; b++) {
        const uint8_t *block = values + b * Q4_0_PACKED_VALUES;
        __m512 scale[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            scale[g] =
                tile_f16(t->weights + g * group_bytes + b * Q4_0_PACKED_SCALES);
        }
        /* the columns of all low nibbles come before those of the high ones */
        for (size_t c = 0; c < 2 * Q4_0_CHUNKS; c++) {
            unsigned shift = c < Q4_0_CHUNKS ? 0 : 4;
            __m512i chunk[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                chunk[g] = _mm512_loadu_si512(block + g * group_bytes +
                                              c % Q4_0_CHUNKS * Q4_0_CHUNK);
            }
            add_columns(n_groups, n_x, chunk, shift, scale, x,
                        b * Q4_0_LEN + c * 4, acc);
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

/* ---- tiles ---- */

#define TILE(form, g, n)                                                       \
    static void form##_##g##x##n(const tile *t) {                              \
        mul_tile_##form(g, n, t);                                              \
    }

TILE(a8, 1, 1)
TILE(a8, 1, 2)
TILE(a8, 1, 4)
TILE(a8, 1, 6)
TILE(a8, 2, 1)
TILE(a8, 2, 2)
TILE(a8, 2, 4)
TILE(a8, 2, 6)
TILE(a8, 4, 1)
TILE(a8, 4, 2)
TILE(f32, 1, 1)
TILE(f32, 1, 2)
TILE(f32, 1, 4)
TILE(f32, 1, 8)
TILE(f32, 2, 1)
TILE(f32, 2, 2)
TILE(f32, 2, 4)
TILE(f32, 2, 8)
TILE(f32, 4, 1)
TILE(f32, 4, 2)

void weight_q4_0_mul_a8_avx512(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4, 6},
        .mul = {{a8_1x1, a8_1x2, a8_1x4, a8_1x6},
                {a8_2x1, a8_2x2, a8_2x4, a8_2x6},
                {a8_4x1, a8_4x2, NULL, NULL}},
        .panel = PANEL,
        .prepare = prepare,
    };
    tile_run(&set, q4_0_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}

void weight_q4_0_mul_f32_avx512(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4, 8},
        .mul = {{f32_1x1, f32_1x2, f32_1x4, f32_1x8},
                {f32_2x1, f32_2x2, f32_2x4, f32_2x8},
                {f32_4x1, f32_4x2, NULL, NULL}},
        .panel = PANEL,
    };
    tile_run(&set, q4_0_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}
