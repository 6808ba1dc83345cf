/* test_scrub.c - resident weights are read again, and what memory has not kept
 * is dropped; while others load, and look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "engine/expert_store.h"
#include "engine/failpoint.h"
#include "expert_node/scrub.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define SLICES 2
#define PASS_MS 1000

typedef struct {
    gguf *file;
    model_config model;
    manifest *checks;
    expert_store *store;
    scrub *scrub;
    uint32_t units; /* of a layer */
    uint64_t now;
    atomic_bool over;
} rig;

static void rig_open(rig *r, uint64_t pass_ms) {
    char why[256] = "";
    const char *path = fixture_path("scrub.gguf");
    model_shape shape = model_shape_small();
    *r = (rig){.now = 1000};
    if (model_gen(&shape, path, why, sizeof(why)) != 0 ||
        gguf_open(&r->file, path, why, sizeof(why)) != 0 ||
        model_read(&r->model, r->file, why, sizeof(why)) != 0 ||
        manifest_open(&r->checks, r->file, false, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    const expert_store_config c = {.g = r->file,
                                   .model = &r->model,
                                   .checks = r->checks,
                                   .slices = SLICES};
    if (expert_store_new(&r->store, &c, why, sizeof(why)) != 0)
        fail_msg("%s", why);
    assert_int_equal(expert_store_layers(r->store), r->model.n_layers);
    r->units = expert_store_units(r->store, 0);
    assert_int_equal(scrub_new(&r->scrub, r->store, pass_ms), 0);
}

static void rig_close(rig *r) {
    scrub_free(r->scrub);
    expert_store_free(r->store);
    manifest_close(r->checks);
    gguf_close(r->file);
}

static void load(rig *r, uint32_t layer, uint32_t unit) {
    char why[256] = "";
    if (expert_store_load(r->store, layer, unit, why, sizeof(why)) != 0)
        fail_msg("%s", why);
}

static void load_all(rig *r) {
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        for (uint32_t u = 0; u < r->units; u++)
            load(r, l, u);
    }
}

static scrub_figures look(const rig *r) {
    scrub_figures f;
    scrub_look(r->scrub, &f);
    return f;
}

/* A turn, when it is due. */
static bool turn(rig *r) {
    uint64_t due = scrub_due_us(r->scrub);
    assert_true(due != UINT64_MAX);
    if (due > r->now) r->now = due;
    return scrub_turn(r->scrub, r->now);
}

/* As far as the pass after this one; how many units were dropped. */
static unsigned whole_pass(rig *r) {
    uint64_t passes = look(r).passes;
    unsigned found = 0;
    while (look(r).passes < passes + 2)
        found += turn(r);
    return found;
}

static void flip(rig *r, uint32_t layer, uint32_t unit, int part) {
    const ffn_weights *w = expert_store_get(r->store, layer, unit);
    const matrix *parts[] = {&w->gate, &w->up, &w->down};
    ((uint8_t *)parts[part]->data)[parts[part]->bytes - 1] ^= 0x10;
}

/* ---- */

static void finds_nothing_wrong_with_what_was_loaded(void **state) {
    rig r;
    (void)state;
    rig_open(&r, PASS_MS);
    load_all(&r);
    assert_int_equal(whole_pass(&r), 0);
    scrub_figures f = look(&r);
    assert_true(f.units >= r.model.n_layers * r.units);
    assert_true(f.bytes >= expert_store_bytes(r.store));
    assert_int_equal(f.damaged, 0);
    rig_close(&r);
}

static void drops_and_names_a_unit_that_has_changed(void **state) {
    rig r;
    (void)state;
    for (int part = 0; part < 3; part++) {
        scrub_find f;
        rig_open(&r, PASS_MS);
        load_all(&r);
        flip(&r, 1, 3, part);
        assert_false(scrub_take(r.scrub, &f));
        assert_int_equal(whole_pass(&r), 1);
        assert_true(scrub_take(r.scrub, &f));
        assert_int_equal(f.layer, 1);
        assert_int_equal(f.unit, 3);
        assert_false(scrub_take(r.scrub, &f));
        assert_null(expert_store_get(r.store, 1, 3));
        assert_int_equal(look(&r).damaged, 1);
        load(&r, 1, 3); /* healed */
        assert_int_equal(whole_pass(&r), 0);
        rig_close(&r);
    }
}

static void does_nothing_where_nothing_is_loaded(void **state) {
    rig r;
    (void)state;
    rig_open(&r, PASS_MS);
    for (int i = 0; i < 5; i++)
        assert_false(turn(&r));
    assert_int_equal(look(&r).bytes, 0);
    load(&r, 0, 0);
    assert_int_equal(whole_pass(&r), 0);
    assert_true(look(&r).units > 0);
    rig_close(&r);
}

static void is_never_due_if_it_is_off(void **state) {
    rig r;
    (void)state;
    rig_open(&r, 0);
    load_all(&r);
    assert_true(scrub_due_us(r.scrub) == UINT64_MAX);
    assert_false(scrub_turn(r.scrub, 1000000));
    assert_int_equal(look(&r).bytes, 0);
    rig_close(&r);
}

/* One pass takes about its time, and never reads in a burst. */
static void spreads_its_reading_over_the_pass(void **state) {
    rig r;
    (void)state;
    rig_open(&r, PASS_MS);
    load_all(&r);
    (void)whole_pass(&r);
    uint64_t began = r.now, passes = look(&r).passes;
    while (look(&r).passes < passes + 1) {
        uint64_t bytes = look(&r).bytes;
        turn(&r);
        assert_true(look(&r).bytes - bytes <= SCRUB_PIECE);
        assert_true(scrub_due_us(r.scrub) > r.now);
    }
    assert_in_range(r.now - began, PASS_MS * 1000 / 4, PASS_MS * 1000 * 2);
    rig_close(&r);
}

static void passes_over_a_unit_that_is_dropped_meanwhile(void **state) {
    rig r;
    (void)state;
    rig_open(&r, PASS_MS);
    load(&r, 0, 0);
    load(&r, 0, 1);
    turn(&r); /* in the midst of the first */
    expert_store_drop(r.store, 0, 0);
    for (int i = 0; i < 20; i++)
        assert_false(turn(&r));
    load(&r, 0, 0);
    turn(&r);
    expert_store_drop(r.store, 0, 0);
    load(&r, 0, 0); /* elsewhere, or at the same place */
    assert_int_equal(whole_pass(&r), 0);
    rig_close(&r);
}

static void rests_while_nobody_takes_what_it_found(void **state) {
    rig r;
    scrub_find f;
    unsigned found = 0;
    (void)state;
    rig_open(&r, PASS_MS);
    while (found < SCRUB_FOUND_MAX) {
        load(&r, 0, 0);
        flip(&r, 0, 0, 0);
        found += turn(&r);
        while (expert_store_get(r.store, 0, 0) != NULL)
            found += turn(&r);
    }
    load(&r, 0, 0);
    flip(&r, 0, 0, 0);
    for (int i = 0; i < 50; i++)
        assert_false(turn(&r));
    assert_true(scrub_take(r.scrub, &f));
    while (!turn(&r))
        continue;
    assert_int_equal(look(&r).damaged, SCRUB_FOUND_MAX + 1);
    rig_close(&r);
}

/* ---- threads ---- */

/* The loader's thread: what is missing, again and again. */
static void *loading(void *ctx) {
    rig *r = ctx;
    char why[256];
    while (!atomic_load(&r->over)) {
        for (uint32_t l = 0; l < r->model.n_layers; l++) {
            for (uint32_t u = 0; u < r->units; u++)
                (void)expert_store_load(r->store, l, u, why, sizeof(why));
        }
        sched_yield();
    }
    return NULL;
}

static void *looking(void *ctx) {
    rig *r = ctx;
    scrub_find f;
    while (!atomic_load(&r->over)) {
        (void)look(r);
        (void)scrub_take(r->scrub, &f);
        sched_yield();
    }
    return NULL;
}

/* This is the computing thread: it turns, flips and drops. */
static void works_while_others_load_and_look(void **state) {
    rig r;
    pthread_t loader, looker;
    unsigned found = 0, flipped = 0;
    (void)state;
    rig_open(&r, 1);
    assert_int_equal(pthread_create(&loader, NULL, loading, &r), 0);
    assert_int_equal(pthread_create(&looker, NULL, looking, &r), 0);
    for (unsigned i = 0; found < 40; i++) {
        uint32_t unit = i % r.units;
        if (i % 16 == 0) expert_store_drop(r.store, 0, unit);
        if (i % 64 == 1 && expert_store_get(r.store, 1, unit) != NULL) {
            flip(&r, 1, unit, 2);
            flipped++;
        }
        found += turn(&r);
    }
    assert_true(flipped >= 40);
    atomic_store(&r.over, true);
    pthread_join(loader, NULL);
    pthread_join(looker, NULL);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_nothing_wrong_with_what_was_loaded),
        cmocka_unit_test(drops_and_names_a_unit_that_has_changed),
        cmocka_unit_test(does_nothing_where_nothing_is_loaded),
        cmocka_unit_test(is_never_due_if_it_is_off),
        cmocka_unit_test(spreads_its_reading_over_the_pass),
        cmocka_unit_test(passes_over_a_unit_that_is_dropped_meanwhile),
        cmocka_unit_test(rests_while_nobody_takes_what_it_found),
        cmocka_unit_test(works_while_others_load_and_look),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
