/* bench_ffn.c - speed of whole experts, as a layer runs them.
 *
 *   bench_ffn [THREADS [FORMAT [SHAPE]]]
 *
 * For the experts of four models: one token, which meets its top-k experts,
 * in GB/s of packed weights read; and 16 and 512 tokens, whose rows are spread
 * evenly, in multiply-adds (G/s).  A token takes experts that the ones before
 * it did not, of some 512 MiB, so that it reads memory.  Gate and up have the
 * given format (default q4_k), down too.  The best of a few runs counts.
 * ROSTER_CPU picks a level. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/ffn.h"
#include "engine/util.h"
#include "tests/support/plain.h"
#include "tests/support/plain_quant.h"

#define MAX_EXPERTS 512
#define MAX_ROWS 4096
#define COLD_BYTES ((size_t)512 << 20)
#define MIN_US 300000 /* per figure */

typedef struct {
    const char *name;
    size_t model_dim, ffn_dim, n_experts, top_k;
} shape;

static const shape shapes[] = {
    {"olmoe", 2048, 1024, 64, 8},
    {"qwen3", 2048, 768, 128, 8},
    {"mixtral", 4096, 14336, 8, 2},
    {"deepseek", 2048, 1408, 64, 6},
};

typedef struct {
    pool *p;
    const shape *s;
    act_form form;
    size_t n_experts; /* in memory */
    ffn_weights experts[MAX_EXPERTS];
    ffn_scratch *scratch;
    void *x[MAX_ROWS];
    float *y[MAX_ROWS];
} bench;

static void *must(void *p) {
    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

/* Scales such that values stay as small as in a model; the activation makes
 * denormal numbers, which are slow, of large ones. */
static void tame(uint32_t type, size_t cols, uint8_t *row) {
    size_t len, bytes;
    if (!plain_quant_known(type) || !weight_type_size(type, &len, &bytes)) {
        return;
    }
    for (size_t b = 0; b < cols / len; b++) {
        plain_quant_scales(type, 0x1p-11f, row + b * bytes);
    }
}

/* The same matrix for all experts: only its place counts. */
static void fill(bench *b, uint32_t type, size_t rows, size_t cols,
                 size_t which) {
    uint64_t seed = which;
    size_t stride = plain_stored_bytes(type, cols);
    uint8_t *stored = must(malloc(rows * stride));
    plain_weights(&seed, PLAIN_USUAL, type, cols, stored);
    tame(type, cols, stored);
    for (size_t r = 1; r < rows; r++) {
        memcpy(stored + r * stride, stored, stride);
    }
    for (size_t e = 0; e < b->n_experts; e++) {
        ffn_weights *w = &b->experts[e];
        matrix *m = which == 0 ? &w->gate : which == 1 ? &w->up : &w->down;
        const weight_format *f = weight_format_find(type);
        if (matrix_pack(m, f, rows, cols, stored) < 0) must(NULL);
    }
    free(stored);
}

static void open_bench(bench *b, pool *p, const shape *s, uint32_t type) {
    const weight_format *f = weight_format_find(type);
    size_t bytes = 3 * matrix_bytes(f, s->ffn_dim, s->model_dim);
    *b = (bench){.p = p, .s = s, .form = f->act};
    b->n_experts = size_max(COLD_BYTES / bytes, s->n_experts);
    b->n_experts = size_min(b->n_experts, MAX_EXPERTS);
    fill(b, type, s->ffn_dim, s->model_dim, 0);
    fill(b, type, s->ffn_dim, s->model_dim, 1);
    fill(b, type, s->model_dim, s->ffn_dim, 2);
    if (ffn_scratch_new(&b->scratch, MAX_ROWS, MAX_EXPERTS, s->ffn_dim,
                        s->model_dim) < 0) {
        must(NULL);
    }
    uint64_t seed = 4;
    for (size_t i = 0; i < MAX_ROWS; i++) {
        b->x[i] = must(malloc(act_row_bytes(b->form, s->model_dim)));
        b->y[i] = must(malloc(s->model_dim * sizeof(float)));
        plain_row(&seed, PLAIN_USUAL, b->form, s->model_dim, b->x[i]);
        float *scales = b->x[i]; /* or values */
        for (size_t j = 0; j < s->model_dim / ACT_BLOCK; j++) {
            scales[j] *= 0x1p-8f;
        }
    }
}

static void close_bench(bench *b) {
    for (size_t e = 0; e < b->n_experts; e++) {
        ffn_fini(&b->experts[e]);
    }
    ffn_scratch_free(b->scratch);
    for (size_t i = 0; i < MAX_ROWS; i++) {
        free(b->x[i]);
        free(b->y[i]);
    }
}

/* Microseconds of the fastest layer with `n` experts of `rows` rows each. */
static double best_us(bench *b, size_t n, size_t rows) {
    ffn_job jobs[MAX_EXPERTS];
    double best = 1e18;
    size_t next = 0;
    for (uint64_t begin = now_us(); now_us() - begin < MIN_US;) {
        for (size_t j = 0; j < n; j++, next++) {
            jobs[j] = (ffn_job){&b->experts[next % b->n_experts], rows,
                                (const void *const *)b->x + j * rows,
                                b->y + j * rows};
        }
        uint64_t t0 = now_us();
        if (ffn_run(b->p, b->scratch, jobs, n, b->form, false) < 0) must(NULL);
        double us = (double)(now_us() - t0);
        if (us < best) best = us;
    }
    return best;
}

/* `tokens` spread over all experts, in G multiply-adds a second. */
static double speed(bench *b, size_t tokens) {
    const shape *s = b->s;
    size_t n = size_min(tokens * s->top_k, s->n_experts);
    size_t rows = tokens * s->top_k / n;
    double products =
        3.0 * (double)(s->model_dim * s->ffn_dim) * (double)(n * rows);
    return products / best_us(b, n, rows) / 1e3;
}

static void measure(pool *p, const shape *s, uint32_t type) {
    static bench b;
    open_bench(&b, p, s, type);
    const ffn_weights *w = &b.experts[0];
    double bytes = (double)(w->gate.bytes + w->up.bytes + w->down.bytes);
    double gb = bytes * (double)s->top_k / best_us(&b, s->top_k, 1) / 1e3;
    printf("%-9s %-6s %7.1f GB/s  %8.1f %8.1f G/s\n", s->name,
           weight_type_name(type), gb, speed(&b, 16), speed(&b, 512));
    fflush(stdout);
    close_bench(&b);
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : 0;
    const char *format = argc > 2 ? argv[2] : "q4_k";
    const char *only = argc > 3 ? argv[3] : NULL;
    uint32_t type = 0;
    while (type < 64 && (weight_format_find(type) == NULL ||
                         strcmp(weight_type_name(type), format) != 0)) {
        type++;
    }
    char why[128] = "";
    pool *p;
    if (cpu_setup(why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        return 2;
    }
    if (type == 64 || n_threads < 0 || pool_new(&p, (uint32_t)n_threads) < 0) {
        fprintf(stderr, "usage: bench_ffn [THREADS [FORMAT [SHAPE]]]\n");
        return 2;
    }
    printf("%u threads\n%-9s %-6s %12s  %8s %8s tokens\n", pool_threads(p),
           "shape", "format", "1", "16", "512");
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        if (only != NULL && strcmp(only, shapes[i].name) != 0) continue;
        measure(p, &shapes[i], type);
    }
    pool_free(p);
    return 0;
}
