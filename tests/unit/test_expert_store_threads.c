/* test_expert_store_threads.c - units are handed over while they are served:
 * one thread loads, another computes with them and drops them, a third reads
 * the counters.  What goes wrong here shows best under ThreadSanitizer. */
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
#include "engine/act.h"
#include "engine/err.h"
#include "engine/expert_store.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define SLICES 2
#define ROUNDS 40 /* of every unit of the model */

typedef struct {
    gguf *file;
    model_config model;
    manifest *checks;
    expert_store *store;
    uint32_t units; /* of a layer */
    pool *pool;
    ffn_scratch *scratch;
    uint8_t *x;     /* one encoded row */
    float *y;       /* what a unit makes of it */
    size_t n_y;     /* with padding */
    float **wanted; /* [layers * units], each [n_y] */
    atomic_bool over;
    atomic_int load_rc; /* of the first load that failed */
} rig;

static void open_model(rig *r) {
    char why[256] = "";
    const char *path = fixture_path("threads.gguf");
    model_shape shape = model_shape_small();
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
}

static void open_kernel(rig *r) {
    uint32_t width = r->model.n_embd;
    float *row = calloc(width, sizeof(*row));
    assert_non_null(row);
    for (uint32_t i = 0; i < width; i++)
        row[i] = (float)(i % 7) - 3;
    r->x = aligned_alloc_zero(act_row_bytes(ACT_A8, width));
    r->n_y = round_up(width, WEIGHT_GROUP);
    r->y = aligned_alloc_zero(r->n_y * sizeof(float));
    assert_non_null(r->x);
    assert_non_null(r->y);
    act_encode(ACT_A8, width, row, r->x);
    free(row);
    assert_int_equal(pool_new(&r->pool, 2), 0);
    assert_int_equal(
        ffn_scratch_new(&r->scratch, 1, 1, r->model.expert_dim, width), 0);
}

static void compute(rig *r, const ffn_weights *w) {
    const void *x = r->x;
    const ffn_job job = {w, 1, &x, &r->y};
    assert_int_equal(ffn_run(r->pool, r->scratch, &job, 1, ACT_A8, false), 0);
}

/* What each unit computes when nobody else is about. */
static void note_wanted(rig *r) {
    char why[256];
    uint32_t n = r->model.n_layers * r->units;
    r->wanted = calloc(n, sizeof(*r->wanted));
    assert_non_null(r->wanted);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t layer = i / r->units, unit = i % r->units;
        assert_int_equal(
            expert_store_load(r->store, layer, unit, why, sizeof(why)), 0);
        compute(r, expert_store_get(r->store, layer, unit));
        r->wanted[i] = malloc(r->n_y * sizeof(float));
        assert_non_null(r->wanted[i]);
        memcpy(r->wanted[i], r->y, r->n_y * sizeof(float));
        expert_store_drop(r->store, layer, unit);
    }
    assert_int_equal(expert_store_count(r->store), 0);
}

static void rig_open(rig *r) {
    memset(r, 0, sizeof(*r));
    open_model(r);
    r->units = expert_store_units(r->store, 0);
    open_kernel(r);
    note_wanted(r);
}

static void rig_close(rig *r) {
    for (uint32_t i = 0; i < r->model.n_layers * r->units; i++)
        free(r->wanted[i]);
    free(r->wanted);
    ffn_scratch_free(r->scratch);
    pool_free(r->pool);
    aligned_release(r->x);
    aligned_release(r->y);
    expert_store_free(r->store);
    manifest_close(r->checks);
    gguf_close(r->file);
}

/* ---- the threads ---- */

/* Loads whatever is missing, again and again. */
static void *load_main(void *arg) {
    rig *r = arg;
    char why[256];
    for (uint32_t i = 0; !atomic_load(&r->over); i++) {
        uint32_t n = i % (r->model.n_layers * r->units);
        int rc = expert_store_load(r->store, n / r->units, n % r->units, why,
                                   sizeof(why));
        if (rc == 0) continue;
        atomic_store(&r->load_rc, rc);
        return NULL;
    }
    return NULL;
}

static void *count_main(void *arg) {
    rig *r = arg;
    uint64_t unit_bytes = expert_store_unit_bytes(r->store, 0);
    uint64_t most = (uint64_t)r->model.n_layers * r->units;
    bool sound = true;
    while (!atomic_load(&r->over)) {
        sound &= expert_store_count(r->store) <= most &&
                 expert_store_bytes(r->store) <= most * unit_bytes;
        sched_yield();
    }
    return sound ? NULL : r;
}

/* Compute with the unit as soon as it is there, and drop it. */
static void use_unit(rig *r, uint32_t layer, uint32_t unit) {
    const ffn_weights *w;
    while ((w = expert_store_get(r->store, layer, unit)) == NULL) {
        if (atomic_load(&r->load_rc) != 0)
            fail_msg("a load failed: %s", err_text(atomic_load(&r->load_rc)));
        sched_yield();
    }
    compute(r, w);
    assert_memory_equal(r->y, r->wanted[layer * r->units + unit],
                        r->model.n_embd * sizeof(float));
    expert_store_drop(r->store, layer, unit);
}

static void serves_what_another_thread_loads_and_drops_it(void **state) {
    (void)state;
    rig r;
    pthread_t loads, counts;
    void *odd;
    rig_open(&r);
    assert_int_equal(pthread_create(&loads, NULL, load_main, &r), 0);
    assert_int_equal(pthread_create(&counts, NULL, count_main, &r), 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < r.model.n_layers * r.units; i++)
            use_unit(&r, i / r.units, (i * 5 + round) % r.units);
    }
    atomic_store(&r.over, true);
    pthread_join(loads, NULL);
    pthread_join(counts, &odd);
    assert_null(odd);

    /* Nothing was counted twice or lost. */
    uint64_t left = 0;
    for (uint32_t i = 0; i < r.model.n_layers * r.units; i++)
        left += expert_store_get(r.store, i / r.units, i % r.units) != NULL;
    assert_int_equal(expert_store_count(r.store), left);
    assert_int_equal(expert_store_bytes(r.store),
                     left * expert_store_unit_bytes(r.store, 0));
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serves_what_another_thread_loads_and_drops_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
