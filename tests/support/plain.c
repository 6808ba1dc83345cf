/* plain.c - see plain.h. */
#include "tests/support/plain.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/vmath.h"

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

static int8_t random_int8(uint64_t *seed, plain_kind kind, int least) {
    if (kind == PLAIN_EXTREME) {
        return plain_random(seed) % 2 ? 127 : (int8_t)least;
    }
    int v = (int)(plain_random(seed) % 256) - 128;
    return (int8_t)(v < least ? least : v);
}

static void random_q8_0(uint64_t *seed, plain_kind kind, uint8_t *block) {
    static const uint16_t extreme[] = {0x7bff, 0xfbff, 0x3c00, 0x0001};
    static const uint16_t tiny[] = {0x0001, 0x83ff, 0x0000, 0x0400};
    uint16_t scale = f32_to_f16(plain_random_float(seed) * 0.01f);
    if (kind == PLAIN_EXTREME) scale = extreme[plain_random(seed) % 4];
    if (kind == PLAIN_TINY) scale = tiny[plain_random(seed) % 4];
    memcpy(block, &scale, sizeof(scale));
    for (size_t i = 0; i < 32; i++) {
        block[2 + i] = (uint8_t)random_int8(seed, kind, -128);
    }
}

void plain_weights(uint64_t *seed, plain_kind kind, uint32_t type, size_t n,
                   void *out) {
    uint8_t *at = out;
    if (type == WEIGHT_Q8_0) {
        for (size_t b = 0; b < n / 32; b++) {
            random_q8_0(seed, kind, at + b * 34);
        }
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
        values[i] = random_int8(seed, kind, -127);
    }
}

size_t plain_stored_bytes(uint32_t type, size_t cols) {
    size_t len, bytes;
    int known = weight_type_size(type, &len, &bytes);
    assert(known && cols % len == 0);
    return cols / len * bytes;
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
        assert(type == WEIGHT_Q8_0);
        memcpy(&half, stored + i / 32 * 34, sizeof(half));
        return f16_to_f32(half) *
               (float)(int8_t)stored[i / 32 * 34 + 2 + i % 32];
    }
}

static float dot_a8(size_t cols, size_t col0, size_t col1,
                    const uint8_t *stored, const void *x) {
    float acc = 0.0f;
    for (size_t b = col0 / 32; b < col1 / 32; b++) {
        const uint8_t *block = stored + b * 34;
        uint16_t scale;
        memcpy(&scale, block, sizeof(scale));
        int32_t sum = 0;
        for (size_t i = 0; i < 32; i++) {
            sum += (int8_t)block[2 + i] * act_values(cols, x)[b * 32 + i];
        }
        acc = fmaf(f16_to_f32(scale) * act_scales(x)[b], (float)sum, acc);
    }
    return acc;
}

float plain_dot(uint32_t type, act_form form, size_t cols, size_t col0,
                size_t col1, const void *stored, const void *x) {
    if (form == ACT_A8) {
        assert(type == WEIGHT_Q8_0);
        return dot_a8(cols, col0, col1, stored, x);
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
    *form = exact || m->type != WEIGHT_Q8_0 ? ACT_F32 : ACT_A8;
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

void plain_ffn(const plain_matrix *gate, const plain_matrix *up,
               const plain_matrix *down, size_t segments, int exact,
               act_form x_form, const void *x, float *y) {
    size_t n = gate->rows;
    float *g = malloc(n * sizeof(float));
    float *u = malloc(n * sizeof(float));
    assert(g != NULL && u != NULL);
    product(gate, exact, x_form, x, g);
    product(up, exact, x_form, x, u);
    for (size_t i = 0; i < n; i++) {
        g[i] = g[i] / (1.0f + vm_expf(-g[i])) * u[i];
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
