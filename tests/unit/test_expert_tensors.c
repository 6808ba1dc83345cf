/* test_expert_tensors.c - the stacked tensors of a layer's experts in all the
 * forms that writers give them, and in those that are no answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/model.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_edit.h"
#include "tests/support/model_gen.h"

#define WIDTH 64
#define HIDDEN 128
#define EXPERTS 4

/* Of a model with biases, in two tensors or in one. */
static const char *base(bool merged) {
    char why[256];
    const char *path = fixture_path(merged ? "merged.gguf" : "split.gguf");
    model_shape shape = model_shape_small();
    shape.arch = "gpt-oss";
    shape.merged = merged;
    if (model_gen(&shape, path, why, sizeof(why)) < 0) fail_msg("%s", why);
    return path;
}

typedef struct {
    gguf *g;
    model_config c;
    expert_tensors t;
    int rc;
    char why[256];
} found;

/* Layer 1's, of the file. */
static found find_in(const char *path) {
    found f = {0};
    if (gguf_open(&f.g, path, f.why, sizeof(f.why)) != 0 ||
        model_read(&f.c, f.g, f.why, sizeof(f.why)) != 0) {
        fail_msg("%s", f.why);
    }
    f.rc = model_experts(&f.c, f.g, 1, &f.t, f.why, sizeof(f.why));
    return f;
}

static const gguf_tensor *named(const found *f, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(f->g, name);
    assert_non_null(t);
    return t;
}

static const uint64_t stored =
    3 * HIDDEN * WIDTH / 32 * 34 + 2 * HIDDEN * sizeof(float);

static void finds_gate_and_up_in_two_tensors(void **state) {
    (void)state;
    found f = find_in(base(false));
    assert_int_equal(f.rc, 0);
    assert_ptr_equal(f.t.gate, named(&f, "blk.1.ffn_gate_exps.weight"));
    assert_ptr_equal(f.t.up, named(&f, "blk.1.ffn_up_exps.weight"));
    assert_ptr_equal(f.t.down, named(&f, "blk.1.ffn_down_exps.weight"));
    assert_ptr_equal(f.t.gate_bias, named(&f, "blk.1.ffn_gate_exps.bias"));
    assert_ptr_equal(f.t.up_bias, named(&f, "blk.1.ffn_up_exps.bias"));
    assert_ptr_equal(f.t.down_bias, named(&f, "blk.1.ffn_down_exps.bias"));
    assert_true(model_expert_bytes(&f.t, EXPERTS) == stored);
    gguf_close(f.g);
}

static void finds_gate_and_up_in_one_tensor(void **state) {
    (void)state;
    found f = find_in(base(true));
    assert_int_equal(f.rc, 0);
    assert_ptr_equal(f.t.gate, named(&f, "blk.1.ffn_gate_up_exps.weight"));
    assert_ptr_equal(f.t.up, f.t.gate);
    assert_ptr_equal(f.t.gate_bias, named(&f, "blk.1.ffn_gate_up_exps.bias"));
    assert_ptr_equal(f.t.up_bias, f.t.gate_bias);
    assert_true(model_expert_bytes(&f.t, EXPERTS) == stored);
    gguf_close(f.g);
}

static void looks_for_no_bias_where_experts_have_none(void **state) {
    (void)state;
    found f = find_in(base(false));
    f.c.expert_bias = false;
    assert_int_equal(model_experts(&f.c, f.g, 1, &f.t, NULL, 0), 0);
    assert_null(f.t.gate_bias);
    assert_null(f.t.up_bias);
    assert_null(f.t.down_bias);
    gguf_close(f.g);
}

/* ---- what is no answer ---- */

static void assert_refused(gguf_edit *e, int code, const char *word,
                           const char *other) {
    const char *path = fixture_path("edited.gguf");
    gguf_edit_finish(e, path);
    found f = find_in(path);
    if (f.rc != code || strstr(f.why, word) == NULL ||
        strstr(f.why, other) == NULL) {
        fail_msg("%s instead of %s about '%s' and '%s': %s", err_name(f.rc),
                 err_name(code), word, other, f.why);
    }
    gguf_close(f.g);
}

/* A tensor of zeros under this name. */
static gguf_edit *with(bool merged, const char *name, uint32_t type, uint64_t a,
                       uint64_t b, uint64_t c) {
    const uint64_t dims[3] = {a, b, c};
    gguf_edit *e = gguf_edit_new(base(merged));
    gguf_edit_zeros(e, name, type, c > 0 ? 3 : 2, dims);
    return e;
}

static void refuses_both_forms_in_one_layer(void **state) {
    (void)state;
    const char *merged = "blk.1.ffn_gate_up_exps.weight";
    assert_refused(with(true, "blk.1.ffn_up_exps.weight", WEIGHT_F32, WIDTH,
                        HIDDEN, EXPERTS),
                   ERR_FORMAT, "ffn_gate_up_exps.weight", "ffn_up_exps.weight");
    assert_refused(with(false, merged, WEIGHT_F32, WIDTH, 2 * HIDDEN, EXPERTS),
                   ERR_FORMAT, "ffn_gate_up_exps.weight",
                   "ffn_gate_exps.weight");
    assert_refused(
        with(true, "blk.1.ffn_gate_exps.bias", WEIGHT_F32, HIDDEN, EXPERTS, 0),
        ERR_FORMAT, "ffn_gate_up_exps.bias", "ffn_gate_exps.bias");
}

static void names_what_is_missing(void **state) {
    (void)state;
    static const char *const names[] = {
        "blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight",
        "blk.1.ffn_down_exps.weight", "blk.1.ffn_gate_exps.bias",
        "blk.1.ffn_up_exps.bias",     "blk.1.ffn_down_exps.bias"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        gguf_edit *e = gguf_edit_new(base(false));
        gguf_edit_drop(e, names[i]);
        assert_refused(e, ERR_FORMAT, names[i], "is missing");
    }
}

static void names_what_has_another_shape(void **state) {
    (void)state;
    static const struct {
        bool merged;
        const char *name;
        uint64_t dims[3];
    } bad[] = {
        {true, "blk.1.ffn_gate_up_exps.weight", {WIDTH, HIDDEN, EXPERTS}},
        {true, "blk.1.ffn_gate_up_exps.bias", {HIDDEN, EXPERTS, 0}},
        {false, "blk.1.ffn_up_exps.weight", {WIDTH, 2 * HIDDEN, EXPERTS}},
        {false, "blk.1.ffn_gate_exps.bias", {HIDDEN, EXPERTS + 1, 0}},
        {false, "blk.1.ffn_up_exps.bias", {HIDDEN, EXPERTS, 2}},
        {false, "blk.1.ffn_down_exps.bias", {HIDDEN, EXPERTS, 0}},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        gguf_edit *e = with(bad[i].merged, bad[i].name, WEIGHT_F32,
                            bad[i].dims[0], bad[i].dims[1], bad[i].dims[2]);
        assert_refused(e, ERR_FORMAT, bad[i].name, "not [");
    }
}

static void takes_biases_that_are_numbers_and_no_blocks(void **state) {
    (void)state;
    static const char *const names[] = {"blk.1.ffn_gate_exps.bias",
                                        "blk.1.ffn_up_exps.bias",
                                        "blk.1.ffn_down_exps.bias"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        uint64_t n = i == 2 ? WIDTH : HIDDEN;
        assert_refused(with(false, names[i], WEIGHT_Q8_0, n, EXPERTS, 0),
                       ERR_UNSUPPORTED, names[i], "q8_0");
        assert_refused(with(false, names[i], WEIGHT_BF16, n, EXPERTS, 0), 0, "",
                       "");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_gate_and_up_in_two_tensors),
        cmocka_unit_test(finds_gate_and_up_in_one_tensor),
        cmocka_unit_test(looks_for_no_bias_where_experts_have_none),
        cmocka_unit_test(refuses_both_forms_in_one_layer),
        cmocka_unit_test(names_what_is_missing),
        cmocka_unit_test(names_what_has_another_shape),
        cmocka_unit_test(takes_biases_that_are_numbers_and_no_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
