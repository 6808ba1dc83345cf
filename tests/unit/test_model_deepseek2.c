/* test_model_deepseek2.c - what is read from files of DeepSeek's models in both
 * of their forms, the routing rule among it, and what is refused. */
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
#include "tests/support/fixture.h"
#include "tests/support/model_base.h"
#include "tests/support/model_gen.h"

/* 3 layers, the first one dense; 4 heads of 32 | 16 and 32, latents of 64; 8
 * experts in 2 groups, 3 used of one group. */
static const char *base_of(bool unsplit) {
    static const char *paths[2];
    char why[256] = "";
    model_shape shape = model_shape_small();
    if (paths[unsplit] != NULL) return paths[unsplit];
    paths[unsplit] = fixture_path(unsplit ? "unsplit.gguf" : "split.gguf");
    shape.arch = "deepseek2";
    shape.n_layers = 3;
    shape.n_experts = 8;
    shape.n_used = 3;
    shape.head_dim = 32;
    shape.unsplit = unsplit;
    if (model_gen(&shape, paths[unsplit], why, sizeof(why)) < 0) {
        fail_msg("%s", why);
    }
    return paths[unsplit];
}

static gguf_edit *edit(void) {
    return gguf_edit_new(base_of(false));
}

static model_config read_edit(gguf_edit *e) {
    model_config c;
    char why[256];
    if (model_base_read(e, &c, why, sizeof(why)) < 0) fail_msg("%s", why);
    return c;
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

static gguf_edit *with_u32(const char *key, uint32_t value) {
    gguf_edit *e = edit();
    gguf_writer_u32(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *with_f32(const char *key, float value) {
    gguf_edit *e = edit();
    gguf_writer_f32(gguf_edit_drop(e, key), key, value);
    return e;
}

static gguf_edit *without(const char *name) {
    gguf_edit *e = edit();
    gguf_edit_drop(e, name);
    return e;
}

/* ---- attention ---- */

static void reads_both_forms_of_latent_attention(void **state) {
    (void)state;
    for (int unsplit = 0; unsplit < 2; unsplit++) {
        model_config c = read_edit(gguf_edit_new(base_of(unsplit)));
        assert_int_equal(c.attention.kind, ATTENTION_LATENT);
        assert_int_equal(c.latent.unsplit, unsplit);
        assert_int_equal(c.latent.rank, 64);
        assert_int_equal(c.latent.q_rank, 64);
        assert_int_equal(c.latent.nope_dim, 32);
        assert_int_equal(c.latent.value_dim, 32);
        assert_int_equal(model_latent_head_dim(&c), 48);
        assert_int_equal(c.n_heads, 4);
        assert_int_equal(c.n_kv_heads, 1); /* as cached */
        assert_int_equal(c.key_dim, 64 + 16);
        assert_int_equal(c.value_dim, 64);
        assert_int_equal(c.rope.n_dims, 16);
        assert_int_equal(c.rope.style, ROPE_NORM);
    }
}

/* (1 + L ln s)^2 / sqrt(48) with L = 0.1, s = 4; then without L, and the
 * magnitude is in sines and cosines as elsewhere. */
static void the_log_multiplier_goes_into_the_scores(void **state) {
    (void)state;
    const double longer = 1.0 + 0.1 * 1.3862943611198906;
    model_config c = read_edit(edit());
    double want = longer * longer / sqrt(48.0);
    assert_true(fabs((double)c.attention.scale - want) < 1e-7);
    assert_true(c.rope.magnitude == 1.0);

    c = read_edit(without("deepseek2.rope.scaling.yarn_log_multiplier"));
    assert_true(c.attention.scale == 1.0f / sqrtf(48.0f));
    assert_true(fabs(c.rope.magnitude - longer) < 1e-12);

    gguf_edit *e = without("deepseek2.rope.scaling.type");
    c = read_edit(e); /* no YaRN, so nothing to multiply */
    assert_true(c.attention.scale == 1.0f / sqrtf(48.0f));
    assert_true(c.rope.magnitude == 1.0);
}

static void queries_may_come_from_the_hidden_row(void **state) {
    (void)state;
    static const char *const low[] = {
        "blk.0.attn_q_a.weight",      "blk.1.attn_q_a.weight",
        "blk.2.attn_q_a.weight",      "blk.0.attn_q_a_norm.weight",
        "blk.1.attn_q_a_norm.weight", "blk.2.attn_q_a_norm.weight",
        "blk.0.attn_q_b.weight",      "blk.1.attn_q_b.weight",
        "blk.2.attn_q_b.weight"};
    static const char *const plain[] = {
        "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight"};
    const uint64_t dims[2] = {64, 4 * 48};
    gguf_edit *e = without("deepseek2.attention.q_lora_rank");
    for (size_t i = 0; i < ARRAY_LEN(low); i++)
        gguf_edit_drop(e, low[i]);
    for (size_t i = 0; i < ARRAY_LEN(plain); i++)
        gguf_edit_zeros(e, plain[i], WEIGHT_F32, 2, dims);
    assert_int_equal(read_edit(e).latent.q_rank, 0);

    const char *rank = "deepseek2.attention.q_lora_rank";
    assert_refused(with_u32(rank, 0), ERR_UNSUPPORTED, "attn_q_a", "deepseek2");
}

/* Some files have the old tensor beside the new ones. */
static void takes_the_old_tensor_beside_the_new_ones(void **state) {
    (void)state;
    const uint64_t dims[2] = {64, 4 * 64};
    gguf_edit *e = edit();
    gguf_edit_zeros(e, "blk.0.attn_kv_b.weight", WEIGHT_F32, 2, dims);
    assert_false(read_edit(e).latent.unsplit);
}

static void refuses_latents_that_make_no_sense(void **state) {
    (void)state;
    const char *rank = "deepseek2.attention.kv_lora_rank";
    const char *key = "deepseek2.attention.key_length_mla";
    const char *value = "deepseek2.attention.value_length_mla";
    assert_refused(without(rank), ERR_FORMAT, rank, "missing");
    assert_refused(with_u32(rank, 0), ERR_FORMAT, rank, "is 0");
    assert_refused(with_u32(rank, 1009), ERR_FORMAT, rank, "1008");
    assert_refused(with_u32(rank, UINT32_MAX), ERR_FORMAT, rank, "1008");
    assert_refused(with_u32(key, 16), ERR_FORMAT, key, "not in 17");
    assert_refused(with_u32(key, 1025), ERR_FORMAT, key, "1024");
    assert_refused(with_u32(value, 1025), ERR_FORMAT, value, "1024");
    assert_refused(with_u32("deepseek2.attention.q_lora_rank", UINT32_MAX),
                   ERR_FORMAT, "q_lora_rank", "4294967295");
    assert_refused(
        with_f32("deepseek2.rope.scaling.yarn_log_multiplier", -1.0f),
        ERR_FORMAT, "yarn_log_multiplier", "-1");
    assert_refused(with_f32("deepseek2.rope.freq_base", 1.0f), ERR_FORMAT,
                   "rope.freq_base", "yarn");
    assert_refused(
        with_f32("deepseek2.rope.scaling.yarn_log_multiplier", 1e30f),
        ERR_FORMAT, "attention.scale", "inf");
    /* 1 + 0.1 ln s is below 0 */
    assert_refused(with_f32("deepseek2.rope.scaling.factor", 1e-5f), ERR_FORMAT,
                   "rope.scaling.factor", "yarn");
}

static void refuses_a_network_of_no_width(void **state) {
    (void)state;
    gguf_edit *e = with_u32("deepseek2.expert_count", 0);
    gguf_edit_drop(e, "deepseek2.expert_used_count");
    gguf_edit_drop(e, "deepseek2.leading_dense_block_count");
    gguf_edit_drop(e, "deepseek2.feed_forward_length");
    assert_refused(e, ERR_FORMAT, "deepseek2.feed_forward_length", "is 0");
}

/* ---- routing ---- */

static void reads_the_routing_rule(void **state) {
    (void)state;
    model_config c = read_edit(edit());
    assert_int_equal(c.first_moe_layer, 1);
    assert_int_equal(c.shared_dim, 128);
    assert_int_equal(c.routing.gating, GATING_SIGMOID);
    assert_true(c.routing.renormalize);
    assert_true(c.routing.scale == 2.5f);
    assert_int_equal(c.routing.n_groups, 2);
    assert_int_equal(c.routing.n_groups_used, 1);
    assert_true(c.selection_bias);
    assert_false(c.router_bias || c.routing.by_logit || c.routing.scale_input);
}

static void
a_file_that_says_nothing_routes_as_the_first_ones_did(void **state) {
    (void)state;
    gguf_edit *e = edit();
    gguf_edit_drop(e, "deepseek2.expert_gating_func");
    gguf_edit_drop(e, "deepseek2.expert_weights_norm");
    gguf_edit_drop(e, "deepseek2.expert_weights_scale");
    gguf_edit_drop(e, "deepseek2.expert_group_count");
    gguf_edit_drop(e, "deepseek2.expert_group_used_count");
    gguf_edit_drop(e, "blk.1.exp_probs_b.bias");
    gguf_edit_drop(e, "blk.2.exp_probs_b.bias");
    model_config c = read_edit(e);
    assert_int_equal(c.routing.gating, GATING_SOFTMAX);
    assert_false(c.routing.renormalize || c.selection_bias);
    assert_true(c.routing.scale == 0.0f);
    assert_int_equal(c.routing.n_groups, 0);
}

static void takes_every_gating_function_there_is(void **state) {
    (void)state;
    const char *key = "deepseek2.expert_gating_func";
    for (uint32_t code = 1; code <= GATING_LAST; code++) {
        assert_int_equal(read_edit(with_u32(key, code)).routing.gating, code);
    }
    assert_refused(with_u32(key, GATING_LAST + 1), ERR_UNSUPPORTED, key, "= 5");
}

static void refuses_groups_and_scales_that_make_no_sense(void **state) {
    (void)state;
    const char *groups = "deepseek2.expert_group_count";
    const char *used = "deepseek2.expert_group_used_count";
    const char *scale = "deepseek2.expert_weights_scale";
    assert_refused(with_u32(groups, 3), ERR_FORMAT, groups, "does not divide");
    assert_refused(with_u32(groups, 9), ERR_FORMAT, groups, "not in 0 to 8");
    assert_refused(with_u32(groups, 4), ERR_FORMAT, "expert_used_count = 3",
                   "2 experts"); /* one group of two */
    assert_refused(with_u32(used, 0), ERR_FORMAT, used, "not in 1 to 2");
    assert_refused(with_u32(used, 3), ERR_FORMAT, used, "not in 1 to 2");
    assert_refused(without(used), ERR_FORMAT, used, "missing");
    assert_refused(with_f32(scale, NAN), ERR_FORMAT, scale, "nan");
    assert_refused(with_f32(scale, INFINITY), ERR_FORMAT, scale, "inf");
    assert_int_equal(read_edit(with_u32(groups, 1)).routing.n_groups, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_forms_of_latent_attention),
        cmocka_unit_test(the_log_multiplier_goes_into_the_scores),
        cmocka_unit_test(queries_may_come_from_the_hidden_row),
        cmocka_unit_test(takes_the_old_tensor_beside_the_new_ones),
        cmocka_unit_test(refuses_latents_that_make_no_sense),
        cmocka_unit_test(refuses_a_network_of_no_width),
        cmocka_unit_test(reads_the_routing_rule),
        cmocka_unit_test(a_file_that_says_nothing_routes_as_the_first_ones_did),
        cmocka_unit_test(takes_every_gating_function_there_is),
        cmocka_unit_test(refuses_groups_and_scales_that_make_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
