/* test_attention.c - attention against a plain softmax in double precision, and
 * the contract: equal bits at every level, and a result that depends on the
 * keys up to the query's position alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/attention.h"
#include "engine/cpu.h"
#include "engine/util.h"
#include "engine/vmath.h"
#include "engine/weight.h"

#define MAX_POSITIONS 832
#define MAX_ROW 2048 /* group * dim of the largest case */

typedef struct {
    kv_type type;
    uint32_t n_kv_heads, key_dim, value_dim;
    size_t group;
} shape;

/* A cache with two layers; sequences are filled by fill_positions(). */
typedef struct {
    shape shape;
    kv_cache *kv;
    kv_seq seq;
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
        void *start = (void *)(uintptr_t)kv_keys(f->kv, page, 0, 0);
        memset(start, 0xff, kv_page_bytes(c));
    }
}

static void setup(fixture *f, shape s, uint32_t positions) {
    kv_config config = {.type = s.type,
                        .n_layers = 2,
                        .n_kv_heads = s.n_kv_heads,
                        .key_dim = s.key_dim,
                        .value_dim = s.value_dim,
                        .n_pages = positions / KV_PAGE + 3};
    memset(f, 0, sizeof(*f));
    f->shape = s;
    assert_int_equal(kv_cache_new(&f->kv, &config), 0);
    poison(f);
    assert_int_equal(kv_reserve(f->kv, &f->seq, positions), 0);
}

static void teardown(fixture *f) {
    kv_release(f->kv, &f->seq);
    kv_cache_free(f->kv);
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

static void attend(const fixture *f, uint32_t layer, uint32_t head,
                   uint32_t position, float *out) {
    static float q[MAX_ROW];
    fill_query(f, position, q);
    attention_group(f->kv, &f->seq, layer, head, position, f->shape.group, q,
                    scale_of(f), out);
}

static double stored(const fixture *f, const void *from, size_t i) {
    if (f->shape.type == KV_F16) {
        return (double)f16_to_f32(((const uint16_t *)from)[i]);
    }
    return (double)((const float *)from)[i];
}

/* softmax(scale * q K^T) V in double, from what the cache stores. */
static void attend_plainly(const fixture *f, uint32_t layer, uint32_t head,
                           uint32_t position, const float *q, double *out) {
    static double p[MAX_POSITIONS];
    double max = -INFINITY, sum = 0;

    for (uint32_t j = 0; j <= position; j++) {
        uint32_t page = f->seq.pages[j / KV_PAGE];
        const void *keys = kv_keys(f->kv, page, layer, head);
        p[j] = 0;
        for (size_t d = 0; d < f->shape.key_dim; d++) {
            p[j] += (double)q[d] * stored(f, keys, d * KV_PAGE + j % KV_PAGE);
        }
        p[j] *= (double)scale_of(f);
        max = fmax(max, p[j]);
    }
    memset(out, 0, f->shape.value_dim * sizeof(*out));
    for (uint32_t j = 0; j <= position; j++) {
        uint32_t page = f->seq.pages[j / KV_PAGE];
        const void *values = kv_values(f->kv, page, layer, head);
        double weight = exp(p[j] - max);
        sum += weight;
        for (size_t d = 0; d < f->shape.value_dim; d++) {
            size_t at = j % KV_PAGE * f->shape.value_dim + d;
            out[d] += weight * stored(f, values, at);
        }
    }
    for (size_t d = 0; d < f->shape.value_dim; d++) {
        out[d] /= sum;
    }
}

static const shape shapes[] = {
    {KV_F32, 2, 16, 16, 1},    {KV_F16, 2, 16, 16, 2},
    {KV_F32, 1, 12, 12, 4},    {KV_F16, 1, 12, 12, 3},
    {KV_F32, 2, 32, 32, 8},    {KV_F16, 3, 128, 128, 8},
    {KV_F32, 1, 1, 1, 5},      {KV_F16, 1, 1, 3, 1},
    {KV_F32, 1, 7, 33, 7},     {KV_F16, 1, 33, 71, 6},
    {KV_F32, 1, 64, 80, 4},    {KV_F16, 1, 192, 128, 4},
    {KV_F32, 1, 576, 512, 3},  {KV_F16, 1, 1024, 1024, 2},
    {KV_F32, 1, 8, 15, 64},    {KV_F16, 2, 16, 17, 64},
    {KV_F32, 1, 128, 128, 16},
};

/* First and last slots of blocks, and places inside. */
static const uint32_t positions[] = {0,  1,  14, 15,  16,  17,  31,  62,
                                     63, 64, 65, 100, 127, 128, 200, 255};

static void matches_a_plain_softmax_in_double(void **state) {
    static float out[MAX_ROW], q[MAX_ROW];
    static double want[ATTENTION_MAX_DIM];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        fixture f;
        setup(&f, shapes[i], 256);
        fill_positions(&f, 0, 256);
        for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
            uint32_t head = f.shape.n_kv_heads - 1;
            attend(&f, 1, head, positions[p], out);
            fill_query(&f, positions[p], q);
            for (size_t g = 0; g < f.shape.group; g++) {
                attend_plainly(&f, 1, head, positions[p],
                               q + g * f.shape.key_dim, want);
                for (size_t d = 0; d < f.shape.value_dim; d++) {
                    double got = (double)out[g * f.shape.value_dim + d];
                    assert_true(fabs(got - want[d]) < 3e-6);
                }
            }
        }
        teardown(&f);
    }
}

static void follows_a_long_context(void **state) {
    const shape s = {KV_F16, 1, 64, 64, 4};
    static float out[MAX_ROW], q[MAX_ROW];
    static double want[ATTENTION_MAX_DIM];
    fixture f;
    (void)state;
    setup(&f, s, MAX_POSITIONS);
    fill_positions(&f, 0, MAX_POSITIONS);
    for (uint32_t p = 300; p < MAX_POSITIONS; p += 97) {
        attend(&f, 0, 0, p, out);
        fill_query(&f, p, q);
        attend_plainly(&f, 0, 0, p, q + 3 * 64, want);
        for (size_t d = 0; d < 64; d++) {
            assert_true(fabs((double)out[3 * 64 + d] - want[d]) < 3e-6);
        }
    }
    teardown(&f);
}

/* The formula of attention.h, written out for one head and f32. */
static void follows_the_written_order_of_operations(void **state) {
    const shape s = {KV_F32, 1, 20, 24, 1};
    static float got[MAX_ROW], q[MAX_ROW];
    const uint32_t position = 201;
    float m = -INFINITY, l = 0, o[24] = {0};
    fixture f;
    (void)state;
    setup(&f, s, 256);
    fill_positions(&f, 0, 256);
    fill_query(&f, position, q);
    for (uint32_t b = 0; b < 4; b++) {
        const float *k = kv_keys(f.kv, f.seq.pages[b], 0, 0);
        const float *v = kv_values(f.kv, f.seq.pages[b], 0, 0);
        uint32_t n = b < 3 ? 64 : position + 1 - 192;
        float p[64] = {0}, best = m;
        for (uint32_t j = 0; j < n; j++) {
            float acc = 0;
            for (size_t d = 0; d < 20; d++) {
                acc = fmaf(q[d], k[d * 64 + j], acc);
            }
            p[j] = scale_of(&f) * acc;
            best = p[j] > best ? p[j] : best;
        }
        float c = b == 0 ? 0 : vm_expf(m - best);
        for (uint32_t j = 0; j < n; j++) {
            p[j] = vm_expf(p[j] - best);
        }
        m = best;
        l = fmaf(l, c, vm_sum(64, p));
        for (size_t d = 0; d < 24; d++) {
            o[d] *= c;
            for (uint32_t j = 0; j < n; j++) {
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

static void every_level_has_equal_bits(void **state) {
    static float want[MAX_ROW], got[MAX_ROW];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        fixture f;
        setup(&f, shapes[i], 256);
        fill_positions(&f, 0, 256);
        size_t bytes = f.shape.group * f.shape.value_dim * sizeof(float);
        for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
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

/* A head's bits are the same alone and in any group, at any place. */
static void the_group_does_not_matter(void **state) {
    static float q[MAX_ROW], group_out[MAX_ROW], alone[MAX_ROW];
    const shape s = {KV_F16, 1, 24, 40, 11};
    fixture f;
    (void)state;
    setup(&f, s, 200);
    fill_positions(&f, 0, 200);
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        fill_query(&f, 150, q);
        attend(&f, 0, 0, 150, group_out);
        for (size_t g = 0; g < s.group; g++) {
            attention_group(f.kv, &f.seq, 0, 0, 150, 1, q + g * 24,
                            scale_of(&f), alone);
            assert_memory_equal(alone, group_out + g * 40, 40 * sizeof(float));
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
    teardown(&f);
}

static void the_order_of_pages_does_not_matter(void **state) {
    static float want[MAX_ROW], got[MAX_ROW];
    const shape s = {KV_F32, 2, 16, 16, 2};
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
    const shape s = {KV_F32, 1, 4, 20, 2};
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
        attention_group(f.kv, &f.seq, 0, 0, 199, 2, q, 1.0f, out);
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
        cmocka_unit_test(the_order_of_pages_does_not_matter),
        cmocka_unit_test(a_dominant_key_gives_its_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
