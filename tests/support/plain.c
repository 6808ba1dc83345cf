/* plain.c - see plain.h. */
#include "tests/support/plain.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/vmath.h"
#include "tests/support/plain_quant.h"

uint32_t plain_random(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 32);
}

float plain_random_float(uint64_t *seed) {
    return (float)(int32_t)plain_random(seed) * 0x1p-31f;
}

static float pick(uint64_t *seed, const float *from, size_t n) {
    return from[plain_random(seed) % n];
}

static float random_value(uint64_t *seed, plain_kind kind) {
    static const float extreme[] = {6e4f, -6e4f, 1.0f, -0.0f, 6e-8f, -3e4f};
    static const float tiny[] = {1e-40f, -3e-42f, 6e-8f, 0.0f, -1.4e-45f};
    if (kind == PLAIN_EXTREME) return pick(seed, extreme, 6);
    if (kind == PLAIN_TINY) return pick(seed, tiny, 5);
    return plain_random_float(seed);
}

static int8_t random_int8(uint64_t *seed, plain_kind kind) {
    if (kind == PLAIN_EXTREME) return plain_random(seed) % 2 ? 127 : -127;
    int v = (int)(plain_random(seed) % 256) - 128;
    return (int8_t)(v < -127 ? -127 : v);
}

void plain_weights(uint64_t *seed, plain_kind kind, uint32_t type, size_t n,
                   void *out) {
    uint8_t *at = out;
    if (plain_quant_known(type)) {
        plain_quant_random(seed, kind, type, n, at);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float x = random_value(seed, kind);
        uint16_t half = f32_to_f16(x);
        if (type == WEIGHT_BF16) {
            uint32_t bits;
            memcpy(&bits, &x, sizeof(bits));
            half = (uint16_t)(bits >> 16);
        }
        if (type == WEIGHT_F32) memcpy(at + 4 * i, &x, sizeof(x));
        if (type != WEIGHT_F32) memcpy(at + 2 * i, &half, sizeof(half));
    }
}

void plain_row(uint64_t *seed, plain_kind kind, act_form form, size_t n,
               void *out) {
    float *floats = out;
    size_t n_floats = form == ACT_F32 ? n : n / ACT_BLOCK;
    for (size_t i = 0; i < n_floats; i++) {
        float x = random_value(seed, kind);
        floats[i] = form == ACT_F32 ? x : fabsf(x);
    }
    if (form == ACT_F32) return;

    int8_t *values = (int8_t *)(floats + n_floats);
    for (size_t i = 0; i < n; i++) {
        values[i] = random_int8(seed, kind);
    }
}

size_t plain_stored_bytes(uint32_t type, size_t cols) {
    size_t len, bytes;
    int known = weight_type_size(type, &len, &bytes);
    assert(known && cols % len == 0);
    return cols / len * bytes;
}

static float quant_weight_at(uint32_t type, const uint8_t *stored, size_t i) {
    plain_quant w = plain_quant_at(type, stored, i);
    float product = w.scale * (float)w.sub_scale * (float)w.value;
    if (!plain_quant_has_min(type)) return product;
    return product - w.min * (float)w.sub_min;
}

static float weight_at(uint32_t type, const uint8_t *stored, size_t i) {
    uint16_t half;
    float x;
    switch (type) {
    case WEIGHT_F32:
        memcpy(&x, stored + 4 * i, sizeof(x));
        return x;
    case WEIGHT_F16:
        memcpy(&half, stored + 2 * i, sizeof(half));
        return f16_to_f32(half);
    case WEIGHT_BF16:
        memcpy(&half, stored + 2 * i, sizeof(half));
        return bf16_to_f32(half);
    default:
        return quant_weight_at(type, stored, i);
    }
}

static float dot_a8(uint32_t type, size_t cols, size_t col0, size_t col1,
                    const uint8_t *stored, const void *x) {
    float acc = 0.0f;
    for (size_t b = col0 / 32; b < col1 / 32; b++) {
        float x_scale = act_scales(x)[b];
        int sum = 0, x_sum = 0, minima = 0;
        plain_quant w = {0};
        for (size_t i = b * 32; i < (b + 1) * 32; i++) {
            int value = act_values(cols, x)[i];
            w = plain_quant_at(type, stored, i);
            sum += w.sub_scale * w.value * value;
            x_sum += value;
            minima += w.sub_min * value;
        }
        acc = fmaf(w.scale * x_scale, (float)sum, acc);
        if (!plain_quant_has_min(type)) continue;
        if (type == WEIGHT_Q2_K) { /* two minima a block */
            acc = fmaf(-(w.min * x_scale), (float)minima, acc);
        } else {
            float w_min = w.min * (float)w.sub_min;
            acc = fmaf(-w_min, x_scale * (float)x_sum, acc);
        }
    }
    return acc;
}

float plain_dot(uint32_t type, act_form form, size_t cols, size_t col0,
                size_t col1, const void *stored, const void *x) {
    if (form == ACT_A8) {
        return dot_a8(type, cols, col0, col1, stored, x);
    }
    float acc = 0.0f;
    for (size_t i = col0; i < col1; i++) {
        acc = fmaf(weight_at(type, stored, i), ((const float *)x)[i], acc);
    }
    return acc;
}

static float row_dot(const plain_matrix *m, act_form form, size_t row,
                     size_t col0, size_t col1, const void *x) {
    size_t stride = plain_stored_bytes(m->type, m->cols);
    return plain_dot(m->type, form, m->cols, col0, col1,
                     (const uint8_t *)m->stored + row * stride, x);
}

/* The form a matrix multiplies, and x in it: x itself or an encoding that the
 * caller frees. */
static void *in_form(const plain_matrix *m, int exact, act_form x_form,
                     const void *x, act_form *form) {
    *form = exact || !plain_quant_known(m->type) ? ACT_F32 : ACT_A8;
    size_t bytes = act_row_bytes(*form, m->cols);
    void *row = malloc(bytes);
    assert(row != NULL && (*form == x_form || x_form == ACT_F32));
    if (*form == x_form) memcpy(row, x, bytes);
    if (*form != x_form) act_encode(*form, m->cols, x, row);
    return row;
}

static void product(const plain_matrix *m, int exact, act_form x_form,
                    const void *x, float *y) {
    act_form form;
    void *row = in_form(m, exact, x_form, x, &form);
    for (size_t r = 0; r < m->rows; r++) {
        y[r] = row_dot(m, form, r, 0, m->cols, row);
    }
    free(row);
}

/* The sum of segments [first, first + n) as a binary tree. */
static float tree(const plain_matrix *down, act_form form, size_t row,
                  size_t width, size_t first, size_t n, const void *hidden) {
    if (n == 1) {
        return row_dot(down, form, row, first * width, (first + 1) * width,
                       hidden);
    }
    return tree(down, form, row, width, first, n / 2, hidden) +
           tree(down, form, row, width, first + n / 2, n / 2, hidden);
}

static float joined(ffn_activation activation, float g, float u) {
    float z = g;
    if (activation == FFN_GELU) {
        z = g * fmaf(g * g, 0x1.2444f2p-4f, 0x1.988454p+0f);
    }
    if (activation == FFN_SWIGLU_CLAMPED) {
        if (g > 7.0f) g = 7.0f;
        if (u > 7.0f) u = 7.0f;
        if (u < -7.0f) u = -7.0f;
        u = u + 1.0f;
        z = 1.702f * g;
    }
    return g / (1.0f + vm_expf(-z)) * u;
}

void plain_ffn(const plain_matrix *gate, const plain_matrix *up,
               const plain_matrix *down, const plain_join *how, size_t segments,
               int exact, act_form x_form, const void *x, float *y) {
    size_t n = gate->rows;
    float *g = malloc(n * sizeof(float));
    float *u = malloc(n * sizeof(float));
    assert(g != NULL && u != NULL);
    product(gate, exact, x_form, x, g);
    product(up, exact, x_form, x, u);
    for (size_t i = 0; i < n; i++) {
        if (how->gate_bias != NULL) g[i] += how->gate_bias[i];
        if (how->up_bias != NULL) u[i] += how->up_bias[i];
        g[i] = joined(how->activation, g[i], u[i]);
    }

    act_form form;
    void *hidden = in_form(down, exact, ACT_F32, g, &form);
    for (size_t r = 0; r < down->rows; r++) {
        y[r] = tree(down, form, r, n / segments, 0, segments, hidden);
    }
    free(hidden);
    free(u);
    free(g);
}
