/* test_weights.c - what a coordinator loads of a model, and what it says about
 * files that lack something. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/weights.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_base.h"

typedef struct {
    gguf *g;
    model_config config;
    weights *w;
    char why[256];
} rig;

/* The code of weights_load(); what comes before it must work. */
static int load(rig *r, const char *path) {
    *r = (rig){0};
    if (gguf_open(&r->g, path, r->why, sizeof(r->why)) < 0 ||
        model_read(&r->config, r->g, r->why, sizeof(r->why)) < 0) {
        fail_msg("%s", r->why);
    }
    return weights_load(&r->w, r->g, &r->config, NULL, r->why, sizeof(r->why));
}

static void rig_open(rig *r, const char *path) {
    if (load(r, path) < 0) fail_msg("%s", r->why);
}

static void rig_close(rig *r) {
    weights_free(r->w);
    gguf_close(r->g);
}

static const char *finish(gguf_edit *e) {
    static const char *path;
    if (path == NULL) path = fixture_path("weights.gguf");
    gguf_edit_finish(e, path);
    return path;
}

/* Loading the edit fails with this code and a sentence with these words. */
static void assert_refused(gguf_edit *e, int code, const char *word,
                           const char *other) {
    rig r;
    int rc = load(&r, finish(e));
    if (rc != code || r.w != NULL || strstr(r.why, word) == NULL ||
        strstr(r.why, other) == NULL) {
        fail_msg("%s instead of %s about '%s' and '%s': %s", err_name(rc),
                 err_name(code), word, other, r.why);
    }
    rig_close(&r);
}

static void assert_matrix(const rig *r, const matrix *m, const char *name) {
    matrix wanted;
    const gguf_tensor *t = gguf_find_tensor(r->g, name);
    assert_non_null(t);
    assert_int_equal(matrix_load(&wanted, r->g, t, 0, NULL, 0), 0);
    assert_ptr_equal(m->format, wanted.format);
    assert_int_equal(m->rows, wanted.rows);
    assert_int_equal(m->cols, wanted.cols);
    assert_memory_equal(m->data, wanted.data, wanted.bytes);
    matrix_fini(&wanted);
}

/* F32 tensors are loaded as they stand. */
static void assert_floats(const rig *r, const float *x, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(r->g, name);
    assert_non_null(t);
    assert_non_null(x);
    assert_memory_equal(x, gguf_data(r->g, t), (size_t)t->bytes);
}

/* ---- loading ---- */

static void assert_attention(const rig *r) {
    const layer_weights *l = &r->w->layers[1];
    assert_floats(r, l->attn_norm.w, "blk.1.attn_norm.weight");
    assert_matrix(r, &l->attention.q, "blk.1.attn_q.weight");
    assert_matrix(r, &l->attention.k, "blk.1.attn_k.weight");
    assert_matrix(r, &l->attention.v, "blk.1.attn_v.weight");
    assert_matrix(r, &l->attention.o, "blk.1.attn_output.weight");
    assert_floats(r, l->ffn_norm.w, "blk.1.ffn_norm.weight");
    assert_floats(r, r->w->output_norm.w, "output_norm.weight");
    assert_matrix(r, &r->w->output, "output.weight");
}

static void loads_a_dense_model(void **state) {
    (void)state;
    rig r;
    rig_open(&r, model_base_dense());
    assert_attention(&r);
    const layer_weights *l = &r.w->layers[1];
    assert_matrix(&r, &l->dense.gate, "blk.1.ffn_gate.weight");
    assert_matrix(&r, &l->dense.up, "blk.1.ffn_up.weight");
    assert_matrix(&r, &l->dense.down, "blk.1.ffn_down.weight");
    assert_null(l->moe.router.data);
    assert_null(l->attention.q_norm);
    assert_null(r.w->rope_factors);
    assert_null(r.w->config.rope.factors);
    rig_close(&r);
}

static void loads_a_router_but_no_expert(void **state) {
    (void)state;
    rig r;
    gguf_edit *e = gguf_edit_new(model_base_qwen3moe());
    gguf_edit_drop(e, "blk.0.ffn_gate_exps.weight");
    gguf_edit_drop(e, "blk.1.ffn_up_exps.weight");
    gguf_edit_drop(e, "blk.1.ffn_down_exps.weight");
    rig_open(&r, finish(e));
    assert_attention(&r);
    const layer_weights *l = &r.w->layers[1];
    assert_matrix(&r, &l->moe.router, "blk.1.ffn_gate_inp.weight");
    assert_floats(&r, l->attention.q_norm, "blk.1.attn_q_norm.weight");
    assert_floats(&r, l->attention.k_norm, "blk.1.attn_k_norm.weight");
    assert_null(l->dense.gate.data);
    rig_close(&r);
}

/* Its scores decide which experts run: they take the row as it is. */
static void a_quantized_router_is_loaded_as_floats(void **state) {
    (void)state;
    enum { EXPERTS = 4, COLS = 32, ROW_BYTES = 34 };
    uint8_t stored[EXPERTS][ROW_BYTES];
    float floats[EXPERTS][COLS];
    for (int e = 0; e < EXPERTS; e++) {
        stored[e][0] = 0x00; /* a scale of 0.5 */
        stored[e][1] = 0x38;
        for (int i = 0; i < COLS; i++) {
            stored[e][2 + i] = (uint8_t)(10 * e + i);
            floats[e][i] = 0.5f * (float)(10 * e + i);
        }
    }
    gguf_edit *e = gguf_edit_new(model_base_qwen3moe());
    const uint64_t dims[2] = {COLS, EXPERTS};
    gguf_writer_tensor(gguf_edit_drop(e, "blk.1.ffn_gate_inp.weight"),
                       "blk.1.ffn_gate_inp.weight", WEIGHT_Q8_0, 2, dims,
                       stored);
    rig r;
    rig_open(&r, finish(e));

    const matrix *router = &r.w->layers[1].moe.router;
    matrix wanted;
    assert_int_equal(matrix_pack(&wanted, weight_format_find(WEIGHT_F32),
                                 EXPERTS, COLS, floats),
                     0);
    assert_ptr_equal(router->format, wanted.format);
    assert_int_equal(router->bytes, wanted.bytes);
    assert_memory_equal(router->data, wanted.data, wanted.bytes);
    matrix_fini(&wanted);
    rig_close(&r);
}

static void counts_what_it_holds_and_what_a_token_reads(void **state) {
    (void)state;
    rig r;
    rig_open(&r, model_base_dense());
    /* per layer: q, o 32x32, k, v 32x16, three 32x32; two norms */
    uint64_t layer = (5 * 32 * 32 + 2 * 32 * 16 + 2 * 32) * sizeof(float);
    uint64_t output = (32 * round_up(259, WEIGHT_GROUP) + 32) * sizeof(float);
    assert_int_equal(r.w->bytes, 2 * layer + output);
    assert_int_equal(r.w->bytes_per_token, r.w->bytes + 32 * sizeof(float));
    rig_close(&r);
}

static void embeds_a_token_as_its_row(void **state) {
    (void)state;
    rig r;
    float row[32];
    rig_open(&r, model_base_dense());
    const float *table =
        gguf_data(r.g, gguf_find_tensor(r.g, "token_embd.weight"));
    weights_embed(r.w, 0, row);
    assert_memory_equal(row, table, sizeof(row));
    weights_embed(r.w, 258, row);
    assert_memory_equal(row, table + (size_t)258 * 32, sizeof(row));
    rig_close(&r);
}

static void embeds_from_blocks(void **state) {
    (void)state;
    rig r;
    float row[32];
    const uint64_t dims[2] = {32, 259};
    uint8_t table[259][34] = {{0}};
    table[7][1] = 0x3c; /* a scale of 1, and the values 0 to 31 */
    for (uint8_t i = 0; i < 32; i++)
        table[7][2 + i] = i;
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_writer_tensor(gguf_edit_drop(e, "token_embd.weight"),
                       "token_embd.weight", WEIGHT_Q8_0, 2, dims, table);
    rig_open(&r, finish(e));
    weights_embed(r.w, 7, row);
    for (int i = 0; i < 32; i++)
        assert_true(row[i] == (float)i);
    weights_embed(r.w, 8, row);
    assert_true(row[0] == 0.0f && row[31] == 0.0f);
    rig_close(&r);
}

static void uses_the_embedding_where_there_is_no_output_matrix(void **state) {
    (void)state;
    rig r;
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_edit_drop(e, "output.weight");
    rig_open(&r, finish(e));
    assert_matrix(&r, &r.w->output, "token_embd.weight");
    rig_close(&r);
}

/* ---- RoPE factors ---- */

static gguf_edit *with_factors(const float *factors, uint64_t n) {
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_writer_tensor(gguf_edit_drop(e, "rope_freqs.weight"),
                       "rope_freqs.weight", WEIGHT_F32, 1, &n, factors);
    return e;
}

static void reads_the_factors_of_rope(void **state) {
    (void)state;
    rig r;
    const float factors[4] = {1.0f, 2.0f, 8.0f, 8.0f};
    rig_open(&r, finish(with_factors(factors, 4)));
    assert_memory_equal(r.w->rope_factors, factors, sizeof(factors));
    assert_ptr_equal(r.w->config.rope.factors, r.w->rope_factors);
    rig_close(&r);
}

static void refuses_factors_that_angles_cannot_be_divided_by(void **state) {
    (void)state;
    const float bad[] = {0.0f, -1.0f, NAN, INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const float factors[5] = {1.0f, 2.0f, bad[i], 8.0f, 8.0f};
        assert_refused(with_factors(factors, 4), ERR_FORMAT,
                       "rope_freqs.weight", "value 2");
    }
    const float factors[5] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    assert_refused(with_factors(factors, 5), ERR_FORMAT, "rope_freqs.weight",
                   "[5, 1, 1, 1], not [4, 1, 1, 1]");
}

/* ---- what a file may lack ---- */

typedef struct {
    const char *name;
    bool vector;
} needed;

static const needed dense_tensors[] = {
    {"output_norm.weight", true},    {"blk.0.attn_norm.weight", true},
    {"blk.0.attn_q.weight", false},  {"blk.1.attn_k.weight", false},
    {"blk.0.attn_v.weight", false},  {"blk.1.attn_output.weight", false},
    {"blk.1.ffn_norm.weight", true}, {"blk.1.ffn_gate.weight", false},
    {"blk.0.ffn_up.weight", false},  {"blk.1.ffn_down.weight", false},
};
static const needed moe_tensors[] = {
    {"blk.1.attn_q_norm.weight", true},
    {"blk.1.attn_k_norm.weight", true},
    {"blk.1.ffn_gate_inp.weight", false},
    {"blk.1.attn_output.weight", false},
};

static void for_each_needed(void (*test)(const char *base, const needed *t)) {
    for (size_t i = 0; i < ARRAY_LEN(dense_tensors); i++)
        test(model_base_dense(), &dense_tensors[i]);
    for (size_t i = 0; i < ARRAY_LEN(moe_tensors); i++)
        test(model_base_qwen3moe(), &moe_tensors[i]);
}

static void without_it(const char *base, const needed *t) {
    gguf_edit *e = gguf_edit_new(base);
    gguf_edit_drop(e, t->name);
    assert_refused(e, ERR_FORMAT, t->name, "is missing");
}

static void names_a_tensor_that_is_missing(void **state) {
    (void)state;
    for_each_needed(without_it);
}

static void of_another_shape(const char *base, const needed *t) {
    const uint64_t shapes[3][4] = {{64, 7}, {32, 32, 2}, {32, 32, 1, 2}};
    for (uint32_t i = 0; i < 3; i++) {
        gguf_edit *e = gguf_edit_new(base);
        gguf_edit_zeros(e, t->name, WEIGHT_F32, i + 2, shapes[i]);
        assert_refused(e, ERR_FORMAT, t->name, ", not [");
    }
}

static void names_a_tensor_of_another_shape(void **state) {
    (void)state;
    for_each_needed(of_another_shape);
    const uint64_t few[2] = {32, 258};
    gguf_edit *e = gguf_edit_new(model_base_dense());
    gguf_edit_zeros(e, "output.weight", WEIGHT_F32, 2, few);
    assert_refused(e, ERR_FORMAT, "output.weight",
                   "[32, 258, 1, 1], not [32, 259, 1, 1]");
}

/* The tensor as it is, but for its format. */
static gguf_edit *in_format(const char *base, const char *name, uint32_t type) {
    gguf *g = NULL;
    assert_int_equal(gguf_open(&g, base, NULL, 0), 0);
    const gguf_tensor *t = gguf_find_tensor(g, name);
    uint64_t dims[4];
    uint32_t n_dims = t->n_dims;
    memcpy(dims, t->dims, sizeof(dims));
    gguf_close(g);
    gguf_edit *e = gguf_edit_new(base);
    if (dims[0] % 32 != 0) type = 26; /* i32 */
    gguf_edit_zeros(e, name, type, n_dims, dims);
    return e;
}

static void in_q8_1(const char *base, const needed *t) {
    assert_refused(in_format(base, t->name, 9), ERR_UNSUPPORTED, t->name,
                   "is not supported");
}

static void names_a_format_it_does_not_compute_with(void **state) {
    (void)state;
    for_each_needed(in_q8_1);
    const char *base = model_base_dense();
    assert_refused(in_format(base, "blk.0.attn_q.weight", 9), ERR_UNSUPPORTED,
                   "blk.0.attn_q.weight", "q8_1");
    assert_refused(in_format(base, "blk.0.attn_norm.weight", 28),
                   ERR_UNSUPPORTED, "blk.0.attn_norm.weight", "f64");
    assert_refused(in_format(base, "token_embd.weight", 26), ERR_UNSUPPORTED,
                   "token_embd.weight", "i32");
    assert_refused(in_format(base, "output.weight", 9), ERR_UNSUPPORTED,
                   "output.weight", "q8_1");
}

static void takes_vectors_in_any_format_it_computes_with(void **state) {
    (void)state;
    rig r;
    rig_open(&r, finish(in_format(model_base_dense(), "blk.0.attn_norm.weight",
                                  WEIGHT_BF16)));
    assert_true(r.w->layers[0].attn_norm.w[31] == 0.0f);
    rig_close(&r);
}

/* The table was read; the data is not there any more. */
static void names_the_tensor_that_cannot_be_read(void **state) {
    (void)state;
    rig r = {0};
    const char *path = finish(gguf_edit_new(model_base_dense()));
    assert_int_equal(gguf_open(&r.g, path, r.why, sizeof(r.why)), 0);
    assert_int_equal(model_read(&r.config, r.g, r.why, sizeof(r.why)), 0);
    const gguf_tensor *t = gguf_find_tensor(r.g, "blk.1.attn_v.weight");
    assert_int_equal(truncate(path, (off_t)(t->offset + 8)), 0);
    assert_int_equal(
        weights_load(&r.w, r.g, &r.config, NULL, r.why, sizeof(r.why)),
        ERR_FORMAT);
    assert_non_null(strstr(r.why, "blk.1.attn_v.weight"));
    assert_null(r.w);

    t = gguf_find_tensor(r.g, "blk.0.attn_norm.weight");
    assert_int_equal(truncate(path, (off_t)(t->offset + 8)), 0);
    assert_int_equal(
        weights_load(&r.w, r.g, &r.config, NULL, r.why, sizeof(r.why)),
        ERR_FORMAT);
    assert_non_null(strstr(r.why, "blk.0.attn_norm.weight"));
    rig_close(&r);
}

static void frees_nothing(void **state) {
    (void)state;
    weights_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_a_dense_model),
        cmocka_unit_test(loads_a_router_but_no_expert),
        cmocka_unit_test(a_quantized_router_is_loaded_as_floats),
        cmocka_unit_test(counts_what_it_holds_and_what_a_token_reads),
        cmocka_unit_test(embeds_a_token_as_its_row),
        cmocka_unit_test(embeds_from_blocks),
        cmocka_unit_test(uses_the_embedding_where_there_is_no_output_matrix),
        cmocka_unit_test(reads_the_factors_of_rope),
        cmocka_unit_test(refuses_factors_that_angles_cannot_be_divided_by),
        cmocka_unit_test(names_a_tensor_that_is_missing),
        cmocka_unit_test(names_a_tensor_of_another_shape),
        cmocka_unit_test(names_a_format_it_does_not_compute_with),
        cmocka_unit_test(takes_vectors_in_any_format_it_computes_with),
        cmocka_unit_test(names_the_tensor_that_cannot_be_read),
        cmocka_unit_test(frees_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
