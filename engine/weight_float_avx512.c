/* weight_float_avx512.c - F32, F16 and BF16 weights with AVX-512. */
#include <immintrin.h>
#include "engine/weight_tile.h"

typedef enum { KIND_F32, KIND_F16, KIND_BF16 } kind;

/* Bytes of a column of one group. */
TILE_INLINE size_t column_bytes(kind k) {
    return k == KIND_F32 ? 64 : 32;
}

TILE_INLINE __m512 load_column(kind k, const uint8_t *at) {
    if (k == KIND_F32) return _mm512_loadu_ps(at);
    __m256i half = _mm256_loadu_si256((const __m256i *)at);
    if (k == KIND_F16) return _mm512_cvtph_ps(half);
    __m512i wide = _mm512_cvtepu16_epi32(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

TILE_INLINE void mul_tile(kind k, size_t n_groups, size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const uint8_t *weights = t->weights;
    const size_t group_bytes = t->group_bytes;

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            const float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            acc[g][i] = t->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }

    for (size_t col = t->col0; col < t->col1; col++) {
        const uint8_t *at = weights + col * column_bytes(k);
        __m512 w[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            w[g] = load_column(k, at + g * group_bytes);
        }
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            __m512 value = _mm512_set1_ps(x[i][col]);
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                acc[g][i] = _mm512_fmadd_ps(w[g], value, acc[g][i]);
            }
        }
    }

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            _mm512_storeu_ps(y, acc[g][i]);
        }
    }
}

#define TILE(id, k, g, n)                                                      \
    static void id##_##g##x##n(const tile *t) {                                \
        mul_tile(k, g, n, t);                                                  \
    }

/* Up to 16 sums in registers: FMA needs 8 in flight.  The panel is 8 KiB of a
 * group. */
#define FLOAT_KERNEL(id, k)                                                    \
    TILE(id, k, 1, 1)                                                          \
    TILE(id, k, 1, 2)                                                          \
    TILE(id, k, 1, 4)                                                          \
    TILE(id, k, 1, 8)                                                          \
    TILE(id, k, 2, 1)                                                          \
    TILE(id, k, 2, 2)                                                          \
    TILE(id, k, 2, 4)                                                          \
    TILE(id, k, 2, 8)                                                          \
    TILE(id, k, 4, 1)                                                          \
    TILE(id, k, 4, 2)                                                          \
    TILE(id, k, 4, 4)                                                          \
    void weight_##id##_mul_avx512(WEIGHT_MUL_ARGS) {                           \
        static const tile_set set = {                                          \
            .rows = {1, 2, 4, 8},                                              \
            .mul = {{id##_1x1, id##_1x2, id##_1x4, id##_1x8},                  \
                    {id##_2x1, id##_2x2, id##_2x4, id##_2x8},                  \
                    {id##_4x1, id##_4x2, id##_4x4, NULL}},                     \
            .panel = k == KIND_F32 ? 128 : 256,                                \
        };                                                                     \
        tile_run(&set, cols *column_bytes(k), packed, cols, group0, group1,    \
                 col0, col1, x, n_x, y);                                       \
    }

FLOAT_KERNEL(f32, KIND_F32)
FLOAT_KERNEL(f16, KIND_F16)
FLOAT_KERNEL(bf16, KIND_BF16)
