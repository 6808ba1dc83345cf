/* test_weights_latent.c - what is loaded for latent attention, in both forms of
 * files, and what is said about files that lack something. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "coordinator/weights.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_edit.h"
#include "tests/support/model_gen.h"

enum { HEADS = 3, DIM = 32, RANK = 64 };

typedef struct {
    gguf *g;
    model_config config;
    weights *w;
    char why[256];
} rig;

static int load(rig *r, const char *path) {
    *r = (rig){0};
    if (gguf_open(&r->g, path, r->why, sizeof(r->why)) < 0 ||
        model_read(&r->config, r->g, r->why, sizeof(r->why)) < 0) {
        fail_msg("%s", r->why);
    }
    return weights_load(&r->w, r->g, &r->config, NULL, r->why, sizeof(r->why));
}

static void rig_close(rig *r) {
    weights_free(r->w);
    gguf_close(r->g);
}

static const char *base(uint32_t type, bool unsplit) {
    const char *path = fixture_path("latent.gguf");
    char why[256] = "";
    model_shape shape = model_shape_small();
    shape.arch = "deepseek2";
    shape.n_heads = HEADS;
    shape.n_kv_heads = HEADS;
    shape.head_dim = DIM;
    shape.type = type;
    shape.unsplit = unsplit;
    if (model_gen(&shape, path, why, sizeof(why)) < 0) fail_msg("%s", why);
    return path;
}

static void assert_same(const matrix *a, const matrix *b) {
    assert_ptr_equal(a->format, b->format);
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    assert_memory_equal(a->data, b->data, b->bytes);
}

static void loads_a_matrix_for_each_head(void **state) {
    (void)state;
    rig r;
    assert_int_equal(load(&r, base(WEIGHT_Q8_0, false)), 0);
    const latent_weights *a = &r.w->layers[1].latent;
    const gguf_tensor *k = gguf_find_tensor(r.g, "blk.1.attn_k_b.weight");
    const gguf_tensor *v = gguf_find_tensor(r.g, "blk.1.attn_v_b.weight");
    for (uint32_t h = 0; h < HEADS; h++) {
        matrix m;
        assert_int_equal(matrix_load(&m, r.g, k, h, NULL, 0), 0);
        assert_true(m.cols == DIM && m.rows == RANK);
        assert_same(&a->k_b[h], &m);
        matrix_fini(&m);
        assert_int_equal(matrix_load(&m, r.g, v, h, NULL, 0), 0);
        assert_true(m.cols == RANK && m.rows == DIM);
        assert_same(&a->v_b[h], &m);
        matrix_fini(&m);
    }
    assert_int_equal(a->q.rows, HEADS * (DIM + DIM / 2));
    assert_int_equal(a->kv_a.rows, RANK + DIM / 2);
    assert_int_equal(r.w->layers[1].attention.o.cols, HEADS * DIM);
    rig_close(&r);
}

/* The key rows of a head, transposed by hand: in the stored format if that is
 * of single values, else as floats. */
static void check_turned(const rig *r, const gguf_tensor *t, uint32_t head,
                         const matrix *got) {
    static float rows[DIM * RANK], turned[RANK * DIM];
    const weight_format *f = weight_format_find(t->type);
    const weight_format *floats = weight_format_find(WEIGHT_F32);
    size_t row_bytes = RANK / f->block_len * f->block_bytes;
    const uint8_t *stored =
        (const uint8_t *)gguf_data(r->g, t) + head * 2 * DIM * row_bytes;
    for (uint32_t i = 0; i < DIM; i++) {
        f->dequantize(RANK, stored + i * row_bytes, rows + i * RANK);
    }
    for (uint32_t c = 0; c < RANK; c++) {
        for (uint32_t i = 0; i < DIM; i++)
            turned[c * DIM + i] = rows[i * RANK + c];
    }
    matrix want;
    if (f->block_len > 1) {
        assert_int_equal(matrix_pack(&want, floats, RANK, DIM, turned), 0);
        assert_same(got, &want);
        matrix_fini(&want);
        return;
    }
    uint16_t halves[RANK * DIM];
    assert_int_equal(t->type, WEIGHT_BF16);
    for (size_t i = 0; i < ARRAY_LEN(halves); i++) {
        uint32_t bits;
        memcpy(&bits, &turned[i], sizeof(bits));
        halves[i] = (uint16_t)(bits >> 16);
    }
    assert_int_equal(matrix_pack(&want, f, RANK, DIM, halves), 0);
    assert_same(got, &want);
    matrix_fini(&want);
}

static void turns_the_keys_of_an_old_file(void **state) {
    (void)state;
    static const uint32_t types[] = {WEIGHT_Q8_0, WEIGHT_Q4_0, WEIGHT_BF16};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        rig r;
        assert_int_equal(load(&r, base(types[i], true)), 0);
        const latent_weights *a = &r.w->layers[0].latent;
        const gguf_tensor *t = gguf_find_tensor(r.g, "blk.0.attn_kv_b.weight");
        for (uint32_t h = 0; h < HEADS; h++) {
            matrix v;
            assert_int_equal(
                matrix_load_rows(&v, r.g, t, h * 2 * DIM + DIM, DIM, NULL, 0),
                0);
            assert_same(&a->v_b[h], &v);
            matrix_fini(&v);
            check_turned(&r, t, h, &a->k_b[h]);
        }
        rig_close(&r);
    }
}

static void assert_refused(gguf_edit *e, const char *word) {
    rig r;
    const char *path = fixture_path("edited.gguf");
    gguf_edit_finish(e, path);
    int rc = load(&r, path);
    if (rc != ERR_FORMAT || r.w != NULL || strstr(r.why, word) == NULL) {
        fail_msg("%s about '%s': %s", err_name(rc), word, r.why);
    }
    rig_close(&r);
}

static gguf_edit *without(bool unsplit, const char *name) {
    gguf_edit *e = gguf_edit_new(base(WEIGHT_F32, unsplit));
    gguf_edit_drop(e, name);
    return e;
}

static void names_what_is_missing(void **state) {
    (void)state;
    static const char *const names[] = {
        "blk.1.attn_q_a.weight",       "blk.0.attn_q_a_norm.weight",
        "blk.1.attn_q_b.weight",       "blk.1.attn_kv_a_mqa.weight",
        "blk.0.attn_kv_a_norm.weight", "blk.1.attn_k_b.weight",
        "blk.1.attn_v_b.weight",       "blk.1.attn_output.weight",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_refused(without(false, names[i]), names[i]);
    }
    assert_refused(without(true, "blk.1.attn_kv_b.weight"),
                   "blk.1.attn_kv_b.weight");
}

static void names_a_shape_that_does_not_fit(void **state) {
    (void)state;
    const uint64_t slabs[3] = {DIM, RANK, HEADS - 1};
    const uint64_t rows[2] = {RANK, HEADS * 2 * DIM - 1};
    gguf_edit *e = gguf_edit_new(base(WEIGHT_F32, false));
    gguf_edit_zeros(e, "blk.1.attn_k_b.weight", WEIGHT_F32, 3, slabs);
    assert_refused(e, "not [32, 64, 3, 1]");
    e = gguf_edit_new(base(WEIGHT_F32, true));
    gguf_edit_zeros(e, "blk.0.attn_kv_b.weight", WEIGHT_F32, 2, rows);
    assert_refused(e, "not [64, 192, 1, 1]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_a_matrix_for_each_head),
        cmocka_unit_test(turns_the_keys_of_an_old_file),
        cmocka_unit_test(names_what_is_missing),
        cmocka_unit_test(names_a_shape_that_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
