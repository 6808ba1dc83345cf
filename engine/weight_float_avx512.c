/* weight_float_avx512.c - weight_float_rows.h built for AVX-512. */
#define VEC16_AVX512
#include "engine/weight_float_rows.h"

/* Up to 16 sums in registers: FMA needs 8 in flight. */
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
            .panel = FLOAT_PANEL(k),                                           \
        };                                                                     \
        FLOAT_RUN(set, k);                                                     \
    }

FLOAT_KERNEL(f32, KIND_F32)
FLOAT_KERNEL(f16, KIND_F16)
FLOAT_KERNEL(bf16, KIND_BF16)
