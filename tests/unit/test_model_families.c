/* test_model_families.c - what is read from the files of each architecture, and
 * what is refused in them. */
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
#include "engine/weight.h"
#include "tests/support/family_gen.h"
#include "tests/support/fixture.h"
#include "tests/support/model_base.h"

/* The file of a family, made when it is first asked for. */
static const char *file_of(const char *name) {
    static const char *paths[64];
    for (size_t i = 0; i < family_count(); i++) {
        if (strcmp(family_name(i), name) != 0) continue;
        if (paths[i] != NULL) return paths[i];
        char file[64];
        snprintf(file, sizeof(file), "%s.gguf", name);
        paths[i] = fixture_path(file);
        family_gen(i, WEIGHT_F32, paths[i]);
        return paths[i];
    }
    fail_msg("no family is called %s", name);
    return NULL;
}

static model_config read_edit(gguf_edit *e) {
    model_config c;
    char why[256];
    if (model_base_read(e, &c, why, sizeof(why)) < 0) fail_msg("%s", why);
    return c;
}

static model_config read_family(const char *name) {
    return read_edit(gguf_edit_new(file_of(name)));
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

static gguf_edit *with_u32(const char *family, const char *key,
                           uint32_t value) {
    gguf_edit *e = gguf_edit_new(file_of(family));
    gguf_writer_u32(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *with_f32(const char *family, const char *key, float value) {
    gguf_edit *e = gguf_edit_new(file_of(family));
    gguf_writer_f32(gguf_edit_drop(e, key), key, value);
    return e;
}

/* ---- what is read ---- */

static void reads_every_family(void **state) {
    (void)state;
    for (size_t i = 0; i < family_count(); i++) {
        model_config c = read_family(family_name(i));
        assert_true(model_n_moe(&c) > 0);
        assert_true(c.n_experts == 8 && c.expert_dim == 128);
    }
}

static void a_qwen2moe_has_biases_and_a_gated_shared_expert(void **state) {
    (void)state;
    model_config c = read_family("qwen2moe");
    assert_true(c.attention.qkv_bias && !c.attention.output_bias);
    assert_true(c.shared_dim == 64 && c.shared_gated);
    assert_false(c.routing.renormalize);
    assert_int_equal(c.rope.style, ROPE_NEOX);
}

/* Old files: the used experts together, and the shared one, have the width that
 * dense layers would have. */
static void a_qwen2moe_without_widths_has_those_of_its_dense_one(void **state) {
    (void)state;
    gguf_edit *e = gguf_edit_new(file_of("qwen2moe"));
    const char *dense = "qwen2moe.feed_forward_length";
    gguf_writer_u32(gguf_edit_drop(e, dense), dense, 3 * 128);
    gguf_edit_drop(e, "qwen2moe.expert_feed_forward_length");
    gguf_edit_drop(e, "qwen2moe.expert_shared_feed_forward_length");
    model_config c = read_edit(e);
    assert_int_equal(c.expert_dim, 128);
    assert_int_equal(c.shared_dim, 3 * 128);
    assert_int_equal(c.ffn_dim, 3 * 128);
}

/* Writers do not agree: 64 of each, 64 of all, or as wide as the experts. */
static void shared_experts_are_as_wide_as_their_tensors(void **state) {
    (void)state;
    const char *count = "dots1.expert_shared_count";
    const char *width = "dots1.expert_shared_feed_forward_length";
    gguf_edit *e = with_u32("dots1", count, 2);
    gguf_writer_u32(gguf_edit_drop(e, width), width, 32);
    assert_int_equal(read_edit(e).shared_dim, 64);
    assert_int_equal(read_edit(with_u32("dots1", count, 2)).shared_dim, 64);
    e = with_u32("dots1", count, 2);
    gguf_edit_drop(e, width);
    assert_int_equal(read_edit(e).shared_dim, 2 * 128);
}

static void an_olmoe_norms_q_and_k_as_a_whole(void **state) {
    (void)state;
    model_config c = read_family("olmoe");
    assert_int_equal(c.attention.qk_norm, QK_NORM_WHOLE);
    assert_false(c.attention.qk_norm_late || c.attention.qk_norm_plain);
    assert_false(c.routing.renormalize);
}

static void a_glm4moe_leaves_its_last_layers_out(void **state) {
    (void)state;
    model_config c = read_family("glm4moe");
    assert_int_equal(c.n_layers, 3);
    assert_int_equal(c.n_extra_layers, 1);
    assert_int_equal(c.first_moe_layer, 1);
    assert_int_equal(model_n_moe(&c), 2);
    assert_string_equal(c.norm.ffn, "post_attention_norm");
    assert_int_equal(c.rope.n_dims, 16);
    assert_int_equal(c.attention.qk_norm, QK_NORM_HEADS);
    assert_true(c.selection_bias && c.routing.renormalize);
    assert_int_equal(c.routing.gating, GATING_SIGMOID);
    assert_true(c.routing.scale == 1.5f);

    static const char *const norms[] = {
        "blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight",
        "blk.1.attn_q_norm.weight", "blk.1.attn_k_norm.weight",
        "blk.2.attn_q_norm.weight", "blk.2.attn_k_norm.weight",
    };
    gguf_edit *e = gguf_edit_new(file_of("glm4moe")); /* the small one */
    for (size_t i = 0; i < ARRAY_LEN(norms); i++)
        gguf_edit_drop(e, norms[i]);
    assert_int_equal(read_edit(e).attention.qk_norm, QK_NORM_NONE);
}

/* Whatever is in them: they are not computed. */
static void layers_that_are_left_out_may_hold_anything(void **state) {
    (void)state;
    const uint64_t n = 4;
    gguf_edit *e = gguf_edit_new(file_of("glm4moe"));
    gguf_edit_zeros(e, "blk.3.nextn.eh_proj.weight", WEIGHT_F32, 1, &n);
    assert_int_equal(read_edit(e).n_layers, 3);

    e = gguf_edit_new(file_of("glm4moe"));
    gguf_edit_zeros(e, "blk.2.nextn.eh_proj.weight", WEIGHT_F32, 1, &n);
    assert_refused(e, ERR_UNSUPPORTED, "blk.2.nextn.eh_proj.weight", "glm4moe");
    e = gguf_edit_new(file_of("glm4moe"));
    gguf_edit_zeros(e, "blk.4.attn_norm.weight", WEIGHT_F32, 1, &n);
    assert_refused(e, ERR_FORMAT, "blk.4.attn_norm.weight", "= 4 ");
}

static void a_granitemoe_divides_its_logits(void **state) {
    (void)state;
    model_config c = read_family("granitemoe");
    assert_true(c.scale.embedding == 3.0f);
    assert_true(c.scale.residual == 0.6f);
    assert_true(c.scale.logit == 1.0f / 3.0f);
    assert_true(c.attention.scale == 0.15f);
    assert_true(c.shared_dim == 64 && !c.shared_gated);

    gguf_edit *e = gguf_edit_new(file_of("granitemoe"));
    gguf_edit_drop(e, "granitemoe.logit_scale");
    gguf_edit_drop(e, "granitemoe.residual_scale");
    c = read_edit(e);
    assert_true(c.scale.logit == 1.0f && c.scale.residual == 1.0f);
}

static void an_ernie_has_experts_in_every_second_layer(void **state) {
    (void)state;
    model_config c = read_family("ernie4_5-moe");
    for (uint32_t layer = 0; layer < 4; layer++) {
        assert_int_equal(model_is_moe(&c, layer), layer % 2 == 1);
        assert_int_equal(model_is_dense(&c, layer), layer % 2 == 0);
    }
    assert_true(c.selection_bias && c.routing.renormalize);
    assert_int_equal(c.routing.gating, GATING_SOFTMAX);
}

static void a_phimoe_stays_within_its_original_context(void **state) {
    (void)state;
    model_config c = read_family("phimoe");
    assert_int_equal(c.n_context, 256);
    assert_string_equal(c.rope_factors, "rope_factors_short.weight");
    assert_true(c.rope.magnitude == (double)1.19f);
    assert_true(c.norm.bias && c.output_bias);
    assert_true(c.attention.qkv_bias && c.attention.output_bias);

    char why[256] = ""; /* whoever asks for more would get other angles */
    assert_int_equal(model_check_context(&c, 256, why, sizeof(why)), 0);
    assert_int_equal(model_check_context(&c, 257, why, sizeof(why)),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(why, "257"));
    assert_non_null(strstr(why, "256"));
}

static void a_dbrx_has_other_norms_and_clamps(void **state) {
    (void)state;
    model_config c = read_family("dbrx");
    assert_int_equal(c.norm.kind, NORM_LAYER);
    assert_false(c.norm.bias);
    assert_string_equal(c.norm.ffn, "attn_output_norm");
    assert_true(c.attention.fused_qkv && c.attention.clamp == 1.0f);
}

static void a_bailingmoe2_chooses_within_groups(void **state) {
    (void)state;
    model_config c = read_family("bailingmoe2");
    assert_int_equal(c.routing.n_groups, 4);
    assert_int_equal(c.routing.n_groups_used, 2);
    assert_true(c.attention.fused_qkv && c.selection_bias);
}

static void norms_of_heads_may_come_after_rope(void **state) {
    (void)state;
    assert_true(read_family("hunyuan-moe").attention.qk_norm_late);
    assert_false(read_family("dots1").attention.qk_norm_late);
    assert_int_equal(read_family("minimax-m2").attention.qk_norm,
                     QK_NORM_WHOLE);
}

/* ---- which keys a layer sees, which layers turn ---- */

static void a_window_ends_with_the_query(void **state) {
    (void)state;
    model_config c = {.attention = {.window = 8, .window_period = 2}};
    assert_int_equal(model_first_key(&c, 0, 7), 0);
    assert_int_equal(model_first_key(&c, 0, 8), 1); /* i - j < 8 */
    assert_int_equal(model_first_key(&c, 0, 100), 93);
    assert_int_equal(model_first_key(&c, 1, 100), 0);
    assert_int_equal(model_first_key(&c, 2, 100), 93);
    c.attention.window_period = 0;
    assert_int_equal(model_first_key(&c, 1, 100), 93);
}

static void a_chunk_begins_at_its_multiples(void **state) {
    (void)state;
    model_config c = {.attention = {.chunk = 10, .no_rope_period = 4}};
    assert_int_equal(model_first_key(&c, 0, 9), 0);
    assert_int_equal(model_first_key(&c, 0, 10), 10);
    assert_int_equal(model_first_key(&c, 2, 29), 20);
    assert_int_equal(model_first_key(&c, 3, 29), 0); /* sees everything */
    assert_true(model_has_rope(&c, 2));
    assert_false(model_has_rope(&c, 3));
    assert_false(model_has_rope(&c, 7));
}

/* ---- what is refused ---- */

static void refuses_numbers_that_do_not_fit_the_model(void **state) {
    (void)state;
    static const struct {
        const char *family, *key;
        uint32_t value;
    } cases[] = {
        {"glm4moe", "glm4moe.nextn_predict_layers", 4},
        {"glm4moe", "glm4moe.leading_dense_block_count", 4},
        {"glm4moe", "glm4moe.expert_used_count", 9},
        {"glm4moe", "glm4moe.expert_shared_feed_forward_length",
         MODEL_MAX_DIM + 1},
        {"glm4moe", "glm4moe.expert_shared_count", UINT32_MAX},
        {"ernie4_5-moe", "ernie4_5-moe.interleave_moe_layer_step", 5},
        {"phimoe", "phimoe.rope.scaling.original_context_length", 0},
        {"dots1", "dots1.expert_feed_forward_length", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_refused(with_u32(cases[i].family, cases[i].key, cases[i].value),
                       ERR_FORMAT, strchr(cases[i].key, '.') + 1,
                       cases[i].family);
    }
}

static void refuses_a_model_none_of_whose_layers_has_experts(void **state) {
    (void)state;
    const char *key = "dots1.leading_dense_block_count";
    assert_refused(with_u32("dots1", key, 3), ERR_FORMAT, "dots1.expert_count",
                   "none of 3");
}

static void refuses_factors_that_make_no_sense(void **state) {
    (void)state;
    static const struct {
        const char *family, *key;
        float value;
    } cases[] = {
        {"granitemoe", "granitemoe.logit_scale", -3.0f},
        {"granitemoe", "granitemoe.embedding_scale", NAN},
        {"granitemoe", "granitemoe.residual_scale", INFINITY},
        {"dbrx", "dbrx.attention.clamp_kqv", -1.0f},
        {"phimoe", "phimoe.rope.scaling.attn_factor", -1.0f},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_refused(with_f32(cases[i].family, cases[i].key, cases[i].value),
                       ERR_FORMAT, cases[i].key, "not a positive number");
    }
}

/* What one row computes with is refused in another. */
static void refuses_settings_of_other_architectures(void **state) {
    (void)state;
    static const char *const families[] = {
        "qwen2moe", "olmoe", "glm4moe", "minimax-m2", "hunyuan-moe", "deepseek",
    };
    static const char *const rest[] = {
        "attention.clamp_kqv",
        "attention.sliding_window",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "embedding_scale",
        "residual_scale",
        "logit_scale",
        "attention.q_lora_rank",
        "attention.kv_lora_rank",
        "interleave_moe_layer_step",
        "router_logit_softcapping",
    };
    for (size_t f = 0; f < ARRAY_LEN(families); f++) {
        for (size_t i = 0; i < ARRAY_LEN(rest); i++) {
            char key[96];
            snprintf(key, sizeof(key), "%s.%s", families[f], rest[i]);
            assert_refused(with_u32(families[f], key, 7), ERR_UNSUPPORTED, key,
                           "= 7 ");
        }
    }
}

static void refuses_granite_without_positions(void **state) {
    (void)state;
    const char *key = "granitemoe.rope.scaling.finetuned";
    gguf_edit *e = gguf_edit_new(file_of("granitemoe"));
    gguf_writer_bool(gguf_edit_drop(e, key), key, false);
    assert_refused(e, ERR_UNSUPPORTED, key, "= 0 ");
}

/* A tensor of a feature that the model has not would be skipped. */
static void refuses_tensors_of_features_a_model_has_not(void **state) {
    (void)state;
    static const struct {
        const char *family, *name;
    } cases[] = {
        {"olmoe", "blk.0.attn_q.bias"},
        {"olmoe", "blk.1.ffn_up_shexp.weight"},
        {"olmoe", "blk.1.attn_sinks.weight"},
        {"olmoe", "blk.0.attn_qkv.weight"},
        {"olmoe", "blk.0.post_attention_norm.weight"},
        {"olmoe", "blk.0.exp_probs_b.bias"},
        {"olmoe", "output.bias"},
        {"olmoe", "rope_factors_long.weight"},
        {"glm4moe", "blk.0.ffn_norm.weight"},
        {"glm4moe", "blk.1.ffn_gate_inp_shexp.weight"},
        {"dbrx", "blk.0.attn_q.weight"},
        {"dbrx", "blk.0.attn_norm.bias"},
        {"dbrx", "blk.0.ffn_norm.weight"},
        {"hunyuan-moe", "blk.0.attn_output.bias"},
        {"phimoe", "rope_freqs.weight"},
        {"granitemoe", "blk.0.ffn_gate_inp.bias"},
    };
    const uint64_t n = 4;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        gguf_edit *e = gguf_edit_new(file_of(cases[i].family));
        gguf_edit_zeros(e, cases[i].name, WEIGHT_F32, 1, &n);
        assert_refused(e, ERR_UNSUPPORTED, cases[i].name, cases[i].family);
    }
}

static void refuses_dense_tensors_in_layers_of_experts(void **state) {
    (void)state;
    const uint64_t n = 4;
    gguf_edit *e = gguf_edit_new(file_of("ernie4_5-moe"));
    gguf_edit_zeros(e, "blk.3.ffn_up.weight", WEIGHT_F32, 1, &n);
    assert_refused(e, ERR_FORMAT, "blk.3.ffn_up.weight", "only experts");
    e = gguf_edit_new(file_of("ernie4_5-moe"));
    gguf_edit_zeros(e, "blk.2.ffn_up_exps.weight", WEIGHT_F32, 1, &n);
    assert_refused(e, ERR_FORMAT, "blk.2.ffn_up_exps.weight", "no experts");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_family),
        cmocka_unit_test(a_qwen2moe_has_biases_and_a_gated_shared_expert),
        cmocka_unit_test(a_qwen2moe_without_widths_has_those_of_its_dense_one),
        cmocka_unit_test(shared_experts_are_as_wide_as_their_tensors),
        cmocka_unit_test(an_olmoe_norms_q_and_k_as_a_whole),
        cmocka_unit_test(a_glm4moe_leaves_its_last_layers_out),
        cmocka_unit_test(layers_that_are_left_out_may_hold_anything),
        cmocka_unit_test(a_granitemoe_divides_its_logits),
        cmocka_unit_test(an_ernie_has_experts_in_every_second_layer),
        cmocka_unit_test(a_phimoe_stays_within_its_original_context),
        cmocka_unit_test(a_dbrx_has_other_norms_and_clamps),
        cmocka_unit_test(a_bailingmoe2_chooses_within_groups),
        cmocka_unit_test(norms_of_heads_may_come_after_rope),
        cmocka_unit_test(a_window_ends_with_the_query),
        cmocka_unit_test(a_chunk_begins_at_its_multiples),
        cmocka_unit_test(refuses_numbers_that_do_not_fit_the_model),
        cmocka_unit_test(refuses_a_model_none_of_whose_layers_has_experts),
        cmocka_unit_test(refuses_factors_that_make_no_sense),
        cmocka_unit_test(refuses_settings_of_other_architectures),
        cmocka_unit_test(refuses_granite_without_positions),
        cmocka_unit_test(refuses_tensors_of_features_a_model_has_not),
        cmocka_unit_test(refuses_dense_tensors_in_layers_of_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
