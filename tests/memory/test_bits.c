/* test_bits.c - the numerics contract from end to end: a token's logits are the
 * same bits whatever the rack, the placement, the replica, the slices of an
 * expert, the batch, the prompt's chunks, the threads and the CPU level, and
 * although the rack changes on the way (tests/support/shuffle.h).
 * tests/planted/arrival_order_sum.patch and slice_order.patch are
 * bugs that this must catch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/family_gen.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"
#include "tests/support/shuffle.h"

static const char *make(const model_shape *shape, const char *name) {
    char why[256] = "";
    const char *path = fixture_path(name);
    if (model_gen(shape, path, why, sizeof(why)) < 0) fail_msg("%s", why);
    return path;
}

static void run_shuffles(const model_shape *shape, const char *name,
                         uint32_t most_tokens, uint32_t n, kv_type kv,
                         bool exact) {
    shuffle_model(make(shape, name), most_tokens, n, kv, exact);
}

static void small_model_has_the_same_bits_everywhere(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    shape.n_experts = 4;
    shuffle_subject s = {.kv = KV_F16};
    uint32_t n = shuffle_count(200);
    int differ = 0;
    shuffle_open(&s, make(&shape, "small.gguf"), 1, 90);
    shuffle_learn(&s);
    for (uint64_t seed = 1; seed <= n; seed++)
        differ += shuffle_run(&s, seed);
    assert_int_equal(differ, 0);
    if (n >= 40) assert_true(s.splits > 0);
    shuffle_close(&s);
}

/* Heads of 64 and of 24 dims: whole blocks of the cache's scales, and less. */
static void a_rounded_cache_has_the_same_bits_everywhere(void **state) {
    (void)state;
    static const uint32_t head_dims[] = {64, 24};
    static const char *const names[] = {"whole.gguf", "odd.gguf"};
    for (size_t i = 0; i < ARRAY_LEN(head_dims); i++) {
        model_shape shape = model_shape_small();
        shape.head_dim = head_dims[i];
        run_shuffles(&shape, names[i], 90, shuffle_count(20), KV_Q8_0, false);
    }
}

static void exact_mode_has_the_same_bits_everywhere(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    run_shuffles(&shape, "exact.gguf", 70, shuffle_count(40), KV_F32, true);
}

static void float_weights_have_the_same_bits_everywhere(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    shape.arch = "qwen3moe";
    shape.type = WEIGHT_BF16;
    run_shuffles(&shape, "bf16.gguf", 70, shuffle_count(40), KV_F32, false);
}

static void wide_model_has_the_same_bits_everywhere(void **state) {
    (void)state;
    model_shape shape = model_shape_small();
    shape.width = 1024;
    shape.n_heads = 16;
    shape.n_kv_heads = 4;
    shape.head_dim = 64;
    shape.expert_width = 2048;
    shape.n_experts = 8;
    run_shuffles(&shape, "wide.gguf", 24, shuffle_count(6), KV_F16, false);
}

/* Widths that all of them can be cut into eight segments of. */
static void all_formats_have_the_same_bits_everywhere(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *name;
    } formats[] = {
        {WEIGHT_Q4_0, "q4_0.gguf"},     {WEIGHT_Q4_1, "q4_1.gguf"},
        {WEIGHT_Q5_0, "q5_0.gguf"},     {WEIGHT_Q5_1, "q5_1.gguf"},
        {WEIGHT_Q8_0, "q8_0.gguf"},     {WEIGHT_Q2_K, "q2_k.gguf"},
        {WEIGHT_Q3_K, "q3_k.gguf"},     {WEIGHT_Q4_K, "q4_k.gguf"},
        {WEIGHT_Q5_K, "q5_k.gguf"},     {WEIGHT_Q6_K, "q6_k.gguf"},
        {WEIGHT_IQ4_NL, "iq4_nl.gguf"}, {WEIGHT_IQ4_XS, "iq4_xs.gguf"},
        {WEIGHT_MXFP4, "mxfp4.gguf"}};
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        model_shape shape = model_shape_small();
        shape.width = 256;
        shape.n_heads = 4;
        shape.n_kv_heads = 2;
        shape.head_dim = 64;
        shape.expert_width = 2048;
        shape.type = formats[i].type;
        run_shuffles(&shape, formats[i].name, 12, shuffle_count(2), KV_F16,
                     false);
    }
}

/* Biases, sinks and windows; a weight on the input; a dense network beside the
 * experts.  Widths that slices of all sizes divide. */
static void all_kinds_of_layers_have_the_same_bits_everywhere(void **state) {
    (void)state;
    static const struct {
        const char *arch, *name;
        uint32_t type, n_used;
    } kinds[] = {{"gpt-oss", "gpt-oss.gguf", WEIGHT_Q8_0, 3},
                 {"gpt-oss", "gpt-oss-float.gguf", WEIGHT_F16, 2},
                 {"llama4", "llama4.gguf", WEIGHT_Q8_0, 1},
                 {"grok", "grok.gguf", WEIGHT_Q4_0, 2}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        model_shape shape = model_shape_small();
        shape.arch = kinds[i].arch;
        shape.type = kinds[i].type;
        shape.n_used = kinds[i].n_used;
        shape.expert_width = 256;
        run_shuffles(&shape, kinds[i].name, 60, shuffle_count(8), KV_F16,
                     false);
    }
}

/* Latents, a dense layer, groups, a selection bias; heads that do not fill a
 * vector, and more than one; keys that had to be turned. */
static void latent_attention_has_the_same_bits_everywhere(void **state) {
    (void)state;
    static const struct {
        uint32_t type, n_heads, head_dim;
        bool unsplit;
        kv_type kv;
        const char *name;
    } kinds[] = {{WEIGHT_Q8_0, 4, 32, false, KV_F32, "latent.gguf"},
                 {WEIGHT_Q4_0, 20, 32, true, KV_F16, "unsplit.gguf"},
                 {WEIGHT_BF16, 3, 12, true, KV_F16, "unsplit_bf16.gguf"},
                 {WEIGHT_Q8_0, 16, 32, false, KV_Q8_0, "latent_q8_0.gguf"},
                 {WEIGHT_F32, 17, 20, false, KV_F16, "latent_f32.gguf"}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        model_shape shape = model_shape_small();
        shape.arch = "deepseek2";
        shape.n_layers = 3;
        shape.n_experts = 8;
        shape.n_used = 3;
        shape.expert_width = 256;
        shape.type = kinds[i].type;
        shape.n_heads = shape.n_kv_heads = kinds[i].n_heads;
        shape.head_dim = kinds[i].head_dim;
        shape.unsplit = kinds[i].unsplit;
        run_shuffles(&shape, kinds[i].name, 80, shuffle_count(4), kinds[i].kv,
                     false);
    }
}

/* Every one of thousands is used, and nothing stops at a smaller number. */
static void thousands_of_experts_have_the_same_bits_everywhere(void **state) {
    (void)state;
    static const uint32_t used[] = {8, 4096};
    static const char *const names[] = {"some.gguf", "all.gguf"};
    for (size_t i = 0; i < ARRAY_LEN(used); i++) {
        model_shape shape = model_shape_small();
        shape.width = 32;
        shape.n_experts = 4096;
        shape.n_used = used[i];
        shape.expert_width = 32;
        run_shuffles(&shape, names[i], 7, shuffle_count(1), KV_F16, false);
    }
}

/* Down in another format than gate and up, and odd layers in a third one, which
 * are cut into other segments. */
static void mixed_formats_have_the_same_bits_everywhere(void **state) {
    (void)state;
    static const struct {
        uint32_t type, down_type, odd_type;
        const char *name;
    } mixes[] = {{WEIGHT_Q4_K, WEIGHT_Q6_K, WEIGHT_Q8_0, "q4_k_m.gguf"},
                 {WEIGHT_Q2_K, WEIGHT_Q3_K, WEIGHT_Q4_0, "q2_k_m.gguf"},
                 {WEIGHT_IQ4_XS, WEIGHT_IQ4_NL, WEIGHT_MXFP4, "iq4.gguf"},
                 {WEIGHT_Q8_0, WEIGHT_F16, WEIGHT_Q4_0, "half_down.gguf"},
                 {WEIGHT_BF16, WEIGHT_Q5_K, WEIGHT_Q6_K, "float_up.gguf"}};
    for (size_t i = 0; i < ARRAY_LEN(mixes); i++) {
        model_shape shape = model_shape_small();
        shape.width = 256;
        shape.head_dim = 64;
        shape.expert_width = 1024;
        shape.type = mixes[i].type;
        shape.down_type = mixes[i].down_type;
        shape.odd_type = mixes[i].odd_type;
        run_shuffles(&shape, mixes[i].name, 16, shuffle_count(4), KV_F16,
                     false);
    }
}

/* Against the logits of the same weights in two tensors. */
static void merged_experts_have_the_bits_of_two_tensors(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "gpt-oss"};
    for (size_t i = 0; i < ARRAY_LEN(archs); i++) {
        shuffle_subject s = {.kv = KV_F16};
        model_shape shape = model_shape_small();
        shape.arch = archs[i];
        shape.expert_width = 256;
        shuffle_open(&s, make(&shape, "split.gguf"), 1, 40);
        shuffle_learn(&s);
        memory_model_close(s.model);

        shape.merged = true;
        s.model = memory_model_open(make(&shape, "merged.gguf"));
        int differ = 0;
        for (uint64_t seed = 1; seed <= shuffle_count(16); seed++) {
            differ += shuffle_run(&s, seed);
        }
        shuffle_close(&s);
        assert_int_equal(differ, 0);
    }
}

/* Every architecture with all that its files may have. */
static void every_family_has_the_same_bits_everywhere(void **state) {
    (void)state;
    for (size_t i = 0; i < family_count(); i++) {
        char name[64];
        snprintf(name, sizeof(name), "%s.gguf", family_name(i));
        const char *path = fixture_path(name);
        uint32_t type = i % 3 == 0 ? WEIGHT_F16 : WEIGHT_Q8_0;
        family_gen(i, type, path);
        shuffle_model(path, 70, shuffle_count(4), i % 2 ? KV_F16 : KV_F32,
                      false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_model_has_the_same_bits_everywhere),
        cmocka_unit_test(a_rounded_cache_has_the_same_bits_everywhere),
        cmocka_unit_test(exact_mode_has_the_same_bits_everywhere),
        cmocka_unit_test(float_weights_have_the_same_bits_everywhere),
        cmocka_unit_test(wide_model_has_the_same_bits_everywhere),
        cmocka_unit_test(all_formats_have_the_same_bits_everywhere),
        cmocka_unit_test(all_kinds_of_layers_have_the_same_bits_everywhere),
        cmocka_unit_test(latent_attention_has_the_same_bits_everywhere),
        cmocka_unit_test(thousands_of_experts_have_the_same_bits_everywhere),
        cmocka_unit_test(mixed_formats_have_the_same_bits_everywhere),
        cmocka_unit_test(merged_experts_have_the_bits_of_two_tensors),
        cmocka_unit_test(every_family_has_the_same_bits_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
