/* test_expert_bias.c - the biases of experts on their way from the file: those
 * of gate and up with the unit, a slice's share of them; that of down with the
 * coordinator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/weights.h"
#include "engine/err.h"
#include "engine/expert_store.h"
#include "engine/util.h"
#include "expert_node/scrub.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define HIDDEN 256 /* eight segments */
#define WIDTH 64

typedef struct {
    const char *path;
    gguf *g;
    model_config model;
    manifest *checks;
    expert_store *store;
    char why[256];
} rig;

static void rig_cut(rig *r, uint32_t slices) {
    const expert_store_config c = {
        .g = r->g, .model = &r->model, .checks = r->checks, .slices = slices};
    expert_store_free(r->store);
    if (expert_store_new(&r->store, &c, r->why, sizeof(r->why)) != 0)
        fail_msg("%s", r->why);
}

static void rig_open(rig *r, bool merged) {
    *r = (rig){.path = fixture_path("bias.gguf")};
    model_shape shape = model_shape_small();
    shape.arch = "gpt-oss";
    shape.expert_width = HIDDEN;
    shape.merged = merged;
    if (model_gen(&shape, r->path, r->why, sizeof(r->why)) != 0 ||
        gguf_open(&r->g, r->path, r->why, sizeof(r->why)) != 0 ||
        model_read(&r->model, r->g, r->why, sizeof(r->why)) != 0 ||
        manifest_open(&r->checks, r->g, false, r->why, sizeof(r->why)) != 0) {
        fail_msg("%s", r->why);
    }
    rig_cut(r, 1);
}

static void rig_close(rig *r) {
    expert_store_free(r->store);
    manifest_close(r->checks);
    gguf_close(r->g);
}

static const float *tensor(const rig *r, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(r->g, name);
    assert_non_null(t);
    return (const float *)gguf_data(r->g, t);
}

static const ffn_weights *load(rig *r, uint32_t layer, uint32_t unit) {
    if (expert_store_load(r->store, layer, unit, r->why, sizeof(r->why)) != 0)
        fail_msg("%s", r->why);
    return expert_store_get(r->store, layer, unit);
}

/* ---- with the unit ---- */

static void a_slice_has_its_share_of_both(void **state) {
    (void)state;
    rig r;
    rig_open(&r, false);
    const float *gate = tensor(&r, "blk.1.ffn_gate_exps.bias");
    const float *up = tensor(&r, "blk.1.ffn_up_exps.bias");
    for (uint32_t slices = 1; slices <= 8; slices *= 2) {
        rig_cut(&r, slices);
        size_t share = HIDDEN / slices;
        for (uint32_t unit = 0; unit < 4 * slices; unit++) {
            const ffn_weights *w = load(&r, 1, unit);
            assert_int_equal(w->activation, FFN_SWIGLU_CLAMPED);
            assert_memory_equal(w->gate_bias, gate + unit * share,
                                share * sizeof(float));
            assert_memory_equal(w->up_bias, up + unit * share,
                                share * sizeof(float));
        }
    }
    rig_close(&r);
}

static void a_merged_tensor_gives_the_same(void **state) {
    (void)state;
    rig two, one;
    rig_open(&two, false);
    rig_open(&one, true);
    for (uint32_t slices = 1; slices <= 8; slices *= 2) {
        rig_cut(&two, slices);
        rig_cut(&one, slices);
        for (uint32_t unit = 0; unit < 4 * slices; unit++) {
            ffn_piece a[FFN_PIECES_MAX], b[FFN_PIECES_MAX];
            assert_int_equal(ffn_pieces(load(&two, 0, unit), a), 5);
            assert_int_equal(ffn_pieces(load(&one, 0, unit), b), 5);
            for (size_t i = 0; i < 5; i++) {
                assert_int_equal(a[i].bytes, b[i].bytes);
                assert_memory_equal(a[i].data, b[i].data, a[i].bytes);
            }
            assert_true(expert_store_sum(two.store, 0, unit) ==
                        expert_store_sum(one.store, 0, unit));
        }
    }
    rig_close(&two);
    rig_close(&one);
}

static void their_bytes_are_counted(void **state) {
    (void)state;
    rig r;
    rig_open(&r, false);
    uint64_t with = expert_store_unit_bytes(r.store, 1);
    load(&r, 1, 2);
    assert_true(expert_store_bytes(r.store) == with);
    expert_store_drop(r.store, 1, 2);
    assert_true(expert_store_bytes(r.store) == 0);
    r.model.expert_bias = false;
    rig_cut(&r, 1);
    assert_true(with - expert_store_unit_bytes(r.store, 1) ==
                2 * HIDDEN * sizeof(float));
    rig_close(&r);
}

/* Flip a byte of the file behind the reader's back. */
static void damage(const rig *r, const char *name, uint64_t offset) {
    const gguf_tensor *t = gguf_find_tensor(r->g, name);
    int fd = open(r->path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    off_t at = (off_t)(t->offset + offset);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* A byte of expert 2's fifth eighth: half 1 of 2, quarter 2 of 4. */
static void damage_is_found_in_the_slice_that_has_it(void **state) {
    (void)state;
    static const struct {
        bool merged;
        const char *name;
        uint64_t before; /* values */
    } at[] = {{false, "blk.0.ffn_gate_exps.bias", 2 * HIDDEN},
              {false, "blk.0.ffn_up_exps.bias", 2 * HIDDEN},
              {true, "blk.0.ffn_gate_up_exps.bias", 4 * HIDDEN},
              {true, "blk.0.ffn_gate_up_exps.bias", 5 * HIDDEN}};
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        rig r;
        rig_open(&r, at[i].merged);
        damage(&r, at[i].name,
               (at[i].before + HIDDEN / 2 + 7) * sizeof(float) + 1);
        for (uint32_t slices = 1; slices <= 8; slices *= 2) {
            rig_cut(&r, slices);
            for (uint32_t unit = 0; unit < 4 * slices; unit++) {
                bool hit = unit == 2 * slices + slices / 2;
                int rc =
                    expert_store_load(r.store, 0, unit, r.why, sizeof(r.why));
                assert_int_equal(rc, hit ? ERR_CHECKSUM : 0);
                if (hit) assert_non_null(strstr(r.why, at[i].name));
            }
        }
        rig_close(&r);
    }
}

static void memory_that_loses_one_is_found(void **state) {
    (void)state;
    for (int which = 0; which < 2; which++) {
        rig r;
        scrub *s;
        scrub_find f;
        rig_open(&r, false);
        const ffn_weights *w = load(&r, 1, 3);
        float *bias = which == 0 ? w->gate_bias : w->up_bias;
        bias[HIDDEN - 1] += 0.5f;
        assert_int_equal(scrub_new(&s, r.store, 1000), 0);
        scrub_figures figures = {0};
        for (uint64_t now = 1; figures.passes < 2; scrub_look(s, &figures)) {
            now += 1000000;
            (void)scrub_turn(s, now);
        }
        assert_true(scrub_take(s, &f));
        assert_int_equal(f.layer, 1);
        assert_int_equal(f.unit, 3);
        assert_null(expert_store_get(r.store, 1, 3));
        scrub_free(s);
        rig_close(&r);
    }
}

/* ---- with the coordinator ---- */

static void down_is_with_the_coordinator(void **state) {
    (void)state;
    rig r;
    weights *with, *without;
    rig_open(&r, false);
    assert_int_equal(
        weights_load(&with, r.g, &r.model, NULL, r.why, sizeof(r.why)), 0);
    const float *down = tensor(&r, "blk.1.ffn_down_exps.bias");
    assert_memory_equal(with->layers[1].moe.down_bias, down,
                        4 * WIDTH * sizeof(float));

    r.model.expert_bias = false;
    assert_int_equal(
        weights_load(&without, r.g, &r.model, NULL, r.why, sizeof(r.why)), 0);
    assert_null(without->layers[1].moe.down_bias);
    /* of 2 layers: all 4 experts' resident, those of 2 read by a token */
    assert_true(with->bytes - without->bytes == 2 * 4 * WIDTH * sizeof(float));
    assert_true(with->bytes_per_token - without->bytes_per_token ==
                2 * 2 * WIDTH * sizeof(float));
    weights_free(with);
    weights_free(without);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slice_has_its_share_of_both),
        cmocka_unit_test(a_merged_tensor_gives_the_same),
        cmocka_unit_test(their_bytes_are_counted),
        cmocka_unit_test(damage_is_found_in_the_slice_that_has_it),
        cmocka_unit_test(memory_that_loses_one_is_found),
        cmocka_unit_test(down_is_with_the_coordinator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
