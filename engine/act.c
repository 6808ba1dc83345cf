/* act.c - encoding and checking of activation rows; the scalar encoder.
 *
 * A block so small that 127 / amax overflows (amax below 3.8e-37) counts as
 * zero: no model notices, and no infinity arises. */
#include "engine/act.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>
#include "engine/act_kernels.h"
#include "engine/cpu.h"

static void encode_block(const float *x, float *scale, int8_t *q) {
    float amax = 0.0f;
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        float a = fabsf(x[i]);
        if (a > amax) amax = a;
    }
    if (amax > FLT_MAX) amax = FLT_MAX;

    float inv = 127.0f / amax;
    if (inv > FLT_MAX) {
        *scale = 0.0f;
        memset(q, 0, ACT_BLOCK);
        return;
    }

    *scale = act_round_scale(amax / 127.0f);
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        float v = x[i] * inv;
        v = v < 127.0f ? v : 127.0f;
        v = v > -127.0f ? v : -127.0f;
        q[i] = (int8_t)lrintf(v);
    }
}

static void encode_a8_scalar(size_t n_blocks, const float *x, float *scales,
                             int8_t *values) {
    for (size_t b = 0; b < n_blocks; b++) {
        encode_block(x + b * ACT_BLOCK, &scales[b], values + b * ACT_BLOCK);
    }
}

static const act_encoder encoders[CPU_LEVELS] = {
    [CPU_SCALAR] = encode_a8_scalar,
    [CPU_AVX2] = act_encode_a8_avx2,
    [CPU_AVX512] = act_encode_a8_avx512,
};

size_t act_row_bytes(act_form form, size_t n) {
    if (form == ACT_F32) return n * sizeof(float);
    assert(n % ACT_BLOCK == 0);
    return n / ACT_BLOCK * sizeof(float) + n;
}

void act_encode(act_form form, size_t n, const float *x, void *row) {
    act_encode_part(form, n, 0, n, x, row);
}

void act_encode_part(act_form form, size_t n, size_t from, size_t to,
                     const float *x, void *row) {
    assert(from <= to && to <= n);
    if (from == to) return;

    if (form == ACT_F32) {
        memcpy((float *)row + from, x, (to - from) * sizeof(float));
        return;
    }

    assert(n % ACT_BLOCK == 0 && from % ACT_BLOCK == 0 && to % ACT_BLOCK == 0);
    float *scales = row;
    int8_t *values = (int8_t *)row + n / ACT_BLOCK * sizeof(float);
    encoders[cpu_current()]((to - from) / ACT_BLOCK, x,
                            scales + from / ACT_BLOCK, values + from);
}

/* The loops below go over whole rows without a way out, so that the compiler
 * can use vectors: bad rows are rare, good ones are on every token's way. */

static bool f32_valid(size_t n, const float *x) {
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad == 0;
}

static bool a8_valid(size_t n, const void *row) {
    const float *scales = act_scales(row);
    const int8_t *values = act_values(n, row);

    int bad = 0;
    for (size_t b = 0; b < n / ACT_BLOCK; b++) {
        bad |= !(scales[b] >= 0.0f && scales[b] <= FLT_MAX);
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            bad |= values[b * ACT_BLOCK + i] == INT8_MIN;
        }
    }
    return bad == 0;
}

bool act_row_valid(act_form form, size_t n, const void *row) {
    if (form == ACT_F32) return f32_valid(n, row);
    return n % ACT_BLOCK == 0 && a8_valid(n, row);
}
