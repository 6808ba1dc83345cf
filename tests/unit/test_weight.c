/* test_weight.c - every kernel at every level against plain loops over the
 * stored blocks, bit for bit; 16-bit floats against the CPU's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "engine/cpu.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/plain.h"
#include "tests/support/plain_quant.h"

#define MAX_X 134

#define N_FLOATS 3

static const uint32_t types[] = {
    WEIGHT_F32,    WEIGHT_F16,    WEIGHT_BF16, /* the floats come first */
    WEIGHT_Q8_0,   WEIGHT_Q4_0,   WEIGHT_Q4_1,  WEIGHT_Q5_0, WEIGHT_Q5_1,
    WEIGHT_Q2_K,   WEIGHT_Q3_K,   WEIGHT_Q4_K,  WEIGHT_Q5_K, WEIGHT_Q6_K,
    WEIGHT_IQ4_NL, WEIGHT_IQ4_XS, WEIGHT_MXFP4,
};

/* ---- the table ---- */

static void finds_what_it_computes_with(void **state) {
    static const char *const names[] = {
        "f32",  "f16",  "bf16", "q8_0", "q4_0", "q4_1",   "q5_0",   "q5_1",
        "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const weight_format *f = weight_format_find(types[i]);
        assert_non_null(f);
        assert_string_equal(f->name, names[i]);
        assert_string_equal(weight_type_name(types[i]), names[i]);
        size_t len, bytes;
        assert_true(weight_type_size(types[i], &len, &bytes));
        assert_int_equal(len, f->block_len);
        assert_int_equal(bytes, f->block_bytes);
    }
}

static void names_formats_it_does_not_compute_with(void **state) {
    size_t len, bytes;
    (void)state;
    assert_null(weight_format_find(16));
    assert_string_equal(weight_type_name(16), "iq2_xxs");
    assert_true(weight_type_size(16, &len, &bytes));
    assert_int_equal(len, 256);
    assert_int_equal(bytes, 66);
    assert_null(weight_format_find(35));
    assert_string_equal(weight_type_name(35), "tq2_0");
}

static void has_no_name_for_numbers_nobody_uses(void **state) {
    static const uint32_t unused[] = {4, 5, 31, 33, 36, 40, UINT32_MAX};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(unused); i++) {
        size_t len = 1, bytes = 1;
        assert_null(weight_format_find(unused[i]));
        assert_null(weight_type_name(unused[i]));
        assert_false(weight_type_size(unused[i], &len, &bytes));
        assert_int_equal(len, 0);
        assert_int_equal(bytes, 0);
    }
}

static void float_formats_have_no_a8_kernel(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FLOATS; i++) {
        const weight_format *f = weight_format_find(types[i]);
        assert_null(weight_kernel(f, ACT_A8));
        assert_non_null(weight_kernel(f, ACT_F32));
    }
}

/* What a decoded token costs is the bytes that are read for it. */
static void packs_into_hardly_more_than_is_stored(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const weight_format *f = weight_format_find(types[i]);
        size_t stored = 16 * plain_stored_bytes(types[i], 4096);
        assert_true(f->group_bytes(4096) * 100 <= stored * 103);
    }
}

/* ---- 16-bit floats ---- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static void every_half_has_its_value_and_comes_back(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = f16_to_f32((uint16_t)h);
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        if (exponent == 31) {
            assert_true(mantissa ? isnan(x) : isinf(x));
        } else {
            float want = exponent == 0
                             ? ldexpf((float)mantissa, -24)
                             : ldexpf((float)(1024 + mantissa), exponent - 25);
            assert_true(fabsf(x) == want);
        }
        assert_int_equal(signbit(x) != 0, h >> 15);
        uint32_t quiet = isnan(x) ? 0x200 : 0;
        assert_int_equal(f32_to_f16(x), h | quiet);
    }
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static float hardware_f16_to_f32(uint16_t h) {
    return _cvtsh_ss(h);
}
__attribute__((target("f16c"))) static uint16_t hardware_f32_to_f16(float x) {
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}

static void same_f16(uint32_t bits) {
    float x = float_of(bits);
    uint16_t want = hardware_f32_to_f16(x);
    if (f32_to_f16(x) != want) {
        fail_msg("f32 bits %08x: %04x, not %04x", bits, f32_to_f16(x), want);
    }
}

static void halves_are_converted_as_by_the_cpu(void **state) {
    (void)state;
    if (cpu_best() < CPU_AVX2) skip();

    for (uint32_t h = 0; h < 65536; h++) {
        float x = f16_to_f32((uint16_t)h);
        assert_int_equal(bits_of(x), bits_of(hardware_f16_to_f32((uint16_t)h)));
        /* where rounding turns: the half itself, the middle to the next one,
         * and the floats beside both */
        for (uint32_t near = 0; near < 3; near++) {
            same_f16(bits_of(x) - 1 + near);
            same_f16(bits_of(x) + 0xfff + near);
        }
        float next = f16_to_f32((uint16_t)(h + 1));
        uint32_t middle = bits_of((x + next) / 2);
        same_f16(middle - 1);
        same_f16(middle);
        same_f16(middle + 1);
    }
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += 1021) {
        same_f16((uint32_t)bits);
    }
}
#else
static void halves_are_converted_as_by_the_cpu(void **state) {
    (void)state;
    skip();
}
#endif

static void bfloats_are_the_upper_half_of_a_float(void **state) {
    (void)state;
    for (uint32_t b = 0; b < 65536; b++) {
        assert_int_equal(bits_of(bf16_to_f32((uint16_t)b)), b << 16);
    }
}

/* ---- kernels ---- */

/* One product to be checked at all levels. */
typedef struct {
    uint32_t type;
    act_form form;
    plain_kind kind;
    size_t rows, cols;
    size_t group0, group1, col0, col1;
    size_t n_x;
    /* f16 bits that some blocks have for a scale or a minimum, if not 0 */
    uint16_t broken;
} product;

typedef struct {
    uint8_t *stored;
    void *packed;
    void *x[MAX_X];
    float *want[MAX_X];
    float *got[MAX_X];
    size_t out_rows; /* of want and got */
} data;

static void *must(void *p) {
    assert_non_null(p);
    return p;
}

static void pack(const product *p, const weight_format *f, data *d) {
    size_t stride = plain_stored_bytes(p->type, p->cols);
    size_t n_groups = (p->rows + 15) / 16;
    d->packed = must(aligned_alloc_zero(n_groups * f->group_bytes(p->cols)));
    for (size_t g = 0; g < n_groups; g++) {
        const void *rows[WEIGHT_GROUP] = {NULL};
        for (size_t r = 0; r < 16 && 16 * g + r < p->rows; r++) {
            rows[r] = d->stored + (16 * g + r) * stride;
        }
        f->pack(p->cols, rows,
                (uint8_t *)d->packed + g * f->group_bytes(p->cols));
    }
}

/* Break about every second block of a row. */
static void break_blocks(const product *p, uint64_t *seed, uint8_t *row) {
    size_t len, bytes;
    weight_type_size(p->type, &len, &bytes);
    bool has_min = plain_quant_has_min(p->type);
    for (size_t b = 0; b < p->cols / len; b++) {
        uint32_t random = plain_random(seed) % 4;
        if (random > 1) continue;
        plain_quant_break(p->type, has_min && random == 1, p->broken,
                          row + b * bytes);
    }
}

static void make(const product *p, uint64_t *seed, data *d) {
    size_t stride = plain_stored_bytes(p->type, p->cols);
    d->stored = must(malloc(p->rows * stride));
    for (size_t r = 0; r < p->rows; r++) {
        uint8_t *row = d->stored + r * stride;
        plain_weights(seed, p->kind, p->type, p->cols, row);
        if (p->broken != 0) break_blocks(p, seed, row);
    }
    pack(p, weight_format_find(p->type), d);

    d->out_rows = 16 * (p->group1 - p->group0);
    for (size_t t = 0; t < p->n_x; t++) {
        d->x[t] = must(malloc(act_row_bytes(p->form, p->cols)));
        d->want[t] = must(calloc(d->out_rows, sizeof(float)));
        d->got[t] = must(calloc(d->out_rows, sizeof(float)));
        plain_row(seed, p->kind, p->form, p->cols, d->x[t]);
        for (size_t r = 0; r < d->out_rows; r++) {
            size_t row = 16 * p->group0 + r;
            if (row >= p->rows) break; /* padding: zero */
            d->want[t][r] =
                plain_dot(p->type, p->form, p->cols, p->col0, p->col1,
                          d->stored + row * stride, d->x[t]);
        }
    }
}

static void discard(const product *p, data *d) {
    for (size_t t = 0; t < p->n_x; t++) {
        free(d->x[t]);
        free(d->want[t]);
        free(d->got[t]);
    }
    aligned_release(d->packed);
    free(d->stored);
}

/* Equal bits; in padding rows zeros of either sign.  Which NaN comes of two is
 * nobody's promise. */
static void compare(const product *p, const data *d, size_t t, int level) {
    for (size_t r = 0; r < d->out_rows; r++) {
        float got = d->got[t][r], want = d->want[t][r];
        if (memcmp(&got, &want, sizeof(got)) == 0) continue;
        if (isnan(got) && isnan(want)) continue;
        if (16 * p->group0 + r >= p->rows && got == 0.0f) continue;
        fail_msg("%s, form %d, kind %d, %s: %zu x %zu, columns %zu to %zu, "
                 "row %zu of %zu activations: %a, not %a",
                 weight_type_name(p->type), p->form, p->kind,
                 cpu_name((cpu_level)level), p->rows, p->cols, p->col0, p->col1,
                 16 * p->group0 + r, p->n_x, (double)got, (double)want);
    }
}

static void check(const product *p, uint64_t *seed) {
    const weight_format *f = weight_format_find(p->type);
    data d;
    make(p, seed, &d);
    for (int level = CPU_SCALAR; level <= (int)cpu_best(); level++) {
        assert_int_equal(cpu_force((cpu_level)level), 0);
        for (size_t t = 0; t < p->n_x; t++) {
            memset(d.got[t], 0x7f, d.out_rows * sizeof(float));
        }
        weight_mul kernel = weight_kernel(f, p->form);
        assert_non_null(kernel);
        kernel(d.packed, p->cols, p->group0, p->group1, p->col0, p->col1,
               (const void *const *)d.x, p->n_x, d.got);
        for (size_t t = 0; t < p->n_x; t++) {
            compare(p, &d, t, level);
        }
    }
    cpu_force(cpu_best());
    discard(p, &d);
}

/* Call check() for each format, form and kind of data. */
static void check_all(product p, uint64_t *seed) {
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const weight_format *f = weight_format_find(types[i]);
        if (p.cols % f->block_len != 0 || p.col0 % f->block_len != 0 ||
            p.col1 % f->block_len != 0) {
            continue;
        }
        for (int form = 0; form < ACT_FORMS; form++) {
            if (weight_kernel(f, (act_form)form) == NULL) continue;
            for (int kind = 0; kind < PLAIN_KINDS; kind++) {
                p.type = types[i];
                p.form = (act_form)form;
                p.kind = (plain_kind)kind;
                check(&p, seed);
            }
        }
    }
}

static product whole(size_t rows, size_t cols, size_t n_x) {
    return (product){.rows = rows,
                     .cols = cols,
                     .group1 = (rows + 15) / 16,
                     .col1 = cols,
                     .n_x = n_x};
}

static void multiplies_any_number_of_activation_rows(void **state) {
    uint64_t seed = 10;
    (void)state;
    for (size_t n_x = 1; n_x <= 17; n_x++) {
        check_all(whole(16, 96, n_x), &seed);
        check_all(whole(16, 256, n_x), &seed);
    }
    check_all(whole(16, 64, MAX_X), &seed);
    check_all(whole(16, 512, MAX_X), &seed);
}

static void multiplies_any_number_of_weight_rows(void **state) {
    static const size_t rows[] = {1, 15, 16, 17, 33, 64, 65, 120, 144};
    uint64_t seed = 11;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_all(whole(rows[i], 64, 1), &seed);
        check_all(whole(rows[i], 32, 3), &seed);
        check_all(whole(rows[i], 64, 9), &seed);
        check_all(whole(rows[i], 256, 7), &seed);
    }
}

static void multiplies_any_width(void **state) {
    static const size_t cols[] = {1,    2,    3,    5,   15,  16,  17,
                                  60,   100,  255,  257, 600, 992, 1024,
                                  1056, 2080, 2304, 32,  256, 512, 768};
    uint64_t seed = 12;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cols); i++) {
        check_all(whole(20, cols[i], 1), &seed);
        check_all(whole(36, cols[i], 6), &seed);
    }
    check_all(whole(3, 66048, 1), &seed); /* more panels than are kept */
}

static void multiplies_parts_of_the_columns_and_groups(void **state) {
    uint64_t seed = 13;
    (void)state;
    for (int round = 0; round < 60; round++) {
        static const size_t steps[] = {7, 32, 256}; /* 7: float formats */
        size_t step = steps[round % 3];
        size_t n = 1 + plain_random(&seed) % (step == 256 ? 9 : 45);
        product p = whole(1 + plain_random(&seed) % 130, n * step,
                          1 + plain_random(&seed) % 9);
        p.col0 = plain_random(&seed) % n * step;
        p.col1 =
            p.col0 + (1 + plain_random(&seed) % (n - p.col0 / step)) * step;
        p.group0 = plain_random(&seed) % p.group1;
        p.group1 = p.group0 + 1 + plain_random(&seed) % (p.group1 - p.group0);
        check_all(p, &seed);
    }
}

static void goes_on_from_scales_that_are_no_numbers(void **state) {
    static const uint16_t bits[] = {0x7c00, 0xfc00, 0x7e01, 0xffff};
    uint64_t seed = 15;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bits); i++) {
        product p = whole(33, 768, 5);
        p.broken = bits[i];
        for (size_t k = N_FLOATS; k < ARRAY_LEN(types); k++) {
            p.type = types[k];
            p.form = ACT_A8;
            check(&p, &seed);
            p.form = ACT_F32;
            check(&p, &seed);
        }
    }
}

/* What all of this is worth: blocks whose nibbles, or halves, are swapped give
 * other products. */
static void notices_values_in_the_wrong_order(void **state) {
    enum { N = 256 };
    uint64_t seed = 16;
    (void)state;
    for (size_t i = N_FLOATS; i < ARRAY_LEN(types); i++) {
        uint8_t stored[N * 2], x[2 * N * sizeof(float)];
        size_t bytes = plain_stored_bytes(types[i], N);
        plain_weights(&seed, PLAIN_USUAL, types[i], N, stored);
        plain_row(&seed, PLAIN_USUAL, ACT_A8, N, x);
        float want = plain_dot(types[i], ACT_A8, N, 0, N, stored, x);

        uint8_t *at = stored + bytes / 2; /* a value's byte in all of them */
        *at = (uint8_t)(*at == 0x3c ? 0x5a : 0x3c);
        float one = plain_dot(types[i], ACT_A8, N, 0, N, stored, x);
        *at = (uint8_t)(*at >> 4 | *at << 4);
        float other = plain_dot(types[i], ACT_A8, N, 0, N, stored, x);
        assert_true(want != one && one != other);
    }
}

/* A block of all the same bytes but for the scales, which are 1, makes the
 * largest integer sums there are.  A row's sum is then the activation times: */
static const struct {
    uint32_t type;
    uint8_t byte;
    float want;
} largest[] = {
    {WEIGHT_Q8_0, 0x80, -128.0f * 32},
    {WEIGHT_Q4_0, 0x00, -8.0f * 32},
    {WEIGHT_Q4_0, 0xff, 7.0f * 32},
    {WEIGHT_Q4_1, 0xff, (15.0f + 1.0f) * 32},
    {WEIGHT_Q5_0, 0x00, -16.0f * 32},
    {WEIGHT_Q5_0, 0xff, 15.0f * 32},
    {WEIGHT_Q5_1, 0xff, (31.0f + 1.0f) * 32},
    {WEIGHT_IQ4_NL, 0x00, -127.0f * 32},
    {WEIGHT_IQ4_NL, 0xff, 113.0f * 32},
    {WEIGHT_MXFP4, 0x77, 12.0f * 32},
    {WEIGHT_MXFP4, 0xff, -12.0f * 32},
    {WEIGHT_Q2_K, 0xff, (15.0f * 3 - 15.0f) * 256},
    {WEIGHT_Q3_K, 0x00, 32.0f * 4 * 256},
    {WEIGHT_Q3_K, 0xff, 31.0f * 3 * 256},
    {WEIGHT_Q4_K, 0xff, (63.0f * 15 - 63.0f) * 256},
    {WEIGHT_Q5_K, 0xff, (63.0f * 31 - 63.0f) * 256},
    {WEIGHT_IQ4_XS, 0x00, 32.0f * 127 * 256},
};

static void check_largest(uint32_t type, const uint8_t *block, float want) {
    const weight_format *f = weight_format_find(type);
    size_t n = f->block_len;
    const void *rows[WEIGHT_GROUP];
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        rows[r] = block;
    }
    void *packed = must(aligned_alloc_zero(f->group_bytes(n)));
    f->pack(n, rows, packed);

    for (int x = -127; x <= 127; x += 254) {
        float row[8 + 64], y[16], *out = y;
        const void *in = row;
        for (size_t b = 0; b < n / 32; b++) {
            row[b] = 1.0f;
        }
        memset(row + n / 32, x, n);
        weight_kernel(f, ACT_A8)(packed, n, 0, 1, 0, n, &in, 1, &out);
        for (size_t r = 0; r < 16; r++) {
            assert_true(y[r] == want * (float)x);
        }
    }
    aligned_release(packed);
}

static void exact_for_the_largest_integers(void **state) {
    uint8_t block[256];
    (void)state;
    for (int level = CPU_SCALAR; level <= (int)cpu_best(); level++) {
        assert_int_equal(cpu_force((cpu_level)level), 0);
        for (size_t i = 0; i < ARRAY_LEN(largest); i++) {
            memset(block, largest[i].byte, sizeof(block));
            plain_quant_scales(largest[i].type, 1.0f, block);
            check_largest(largest[i].type, block, largest[i].want);
        }
        /* in Q6_K, -32 by -128, which no byte alone can say */
        memset(block, 0, sizeof(block));
        memset(block + 192, 0x80, 16);
        plain_quant_scales(WEIGHT_Q6_K, 1.0f, block);
        check_largest(WEIGHT_Q6_K, block, 32.0f * 128 * 256);
    }
    cpu_force(cpu_best());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_it_computes_with),
        cmocka_unit_test(names_formats_it_does_not_compute_with),
        cmocka_unit_test(has_no_name_for_numbers_nobody_uses),
        cmocka_unit_test(float_formats_have_no_a8_kernel),
        cmocka_unit_test(packs_into_hardly_more_than_is_stored),
        cmocka_unit_test(every_half_has_its_value_and_comes_back),
        cmocka_unit_test(halves_are_converted_as_by_the_cpu),
        cmocka_unit_test(bfloats_are_the_upper_half_of_a_float),
        cmocka_unit_test(multiplies_any_number_of_activation_rows),
        cmocka_unit_test(multiplies_any_number_of_weight_rows),
        cmocka_unit_test(multiplies_any_width),
        cmocka_unit_test(multiplies_parts_of_the_columns_and_groups),
        cmocka_unit_test(goes_on_from_scales_that_are_no_numbers),
        cmocka_unit_test(notices_values_in_the_wrong_order),
        cmocka_unit_test(exact_for_the_largest_integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
