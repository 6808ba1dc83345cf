/* weight_float_avx2.c - weight_float_rows.h built for AVX2, FMA and F16C. */
#define VEC16_AVX2
#include "engine/weight_float_rows.h"

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
            .panel = FLOAT_PANEL(k),                                           \
        };                                                                     \
        FLOAT_RUN(set, k);                                                     \
    }

FLOAT_KERNEL(f32, KIND_F32)
FLOAT_KERNEL(f16, KIND_F16)
FLOAT_KERNEL(bf16, KIND_BF16)
