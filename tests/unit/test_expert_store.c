/* test_expert_store.c - packed experts from a file: what is loaded, counted and
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/expert_store.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

typedef struct {
    const char *path;
    gguf *file;
    model_config model;
    manifest *checks;
    expert_store *store;
} rig;

/* A new store, of units of so many slices. */
static void rig_cut(rig *r, uint32_t slices) {
    char why[256] = "";
    const expert_store_config c = {.g = r->file,
                                   .model = &r->model,
                                   .checks = r->checks,
                                   .slices = slices};
    expert_store_free(r->store);
    if (expert_store_new(&r->store, &c, why, sizeof(why)) != 0)
        fail_msg("%s", why);
}

static void rig_open(rig *r, const model_shape *shape, const char *name) {
    char why[256] = "";
    *r = (rig){.path = fixture_path(name)};
    if (model_gen(shape, r->path, why, sizeof(why)) != 0 ||
        gguf_open(&r->file, r->path, why, sizeof(why)) != 0 ||
        model_read(&r->model, r->file, why, sizeof(why)) != 0 ||
        manifest_open(&r->checks, r->file, false, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    rig_cut(r, 1);
}

static void rig_close(rig *r) {
    expert_store_free(r->store);
    manifest_close(r->checks);
    gguf_close(r->file);
    unlink(r->path);
}

/* Flip a byte of the file behind the reader's back. */
static void damage(const rig *r, const gguf_tensor *t, uint64_t offset) {
    int fd = open(r->path, O_RDWR);
    uint8_t byte;
    off_t at = (off_t)(t->offset + offset);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void assert_same_matrix(const matrix *a, const matrix *b) {
    assert_ptr_equal(a->format, b->format);
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->data, b->data, a->bytes);
}

/* The expert in the store is what matrix_load() makes of the file. */
static void assert_loaded(const rig *r, uint32_t layer, uint32_t expert) {
    char why[256];
    expert_tensors t;
    matrix m;
    const ffn_weights *w = expert_store_get(r->store, layer, expert);
    assert_non_null(w);
    assert_int_equal(
        model_experts(&r->model, r->file, layer, &t, why, sizeof(why)), 0);
    const gguf_tensor *tensors[] = {t.gate, t.up, t.down};
    const matrix *loaded[] = {&w->gate, &w->up, &w->down};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            matrix_load(&m, r->file, tensors[i], expert, why, sizeof(why)), 0);
        assert_same_matrix(&m, loaded[i]);
        matrix_fini(&m);
    }
}

static void loads_the_experts_it_is_told_and_no_others(void **state) {
    (void)state;
    rig r;
    char why[256];
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");

    assert_null(expert_store_get(r.store, 1, 2));
    assert_int_equal(expert_store_load(r.store, 1, 2, why, sizeof(why)), 0);
    assert_int_equal(expert_store_load(r.store, 0, 3, why, sizeof(why)), 0);
    assert_loaded(&r, 1, 2);
    assert_loaded(&r, 0, 3);
    assert_null(expert_store_get(r.store, 0, 2));
    assert_null(expert_store_get(r.store, 1, 3));
    assert_null(expert_store_get(r.store, 2, 0));
    assert_null(expert_store_get(r.store, 0, 4));
    rig_close(&r);
}

static void counts_packed_bytes_up_and_down(void **state) {
    (void)state;
    rig r;
    char why[256];
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");
    uint64_t one = expert_store_unit_bytes(r.store, 0);
    assert_true(one > 0);
    assert_int_equal(expert_store_bytes(r.store), 0);

    expert_store_load(r.store, 0, 0, why, sizeof(why));
    expert_store_load(r.store, 1, 1, why, sizeof(why));
    expert_store_load(r.store, 1, 1, why, sizeof(why)); /* is there already */
    assert_int_equal(expert_store_count(r.store), 2);
    assert_int_equal(expert_store_bytes(r.store), 2 * one);

    expert_store_drop(r.store, 1, 1);
    expert_store_drop(r.store, 1, 1);
    expert_store_drop(r.store, 9, 9);
    assert_null(expert_store_get(r.store, 1, 1));
    assert_int_equal(expert_store_count(r.store), 1);
    assert_int_equal(expert_store_bytes(r.store), one);
    rig_close(&r);
}

static void refuses_an_expert_that_the_model_lacks(void **state) {
    (void)state;
    rig r;
    char why[256] = "";
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");

    assert_int_equal(expert_store_load(r.store, 0, 4, why, sizeof(why)),
                     ERR_RANGE);
    assert_non_null(strstr(why, "expert 4"));
    assert_int_equal(expert_store_load(r.store, 2, 0, why, sizeof(why)),
                     ERR_RANGE);
    rig_close(&r);
}

static void refuses_a_damaged_byte_in_any_matrix(void **state) {
    (void)state;
    rig r;
    char why[256] = "";
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");
    expert_tensors t;
    assert_int_equal(model_experts(&r.model, r.file, 1, &t, why, sizeof(why)),
                     0);
    const gguf_tensor *tensors[] = {t.gate, t.up, t.down};
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t slab = tensors[i]->bytes / r.model.n_experts;
        damage(&r, tensors[i], i * slab + slab - 1);
        assert_int_equal(expert_store_load(r.store, 1, i, why, sizeof(why)),
                         ERR_CHECKSUM);
        assert_non_null(strstr(why, "blk.1.ffn_"));
        assert_null(expert_store_get(r.store, 1, i));
    }
    assert_int_equal(expert_store_bytes(r.store), 0);
    /* its neighbours are fine */
    assert_int_equal(expert_store_load(r.store, 1, 3, why, sizeof(why)), 0);
    rig_close(&r);
}

static void loads_and_checks_an_expert_larger_than_its_staging(void **state) {
    (void)state;
    rig r;
    char why[256] = "";
    model_shape shape = model_shape_small();
    shape.n_layers = 1;
    shape.width = 256;
    shape.expert_width = 20480; /* 5.6 MB a matrix */
    shape.n_experts = 2;
    shape.n_used = 1;
    rig_open(&r, &shape, "large.gguf");
    expert_tensors t;
    model_experts(&r.model, r.file, 0, &t, why, sizeof(why));
    damage(&r, t.down, t.down->bytes / 2 + 12345); /* of expert 1 */

    assert_int_equal(expert_store_load(r.store, 0, 0, why, sizeof(why)), 0);
    assert_loaded(&r, 0, 0);
    assert_int_equal(expert_store_load(r.store, 0, 1, why, sizeof(why)),
                     ERR_CHECKSUM);
    assert_non_null(strstr(why, "blk.0.ffn_down_exps"));
    rig_close(&r);
}

static void takes_rows_in_the_form_of_its_weights(void **state) {
    (void)state;
    rig r;
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");
    assert_int_equal(expert_store_form(r.store, 0, false), ACT_A8);
    assert_int_equal(expert_store_form(r.store, 0, true), ACT_F32);
    rig_close(&r);

    shape.type = WEIGHT_F16;
    rig_open(&r, &shape, "half.gguf");
    assert_int_equal(expert_store_form(r.store, 0, false), ACT_F32);
    rig_close(&r);
}

static void loads_without_checksums_when_there_are_none(void **state) {
    (void)state;
    rig r;
    char why[256];
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");
    manifest_close(r.checks);
    r.checks = NULL;
    rig_cut(&r, 1);
    assert_int_equal(expert_store_load(r.store, 0, 1, why, sizeof(why)), 0);
    assert_loaded(&r, 0, 1);
    rig_close(&r);
}

static void serves_what_it_holds_after_the_file_is_closed(void **state) {
    (void)state;
    rig r;
    char why[256];
    model_shape shape = model_shape_small();
    rig_open(&r, &shape, "small.gguf");
    expert_store_load(r.store, 0, 1, why, sizeof(why));
    manifest_close(r.checks);
    gguf_close(r.file);
    r.checks = NULL;
    r.file = NULL;

    assert_non_null(expert_store_get(r.store, 0, 1));
    assert_true(expert_store_unit_bytes(r.store, 1) > 0);
    assert_int_equal(expert_store_form(r.store, 1, false), ACT_A8);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_the_experts_it_is_told_and_no_others),
        cmocka_unit_test(counts_packed_bytes_up_and_down),
        cmocka_unit_test(refuses_an_expert_that_the_model_lacks),
        cmocka_unit_test(refuses_a_damaged_byte_in_any_matrix),
        cmocka_unit_test(loads_and_checks_an_expert_larger_than_its_staging),
        cmocka_unit_test(takes_rows_in_the_form_of_its_weights),
        cmocka_unit_test(loads_without_checksums_when_there_are_none),
        cmocka_unit_test(serves_what_it_holds_after_the_file_is_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
