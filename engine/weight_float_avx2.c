/* weight_float_avx2.c - F32, F16 and BF16 weights with AVX2, FMA and F16C.
 *
 * A group is two vectors of 8 rows. */
#include <immintrin.h>
#include "engine/weight_tile.h"

typedef enum { KIND_F32, KIND_F16, KIND_BF16 } kind;

/* Bytes of 8 rows' values of one column. */
TILE_INLINE size_t half_bytes(kind k) {
    return k == KIND_F32 ? 32 : 16;
}

TILE_INLINE __m256 load_half(kind k, const uint8_t *at) {
    if (k == KIND_F32) return _mm256_loadu_ps((const float *)(const void *)at);
    __m128i half = _mm_loadu_si128((const __m128i *)at);
    if (k == KIND_F16) return _mm256_cvtph_ps(half);
    __m256i wide = _mm256_cvtepu16_epi32(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* `h` counts halves over all groups of the tile. */
TILE_INLINE float *sums_at(const tile *t, size_t i, size_t h) {
    return t->y[i] + t->lane0 + h * 8;
}

TILE_INLINE void mul_tile(kind k, size_t n_groups, size_t n_x, const tile *t) {
    __m256 acc[2 * TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const uint8_t *weights = t->weights;
    const size_t group_bytes = t->group_bytes;

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
        TILE_UNROLL for (size_t h = 0; h < 2 * n_groups; h++) {
            acc[h][i] = t->first ? _mm256_setzero_ps()
                                 : _mm256_loadu_ps(sums_at(t, i, h));
        }
    }

    for (size_t col = t->col0; col < t->col1; col++) {
        const uint8_t *at = weights + col * 2 * half_bytes(k);
        __m256 w[2 * TILE_GROUPS];
        TILE_UNROLL for (size_t h = 0; h < 2 * n_groups; h++) {
            size_t offset = h / 2 * group_bytes + h % 2 * half_bytes(k);
            w[h] = load_half(k, at + offset);
        }
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m256 value = _mm256_set1_ps(x[i][col]);
            TILE_UNROLL for (size_t h = 0; h < 2 * n_groups; h++) {
                acc[h][i] = _mm256_fmadd_ps(w[h], value, acc[h][i]);
            }
        }
    }

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t h = 0; h < 2 * n_groups; h++) {
            _mm256_storeu_ps(sums_at(t, i, h), acc[h][i]);
        }
    }
}

#define TILE(id, k, g, n)                                                      \
    static void id##_##g##x##n(const tile *t) {                                \
        mul_tile(k, g, n, t);                                                  \
    }

/* 8 sums fill the pipeline and leave registers for weights. */
#define FLOAT_KERNEL(id, k)                                                    \
    TILE(id, k, 1, 1)                                                          \
    TILE(id, k, 1, 2)                                                          \
    TILE(id, k, 1, 4)                                                          \
    TILE(id, k, 2, 1)                                                          \
    TILE(id, k, 2, 2)                                                          \
    TILE(id, k, 4, 1)                                                          \
    void weight_##id##_mul_avx2(WEIGHT_MUL_ARGS) {                             \
        static const tile_set set = {                                          \
            .rows = {1, 2, 4},                                                 \
            .mul = {{id##_1x1, id##_1x2, id##_1x4, NULL},                      \
                    {id##_2x1, id##_2x2, NULL, NULL},                          \
                    {id##_4x1, NULL, NULL, NULL}},                             \
            .panel = k == KIND_F32 ? 128 : 256,                                \
        };                                                                     \
        tile_run(&set, cols * 2 * half_bytes(k), packed, cols, group0, group1, \
                 col0, col1, x, n_x, y);                                       \
    }

FLOAT_KERNEL(f32, KIND_F32)
FLOAT_KERNEL(f16, KIND_F16)
FLOAT_KERNEL(bf16, KIND_BF16)
