/* test_expert_store.c - packed experts from a file: what is loaded, counted and
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/expert_store.h"
#include "engine/util.h"
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

/* ---- slices ---- */

/* Experts of eight segments. */
static void rig_open_wide(rig *r) {
    model_shape shape = model_shape_small();
    shape.expert_width = 256;
    rig_open(r, &shape, "wide.gguf");
}

/* A unit's matrix is what packing its rows, or its columns, gives. */
static void assert_part(const rig *r, const gguf_tensor *t, uint32_t unit,
                        uint32_t slices, bool by_columns,
                        const matrix *loaded) {
    size_t rows = t->dims[1], row = t->bytes / r->model.n_experts / rows;
    uint32_t expert = unit / slices, slice = unit % slices;
    size_t n = by_columns ? rows : rows / slices;
    size_t width = by_columns ? row / slices : row;
    size_t cols = by_columns ? t->dims[0] / slices : t->dims[0];
    size_t begin = slice * (by_columns ? width : n * row);
    const uint8_t *slab =
        (const uint8_t *)gguf_data(r->file, t) + expert * rows * row;
    uint8_t *stored = malloc(n * width);
    matrix m;

    assert_non_null(stored);
    for (size_t i = 0; i < n; i++)
        memcpy(stored + i * width, slab + begin + i * row, width);
    assert_int_equal(
        matrix_pack(&m, weight_format_find(t->type), n, cols, stored), 0);
    assert_same_matrix(&m, loaded);
    matrix_fini(&m);
    free(stored);
}

static void loads_a_slice_as_a_smaller_expert(void **state) {
    (void)state;
    rig r;
    char why[256] = "";
    rig_open_wide(&r);
    uint64_t whole = expert_store_unit_bytes(r.store, 1);
    expert_tensors t;
    model_experts(&r.model, r.file, 1, &t, why, sizeof(why));
    for (uint32_t slices = 2; slices <= 8; slices *= 2) {
        rig_cut(&r, slices);
        assert_int_equal(expert_store_slices(r.store, 1), slices);
        assert_int_equal(expert_store_units(r.store, 1), 4 * slices);
        uint64_t one = expert_store_unit_bytes(r.store, 1);
        assert_true(one >= whole / slices && one < whole); /* padded */
        for (uint32_t unit = slices - 1; unit < 4 * slices; unit += 3) {
            assert_int_equal(
                expert_store_load(r.store, 1, unit, why, sizeof(why)), 0);
            const ffn_weights *w = expert_store_get(r.store, 1, unit);
            assert_int_equal(w->segments, 8 / slices);
            assert_part(&r, t.gate, unit, slices, false, &w->gate);
            assert_part(&r, t.up, unit, slices, false, &w->up);
            assert_part(&r, t.down, unit, slices, true, &w->down);
        }
        assert_int_equal(expert_store_bytes(r.store),
                         expert_store_count(r.store) * one);
        assert_int_equal(
            expert_store_load(r.store, 1, 4 * slices, why, sizeof(why)),
            ERR_RANGE);
    }
    rig_close(&r);
}

static void cuts_a_layer_into_as_many_slices_as_it_has_segments(void **state) {
    (void)state;
    rig r;
    char why[256] = "";
    model_shape shape = model_shape_small(); /* 128 wide: four segments */
    rig_open(&r, &shape, "small.gguf");
    rig_cut(&r, 8);
    assert_int_equal(expert_store_slices(r.store, 0), 4);
    assert_int_equal(expert_store_units(r.store, 0), 16);
    assert_int_equal(expert_store_load(r.store, 0, 15, why, sizeof(why)), 0);
    assert_int_equal(expert_store_load(r.store, 0, 16, why, sizeof(why)),
                     ERR_RANGE);
    assert_int_equal(expert_store_slices(r.store, 2), 0);
    assert_int_equal(expert_store_units(r.store, 2), 0);
    rig_close(&r);
}

static void refuses_slices_that_no_expert_is_cut_into(void **state) {
    (void)state;
    rig r;
    rig_open_wide(&r);
    static const uint32_t wrong[] = {3, 6, 16};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char why[256] = "";
        expert_store *s;
        const expert_store_config c = {
            .g = r.file, .model = &r.model, .slices = wrong[i]};
        assert_int_equal(expert_store_new(&s, &c, why, sizeof(why)), ERR_RANGE);
        assert_null(s);
        assert_non_null(strstr(why, "slices"));
    }
    rig_close(&r);
}

/* A byte of each eighth of each matrix, of rows and of columns. */
static void finds_a_damaged_byte_in_the_slices_that_have_it(void **state) {
    (void)state;
    rig r;
    char why[256] = "";
    rig_open_wide(&r);
    expert_tensors t;
    model_experts(&r.model, r.file, 0, &t, why, sizeof(why));
    const gguf_tensor *tensors[] = {t.gate, t.up, t.down};
    for (uint32_t i = 0; i < 24; i++) {
        const gguf_tensor *hit = tensors[i % 3];
        uint32_t eighth = i / 3;
        uint64_t slab = hit->bytes / r.model.n_experts;
        uint64_t row = slab / hit->dims[1], in_slab = eighth * slab / 8 + 7;
        if (hit == t.down) in_slab = 11 * row + eighth * row / 8 + 7;
        damage(&r, hit, 2 * slab + in_slab);
        for (uint32_t slices = 1; slices <= 8; slices *= 2) {
            rig_cut(&r, slices);
            for (uint32_t s = 0; s < slices; s++) {
                uint32_t unit = 2 * slices + s;
                bool has_it = s == eighth * slices / 8;
                assert_int_equal(
                    expert_store_load(r.store, 0, unit, why, sizeof(why)),
                    has_it ? ERR_CHECKSUM : 0);
                assert_true((expert_store_get(r.store, 0, unit) == NULL) ==
                            has_it);
            }
        }
        damage(&r, hit, 2 * slab + in_slab); /* which mends it */
    }
    rig_close(&r);
}

/* ---- sources ---- */

typedef struct {
    const gguf *file;
    uint64_t bytes;
    size_t most; /* of one read */
    int fail_at; /* that read, counted down */
} counting;

static int read_counting(void *ctx, const gguf_tensor *t,
                         const expert_span *span, void *out, char *why,
                         size_t why_size) {
    counting *c = ctx;
    if (c->fail_at > 0 && --c->fail_at == 0)
        return err_why(why, why_size, ERR_UNAVAILABLE, "nobody has it");
    uint8_t *at = out;
    for (size_t i = 0; i < span->count; i++, at += span->bytes) {
        int rc = gguf_read(c->file, t, span->offset + i * span->stride,
                           span->bytes, at);
        if (rc < 0) return rc;
    }
    c->bytes += span->bytes * span->count;
    if (span->bytes * span->count > c->most)
        c->most = span->bytes * span->count;
    return 0;
}

static void open_from_source(rig *r, counting *source, uint32_t slices) {
    char why[256] = "";
    expert_store_free(r->store);
    const expert_store_config c = {.g = r->file,
                                   .model = &r->model,
                                   .checks = r->checks,
                                   .slices = slices,
                                   .source = {read_counting, source}};
    assert_int_equal(expert_store_new(&r->store, &c, why, sizeof(why)), 0);
}

static void asks_a_source_for_its_own_bytes_only(void **state) {
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
    uint64_t whole = model_expert_bytes(&t, 2);
    for (uint32_t slices = 1; slices <= 8; slices *= 2) {
        counting source = {.file = r.file};
        open_from_source(&r, &source, slices);
        assert_int_equal(
            expert_store_load(r.store, 0, slices, why, sizeof(why)), 0);
        assert_true(source.bytes == whole / slices);
        assert_true(source.most <= EXPERT_SPAN_MAX);
    }
    rig_close(&r);
}

static void passes_on_what_a_source_says(void **state) {
    (void)state;
    rig r;
    rig_open_wide(&r);
    for (int at = 1; at <= 3; at++) {
        char why[256] = "";
        counting source = {.file = r.file, .fail_at = at};
        open_from_source(&r, &source, 2);
        assert_int_equal(expert_store_load(r.store, 0, 3, why, sizeof(why)),
                         ERR_UNAVAILABLE);
        assert_non_null(strstr(why, "nobody has it"));
        assert_non_null(strstr(why, "slice 1 of 2"));
        assert_null(expert_store_get(r.store, 0, 3));
        assert_int_equal(expert_store_bytes(r.store), 0);
        assert_int_equal(expert_store_load(r.store, 0, 3, why, sizeof(why)), 0);
    }
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
        cmocka_unit_test(loads_a_slice_as_a_smaller_expert),
        cmocka_unit_test(cuts_a_layer_into_as_many_slices_as_it_has_segments),
        cmocka_unit_test(refuses_slices_that_no_expert_is_cut_into),
        cmocka_unit_test(finds_a_damaged_byte_in_the_slices_that_have_it),
        cmocka_unit_test(asks_a_source_for_its_own_bytes_only),
        cmocka_unit_test(passes_on_what_a_source_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
