/* plain_quant.c - see plain_quant.h. */
#include "tests/support/plain_quant.h"

#include <assert.h>
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
    {WEIGHT_Q4_K, 256, 144, 0, 2, at_q4_k},
    {WEIGHT_Q5_K, 256, 176, 0, 2, at_q5_k},
    {WEIGHT_Q6_K, 256, 210, 208, 0, at_q6_k},
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
        put_half(seed, kind, out + q->scale_at);
        if (q->min_at != 0) put_half(seed, kind, out + q->min_at);
    }
}

void plain_quant_scales(uint32_t type, float scale, uint8_t *block) {
    const quant_type *q = find(type);
    uint16_t half = f32_to_f16(scale);
    assert(q != NULL);
    memcpy(block + q->scale_at, &half, sizeof(half));
    if (q->min_at != 0) memcpy(block + q->min_at, &half, sizeof(half));
}
