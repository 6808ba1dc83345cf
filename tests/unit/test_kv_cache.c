/* test_kv_cache.c - page accounting, layout, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/act.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/kv_cache.h"
#include "engine/util.h"
#include "engine/weight.h"

static const kv_config small = {.type = KV_F32,
                                .n_layers = 2,
                                .n_kv_heads = 3,
                                .key_dim = 5,
                                .value_dim = 7,
                                .n_pages = 4};

static kv_cache *make(const kv_config *config) {
    kv_cache *kv = NULL;
    assert_int_equal(kv_cache_new(&kv, config), 0);
    return kv;
}

static void a_page_holds_all_layers_and_heads(void **state) {
    kv_config c = small;
    (void)state;
    assert_int_equal(kv_page_bytes(&c), 64 * 2 * 3 * (5 + 7) * 4);
    c.type = KV_F16;
    assert_int_equal(kv_page_bytes(&c), 64 * 2 * 3 * (5 + 7) * 2);
    c.type = KV_Q8_0;
    assert_int_equal(kv_page_bytes(&c), 64 * 2 * 3 * (5 + 4 + 7 + 4));
    c.key_dim = c.value_dim = 64;
    assert_int_equal(kv_page_bytes(&c), 64 * 2 * 3 * 2 * (64 + 8));
    c.n_layers = c.n_kv_heads = c.key_dim = c.value_dim = UINT32_MAX;
    assert_int_equal(kv_page_bytes(&c), 0);
}

static void pages_are_taken_as_positions_need_them(void **state) {
    kv_cache *kv = make(&small);
    kv_seq seq = {0};
    (void)state;
    assert_int_equal(kv_free_pages(kv), 4);
    assert_int_equal(kv_reserve(kv, &seq, 0), 0);
    assert_int_equal(kv_free_pages(kv), 4);
    assert_int_equal(kv_reserve(kv, &seq, 1), 0);
    assert_int_equal(kv_free_pages(kv), 3);
    assert_int_equal(kv_reserve(kv, &seq, 64), 0);
    assert_int_equal(kv_free_pages(kv), 3);
    assert_int_equal(kv_reserve(kv, &seq, 65), 0);
    assert_int_equal(kv_free_pages(kv), 2);
    assert_int_equal(kv_reserve(kv, &seq, 10), 0); /* never shrinks */
    assert_int_equal(seq.n_pages, 2);
    kv_release(kv, &seq);
    assert_int_equal(kv_free_pages(kv), 4);
    assert_null(seq.pages);
    kv_release(kv, &seq); /* a second time is fine */
    assert_int_equal(kv_free_pages(kv), 4);
    kv_cache_free(kv);
}

static void exhaustion_keeps_what_was_got(void **state) {
    kv_cache *kv = make(&small);
    kv_seq a = {0}, b = {0};
    (void)state;
    assert_int_equal(kv_reserve(kv, &a, 128), 0);
    assert_int_equal(kv_reserve(kv, &b, 64 * 3), ERR_OVERLOADED);
    assert_int_equal(b.n_pages, 2);
    assert_int_equal(kv_free_pages(kv), 0);
    assert_int_equal(kv_reserve(kv, &b, UINT32_MAX), ERR_OVERLOADED);
    assert_int_equal(b.n_pages, 2);

    kv_release(kv, &a);
    assert_int_equal(kv_reserve(kv, &b, 64 * 3), 0);
    assert_int_equal(kv_free_pages(kv), 1);
    kv_release(kv, &b);
    kv_cache_free(kv);
}

static void no_page_belongs_to_two_sequences(void **state) {
    kv_config config = small;
    kv_seq seqs[8] = {{0}};
    uint32_t random = 1;
    (void)state;
    config.n_pages = 20;
    kv_cache *kv = make(&config);
    for (int step = 0; step < 2000; step++) {
        random = random * 1664525u + 1013904223u;
        kv_seq *seq = &seqs[random >> 29];
        if ((random >> 24) % 4 == 0) {
            kv_release(kv, seq);
        } else {
            (void)kv_reserve(kv, seq, seq->n_pages * 64 + 1);
        }
        int owners[20] = {0};
        uint32_t used = 0;
        for (size_t i = 0; i < ARRAY_LEN(seqs); i++) {
            for (uint32_t p = 0; p < seqs[i].n_pages; p++) {
                assert_true(seqs[i].pages[p] < 20);
                assert_int_equal(owners[seqs[i].pages[p]]++, 0);
                used++;
            }
        }
        assert_int_equal(used + kv_free_pages(kv), 20);
    }
    for (size_t i = 0; i < ARRAY_LEN(seqs); i++) {
        kv_release(kv, &seqs[i]);
    }
    kv_cache_free(kv);
}

static float mark(uint32_t layer, uint32_t position, uint32_t head,
                  uint32_t d) {
    return (float)(layer * 1000000 + position * 1000 + head * 100 + d) + 0.25f;
}

static void write_all(kv_cache *kv, const kv_seq *seq, uint32_t positions) {
    float k[15], v[21];
    for (uint32_t layer = 0; layer < 2; layer++) {
        for (uint32_t p = 0; p < positions; p++) {
            for (uint32_t i = 0; i < 15; i++) {
                k[i] = mark(layer, p, i / 5, i % 5);
            }
            for (uint32_t i = 0; i < 21; i++) {
                v[i] = -mark(layer, p, i / 7, i % 7);
            }
            kv_write(kv, seq, layer, p, k, v);
        }
    }
}

static void keys_lie_transposed_and_values_do_not(void **state) {
    kv_cache *kv = make(&small);
    kv_seq other = {0}, seq = {0};
    (void)state;
    assert_int_equal(kv_reserve(kv, &other, 1), 0);
    assert_int_equal(kv_reserve(kv, &seq, 130), 0);
    write_all(kv, &seq, 130);
    for (uint32_t layer = 0; layer < 2; layer++) {
        for (uint32_t head = 0; head < 3; head++) {
            for (uint32_t p = 0; p < 130; p++) {
                uint32_t page = seq.pages[p / 64], slot = p % 64;
                const kv_block b = kv_block_at(kv, page, layer, head);
                const float *k = b.keys, *v = b.values;
                assert_int_equal((uintptr_t)k % 64, 0);
                assert_int_equal((uintptr_t)v % 64, 0);
                for (uint32_t d = 0; d < 5; d++) {
                    assert_true(k[d * 64 + slot] == mark(layer, p, head, d));
                }
                for (uint32_t d = 0; d < 7; d++) {
                    assert_true(v[slot * 7 + d] == -mark(layer, p, head, d));
                }
            }
        }
    }
    kv_release(kv, &other);
    kv_release(kv, &seq);
    kv_cache_free(kv);
}

static void a_latent_key_holds_its_value(void **state) {
    kv_config c = small;
    kv_seq seq = {0};
    float k[15];
    (void)state;
    c.latent = true;
    c.value_dim = 4;
    assert_int_equal(kv_page_bytes(&c), 64 * 2 * 3 * 5 * 4);
    kv_cache *kv = make(&c);
    assert_int_equal(kv_value_stride(kv_cache_config(kv)), 5);
    assert_int_equal(kv_reserve(kv, &seq, 70), 0);
    for (uint32_t p = 0; p < 70; p++) {
        for (uint32_t i = 0; i < 15; i++) {
            k[i] = mark(1, p, i / 5, i % 5);
        }
        kv_write(kv, &seq, 1, p, k, NULL);
    }
    for (uint32_t head = 0; head < 3; head++) {
        for (uint32_t p = 0; p < 70; p++) {
            const kv_block b = kv_block_at(kv, seq.pages[p / 64], 1, head);
            const float *keys = b.keys;
            assert_ptr_equal(b.keys, b.values);
            for (uint32_t d = 0; d < 5; d++) {
                assert_true(keys[p % 64 * 5 + d] == mark(1, p, head, d));
            }
        }
    }
    kv_release(kv, &seq);
    kv_cache_free(kv);
}

/* Every f32 bit pattern in steps, and each edge of the f16 range. */
static float nth_float(uint32_t i) {
    static const float edges[] = {
        0.0f,          -0.0f,        65504.0f, 65519.996f,      65520.0f,
        -65520.0f,     0x1p-24f,     0x1p-25f, 0x1.000002p-25f, 0x1p-14f,
        0x1.ffcp-15f,  0x1.ffep-15f, INFINITY, -INFINITY,       NAN,
        1.00048828125f};
    uint32_t bits = i * 7919u;
    float x;
    if (i < ARRAY_LEN(edges)) return edges[i];
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static void check_f16(bool latent) {
    enum { DIM = 517 };
    kv_config config = {.type = KV_F16,
                        .n_layers = 1,
                        .n_kv_heads = 1,
                        .key_dim = DIM,
                        .value_dim = DIM,
                        .n_pages = 1,
                        .latent = latent};
    kv_cache *kv = make(&config);
    kv_seq seq = {0};
    float x[DIM];
    assert_int_equal(kv_reserve(kv, &seq, 1), 0);
    const size_t key_step = latent ? 1 : 64;
    const kv_block b = kv_block_at(kv, seq.pages[0], 0, 0);
    const uint16_t *k = b.keys, *v = b.values;

    for (uint32_t from = 0; from < 600000; from += DIM) {
        for (uint32_t i = 0; i < DIM; i++) {
            x[i] = nth_float(from + i);
        }
        for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
            assert_int_equal(cpu_force(level), 0);
            kv_write(kv, &seq, 0, 0, x, x);
            for (uint32_t i = 0; i < DIM; i++) {
                uint16_t want = f32_to_f16(x[i]);
                if (k[i * key_step] != want || v[i] != want) fail();
            }
        }
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
    kv_release(kv, &seq);
    kv_cache_free(kv);
}

static void f16_has_equal_bits_at_every_level(void **state) {
    (void)state;
    check_f16(false);
    check_f16(true);
}

/* Against the encoder's rows, each of one position's key or value: where
 * elements and scales lie, and how the last dims are filled up. */
static void check_q8_0(bool latent, uint32_t key_dim, uint32_t value_dim) {
    kv_config config = {.type = KV_Q8_0,
                        .n_layers = 2,
                        .n_kv_heads = 2,
                        .key_dim = key_dim,
                        .value_dim = value_dim,
                        .n_pages = 2,
                        .latent = latent};
    kv_cache *kv = make(&config);
    kv_seq seq = {0};
    float x[2 * 600], row[600];
    assert_int_equal(kv_reserve(kv, &seq, 70), 0);
    for (uint32_t p = 0; p < 70; p++) {
        for (uint32_t i = 0; i < 2 * key_dim; i++)
            x[i] = sinf((float)(p * 131 + i)) * (float)(1 + i % 50);
        kv_write(kv, &seq, 1, p, x, latent ? NULL : x);
    }
    for (uint32_t p = 0; p < 70; p++) {
        for (uint32_t i = 0; i < 2 * key_dim; i++)
            x[i] = sinf((float)(p * 131 + i)) * (float)(1 + i % 50);
        kv_block b = kv_block_at(kv, seq.pages[p / 64], 1, 1);
        for (uint32_t d0 = 0; d0 < key_dim; d0 += 32) {
            uint32_t n = (uint32_t)size_min(32, key_dim - d0);
            float block[32] = {0};
            memcpy(block, x + key_dim + d0, n * sizeof(float));
            act_encode(ACT_A8, 32, block, row);
            for (uint32_t i = 0; i < n; i++) {
                float want = act_scales(row)[0] * act_values(32, row)[i];
                assert_true(kv_key(&config, &b, p % 64, d0 + i) == want);
                if (!latent) continue;
                if (d0 + i >= value_dim) continue;
                assert_true(kv_value(&config, &b, p % 64, d0 + i) == want);
            }
        }
        for (uint32_t d = 0; d < value_dim && !latent; d++) {
            float got = kv_value(&config, &b, p % 64, d);
            assert_true(fabsf(got - x[value_dim + d]) <= 50.0f / 127.0f / 1.9f);
        }
    }
    kv_release(kv, &seq);
    kv_cache_free(kv);
}

static void q8_0_rounds_as_activations_are_rounded(void **state) {
    (void)state;
    for (cpu_level level = CPU_SCALAR; level <= cpu_best(); level++) {
        assert_int_equal(cpu_force(level), 0);
        check_q8_0(false, 64, 64);
        check_q8_0(false, 45, 45);
        check_q8_0(false, 300, 300);
        check_q8_0(true, 576, 512);
        check_q8_0(true, 40, 7);
    }
    assert_int_equal(cpu_force(cpu_best()), 0);
}

static void types_have_names(void **state) {
    (void)state;
    for (int type = 0; type < KV_TYPES; type++)
        assert_int_equal(kv_type_find(kv_type_name((kv_type)type)), type);
    assert_int_equal(kv_type_find("q8_0"), KV_Q8_0);
    assert_int_equal(kv_type_find("q4_0"), KV_TYPES);
}

static void refuses_sizes_that_make_no_cache(void **state) {
    kv_config c[9];
    kv_cache *kv = (kv_cache *)&small;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        c[i] = small;
    }
    c[0].n_layers = 0;
    c[1].n_kv_heads = 0;
    c[2].key_dim = 0;
    c[3].value_dim = 0;
    c[4].n_pages = 0;
    c[5].n_layers = c[5].n_kv_heads = c[5].key_dim = UINT32_MAX;
    c[6].type = KV_TYPES;
    c[7].n_pages = UINT32_MAX; /* more than any address space */
    c[7].key_dim = 1u << 20;
    c[8].latent = true; /* a value of 7 in a key of 5 */
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        int want = i == 6 ? ERR_UNSUPPORTED : i == 7 ? -ENOMEM : ERR_RANGE;
        assert_int_equal(kv_cache_new(&kv, &c[i]), want);
        assert_null(kv);
    }
    kv_cache_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_holds_all_layers_and_heads),
        cmocka_unit_test(pages_are_taken_as_positions_need_them),
        cmocka_unit_test(exhaustion_keeps_what_was_got),
        cmocka_unit_test(no_page_belongs_to_two_sequences),
        cmocka_unit_test(keys_lie_transposed_and_values_do_not),
        cmocka_unit_test(a_latent_key_holds_its_value),
        cmocka_unit_test(f16_has_equal_bits_at_every_level),
        cmocka_unit_test(q8_0_rounds_as_activations_are_rounded),
        cmocka_unit_test(types_have_names),
        cmocka_unit_test(refuses_sizes_that_make_no_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
