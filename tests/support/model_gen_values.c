/* model_gen_values.c - random values of every format that we compute with.
 *
 * Speed matters: test models of hundreds of megabytes are made on the fly.  So
 * values come eight bytes at a time from xoshiro256++ and are written in the
 * stored form at once: integer formats as uniform bytes under one scale, floats
 * as a sum of four uniform values, which is close enough to a normal
 * distribution. */
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "engine/weight.h"
#include "tests/support/model_gen_internal.h"

#define Q8_BLOCK_BYTES 34
#define UNIFORM_BYTE_DEVIATION 73.6f /* of integers in [-127, 127] */
/* Root mean squares of uniform integers, for formats of 2 to 6 bits: */
#define RMS_2_BITS 1.118f      /* in [0, 3], less 1.5 */
#define RMS_3_BITS 2.345f      /* in [-4, 3] */
#define RMS_4_BITS 4.610f      /* in [0, 15], less 7.5 */
#define RMS_5_BITS 9.233f      /* in [0, 31], less 15.5 */
#define RMS_6_BITS 18.48f      /* in [-32, 31] */
#define RMS_SUB_SCALE_4 8.803f /* in [0, 15] */
#define RMS_SUB_SCALE_6 36.52f /* in [0, 63] */
#define RMS_SUB_SCALE_8 73.90f /* in [-128, 127] */
/* and of the formats' tables */
#define RMS_IQ4_TABLE 67.44f
#define RMS_MXFP4_DOUBLES 5.852f

static uint64_t rotate(uint64_t x, int k) {
    return x << k | x >> (64 - k);
}

/* xoshiro256++ (Blackman and Vigna, public domain). */
uint64_t next_u64(source *r) {
    uint64_t *s = r->s, result = rotate(s[0] + s[3], 23) + s[0];
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

/* Four 16-bit values: mean 131070, deviation 65536 * sqrt(4 / 12). */
float next_value(source *r) {
    uint64_t u = next_u64(r);
    uint32_t sum = (uint32_t)(u & 0xffff) + (uint32_t)(u >> 16 & 0xffff) +
                   (uint32_t)(u >> 32 & 0xffff) + (uint32_t)(u >> 48);
    return r->mean + r->deviation * ((float)sum - 131070.0f) / 37837.2f;
}

static void fill_f32(void *context, size_t bytes, void *out) {
    float *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        x[i] = next_value(context);
}

static void fill_f16(void *context, size_t bytes, void *out) {
    uint16_t *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        x[i] = f32_to_f16(next_value(context));
}

/* The upper half of the float, rounded half to even. */
static void fill_bf16(void *context, size_t bytes, void *out) {
    uint16_t *x = out;
    for (size_t i = 0; i < bytes / sizeof(*x); i++) {
        float value = next_value(context);
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        x[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

/* Lift each byte of -128 to -127: a quantizer never writes the former. */
static uint64_t without_minus_128(uint64_t u) {
    const uint64_t low = 0x0101010101010101u, high = low << 7;
    uint64_t x = u ^ high; /* wanted: the bytes that are zero now */
    uint64_t nonzero = ((x & ~high) + ~high) | x;
    return u | (~nonzero & high) >> 7;
}

static void fill_q8_0(void *context, size_t bytes, void *out) {
    source *r = context;
    uint16_t scale = f32_to_f16(r->deviation / UNIFORM_BYTE_DEVIATION);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / Q8_BLOCK_BYTES; i++) {
        memcpy(at, &scale, sizeof(scale));
        at += sizeof(scale);
        for (int j = 0; j < 4; j++, at += 8) {
            uint64_t u = without_minus_128(next_u64(r));
            memcpy(at, &u, sizeof(u));
        }
    }
}

static void put_bytes(source *r, size_t n, uint8_t *out) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t u = next_u64(r);
        memcpy(out + i, &u, n - i < 8 ? n - i : 8);
    }
}

static void put_half(float x, uint8_t *out) {
    uint16_t half = f32_to_f16(x);
    memcpy(out, &half, sizeof(half));
}

/* Values are -8 to 7: scales of either sign make their mean 0. */
static void fill_q4_0(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / RMS_4_BITS;
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 18; i++, at += 18) {
        put_half(next_u64(r) >> 63 ? scale : -scale, at);
        put_bytes(r, 16, at + 2);
    }
}

/* Scale, an offset that makes the mean 0, and n_bytes of values, whose mean is
 * `middle`. */
static void put_offset_block(source *r, float rms, float middle, size_t n_bytes,
                             uint8_t *block) {
    float scale = r->deviation / rms;
    put_half(scale, block);
    put_half(-scale * middle, block + 2);
    put_bytes(r, n_bytes, block + 4);
}

static void fill_q4_1(void *context, size_t bytes, void *out) {
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 20; i++, at += 20) {
        put_offset_block(context, RMS_4_BITS, 7.5f, 16, at);
    }
}

static void fill_q5_1(void *context, size_t bytes, void *out) {
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 24; i++, at += 24) {
        put_offset_block(context, RMS_5_BITS, 15.5f, 20, at);
    }
}

/* As Q4_0, with values of -16 to 15. */
static void fill_q5_0(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / RMS_5_BITS;
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 22; i++, at += 22) {
        put_half(next_u64(r) >> 63 ? scale : -scale, at);
        put_bytes(r, 20, at + 2);
    }
}

static void fill_iq4_nl(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / RMS_IQ4_TABLE;
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 18; i++, at += 18) {
        put_half(next_u64(r) >> 63 ? scale : -scale, at);
        put_bytes(r, 16, at + 2);
    }
}

static void fill_iq4_xs(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / (RMS_6_BITS * RMS_IQ4_TABLE);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 136; i++, at += 136) {
        put_half(scale, at);
        put_bytes(r, 134, at + 2); /* sub-scales and values */
    }
}

/* Scales are powers of two: the one below and the one above what is wanted, so
 * often that the mean of the squares is right. */
static void fill_mxfp4(void *context, size_t bytes, void *out) {
    source *r = context;
    int e;
    float rest = 2.0f * frexpf(r->deviation / RMS_MXFP4_DOUBLES, &e);
    float above = (rest * rest - 1.0f) / 3.0f; /* 4^0 and 4^1 */
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 17; i++, at += 17) {
        bool up = (float)(next_u64(r) >> 40) < above * 0x1p24f;
        at[0] = (uint8_t)(e - 1 + 128 + up);
        put_bytes(r, 16, at + 1);
    }
}

/* Scale and minimum of a sub-block are equal; the block's are not. */
static void fill_q2_k(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / (RMS_SUB_SCALE_4 * RMS_2_BITS);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 84; i++, at += 84) {
        uint64_t u = next_u64(r);
        for (int j = 0; j < 16; j++) {
            at[j] = (uint8_t)((u >> (4 * j) & 15) * 17);
        }
        put_bytes(r, 64, at + 16);
        put_half(scale, at + 80);
        put_half(scale * 1.5f, at + 82);
    }
}

static void fill_q3_k(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / (RMS_6_BITS * RMS_3_BITS);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 110; i++, at += 110) {
        put_bytes(r, 108, at); /* values and sub-scales */
        put_half(scale, at + 108);
    }
}

/* The head of Q4_K and Q5_K: 8 scales of 6 bits and minima, which are equal to
 * them and multiplied by `middle`, the values' mean. */
static void put_k_head(source *r, float rms, float middle, uint8_t *block) {
    float scale = r->deviation / (RMS_SUB_SCALE_6 * rms);
    put_half(scale, block);
    put_half(scale * middle, block + 2);
    uint64_t u = next_u64(r);
    memcpy(block + 4, &u, 4); /* the first four scales, upper bits of others */
    memcpy(block + 8, &u, 4); /* the same of the minima */
    for (int i = 0; i < 4; i++) {
        block[12 + i] = (uint8_t)((u >> (32 + 4 * i) & 15) * 17);
    }
}

static void fill_q4_k(void *context, size_t bytes, void *out) {
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 144; i++, at += 144) {
        put_k_head(context, RMS_4_BITS, 7.5f, at);
        put_bytes(context, 128, at + 16);
    }
}

static void fill_q5_k(void *context, size_t bytes, void *out) {
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 176; i++, at += 176) {
        put_k_head(context, RMS_5_BITS, 15.5f, at);
        put_bytes(context, 160, at + 16);
    }
}

static void fill_q6_k(void *context, size_t bytes, void *out) {
    source *r = context;
    float scale = r->deviation / (RMS_SUB_SCALE_8 * RMS_6_BITS);
    uint8_t *at = out;
    for (size_t i = 0; i < bytes / 210; i++, at += 210) {
        put_bytes(r, 208, at); /* values and sub-scales */
        put_half(scale, at + 208);
    }
}

static const struct {
    uint32_t type;
    gguf_fill fill;
} fills[] = {
    {WEIGHT_F32, fill_f32},       {WEIGHT_F16, fill_f16},
    {WEIGHT_BF16, fill_bf16},     {WEIGHT_Q8_0, fill_q8_0},
    {WEIGHT_Q4_0, fill_q4_0},     {WEIGHT_Q4_1, fill_q4_1},
    {WEIGHT_Q5_0, fill_q5_0},     {WEIGHT_Q5_1, fill_q5_1},
    {WEIGHT_Q2_K, fill_q2_k},     {WEIGHT_Q3_K, fill_q3_k},
    {WEIGHT_Q4_K, fill_q4_k},     {WEIGHT_Q5_K, fill_q5_k},
    {WEIGHT_Q6_K, fill_q6_k},     {WEIGHT_IQ4_NL, fill_iq4_nl},
    {WEIGHT_IQ4_XS, fill_iq4_xs}, {WEIGHT_MXFP4, fill_mxfp4},
};

gguf_fill find_fill(uint32_t type) {
    for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
        if (fills[i].type == type) return fills[i].fill;
    }
    return NULL;
}
