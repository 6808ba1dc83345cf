/* test_model_gen.c - the models that tests are made of are what they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

static char why[512];

static gguf *make_as(const model_shape *s, const char *name) {
    const char *path = fixture_path(name);
    gguf *g;
    assert_int_equal(model_gen(s, path, why, sizeof(why)), 0);
    assert_int_equal(gguf_open(&g, path, why, sizeof(why)), 0);
    return g;
}

static gguf *make(const model_shape *s) {
    return make_as(s, "model.gguf");
}

static void assert_u32(const gguf *g, const char *key, uint32_t wanted) {
    uint32_t value;
    assert_int_equal(gguf_get_u32(g, key, &value, why, sizeof(why)), 0);
    assert_int_equal(value, wanted);
}

static void assert_shape(const gguf *g, const char *name, uint32_t type,
                         uint64_t d0, uint64_t d1, uint64_t d2) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    if (t == NULL) print_message("no tensor %s\n", name);
    assert_non_null(t);
    assert_int_equal(t->type, type);
    assert_int_equal(t->dims[0], d0);
    assert_int_equal(t->dims[1], d1);
    assert_int_equal(t->dims[2], d2);
}

static void makes_a_mixtral(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    gguf *g = make(&s);

    assert_u32(g, "llama.block_count", 2);
    assert_u32(g, "llama.embedding_length", 64);
    assert_u32(g, "llama.feed_forward_length", 128);
    assert_u32(g, "llama.expert_count", 4);
    assert_u32(g, "llama.expert_used_count", 2);
    assert_u32(g, "llama.attention.head_count_kv", 2);
    assert_shape(g, "token_embd.weight", WEIGHT_Q8_0, 64, 300, 1);
    assert_shape(g, "output.weight", WEIGHT_Q8_0, 64, 300, 1);
    assert_shape(g, "output_norm.weight", WEIGHT_F32, 64, 1, 1);
    assert_shape(g, "blk.1.attn_q.weight", WEIGHT_Q8_0, 64, 64, 1);
    assert_shape(g, "blk.1.attn_k.weight", WEIGHT_Q8_0, 64, 32, 1);
    assert_shape(g, "blk.1.attn_output.weight", WEIGHT_Q8_0, 64, 64, 1);
    assert_shape(g, "blk.1.ffn_gate_inp.weight", WEIGHT_F32, 64, 4, 1);
    assert_shape(g, "blk.1.ffn_gate_exps.weight", WEIGHT_Q8_0, 64, 128, 4);
    assert_shape(g, "blk.1.ffn_down_exps.weight", WEIGHT_Q8_0, 128, 64, 4);
    assert_int_equal(gguf_n_tensors(g), 3 + 2 * 10);
    gguf_close(g);
}

static void makes_a_qwen3moe(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    s.arch = "qwen3moe";
    s.head_dim = 32; /* not width / heads, as in real ones */
    gguf *g = make(&s);

    assert_u32(g, "qwen3moe.expert_feed_forward_length", 128);
    assert_u32(g, "qwen3moe.attention.key_length", 32);
    assert_shape(g, "blk.0.attn_q.weight", WEIGHT_Q8_0, 64, 128, 1);
    assert_shape(g, "blk.0.attn_output.weight", WEIGHT_Q8_0, 128, 64, 1);
    assert_shape(g, "blk.0.attn_q_norm.weight", WEIGHT_F32, 32, 1, 1);
    assert_shape(g, "blk.0.attn_k_norm.weight", WEIGHT_F32, 32, 1, 1);
    gguf_close(g);
}

static void makes_a_dense_model(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    s.n_experts = 0;
    s.type = WEIGHT_BF16;
    gguf *g = make(&s);

    assert_false(gguf_has(g, "llama.expert_count"));
    assert_shape(g, "blk.0.ffn_down.weight", WEIGHT_BF16, 128, 64, 1);
    assert_null(gguf_find_tensor(g, "blk.0.ffn_gate_inp.weight"));
    gguf_close(g);
}

static void writes_a_vocabulary_with_bytes(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    gguf *g = make(&s);
    gguf_string tokens[300];
    int32_t types[300];

    assert_int_equal(gguf_array_strings(g, "tokenizer.ggml.tokens", tokens, 300,
                                        why, sizeof(why)),
                     0);
    assert_int_equal(gguf_array_i32(g, "tokenizer.ggml.token_type", types, 300,
                                    why, sizeof(why)),
                     0);
    assert_memory_equal(tokens[0].data, "<unk>", 5);
    assert_memory_equal(tokens[3 + 0x0a].data, "<0x0A>", 6);
    assert_int_equal(types[3 + 0x0a], 6);
    assert_memory_equal(tokens[259].data, "\u2581t0", 5);
    assert_memory_equal(tokens[299].data, "\u2581t40", 6);
    assert_u32(g, "tokenizer.ggml.bos_token_id", 1);
    gguf_close(g);
}

/* The file of a shape; the caller frees it. */
static uint8_t *image_of(const model_shape *s, size_t *n) {
    const char *path = fixture_path("image.gguf");
    assert_int_equal(model_gen(s, path, why, sizeof(why)), 0);
    return fixture_read(path, n);
}

static void gives_the_same_bytes_for_a_seed(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    size_t n, n_again, n_other;
    uint8_t *once = image_of(&s, &n), *again = image_of(&s, &n_again);
    s.seed++;
    uint8_t *other = image_of(&s, &n_other);

    assert_int_equal(n, n_again);
    assert_memory_equal(once, again, n);
    assert_int_equal(n, n_other);
    assert_true(memcmp(once, other, n) != 0);
    free(once);
    free(again);
    free(other);
}

/* Deviation of a tensor's values, which are about 0 on average. */
static double deviation(const gguf *g, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    size_t n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2]);
    float *x = calloc(n, sizeof(*x));
    assert_non_null(x);
    weight_format_find(t->type)->dequantize(n, gguf_data(g, t), x);

    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(x[i]));
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    free(x);
    double sigma = sqrt(squares / (double)n);
    assert_true(fabs(sum / (double)n) < 0.05 * sigma);
    return sigma;
}

static void scales_weights_alike_in_every_format(void **state) {
    (void)state;
    static const uint32_t types[] = {
        WEIGHT_F32,  WEIGHT_F16,    WEIGHT_BF16,   WEIGHT_Q8_0,
        WEIGHT_Q4_0, WEIGHT_Q4_1,   WEIGHT_Q5_0,   WEIGHT_Q5_1,
        WEIGHT_Q2_K, WEIGHT_Q3_K,   WEIGHT_Q4_K,   WEIGHT_Q5_K,
        WEIGHT_Q6_K, WEIGHT_IQ4_NL, WEIGHT_IQ4_XS, WEIGHT_MXFP4};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        model_shape s = model_shape_small();
        s.type = types[i];
        s.width = s.expert_width = 256;
        s.head_dim = 64;
        gguf *g = make(&s);
        double wanted = 1 / sqrt(256.0), embedding = 4 * sqrt(2.0);
        assert_true(
            fabs(deviation(g, "blk.0.ffn_up_exps.weight") / wanted - 1) < 0.03);
        assert_true(fabs(deviation(g, "token_embd.weight") / embedding - 1) <
                    0.03);
        gguf_close(g);
    }
}

/* The merged stack has the values of the two, expert by expert. */
static void merges_gate_and_up_expert_by_expert(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    s.arch = "gpt-oss";
    gguf *two = make_as(&s, "two.gguf");
    s.merged = true;
    gguf *one = make_as(&s, "one.gguf");
    static const char *const suffixes[] = {"weight", "bias"};
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        static const char *const names[] = {"gate", "up", "gate_up"};
        const uint8_t *data[3];
        size_t slab = 0;
        for (size_t k = 0; k < 3; k++) {
            char name[64];
            gguf *g = k == 2 ? one : two;
            snprintf(name, sizeof(name), "blk.1.ffn_%s_exps.%s", names[k],
                     suffixes[i]);
            const gguf_tensor *t = gguf_find_tensor(g, name);
            assert_non_null(t);
            data[k] = gguf_data(g, t);
            if (k == 0) slab = t->bytes / s.n_experts;
        }
        for (size_t e = 0; e < s.n_experts; e++) {
            const uint8_t *both = data[2] + 2 * e * slab;
            assert_memory_equal(both, data[0] + e * slab, slab);
            assert_memory_equal(both + slab, data[1] + e * slab, slab);
        }
    }
    gguf_close(one);
    gguf_close(two);
}

static void makes_every_architecture_that_it_names(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "qwen3moe", "gpt-oss",
                                        "llama4", "grok"};
    for (size_t i = 0; i < ARRAY_LEN(archs); i++) {
        model_shape s = model_shape_small();
        model_config c;
        s.arch = archs[i];
        s.n_used = 1;
        gguf *g = make_as(&s, "arch.gguf");
        if (model_read(&c, g, why, sizeof(why)) != 0) fail_msg("%s", why);
        assert_string_equal(c.arch, archs[i]);
        gguf_close(g);
    }
}

static void refuses_shapes_that_are_none(void **state) {
    (void)state;
    model_shape bad[10];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        bad[i] = model_shape_small();
    bad[0].arch = "bloom";
    bad[1].n_kv_heads = 3;
    bad[2].n_used = 5;
    bad[3].n_vocab = 258;
    bad[4].type = 16;
    bad[5].width = 40;
    bad[6].type = WEIGHT_Q4_K;
    bad[7].down_type = WEIGHT_Q6_K;
    bad[8].odd_type = WEIGHT_Q5_K;
    bad[9].arch = "gpt-oss";
    bad[9].n_experts = 0;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *path = fixture_path("none.gguf");
        why[0] = '\0';
        assert_int_equal(model_gen(&bad[i], path, why, sizeof(why)), ERR_RANGE);
        assert_true(strlen(why) > 10);
    }
}

static void leaves_nothing_behind_when_it_cannot_write(void **state) {
    (void)state;
    model_shape s = model_shape_small();
    assert_int_equal(
        model_gen(&s, fixture_path("no/such/folder/m.gguf"), why, sizeof(why)),
        -ENOENT);
    assert_non_null(strstr(why, "no/such/folder/m.gguf"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(makes_a_mixtral),
        cmocka_unit_test(makes_a_qwen3moe),
        cmocka_unit_test(makes_a_dense_model),
        cmocka_unit_test(writes_a_vocabulary_with_bytes),
        cmocka_unit_test(gives_the_same_bytes_for_a_seed),
        cmocka_unit_test(scales_weights_alike_in_every_format),
        cmocka_unit_test(merges_gate_and_up_expert_by_expert),
        cmocka_unit_test(makes_every_architecture_that_it_names),
        cmocka_unit_test(refuses_shapes_that_are_none),
        cmocka_unit_test(leaves_nothing_behind_when_it_cannot_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
