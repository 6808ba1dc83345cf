/* bench_kernels.c - speed of the products by format, form and CPU level.
 *
 *   bench_kernels [MIB [THREADS [FORMAT [COLS]]]]
 *
 * For one activation row, GB/s of packed weights read, beside the machine's
 * plain read bandwidth over as many bytes; for 4 to 128 rows, multiply-adds
 * (G/s), beside what vpdpbusd alone does.  Matrices of COLS (default 4096)
 * columns and MIB (default 256) in the given format, so that no cache holds
 * them; prompts use a sixteenth of it.  The best of a few runs counts.  FORMAT,
 * a name as in the table, measures it alone; so does ROSTER_CPU a level. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "engine/cpu.h"
#include "engine/matrix.h"
#include "engine/util.h"
#include "tests/support/plain.h"

#define MAX_X 128
#define MIN_US 100000 /* per figure */

static const size_t row_counts[] = {4, 8, 16, 32, 64, MAX_X};

typedef struct {
    pool *p;
    matrix m;
    act_form form;
    void *x[MAX_X];
    float *y[MAX_X];
} bench;

/* ---- plain reading, the bound of decoding ---- */

typedef struct {
    const uint64_t *data;
    size_t words_per_task;
    uint64_t sums[POOL_MAX_THREADS * 8];
} reading;

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static uint64_t
read_words(const uint64_t *data, size_t n) {
    typedef uint64_t lanes __attribute__((vector_size(32)));
    const lanes *at = (const void *)data;
    lanes a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i + 4 <= n / 4; i += 4) {
        a += at[i];
        b += at[i + 1];
        c += at[i + 2];
        d += at[i + 3];
    }
    a += b + c + d;
    return a[0] ^ a[1] ^ a[2] ^ a[3];
}

static void read_task(void *ctx, uint32_t task, uint32_t worker) {
    reading *r = ctx;
    const uint64_t *at = r->data + task * r->words_per_task;
    r->sums[worker * 8] += read_words(at, r->words_per_task);
}

static double read_bandwidth(pool *p, size_t bytes) {
    if (cpu_best() < CPU_AVX2) return 0; /* what it is written for */
    uint32_t n_tasks = pool_threads(p) * 8;
    void *data = aligned_alloc_zero(bytes);
    reading *r = calloc(1, sizeof(*r));
    if (data == NULL || r == NULL) return 0;

    memset(data, 1, bytes);
    r->data = data;
    r->words_per_task = bytes / 8 / n_tasks / 32 * 32;
    double best = 0;
    for (uint64_t begin = now_us(); now_us() - begin < MIN_US;) {
        uint64_t t0 = now_us();
        pool_run(p, n_tasks, read_task, r);
        double us = (double)(now_us() - t0);
        double gb = (double)r->words_per_task * 8 * n_tasks / us / 1e3;
        if (gb > best) best = gb;
    }
    aligned_release(data);
    free(r);
    return best;
}

/* ---- vpdpbusd alone, the bound of long prompts ---- */

#define PEAK_CHAINS 12 /* more than two ports times its latency */
#define PEAK_ROUNDS 100000

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) static void
dot_task(void *ctx, uint32_t task, uint32_t worker) {
    int32_t *out = ctx;
    __m512i sum[PEAK_CHAINS], w = _mm512_set1_epi8((char)(task + 1));
    (void)worker;
#pragma GCC unroll 12
    for (size_t i = 0; i < PEAK_CHAINS; i++) {
        sum[i] = _mm512_setzero_si512();
    }
    for (size_t n = 0; n < PEAK_ROUNDS; n++) {
#pragma GCC unroll 12
        for (size_t i = 0; i < PEAK_CHAINS; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], w, w);
            __asm__ volatile("" : "+v"(sum[i])); /* a sum of its own */
        }
    }
#pragma GCC unroll 12
    for (size_t i = 1; i < PEAK_CHAINS; i++) {
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    }
    _mm512_storeu_si512(out + task * WEIGHT_GROUP, sum[0]);
}

/* G multiply-adds a second; 0 where there is no such instruction. */
static double dot_peak(pool *p) {
    uint32_t n_tasks = pool_threads(p);
    int32_t *out = calloc(n_tasks, WEIGHT_GROUP * sizeof(*out));
    if (cpu_best() < CPU_AVX512 || out == NULL) return 0;

    double best = 0;
    for (uint64_t begin = now_us(); now_us() - begin < MIN_US;) {
        uint64_t t0 = now_us();
        pool_run(p, n_tasks, dot_task, out);
        double n = 64.0 * PEAK_CHAINS * PEAK_ROUNDS * n_tasks;
        double g = n / (double)(now_us() - t0) / 1e3;
        if (g > best) best = g;
    }
    free(out);
    return best;
}
#else
static double dot_peak(pool *p) {
    (void)p;
    return 0;
}
#endif

/* ---- products ---- */

static void *must(void *p) {
    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static void open_bench(bench *b, pool *p, uint32_t type, act_form form,
                       size_t cols, size_t bytes) {
    const weight_format *f = weight_format_find(type);
    uint64_t seed = 1;
    size_t stride = plain_stored_bytes(type, cols);
    size_t rows = bytes / stride / WEIGHT_GROUP * WEIGHT_GROUP;
    uint8_t *stored = must(malloc(rows * stride));
    plain_weights(&seed, PLAIN_USUAL, type, cols, stored);
    for (size_t r = 1; r < rows; r++) {
        memcpy(stored + r * stride, stored, stride);
    }

    *b = (bench){.p = p, .form = form};
    if (matrix_pack(&b->m, f, rows, cols, stored) < 0) must(NULL);
    free(stored);
    for (size_t t = 0; t < MAX_X; t++) {
        b->x[t] = must(malloc(act_row_bytes(form, cols)));
        b->y[t] = must(malloc(matrix_padded_rows(&b->m) * sizeof(float)));
        plain_row(&seed, PLAIN_USUAL, form, cols, b->x[t]);
    }
}

static void close_bench(bench *b) {
    matrix_fini(&b->m);
    for (size_t t = 0; t < MAX_X; t++) {
        free(b->x[t]);
        free(b->y[t]);
    }
}

/* Microseconds of the fastest product with n_x rows. */
static double best_us(bench *b, size_t n_x) {
    double best = 1e18;
    uint64_t begin = now_us();
    do {
        uint64_t t0 = now_us();
        matrix_mul(b->p, &b->m, b->form, (const void *const *)b->x, n_x, b->y);
        double us = (double)(now_us() - t0);
        if (us < best) best = us;
    } while (now_us() - begin < MIN_US);
    return best;
}

static void measure(pool *p, uint32_t type, act_form form, size_t cols,
                    size_t bytes) {
    const char *alone = getenv("ROSTER_CPU");
    for (int level = (int)cpu_best(); level >= CPU_SCALAR; level--) {
        if (cpu_force((cpu_level)level) < 0) continue;
        if (alone != NULL && strcmp(alone, cpu_name((cpu_level)level)) != 0) {
            continue;
        }
        size_t scaled = level == CPU_SCALAR ? bytes / 16 : bytes;

        bench b;
        open_bench(&b, p, type, form, cols, scaled);
        double gb = (double)b.m.bytes / best_us(&b, 1) / 1e3;
        close_bench(&b);

        open_bench(&b, p, type, form, cols, scaled / 16);
        double products = (double)b.m.rows * (double)cols;
        printf("%-6s %-4s %-7s %7.1f GB/s  ", b.m.format->name,
               form == ACT_A8 ? "a8" : "f32", cpu_name((cpu_level)level), gb);
        for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
            size_t n = row_counts[i];
            printf("%7.1f ", products * (double)n / best_us(&b, n) / 1e3);
        }
        printf("G/s\n");
        fflush(stdout);
        close_bench(&b);
    }
}

int main(int argc, char **argv) {
    static const uint32_t types[] = {
        WEIGHT_Q8_0,  WEIGHT_Q4_0, WEIGHT_Q4_1,   WEIGHT_Q5_0,
        WEIGHT_Q5_1,  WEIGHT_Q2_K, WEIGHT_Q3_K,   WEIGHT_Q4_K,
        WEIGHT_Q5_K,  WEIGHT_Q6_K, WEIGHT_IQ4_NL, WEIGHT_IQ4_XS,
        WEIGHT_MXFP4, WEIGHT_F32,  WEIGHT_F16,    WEIGHT_BF16};
    size_t bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 256) << 20;
    int n_threads = argc > 2 ? atoi(argv[2]) : 0;
    size_t cols = argc > 4 ? (size_t)atoi(argv[4]) : 4096;
    pool *p;
    if (bytes < (size_t)16 << 20 || n_threads < 0 || cols == 0 ||
        cols % 256 != 0 || pool_new(&p, (uint32_t)n_threads) < 0) {
        fprintf(stderr,
                "usage: bench_kernels [MIB [THREADS [FORMAT [COLS]]]]\n");
        return 2;
    }

    printf("%u threads, %zu MiB; plain read %.1f GB/s, vpdpbusd %.1f G/s\n",
           pool_threads(p), bytes >> 20, read_bandwidth(p, bytes), dot_peak(p));
    printf("%-6s %-4s %-7s %12s  ", "format", "form", "level", "1 row");
    for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
        printf("%7zu ", row_counts[i]);
    }
    printf("rows\n");
    size_t n_measured = 0;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const char *name = weight_type_name(types[i]);
        if (argc > 3 && strcmp(argv[3], name) != 0) continue;
        const weight_format *f = weight_format_find(types[i]);
        if (f->mul[ACT_A8][CPU_SCALAR] != NULL) {
            measure(p, types[i], ACT_A8, cols, bytes);
        }
        measure(p, types[i], ACT_F32, cols, bytes);
        n_measured++;
    }
    pool_free(p);
    if (n_measured == 0) fprintf(stderr, "no kernels for %s\n", argv[3]);
    return n_measured > 0 ? 0 : 2;
}
