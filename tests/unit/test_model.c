/* test_model.c - what is read from a model's file: keys, defaults, names,
 * tensors.  What is refused is in test_model_refusals.c. */
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

static model_config read_edit(gguf_edit *e) {
    model_config c;
    char why[256];
    if (model_base_read(e, &c, why, sizeof(why)) < 0) fail_msg("%s", why);
    return c;
}

static model_config read_base(const char *base) {
    return read_edit(gguf_edit_new(base));
}

/* ---- architectures ---- */

static void reads_a_mixtral(void **state) {
    (void)state;
    model_config c = read_base(model_base_mixtral());

    assert_string_equal(c.arch, "llama");
    assert_string_equal(c.name, "random weights");
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_embd, 32);
    assert_int_equal(c.n_vocab, MODEL_GEN_MIN_VOCAB);
    assert_int_equal(c.n_context, 512);
    assert_int_equal(c.n_heads, 4);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.key_dim, 8);
    assert_int_equal(c.value_dim, 8);
    assert_true(c.attention.scale == 1.0f / sqrtf(8.0f));
    assert_true(c.norm.eps == 1e-5f);
    assert_int_equal(c.attention.qk_norm, QK_NORM_NONE);
    assert_int_equal(c.rope.style, ROPE_NORM);
    assert_int_equal(c.rope.n_dims, 8);
    assert_true(c.rope.base == 1e6 && c.rope.scale == 1.0);
    assert_null(c.rope.factors);
    assert_int_equal(c.ffn_dim, 32);
    assert_int_equal(c.n_experts, 4);
    assert_int_equal(c.n_used, 2);
    assert_int_equal(c.expert_dim, 32);
    assert_int_equal(c.first_moe_layer, 0);
    assert_true(model_is_moe(&c, 0) && model_is_moe(&c, 1));
    assert_int_equal(c.routing.gating, GATING_SOFTMAX);
    assert_true(c.routing.renormalize);
    assert_true(c.routing.scale == 0.0f);
}

static void reads_a_dense_llama(void **state) {
    (void)state;
    model_config c = read_base(model_base_dense());
    assert_int_equal(c.n_experts, 0);
    assert_int_equal(c.n_used, 0);
    assert_int_equal(c.ffn_dim, 32);
    assert_int_equal(c.rope.style, ROPE_NORM);
    assert_false(model_is_moe(&c, 0));
    assert_false(model_is_moe(&c, 1));
}

static void reads_a_qwen3moe(void **state) {
    (void)state;
    gguf_edit *e = gguf_edit_new(model_base_qwen3moe());
    const char *width = "qwen3moe.expert_feed_forward_length";
    const char *dense = "qwen3moe.feed_forward_length";
    gguf_writer_u32(gguf_edit_drop(e, width), width, 16);
    gguf_writer_u32(gguf_edit_drop(e, dense), dense, 96);
    model_config c = read_edit(e);

    assert_string_equal(c.arch, "qwen3moe");
    assert_int_equal(c.rope.style, ROPE_NEOX);
    assert_int_equal(c.attention.qk_norm, QK_NORM_HEADS);
    assert_int_equal(c.expert_dim, 16);
    assert_int_equal(c.n_experts, 4);
    assert_int_equal(c.n_used, 2);
    assert_true(c.norm.eps == 1e-6f);
    assert_true(model_is_moe(&c, 0));
    assert_int_equal(c.routing.gating, GATING_SOFTMAX);
    assert_true(c.routing.renormalize);
}

static void takes_the_head_size_from_key_length(void **state) {
    (void)state;
    gguf_edit *e = gguf_edit_new(model_base_qwen3moe());
    const char *key = "qwen3moe.attention.key_length";
    const char *value = "qwen3moe.attention.value_length";
    gguf_edit_drop(e, "qwen3moe.rope.dimension_count");
    gguf_writer_u32(gguf_edit_drop(e, key), key, 24);
    gguf_writer_u32(gguf_edit_drop(e, value), value, 12);
    model_config c = read_edit(e);
    assert_int_equal(c.key_dim, 24);
    assert_int_equal(c.value_dim, 12);
    assert_int_equal(c.rope.n_dims, 24);
    assert_true(c.attention.scale == 1.0f / sqrtf(24.0f));
}

static void has_defaults_for_what_a_file_may_leave_out(void **state) {
    (void)state;
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_edit_drop(e, "llama.attention.head_count_kv");
    gguf_edit_drop(e, "llama.attention.key_length");
    gguf_edit_drop(e, "llama.attention.value_length");
    gguf_edit_drop(e, "llama.rope.dimension_count");
    gguf_edit_drop(e, "llama.rope.freq_base");
    gguf_edit_drop(e, "llama.context_length");
    model_config c = read_edit(e);
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.key_dim, 8); /* width / heads */
    assert_int_equal(c.value_dim, 8);
    assert_int_equal(c.rope.n_dims, 8);
    assert_true(c.rope.base == 10000.0);
    assert_int_equal(c.n_context, 2048);
}

static void takes_an_attention_scale(void **state) {
    (void)state;
    const char *key = "llama.attention.scale";
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer_f32(gguf_edit_drop(e, key), key, 0.25f);
    assert_true(read_edit(e).attention.scale == 0.25f);

    e = gguf_edit_new(model_base_mixtral());
    gguf_writer_f32(gguf_edit_drop(e, key), key, 0.0f);
    assert_true(read_edit(e).attention.scale == 1.0f / sqrtf(8.0f));
}

static void takes_a_context_of_any_length(void **state) {
    (void)state;
    const char *key = "llama.context_length";
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer_u32(gguf_edit_drop(e, key), key, 1u << 31);
    assert_int_equal(read_edit(e).n_context, 1u << 31);
}

/* ---- RoPE scaling ---- */

static double rope_scale(const char *type, float factor, float old_factor) {
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer *w = gguf_edit_drop(e, "");
    if (type != NULL) gguf_writer_string(w, "llama.rope.scaling.type", type);
    if (factor != 0) gguf_writer_f32(w, "llama.rope.scaling.factor", factor);
    if (old_factor != 0)
        gguf_writer_f32(w, "llama.rope.scale_linear", old_factor);
    return read_edit(e).rope.scale;
}

static void scales_angles_linearly_by_either_key(void **state) {
    (void)state;
    assert_true(rope_scale(NULL, 0, 0) == 1.0);
    assert_true(rope_scale("linear", 0, 0) == 1.0);
    assert_true(rope_scale(NULL, 4, 0) == 4.0);
    assert_true(rope_scale("linear", 4, 0) == 4.0);
    assert_true(rope_scale(NULL, 0, 2) == 2.0);
    assert_true(rope_scale(NULL, 4, 2) == 4.0);
}

static void leaves_angles_alone_if_the_type_is_none(void **state) {
    (void)state;
    assert_true(rope_scale("none", 4, 2) == 1.0);
}

static gguf_edit *with_yarn(const float *factor) {
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer *w = gguf_edit_drop(e, "");
    gguf_writer_string(w, "llama.rope.scaling.type", "yarn");
    if (factor != NULL)
        gguf_writer_f32(w, "llama.rope.scaling.factor", *factor);
    return e;
}

static void reads_yarn_and_what_it_leaves_out(void **state) {
    (void)state;
    const float factor = 40.0f;
    const double log_40 = 3.6888794541139363;
    rope_config r = read_edit(with_yarn(&factor)).rope;
    assert_true(r.scale == 40.0);
    assert_true(fabs(r.magnitude - (1.0 + 0.1 * log_40)) < 1e-12);
    assert_true(r.yarn.original_context == 512.0); /* the model's context */
    assert_true(r.yarn.beta_fast == 32.0 && r.yarn.beta_slow == 1.0);

    gguf_edit *e = with_yarn(&factor);
    gguf_writer *w = gguf_edit_drop(e, "");
    gguf_writer_u32(w, "llama.rope.scaling.original_context_length", 128);
    gguf_writer_f32(w, "llama.rope.scaling.yarn_beta_fast", 2.0f);
    gguf_writer_f32(w, "llama.rope.scaling.yarn_beta_slow", 0.5f);
    gguf_writer_f32(w, "llama.rope.scaling.attn_factor", 2.0f);
    r = read_edit(e).rope;
    assert_true(r.yarn.original_context == 128.0);
    assert_true(r.yarn.beta_fast == 2.0 && r.yarn.beta_slow == 0.5);
    assert_true(fabs(r.magnitude - 2.0 * (1.0 + 0.1 * log_40)) < 1e-12);

    r = read_edit(with_yarn(NULL)).rope; /* not stretched */
    assert_true(r.scale == 1.0 && r.magnitude == 1.0);
}

static void has_no_yarn_with_other_types(void **state) {
    (void)state;
    rope_config r = read_base(model_base_mixtral()).rope;
    assert_true(r.yarn.original_context == 0 && r.magnitude == 1.0);
}

/* ---- values for each layer ---- */

static void takes_an_array_of_equal_values_as_one_value(void **state) {
    (void)state;
    const uint32_t heads[2] = {4, 4};
    const int32_t kv_heads[2] = {1, 1};
    const uint16_t width[2] = {32, 32};
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer *w = gguf_edit_drop(e, "llama.attention.head_count");
    gguf_edit_drop(e, "llama.attention.head_count_kv");
    gguf_edit_drop(e, "llama.feed_forward_length");
    gguf_writer_array(w, "llama.attention.head_count", GGUF_U32, 2, heads);
    gguf_writer_array(w, "llama.attention.head_count_kv", GGUF_I32, 2,
                      kv_heads);
    gguf_writer_array(w, "llama.feed_forward_length", GGUF_U16, 2, width);
    model_config c = read_edit(e);
    assert_int_equal(c.n_heads, 4);
    assert_int_equal(c.n_kv_heads, 1);
    assert_int_equal(c.ffn_dim, 32);
}

static void takes_any_integer_type(void **state) {
    (void)state;
    const uint64_t layers = 2;
    const uint8_t experts = 4;
    gguf_edit *e = gguf_edit_new(model_base_mixtral());
    gguf_writer *w = gguf_edit_drop(e, "llama.block_count");
    gguf_edit_drop(e, "llama.expert_count");
    gguf_writer_value(w, "llama.block_count", GGUF_U64, &layers);
    gguf_writer_value(w, "llama.expert_count", GGUF_U8, &experts);
    model_config c = read_edit(e);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_experts, 4);
}

/* ---- names ---- */

static void assert_named(const char *written, const char *read) {
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_writer_string(gguf_edit_drop(e, "general.name"), "general.name",
                       written);
    model_config c = read_edit(e);
    assert_string_equal(c.name, read);
}

static void keeps_a_name_of_whole_characters(void **state) {
    (void)state;
    assert_named("Mixtral 8x7B Größe 大", "Mixtral 8x7B Größe 大");
}

static void replaces_control_characters_in_a_name(void **state) {
    (void)state;
    assert_named("a\nb\x1b[31m\x7f", "a?b?[31m?");
    assert_named("C1 \xc2\x9b"
                 "2J \xc2\x80\xc2\xa0",
                 "C1 ?2J ?\xc2\xa0");
}

static void replaces_what_is_no_utf8_in_a_name(void **state) {
    (void)state;
    assert_named("a\xff\x80"
                 "b",
                 "a??b");
    assert_named("\xc0\xaf\xed\xa0\x80\xf5", "??????");
    assert_named("cut \xe5\xa4", "cut ??");
}

static void cuts_a_name_between_characters(void **state) {
    (void)state;
    char written[200], read[MODEL_NAME_MAX + 1];
    memset(written, 'n', sizeof(written));
    written[sizeof(written) - 1] = '\0';
    memset(read, 'n', sizeof(read));
    read[MODEL_NAME_MAX] = '\0';
    assert_named(written, read);

    /* 125 bytes, and a character of three that no longer fits */
    memcpy(written + 125, "大", 3);
    read[125] = '\0';
    assert_named(written, read);

    memcpy(written + 124, "大", 3);
    memcpy(read + 124, "大", 4);
    assert_named(written, read);
}

static void names_a_model_without_a_name_after_its_file(void **state) {
    (void)state;
    assert_named("", "edited");
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_edit_drop(e, "general.name");
    assert_string_equal(read_edit(e).name, "edited");
}

/* ---- tensors ---- */

typedef struct {
    gguf *g;
    model_config c;
} opened;

static void open_base(opened *o, const char *path) {
    char why[256] = "";
    if (gguf_open(&o->g, path, why, sizeof(why)) < 0 ||
        model_read(&o->c, o->g, why, sizeof(why)) < 0) {
        fail_msg("%s", why);
    }
}

static void finds_a_layers_tensor_of_the_right_shape(void **state) {
    (void)state;
    opened o;
    const gguf_tensor *t = NULL;
    char why[256] = "";
    open_base(&o, model_base_mixtral());
    assert_int_equal(
        model_tensor(o.g, 1, "attn_k", 32, 16, 0, &t, why, sizeof(why)), 0);
    assert_ptr_equal(t, gguf_find_tensor(o.g, "blk.1.attn_k.weight"));
    assert_int_equal(
        model_tensor(o.g, 0, "attn_norm", 32, 0, 0, &t, why, sizeof(why)), 0);
    assert_int_equal(model_tensor_named(o.g, "output_norm.weight", 32, 0, 0, &t,
                                        why, sizeof(why)),
                     0);
    gguf_close(o.g);
}

static void says_what_shape_a_tensor_has_and_should_have(void **state) {
    (void)state;
    opened o;
    const gguf_tensor *t = NULL;
    char why[256] = "";
    open_base(&o, model_base_mixtral());
    assert_int_equal(
        model_tensor(o.g, 1, "attn_k", 32, 8, 0, &t, why, sizeof(why)),
        ERR_FORMAT);
    assert_string_equal(
        why, "tensor blk.1.attn_k.weight is [32, 16, 1, 1], not [32, 8, 1, 1]");
    assert_int_equal(
        model_tensor(o.g, 7, "attn_k", 32, 16, 0, &t, why, sizeof(why)),
        ERR_FORMAT);
    assert_string_equal(why, "tensor blk.7.attn_k.weight is missing");
    gguf_close(o.g);
}

static void finds_the_experts_of_a_layer(void **state) {
    (void)state;
    opened o;
    expert_tensors t;
    char why[256] = "";
    open_base(&o, model_base_qwen3moe());
    assert_int_equal(model_experts(&o.c, o.g, 1, &t, why, sizeof(why)), 0);
    assert_ptr_equal(t.gate,
                     gguf_find_tensor(o.g, "blk.1.ffn_gate_exps.weight"));
    assert_ptr_equal(t.up, gguf_find_tensor(o.g, "blk.1.ffn_up_exps.weight"));
    assert_ptr_equal(t.down,
                     gguf_find_tensor(o.g, "blk.1.ffn_down_exps.weight"));
    assert_int_equal(model_expert_bytes(&t, o.c.n_experts),
                     3 * 32 * 32 * sizeof(float));
    gguf_close(o.g);
}

static void names_the_expert_tensor_that_does_not_fit(void **state) {
    (void)state;
    static const char *const names[] = {"blk.1.ffn_gate_exps.weight",
                                        "blk.1.ffn_up_exps.weight",
                                        "blk.1.ffn_down_exps.weight"};
    const uint64_t dims[3] = {32, 32, 3};
    const char *path = fixture_path("experts.gguf");
    for (size_t i = 0; i < 2 * ARRAY_LEN(names); i++) {
        const char *name = names[i / 2];
        gguf_edit *e = gguf_edit_new(model_base_mixtral());
        if (i % 2 == 0)
            gguf_edit_drop(e, name);
        else
            gguf_edit_zeros(e, name, 0, 3, dims);
        gguf_edit_finish(e, path);

        opened o;
        expert_tensors t;
        char why[256] = "";
        open_base(&o, path);
        assert_int_equal(model_experts(&o.c, o.g, 1, &t, why, sizeof(why)),
                         ERR_FORMAT);
        assert_non_null(strstr(why, name));
        gguf_close(o.g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_mixtral),
        cmocka_unit_test(reads_a_dense_llama),
        cmocka_unit_test(reads_a_qwen3moe),
        cmocka_unit_test(takes_the_head_size_from_key_length),
        cmocka_unit_test(has_defaults_for_what_a_file_may_leave_out),
        cmocka_unit_test(takes_an_attention_scale),
        cmocka_unit_test(takes_a_context_of_any_length),
        cmocka_unit_test(scales_angles_linearly_by_either_key),
        cmocka_unit_test(leaves_angles_alone_if_the_type_is_none),
        cmocka_unit_test(reads_yarn_and_what_it_leaves_out),
        cmocka_unit_test(has_no_yarn_with_other_types),
        cmocka_unit_test(takes_an_array_of_equal_values_as_one_value),
        cmocka_unit_test(takes_any_integer_type),
        cmocka_unit_test(keeps_a_name_of_whole_characters),
        cmocka_unit_test(replaces_control_characters_in_a_name),
        cmocka_unit_test(replaces_what_is_no_utf8_in_a_name),
        cmocka_unit_test(cuts_a_name_between_characters),
        cmocka_unit_test(names_a_model_without_a_name_after_its_file),
        cmocka_unit_test(finds_a_layers_tensor_of_the_right_shape),
        cmocka_unit_test(says_what_shape_a_tensor_has_and_should_have),
        cmocka_unit_test(finds_the_experts_of_a_layer),
        cmocka_unit_test(names_the_expert_tensor_that_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
