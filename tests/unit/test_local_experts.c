/* test_local_experts.c - experts that the coordinator computes itself, within a
 * memory budget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/local_experts.h"
#include "engine/act.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/memory_rack.h"
#include "tests/support/model_gen.h"

#define PAIRS 10

static const uint32_t experts[PAIRS] = {0, 0, 0, 1, 1, 2, 2, 2, 2, 3};

static memory_model *model;
static pool *threads;

static int open_model(void **state) {
    (void)state;
    char why[256] = "";
    model_shape shape = model_shape_small();
    const char *path = fixture_path("local.gguf");
    if (model_gen(&shape, path, why, sizeof(why)) < 0) return -1;
    model = memory_model_open(path);
    return pool_new(&threads, 1);
}

static int close_model(void **state) {
    (void)state;
    pool_free(threads);
    memory_model_close(model);
    return 0;
}

typedef struct {
    local_experts *local;
    void *x[PAIRS]; /* encoded rows */
    float *y[PAIRS];
    size_t width;
} rig;

static rig open_rig(uint64_t budget) {
    rig r = {.width = model->config.n_embd};
    char why[256] = "";
    local_config c = {model->file, &model->config, NULL, threads,
                      budget,      PAIRS,          false};
    assert_int_equal(local_experts_new(&r.local, &c, why, sizeof(why)), 0);
    act_form form = local_experts_form(r.local, 0);
    float *row = aligned_alloc_zero(r.width * sizeof(float));
    for (uint32_t i = 0; i < PAIRS; i++) {
        for (size_t j = 0; j < r.width; j++) {
            row[j] = (float)((i * 37 + j * 11) % 23) - 11.0f;
        }
        r.x[i] = aligned_alloc_zero(act_row_bytes(form, r.width));
        act_encode(form, r.width, row, r.x[i]);
        r.y[i] = aligned_alloc_zero(round_up(r.width, 16) * sizeof(float));
    }
    aligned_release(row);
    return r;
}

static void close_rig(rig *r) {
    for (uint32_t i = 0; i < PAIRS; i++) {
        aligned_release(r->x[i]);
        aligned_release(r->y[i]);
    }
    local_experts_free(r->local);
}

static int run(rig *r, uint32_t layer) {
    return local_experts_run(r->local, layer, PAIRS, experts,
                             (const void *const *)r->x, r->y);
}

static uint64_t one_expert(void) {
    return expert_store_unit_bytes(model->store, 0);
}

/* All layers with all experts in memory, then with the budget. */
static void gives_the_same_within(uint64_t budget) {
    rig all = open_rig(UINT64_MAX), few = open_rig(budget);
    for (int round = 0; round < 3; round++) {
        for (uint32_t layer = 0; layer < model->config.n_layers; layer++) {
            assert_int_equal(run(&all, layer), 0);
            assert_int_equal(run(&few, layer), 0);
            for (uint32_t i = 0; i < PAIRS; i++) {
                assert_memory_equal(all.y[i], few.y[i],
                                    all.width * sizeof(float));
            }
            assert_true(local_experts_bytes(few.local) <= budget);
        }
    }
    close_rig(&all);
    close_rig(&few);
}

static void computes_one_expert_after_the_other(void **state) {
    (void)state;
    gives_the_same_within(one_expert());
}

static void computes_groups_that_fit(void **state) {
    (void)state;
    gives_the_same_within(2 * one_expert());
    gives_the_same_within(3 * one_expert() + 1);
}

static void refuses_when_not_one_expert_fits(void **state) {
    (void)state;
    rig r = open_rig(one_expert() - 1);
    assert_int_equal(run(&r, 0), ERR_OVERLOADED);
    assert_true(local_experts_bytes(r.local) == 0);
    close_rig(&r);
}

static void refuses_more_pairs_than_it_was_made_for(void **state) {
    (void)state;
    rig r = open_rig(UINT64_MAX);
    assert_int_equal(local_experts_run(r.local, 0, PAIRS + 1, experts,
                                       (const void *const *)r.x, r.y),
                     ERR_RANGE);
    assert_int_equal(local_experts_run(r.local, 0, 0, experts,
                                       (const void *const *)r.x, r.y),
                     0);
    close_rig(&r);
}

static void loads_all_whatever_the_budget(void **state) {
    (void)state;
    rig r = open_rig(0);
    char why[256] = "";
    assert_int_equal(local_experts_load_all(r.local, why, sizeof(why)), 0);
    assert_true(local_experts_bytes(r.local) ==
                expert_store_bytes(model->store));
    assert_int_equal(run(&r, 0), 0);
    close_rig(&r);
}

/* Whole experts again after slices: the same bits as before. */
static void computes_in_the_slices_that_it_is_told(void **state) {
    (void)state;
    rig whole = open_rig(UINT64_MAX), cut = open_rig(UINT64_MAX);
    assert_int_equal(run(&whole, 1), 0);
    assert_int_equal(run(&cut, 1), 0);
    assert_int_equal(local_experts_set_slices(cut.local, 2), 0);
    assert_int_equal(local_experts_slices(cut.local, 1), 2);
    assert_true(local_experts_bytes(cut.local) == 0);

    /* the sum of an expert's two slices is the expert's output */
    uint32_t units[PAIRS];
    float *sum = aligned_alloc_zero(cut.width * sizeof(float));
    for (uint32_t pair = 0; pair < PAIRS; pair++) {
        for (uint32_t slice = 0; slice < 2; slice++) {
            units[0] = experts[pair] * 2 + slice;
            assert_int_equal(
                local_experts_run(cut.local, 1, 1, units,
                                  (const void *const *)cut.x + pair,
                                  cut.y + slice),
                0);
        }
        for (size_t j = 0; j < cut.width; j++)
            sum[j] = cut.y[0][j] + cut.y[1][j];
        assert_memory_equal(sum, whole.y[pair], cut.width * sizeof(float));
    }
    units[0] = 8; /* of four experts */
    assert_int_equal(local_experts_run(cut.local, 1, 1, units,
                                       (const void *const *)cut.x, cut.y),
                     ERR_RANGE);
    assert_int_equal(local_experts_set_slices(cut.local, 3), ERR_RANGE);
    assert_int_equal(local_experts_slices(cut.local, 1), 2);
    assert_int_equal(local_experts_set_slices(cut.local, 1), 0);
    assert_int_equal(run(&cut, 1), 0);
    assert_memory_equal(cut.y[0], whole.y[0], cut.width * sizeof(float));
    aligned_release(sum);
    close_rig(&cut);
    close_rig(&whole);
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(computes_one_expert_after_the_other),
        cmocka_unit_test(computes_groups_that_fit),
        cmocka_unit_test(refuses_when_not_one_expert_fits),
        cmocka_unit_test(refuses_more_pairs_than_it_was_made_for),
        cmocka_unit_test(loads_all_whatever_the_budget),
        cmocka_unit_test(computes_in_the_slices_that_it_is_told),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
