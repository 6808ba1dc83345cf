/* test_arch_expert_kinds.c - gpt-oss, grok and llama4: what their files say,
 * and what is refused by key and value instead of being run wrongly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_base.h"
#include "tests/support/model_gen.h"

static const char *base(const char *arch) {
    char why[256], name[32];
    model_shape shape = model_shape_small();
    shape.arch = arch;
    shape.n_layers = 4;
    shape.n_used = strcmp(arch, "llama4") == 0 ? 1 : 2;
    snprintf(name, sizeof(name), "%s.gguf", arch);
    const char *path = fixture_path(name);
    if (model_gen(&shape, path, why, sizeof(why)) < 0) fail_msg("%s", why);
    return path;
}

static model_config taken(gguf_edit *e) {
    model_config c;
    char why[256];
    if (model_base_read(e, &c, why, sizeof(why)) < 0) fail_msg("%s", why);
    return c;
}

static gguf_edit *with_u32(const char *arch, const char *key, uint32_t value) {
    gguf_edit *e = gguf_edit_new(base(arch));
    gguf_writer_u32(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *with_f32(const char *arch, const char *key, float value) {
    gguf_edit *e = gguf_edit_new(base(arch));
    gguf_writer_f32(gguf_edit_drop(e, key), key, value);
    return e;
}

static void assert_refused(gguf_edit *e, int code, const char *word,
                           const char *other) {
    model_config c;
    char why[256];
    int rc = model_base_read(e, &c, why, sizeof(why));
    if (rc != code || strstr(why, word) == NULL || strstr(why, other) == NULL) {
        fail_msg("%s instead of %s about '%s' and '%s': %s", err_name(rc),
                 err_name(code), word, other, why);
    }
}

/* A tensor or key that it cannot do without. */
static void assert_needs(const char *arch, const char *name) {
    gguf_edit *e = gguf_edit_new(base(arch));
    gguf_edit_drop(e, name);
    assert_refused(e, ERR_FORMAT, name, "missing");
}

/* ---- gpt-oss ---- */

static void gpt_oss_has_biases_sinks_and_windows(void **state) {
    (void)state;
    model_config c = taken(gguf_edit_new(base("gpt-oss")));
    assert_true(c.attention.qkv_bias && c.attention.output_bias);
    assert_true(c.attention.sinks && c.router_bias && c.expert_bias);
    assert_int_equal(c.activation, FFN_SWIGLU_CLAMPED);
    assert_int_equal(c.rope.style, ROPE_NEOX);
    assert_int_equal(c.routing.gating, GATING_CHOSEN_SOFTMAX);
    assert_false(c.routing.renormalize);
    assert_string_equal(c.norm.ffn, "post_attention_norm");
    /* even layers see a window of 24, odd ones everything */
    for (uint32_t layer = 0; layer < 4; layer++) {
        uint32_t first = layer % 2 == 0 ? 100 - 23 : 0;
        assert_int_equal(model_first_key(&c, layer, 100), first);
    }
}

static void gpt_oss_windows_are_as_the_file_says(void **state) {
    (void)state;
    model_config c =
        taken(with_u32("gpt-oss", "gpt-oss.attention.sliding_window", 5));
    assert_int_equal(model_first_key(&c, 0, 9), 5);
    c = taken(
        with_u32("gpt-oss", "gpt-oss.attention.sliding_window_pattern", 4));
    assert_int_equal(model_first_key(&c, 1, 100), 77);
    assert_int_equal(model_first_key(&c, 3, 100), 0);
    assert_refused(with_u32("gpt-oss", "gpt-oss.attention.sliding_window", 0),
                   ERR_FORMAT, "sliding_window", "0");
    assert_needs("gpt-oss", "gpt-oss.attention.sliding_window");
    assert_needs("gpt-oss", "gpt-oss.expert_feed_forward_length");
}

/* Without the biases the same tensors are another model. */
static void biases_of_experts_belong_to_gpt_oss_alone(void **state) {
    (void)state;
    static const char *const names[] = {
        "blk.1.ffn_gate_exps.bias", "blk.1.ffn_up_exps.bias",
        "blk.1.ffn_down_exps.bias", "blk.1.ffn_gate_up_exps.bias"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const uint64_t dims[2] = {128, 4};
        gguf_edit *e = gguf_edit_new(base("grok"));
        gguf_edit_zeros(e, names[i], 0, 2, dims);
        assert_refused(e, ERR_UNSUPPORTED, names[i], "grok");
    }
}

/* ---- grok ---- */

static void
grok_has_the_first_models_numbers_where_files_are_silent(void **state) {
    (void)state;
    model_config c = taken(gguf_edit_new(base("grok")));
    assert_int_equal(c.activation, FFN_GELU);
    assert_float_equal(c.attention.scale, 0.08838834764831845, 1e-8);
    assert_float_equal(c.attention.softcap, 30, 0);
    assert_float_equal(c.scale.embedding, 78.38367176906169, 1e-5);
    assert_float_equal(c.scale.logit, 0.5773502691896257, 1e-7);
    assert_float_equal(c.scale.softcap, 0, 0);
    assert_true(c.dense_beside_experts);
    assert_float_equal(c.dense_beside_scale, sqrt(0.5), 1e-7);
    assert_string_equal(c.norm.after_attention, "attn_output_norm");
    assert_string_equal(c.norm.after_ffn, "post_ffw_norm");
    assert_true(c.routing.renormalize);
}

static void grok_scales_are_as_the_file_says(void **state) {
    (void)state;
    model_config c =
        taken(with_f32("grok", "grok.attention.output_scale", 0.25f));
    assert_float_equal(c.attention.scale, 0.25, 0);
    c = taken(with_f32("grok", "grok.final_logit_softcapping", 50.0f));
    assert_float_equal(c.scale.softcap, 50, 0);
    c = taken(with_f32("grok", "grok.router_logit_softcapping", 30.0f));
    static const char *const keys[] = {
        "grok.attention.output_scale", "grok.attn_logit_softcapping",
        "grok.embedding_scale", "grok.logit_scale",
        "grok.final_logit_softcapping"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        assert_refused(with_f32("grok", keys[i], -1.0f), ERR_FORMAT, keys[i],
                       "-1");
        assert_refused(with_f32("grok", keys[i], NAN), ERR_FORMAT, keys[i],
                       "nan");
    }
}

/* All layers have dense networks, or none has. */
static void grok_may_have_experts_alone(void **state) {
    (void)state;
    static const char *const parts[] = {"gate", "up", "down"};
    char names[12][48]; /* borrowed by the edit */
    gguf_edit *e = gguf_edit_new(base("grok"));
    for (uint32_t i = 0; i < 12; i++) {
        snprintf(names[i], sizeof(names[i]), "blk.%u.ffn_%s.weight", i / 3,
                 parts[i % 3]);
        gguf_edit_drop(e, names[i]);
    }
    assert_false(taken(e).dense_beside_experts);
    assert_refused(with_u32("grok", "grok.feed_forward_length", 0), ERR_FORMAT,
                   "grok.feed_forward_length", "dense");
}

/* ---- llama4 ---- */

static void llama4_weighs_the_input_of_one_expert(void **state) {
    (void)state;
    model_config c = taken(gguf_edit_new(base("llama4")));
    assert_true(c.routing.by_logit && c.routing.scale_input);
    assert_int_equal(c.routing.gating, GATING_SIGMOID);
    assert_int_equal(c.shared_dim, c.expert_dim);
    assert_false(model_is_moe(&c, 0));
    assert_true(model_is_moe(&c, 1));
    assert_refused(with_u32("llama4", "llama4.expert_used_count", 2),
                   ERR_UNSUPPORTED, "llama4.expert_used_count", "2");
}

static void llama4_has_layers_without_rope(void **state) {
    (void)state;
    model_config c = taken(gguf_edit_new(base("llama4")));
    for (uint32_t layer = 0; layer < 4; layer++) {
        bool turned = layer != 3;
        assert_int_equal(model_has_rope(&c, layer), turned);
        assert_int_equal(model_first_key(&c, layer, 8191), 0);
        assert_int_equal(model_first_key(&c, layer, 8192), turned ? 8192 : 0);
    }
    assert_true(c.attention.qk_norm_plain && c.attention.qk_norm_late);
    assert_int_equal(c.attention.temperature_length, 8192);
}

static void llama4_settings_of_other_models_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        int code;
    } bad[] = {
        {"llama4.attention.sliding_window", 0, ERR_UNSUPPORTED},
        {"llama4.attention.sliding_window", 4096, ERR_UNSUPPORTED},
        {"llama4.expert_shared_count", 2, ERR_UNSUPPORTED},
        {"llama4.interleave_moe_layer_step", 0, ERR_FORMAT},
        {"llama4.interleave_moe_layer_step", 5, ERR_FORMAT},
        {"llama4.feed_forward_length", 0, ERR_FORMAT},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char value[16];
        snprintf(value, sizeof(value), "%u", bad[i].value);
        assert_refused(with_u32("llama4", bad[i].key, bad[i].value),
                       bad[i].code, bad[i].key, value);
    }
    taken(with_u32("llama4", "llama4.attention.sliding_window", 8192));
    assert_needs("llama4", "llama4.interleave_moe_layer_step");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt_oss_has_biases_sinks_and_windows),
        cmocka_unit_test(gpt_oss_windows_are_as_the_file_says),
        cmocka_unit_test(biases_of_experts_belong_to_gpt_oss_alone),
        cmocka_unit_test(
            grok_has_the_first_models_numbers_where_files_are_silent),
        cmocka_unit_test(grok_scales_are_as_the_file_says),
        cmocka_unit_test(grok_may_have_experts_alone),
        cmocka_unit_test(llama4_weighs_the_input_of_one_expert),
        cmocka_unit_test(llama4_has_layers_without_rope),
        cmocka_unit_test(llama4_settings_of_other_models_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
