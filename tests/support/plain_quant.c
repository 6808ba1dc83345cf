/* plain_quant.c - see plain_quant.h. */
#include "tests/support/plain_quant.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include "engine/util.h"
#include "engine/weight.h"

static float half_at(const uint8_t *at) {
    return f16_to_f32((uint16_t)(at[0] | at[1] << 8));
}

/* ---- one function a format: value i of a block ---- */

/* f16 scale; 32 int8. */
static plain_quant at_q8_0(const uint8_t *block, size_t i) {
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = 1,
        .value = (int8_t)block[2 + i],
    };
}

/* f16 scale; 16 bytes, the low nibbles being the first 16 values. */
static plain_quant at_q4_0(const uint8_t *block, size_t i) {
    int byte = block[2 + i % 16];
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = 1,
        .value = (i < 16 ? byte % 16 : byte / 16) - 8,
    };
}

/* f16 scale, f16 offset; nibbles as in Q4_0. */
static plain_quant at_q4_1(const uint8_t *block, size_t i) {
    int byte = block[4 + i % 16];
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = 1,
        .value = i < 16 ? byte % 16 : byte / 16,
        .min = -half_at(block + 2),
        .sub_min = 1,
    };
}

/* The number of 32 bits at `at`, its bit i. */
static int bit_of_32(const uint8_t *at, size_t i) {
    uint32_t bits =
        (uint32_t)at[0] + at[1] * 256u + at[2] * 65536u + at[3] * 16777216u;
    return bits >> i & 1;
}

/* f16 scale; the fifth bits as one number of 32 bits; nibbles as in Q4_0. */
static plain_quant at_q5_0(const uint8_t *block, size_t i) {
    int byte = block[6 + i % 16];
    int low = i < 16 ? byte % 16 : byte / 16;
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = 1,
        .value = low + 16 * bit_of_32(block + 2, i) - 16,
    };
}

/* f16 scale, f16 offset; then as Q5_0. */
static plain_quant at_q5_1(const uint8_t *block, size_t i) {
    int byte = block[8 + i % 16];
    int low = i < 16 ? byte % 16 : byte / 16;
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = 1,
        .value = low + 16 * bit_of_32(block + 4, i),
        .min = -half_at(block + 2),
        .sub_min = 1,
    };
}

/* f16 scale; nibbles as in Q4_0, places in a table. */
static const int iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

static plain_quant at_iq4_nl(const uint8_t *block, size_t i) {
    int byte = block[2 + i % 16];
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = 1,
        .value = iq4_table[i < 16 ? byte % 16 : byte / 16],
    };
}

/* f16 scale; 16 bits, two more of each sub-scale; 4 bytes with 4 bits of each,
 * the low ones of the even; 8 times 16 bytes of nibbles as in IQ4_NL. */
static plain_quant at_iq4_xs(const uint8_t *block, size_t i) {
    size_t sub = i / 32;
    int byte = block[8 + sub * 16 + i % 16];
    int low = sub % 2 == 0 ? block[4 + sub / 2] % 16 : block[4 + sub / 2] / 16;
    int high = (block[2] + 256 * block[3]) >> (2 * sub) & 3;
    return (plain_quant){
        .scale = half_at(block),
        .sub_scale = low + 16 * high - 32,
        .value = iq4_table[i % 32 < 16 ? byte % 16 : byte / 16],
    };
}

/* An exponent e; nibbles as in Q4_0: sign, two bits of exponent, one of
 * mantissa.  2^(e - 127) times the number is 2^(e - 128) times its double. */
static plain_quant at_mxfp4(const uint8_t *block, size_t i) {
    int byte = block[1 + i % 16];
    int bits = i < 16 ? byte % 16 : byte / 16;
    int exponent = bits / 2 % 4, mantissa = bits % 2;
    float number = exponent == 0
                       ? 0.5f * (float)mantissa
                       : ldexpf(1.0f + 0.5f * (float)mantissa, exponent - 1);
    return (plain_quant){
        .scale = ldexpf(1.0f, block[0] - 128),
        .sub_scale = 1,
        .value = (int)(2.0f * (bits >= 8 ? -number : number)),
    };
}

/* 16 bytes, one a sub-block: scale and, above it, minimum; 64 bytes as Q6_K's
 * pairs, a half's first 32 bytes first; f16 scale, f16 minimum. */
static plain_quant at_q2_k(const uint8_t *block, size_t i) {
    static const int fourth_power[] = {1, 4, 16, 64};
    int byte = block[16 + i / 128 * 32 + i % 32];
    return (plain_quant){
        .scale = half_at(block + 80),
        .sub_scale = block[i / 16] % 16,
        .value = byte / fourth_power[i % 128 / 32] % 4,
        .min = half_at(block + 82),
        .sub_min = block[i / 16] / 16,
    };
}

/* 32 bytes with the third bits, one of each run of 32 values: where it is not
 * set, the value is 4 less; 64 bytes as in Q2_K; 12 bytes of sub-scales, low
 * halves first; f16 scale. */
static plain_quant at_q3_k(const uint8_t *block, size_t i) {
    static const int fourth_power[] = {1, 4, 16, 64};
    static const uint8_t bits[] = {1, 2, 4, 8, 16, 32, 64, 128};
    int byte = block[32 + i / 128 * 32 + i % 32];
    int low = byte / fourth_power[i % 128 / 32] % 4;
    const uint8_t *subs = block + 96;
    size_t sub = i / 16;
    int sub_low = sub < 8 ? subs[sub] % 16 : subs[sub - 8] / 16;
    int sub_high = subs[8 + sub % 4] / fourth_power[sub / 4] % 4;
    return (plain_quant){
        .scale = half_at(block + 108),
        .sub_scale = sub_low + 16 * sub_high - 32,
        .value = low - ((block[i % 32] & bits[i / 32]) != 0 ? 0 : 4),
    };
}

/* f16 scale, f16 minimum; 12 bytes of 6-bit factors, for each 32 values a scale
 * and a minimum.  Factors 0 to 7 are the low bits of bytes 0 to 7; of factors 8
 * to 15 the high bits are theirs, the low ones nibbles of bytes 8 to 11. */
static void read_k_head(const uint8_t *block, size_t sub, plain_quant *out) {
    const uint8_t *factors = block + 4;
    int scale = factors[sub % 4], min = factors[4 + sub % 4];
    int low = factors[8 + sub % 4];

    out->scale = half_at(block);
    out->min = half_at(block + 2);
    out->sub_scale = sub < 4 ? scale % 64 : scale / 64 * 16 + low % 16;
    out->sub_min = sub < 4 ? min % 64 : min / 64 * 16 + low / 16;
}

/* The head; four times 32 bytes, the low nibbles being the first 32 of the 64
 * values. */
static plain_quant at_q4_k(const uint8_t *block, size_t i) {
    int byte = block[16 + i / 64 * 32 + i % 32];
    plain_quant out = {.value = i % 64 < 32 ? byte % 16 : byte / 16};
    read_k_head(block, i / 32, &out);
    return out;
}

/* The head; 32 bytes with the fifth bits, one a run of 32 values; then as
 * Q4_K. */
static plain_quant at_q5_k(const uint8_t *block, size_t i) {
    static const uint8_t bits[] = {1, 2, 4, 8, 16, 32, 64, 128};
    int byte = block[48 + i / 64 * 32 + i % 32];
    int fifth = (block[16 + i % 32] & bits[i / 32]) != 0;
    plain_quant out = {
        .value = (i % 64 < 32 ? byte % 16 : byte / 16) + 16 * fifth,
    };
    read_k_head(block, i / 32, &out);
    return out;
}

/* Two halves of 128 values: 64 bytes of low nibbles (a half's first 64 values
 * have the bytes' low ones), then 32 bytes with two more bits each for values
 * j, 32 + j, 64 + j, 96 + j; 16 int8 sub-scales; f16 scale. */
static plain_quant at_q6_k(const uint8_t *block, size_t i) {
    static const int fourth_power[] = {1, 4, 16, 64};
    size_t half = i / 128, in_half = i % 128;
    int nibbles = block[64 * half + in_half % 64];
    int low = in_half < 64 ? nibbles % 16 : nibbles / 16;
    int pairs = block[128 + 32 * half + i % 32];
    int high = pairs / fourth_power[in_half / 32] % 4;
    return (plain_quant){
        .scale = half_at(block + 208),
        .sub_scale = (int8_t)block[192 + i / 16],
        .value = low + 16 * high - 32,
    };
}

/* ---- the table ---- */

typedef struct {
    uint32_t type;
    size_t len, bytes; /* of a block */
    size_t scale_at;   /* the f16 scale's offset */
    size_t min_at;     /* the f16 minimum's, 0 for none */
    plain_quant (*at)(const uint8_t *block, size_t i);
} quant_type;

static const quant_type quant_types[] = {
    {WEIGHT_Q8_0, 32, 34, 0, 0, at_q8_0},
    {WEIGHT_Q4_0, 32, 18, 0, 0, at_q4_0},
    {WEIGHT_Q4_1, 32, 20, 0, 2, at_q4_1},
    {WEIGHT_Q5_0, 32, 22, 0, 0, at_q5_0},
    {WEIGHT_Q5_1, 32, 24, 0, 2, at_q5_1},
    {WEIGHT_IQ4_NL, 32, 18, 0, 0, at_iq4_nl},
    {WEIGHT_MXFP4, 32, 17, 0, 0, at_mxfp4}, /* the scale is a byte */
    {WEIGHT_Q2_K, 256, 84, 80, 82, at_q2_k},
    {WEIGHT_Q3_K, 256, 110, 108, 0, at_q3_k},
    {WEIGHT_Q4_K, 256, 144, 0, 2, at_q4_k},
    {WEIGHT_Q5_K, 256, 176, 0, 2, at_q5_k},
    {WEIGHT_Q6_K, 256, 210, 208, 0, at_q6_k},
    {WEIGHT_IQ4_XS, 256, 136, 0, 0, at_iq4_xs},
};

static const quant_type *find(uint32_t type) {
    for (size_t i = 0; i < ARRAY_LEN(quant_types); i++) {
        if (quant_types[i].type == type) return &quant_types[i];
    }
    return NULL;
}

bool plain_quant_known(uint32_t type) {
    return find(type) != NULL;
}

bool plain_quant_has_min(uint32_t type) {
    const quant_type *q = find(type);
    return q != NULL && q->min_at != 0;
}

plain_quant plain_quant_at(uint32_t type, const uint8_t *row, size_t i) {
    const quant_type *q = find(type);
    assert(q != NULL);
    return q->at(row + i / q->len * q->bytes, i % q->len);
}

/* ---- random blocks ---- */

static void put_half(uint64_t *seed, plain_kind kind, uint8_t *at) {
    static const uint16_t extreme[] = {0x7bff, 0xfbff, 0x3c00, 0x0001};
    static const uint16_t tiny[] = {0x0001, 0x83ff, 0x0000, 0x0400};
    uint16_t half = f32_to_f16(plain_random_float(seed) * 0.01f);
    if (kind == PLAIN_EXTREME) half = extreme[plain_random(seed) % 4];
    if (kind == PLAIN_TINY) half = tiny[plain_random(seed) % 4];
    memcpy(at, &half, sizeof(half));
}

static void put_exponent(uint64_t *seed, plain_kind kind, uint8_t *at) {
    static const uint8_t extreme[] = {255, 254, 128, 1};
    static const uint8_t tiny[] = {0, 1, 2, 104};
    uint32_t random = plain_random(seed);
    *at = (uint8_t)(118 + random % 8);
    if (kind == PLAIN_EXTREME) *at = extreme[random % 4];
    if (kind == PLAIN_TINY) *at = tiny[random % 4];
}

static uint8_t random_byte(uint64_t *seed, plain_kind kind) {
    static const uint8_t extreme[] = {0x00, 0xff, 0x80, 0x7f, 0xf0, 0x0f};
    uint32_t random = plain_random(seed);
    return kind == PLAIN_EXTREME ? extreme[random % 6] : (uint8_t)random;
}

void plain_quant_random(uint64_t *seed, plain_kind kind, uint32_t type,
                        size_t n, uint8_t *out) {
    const quant_type *q = find(type);
    assert(q != NULL && n % q->len == 0);

    for (size_t b = 0; b < n / q->len; b++, out += q->bytes) {
        for (size_t i = 0; i < q->bytes; i++) {
            out[i] = random_byte(seed, kind);
        }
        if (type == WEIGHT_MXFP4) {
            put_exponent(seed, kind, out);
        } else {
            put_half(seed, kind, out + q->scale_at);
        }
        if (q->min_at != 0) put_half(seed, kind, out + q->min_at);
    }
}

void plain_quant_scales(uint32_t type, float scale, uint8_t *block) {
    const quant_type *q = find(type);
    uint16_t half = f32_to_f16(scale);
    assert(q != NULL);
    if (type == WEIGHT_MXFP4) {
        block[q->scale_at] = (uint8_t)(128 + ilogbf(scale));
        return;
    }
    memcpy(block + q->scale_at, &half, sizeof(half));
    if (q->min_at != 0) memcpy(block + q->min_at, &half, sizeof(half));
}

void plain_quant_break(uint32_t type, bool minimum, uint16_t bits,
                       uint8_t *block) {
    const quant_type *q = find(type);
    assert(q != NULL && (!minimum || q->min_at != 0));
    size_t at = minimum ? q->min_at : q->scale_at;
    if (type == WEIGHT_MXFP4) {
        block[at] = (uint8_t)(bits >> 8);
    } else {
        memcpy(block + at, &bits, sizeof(bits));
    }
}
