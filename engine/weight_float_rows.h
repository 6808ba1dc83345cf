/* weight_float_rows.h - F32, F16 and BF16 weights times activations, sixteen
 * rows at a time.
 *
 * The body of weight_float_avx2.c and weight_float_avx512.c, which define the
 * level for vec16.h and, after including this, which tiles there are. */
#ifndef ENGINE_WEIGHT_FLOAT_ROWS_H
#define ENGINE_WEIGHT_FLOAT_ROWS_H

#include "engine/vec16.h"
#include "engine/weight_tile.h"

_Static_assert(WEIGHT_GROUP == V16_LANES, "a vector is a column of a group");

typedef enum { KIND_F32, KIND_F16, KIND_BF16 } kind;

/* Bytes of a column of one group. */
TILE_INLINE size_t column_bytes(kind k) {
    return WEIGHT_GROUP * (k == KIND_F32 ? sizeof(float) : sizeof(uint16_t));
}

TILE_INLINE v16 load_column(kind k, const void *at) {
    if (k == KIND_F32) return v16_load(at);
    return k == KIND_F16 ? v16_load_f16(at) : v16_load_bf16(at);
}

TILE_INLINE void mul_tile(kind k, size_t n_groups, size_t n_x, const tile *t) {
    v16 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];
    const uint8_t *weights = t->weights;
    const size_t group_bytes = t->group_bytes;

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            const float *y = t->y[i] + t->lane0 + g * WEIGHT_GROUP;
            acc[g][i] = t->first ? v16_set(0.0f) : v16_load(y);
        }
    }

    for (size_t col = t->col0; col < t->col1; col++) {
        const uint8_t *at = weights + col * column_bytes(k);
        v16 w[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            w[g] = load_column(k, at + g * group_bytes);
        }
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            v16 value = v16_set(x[i][col]);
            TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
                acc[g][i] = v16_fma(w[g], value, acc[g][i]);
            }
        }
    }

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            v16_store(t->y[i] + t->lane0 + g * WEIGHT_GROUP, acc[g][i]);
        }
    }
}

#define TILE(id, k, g, n)                                                      \
    static void id##_##g##x##n(const tile *t) {                                \
        mul_tile(k, g, n, t);                                                  \
    }

/* The panel is 8 KiB of a group. */
#define FLOAT_PANEL(k) (k == KIND_F32 ? 128 : 256)

#define FLOAT_RUN(set, k)                                                      \
    tile_run(&set, cols *column_bytes(k), packed, cols, group0, group1, col0,  \
             col1, x, n_x, y)

#endif
