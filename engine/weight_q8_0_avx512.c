/* weight_q8_0_avx512.c - Q8_0 with AVX-512 and VNNI.
 *
 * vpdpbusd multiplies unsigned by signed bytes, and weights are packed as value
 * + 128: the product is too large by 128 * (sum of the activations), so the
 * integer sum starts at minus that.  The start is the same for all rows of the
 * matrix and is prepared once per panel.  Integers are exact in any order. */
#include "engine/weight_tile_avx512.h"

#define CHUNKS (Q8_0_LEN / 4)
#define PANEL (TILE_BLOCKS * Q8_0_LEN)

/* ---- A8 ---- */

TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const size_t block0 = t->col0 / Q8_0_LEN;
    const size_t n_blocks = (t->col1 - t->col0) / Q8_0_LEN;
    const uint8_t *scales = t->weights + block0 * Q8_0_PACKED_SCALES;
    const uint8_t *weights =
        t->weights + q8_0_values_offset(t->cols) + block0 * Q8_0_PACKED_VALUES;

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
        TILE_UNROLL for (size_t c = 0; c < CHUNKS; c++) {
            __m512i w[TILE_GROUPS];
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                w[g] = _mm512_loadu_si512(weights + g * group_bytes +
                                          c * Q8_0_CHUNK);
            }
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                __m512i four = tile_broadcast_4(x[i] + b * Q8_0_LEN + c * 4);
                TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                    sum[g][i] = _mm512_dpbusd_epi32(sum[g][i], w[g], four);
                }
            }
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
        scales += Q8_0_PACKED_SCALES;
        weights += Q8_0_PACKED_VALUES;
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    tile_prepare_avx512(-128, cols, col0, col1, x, out);
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
    const uint8_t *weights = t->weights + q8_0_values_offset(t->cols);

    tile_load_sums(n_groups, n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
    }

    for (size_t col = t->col0; col < t->col1; col += 4) {
        const uint8_t *scales =
            t->weights + col / Q8_0_LEN * Q8_0_PACKED_SCALES;
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
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                __m512 value = _mm512_set1_ps(x[i][col + j]);
                TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                    acc[g][i] = _mm512_fmadd_ps(w[g], value, acc[g][i]);
                }
            }
        }
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

/* ---- tiles ---- */

#define TILE(form, g, n)                                                       \
    static void form##_##g##x##n(const tile *t) {                              \
        mul_tile_##form(g, n, t);                                              \
    }

/* Each sum of A8 takes two registers, an integer and a float one; 12 chains of
 * vpdpbusd keep both of its ports busy, 8 do not. */
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

void weight_q8_0_mul_a8_avx512(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4, 6},
        .mul = {{a8_1x1, a8_1x2, a8_1x4, a8_1x6},
                {a8_2x1, a8_2x2, a8_2x4, a8_2x6},
                {a8_4x1, a8_4x2, NULL, NULL}},
        .panel = PANEL,
        .prepare = prepare,
    };
    tile_run(&set, q8_0_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}

void weight_q8_0_mul_f32_avx512(WEIGHT_MUL_ARGS) {
    static const tile_set set = {
        .rows = {1, 2, 4, 8},
        .mul = {{f32_1x1, f32_1x2, f32_1x4, f32_1x8},
                {f32_2x1, f32_2x2, f32_2x4, f32_2x8},
                {f32_4x1, f32_4x2, NULL, NULL}},
        .panel = PANEL,
    };
    tile_run(&set, q8_0_group_bytes(cols), packed, cols, group0, group1, col0,
             col1, x, n_x, y);
}
