/* test_blas.c - a row's bits depend on nothing but the row and the weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/blas.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/util.h"

#define MAX_IN 7168
#define MAX_OUT 4096

static const size_t inner[] = {60, 64, 128, 256, 1024, 2048, 4096, 7168};
static const size_t outputs[] = {1, 8, 16, 60, 128, 256, 4096};

/* Shared by the tests, filled once: [MAX_OUT][MAX_IN] and whole tiles with one
 * float to spare, to shift them by. */
static float *weights, *x, *y, *row, *want;

static uint64_t random_state = 1;

static float random_float(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(random_state >> 32) * 0x1p-31f;
}

static void fill(size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = random_float();
    }
}

static int open_and_allocate(void **state) {
    char why[256] = "";
    (void)state;
    weights = aligned_alloc_zero((size_t)MAX_OUT * MAX_IN * sizeof(float));
    x = aligned_alloc_zero((BLAS_TILE * MAX_IN + 1) * sizeof(float));
    y = aligned_alloc_zero((BLAS_TILE * MAX_OUT + 1) * sizeof(float));
    row = aligned_alloc_zero(MAX_IN * sizeof(float));
    want = aligned_alloc_zero(MAX_OUT * sizeof(float));
    if (!weights || !x || !y || !row || !want) return -1;
    fill((size_t)MAX_OUT * MAX_IN, weights);
    if (blas_open(why, sizeof(why)) < 0) {
        print_message("%s\n", why);
        return -1;
    }
    return 0;
}

static int release(void **state) {
    (void)state;
    aligned_release(weights);
    aligned_release(x);
    aligned_release(y);
    aligned_release(row);
    aligned_release(want);
    return 0;
}

/* A fresh row and what it gives alone in its tile: into `row` and `want`. */
static void make_row(size_t n_out, size_t n_in) {
    fill(n_in, row);
    memset(x, 0, BLAS_TILE * n_in * sizeof(float));
    memcpy(x, row, n_in * sizeof(float));
    blas_tile(n_out, n_in, weights, x, y);
    memcpy(want, y, n_out * sizeof(float));
}

static void a_row_has_the_same_bits_at_every_place(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(inner); i++) {
        for (size_t o = 0; o < ARRAY_LEN(outputs); o++) {
            size_t n_in = inner[i], n_out = outputs[o];
            make_row(n_out, n_in);
            fill(BLAS_TILE * n_in, x);
            for (size_t place = 0; place < BLAS_TILE; place++) {
                /* its former place keeps a copy: one more neighbour */
                memcpy(x + place * n_in, row, n_in * sizeof(float));
                blas_tile(n_out, n_in, weights, x, y);
                assert_memory_equal(y + place * n_out, want,
                                    n_out * sizeof(float));
            }
        }
    }
}

static void neighbours_of_any_value_do_not_matter(void **state) {
    const float values[] = {NAN, INFINITY, 3e38f, 0x1p-149f, -0.0f};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(inner); i++) {
        size_t n_in = inner[i], n_out = 128, place = i % BLAS_TILE;
        make_row(n_out, n_in);
        for (size_t v = 0; v < ARRAY_LEN(values); v++) {
            for (size_t at = 0; at < BLAS_TILE * n_in; at++) {
                x[at] = values[v];
            }
            memcpy(x + place * n_in, row, n_in * sizeof(float));
            blas_tile(n_out, n_in, weights, x, y);
            assert_memory_equal(y + place * n_out, want, n_out * sizeof(float));
        }
    }
}

static void alignment_does_not_matter(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(inner); i++) {
        size_t n_in = inner[i], n_out = 60;
        make_row(n_out, n_in);
        fill(BLAS_TILE * n_in + 1, x);
        memcpy(x + 1 + 3 * n_in, row, n_in * sizeof(float));
        blas_tile(n_out, n_in, weights, x + 1, y + 1);
        assert_memory_equal(y + 1 + 3 * n_out, want, n_out * sizeof(float));
    }
}

static void the_forced_cpu_level_does_not_matter(void **state) {
    const char *core = blas_core();
    (void)state;
    make_row(256, 2048);
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        assert_string_equal(blas_core(), core);
        blas_tile(256, 2048, weights, x, y);
        assert_memory_equal(y, want, 256 * sizeof(float));
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

static void agrees_with_double(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(inner); i++) {
        for (size_t o = 0; o < ARRAY_LEN(outputs); o++) {
            size_t n_in = inner[i], n_out = outputs[o];
            fill(BLAS_TILE * n_in, x);
            blas_tile(n_out, n_in, weights, x, y);
            for (size_t at = 0; at < BLAS_TILE * n_out; at += 1 + n_out / 9) {
                const float *a = x + at / n_out * n_in;
                const float *b = weights + at % n_out * n_in;
                double sum = 0, size = 0;
                for (size_t k = 0; k < n_in; k++) {
                    sum += (double)a[k] * b[k];
                    size += fabs((double)a[k] * b[k]);
                }
                assert_true(fabs(y[at] - sum) < 1e-6 * size);
            }
        }
    }
}

enum { N_THREADS = 4, THREAD_ROUNDS = 400, THREAD_IN = 512, THREAD_OUT = 60 };

/* Compares its own products with the result of one thread; returns the number
 * of those that differ. */
static void *multiply_repeatedly(void *arg) {
    static _Thread_local float mine[BLAS_TILE * THREAD_OUT];
    const float *expected = arg;
    uintptr_t differing = 0;

    for (int i = 0; i < THREAD_ROUNDS; i++) {
        blas_tile(THREAD_OUT, THREAD_IN, weights, x, mine);
        differing += memcmp(mine, expected, sizeof(mine)) != 0;
    }
    return (void *)differing;
}

static void threads_may_call_at_once(void **state) {
    pthread_t threads[N_THREADS];
    (void)state;
    fill(BLAS_TILE * THREAD_IN, x);
    blas_tile(THREAD_OUT, THREAD_IN, weights, x, y);
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, multiply_repeatedly, y), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        void *differing = NULL;
        assert_int_equal(pthread_join(threads[i], &differing), 0);
        assert_null(differing);
    }
}

static void opening_again_is_fine(void **state) {
    char why[256] = "";
    (void)state;
    assert_int_equal(blas_open(why, sizeof(why)), 0);
    assert_string_equal(why, "");
    const char *core = cpu_best() >= CPU_AVX2 ? "Haswell" : "Nehalem";
    assert_string_equal(blas_core(), core);
}

/* In a child, before this process has the library: somebody else loads it with
 * another core type; the exit status says what blas_open() made of that. */
static int open_after_somebody_else(void) {
    char why[256] = "";
    setenv("OPENBLAS_CORETYPE", "Sandybridge", 1);
    if (dlopen("libopenblas.so.0", RTLD_NOW) == NULL) return 1;
    if (blas_open(why, sizeof(why)) != ERR_UNSUPPORTED) return 2;
    if (strstr(why, "Sandybridge") == NULL) return 3;
    if (strstr(why, blas_core()) == NULL) return 4;
    return 0;
}

/* In a child: the user's setting survives, and does not win. */
static int open_with_a_setting_of_the_user(void) {
    setenv("OPENBLAS_CORETYPE", "Sandybridge", 1);
    if (blas_open(NULL, 0) != 0) return 1;
    const char *now = getenv("OPENBLAS_CORETYPE");
    return now != NULL && strcmp(now, "Sandybridge") == 0 ? 0 : 2;
}

static int run_in_child(int (*body)(void)) {
    int status = -1;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(body());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void refuses_a_library_that_runs_another_core(void **state) {
    (void)state;
    assert_int_equal(run_in_child(open_after_somebody_else), 0);
}

static void a_setting_of_the_user_is_overruled_and_kept(void **state) {
    (void)state;
    assert_int_equal(run_in_child(open_with_a_setting_of_the_user), 0);
}

int main(void) {
    const struct CMUnitTest before_opening[] = {
        cmocka_unit_test(refuses_a_library_that_runs_another_core),
        cmocka_unit_test(a_setting_of_the_user_is_overruled_and_kept),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_again_is_fine),
        cmocka_unit_test(a_row_has_the_same_bits_at_every_place),
        cmocka_unit_test(neighbours_of_any_value_do_not_matter),
        cmocka_unit_test(alignment_does_not_matter),
        cmocka_unit_test(the_forced_cpu_level_does_not_matter),
        cmocka_unit_test(agrees_with_double),
        cmocka_unit_test(threads_may_call_at_once),
    };
    int failed = cmocka_run_group_tests(before_opening, NULL, NULL);
    return failed + cmocka_run_group_tests(tests, open_and_allocate, release);
}
