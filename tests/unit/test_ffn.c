/* test_ffn.c - networks against a plain reference, bit for bit, and what must
 * not change a bit: other rows, other jobs, threads, CPU level, slicing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/ffn.h"
#include "engine/util.h"
#include "tests/support/plain.h"

#define MAX_ROWS 200

static void *must(void *p) {
    assert_non_null(p);
    return p;
}

/* ---- a network in both shapes: stored for the reference, packed to run ----
 */

typedef struct {
    plain_matrix gate, up, down;
    plain_join how;
    ffn_weights packed;
} network;

static plain_matrix random_matrix(uint64_t *seed, uint32_t type, size_t rows,
                                  size_t cols, matrix *packed) {
    size_t stride = plain_stored_bytes(type, cols);
    uint8_t *stored = must(malloc(rows * stride));
    for (size_t r = 0; r < rows; r++) {
        plain_weights(seed, PLAIN_USUAL, type, cols, stored + r * stride);
    }
    assert_int_equal(
        matrix_pack(packed, weight_format_find(type), rows, cols, stored), 0);
    return (plain_matrix){type, rows, cols, stored};
}

/* `types`: of gate, up and down. */
static network make_network(uint64_t *seed, const uint32_t types[3],
                            size_t model_dim, size_t ffn_dim) {
    network n = {0};
    n.gate = random_matrix(seed, types[0], ffn_dim, model_dim, &n.packed.gate);
    n.up = random_matrix(seed, types[1], ffn_dim, model_dim, &n.packed.up);
    n.down = random_matrix(seed, types[2], model_dim, ffn_dim, &n.packed.down);
    return n;
}

static void free_stored(plain_matrix *m) {
    free((void *)(uintptr_t)m->stored);
}

static void free_network(network *n) {
    free_stored(&n->gate);
    free_stored(&n->up);
    free_stored(&n->down);
    ffn_fini(&n->packed);
}

/* ---- rows ---- */

typedef struct {
    size_t n, y_bytes;
    void *x[MAX_ROWS];
    float *y[MAX_ROWS];
    float *want[MAX_ROWS];
} rows;

static rows make_rows(uint64_t *seed, act_form form, size_t model_dim,
                      size_t n) {
    rows r = {.n = n, .y_bytes = model_dim * sizeof(float)};
    for (size_t t = 0; t < n; t++) {
        r.x[t] = must(malloc(act_row_bytes(form, model_dim)));
        r.y[t] = must(calloc(round_up(model_dim, 16), sizeof(float)));
        r.want[t] = must(calloc(model_dim, sizeof(float)));
        plain_row(seed, PLAIN_USUAL, form, model_dim, r.x[t]);
    }
    return r;
}

static void free_rows(rows *r) {
    for (size_t t = 0; t < r->n; t++) {
        free(r->x[t]);
        free(r->y[t]);
        free(r->want[t]);
    }
}

static void compute_wanted(const network *n, size_t segments, int exact,
                           act_form form, rows *r) {
    for (size_t t = 0; t < r->n; t++) {
        plain_ffn(&n->gate, &n->up, &n->down, &n->how, segments, exact, form,
                  r->x[t], r->want[t]);
    }
}

static void check_and_clear(rows *r) {
    for (size_t t = 0; t < r->n; t++) {
        assert_memory_equal(r->y[t], r->want[t], r->y_bytes);
        memset(r->y[t], 0x7f, r->y_bytes);
    }
}

static ffn_job job_of(const network *n, rows *r) {
    return (ffn_job){&n->packed, r->n, (const void *const *)r->x, r->y};
}

/* A pool and scratch for a run. */
typedef struct {
    pool *p;
    ffn_scratch *s;
} bench;

static bench open_bench(uint32_t n_threads, size_t max_rows, size_t max_jobs,
                        size_t ffn_dim, size_t model_dim) {
    bench b;
    assert_int_equal(pool_new(&b.p, n_threads), 0);
    assert_int_equal(
        ffn_scratch_new(&b.s, max_rows, max_jobs, ffn_dim, model_dim), 0);
    return b;
}

static void close_bench(bench *b) {
    ffn_scratch_free(b->s);
    pool_free(b->p);
}

/* ---- the contract ---- */

static void cuts_into_at_most_eight_whole_blocks(void **state) {
    const weight_format *f32 = weight_format_find(WEIGHT_F32);
    const weight_format *q8_0 = weight_format_find(WEIGHT_Q8_0);
    weight_format wide = *q8_0;
    wide.block_len = 256;
    (void)state;

    assert_int_equal(ffn_segments(q8_0, 32), 1);
    assert_int_equal(ffn_segments(q8_0, 64), 2);
    assert_int_equal(ffn_segments(q8_0, 96), 1);
    assert_int_equal(ffn_segments(q8_0, 128), 4);
    assert_int_equal(ffn_segments(q8_0, 192), 2);
    assert_int_equal(ffn_segments(q8_0, 256), 8);
    assert_int_equal(ffn_segments(q8_0, 14336), 8);
    assert_int_equal(ffn_segments(f32, 100), 1);
    assert_int_equal(ffn_segments(f32, 160), 1);
    assert_int_equal(ffn_segments(f32, 0), 1);
    assert_int_equal(ffn_segments(&wide, 1536), 2);
    assert_int_equal(ffn_segments(&wide, 2048), 8);
    assert_int_equal(ffn_segments(&wide, 768), 1);
}

/* Formats, sizes and the segments that they should have. */
static const struct {
    uint32_t types[3];
    size_t model_dim, ffn_dim, segments;
} shapes[] = {
    {{WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0}, 64, 96, 1},
    {{WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0}, 96, 64, 2},
    {{WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0}, 64, 384, 4},
    {{WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0}, 160, 512, 8},
    {{WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}, 60, 100, 1},
    {{WEIGHT_F16, WEIGHT_F16, WEIGHT_F16}, 72, 128, 4},
    {{WEIGHT_BF16, WEIGHT_F32, WEIGHT_Q8_0}, 50, 320, 2},
    {{WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_F16}, 64, 256, 8},
    {{WEIGHT_F32, WEIGHT_Q8_0, WEIGHT_Q8_0}, 96, 256, 8},
    {{WEIGHT_Q4_K, WEIGHT_Q5_K, WEIGHT_Q6_K}, 256, 768, 1},
    {{WEIGHT_Q6_K, WEIGHT_Q6_K, WEIGHT_Q5_K}, 512, 1024, 4},
    {{WEIGHT_Q4_1, WEIGHT_Q5_0, WEIGHT_Q5_1}, 64, 96, 1},
    {{WEIGHT_MXFP4, WEIGHT_IQ4_NL, WEIGHT_MXFP4}, 96, 256, 8},
    {{WEIGHT_Q2_K, WEIGHT_Q3_K, WEIGHT_Q4_1}, 256, 320, 2},
    {{WEIGHT_IQ4_XS, WEIGHT_Q3_K, WEIGHT_IQ4_XS}, 256, 512, 2},
    {{WEIGHT_Q5_0, WEIGHT_Q2_K, WEIGHT_Q3_K}, 256, 1024, 4},
    {{WEIGHT_Q5_1, WEIGHT_IQ4_XS, WEIGHT_Q2_K}, 256, 2048, 8},
};

static float *random_bias(uint64_t *seed, size_t n) {
    float *bias = must(aligned_alloc_zero(n * sizeof(*bias)));
    for (size_t i = 0; i < n; i++)
        bias[i] = 9.0f * plain_random_float(seed); /* beyond the clamps */
    return bias;
}

/* Give a network an activation, and biases. */
static void join_by(network *n, ffn_activation activation, bool gate_bias,
                    bool up_bias, uint64_t *seed) {
    size_t dim = n->gate.rows;
    n->packed.activation = activation;
    if (gate_bias) n->packed.gate_bias = random_bias(seed, dim);
    if (up_bias) n->packed.up_bias = random_bias(seed, dim);
    n->how = (plain_join){activation, n->packed.gate_bias, n->packed.up_bias};
}

/* The form in which rows reach a network. */
static act_form form_for(const network *n, int exact) {
    act_form gate = matrix_act(&n->packed.gate, exact);
    return gate == matrix_act(&n->packed.up, exact) ? gate : ACT_F32;
}

static void follows_the_contract_bit_for_bit(void **state) {
    uint64_t seed = 1;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        network n = make_network(&seed, shapes[i].types, shapes[i].model_dim,
                                 shapes[i].ffn_dim);
        assert_int_equal(ffn_segments(n.packed.down.format, shapes[i].ffn_dim),
                         shapes[i].segments);
        bench b = open_bench(2, 5, 1, shapes[i].ffn_dim, shapes[i].model_dim);
        for (int exact = 0; exact < 2; exact++) {
            act_form form = form_for(&n, exact);
            rows r = make_rows(&seed, form, shapes[i].model_dim, 5);
            ffn_job job = job_of(&n, &r);
            compute_wanted(&n, shapes[i].segments, exact, form, &r);
            assert_int_equal(ffn_run(b.p, b.s, &job, 1, form, exact), 0);
            check_and_clear(&r);
            free_rows(&r);
        }
        close_bench(&b);
        free_network(&n);
    }
}

/* Each activation, with and without either bias, at every level. */
static void activations_and_biases_follow_the_contract(void **state) {
    uint64_t seed = 11;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        for (int a = 0; a < FFN_ACTIVATIONS; a++) {
            network n = make_network(&seed, shapes[i].types,
                                     shapes[i].model_dim, shapes[i].ffn_dim);
            bench b =
                open_bench(2, 3, 1, shapes[i].ffn_dim, shapes[i].model_dim);
            act_form form = form_for(&n, 0);
            rows r = make_rows(&seed, form, shapes[i].model_dim, 3);
            join_by(&n, (ffn_activation)a, (i + a) % 3 != 0, (i + a) % 3 != 1,
                    &seed);
            ffn_job job = job_of(&n, &r);
            compute_wanted(&n, shapes[i].segments, 0, form, &r);
            for (int level = 0; level <= (int)cpu_best(); level++) {
                assert_int_equal(cpu_force((cpu_level)level), 0);
                assert_int_equal(ffn_run(b.p, b.s, &job, 1, form, 0), 0);
                check_and_clear(&r);
            }
            cpu_force(cpu_best());
            free_rows(&r);
            close_bench(&b);
            free_network(&n);
        }
    }
}

static void names_its_memory_in_a_fixed_order(void **state) {
    uint64_t seed = 12;
    static const uint32_t f32[3] = {WEIGHT_F32, WEIGHT_F32, WEIGHT_F32};
    network n = make_network(&seed, f32, 32, 40);
    ffn_piece pieces[FFN_PIECES_MAX];
    (void)state;

    assert_int_equal(ffn_pieces(&n.packed, pieces), 3);
    assert_ptr_equal(pieces[2].data, n.packed.down.data);
    join_by(&n, FFN_GELU, false, true, &seed);
    assert_int_equal(ffn_pieces(&n.packed, pieces), 4);
    assert_ptr_equal(pieces[3].data, n.packed.up_bias);
    assert_int_equal(pieces[3].bytes, 40 * sizeof(float));
    n.packed.gate_bias = random_bias(&seed, 40);
    assert_int_equal(ffn_pieces(&n.packed, pieces), 5);
    assert_ptr_equal(pieces[3].data, n.packed.gate_bias);
    free_network(&n);
}

static const uint32_t all_q8_0[3] = {WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0};

/* Three networks of different widths, one of them without rows at times. */
static void batch_threads_and_level_change_no_bit(void **state) {
    uint64_t seed = 2;
    network n[3];
    rows r[3];
    (void)state;

    for (size_t i = 0; i < 3; i++) {
        n[i] = make_network(&seed, all_q8_0, 128, i == 1 ? 192 : 512);
        r[i] = make_rows(&seed, ACT_A8, 128, i == 2 ? 133 : 3 + i);
        compute_wanted(&n[i], i == 1 ? 2 : 8, 0, ACT_A8, &r[i]);
    }
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        bench b = open_bench(n_threads, MAX_ROWS, 4, 512, 128);
        for (int level = 0; level <= (int)cpu_best(); level++) {
            assert_int_equal(cpu_force((cpu_level)level), 0);
            /* all together, with a job of no rows between */
            rows none = {0};
            ffn_job jobs[4] = {job_of(&n[2], &r[2]), job_of(&n[0], &none),
                               job_of(&n[1], &r[1]), job_of(&n[0], &r[0])};
            assert_int_equal(ffn_run(b.p, b.s, jobs, 4, ACT_A8, 0), 0);
            for (size_t i = 0; i < 3; i++) {
                check_and_clear(&r[i]);
            }
            /* each row by itself, in another order */
            for (size_t i = 0; i < 3; i++) {
                for (size_t t = r[i].n; t-- > 0;) {
                    const void *x = r[i].x[t];
                    ffn_job one = {&n[i].packed, 1, &x, &r[i].y[t]};
                    assert_int_equal(ffn_run(b.p, b.s, &one, 1, ACT_A8, 0), 0);
                }
                check_and_clear(&r[i]);
            }
        }
        cpu_force(cpu_best());
        close_bench(&b);
    }
    for (size_t i = 0; i < 3; i++) {
        free_network(&n[i]);
        free_rows(&r[i]);
    }
}

static void order_of_rows_changes_no_bit(void **state) {
    uint64_t seed = 3;
    network n = make_network(&seed, all_q8_0, 64, 256);
    rows r = make_rows(&seed, ACT_A8, 64, 40);
    bench b = open_bench(2, 40, 1, 256, 64);
    (void)state;

    compute_wanted(&n, 8, 0, ACT_A8, &r);
    for (int round = 0; round < 10; round++) {
        for (size_t t = r.n - 1; t > 0; t--) {
            size_t other = plain_random(&seed) % (t + 1);
            void *x = r.x[t];
            float *y = r.y[t], *want = r.want[t];
            r.x[t] = r.x[other], r.y[t] = r.y[other];
            r.want[t] = r.want[other];
            r.x[other] = x, r.y[other] = y, r.want[other] = want;
        }
        ffn_job job = job_of(&n, &r);
        assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), 0);
        check_and_clear(&r);
    }
    close_bench(&b);
    free_rows(&r);
    free_network(&n);
}

static float *bias_part(const float *whole, size_t from, size_t width) {
    float *part = must(aligned_alloc_zero(width * sizeof(*part)));
    memcpy(part, whole + from, width * sizeof(*part));
    return part;
}

/* Hidden values [from, from + width) of a Q8_0 network as one of its own. */
static network slice_of(const network *n, size_t from, size_t width,
                        size_t segments) {
    network s = {
        .packed = {.segments = segments, .activation = n->packed.activation}};
    const weight_format *f = weight_format_find(WEIGHT_Q8_0);
    size_t model_dim = n->gate.cols;
    size_t up_stride = plain_stored_bytes(WEIGHT_Q8_0, model_dim);
    size_t down_stride = plain_stored_bytes(WEIGHT_Q8_0, n->down.cols);
    size_t slice_stride = plain_stored_bytes(WEIGHT_Q8_0, width);

    const uint8_t *gate = n->gate.stored, *up = n->up.stored;
    assert_int_equal(matrix_pack(&s.packed.gate, f, width, model_dim,
                                 gate + from * up_stride),
                     0);
    assert_int_equal(
        matrix_pack(&s.packed.up, f, width, model_dim, up + from * up_stride),
        0);
    uint8_t *down = must(malloc(model_dim * slice_stride));
    for (size_t r = 0; r < model_dim; r++) {
        memcpy(down + r * slice_stride,
               (const uint8_t *)n->down.stored + r * down_stride +
                   plain_stored_bytes(WEIGHT_Q8_0, from),
               slice_stride);
    }
    assert_int_equal(matrix_pack(&s.packed.down, f, model_dim, width, down), 0);
    free(down);
    if (n->packed.gate_bias != NULL)
        s.packed.gate_bias = bias_part(n->packed.gate_bias, from, width);
    if (n->packed.up_bias != NULL)
        s.packed.up_bias = bias_part(n->packed.up_bias, from, width);
    return s;
}

static void slices_add_up_to_the_whole(void **state) {
    enum { MODEL_DIM = 64, FFN_DIM = 512, SEGMENTS = 8 };
    uint64_t seed = 4;
    network n = make_network(&seed, all_q8_0, MODEL_DIM, FFN_DIM);
    rows r = make_rows(&seed, ACT_A8, MODEL_DIM, 6);
    bench b = open_bench(2, 6, 1, FFN_DIM, MODEL_DIM);
    (void)state;

    join_by(&n, FFN_SWIGLU_CLAMPED, true, true, &seed);
    compute_wanted(&n, SEGMENTS, 0, ACT_A8, &r);
    for (size_t n_slices = 2; n_slices <= SEGMENTS; n_slices *= 2) {
        size_t width = FFN_DIM / n_slices;
        float y[SEGMENTS][6 * MODEL_DIM];
        for (size_t i = 0; i < n_slices; i++) {
            network s = slice_of(&n, i * width, width, SEGMENTS / n_slices);
            ffn_job job = job_of(&s, &r);
            assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), 0);
            for (size_t t = 0; t < 6; t++) {
                memcpy(y[i] + t * MODEL_DIM, r.y[t], r.y_bytes);
            }
            ffn_fini(&s.packed);
        }
        /* the rest of the tree */
        for (size_t step = 1; step < n_slices; step *= 2) {
            for (size_t i = 0; i < n_slices; i += 2 * step) {
                for (size_t k = 0; k < 6 * MODEL_DIM; k++) {
                    y[i][k] += y[i + step][k];
                }
            }
        }
        for (size_t t = 0; t < 6; t++) {
            assert_memory_equal(y[0] + t * MODEL_DIM, r.want[t], r.y_bytes);
        }
    }
    close_bench(&b);
    free_rows(&r);
    free_network(&n);
}

/* ---- progress ---- */

/* A node whose count stands still is taken for dead: a piece of many rows is
 * eight tasks, each of which may take long. */
static void counts_every_part_of_a_long_run(void **state) {
    enum { MODEL_DIM = 128, FFN_DIM = 2048, ROWS = MAX_ROWS };
    uint64_t seed = 8;
    network n = make_network(&seed, all_q8_0, MODEL_DIM, FFN_DIM);
    rows r = make_rows(&seed, ACT_A8, MODEL_DIM, ROWS);
    ffn_job job = job_of(&n, &r);
    bench b = open_bench(1, ROWS, 1, FFN_DIM, MODEL_DIM);
    (void)state;

    assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), 0);
    /* Parts of 256 hidden values or outputs, of at most 128 rows. */
    uint64_t parts = (FFN_DIM / 256 + 1) * 2;
    assert_true(pool_progress(b.p) > parts);

    close_bench(&b);
    free_rows(&r);
    free_network(&n);
}

/* ---- failures ---- */

static void refuses_what_the_scratch_cannot_hold(void **state) {
    uint64_t seed = 5;
    network n = make_network(&seed, all_q8_0, 64, 96);
    rows r = make_rows(&seed, ACT_A8, 64, 4);
    ffn_job jobs[2] = {job_of(&n, &r), job_of(&n, &r)};
    (void)state;

    bench b = open_bench(1, 7, 1, 96, 64);
    assert_int_equal(ffn_run(b.p, b.s, jobs, 1, ACT_A8, 0), 0);
    assert_int_equal(ffn_run(b.p, b.s, jobs, 0, ACT_A8, 0), 0);
    assert_int_equal(ffn_run(b.p, b.s, jobs, 2, ACT_A8, 0), ERR_RANGE);
    close_bench(&b);
    b = open_bench(1, 7, 2, 96, 64);
    assert_int_equal(ffn_run(b.p, b.s, jobs, 2, ACT_A8, 0), ERR_RANGE);
    close_bench(&b);
    b = open_bench(1, 8, 2, 64, 64);
    assert_int_equal(ffn_run(b.p, b.s, jobs, 1, ACT_A8, 0), ERR_RANGE);
    close_bench(&b);
    b = open_bench(1, 8, 2, 96, 32);
    assert_int_equal(ffn_run(b.p, b.s, jobs, 1, ACT_A8, 0), ERR_RANGE);
    close_bench(&b);

    free_rows(&r);
    free_network(&n);
}

static void refuses_matrices_that_do_not_fit_together(void **state) {
    uint64_t seed = 6;
    network n = make_network(&seed, all_q8_0, 64, 96);
    network other = make_network(&seed, all_q8_0, 64, 32);
    rows r = make_rows(&seed, ACT_A8, 64, 1);
    bench b = open_bench(1, 1, 1, 96, 64);
    (void)state;

    ffn_weights mixed = n.packed;
    mixed.up = other.packed.up;
    ffn_job job = {&mixed, 1, (const void *const *)r.x, r.y};
    assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), ERR_FORMAT);
    mixed = (ffn_weights){0};
    assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), ERR_FORMAT);

    mixed = n.packed;
    static const size_t bad[] = {3, 2, 16};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        mixed.segments = bad[i]; /* 96 values: blocks of 32 allow 1 */
        assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), ERR_RANGE);
    }
    mixed = n.packed;
    mixed.activation = FFN_ACTIVATIONS;
    assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), ERR_RANGE);
    close_bench(&b);
    free_rows(&r);
    free_network(&other);
    free_network(&n);
}

static void refuses_a_form_it_cannot_use(void **state) {
    static const uint32_t floats[3] = {WEIGHT_F32, WEIGHT_Q8_0, WEIGHT_Q8_0};
    uint64_t seed = 7;
    network n = make_network(&seed, floats, 64, 96);
    rows r = make_rows(&seed, ACT_A8, 64, 1);
    bench b = open_bench(1, 1, 1, 96, 64);
    ffn_job job = job_of(&n, &r);
    (void)state;

    assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 0), ERR_UNSUPPORTED);
    assert_int_equal(ffn_run(b.p, b.s, &job, 1, ACT_A8, 1), ERR_UNSUPPORTED);
    close_bench(&b);
    free_rows(&r);
    free_network(&n);
}

static void reports_a_scratch_that_no_memory_can_hold(void **state) {
    ffn_scratch *s = (ffn_scratch *)state;
    assert_true(ffn_scratch_new(&s, SIZE_MAX / 64, 1, 4096, 4096) < 0);
    assert_null(s);
    ffn_scratch_free(NULL);
    ffn_fini(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_into_at_most_eight_whole_blocks),
        cmocka_unit_test(follows_the_contract_bit_for_bit),
        cmocka_unit_test(activations_and_biases_follow_the_contract),
        cmocka_unit_test(names_its_memory_in_a_fixed_order),
        cmocka_unit_test(batch_threads_and_level_change_no_bit),
        cmocka_unit_test(order_of_rows_changes_no_bit),
        cmocka_unit_test(slices_add_up_to_the_whole),
        cmocka_unit_test(counts_every_part_of_a_long_run),
        cmocka_unit_test(refuses_what_the_scratch_cannot_hold),
        cmocka_unit_test(refuses_matrices_that_do_not_fit_together),
        cmocka_unit_test(refuses_a_form_it_cannot_use),
        cmocka_unit_test(reports_a_scratch_that_no_memory_can_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
