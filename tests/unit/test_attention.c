/* test_attention.c - attention against a plain softmax in double precision, and
 * the contract: equal bits at every level, and a result that depends on the
 * keys up to the query's position alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/attention.h"
#include "engine/cpu.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define MAX_POSITIONS 832
#define MAX_ROW 16384 /* group * dim of the largest case */
#define MAX_TILE 70   /* positions of one call */

typedef struct {
    kv_type type;
    uint32_t n_kv_heads, key_dim, value_dim;
    size_t group;
    bool latent;
} shape;

/* What a query sees, and what is done to its scores. */
typedef struct {
    uint32_t window; /* 0: all keys */
    float softcap;
    bool sinks;
} manner;

/* A cache with two layers; sequences are filled by fill_positions(). */
typedef struct {
    shape shape;
    manner manner;
    kv_cache *kv;
    kv_seq seq;
    attention_scratch *scratch;
} fixture;

static uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

/* In [-1, 1), a pure function of where the value stands. */
static float value_at(uint32_t what, uint32_t position, uint32_t i) {
    uint32_t x = mix(mix(what * 977u + position) + i);
    return (float)(int32_t)x * 0x1p-31f;
}

/* Every byte of every page: NaN in f32 and in f16. */
static void poison(fixture *f) {
    const kv_config *c = kv_cache_config(f->kv);
    for (uint32_t page = 0; page < c->n_pages; page++) {
        void *start = (void *)(uintptr_t)kv_block_at(f->kv, page, 0, 0).keys;
        memset(start, 0xff, kv_page_bytes(c));
    }
}

static void setup(fixture *f, shape s, uint32_t positions) {
    kv_config config = {.type = s.type,
                        .n_layers = 2,
                        .n_kv_heads = s.n_kv_heads,
                        .key_dim = s.key_dim,
                        .value_dim = s.value_dim,
                        .latent = s.latent,
                        .n_pages = positions / KV_PAGE + 3};
    memset(f, 0, sizeof(*f));
    f->shape = s;
    assert_int_equal(kv_cache_new(&f->kv, &config), 0);
    assert_int_equal(attention_scratch_new(&f->scratch, &config), 0);
    poison(f);
    assert_int_equal(kv_reserve(f->kv, &f->seq, positions), 0);
}

static void teardown(fixture *f) {
    kv_release(f->kv, &f->seq);
    kv_cache_free(f->kv);
    attention_scratch_free(f->scratch);
}

/* Keys and values of positions [from, to), in both layers. */
static void fill_positions(fixture *f, uint32_t from, uint32_t to) {
    static float k[MAX_ROW], v[MAX_ROW];
    uint32_t n_k = f->shape.n_kv_heads * f->shape.key_dim;
    uint32_t n_v = f->shape.n_kv_heads * f->shape.value_dim;

    for (uint32_t layer = 0; layer < 2; layer++) {
        for (uint32_t p = from; p < to; p++) {
            for (uint32_t i = 0; i < n_k; i++) {
                k[i] = 2 * value_at(1 + layer, p, i);
            }
            for (uint32_t i = 0; i < n_v; i++) {
                v[i] = value_at(3 + layer, p, i);
            }
            kv_write(f->kv, &f->seq, layer, p, k, v);
        }
    }
}

static void fill_query(const fixture *f, uint32_t position, float *q) {
    for (uint32_t i = 0; i < f->shape.group * f->shape.key_dim; i++) {
        q[i] = 3 * value_at(9, position, i);
    }
}

static float scale_of(const fixture *f) {
    return 1.0f / sqrtf((float)f->shape.key_dim);
}

static uint32_t first_of(const fixture *f, uint32_t position) {
    uint32_t window = f->manner.window;
    return window == 0 || position < window ? 0 : position - window + 1;
}

/* Large enough to take a good part of the weight. */
static float sink_of(uint32_t head) {
    return 2 * value_at(11, 0, head);
}

/* Some heads of the group at some positions; `out` as [position][group][dim].
 */
static void attend_tile(const fixture *f, uint32_t layer, uint32_t kv_head,
                        const uint32_t *positions, size_t n, size_t head0,
                        size_t group, float *out) {
    static float q[MAX_TILE][MAX_ROW], sinks[MAX_ROW];
    attention_row rows[MAX_TILE];
    assert_true(n <= MAX_TILE);
    for (size_t i = 0; i < n; i++) {
        fill_query(f, positions[i], q[i]);
        rows[i] = (attention_row){
            .position = positions[i],
            .first = first_of(f, positions[i]),
            .q = q[i] + head0 * f->shape.key_dim,
            .out = out + i * group * f->shape.value_dim,
        };
    }
    for (uint32_t h = 0; h < f->shape.group; h++)
        sinks[h] = sink_of(h);
    const attention_query query = {
        .seq = &f->seq,
        .layer = layer,
        .kv_head = kv_head,
        .group = group,
        .scale = scale_of(f),
        .softcap = f->manner.softcap,
        .sinks = f->manner.sinks ? sinks + head0 : NULL,
        .n_rows = n,
        .rows = rows,
    };
    attention_run(f->kv, &query, f->scratch);
}

static void attend(const fixture *f, uint32_t layer, uint32_t kv_head,
                   uint32_t position, float *out) {
    attend_tile(f, layer, kv_head, &position, 1, 0, f->shape.group, out);
}

/* softmax(scale * q K^T) V in double, from what the cache stores, for query
 * head g. */
static void attend_plainly(const fixture *f, uint32_t layer, uint32_t head,
                           uint32_t position, uint32_t g, double *out) {
    static double p[MAX_POSITIONS];
    static float queries[MAX_ROW];
    const float *q = queries + g * f->shape.key_dim;
    const kv_config *c = kv_cache_config(f->kv);
    const uint32_t first = first_of(f, position);
    const double cap = (double)f->manner.softcap, sink = (double)sink_of(g);
    double max = f->manner.sinks ? sink : -INFINITY, sum = 0;

    fill_query(f, position, queries);
    for (uint32_t j = first; j <= position; j++) {
        uint32_t page = f->seq.pages[j / KV_PAGE];
        const kv_block b = kv_block_at(f->kv, page, layer, head);
        p[j] = 0;
        for (size_t d = 0; d < f->shape.key_dim; d++) {
            p[j] += (double)q[d] * (double)kv_key(c, &b, j % KV_PAGE, d);
        }
        p[j] *= (double)scale_of(f);
        if (cap > 0) p[j] = cap * tanh(p[j] / cap);
        max = fmax(max, p[j]);
    }
    if (f->manner.sinks) sum = exp(sink - max);
    memset(out, 0, f->shape.value_dim * sizeof(*out));
    for (uint32_t j = first; j <= position; j++) {
        uint32_t page = f->seq.pages[j / KV_PAGE];
        const kv_block b = kv_block_at(f->kv, page, layer, head);
        double weight = exp(p[j] - max);
        sum += weight;
        for (size_t d = 0; d < f->shape.value_dim; d++) {
            out[d] += weight * (double)kv_value(c, &b, j % KV_PAGE, d);
        }
    }
    for (size_t d = 0; d < f->shape.value_dim; d++) {
        out[d] /= sum;
    }
}

static const shape shapes[] = {
    {KV_F32, 2, 16, 16, 1, false},    {KV_F16, 2, 16, 16, 2, false},
    {KV_F32, 1, 12, 12, 4, false},    {KV_F16, 1, 12, 12, 3, false},
    {KV_F32, 2, 32, 32, 8, false},    {KV_F16, 3, 128, 128, 8, false},
    {KV_F32, 1, 1, 1, 5, false},      {KV_F16, 1, 1, 3, 1, false},
    {KV_F32, 1, 7, 33, 7, false},     {KV_F16, 1, 33, 71, 6, false},
    {KV_F32, 1, 64, 80, 4, false},    {KV_F16, 1, 192, 128, 4, false},
    {KV_F32, 1, 576, 512, 3, false},  {KV_F16, 1, 1024, 1024, 2, false},
    {KV_F32, 1, 8, 15, 64, false},    {KV_F16, 2, 16, 17, 64, false},
    {KV_F32, 1, 128, 128, 16, false}, {KV_F32, 1, 576, 512, 20, true},
    {KV_F16, 1, 576, 512, 17, true},  {KV_F16, 1, 40, 24, 3, true},
    {KV_F32, 1, 9, 9, 16, true},      {KV_F16, 1, 33, 30, 140, true},
    {KV_F32, 2, 20, 12, 5, true},     {KV_Q8_0, 2, 64, 64, 1, false},
    {KV_Q8_0, 1, 128, 128, 8, false}, {KV_Q8_0, 2, 40, 33, 9, false},
    {KV_Q8_0, 1, 1, 5, 4, false},     {KV_Q8_0, 1, 576, 512, 16, true},
    {KV_Q8_0, 2, 45, 24, 3, true},
};

static const manner manners[] = {
    {0, 0, false},  {1, 0, false}, {8, 0, true},
    {70, 2, false}, {0, 30, true}, {128, 0, false},
};

/* First and last slots of blocks, and places inside. */
static const uint32_t positions[] = {0,  1,  14, 15,  16,  17,  31,  62,
                                     63, 64, 65, 100, 127, 128, 200, 255};

/* Every head at one position. */
static void check_position(const fixture *f, uint32_t layer, uint32_t kv_head,
                           uint32_t position) {
    static float out[MAX_ROW];
    static double want[ATTENTION_MAX_DIM];
    /* latent values are keys, which are larger */
    const double error = f->shape.latent ? 1e-5 : 3e-6;
    attend(f, layer, kv_head, position, out);
    for (uint32_t g = 0; g < f->shape.group; g++) {
        attend_plainly(f, layer, kv_head, position, g, want);
        for (size_t d = 0; d < f->shape.value_dim; d++) {
            double got = (double)out[g * f->shape.value_dim + d];
            assert_true(fabs(got - want[d]) < error);
        }
    }
}

static void matches_a_plain_softmax_in_double(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        fixture f;
        setup(&f, shapes[i], 256);
        fill_positions(&f, 0, 256);
        for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
            f.manner = manners[(i + p) % ARRAY_LEN(manners)];
            check_position(&f, 1, f.shape.n_kv_heads - 1, positions[p]);
        }
        teardown(&f);
    }
}

static void follows_a_long_context(void **state) {
    const shape s = {KV_F16, 1, 64, 64, 4, false};
    fixture f;
    (void)state;
    setup(&f, s, MAX_POSITIONS);
    fill_positions(&f, 0, MAX_POSITIONS);
    for (uint32_t p = 300; p < MAX_POSITIONS; p += 97) {
        f.manner = manners[p % ARRAY_LEN(manners)];
        check_position(&f, 0, 0, p);
    }
    teardown(&f);
}

/* The formula of attention.h, written out for one head and f32. */
static void check_written_order(manner how) {
    const shape s = {KV_F32, 1, 20, 24, 1, false};
    static float got[MAX_ROW], q[MAX_ROW];
    const uint32_t position = 201;
    fixture f;
    setup(&f, s, 256);
    f.manner = how;
    fill_positions(&f, 0, 256);
    fill_query(&f, position, q);
    const uint32_t first = first_of(&f, position);
    float m = how.sinks ? sink_of(0) : -INFINITY, l = how.sinks, o[24] = {0};
    for (uint32_t b = first / 64; b < 4; b++) {
        const kv_block block = kv_block_at(f.kv, f.seq.pages[b], 0, 0);
        const float *k = block.keys, *v = block.values;
        uint32_t n = b < 3 ? 64 : position + 1 - 192;
        uint32_t from = b == first / 64 ? first % 64 : 0;
        float p[64] = {0}, best = m;
        for (uint32_t j = from; j < n; j++) {
            float acc = 0;
            for (size_t d = 0; d < 20; d++) {
                acc = fmaf(q[d], k[d * 64 + j], acc);
            }
            p[j] = scale_of(&f) * acc;
            if (how.softcap > 0) p[j] = vm_softcapf(p[j], how.softcap);
            best = p[j] > best ? p[j] : best;
        }
        float c = b == first / 64 && !how.sinks ? 0 : vm_expf(m - best);
        for (uint32_t j = from; j < n; j++) {
            p[j] = vm_expf(p[j] - best);
        }
        m = best;
        l = fmaf(l, c, vm_sum(64, p));
        for (size_t d = 0; d < 24; d++) {
            o[d] *= c;
            for (uint32_t j = from; j < n; j++) {
                o[d] = fmaf(p[j], v[j * 24 + d], o[d]);
            }
        }
    }
    attend(&f, 0, 0, position, got);
    for (size_t d = 0; d < 24; d++) {
        assert_true(got[d] == o[d] / l);
    }
    teardown(&f);
}

static void follows_the_written_order_of_operations(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(manners); i++)
        check_written_order(manners[i]);
}

static void every_level_has_equal_bits(void **state) {
    static float want[MAX_ROW], got[MAX_ROW];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        fixture f;
        setup(&f, shapes[i], 256);
        fill_positions(&f, 0, 256);
        size_t bytes = f.shape.group * f.shape.value_dim * sizeof(float);
        for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
            f.manner = manners[(i + p) % ARRAY_LEN(manners)];
            assert_int_equal(cpu_force(CPU_SCALAR), 0);
            attend(&f, 0, 0, positions[p], want);
            for (cpu_level level = CPU_AVX2; level <= cpu_best(); level++) {
                assert_int_equal(cpu_force(level), 0);
                attend(&f, 0, 0, positions[p], got);
                assert_memory_equal(want, got, bytes);
            }
        }
        teardown(&f);
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

/* Filled up to p in a poisoned cache, or far beyond p: the same bits, so a
 * prompt's chunks cannot be seen, nor what a page held before. */
static void keys_after_the_position_do_not_matter(void **state) {
    static float alone[MAX_ROW], within[MAX_ROW];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
            assert_int_equal(cpu_force(level), 0);
            fixture growing, full;
            uint32_t filled = 0;
            setup(&growing, shapes[i], 256);
            setup(&full, shapes[i], 256);
            fill_positions(&full, 0, 256);
            size_t n = growing.shape.group * growing.shape.value_dim;
            for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
                fill_positions(&growing, filled, positions[p] + 1);
                filled = positions[p] + 1;
                growing.manner = manners[(i + p) % ARRAY_LEN(manners)];
                full.manner = growing.manner;
                attend(&growing, 1, 0, positions[p], alone);
                attend(&full, 1, 0, positions[p], within);
                assert_memory_equal(alone, within, n * sizeof(float));
                for (size_t d = 0; d < n; d++) {
                    assert_true(isfinite(alone[d]));
                }
            }
            teardown(&growing);
            teardown(&full);
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

/* A head's bits are the same alone and in any group, at any place, also in one
 * that is larger than a kernel takes at once. */
static void the_group_does_not_matter(void **state) {
    static float group_out[MAX_ROW], alone[MAX_ROW];
    static const shape of[] = {{KV_F16, 1, 24, 40, 11, false},
                               {KV_F32, 1, 8, 9, 150, false}};
    const uint32_t position = 150;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        fixture f;
        setup(&f, of[i], 200);
        f.manner = (manner){90, 4, true};
        fill_positions(&f, 0, 200);
        size_t dim = of[i].value_dim;
        for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
            assert_int_equal(cpu_force(level), 0);
            attend(&f, 0, 0, 150, group_out);
            for (size_t g = 0; g < of[i].group; g++) {
                attend_tile(&f, 0, 0, &position, 1, g, 1, alone);
                assert_memory_equal(alone, group_out + g * dim,
                                    dim * sizeof(float));
            }
        }
        teardown(&f);
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

/* Positions by themselves, and the same ones in a tile: neighbours, across a
 * block's end, and far apart, so that windows do not overlap; more than a
 * kernel takes at once. */
static void check_tile(fixture *f, const uint32_t *at, size_t n) {
    static float want[MAX_ROW], tile[MAX_TILE * MAX_ROW];
    const size_t row = f->shape.group * f->shape.value_dim;
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        attend_tile(f, 1, 0, at, n, 0, f->shape.group, tile);
        assert_int_equal(cpu_force(CPU_SCALAR), 0);
        for (size_t i = 0; i < n; i++) {
            attend(f, 1, 0, at[i], want);
            assert_memory_equal(want, tile + i * row, row * sizeof(float));
        }
    }
}

static void the_tile_does_not_matter(void **state) {
    static const uint32_t far[] = {0, 1, 63, 64, 100, 101, 120, 190, 255};
    static const struct {
        uint32_t first, n;
    } near[] = {{0, 7}, {60, 9}, {128, 5}, {200, 1}, {61, 3}, {190, 66}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        fixture f;
        setup(&f, shapes[i], 256);
        fill_positions(&f, 0, 256);
        bool small = shapes[i].group * shapes[i].key_dim < 200;
        for (size_t k = 0; k < ARRAY_LEN(near); k++) {
            uint32_t at[MAX_TILE];
            f.manner = manners[(i + k) % ARRAY_LEN(manners)];
            uint32_t n = small ? near[k].n : (uint32_t)size_min(near[k].n, 4);
            for (uint32_t p = 0; p < n; p++)
                at[p] = near[k].first + p;
            check_tile(&f, at, n);
        }
        f.manner = manners[i % ARRAY_LEN(manners)];
        if (small) check_tile(&f, far, ARRAY_LEN(far));
        teardown(&f);
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

/* A value that a row does not see may be an infinity, or turn a -0: rows of a
 * tile end at different keys. */
static void values_of_later_rows_do_not_matter(void **state) {
    static float want[MAX_ROW], tile[MAX_TILE * MAX_ROW];
    const shape s = {KV_F32, 1, 16, 33, 1, false};
    float k[16], v[33];
    uint32_t at[MAX_TILE];
    fixture f;
    (void)state;
    setup(&f, s, 80);
    fill_positions(&f, 0, 80);
    for (uint32_t p = 0; p < 80; p++) {
        for (uint32_t i = 0; i < 16; i++)
            k[i] = value_at(1, p, i);
        for (uint32_t i = 0; i < 33; i++)
            v[i] = p < 40 ? -1e-44f : p == 60 ? INFINITY : 1;
        kv_write(f.kv, &f.seq, 0, p, k, v);
    }
    for (uint32_t p = 0; p < MAX_TILE; p++)
        at[p] = p;
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        attend_tile(&f, 0, 0, at, MAX_TILE, 0, 1, tile);
        assert_int_equal(cpu_force(CPU_SCALAR), 0);
        for (uint32_t p = 0; p < MAX_TILE; p++) {
            attend(&f, 0, 0, p, want);
            assert_memory_equal(want, tile + p * 33, 33 * sizeof(float));
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
    teardown(&f);
}

/* A key before the window may hold anything. */
static void keys_before_the_first_do_not_matter(void **state) {
    static float want[MAX_ROW], got[MAX_ROW];
    const shape s = {KV_F32, 1, 16, 20, 5, false};
    (void)state;
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        fixture whole, late;
        setup(&whole, s, 256);
        setup(&late, s, 256);
        whole.manner = late.manner = (manner){.window = 80};
        fill_positions(&whole, 0, 256);
        fill_positions(&late, 121, 256); /* poison before it */
        for (uint32_t p = 200; p < 256; p += 11) {
            attend(&whole, 0, 0, p, want);
            attend(&late, 0, 0, p, got);
            assert_memory_equal(want, got, 5 * 20 * sizeof(float));
        }
        teardown(&whole);
        teardown(&late);
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

/* By hand: scores 0 and 0 and a sink of log 2 share the weight 1 : 1 : 2. */
static void a_sink_takes_weight_and_gives_nothing(void **state) {
    const shape s = {KV_F32, 1, 4, 2, 1, false};
    const float q[4] = {0}, sink = logf(2.0f), v[2][2] = {{4, 8}, {12, 0}};
    float out[2];
    fixture f;
    (void)state;
    setup(&f, s, 2);
    for (uint32_t p = 0; p < 2; p++)
        kv_write(f.kv, &f.seq, 0, p, q, v[p]);
    const attention_row row = {.position = 1, .q = q, .out = out};
    const attention_query query = {.seq = &f.seq,
                                   .group = 1,
                                   .scale = 1,
                                   .sinks = &sink,
                                   .n_rows = 1,
                                   .rows = &row};
    attention_run(f.kv, &query, f.scratch);
    assert_float_equal(out[0], 4.0f, 1e-6f);
    assert_float_equal(out[1], 2.0f, 1e-6f);
    teardown(&f);
}

/* The same keys in either cache, the values being their first part: the layout
 * changes no bit, and heads of a query may stand apart. */
static void a_latent_cache_gives_what_a_grouped_one_gives(void **state) {
    static float k[2 * 40], v[2 * 24], q[37 * 48], want[37 * 24], got[37 * 24];
    const shape grouped = {KV_F16, 2, 40, 24, 37, false};
    shape latent = grouped;
    latent.latent = true;
    fixture a, b;
    (void)state;
    setup(&a, grouped, 200);
    setup(&b, latent, 200);
    for (uint32_t p = 0; p < 200; p++) {
        for (uint32_t i = 0; i < 80; i++) {
            k[i] = 2 * value_at(1, p, i);
            if (i % 40 < 24) v[i / 40 * 24 + i % 40] = k[i];
        }
        kv_write(a.kv, &a.seq, 1, p, k, v);
        kv_write(b.kv, &b.seq, 1, p, k, NULL);
    }
    for (uint32_t i = 0; i < ARRAY_LEN(q); i++)
        q[i] = 3 * value_at(9, 0, i);
    attention_row row = {.position = 199, .first = 3, .q = q};
    attention_query query = {.layer = 1,
                             .kv_head = 1,
                             .group = 37,
                             .q_stride = 48,
                             .scale = 0.2f,
                             .n_rows = 1,
                             .rows = &row};
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        query.seq = &a.seq;
        row.out = want;
        attention_run(a.kv, &query, a.scratch);
        query.seq = &b.seq;
        row.out = got;
        attention_run(b.kv, &query, b.scratch);
        assert_memory_equal(want, got, sizeof(want));
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
    teardown(&a);
    teardown(&b);
}

static void the_order_of_pages_does_not_matter(void **state) {
    static float want[MAX_ROW], got[MAX_ROW];
    const shape s = {KV_F32, 2, 16, 16, 2, false};
    fixture f;
    kv_seq blocker = {0};
    (void)state;
    setup(&f, s, 256);
    fill_positions(&f, 0, 256);
    attend(&f, 1, 1, 250, want);
    uint32_t first_page = f.seq.pages[0];

    /* Release the pages and take them again behind another sequence. */
    kv_release(f.kv, &f.seq);
    assert_int_equal(kv_reserve(f.kv, &blocker, 64 * 3), 0);
    assert_int_equal(kv_reserve(f.kv, &f.seq, 128), 0);
    kv_release(f.kv, &blocker);
    poison(&f);
    assert_int_equal(kv_reserve(f.kv, &f.seq, 256), 0);
    assert_int_not_equal(f.seq.pages[0], first_page);
    fill_positions(&f, 0, 256);
    attend(&f, 1, 1, 250, got);
    assert_memory_equal(want, got, 32 * sizeof(float));
    teardown(&f);
}

/* A score far above all others takes the whole weight, in any block. */
static void a_dominant_key_gives_its_value(void **state) {
    const shape s = {KV_F32, 1, 4, 20, 2, false};
    float k[4], v[20], out[40], q[8] = {50, 50, 50, 50, 50, 50, 50, 50};
    fixture f;
    (void)state;
    for (uint32_t chosen = 0; chosen < 200; chosen += 37) {
        setup(&f, s, 200);
        for (uint32_t p = 0; p < 200; p++) {
            for (size_t d = 0; d < 4; d++) {
                k[d] = p == chosen ? 2.0f : -1.0f;
            }
            for (size_t d = 0; d < 20; d++) {
                v[d] = (float)p + (float)d;
            }
            kv_write(f.kv, &f.seq, 0, p, k, v);
        }
        const attention_row row = {.position = 199, .q = q, .out = out};
        const attention_query query = {.seq = &f.seq,
                                       .group = 2,
                                       .scale = 1.0f,
                                       .n_rows = 1,
                                       .rows = &row};
        attention_run(f.kv, &query, f.scratch);
        for (size_t d = 0; d < 20; d++) {
            assert_true(out[d] == (float)chosen + (float)d);
            assert_true(out[20 + d] == (float)chosen + (float)d);
        }
        teardown(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_a_plain_softmax_in_double),
        cmocka_unit_test(follows_a_long_context),
        cmocka_unit_test(follows_the_written_order_of_operations),
        cmocka_unit_test(every_level_has_equal_bits),
        cmocka_unit_test(keys_after_the_position_do_not_matter),
        cmocka_unit_test(the_group_does_not_matter),
        cmocka_unit_test(the_tile_does_not_matter),
        cmocka_unit_test(values_of_later_rows_do_not_matter),
        cmocka_unit_test(keys_before_the_first_do_not_matter),
        cmocka_unit_test(a_sink_takes_weight_and_gives_nothing),
        cmocka_unit_test(a_latent_cache_gives_what_a_grouped_one_gives),
        cmocka_unit_test(the_order_of_pages_does_not_matter),
        cmocka_unit_test(a_dominant_key_gives_its_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
