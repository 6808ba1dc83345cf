/* weight_block.c - products of opened blocks, plainly; see weight_block.h. */
#include "engine/weight_block.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include "engine/util.h"

#define X_BATCH 8 /* activation rows that share the opening of a block */
#define SUB 16    /* columns of a sub-scale */

/* acc += one block times one row; `at` is the block's first column. */
typedef void (*mul_block)(weight_min min, size_t cols, size_t at,
                          const weight_block *w, const void *x, float *acc);

static void mul_block_a8(weight_min min, size_t cols, size_t at,
                         const weight_block *w, const void *x, float *acc) {
    const int8_t *values = act_values(cols, x) + at;
    float x_scale = act_scales(x)[at / ACT_BLOCK];

    int32_t sum[2][WEIGHT_GROUP] = {0};
    int32_t x_sum[2] = {0};
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        x_sum[i / SUB] += values[i];
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            sum[i / SUB][r] += w->values[i][r] * values[i];
        }
    }
    float x_min = x_scale * (float)(x_sum[0] + x_sum[1]);
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        int32_t scaled =
            w->sub_scale[0][r] * sum[0][r] + w->sub_scale[1][r] * sum[1][r];
        acc[r] = fmaf(w->scale[r] * x_scale, (float)scaled, acc[r]);
        if (min == WEIGHT_MIN_32) {
            float row_min = w->min[r] * (float)w->sub_min[0][r];
            acc[r] = fmaf(-row_min, x_min, acc[r]);
        }
        if (min == WEIGHT_MIN_16) {
            int32_t minima =
                w->sub_min[0][r] * x_sum[0] + w->sub_min[1][r] * x_sum[1];
            acc[r] = fmaf(-(w->min[r] * x_scale), (float)minima, acc[r]);
        }
    }
}

static void mul_block_f32(weight_min min, size_t cols, size_t at,
                          const weight_block *w, const void *x, float *acc) {
    const float *values = (const float *)x + at;
    (void)cols;

    for (size_t i = 0; i < ACT_BLOCK; i++) {
        float weights[WEIGHT_GROUP];
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            float scale = w->scale[r] * (float)w->sub_scale[i / SUB][r];
            weights[r] = scale * (float)w->values[i][r];
            if (min != WEIGHT_NO_MIN)
                weights[r] -= w->min[r] * (float)w->sub_min[i / SUB][r];
        }
        weight_fma_rows(acc, weights, values[i]);
    }
}

static void mul(mul_block step, const weight_blocks *f, WEIGHT_MUL_ARGS) {
    assert(col0 < col1 && col1 <= cols);
    assert(col0 % f->len == 0 && col1 % f->len == 0);

    for (size_t g = group0; g < group1; g++) {
        const uint8_t *group =
            (const uint8_t *)packed + g * f->group_bytes(cols);
        for (size_t t0 = 0; t0 < n_x; t0 += X_BATCH) {
            size_t n = size_min(n_x - t0, X_BATCH);
            float acc[X_BATCH][WEIGHT_GROUP] = {0};
            for (size_t at = col0; at < col1; at += ACT_BLOCK) {
                weight_block w;
                f->open(cols, group, at, &w);
                for (size_t t = 0; t < n; t++) {
                    step(f->min, cols, at, &w, x[t0 + t], acc[t]);
                }
            }
            for (size_t t = 0; t < n; t++) {
                memcpy(y[t0 + t] + (g - group0) * WEIGHT_GROUP, acc[t],
                       sizeof(acc[t]));
            }
        }
    }
}

void weight_block_mul_a8(const weight_blocks *f, WEIGHT_MUL_ARGS) {
    mul(mul_block_a8, f, packed, cols, group0, group1, col0, col1, x, n_x, y);
}

void weight_block_mul_f32(const weight_blocks *f, WEIGHT_MUL_ARGS) {
    mul(mul_block_f32, f, packed, cols, group0, group1, col0, col1, x, n_x, y);
}
