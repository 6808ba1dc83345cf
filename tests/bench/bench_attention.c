/* bench_attention.c - speed of attention by shape, context and KV type.
 *
 *   bench_attention [THREADS [SHAPE [TYPE]]]
 *
 * For the last 256 rows of prompts of some lengths: multiply-adds (G/s) that
 * causality asks for, and their share of the peak, which is measured: chains of
 * fma in registers.  For one row, as in decoding: GB/s of keys and values read.
 * All KV heads of one layer; the best of a few runs counts.  SHAPE and TYPE, as
 * in the table, choose one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "engine/attention.h"
#include "engine/cpu.h"
#include "engine/pool.h"
#include "engine/util.h"

#define CHUNK 256
#define MOST 16384 /* positions */
#define MIN_US 150000

typedef struct {
    const char *name;
    uint32_t n_kv_heads, group, key_dim, value_dim, window;
    bool latent;
} shape;

static const shape shapes[] = {
    {"olmoe", 16, 1, 128, 128, 0, false},
    {"qwen3", 4, 8, 128, 128, 0, false},
    {"mixtral", 8, 4, 128, 128, 0, false},
    {"gpt-oss", 8, 8, 64, 64, 128, false},
    {"deepseek-v2-lite", 1, 16, 576, 512, 0, true},
};

typedef struct {
    pool *p;
    const shape *shape;
    kv_cache *kv;
    kv_seq seq;
    attention_scratch *scratch[POOL_MAX_THREADS];
    float *q, *out; /* [CHUNK][kv heads][group][dim] */
    uint32_t first_row, n_rows, tile_rows, n_tiles, tile_heads, parts;
} bench;

static void *must(void *p) {
    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static float noise(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) * 0x1p-31f;
}

/* ---- the peak ---- */

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float chains_512(size_t n) {
    __m512 acc[12], x = _mm512_set1_ps(0.5f);
    for (int i = 0; i < 12; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (size_t k = 0; k < n; k++) {
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] =
            _mm512_fmadd_ps(acc[i], x, x);
    }
    for (int i = 1; i < 12; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    return _mm512_reduce_add_ps(acc[0]);
}

__attribute__((target("avx2,fma"))) static float chains_256(size_t n) {
    __m256 acc[12], x = _mm256_set1_ps(0.5f);
    for (int i = 0; i < 12; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (size_t k = 0; k < n; k++) {
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] =
            _mm256_fmadd_ps(acc[i], x, x);
    }
    for (int i = 1; i < 12; i++)
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    return _mm256_cvtss_f32(acc[0]);
}
#else
static float chains_512(size_t n) {
    return (float)n;
}
static float chains_256(size_t n) {
    return (float)n;
}
#endif

#define CHAIN_STEPS 100000

static void chain_task(void *ctx, uint32_t task, uint32_t worker) {
    float *sums = ctx;
    bool wide = cpu_current() >= CPU_AVX512;
    (void)worker;
    sums[task] = wide ? chains_512(CHAIN_STEPS) : chains_256(CHAIN_STEPS);
}

/* G multiply-adds a second; 0 at levels without vectors. */
static double peak(pool *p) {
    if (cpu_current() < CPU_AVX2) return 0;
    float sums[POOL_MAX_THREADS];
    double lanes = cpu_current() >= CPU_AVX512 ? 16 : 8, best = 0;
    for (uint64_t begin = now_us(); now_us() - begin < MIN_US;) {
        uint64_t t0 = now_us();
        pool_run(p, pool_threads(p), chain_task, sums);
        double us = (double)(now_us() - t0);
        double g = CHAIN_STEPS * 12 * lanes * pool_threads(p) / us / 1e3;
        if (g > best) best = g;
    }
    return best;
}

/* ---- attention ---- */

static void open_bench(bench *b, pool *p, const shape *s, kv_type type) {
    uint64_t seed = 1;
    kv_config c = {.type = type,
                   .n_layers = 1,
                   .n_kv_heads = s->n_kv_heads,
                   .key_dim = s->key_dim,
                   .value_dim = s->value_dim,
                   .n_pages = MOST / KV_PAGE,
                   .latent = s->latent};
    *b = (bench){.p = p, .shape = s};
    if (kv_cache_new(&b->kv, &c) < 0) must(NULL);
    if (kv_reserve(b->kv, &b->seq, MOST) < 0) must(NULL);
    for (uint32_t i = 0; i < pool_threads(p); i++) {
        if (attention_scratch_new(&b->scratch[i], &c) < 0) must(NULL);
    }
    size_t n = (size_t)s->n_kv_heads * s->key_dim;
    float *x = must(malloc(n * sizeof(*x)));
    for (uint32_t at = 0; at < MOST; at++) {
        for (size_t i = 0; i < n; i++)
            x[i] = noise(&seed);
        kv_write(b->kv, &b->seq, 0, at, x, x);
    }
    free(x);
    size_t heads = (size_t)CHUNK * s->n_kv_heads * s->group;
    b->q = must(malloc(heads * s->key_dim * sizeof(float)));
    b->out = must(malloc(heads * s->value_dim * sizeof(float)));
    for (size_t i = 0; i < heads * s->key_dim; i++)
        b->q[i] = noise(&seed);
}

static void close_bench(bench *b) {
    for (uint32_t i = 0; i < pool_threads(b->p); i++)
        attention_scratch_free(b->scratch[i]);
    kv_release(b->kv, &b->seq);
    kv_cache_free(b->kv);
    free(b->q);
    free(b->out);
}

static uint32_t first_key(const shape *s, uint32_t position) {
    if (s->window == 0 || position < s->window) return 0;
    return position - s->window + 1;
}

static void attend_task(void *ctx, uint32_t task, uint32_t worker) {
    const bench *b = ctx;
    const shape *s = b->shape;
    uint32_t each = s->n_kv_heads * b->parts;
    uint32_t tile = b->n_tiles - 1 - task / each;
    uint32_t kv_head = task % each / b->parts;
    uint32_t head = task % b->parts * b->tile_heads;
    uint32_t from = tile * b->tile_rows;
    uint32_t n = (uint32_t)size_min(b->tile_rows, b->n_rows - from);
    attention_row rows[ATTENTION_LANES];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t position = b->first_row + from + i;
        size_t at =
            ((size_t)(from + i) * s->n_kv_heads + kv_head) * s->group + head;
        rows[i] =
            (attention_row){position, first_key(s, position),
                            b->q + at * s->key_dim, b->out + at * s->value_dim};
    }
    const attention_query query = {.seq = &b->seq,
                                   .kv_head = kv_head,
                                   .group = b->tile_heads,
                                   .scale = 0.1f,
                                   .n_rows = n,
                                   .rows = rows};
    attention_run(b->kv, &query, b->scratch[worker]);
}

/* Microseconds of the fastest run of rows that end at `context`. */
static double best_us(bench *b, uint32_t context, uint32_t n_rows) {
    const shape *s = b->shape;
    b->first_row = context - n_rows;
    b->n_rows = n_rows;
    b->tile_heads = s->group;
    if (s->n_kv_heads < pool_threads(b->p) && n_rows == 1) {
        b->tile_heads = s->group / 2;
    }
    b->parts = s->group / b->tile_heads;
    b->tile_rows = ATTENTION_LANES / b->tile_heads;
    b->n_tiles = (n_rows + b->tile_rows - 1) / b->tile_rows;

    double best = 1e18;
    uint64_t begin = now_us();
    do {
        uint64_t t0 = now_us();
        pool_run(b->p, b->n_tiles * s->n_kv_heads * b->parts, attend_task, b);
        double us = (double)(now_us() - t0);
        if (us < best) best = us;
    } while (now_us() - begin < MIN_US);
    return best;
}

/* Keys that all rows see together. */
static double keys_seen(const bench *b) {
    double keys = 0;
    for (uint32_t i = 0; i < b->n_rows; i++) {
        uint32_t position = b->first_row + i;
        keys += position + 1 - first_key(b->shape, position);
    }
    return keys;
}

static void measure(pool *p, const shape *s, kv_type type) {
    static const uint32_t prompts[] = {512, 2048, 8192};
    static const uint32_t contexts[] = {512, 4096, 16384};
    bench b;
    open_bench(&b, p, s, type);
    double most = peak(p); /* of this moment: neighbours take some */
    printf("%-16s %-5s %5.0f", s->name, kv_type_name(type), most);
    for (size_t i = 0; i < ARRAY_LEN(prompts); i++) {
        double us = best_us(&b, prompts[i], CHUNK);
        double g = keys_seen(&b) * s->n_kv_heads * s->group *
                   (s->key_dim + s->value_dim) / us / 1e3;
        printf("  %6.1f (%2.0f%%)", g, most > 0 ? 100 * g / most : 0);
        fflush(stdout);
    }
    for (size_t i = 0; i < ARRAY_LEN(contexts); i++) {
        double us = best_us(&b, contexts[i], 1);
        double bytes = keys_seen(&b) / KV_PAGE *
                       (double)kv_page_bytes(kv_cache_config(b.kv));
        printf("  %5.1f", bytes / us / 1e3);
        fflush(stdout);
    }
    printf("\n");
    close_bench(&b);
}

int main(int argc, char **argv) {
    uint32_t threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    pool *p;
    if (pool_new(&p, threads) < 0) must(NULL);
    printf("%s, %u threads\n", cpu_name(cpu_current()), pool_threads(p));
    printf("%-22s  peak  prompt of 512, 2048, 8192: G/s  decode at 512, 4k, "
           "16k: GB/s\n",
           "");
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        if (argc > 2 && strcmp(argv[2], shapes[i].name) != 0) continue;
        for (int type = 0; type < KV_TYPES; type++) {
            const char *name = kv_type_name((kv_type)type);
            if (argc > 3 && strcmp(argv[3], name) != 0) continue;
            measure(p, &shapes[i], (kv_type)type);
        }
    }
    pool_free(p);
    return 0;
}
