/* weight_q8_0_avx512.c - Q8_0 with AVX-512 and VNNI.
 *
 * vpdpbusd multiplies unsigned by signed bytes, and weights are packed as value
 * + 128: the product is too large by 128 * (sum of the activations), so the
 * integer sum starts at minus that.  The start is the same for all rows of the
 * matrix and is prepared once per panel.  Integers are exact in any order. */
#include <immintrin.h>
#include <string.h>
#include "engine/weight_tile.h"

#define CHUNKS (Q8_0_LEN / 4)
#define PANEL (TILE_BLOCKS * Q8_0_LEN)

TILE_INLINE void load_sums(size_t n_groups, size_t n_x, const tile *t,
                           __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            const float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            acc[g][i] = t->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }
}

TILE_INLINE void store_sums(size_t n_groups, size_t n_x, const tile *t,
                            __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            _mm512_storeu_ps(y, acc[g][i]);
        }
    }
}

TILE_INLINE __m512 load_scales(const uint8_t *at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

/* ---- A8 ---- */

/* Four activations in every lane. */
TILE_INLINE __m512i broadcast_4(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof(four));
    return _mm512_set1_epi32(four);
}

TILE_INLINE void mul_tile_a8(size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];
    const size_t group_bytes = t->group_bytes;
    const size_t block0 = t->col0 / Q8_0_LEN;
    const size_t n_blocks = (t->col1 - t->col0) / Q8_0_LEN;
    const uint8_t *scales = t->weights + block0 * Q8_0_PACKED_SCALES;
    const uint8_t *weights =
        t->weights + q8_0_values_offset(t->cols) + block0 * Q8_0_PACKED_VALUES;

    load_sums(n_groups, n_x, t, acc);
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
                __m512i four = broadcast_4(x[i] + b * Q8_0_LEN + c * 4);
                TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                    sum[g][i] = _mm512_dpbusd_epi32(sum[g][i], w[g], four);
                }
            }
        }
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            __m512 w_scale = load_scales(scales + g * group_bytes);
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
    store_sums(n_groups, n_x, t, acc);
}

/* The sum of each of 8 pairs' two blocks of 32 values, 16 sums: v[i] holds 8
 * partial sums of block 2i in its lower and of block 2i + 1 in its upper half.
 */
static __m512i fold_16(const __m512i v[8]) {
    __m512i four[4], two[2];
    for (int i = 0; i < 4; i++) {
        four[i] =
            _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                             _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        __m512i a = four[2 * i], b = four[2 * i + 1];
        two[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b),
                                  _mm512_unpackhi_epi64(a, b));
    }
    __m512i all = _mm512_add_epi32(_mm512_shuffle_i32x4(two[0], two[1], 0x88),
                                   _mm512_shuffle_i32x4(two[0], two[1], 0xdd));
    /* Now each quarter holds one half of v[0] to v[3] or of v[4] to v[7]. */
    const __m512i order =
        _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    return _mm512_permutexvar_epi32(order, all);
}

static int32_t sum_of_block(const int8_t *x) {
    int32_t sum = 0;
    for (size_t i = 0; i < Q8_0_LEN; i++) {
        sum += x[i];
    }
    return sum;
}

static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / Q8_0_LEN;
    const size_t n_blocks = (col1 - col0) / Q8_0_LEN;

    size_t b = 0;
    for (; b + 16 <= n_blocks; b += 16) {
        __m512i v[8];
        for (size_t i = 0; i < 8; i++) {
            v[i] = _mm512_dpbusd_epi32(
                _mm512_setzero_si512(), _mm512_set1_epi8(1),
                _mm512_loadu_si512(values + (b + 2 * i) * Q8_0_LEN));
        }
        int32_t sum[16];
        _mm512_storeu_si512(sum, fold_16(v));
        for (size_t i = 0; i < 16; i++) {
            out[b + i] = (tile_prep){-128 * sum[i], scales[b + i]};
        }
    }
    for (; b < n_blocks; b++) {
        int32_t sum = sum_of_block(values + b * Q8_0_LEN);
        out[b] = (tile_prep){-128 * sum, scales[b]};
    }
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

    load_sums(n_groups, n_x, t, acc);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
    }

    for (size_t col = t->col0; col < t->col1; col += 4) {
        const uint8_t *scales =
            t->weights + col / Q8_0_LEN * Q8_0_PACKED_SCALES;
        __m512 scale[TILE_GROUPS];
        __m512i chunk[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            scale[g] = load_scales(scales + g * group_bytes);
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
    store_sums(n_groups, n_x, t, acc);
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
