/* test_weights_families.c - what a coordinator loads of each architecture:
 * every feature's tensors, and the name of the one that is missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/weights.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/family_gen.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_edit.h"

typedef struct {
    gguf *g;
    model_config config;
    weights *w;
    char why[256];
} rig;

static int rig_load(rig *r, const char *path) {
    memset(r, 0, sizeof(*r));
    int rc = gguf_open(&r->g, path, r->why, sizeof(r->why));
    if (rc == 0) rc = model_read(&r->config, r->g, r->why, sizeof(r->why));
    if (rc < 0) fail_msg("%s", r->why);
    return weights_load(&r->w, r->g, &r->config, NULL, r->why, sizeof(r->why));
}

static void rig_close(rig *r) {
    weights_free(r->w);
    gguf_close(r->g);
}

static const char *make(const char *name, uint32_t type) {
    const char *path = fixture_path("family.gguf");
    for (size_t i = 0; i < family_count(); i++) {
        if (strcmp(family_name(i), name) == 0) family_gen(i, type, path);
    }
    return path;
}

static void rig_open(rig *r, const char *name, uint32_t type) {
    if (rig_load(r, make(name, type)) < 0) fail_msg("%s: %s", name, r->why);
}

/* F32 tensors are loaded as they stand: values [from, from + n). */
static void assert_floats(const rig *r, const float *x, const char *name,
                          size_t from, size_t n) {
    const gguf_tensor *t = gguf_find_tensor(r->g, name);
    assert_non_null(t);
    assert_non_null(x);
    assert_memory_equal(x, (const float *)gguf_data(r->g, t) + from,
                        n * sizeof(float));
}

/* Rows [row0, row0 + rows) of a tensor of `cols` F32 values a row. */
static void assert_rows(const rig *r, const matrix *m, const char *name,
                        size_t row0, size_t rows, size_t cols) {
    const gguf_tensor *t = gguf_find_tensor(r->g, name);
    matrix wanted;
    assert_non_null(t);
    const float *from = (const float *)gguf_data(r->g, t) + row0 * cols;
    const weight_format *f = weight_format_find(WEIGHT_F32);
    assert_int_equal(matrix_pack(&wanted, f, rows, cols, from), 0);
    assert_int_equal(m->rows, rows);
    assert_int_equal(m->cols, cols);
    assert_memory_equal(m->data, wanted.data, wanted.bytes);
    matrix_fini(&wanted);
}

static void loads_every_family_in_every_kind_of_format(void **state) {
    (void)state;
    static const uint32_t types[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_Q8_0};
    for (size_t i = 0; i < family_count(); i++) {
        rig r;
        rig_open(&r, family_name(i), types[i % ARRAY_LEN(types)]);
        assert_true(r.w->bytes_per_token > 0 && r.w->bytes > 0);
        rig_close(&r);
    }
}

/* 4 heads of 16 and 2 of keys and values. */
static void a_fused_qkv_is_its_three_parts(void **state) {
    (void)state;
    rig r;
    rig_open(&r, "dbrx", WEIGHT_F32);
    const attention_weights *a = &r.w->layers[1].attention;
    const char *name = "blk.1.attn_qkv.weight";
    assert_rows(&r, &a->q, name, 0, 64, 64);
    assert_rows(&r, &a->k, name, 64, 32, 64);
    assert_rows(&r, &a->v, name, 96, 32, 64);
    assert_null(a->q_bias);
    rig_close(&r);
}

static void a_fused_bias_is_its_three_parts(void **state) {
    (void)state;
    static float bias[256];
    static const char *const names[] = {
        "blk.0.attn_qkv.bias", "blk.1.attn_qkv.bias", "blk.2.attn_qkv.bias"};
    const uint64_t n = 256; /* 4 heads of 32, 2 and 2 */
    for (size_t i = 0; i < n; i++)
        bias[i] = (float)i;
    gguf_edit *e = gguf_edit_new(make("bailingmoe2", WEIGHT_F32));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        gguf_writer_tensor(gguf_edit_drop(e, names[i]), names[i], WEIGHT_F32, 1,
                           &n, bias);
    }
    rig r;
    const char *path = fixture_path("biased.gguf");
    gguf_edit_finish(e, path);
    assert_int_equal(rig_load(&r, path), 0);
    const attention_weights *a = &r.w->layers[2].attention;
    assert_memory_equal(a->q_bias, bias, 128 * sizeof(float));
    assert_memory_equal(a->k_bias, bias + 128, 64 * sizeof(float));
    assert_memory_equal(a->v_bias, bias + 192, 64 * sizeof(float));
    rig_close(&r);
}

static void loads_biases_sinks_and_norms(void **state) {
    (void)state;
    rig r;
    rig_open(&r, "gpt-oss", WEIGHT_F32);
    const layer_weights *l = &r.w->layers[3];
    assert_floats(&r, l->attention.q_bias, "blk.3.attn_q.bias", 0, 128);
    assert_floats(&r, l->attention.v_bias, "blk.3.attn_v.bias", 0, 64);
    assert_floats(&r, l->attention.o_bias, "blk.3.attn_output.bias", 0, 64);
    assert_floats(&r, l->attention.sinks, "blk.3.attn_sinks.weight", 0, 4);
    assert_floats(&r, l->moe.router_bias, "blk.3.ffn_gate_inp.bias", 0, 8);
    assert_floats(&r, l->ffn_norm.w, "blk.3.post_attention_norm.weight", 0, 64);
    rig_close(&r);

    rig_open(&r, "phimoe", WEIGHT_F32);
    l = &r.w->layers[1];
    assert_floats(&r, l->attn_norm.b, "blk.1.attn_norm.bias", 0, 64);
    assert_floats(&r, l->ffn_norm.b, "blk.1.ffn_norm.bias", 0, 64);
    assert_floats(&r, r.w->output_norm.b, "output_norm.bias", 0, 64);
    assert_floats(&r, r.w->output_bias, "output.bias", 0, 160);
    assert_floats(&r, r.w->rope_factors, "rope_factors_short.weight", 0, 8);
    rig_close(&r);

    rig_open(&r, "grok", WEIGHT_F32);
    l = &r.w->layers[0];
    assert_floats(&r, l->after_attention.w, "blk.0.attn_output_norm.weight", 0,
                  64);
    assert_floats(&r, l->after_ffn.w, "blk.0.post_ffw_norm.weight", 0, 64);
    assert_rows(&r, &l->dense.up, "blk.0.ffn_up.weight", 0, 96, 64);
    rig_close(&r);
}

static void loads_what_stands_beside_experts(void **state) {
    (void)state;
    rig r;
    rig_open(&r, "qwen2moe", WEIGHT_F32);
    const moe_weights *m = &r.w->layers[1].moe;
    assert_rows(&r, &m->shared.gate, "blk.1.ffn_gate_shexp.weight", 0, 64, 64);
    assert_rows(&r, &m->shared.down, "blk.1.ffn_down_shexp.weight", 0, 64, 64);
    assert_floats(&r, m->shared_gate, "blk.1.ffn_gate_inp_shexp.weight", 0, 64);
    assert_null(m->selection_bias);
    rig_close(&r);

    rig_open(&r, "glm4moe", WEIGHT_F32);
    assert_null(r.w->layers[0].moe.router.data); /* dense */
    assert_non_null(r.w->layers[0].dense.up.data);
    m = &r.w->layers[2].moe;
    assert_floats(&r, m->selection_bias, "blk.2.exp_probs_b.bias", 0, 8);
    assert_null(m->shared_gate);
    rig_close(&r);
}

/* A feature of the first layer has to be in all of them. */
static void names_the_tensor_that_a_layer_lacks(void **state) {
    (void)state;
    static const struct {
        const char *family, *name;
    } cases[] = {
        {"qwen2moe", "blk.1.attn_k.bias"},
        {"qwen2moe", "blk.1.ffn_gate_inp_shexp.weight"},
        {"qwen2moe", "blk.0.ffn_up_shexp.weight"},
        {"gpt-oss", "blk.2.attn_sinks.weight"},
        {"gpt-oss", "blk.0.attn_output.bias"},
        {"gpt-oss", "blk.3.ffn_gate_inp.bias"},
        {"glm4moe", "blk.1.exp_probs_b.bias"},
        {"glm4moe", "blk.0.post_attention_norm.weight"},
        {"glm4moe", "blk.2.attn_k_norm.weight"},
        {"phimoe", "output.bias"},
        {"phimoe", "output_norm.bias"},
        {"phimoe", "blk.1.ffn_norm.bias"},
        {"dbrx", "blk.0.attn_qkv.weight"},
        {"grok", "blk.1.post_ffw_norm.weight"},
        {"ernie4_5-moe", "blk.3.exp_probs_b.bias"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *path = fixture_path("lacking.gguf");
        gguf_edit *e = gguf_edit_new(make(cases[i].family, WEIGHT_F32));
        gguf_edit_drop(e, cases[i].name);
        gguf_edit_finish(e, path);
        rig r;
        assert_int_equal(rig_load(&r, path), ERR_FORMAT);
        assert_null(r.w);
        assert_non_null(strstr(r.why, cases[i].name));
        assert_non_null(strstr(r.why, "missing"));
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_every_family_in_every_kind_of_format),
        cmocka_unit_test(a_fused_qkv_is_its_three_parts),
        cmocka_unit_test(a_fused_bias_is_its_three_parts),
        cmocka_unit_test(loads_biases_sinks_and_norms),
        cmocka_unit_test(loads_what_stands_beside_experts),
        cmocka_unit_test(names_the_tensor_that_a_layer_lacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
