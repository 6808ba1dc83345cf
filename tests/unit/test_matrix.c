/* test_matrix.c - loading and packing, and products that do not depend on the
 * batch, the number of threads or the CPU level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/matrix.h"
#include "engine/util.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/plain.h"

#define MAX_X 80

static void *must(void *p) {
    assert_non_null(p);
    return p;
}

/* Random stored rows; the caller frees them. */
static void *random_stored(uint64_t *seed, uint32_t type, size_t rows,
                           size_t cols) {
    size_t stride = plain_stored_bytes(type, cols);
    uint8_t *stored = must(malloc(rows * stride));
    for (size_t r = 0; r < rows; r++) {
        plain_weights(seed, PLAIN_USUAL, type, cols, stored + r * stride);
    }
    return stored;
}

/* Activation rows and outputs for a matrix. */
typedef struct {
    size_t n;
    void *x[MAX_X];
    float *y[MAX_X];
} rows;

static rows make_rows(uint64_t *seed, const matrix *m, act_form form,
                      size_t n) {
    rows r = {.n = n};
    for (size_t t = 0; t < n; t++) {
        r.x[t] = must(malloc(act_row_bytes(form, m->cols)));
        r.y[t] = must(calloc(matrix_padded_rows(m), sizeof(float)));
        plain_row(seed, PLAIN_USUAL, form, m->cols, r.x[t]);
    }
    return r;
}

static void free_rows(rows *r) {
    for (size_t t = 0; t < r->n; t++) {
        free(r->x[t]);
        free(r->y[t]);
    }
}

/* All outputs have the bits of plain dot products over the stored rows. */
static void check_rows(const matrix *m, uint32_t type, act_form form,
                       const void *stored, const rows *r) {
    size_t stride = plain_stored_bytes(type, m->cols);
    for (size_t t = 0; t < r->n; t++) {
        for (size_t row = 0; row < m->rows; row++) {
            float want =
                plain_dot(type, form, m->cols, 0, m->cols,
                          (const uint8_t *)stored + row * stride, r->x[t]);
            assert_memory_equal(&r->y[t][row], &want, sizeof(want));
        }
    }
}

static pool *new_pool(uint32_t n_threads) {
    pool *p;
    assert_int_equal(pool_new(&p, n_threads), 0);
    return p;
}

static void gives_the_plain_product(void **state) {
    static const struct {
        uint32_t type;
        size_t rows, cols, n_x;
    } cases[] = {
        {WEIGHT_F32, 50, 60, 3},     {WEIGHT_F16, 17, 101, 1},
        {WEIGHT_BF16, 64, 128, 9},   {WEIGHT_Q8_0, 300, 512, 5},
        {WEIGHT_Q8_0, 1, 32, MAX_X}, {WEIGHT_Q8_0, 700, 1056, 1},
        {WEIGHT_Q5_K, 33, 768, 2},   {WEIGHT_Q6_K, 300, 512, 17},
        {WEIGHT_Q4_0, 300, 1056, 5}, {WEIGHT_Q4_K, 65, 2304, 1},
        {WEIGHT_MXFP4, 90, 1056, 3}, {WEIGHT_IQ4_XS, 65, 768, 5},
        {WEIGHT_Q2_K, 70, 512, 1},   {WEIGHT_Q5_1, 33, 96, 9},
    };
    uint64_t seed = 1;
    pool *p = new_pool(2);
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint32_t type = cases[i].type;
        void *stored = random_stored(&seed, type, cases[i].rows, cases[i].cols);
        matrix m;
        assert_int_equal(matrix_pack(&m, weight_format_find(type),
                                     cases[i].rows, cases[i].cols, stored),
                         0);
        for (int exact = 0; exact < 2; exact++) {
            act_form form = matrix_act(&m, exact);
            rows r = make_rows(&seed, &m, form, cases[i].n_x);
            matrix_mul(p, &m, form, (const void *const *)r.x, r.n, r.y);
            check_rows(&m, type, form, stored, &r);
            free_rows(&r);
        }
        matrix_fini(&m);
        free(stored);
    }
    pool_free(p);
}

static void exact_mode_wants_f32_rows(void **state) {
    matrix quantized = {.format = weight_format_find(WEIGHT_Q8_0)};
    matrix floats = {.format = weight_format_find(WEIGHT_BF16)};
    (void)state;
    assert_int_equal(matrix_act(&quantized, 0), ACT_A8);
    assert_int_equal(matrix_act(&quantized, 1), ACT_F32);
    assert_int_equal(matrix_act(&floats, 0), ACT_F32);
}

static void threads_levels_and_batch_change_no_bit(void **state) {
    uint64_t seed = 2;
    void *stored = random_stored(&seed, WEIGHT_Q8_0, 1000, 1024);
    matrix m;
    (void)state;

    assert_int_equal(
        matrix_pack(&m, weight_format_find(WEIGHT_Q8_0), 1000, 1024, stored),
        0);
    for (int exact = 0; exact < 2; exact++) {
        act_form form = matrix_act(&m, exact);
        rows r = make_rows(&seed, &m, form, 11);
        size_t y_bytes = matrix_padded_rows(&m) * sizeof(float);
        float *want[11];

        /* one row at a time, one thread, whatever this CPU has */
        pool *one = new_pool(1);
        for (size_t t = 0; t < r.n; t++) {
            const void *x = r.x[t];
            matrix_mul(one, &m, form, &x, 1, &r.y[t]);
            want[t] = must(malloc(y_bytes));
            memcpy(want[t], r.y[t], y_bytes);
        }
        pool_free(one);

        for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
            pool *p = new_pool(n_threads);
            for (int level = 0; level <= (int)cpu_best(); level++) {
                assert_int_equal(cpu_force((cpu_level)level), 0);
                matrix_mul(p, &m, form, (const void *const *)r.x, r.n, r.y);
                for (size_t t = 0; t < r.n; t++) {
                    assert_memory_equal(r.y[t], want[t],
                                        m.rows * sizeof(float));
                }
            }
            cpu_force(cpu_best());
            pool_free(p);
        }
        for (size_t t = 0; t < r.n; t++) {
            free(want[t]);
        }
        free_rows(&r);
    }
    matrix_fini(&m);
    free(stored);
}

/* As heads have them: small and many, tall and few. */
static void a_matrix_for_each_of_many_inputs(void **state) {
    static const struct {
        uint32_t type;
        size_t n, rows, cols, n_x;
    } cases[] = {
        {WEIGHT_Q8_0, 40, 24, 64, 3},
        {WEIGHT_F32, 3, 1000, 160, 9},
        {WEIGHT_BF16, 1, 20, 33, 1},
    };
    uint64_t seed = 5;
    pool *p = new_pool(2);
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t n = cases[i].n, n_x = cases[i].n_x;
        matrix m[40];
        void *stored[40];
        rows r[40];
        const void *x[40 * 9];
        float *y[40 * 9];
        for (size_t h = 0; h < n; h++) {
            stored[h] = random_stored(&seed, cases[i].type, cases[i].rows,
                                      cases[i].cols);
            assert_int_equal(
                matrix_pack(&m[h], weight_format_find(cases[i].type),
                            cases[i].rows, cases[i].cols, stored[h]),
                0);
            r[h] = make_rows(&seed, &m[h], matrix_act(&m[h], false), n_x);
            memcpy(x + h * n_x, r[h].x, n_x * sizeof(*x));
            memcpy(y + h * n_x, r[h].y, n_x * sizeof(*y));
        }
        act_form form = matrix_act(&m[0], false);
        matrix_mul_each(p, n, m, form, x, n_x, y);
        for (size_t h = 0; h < n; h++) {
            check_rows(&m[h], cases[i].type, form, stored[h], &r[h]);
            free_rows(&r[h]);
            matrix_fini(&m[h]);
            free(stored[h]);
        }
    }
    matrix_mul_each(p, 0, NULL, ACT_F32, NULL, 1, NULL); /* nothing to do */
    pool_free(p);
}

static void several_matrices_in_one_run_give_the_same(void **state) {
    static const size_t n_rows[] = {512, 64, 1, 200};
    uint64_t seed = 3;
    pool *p = new_pool(2);
    void *stored[4];
    matrix m[4];
    const matrix *all[4];
    (void)state;

    for (size_t i = 0; i < 4; i++) {
        stored[i] = random_stored(&seed, WEIGHT_Q8_0, n_rows[i], 256);
        assert_int_equal(matrix_pack(&m[i], weight_format_find(WEIGHT_Q8_0),
                                     n_rows[i], 256, stored[i]),
                         0);
        all[i] = &m[i];
    }
    for (size_t n = 0; n <= 4; n++) {
        uint64_t row_seed = 4; /* the same activations for all */
        rows r[4];
        float *const *y[4];
        for (size_t i = 0; i < 4; i++) {
            row_seed = 4;
            r[i] = make_rows(&row_seed, &m[i], ACT_A8, 7);
            y[i] = r[i].y;
        }
        matrix_mul_many(p, n, all, ACT_A8, (const void *const *)r[0].x, 7, y);
        for (size_t i = 0; i < 4; i++) {
            if (i < n) check_rows(&m[i], WEIGHT_Q8_0, ACT_A8, stored[i], &r[i]);
            free_rows(&r[i]);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        matrix_fini(&m[i]);
        free(stored[i]);
    }
    pool_free(p);
}

/* ---- files ---- */

typedef struct {
    char path[64];
    gguf *g;
    const gguf_tensor *t;
} file;

/* A file of one tensor, opened. */
static file open_file(uint32_t type, uint32_t n_dims, const uint64_t *dims,
                      const void *data) {
    file f;
    snprintf(f.path, sizeof(f.path), "/tmp/test_matrix.%d.gguf", (int)getpid());
    gguf_writer *w = must(gguf_writer_new());
    gguf_writer_string(w, "general.architecture", "test");
    gguf_writer_tensor(w, "a.weight", type, n_dims, dims, data);
    assert_int_equal(gguf_writer_finish(w, f.path), 0);
    gguf_writer_free(w);

    char why[256] = "";
    if (gguf_open(&f.g, f.path, why, sizeof(why)) < 0) fail_msg("%s", why);
    f.t = must((void *)(uintptr_t)gguf_find_tensor(f.g, "a.weight"));
    return f;
}

static void close_file(file *f) {
    gguf_close(f->g);
    unlink(f->path);
}

/* The matrix loaded from a file is the one packed from memory.  The slabs of
 * the first case are read in several pieces. */
static void loads_each_slab_of_a_tensor(void **state) {
    static const struct {
        uint32_t type;
        uint64_t dims[3];
    } cases[] = {
        {WEIGHT_F32, {2048, 1030, 2}},
        {WEIGHT_F16, {60, 33, 3}},
        {WEIGHT_BF16, {7, 16, 1}},
        {WEIGHT_Q8_0, {96, 40, 3}},
    };
    uint64_t seed = 5;
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t cols = cases[i].dims[0], n_rows = cases[i].dims[1];
        size_t slabs = cases[i].dims[2];
        size_t stride = plain_stored_bytes(cases[i].type, cols);
        uint8_t *stored =
            random_stored(&seed, cases[i].type, n_rows * slabs, cols);
        file f = open_file(cases[i].type, 3, cases[i].dims, stored);
        for (size_t slab = 0; slab < slabs; slab++) {
            const weight_format *format = weight_format_find(cases[i].type);
            matrix want, got;
            assert_int_equal(matrix_pack(&want, format, n_rows, cols,
                                         stored + slab * n_rows * stride),
                             0);
            assert_int_equal(matrix_load(&got, f.g, f.t, slab, NULL, 0), 0);
            assert_int_equal(got.rows, n_rows);
            assert_int_equal(got.cols, cols);
            assert_int_equal(got.bytes, matrix_bytes(format, n_rows, cols));
            assert_int_equal(got.bytes, want.bytes);
            assert_memory_equal(got.data, want.data, got.bytes);
            matrix_fini(&want);
            matrix_fini(&got);
        }
        close_file(&f);
        free(stored);
    }
}

static void refuses_a_slab_that_is_not_there(void **state) {
    static const uint64_t dims[] = {32, 16, 2};
    float data[32 * 16 * 2] = {0};
    char why[200] = "";
    matrix m;
    (void)state;

    file f = open_file(WEIGHT_F32, 3, dims, data);
    assert_int_equal(matrix_load(&m, f.g, f.t, 2, why, sizeof(why)), ERR_RANGE);
    assert_non_null(strstr(why, "a.weight"));
    assert_null(m.data);
    close_file(&f);
}

/* The formats that choose whole runs of values from tables of thousands, and
 * those of three values. */
static void names_a_format_it_cannot_compute_with(void **state) {
    static const uint32_t types[] = {16, 17, 18, 19, 21, 22, 29, 34, 35};
    static const uint64_t dims[] = {256, 2};
    static const uint8_t data[2 * 110];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        char why[200] = "";
        matrix m;
        file f = open_file(types[i], 2, dims, data);
        assert_int_equal(matrix_load(&m, f.g, f.t, 0, why, sizeof(why)),
                         ERR_UNSUPPORTED);
        assert_non_null(strstr(why, "a.weight"));
        assert_non_null(strstr(why, weight_type_name(types[i])));
        assert_null(m.data);
        close_file(&f);
    }
}

static void refuses_shapes_that_do_not_fit(void **state) {
    float data[64] = {0};
    char why[200] = "";
    matrix m;
    gguf_tensor t = {.name = {"a.weight", 8},
                     .n_dims = 2,
                     .dims = {48, 1, 1, 1},
                     .type = WEIGHT_Q8_0,
                     .bytes = 51};
    (void)state;

    assert_int_equal(matrix_load(&m, NULL, &t, 0, why, sizeof(why)),
                     ERR_FORMAT);
    assert_non_null(strstr(why, "q8_0"));
    t.dims[0] = 0;
    assert_int_equal(matrix_load(&m, NULL, &t, 0, why, sizeof(why)),
                     ERR_FORMAT);

    const weight_format *f32 = weight_format_find(WEIGHT_F32);
    const weight_format *q8_0 = weight_format_find(WEIGHT_Q8_0);
    assert_int_equal(matrix_pack(&m, f32, 0, 64, data), ERR_FORMAT);
    assert_int_equal(matrix_pack(&m, f32, 64, 0, data), ERR_FORMAT);
    assert_int_equal(matrix_pack(&m, q8_0, 1, 33, data), ERR_FORMAT);
    assert_null(m.data);
}

static void reports_what_no_memory_can_hold(void **state) {
    const weight_format *f32 = weight_format_find(WEIGHT_F32);
    size_t side = (size_t)1 << 31;
    matrix m;
    (void)state;
    assert_int_equal(matrix_pack(&m, f32, side, side, NULL), -ENOMEM);
    assert_null(m.data);
    assert_true(matrix_bytes(f32, side, side) == SIZE_MAX);
}

static void reports_a_file_that_shrank(void **state) {
    static const uint64_t dims[] = {64, 1024};
    void *data = must(calloc(64 * 1024, sizeof(float)));
    char why[200] = "";
    matrix m;
    (void)state;

    file f = open_file(WEIGHT_F32, 2, dims, data);
    assert_int_equal(truncate(f.path, 64 * 1024), 0);
    assert_true(matrix_load(&m, f.g, f.t, 0, why, sizeof(why)) < 0);
    assert_non_null(strstr(why, "a.weight"));
    assert_null(m.data);
    close_file(&f);
    free(data);
}

static void releases_null_and_empty_matrices(void **state) {
    matrix m = {0};
    (void)state;
    matrix_fini(NULL);
    matrix_fini(&m);
}

/* Rows of ones from a reader that may fail. */
typedef struct {
    size_t next; /* row that it must be asked for */
    size_t fail_at;
} reader;

static int read_ones(void *ctx, size_t row0, size_t n, void *out) {
    reader *r = ctx;
    assert_int_equal(row0, r->next);
    r->next = row0 + n;
    if (r->next > r->fail_at) return ERR_UNAVAILABLE;
    for (size_t i = 0; i < n * 1024; i++)
        ((float *)out)[i] = 1.0f;
    return 0;
}

static void builds_from_a_reader_in_ascending_pieces(void **state) {
    (void)state;
    const weight_format *f32 = weight_format_find(WEIGHT_F32);
    matrix m;
    reader r = {.fail_at = SIZE_MAX};
    assert_int_equal(matrix_build(&m, f32, 3000, 1024, read_ones, &r), 0);
    assert_int_equal(r.next, 3000);
    matrix_fini(&m);

    r = (reader){.fail_at = 2000}; /* 12 MB: not in the first piece */
    assert_int_equal(matrix_build(&m, f32, 3000, 1024, read_ones, &r),
                     ERR_UNAVAILABLE);
    assert_null(m.data);
    assert_int_equal(matrix_build(&m, f32, 0, 1024, read_ones, &r), ERR_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_plain_product),
        cmocka_unit_test(exact_mode_wants_f32_rows),
        cmocka_unit_test(threads_levels_and_batch_change_no_bit),
        cmocka_unit_test(a_matrix_for_each_of_many_inputs),
        cmocka_unit_test(several_matrices_in_one_run_give_the_same),
        cmocka_unit_test(loads_each_slab_of_a_tensor),
        cmocka_unit_test(refuses_a_slab_that_is_not_there),
        cmocka_unit_test(names_a_format_it_cannot_compute_with),
        cmocka_unit_test(refuses_shapes_that_do_not_fit),
        cmocka_unit_test(reports_what_no_memory_can_hold),
        cmocka_unit_test(reports_a_file_that_shrank),
        cmocka_unit_test(releases_null_and_empty_matrices),
        cmocka_unit_test(builds_from_a_reader_in_ascending_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
