/* test_model_refusals.c - files that are refused, by name, instead of being run
 * wrongly: keys that are missing or make no sense, arithmetic that we do not
 * have, tensors that nobody would look at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_base.h"

/* The edit is refused with this code and a sentence with these words. */
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

static void assert_taken(gguf_edit *e) {
    model_config c;
    char why[256];
    if (model_base_read(e, &c, why, sizeof(why)) < 0) fail_msg("%s", why);
}

static gguf_edit *with_u32(const char *base, const char *key, uint32_t value) {
    gguf_edit *e = gguf_edit_new(base);
    gguf_writer_u32(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *with_f32(const char *base, const char *key, float value) {
    gguf_edit *e = gguf_edit_new(base);
    gguf_writer_f32(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *with_text(const char *base, const char *key,
                            const char *value) {
    gguf_edit *e = gguf_edit_new(base);
    gguf_writer_string(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *without(const char *base, const char *name) {
    gguf_edit *e = gguf_edit_new(base);
    gguf_edit_drop(e, name);
    return e;
}

static gguf_edit *with_tensor(const char *base, const char *name) {
    const uint64_t dim = 32;
    gguf_edit *e = gguf_edit_new(base);
    gguf_edit_zeros(e, name, 0, 1, &dim);
    return e;
}

/* ---- architectures ---- */

static void refuses_an_unknown_architecture_by_name(void **state) {
    (void)state;
    const char *key = "general.architecture", *base = model_base_dense();
    assert_refused(with_text(base, key, "mamba"), ERR_UNSUPPORTED, key,
                   "'mamba'");
    assert_refused(with_text(base, key, "rwkv7"), ERR_UNSUPPORTED, key,
                   "'rwkv7'");
    assert_refused(with_text(base, key, "llam"), ERR_UNSUPPORTED, key,
                   "'llam'");
    assert_refused(with_text(base, key, ""), ERR_UNSUPPORTED, key, "''");
    assert_refused(with_text(base, key, "a\033[2Jb"), ERR_UNSUPPORTED, key,
                   "'a?[2Jb'");
    assert_refused(with_u32(base, key, 1), ERR_FORMAT, key, "string");
    assert_refused(without(base, key), ERR_FORMAT, key, "missing");
}

static void reads_every_golden_architecture(void **state) {
    (void)state;
    const char *folder =
        fixture_shared("golden/logits", "architectures of the golden models");
    if (folder == NULL) skip();
    DIR *d = opendir(folder);
    assert_non_null(d);
    size_t n_read = 0;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        char *path = NULL, why[256] = "";
        if (asprintf(&path, "%s/%s/model.gguf", folder, entry->d_name) < 0)
            abort();
        gguf *g = NULL;
        if (access(path, R_OK) == 0) {
            model_config c;
            int rc = gguf_open(&g, path, why, sizeof(why));
            if (rc == 0) rc = model_read(&c, g, why, sizeof(why));
            if (rc < 0) fail_msg("%s: %s", path, why);
            n_read++;
        }
        gguf_close(g);
        free(path);
    }
    closedir(d);
    assert_true(n_read > 0);
}

/* ---- missing, mistyped and impossible keys ---- */

static void names_a_key_that_is_missing(void **state) {
    (void)state;
    static const char *const rests[] = {"block_count", "embedding_length",
                                        "attention.head_count",
                                        "attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < ARRAY_LEN(rests); i++) {
        char llama[96], qwen[96];
        snprintf(llama, sizeof(llama), "llama.%s", rests[i]);
        snprintf(qwen, sizeof(qwen), "qwen3moe.%s", rests[i]);
        assert_refused(without(model_base_dense(), llama), ERR_FORMAT, llama,
                       "missing");
        assert_refused(without(model_base_qwen3moe(), qwen), ERR_FORMAT, qwen,
                       "missing");
    }
    assert_refused(without(model_base_mixtral(), "llama.feed_forward_length"),
                   ERR_FORMAT, "llama.feed_forward_length", "missing");
    assert_refused(without(model_base_mixtral(), "llama.expert_used_count"),
                   ERR_FORMAT, "llama.expert_used_count", "not in 1 to 4");
    assert_refused(without(model_base_qwen3moe(), "qwen3moe.expert_count"),
                   ERR_FORMAT, "qwen3moe.expert_", "");
    assert_refused(
        without(model_base_qwen3moe(), "qwen3moe.expert_feed_forward_length"),
        ERR_FORMAT, "qwen3moe.expert_feed_forward_length", "missing");
}

static void names_a_key_of_the_wrong_type(void **state) {
    (void)state;
    static const char *const keys[] = {
        "llama.block_count",          "llama.embedding_length",
        "llama.context_length",       "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length", "llama.attention.value_length",
        "llama.attention.scale",      "llama.attention.layer_norm_rms_epsilon",
        "llama.rope.dimension_count", "llama.rope.freq_base",
        "llama.rope.scaling.factor",  "llama.rope.scale_linear",
        "llama.expert_count",         "llama.expert_used_count",
        "llama.expert_gating_func",   "llama.expert_weights_norm",
        "llama.attention.causal"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        assert_refused(with_text(model_base_mixtral(), keys[i], "4"),
                       ERR_FORMAT, keys[i], "string");
    assert_refused(with_u32(model_base_dense(), "llama.rope.scaling.type", 1),
                   ERR_FORMAT, "llama.rope.scaling.type", "string");
    assert_refused(with_u32(model_base_dense(), "llama.rope.freq_base", 10000),
                   ERR_FORMAT, "llama.rope.freq_base", "u32");
    assert_refused(with_f32(model_base_dense(), "llama.block_count", 2),
                   ERR_FORMAT, "llama.block_count", "f32");
}

static void names_a_number_that_is_out_of_range(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
    } cases[] = {
        {"llama.block_count", 0},
        {"llama.block_count", MODEL_MAX_LAYERS + 1},
        {"llama.embedding_length", 0},
        {"llama.embedding_length", MODEL_MAX_DIM + 1},
        {"llama.context_length", 0},
        {"llama.feed_forward_length", 0},
        {"llama.feed_forward_length", MODEL_MAX_DIM + 1},
        {"llama.attention.head_count", 0},
        {"llama.attention.head_count", MODEL_MAX_HEADS + 1},
        {"llama.attention.head_count", UINT32_MAX},
        {"llama.attention.head_count", 3}, /* not a multiple of 2 */
        {"llama.attention.head_count_kv", 0},
        {"llama.attention.head_count_kv", 3},
        {"llama.attention.head_count_kv", 8},
        {"llama.attention.key_length", 0},
        {"llama.attention.key_length", 1025},
        {"llama.attention.value_length", 0},
        {"llama.attention.value_length", 1025},
        {"llama.rope.dimension_count", 0},
        {"llama.rope.dimension_count", 7},
        {"llama.rope.dimension_count", 10}, /* of a head of 8 */
        {"llama.expert_count", MODEL_MAX_EXPERTS + 1},
        {"llama.expert_used_count", 0},
        {"llama.expert_used_count", 5},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char number[16];
        snprintf(number, sizeof(number), "%u", cases[i].value);
        assert_refused(
            with_u32(model_base_mixtral(), cases[i].key, cases[i].value),
            ERR_FORMAT, cases[i].key, number);
    }
    const char *used = "qwen3moe.expert_used_count";
    gguf_edit *e = with_u32(model_base_qwen3moe(), used, MODEL_MAX_USED + 1);
    gguf_writer_u32(gguf_edit_drop(e, "qwen3moe.expert_count"),
                    "qwen3moe.expert_count", MODEL_MAX_EXPERTS);
    assert_refused(e, ERR_FORMAT, used, "4097");
}

static void names_a_real_number_that_makes_no_sense(void **state) {
    (void)state;
    static const struct {
        const char *key;
        float value;
    } cases[] = {
        {"llama.attention.layer_norm_rms_epsilon", NAN},
        {"llama.attention.layer_norm_rms_epsilon", INFINITY},
        {"llama.attention.layer_norm_rms_epsilon", -1e-5f},
        {"llama.attention.scale", NAN},
        {"llama.attention.scale", INFINITY},
        {"llama.attention.scale", -0.1f},
        {"llama.rope.freq_base", 0.0f},
        {"llama.rope.freq_base", -1.0f},
        {"llama.rope.freq_base", NAN},
        {"llama.rope.freq_base", INFINITY},
        {"llama.rope.scaling.factor", -2.0f},
        {"llama.rope.scaling.factor", NAN},
        {"llama.rope.scaling.factor", INFINITY},
        {"llama.rope.scale_linear", -2.0f},
        {"llama.rope.scale_linear", NAN},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_refused(
            with_f32(model_base_dense(), cases[i].key, cases[i].value),
            ERR_FORMAT, cases[i].key, "");
}

static void refuses_more_heads_than_width(void **state) {
    (void)state;
    const char *heads = "llama.attention.head_count";
    gguf_edit *e = with_u32(model_base_dense(), heads, 64);
    gguf_edit_drop(e, "llama.attention.key_length");
    assert_refused(e, ERR_FORMAT, "llama.attention.key_length", "is 0");
}

static void refuses_values_that_differ_by_layer(void **state) {
    (void)state;
    static const char *const keys[] = {"llama.attention.head_count",
                                       "llama.attention.head_count_kv",
                                       "llama.feed_forward_length"};
    const uint32_t differ[2] = {4, 2}, long_one[3] = {4, 4, 4};
    const int32_t negative[2] = {-4, -4};
    const float reals[2] = {4, 4};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *key = keys[i], *base = model_base_dense();
        gguf_edit *e = without(base, key);
        gguf_writer_array(gguf_edit_drop(e, key), key, GGUF_U32, 2, differ);
        assert_refused(e, ERR_UNSUPPORTED, key, "differs by layer");
        e = without(base, key);
        gguf_writer_array(gguf_edit_drop(e, key), key, GGUF_U32, 3, long_one);
        assert_refused(e, ERR_FORMAT, key, "3 elements, not 2");
        e = without(base, key);
        gguf_writer_array(gguf_edit_drop(e, key), key, GGUF_U32, 0, NULL);
        assert_refused(e, ERR_FORMAT, key, "0 elements, not 2");
        e = without(base, key);
        gguf_writer_array(gguf_edit_drop(e, key), key, GGUF_I32, 2, negative);
        assert_refused(e, ERR_FORMAT, key, "-4");
        e = without(base, key);
        gguf_writer_array(gguf_edit_drop(e, key), key, GGUF_F32, 2, reals);
        assert_refused(e, ERR_FORMAT, key, "f32");
    }
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_writer_array(gguf_edit_drop(e, "llama.block_count"),
                      "llama.block_count", GGUF_U32, 2, long_one);
    assert_refused(e, ERR_FORMAT, "llama.block_count", "array");
}

/* ---- arithmetic that we do not have ---- */

static void refuses_rope_scaling_by_type(void **state) {
    (void)state;
    static const char *const types[] = {"yarn2", "longrope", "dynamic",
                                        "",      "linea",    "linear "};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        char quoted[32];
        snprintf(quoted, sizeof(quoted), "'%s'", types[i]);
        assert_refused(
            with_text(model_base_dense(), "llama.rope.scaling.type", types[i]),
            ERR_UNSUPPORTED, "llama.rope.scaling.type", quoted);
    }
}

typedef struct {
    const char *rest;
    uint32_t refused;
    uint32_t taken; /* as good as absent */
} setting;

static const setting settings[] = {
    {"attention.q_lora_rank", 1536, 0},
    {"attention.kv_lora_rank", 512, 0},
    {"attention.key_length_mla", 192, 0},
    {"attention.value_length_mla", 128, 0},
    {"nextn_predict_layers", 1, 0},
    {"expert_gating_func", 2, 1},
    {"expert_gating_func", 3, 0},
    {"expert_gating_func", 4, 1},
    {"expert_group_count", 8, 1},
    {"expert_group_used_count", 4, 1},
    {"expert_shared_count", 1, 0},
    {"expert_shared_feed_forward_length", 32, 0},
    {"leading_dense_block_count", 1, 0},
    {"interleave_moe_layer_step", 2, 1},
    {"moe_every_n_layers", 2, 1},
};

static void refuses_settings_it_does_not_compute_with(void **state) {
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_LEN(settings); i++) {
        const setting *s = &settings[i / 2];
        bool qwen = i % 2 == 0;
        const char *base = qwen ? model_base_qwen3moe() : model_base_mixtral();
        char key[96], value[128];
        snprintf(key, sizeof(key), "%s.%s", qwen ? "qwen3moe" : "llama",
                 s->rest);
        snprintf(value, sizeof(value), "%s = %u is", key, s->refused);
        assert_refused(with_u32(base, key, s->refused), ERR_UNSUPPORTED, key,
                       value);
        assert_taken(with_u32(base, key, s->taken));
    }
}

static void refuses_real_settings_it_does_not_compute_with(void **state) {
    (void)state;
    static const struct {
        const char *key;
        float refused, taken;
    } cases[] = {
        {"llama.expert_weights_scale", 2.5f, 1.0f},
        {"llama.expert_weights_scale", NAN, 0.0f},
        {"llama.attention.clamp_kqv", 8.0f, 0.0f},
        {"llama.attention.max_alibi_bias", 8.0f, 0.0f},
        {"llama.attention.output_scale", 0.5f, 1.0f},
        {"llama.attention.temperature_scale", 0.1f, 0.0f},
        {"llama.attn_logit_softcapping", 50.0f, 0.0f},
        {"llama.final_logit_softcapping", 30.0f, 0.0f},
        {"llama.router_logit_softcapping", 30.0f, 0.0f},
        {"llama.embedding_scale", 12.0f, 1.0f},
        {"llama.residual_scale", 0.22f, 0.0f},
        {"llama.logit_scale", 6.0f, 1.0f},
        {"llama.rope.scaling.yarn_attn_factor", 1.19f, 1.0f},
        {"llama.rope.scaling.yarn_ext_factor", 0.5f, 1.0f},
        {"llama.rope.scaling.yarn_log_multiplier", 0.1f, 0.0f},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_refused(
            with_f32(model_base_mixtral(), cases[i].key, cases[i].refused),
            ERR_UNSUPPORTED, cases[i].key, "is not supported");
        assert_taken(
            with_f32(model_base_mixtral(), cases[i].key, cases[i].taken));
    }
}

static void refuses_flags_it_does_not_compute_with(void **state) {
    (void)state;
    static const struct {
        const char *key;
        bool refused;
    } cases[] = {
        {"llama.attention.causal", false},
        {"llama.use_parallel_residual", true},
        {"llama.expert_weights_norm", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *key = cases[i].key;
        gguf_edit *e = gguf_edit_new(model_base_mixtral());
        gguf_writer_bool(gguf_edit_drop(e, key), key, cases[i].refused);
        assert_refused(e, ERR_UNSUPPORTED, key, "is not supported");
        e = gguf_edit_new(model_base_mixtral());
        gguf_writer_bool(gguf_edit_drop(e, key), key, !cases[i].refused);
        assert_taken(e);
    }
}

static void refuses_a_sliding_window_but_for_mixtrals(void **state) {
    (void)state;
    const char *qwen = "qwen3moe.attention.sliding_window";
    assert_refused(with_u32(model_base_qwen3moe(), qwen, 4096), ERR_UNSUPPORTED,
                   qwen, "4096");
    assert_taken(with_u32(model_base_qwen3moe(), qwen, 0));
    assert_taken(
        with_u32(model_base_mixtral(), "llama.attention.sliding_window", 4096));
}

static void refuses_experts_of_another_width_than_the_layers(void **state) {
    (void)state;
    const char *key = "llama.expert_feed_forward_length";
    assert_refused(with_u32(model_base_mixtral(), key, 64), ERR_UNSUPPORTED,
                   key, "64");
    assert_taken(with_u32(model_base_mixtral(), key, 32));
}

/* ---- tensors ---- */

static void refuses_tensors_that_nobody_would_look_at(void **state) {
    (void)state;
    static const char *const names[] = {
        "blk.0.attn_q.bias",
        "blk.1.attn_output.bias",
        "blk.0.ffn_gate_inp.bias",
        "blk.0.exp_probs_b.bias",
        "blk.0.ffn_up_exps.bias",
        "blk.0.ffn_gate_shexp.weight",
        "blk.0.attn_sinks.weight",
        "blk.0.post_attention_norm.weight",
        "blk.0.ffn_gate.0.weight",
        "blk.0.ffn_gate_up_exps.scale",
        "blk.0.attn_qkv.weight",
        "blk.0.attn_q_norm.weight",
        "blk.0.attn_q.weight.more",
        "blk.00.attn_q.weight",
        "blk..attn_q.weight",
        "blk.x.attn_q.weight",
        "blk.0.",
        "blk.0",
        "output.bias",
        "token_embd_norm.weight",
        "cls.weight",
        "blk.99999999999999999999.attn_q.weight",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char said[80];
        snprintf(said, sizeof(said), "tensor %.60s", names[i]);
        assert_refused(with_tensor(model_base_mixtral(), names[i]),
                       ERR_UNSUPPORTED, said, "architecture llama");
    }
    assert_refused(with_tensor(model_base_dense(), "a\033[2J\n"),
                   ERR_UNSUPPORTED, "tensor a?[2J? is", "");
    assert_refused(with_tensor(model_base_qwen3moe(), "blk.0.attn_k.bias"),
                   ERR_UNSUPPORTED, "blk.0.attn_k.bias", "qwen3moe");
}

static void takes_tables_of_angles_that_old_files_carry(void **state) {
    (void)state;
    assert_taken(with_tensor(model_base_dense(), "blk.0.attn_rot_embd"));
    assert_taken(with_tensor(model_base_dense(), "blk.1.attn_rot_embd.weight"));
}

static void refuses_layers_beyond_the_block_count(void **state) {
    (void)state;
    assert_refused(with_u32(model_base_dense(), "llama.block_count", 1),
                   ERR_FORMAT, "tensor blk.1.", "llama.block_count = 1");
    assert_refused(with_tensor(model_base_dense(), "blk.2.attn_norm.weight"),
                   ERR_FORMAT, "blk.2.attn_norm.weight", "block_count = 2");
    assert_refused(
        with_tensor(model_base_dense(), "blk.4294967296.attn_norm.weight"),
        ERR_FORMAT, "blk.4294967296.attn_norm.weight", "block_count = 2");
}

static void refuses_experts_in_a_dense_layer_and_the_reverse(void **state) {
    (void)state;
    assert_refused(with_tensor(model_base_dense(), "blk.0.ffn_gate_inp.weight"),
                   ERR_FORMAT, "blk.0.ffn_gate_inp.weight", "expert_count = 0");
    assert_refused(with_tensor(model_base_mixtral(), "blk.1.ffn_up.weight"),
                   ERR_FORMAT, "blk.1.ffn_up.weight", "expert_count = 4");
    gguf_edit *e = without(model_base_mixtral(), "llama.expert_count");
    gguf_edit_drop(e, "llama.expert_used_count");
    assert_refused(e, ERR_FORMAT, "ffn_", "llama.expert_count = 0");
}

static void refuses_an_embedding_that_does_not_fit(void **state) {
    (void)state;
    const char *name = "token_embd.weight";
    const uint64_t narrow[2] = {31, 259}, deep[3] = {32, 259, 2};
    const uint64_t deeper[4] = {32, 259, 1, 2};
    assert_refused(without(model_base_dense(), name), ERR_FORMAT, name,
                   "missing");
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_edit_zeros(e, name, 0, 2, narrow);
    assert_refused(e, ERR_FORMAT, name, "[31, 259, 1, 1]");
    e = gguf_edit_new(model_base_dense());
    gguf_edit_zeros(e, name, 0, 3, deep);
    assert_refused(e, ERR_FORMAT, name, "[32, 259, 2, 1]");
    e = gguf_edit_new(model_base_dense());
    gguf_edit_zeros(e, name, 0, 4, deeper);
    assert_refused(e, ERR_FORMAT, name, "[32, 259, 1, 2]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_an_unknown_architecture_by_name),
        cmocka_unit_test(reads_every_golden_architecture),
        cmocka_unit_test(names_a_key_that_is_missing),
        cmocka_unit_test(names_a_key_of_the_wrong_type),
        cmocka_unit_test(names_a_number_that_is_out_of_range),
        cmocka_unit_test(names_a_real_number_that_makes_no_sense),
        cmocka_unit_test(refuses_more_heads_than_width),
        cmocka_unit_test(refuses_values_that_differ_by_layer),
        cmocka_unit_test(refuses_rope_scaling_by_type),
        cmocka_unit_test(refuses_settings_it_does_not_compute_with),
        cmocka_unit_test(refuses_real_settings_it_does_not_compute_with),
        cmocka_unit_test(refuses_flags_it_does_not_compute_with),
        cmocka_unit_test(refuses_a_sliding_window_but_for_mixtrals),
        cmocka_unit_test(refuses_experts_of_another_width_than_the_layers),
        cmocka_unit_test(refuses_tensors_that_nobody_would_look_at),
        cmocka_unit_test(takes_tables_of_angles_that_old_files_carry),
        cmocka_unit_test(refuses_layers_beyond_the_block_count),
        cmocka_unit_test(refuses_experts_in_a_dense_layer_and_the_reverse),
        cmocka_unit_test(refuses_an_embedding_that_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
