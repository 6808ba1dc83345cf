/* test_unit_image.c - a unit as a line of bytes: what it is made of, its key,
 * its check, and the shelf that gives it away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/unit_shelf.h"
#include "engine/util.h"
#include "engine/weight.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

typedef struct {
    const char *path;
    gguf *g;
    model_config model;
    manifest *checks;
    char why[512];
} rig;

static void rig_open_shape(rig *r, const char *name, const model_shape *shape) {
    *r = (rig){0};
    r->path = fixture_path(name);
    if (model_gen(shape, r->path, r->why, sizeof(r->why)) != 0 ||
        gguf_open(&r->g, r->path, r->why, sizeof(r->why)) != 0 ||
        model_read(&r->model, r->g, r->why, sizeof(r->why)) != 0 ||
        manifest_open(&r->checks, r->g, false, r->why, sizeof(r->why)) != 0) {
        fail_msg("%s", r->why);
    }
}

static model_shape usual_shape(void) {
    model_shape shape = model_shape_small();
    shape.expert_width = 256; /* eight segments */
    return shape;
}

static void rig_open_as(rig *r, const char *name, uint64_t seed) {
    model_shape shape = usual_shape();
    shape.seed = seed;
    rig_open_shape(r, name, &shape);
}

static void rig_open(rig *r) {
    rig_open_as(r, "image.gguf", 1);
}

/* The forms in which experts come: plain, with biases, gate and up in one
 * tensor, both, and formats that differ by matrix and layer. */
enum { PLAIN, BIASED, MERGED, MERGED_BIASED, MIXED, FORMS };

static void rig_open_form(rig *r, int form) {
    model_shape shape = usual_shape();
    if (form == BIASED || form == MERGED_BIASED) shape.arch = "gpt-oss";
    shape.merged = form == MERGED || form == MERGED_BIASED;
    if (form == MIXED) {
        shape.expert_width = 2048;
        shape.down_type = WEIGHT_Q6_K;
        shape.odd_type = WEIGHT_F16;
    }
    rig_open_shape(r, "form.gguf", &shape);
}

static void rig_close(rig *r) {
    manifest_close(r->checks);
    gguf_close(r->g);
}

static unit_image image_of(rig *r, uint32_t layer, uint32_t unit,
                           uint32_t slices) {
    unit_image u;
    if (unit_image_of(&u, r->g, &r->model, layer, unit, slices, r->why,
                      sizeof(r->why)) != 0) {
        fail_msg("%s", r->why);
    }
    return u;
}

static uint8_t *read_all(const rig *r, const unit_image *u) {
    uint8_t *bytes = malloc(u->bytes);
    assert_non_null(bytes);
    assert_int_equal(unit_image_read(u, r->g, 0, u->bytes, bytes), 0);
    return bytes;
}

/* ---- images ---- */

static const uint32_t cuts[] = {1, 2, 4, 8};

static void add_up(rig *r, const unit_image *u) {
    uint8_t *bytes = read_all(r, u);
    unit_check *check;
    assert_int_equal(unit_check_open(&check, u, r->checks), 0);
    for (uint64_t at = 0; at < u->bytes; at += 1000)
        unit_check_add(check, bytes + at, size_min(1000, u->bytes - at));
    assert_int_equal(unit_check_result(check), 0);
    assert_null(unit_check_damaged(check));
    unit_check_close(check);
    free(bytes);
}

static void adds_up_to_the_manifest_for_every_cut(void **state) {
    (void)state;
    for (int form = 0; form < FORMS; form++) {
        rig r;
        rig_open_form(&r, form);
        for (size_t c = 0; c < ARRAY_LEN(cuts); c++) {
            for (uint32_t unit = 0; unit < 4 * cuts[c]; unit++) {
                unit_image u = image_of(&r, 1, unit, cuts[c]);
                add_up(&r, &u);
            }
        }
        rig_close(&r);
    }
}

static void reads_any_range_as_part_of_the_whole(void **state) {
    (void)state;
    rig r;
    rig_open_form(&r, MERGED_BIASED);
    unit_image u = image_of(&r, 0, 5, 4);
    uint8_t *whole = read_all(&r, &u), *part = malloc(u.bytes);
    for (uint64_t at = 0; at < u.bytes; at += 777) {
        for (size_t n = 1; n <= u.bytes - at; n = 5 * n + 3) {
            assert_int_equal(unit_image_read(&u, r.g, at, n, part), 0);
            assert_memory_equal(part, whole + at, n);
        }
    }
    assert_int_equal(unit_image_read(&u, r.g, u.bytes, 0, part), 0);
    assert_int_equal(unit_image_read(&u, r.g, u.bytes, 1, part), ERR_RANGE);
    assert_int_equal(unit_image_read(&u, r.g, 1, u.bytes, part), ERR_RANGE);
    free(part);
    free(whole);
    rig_close(&r);
}

/* A store's order: the spans that it asks for follow one another. */
typedef struct {
    const rig *r;
    const unit_image *image;
    uint64_t next;
} follower;

static int follow(void *ctx, const gguf_tensor *t, const expert_span *span,
                  void *out, char *why, size_t why_size) {
    follower *f = ctx;
    uint64_t at;
    (void)why;
    (void)why_size;
    assert_int_equal(unit_image_find(f->image, t, span, &at), 0);
    assert_true(at == f->next);
    f->next = at + span->bytes * span->count;
    return unit_image_read(f->image, f->r->g, at, span->bytes * span->count,
                           out);
}

static void load_following(rig *r, uint32_t unit, uint32_t slices) {
    unit_image u = image_of(r, 1, unit, slices);
    follower f = {r, &u, 0};
    const expert_store_config config = {
        .g = r->g,
        .model = &r->model,
        .checks = r->checks,
        .slices = slices,
        .source = {follow, &f},
    };
    expert_store *s;
    assert_int_equal(expert_store_new(&s, &config, r->why, sizeof(r->why)), 0);
    assert_int_equal(expert_store_load(s, 1, unit, r->why, sizeof(r->why)), 0);
    assert_true(f.next == u.bytes);
    expert_store_free(s);
}

static void a_store_reads_it_from_its_beginning_to_its_end(void **state) {
    (void)state;
    for (int form = 0; form < FORMS; form++) {
        rig r;
        rig_open_form(&r, form);
        for (size_t c = 0; c < ARRAY_LEN(cuts); c++)
            load_following(&r, 3 * cuts[c] - 1, cuts[c]);
        rig_close(&r);
    }
}

static void finds_nothing_outside_of_the_unit(void **state) {
    (void)state;
    rig r;
    uint64_t at;
    rig_open(&r);
    unit_image u = image_of(&r, 1, 3, 2);
    const unit_part *gate = &u.parts[0], *down = &u.parts[2];
    const gguf_tensor *other = gguf_tensor_at(r.g, 0);
    const expert_span before = {gate->offset - 1, 0, 1, 1},
                      after = {gate->offset + gate->bytes, 0, 1, 1},
                      beyond = {gate->offset + 1, 0, gate->bytes, 1},
                      apart = {down->offset, down->stride, down->row_bytes, 2},
                      wide = {down->offset, 0, down->stride, 1},
                      many = {down->offset, down->stride, down->row_bytes,
                              down->rows + 1},
                      huge = {gate->offset, 0, SIZE_MAX, 2};
    assert_int_equal(unit_image_find(&u, gate->tensor, &before, &at),
                     ERR_RANGE);
    assert_int_equal(unit_image_find(&u, gate->tensor, &after, &at), ERR_RANGE);
    assert_int_equal(unit_image_find(&u, gate->tensor, &beyond, &at),
                     ERR_RANGE);
    assert_int_equal(unit_image_find(&u, gate->tensor, &huge, &at), ERR_RANGE);
    assert_int_equal(unit_image_find(&u, other, &after, &at), ERR_RANGE);
    assert_int_equal(unit_image_find(&u, down->tensor, &wide, &at), ERR_RANGE);
    assert_int_equal(unit_image_find(&u, down->tensor, &many, &at), ERR_RANGE);
    assert_int_equal(unit_image_find(&u, down->tensor, &apart, &at), 0);
    assert_true(at == down->at);
    rig_close(&r);
}

/* Gate and up are apart in one tensor, and what is between is another's. */
static void tells_the_halves_of_a_merged_tensor_apart(void **state) {
    (void)state;
    rig r;
    uint64_t at;
    rig_open_form(&r, MERGED);
    unit_image u = image_of(&r, 1, 3, 2);
    const unit_part *gate = &u.parts[UNIT_GATE], *up = &u.parts[UNIT_UP];
    assert_ptr_equal(gate->tensor, up->tensor);
    assert_true(up->offset - gate->offset == 2 * gate->bytes); /* of 2 slices */
    const expert_span first = {up->offset, 0, up->bytes, 1},
                      last = {up->offset + up->bytes - 1, 0, 1, 1},
                      between = {gate->offset + gate->bytes, 0, 1, 1},
                      both = {gate->offset, 0, gate->bytes + 1, 1};
    assert_int_equal(unit_image_find(&u, up->tensor, &first, &at), 0);
    assert_true(at == up->at);
    assert_int_equal(unit_image_find(&u, up->tensor, &last, &at), 0);
    assert_true(at == up->at + up->bytes - 1);
    assert_int_equal(unit_image_find(&u, up->tensor, &between, &at), ERR_RANGE);
    assert_int_equal(unit_image_find(&u, up->tensor, &both, &at), ERR_RANGE);
    rig_close(&r);
}

static void refuses_units_that_the_model_has_not(void **state) {
    (void)state;
    rig r;
    unit_image u;
    rig_open(&r);
    const uint32_t bad[][3] = {{2, 0, 1}, {0, 4, 1},  {0, 8, 2}, {0, 0, 3},
                               {0, 0, 0}, {0, 0, 16}, {9, 9, 9}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(unit_image_of(&u, r.g, &r.model, bad[i][0], bad[i][1],
                                       bad[i][2], r.why, sizeof(r.why)),
                         ERR_RANGE);
    }
    rig_close(&r);
}

/* ---- keys and checks ---- */

static void the_same_content_has_the_same_key(void **state) {
    (void)state;
    rig a, b, other;
    rig_open_as(&a, "one.gguf", 1);
    rig_open_as(&b, "two.gguf", 1);
    rig_open_as(&other, "three.gguf", 2);
    unit_key k[5];
    unit_image of_a = image_of(&a, 1, 3, 2), of_b = image_of(&b, 1, 3, 2),
               of_other = image_of(&other, 1, 3, 2),
               next = image_of(&a, 1, 2, 2), whole = image_of(&a, 1, 1, 1);
    assert_int_equal(unit_image_key(&of_a, a.checks, &k[0]), 0);
    assert_int_equal(unit_image_key(&of_b, b.checks, &k[1]), 0);
    assert_int_equal(unit_image_key(&of_other, other.checks, &k[2]), 0);
    assert_int_equal(unit_image_key(&next, a.checks, &k[3]), 0);
    assert_int_equal(unit_image_key(&whole, a.checks, &k[4]), 0);
    assert_memory_equal(&k[0], &k[1], sizeof(k[0]));
    for (size_t i = 2; i < 5; i++)
        assert_memory_not_equal(&k[0], &k[i], sizeof(k[0]));
    char hex[UNIT_KEY_HEX];
    assert_int_equal(strlen(unit_key_hex(&k[0], hex)), UNIT_KEY_HEX - 1);
    rig_close(&a);
    rig_close(&b);
    rig_close(&other);
}

/* With biases they are others; in one tensor or in two they are the same. */
static void merging_gate_and_up_changes_no_key(void **state) {
    (void)state;
    for (int form = PLAIN; form <= BIASED; form++) {
        rig split, merged;
        rig_open_form(&split, form);
        model_shape shape = usual_shape();
        if (form == BIASED) shape.arch = "gpt-oss";
        shape.merged = true;
        rig_open_shape(&merged, "merged.gguf", &shape);
        for (size_t c = 0; c < ARRAY_LEN(cuts); c++) {
            uint32_t unit = 2 * cuts[c] + 1;
            unit_image a = image_of(&split, 1, unit, cuts[c]),
                       b = image_of(&merged, 1, unit, cuts[c]);
            unit_key of_a, of_b;
            assert_int_equal(a.n_parts,
                             form == BIASED ? UNIT_IMAGE_PARTS : UNIT_MATRICES);
            assert_int_equal(unit_image_key(&a, split.checks, &of_a), 0);
            assert_int_equal(unit_image_key(&b, merged.checks, &of_b), 0);
            assert_memory_equal(&of_a, &of_b, sizeof(of_a));
            uint8_t *from_a = read_all(&split, &a),
                    *from_b = read_all(&merged, &b);
            assert_true(a.bytes == b.bytes);
            assert_memory_equal(from_a, from_b, a.bytes);
            free(from_a);
            free(from_b);
        }
        rig_close(&split);
        rig_close(&merged);
    }
}

/* What earlier releases keep on disk under these names is found again. */
static void keys_of_plain_units_stay_as_they_were(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    static const struct {
        uint32_t unit, slices;
        const char *hex;
    } known[] = {
        {1, 1,
         "6ddce0fa8aa0ddd3d6f49ab207222936c709364fb951308bfa63d093e4dba1cd"},
        {3, 2,
         "f69eccbdb0fd849e799b27770e1b5d27fcbb36dff96f2f04bbabe5dd5e7f87ce"},
        {13, 8,
         "eb6497016947f75d15ab7fedbba30424c71b27629ed5fd3dad917c38472b426d"},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        unit_image u = image_of(&r, 1, known[i].unit, known[i].slices);
        unit_key key;
        char hex[UNIT_KEY_HEX];
        assert_int_equal(unit_image_key(&u, r.checks, &key), 0);
        assert_string_equal(unit_key_hex(&key, hex), known[i].hex);
    }
    rig_close(&r);
}

static void a_flipped_bit_is_found_in_any_part(void **state) {
    (void)state;
    rig r;
    rig_open_form(&r, MERGED_BIASED);
    unit_image u = image_of(&r, 0, 1, 2);
    uint8_t *bytes = read_all(&r, &u);
    assert_int_equal(u.n_parts, UNIT_IMAGE_PARTS);
    for (size_t i = 0; i < UNIT_IMAGE_PARTS; i++) {
        unit_check *check;
        uint64_t at = u.parts[i].at + u.parts[i].bytes / 2;
        bytes[at] ^= 8;
        assert_int_equal(unit_check_open(&check, &u, r.checks), 0);
        unit_check_add(check, bytes, u.bytes);
        assert_int_equal(unit_check_result(check), ERR_CHECKSUM);
        assert_ptr_equal(unit_check_damaged(check), &u.parts[i]);
        unit_check_close(check);
        bytes[at] ^= 8;
    }
    unit_check *check;
    assert_int_equal(unit_check_open(&check, &u, r.checks), 0);
    unit_check_add(check, bytes, u.bytes - 1);
    assert_int_equal(unit_check_result(check), ERR_RANGE);
    unit_check_add(check, bytes + u.bytes - 1, 1);
    assert_int_equal(unit_check_result(check), 0);
    unit_check_add(check, bytes, 1);
    assert_int_equal(unit_check_result(check), ERR_RANGE);
    unit_check_close(check);
    free(bytes);
    rig_close(&r);
}

/* ---- the shelf ---- */

static unit_shelf *open_shelf(rig *r) {
    unit_shelf *s;
    const unit_shelf_config c = {
        .g = r->g, .model = &r->model, .checks = r->checks};
    assert_int_equal(unit_shelf_new(&s, &c), 0);
    return s;
}

static int give(rig *r, unit_shelf *s, const unit_image *u, uint8_t *out) {
    return unit_shelf_read(s, u->layer, u->unit, u->slices, 10, 100, out,
                           r->why, sizeof(r->why));
}

static void flip(const rig *r, const unit_part *p) {
    uint8_t byte;
    off_t at = (off_t)(p->tensor->offset + p->offset + 20);
    int fd = open(r->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void gives_nothing_of_a_unit_that_is_damaged(void **state) {
    (void)state;
    rig r;
    uint8_t out[100];
    rig_open(&r);
    unit_shelf *s = open_shelf(&r);
    unit_image bad = image_of(&r, 1, 2, 1), good = image_of(&r, 1, 3, 1);
    flip(&r, &bad.parts[1]);
    assert_int_equal(give(&r, s, &bad, out), ERR_CHECKSUM);
    assert_non_null(strstr(r.why, "ffn_up_exps"));
    assert_non_null(strstr(r.why, "expert 2"));
    assert_int_equal(give(&r, s, &good, out), 0);
    flip(&r, &bad.parts[1]); /* put right: it is looked at again */
    assert_int_equal(give(&r, s, &bad, out), 0);
    uint8_t *whole = read_all(&r, &bad);
    assert_memory_equal(out, whole + 10, 100);
    free(whole);
    unit_shelf_free(s);
    rig_close(&r);
}

static void takes_the_word_of_who_has_checked_it(void **state) {
    (void)state;
    rig r;
    uint8_t out[100];
    rig_open(&r);
    unit_shelf *s = open_shelf(&r);
    unit_image u = image_of(&r, 0, 6, 4);
    unit_shelf_mark(s, 0, 6, 4, true);
    flip(&r, &u.parts[0]); /* later: whoever gets it finds out */
    assert_int_equal(give(&r, s, &u, out), 0);
    unit_shelf_mark(s, 0, 6, 4, false);
    assert_int_equal(give(&r, s, &u, out), ERR_CHECKSUM);
    unit_shelf_mark(s, 99, 6, 4, true); /* nobody's */
    unit_shelf_free(s);
    rig_close(&r);
}

static void plans_only_bytes_that_are_there(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    unit_shelf *s = open_shelf(&r);
    unit_image u = image_of(&r, 0, 3, 1);
    assert_int_equal(unit_shelf_plan(s, 0, 3, 1, 0, u.bytes, NULL, 0), 0);
    assert_int_equal(
        unit_shelf_plan(s, 0, 3, 1, 1, u.bytes, r.why, sizeof(r.why)),
        ERR_RANGE);
    assert_non_null(strstr(r.why, "beyond the end"));
    assert_int_equal(unit_shelf_plan(s, 0, 3, 1, UINT64_MAX, 2, NULL, 0),
                     ERR_RANGE);
    assert_int_equal(unit_shelf_plan(s, 0, 4, 1, 0, 1, NULL, 0), ERR_RANGE);
    unit_shelf_free(s);
    rig_close(&r);
}

typedef struct {
    rig *r;
    unit_shelf *shelf;
    int failures;
} taker;

static void *take_all(void *arg) {
    taker *t = arg;
    uint8_t out[100];
    char why[200];
    for (uint32_t unit = 0; unit < 4; unit++) {
        t->failures += unit_shelf_read(t->shelf, 0, unit, 1, 10, 100, out, why,
                                       sizeof(why)) != 0;
    }
    return NULL;
}

static void several_threads_take_at_once(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    unit_shelf *s = open_shelf(&r);
    pthread_t threads[4];
    taker takers[4];
    for (size_t i = 0; i < 4; i++) {
        takers[i] = (taker){&r, s, 0};
        pthread_create(&threads[i], NULL, take_all, &takers[i]);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(takers[i].failures, 0);
    }
    unit_shelf_free(s);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_up_to_the_manifest_for_every_cut),
        cmocka_unit_test(reads_any_range_as_part_of_the_whole),
        cmocka_unit_test(a_store_reads_it_from_its_beginning_to_its_end),
        cmocka_unit_test(finds_nothing_outside_of_the_unit),
        cmocka_unit_test(tells_the_halves_of_a_merged_tensor_apart),
        cmocka_unit_test(refuses_units_that_the_model_has_not),
        cmocka_unit_test(the_same_content_has_the_same_key),
        cmocka_unit_test(merging_gate_and_up_changes_no_key),
        cmocka_unit_test(keys_of_plain_units_stay_as_they_were),
        cmocka_unit_test(a_flipped_bit_is_found_in_any_part),
        cmocka_unit_test(gives_nothing_of_a_unit_that_is_damaged),
        cmocka_unit_test(takes_the_word_of_who_has_checked_it),
        cmocka_unit_test(plans_only_bytes_that_are_there),
        cmocka_unit_test(several_threads_take_at_once),
    };
    log_setup("test", (log_level)(LOG_ERROR + 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
