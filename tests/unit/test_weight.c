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

#define MAX_X 70

static const uint32_t types[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16,
                                 WEIGHT_Q8_0};

/* ---- the table ---- */

static void finds_what_it_computes_with(void **state) {
    static const char *const names[] = {"f32", "f16", "bf16", "q8_0"};
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
    assert_null(weight_format_find(12));
    assert_string_equal(weight_type_name(12), "q4_k");
    assert_true(weight_type_size(12, &len, &bytes));
    assert_int_equal(len, 256);
    assert_int_equal(bytes, 144);
    assert_string_equal(weight_type_name(39), "mxfp4");
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
    for (size_t i = 0; i < 3; i++) {
        const weight_format *f = weight_format_find(types[i]);
        assert_null(weight_kernel(f, ACT_A8));
        assert_non_null(weight_kernel(f, ACT_F32));
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

static void make(const product *p, uint64_t *seed, data *d) {
    size_t stride = plain_stored_bytes(p->type, p->cols);
    d->stored = must(malloc(p->rows * stride));
    for (size_t r = 0; r < p->rows; r++) {
        plain_weights(seed, p->kind, p->type, p->cols, d->stored + r * stride);
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

/* Equal bits; in padding rows zeros of either sign. */
static void compare(const product *p, const data *d, size_t t, int level) {
    for (size_t r = 0; r < d->out_rows; r++) {
        float got = d->got[t][r], want = d->want[t][r];
        if (memcmp(&got, &want, sizeof(got)) == 0) continue;
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
        check_all(whole(48, 96, n_x), &seed);
    }
    check_all(whole(48, 64, MAX_X), &seed);
}

static void multiplies_any_number_of_weight_rows(void **state) {
    static const size_t rows[] = {1, 15, 16, 17, 33, 64, 65, 120, 144};
    uint64_t seed = 11;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_all(whole(rows[i], 64, 1), &seed);
        check_all(whole(rows[i], 32, 3), &seed);
        check_all(whole(rows[i], 64, 9), &seed);
    }
}

static void multiplies_any_width(void **state) {
    static const size_t cols[] = {1,   2,   3,   5,   15,   16,   17,   60, 100,
                                  255, 257, 600, 992, 1024, 1056, 2080, 32};
    uint64_t seed = 12;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cols); i++) {
        check_all(whole(20, cols[i], 1), &seed);
        check_all(whole(36, cols[i], 6), &seed);
    }
}

static void multiplies_parts_of_the_columns_and_groups(void **state) {
    uint64_t seed = 13;
    (void)state;
    for (int round = 0; round < 60; round++) {
        size_t step = round % 3 == 0 ? 7 : 32; /* odd ones: float formats */
        size_t n = 1 + plain_random(&seed) % 45;
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

/* All weights -128 against all activations of one sign: the largest integer
 * sums there are. */
static void exact_for_the_largest_integers(void **state) {
    uint8_t block[34] = {0x00, 0x3c}; /* scale 1 */
    const void *rows[WEIGHT_GROUP];
    float row[9] = {1.0f};
    const weight_format *f = weight_format_find(WEIGHT_Q8_0);
    (void)state;

    memset(block + 2, 0x80, 32);
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        rows[r] = block;
    }
    void *packed = must(aligned_alloc_zero(f->group_bytes(32)));
    f->pack(32, rows, packed);
    for (int level = CPU_SCALAR; level <= (int)cpu_best(); level++) {
        assert_int_equal(cpu_force((cpu_level)level), 0);
        for (int x = -127; x <= 127; x += 254) {
            memset(row + 1, x, 32);
            const void *in = row;
            float y[16], *out = y;
            weight_kernel(f, ACT_A8)(packed, 32, 0, 1, 0, 32, &in, 1, &out);
            for (size_t r = 0; r < 16; r++) {
                assert_true(y[r] == -128.0f * 32.0f * (float)x);
            }
        }
    }
    cpu_force(cpu_best());
    aligned_release(packed);
}

static void dequantizes_as_the_f32_kernels_do(void **state) {
    uint64_t seed = 14;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        for (int kind = 0; kind < PLAIN_KINDS; kind++) {
            uint8_t stored[96 * 4];
            float values[96];
            plain_weights(&seed, (plain_kind)kind, types[i], 96, stored);
            weight_format_find(types[i])->dequantize(96, stored, values);
            for (size_t c = 0; c < 96; c++) {
                float x[96] = {0};
                x[c] = 1.0f;
                float want = plain_dot(types[i], ACT_F32, 96, 0, 96, stored, x);
                assert_true(values[c] == want);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_it_computes_with),
        cmocka_unit_test(names_formats_it_does_not_compute_with),
        cmocka_unit_test(has_no_name_for_numbers_nobody_uses),
        cmocka_unit_test(float_formats_have_no_a8_kernel),
        cmocka_unit_test(every_half_has_its_value_and_comes_back),
        cmocka_unit_test(halves_are_converted_as_by_the_cpu),
        cmocka_unit_test(bfloats_are_the_upper_half_of_a_float),
        cmocka_unit_test(multiplies_any_number_of_activation_rows),
        cmocka_unit_test(multiplies_any_number_of_weight_rows),
        cmocka_unit_test(multiplies_any_width),
        cmocka_unit_test(multiplies_parts_of_the_columns_and_groups),
        cmocka_unit_test(exact_for_the_largest_integers),
        cmocka_unit_test(dequantizes_as_the_f32_kernels_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
