/* weight_float.c - F32, F16 and BF16: weights that stay as stored.
 *
 * Packed: for each column, the 16 rows' values side by side.  Activations are
 * F32 only: rounding them would lose more than the weights have. */
#include <assert.h>
#include <string.h>
#include "engine/weight_kernels.h"

#define X_BATCH 8 /* activation rows that share the conversion of a column */

static float widen_f16(const void *at) {
    uint16_t h;
    memcpy(&h, at, sizeof(h));
    return f16_to_f32(h);
}

static float widen_bf16(const void *at) {
    uint16_t b;
    memcpy(&b, at, sizeof(b));
    return bf16_to_f32(b);
}

static float widen_f32(const void *at) {
    float x;
    memcpy(&x, at, sizeof(x));
    return x;
}

/* One stored value to f32. */
typedef float (*widen)(const void *at);

static void dequantize(widen to_f32, size_t bytes, size_t n, const void *stored,
                       float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = to_f32((const uint8_t *)stored + i * bytes);
    }
}

/* `bytes` is the size of one value. */
static void pack(size_t bytes, size_t cols,
                 const void *const rows[WEIGHT_GROUP], void *out) {
    uint8_t *at = out;
    for (size_t col = 0; col < cols; col++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++, at += bytes) {
            if (rows[r] == NULL) {
                memset(at, 0, bytes);
            } else {
                memcpy(at, (const uint8_t *)rows[r] + col * bytes, bytes);
            }
        }
    }
}

/* One group's columns times up to X_BATCH rows. */
static void mul_group(widen to_f32, size_t bytes, const uint8_t *group,
                      size_t col0, size_t col1, const void *const *x,
                      size_t n_x, float acc[X_BATCH][WEIGHT_GROUP]) {
    for (size_t col = col0; col < col1; col++) {
        float w[WEIGHT_GROUP];
        dequantize(to_f32, bytes, WEIGHT_GROUP,
                   group + col * WEIGHT_GROUP * bytes, w);
        for (size_t t = 0; t < n_x; t++) {
            weight_fma_rows(acc[t], w, ((const float *)x[t])[col]);
        }
    }
}

static void mul(widen to_f32, size_t bytes, WEIGHT_MUL_ARGS) {
    assert(col0 < col1 && col1 <= cols);

    for (size_t g = group0; g < group1; g++) {
        const uint8_t *group =
            (const uint8_t *)packed + g * cols * WEIGHT_GROUP * bytes;
        for (size_t t0 = 0; t0 < n_x; t0 += X_BATCH) {
            size_t n = n_x - t0 < X_BATCH ? n_x - t0 : X_BATCH;
            float acc[X_BATCH][WEIGHT_GROUP] = {0};
            mul_group(to_f32, bytes, group, col0, col1, x + t0, n, acc);
            for (size_t t = 0; t < n; t++) {
                memcpy(y[t0 + t] + (g - group0) * WEIGHT_GROUP, acc[t],
                       sizeof(acc[t]));
            }
        }
    }
}

/* The functions of one format, and its row of the table. */
#define FLOAT_FORMAT(id, n_bytes)                                              \
    static void dequantize_##id(size_t n, const void *stored, float *out) {    \
        dequantize(widen_##id, n_bytes, n, stored, out);                       \
    }                                                                          \
    static size_t group_bytes_##id(size_t cols) {                              \
        return cols * WEIGHT_GROUP * n_bytes;                                  \
    }                                                                          \
    static void pack_##id(size_t cols, const void *const rows[WEIGHT_GROUP],   \
                          void *out) {                                         \
        pack(n_bytes, cols, rows, out);                                        \
    }                                                                          \
    static void mul_##id(WEIGHT_MUL_ARGS) {                                    \
        mul(widen_##id, n_bytes, packed, cols, group0, group1, col0, col1, x,  \
            n_x, y);                                                           \
    }                                                                          \
    const weight_format weight_##id = {                                        \
        .name = #id,                                                           \
        .block_len = 1,                                                        \
        .block_bytes = n_bytes,                                                \
        .act = ACT_F32,                                                        \
        .dequantize = dequantize_##id,                                         \
        .group_bytes = group_bytes_##id,                                       \
        .pack = pack_##id,                                                     \
        .mul[ACT_F32] = {[CPU_SCALAR] = mul_##id,                              \
                         [CPU_AVX2] = weight_##id##_mul_avx2,                  \
                         [CPU_AVX512] = weight_##id##_mul_avx512},             \
    }

FLOAT_FORMAT(f32, 4);
FLOAT_FORMAT(f16, 2);
FLOAT_FORMAT(bf16, 2);
