/* test_weight_blocks.c - what stored blocks mean, value by value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/plain.h"

static const uint32_t types[] = {
    WEIGHT_F32,  WEIGHT_F16,    WEIGHT_BF16,   WEIGHT_Q8_0,
    WEIGHT_Q4_0, WEIGHT_Q4_1,   WEIGHT_Q5_0,   WEIGHT_Q5_1,
    WEIGHT_Q2_K, WEIGHT_Q3_K,   WEIGHT_Q4_K,   WEIGHT_Q5_K,
    WEIGHT_Q6_K, WEIGHT_IQ4_NL, WEIGHT_IQ4_XS, WEIGHT_MXFP4,
};

static void dequantizes_as_the_f32_kernels_do(void **state) {
    enum { N = 768 };
    static uint8_t stored[N * 4];
    static float values[N], ones[N];
    uint64_t seed = 14;
    (void)state;
    for (size_t c = 0; c < N; c++) {
        ones[c] = 1.0f;
    }
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        for (int kind = 0; kind < PLAIN_KINDS; kind++) {
            plain_weights(&seed, (plain_kind)kind, types[i], N, stored);
            weight_format_find(types[i])->dequantize(N, stored, values);
            for (size_t c = 0; c < N; c++) {
                float want =
                    plain_dot(types[i], ACT_F32, N, c, c + 1, stored, ones);
                assert_true(values[c] == want);
            }
        }
    }
}

/* Blocks by hand: where each value is, and what it is made of. */

static void reads_a_q4_0_block(void **state) {
    uint8_t block[18] = {0x00, 0x40}; /* 2.0 */
    float values[32];
    (void)state;
    memset(block + 2, 0x88, 16);
    block[2] = 0xf0;
    block[17] = 0x19;
    weight_format_find(WEIGHT_Q4_0)->dequantize(32, block, values);
    assert_true(values[0] == 2.0f * (0 - 8));
    assert_true(values[16] == 2.0f * (15 - 8));
    assert_true(values[1] == 0.0f);
    assert_true(values[15] == 2.0f * (9 - 8));
    assert_true(values[31] == 2.0f * (1 - 8));
}

static void reads_a_q4_1_block(void **state) {
    uint8_t block[20] = {0x00, 0x40, 0x00, 0xb8}; /* 2.0, -0.5 */
    float values[32];
    (void)state;
    block[4] = 0xf3;
    block[19] = 0x19;
    weight_format_find(WEIGHT_Q4_1)->dequantize(32, block, values);
    assert_true(values[0] == 2.0f * 3 - 0.5f);
    assert_true(values[16] == 2.0f * 15 - 0.5f);
    assert_true(values[1] == -0.5f);
    assert_true(values[15] == 2.0f * 9 - 0.5f);
    assert_true(values[31] == 2.0f * 1 - 0.5f);
}

static void reads_a_q5_0_block(void **state) {
    uint8_t block[22] = {0x00, 0x40}; /* 2.0 */
    float values[32];
    (void)state;
    block[2] = 0x01; /* value 0 has its fifth bit */
    block[4] = 0x01; /* value 16, too */
    block[5] = 0x80; /* value 31, too */
    block[6] = 0xf3;
    block[21] = 0x19;
    weight_format_find(WEIGHT_Q5_0)->dequantize(32, block, values);
    assert_true(values[0] == 2.0f * (16 + 3 - 16));
    assert_true(values[16] == 2.0f * (16 + 15 - 16));
    assert_true(values[1] == 2.0f * -16);
    assert_true(values[15] == 2.0f * (9 - 16));
    assert_true(values[31] == 2.0f * (16 + 1 - 16));
}

static void reads_a_q5_1_block(void **state) {
    uint8_t block[24] = {0x00, 0x40, 0x00, 0x38}; /* 2.0, 0.5 */
    float values[32];
    (void)state;
    block[5] = 0x02; /* value 9 has its fifth bit */
    block[7] = 0x40; /* value 30, too */
    block[8 + 9] = 0x74;
    block[8 + 14] = 0x50;
    weight_format_find(WEIGHT_Q5_1)->dequantize(32, block, values);
    assert_true(values[0] == 0.5f);
    assert_true(values[9] == 2.0f * 20 + 0.5f);
    assert_true(values[25] == 2.0f * 7 + 0.5f);
    assert_true(values[30] == 2.0f * 21 + 0.5f);
}

static void reads_an_iq4_nl_block(void **state) {
    uint8_t block[18] = {0x00, 0x40}; /* 2.0 */
    float values[32];
    (void)state;
    block[2] = 0xf8;
    block[17] = 0x71;
    weight_format_find(WEIGHT_IQ4_NL)->dequantize(32, block, values);
    assert_true(values[0] == 2.0f * 1);
    assert_true(values[16] == 2.0f * 113);
    assert_true(values[1] == 2.0f * -127);
    assert_true(values[15] == 2.0f * -104);
    assert_true(values[31] == 2.0f * -10);
}

static void reads_an_mxfp4_block(void **state) {
    static const float numbers[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    uint8_t block[17] = {129}; /* 2^2 */
    float values[32];
    (void)state;
    for (uint8_t i = 0; i < 8; i++) {
        block[1 + i] = (uint8_t)(i | (8 + i) << 4);
    }
    weight_format_find(WEIGHT_MXFP4)->dequantize(32, block, values);
    for (size_t i = 0; i < 8; i++) {
        assert_true(values[i] == 4.0f * numbers[i]);
        assert_true(values[16 + i] == -4.0f * numbers[i]);
    }
}

static void scales_mxfp4_by_every_power_of_two(void **state) {
    uint8_t block[17] = {0, 0x21}; /* twice the values: 1 and 2 */
    float values[32];
    (void)state;
    for (int e = 0; e <= 255; e++) {
        block[0] = (uint8_t)e;
        weight_format_find(WEIGHT_MXFP4)->dequantize(32, block, values);
        assert_true(values[0] == ldexpf(1.0f, e - 128));
        assert_true(values[16] == ldexpf(2.0f, e - 128));
        assert_true(isinf(values[16]) == (e == 255));
    }
}

static void reads_a_q2_k_block(void **state) {
    uint8_t block[84] = {0};
    uint8_t *subs = block, *bits = block + 16;
    float values[256];
    (void)state;
    block[81] = 0x40; /* 2.0 */
    block[83] = 0x38; /* 0.5 */
    subs[0] = 0x53;   /* scale 3, minimum 5 */
    subs[3] = 0x0f;
    subs[8] = 0xf0;
    subs[15] = 0x17;
    bits[0] = 0x03;
    bits[31] = 0x08;      /* value 63 is 2 */
    bits[32 + 31] = 0xc0; /* value 255 is 3 */
    weight_format_find(WEIGHT_Q2_K)->dequantize(256, block, values);
    assert_true(values[0] == 2.0f * 3 * 3 - 0.5f * 5);
    assert_true(values[15] == -0.5f * 5);
    assert_true(values[16] == 0.0f);
    assert_true(values[63] == 2.0f * 15 * 2);
    assert_true(values[128] == -0.5f * 15);
    assert_true(values[255] == 2.0f * 7 * 3 - 0.5f * 1);
}

static void reads_a_q3_k_block(void **state) {
    uint8_t block[110] = {0};
    uint8_t *high = block, *low = block + 32, *subs = block + 96;
    float values[256];
    (void)state;
    block[109] = 0x40; /* 2.0 */
    subs[0] = 0x21;    /* sub-scale 0 is 1 and */
    subs[8] = 0x33;    /* 3 * 16; 8 is 2 and 3 * 16 */
    subs[7] = 0xf5;    /* 7 is 5 and 1 * 16; 15 is 15 and */
    subs[11] = 0x84;   /* 2 * 16 */
    high[0] = 0x11;    /* third bits of values 0 and 128 */
    high[31] = 0x80;   /* and of value 255 */
    low[0] = 0x02;
    low[31] = 0xc0; /* value 127 is 3 */
    low[32] = 0x01;
    low[63] = 0x40; /* value 255 is 1 */
    weight_format_find(WEIGHT_Q3_K)->dequantize(256, block, values);
    assert_true(values[0] == 2.0f * (49 - 32) * 2);
    assert_true(values[1] == 2.0f * (49 - 32) * -4);
    assert_true(values[16] == 2.0f * -32 * -4);
    assert_true(values[127] == 2.0f * (21 - 32) * (3 - 4));
    assert_true(values[128] == 2.0f * (50 - 32) * 1);
    assert_true(values[255] == 2.0f * (47 - 32) * 1);
}

static void reads_an_iq4_xs_block(void **state) {
    uint8_t block[136] = {0x00, 0x40}; /* 2.0 */
    uint8_t *low = block + 4, *nibbles = block + 8;
    float values[256];
    (void)state;
    block[2] = 0x03; /* of sub-scale 0, 3 * 16 */
    block[3] = 0x80; /* of sub-scale 7, 2 * 16 */
    low[0] = 0x25;   /* and 5; of sub-scale 1, 2 */
    low[3] = 0xf0;   /* and 15 */
    nibbles[0] = 0x9a;
    nibbles[16] = 0xf0;
    nibbles[127] = 0x8f;
    weight_format_find(WEIGHT_IQ4_XS)->dequantize(256, block, values);
    assert_true(values[0] == 2.0f * (53 - 32) * 25);
    assert_true(values[16] == 2.0f * (53 - 32) * 13);
    assert_true(values[32] == 2.0f * (2 - 32) * -127);
    assert_true(values[48] == 2.0f * (2 - 32) * 113);
    assert_true(values[239] == 2.0f * (47 - 32) * 113);
    assert_true(values[255] == 2.0f * (47 - 32) * 1);
}

static void reads_a_q4_k_block(void **state) {
    uint8_t block[144] = {0x00, 0x40, 0x00, 0x38}; /* 2.0, 0.5 */
    uint8_t *factors = block + 4, *nibbles = block + 16;
    float values[256];
    (void)state;
    factors[0] = 0x40 | 1; /* scale 0 is 1; scale 4 is 1 * 16 and */
    factors[8] = 0x53;     /* 3; minimum 4 is 5 and */
    factors[4] = 0x80 | 2; /* 2 * 16; minimum 0 is 2 */
    factors[3] = 0xff;     /* scale 3 is 63; scale 7 is 3 * 16 and */
    factors[11] = 0xf0;    /* 0; minimum 7 is 15 and */
    factors[7] = 0x3f;     /* 0; minimum 3 is 63 */
    nibbles[0] = 0x09;
    nibbles[63] = 0xc0;
    nibbles[64 + 3] = 0x07;
    nibbles[127] = 0xf0;
    weight_format_find(WEIGHT_Q4_K)->dequantize(256, block, values);
    assert_true(values[0] == 2.0f * 1 * 9 - 0.5f * 2);
    assert_true(values[31] == -0.5f * 2);
    assert_true(values[32] == 0.0f);
    assert_true(values[127] == 2.0f * 63 * 12 - 0.5f * 63);
    assert_true(values[128 + 3] == 2.0f * 19 * 7 - 0.5f * 37);
    assert_true(values[255] == 2.0f * 48 * 15 - 0.5f * 15);
}

static void reads_a_q5_k_block(void **state) {
    uint8_t block[176] = {0x00, 0x40, 0x00, 0x38}; /* 2.0, 0.5 */
    uint8_t *factors = block + 4, *fifth = block + 16, *nibbles = block + 48;
    float values[256];
    (void)state;
    factors[0] = 1;        /* scale 0 */
    factors[4] = 2;        /* minimum 0 */
    factors[3] = 0xc0 | 7; /* scale 3 is 7; scale 7 is 3 * 16 and */
    factors[11] = 0x05;    /* 5 */
    nibbles[0] = 0x09;
    fifth[0] = 0x01;
    nibbles[32 + 31] = 0xc0;
    fifth[31] = 0x88;
    nibbles[96 + 31] = 0xf0;
    nibbles[96 + 30] = 0x10;
    weight_format_find(WEIGHT_Q5_K)->dequantize(256, block, values);
    assert_true(values[0] == 2.0f * 1 * 25 - 0.5f * 2);
    assert_true(values[1] == -0.5f * 2);
    assert_true(values[127] == 2.0f * 7 * 28);
    assert_true(values[254] == 2.0f * 53 * 1);
    assert_true(values[255] == 2.0f * 53 * 31);
}

static void reads_a_q6_k_block(void **state) {
    uint8_t block[210] = {0};
    uint8_t *low = block, *high = block + 128, *factors = block + 192;
    float values[256];
    (void)state;
    block[209] = 0x40; /* 2.0 */
    factors[0] = 3;
    factors[1] = 0xff; /* -1 */
    factors[7] = 0x80; /* -128 */
    factors[10] = 5;
    factors[15] = 0x7f;
    low[0] = 0x0f; /* value 0 is 15 and 3 * 16, less 32 */
    high[0] = 0x03;
    low[32 + 31] = 0x70; /* value 127 is 7 and 2 * 16 */
    high[31] = 0x80;
    low[64 + 32] = 0x0a; /* value 160 is 10 and 1 * 16 */
    high[32] = 0x04;
    low[64 + 63] = 0xf0; /* value 255 is 15 and 2 * 16 */
    high[32 + 31] = 0x80;
    weight_format_find(WEIGHT_Q6_K)->dequantize(256, block, values);
    assert_true(values[0] == 2.0f * 3 * (63 - 32));
    assert_true(values[1] == 2.0f * 3 * -32);
    assert_true(values[16] == 2.0f * -1 * -32);
    assert_true(values[127] == 2.0f * -128 * (39 - 32));
    assert_true(values[160] == 2.0f * 5 * (26 - 32));
    assert_true(values[255] == 2.0f * 127 * (47 - 32));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dequantizes_as_the_f32_kernels_do),
        cmocka_unit_test(reads_a_q4_0_block),
        cmocka_unit_test(reads_a_q4_1_block),
        cmocka_unit_test(reads_a_q5_0_block),
        cmocka_unit_test(reads_a_q5_1_block),
        cmocka_unit_test(reads_an_iq4_nl_block),
        cmocka_unit_test(reads_an_mxfp4_block),
        cmocka_unit_test(scales_mxfp4_by_every_power_of_two),
        cmocka_unit_test(reads_a_q2_k_block),
        cmocka_unit_test(reads_a_q3_k_block),
        cmocka_unit_test(reads_an_iq4_xs_block),
        cmocka_unit_test(reads_a_q4_k_block),
        cmocka_unit_test(reads_a_q5_k_block),
        cmocka_unit_test(reads_a_q6_k_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
