/* test_expert_bulk.c - many units at once are what they are one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/expert_bulk.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define SLICES 2

typedef struct {
    const char *path;
    gguf *file;
    model_config model;
    manifest *checks;
    expert_store *store;
    expert_unit *units;
    size_t n_units;
    size_t most_loaded; /* that anybody was told of */
} rig;

static expert_store *new_store(const rig *r, expert_source source) {
    char why[256] = "";
    expert_store *s;
    const expert_store_config c = {.g = r->file,
                                   .model = &r->model,
                                   .checks = r->checks,
                                   .slices = SLICES,
                                   .source = source};
    if (expert_store_new(&s, &c, why, sizeof(why)) != 0) fail_msg("%s", why);
    return s;
}

static void rig_open(rig *r, const char *name) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    *r = (rig){.path = fixture_path(name)};
    if (model_gen(&shape, r->path, why, sizeof(why)) != 0 ||
        gguf_open(&r->file, r->path, why, sizeof(why)) != 0 ||
        model_read(&r->model, r->file, why, sizeof(why)) != 0 ||
        manifest_open(&r->checks, r->file, false, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    r->store = new_store(r, (expert_source){0});
    uint32_t per_layer = expert_store_units(r->store, 0);
    r->units = calloc(r->model.n_layers * per_layer, sizeof(*r->units));
    assert_non_null(r->units);
    for (uint32_t layer = 0; layer < r->model.n_layers; layer++) {
        for (uint32_t u = 0; u < expert_store_units(r->store, layer); u++)
            r->units[r->n_units++] = (expert_unit){layer, u};
    }
}

static void rig_close(rig *r) {
    expert_store_free(r->store);
    free(r->units);
    manifest_close(r->checks);
    gguf_close(r->file);
    unlink(r->path);
}

static void note_progress(void *ctx, size_t n_loaded) {
    rig *r = ctx;
    assert_in_range(n_loaded, 1, r->n_units);
    if (n_loaded > r->most_loaded) r->most_loaded = n_loaded;
}

static int load_all(rig *r, expert_store *s, uint32_t threads, char *why,
                    size_t why_size) {
    expert_bulk b = {.store = s,
                     .units = r->units,
                     .n_units = r->n_units,
                     .progress = note_progress,
                     .ctx = r};
    assert_int_equal(pool_new(&b.threads, threads), 0);
    int rc = expert_bulk_load(&b, why, why_size);
    pool_free(b.threads);
    return rc;
}

static void assert_same_stores(const rig *r, const expert_store *a,
                               const expert_store *b) {
    for (size_t i = 0; i < r->n_units; i++) {
        const expert_unit *u = &r->units[i];
        ffn_piece x[FFN_PIECES_MAX], y[FFN_PIECES_MAX];
        const ffn_weights *wa = expert_store_get(a, u->layer, u->unit);
        const ffn_weights *wb = expert_store_get(b, u->layer, u->unit);
        assert_non_null(wa);
        assert_non_null(wb);
        size_t n = ffn_pieces(wa, x);
        assert_int_equal(ffn_pieces(wb, y), n);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal(x[k].bytes, y[k].bytes);
            assert_memory_equal(x[k].data, y[k].data, x[k].bytes);
        }
        assert_true(expert_store_sum(a, u->layer, u->unit) ==
                    expert_store_sum(b, u->layer, u->unit));
    }
}

static void loads_what_one_thread_loads(void **state) {
    char why[256] = "";
    rig r;
    (void)state;
    rig_open(&r, "bulk.gguf");
    for (size_t i = 0; i < r.n_units; i++) {
        assert_int_equal(expert_store_load(r.store, r.units[i].layer,
                                           r.units[i].unit, why, sizeof(why)),
                         0);
    }
    for (uint32_t threads = 1; threads <= 4; threads++) {
        expert_store *s = new_store(&r, (expert_source){0});
        assert_int_equal(load_all(&r, s, threads, why, sizeof(why)), 0);
        assert_int_equal(expert_store_count(s), r.n_units);
        assert_true(expert_store_bytes(s) == expert_store_bytes(r.store));
        assert_same_stores(&r, s, r.store);
        expert_store_free(s);
    }
    assert_int_equal(r.most_loaded, r.n_units); /* by the lead alone */
    rig_close(&r);
}

static void stops_at_damage_and_names_the_tensor(void **state) {
    char why[256] = "";
    rig r;
    (void)state;
    rig_open(&r, "bulk-damage.gguf");
    const gguf_tensor *t = gguf_find_tensor(r.file, "blk.0.ffn_up_exps.weight");
    assert_non_null(t);
    int fd = open(r.path, O_RDWR);
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)t->offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)t->offset), 1);
    close(fd);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        expert_store *s = new_store(&r, (expert_source){0});
        assert_int_equal(load_all(&r, s, threads, why, sizeof(why)),
                         ERR_CHECKSUM);
        assert_non_null(strstr(why, "blk.0.ffn_up_exps.weight"));
        assert_true(expert_store_count(s) < r.n_units);
        assert_null(expert_store_get(s, 0, 0));
        expert_store_free(s);
    }
    rig_close(&r);
}

/* A source that must not be asked by two threads at once. */
static int read_alone(void *ctx, const gguf_tensor *t, const expert_span *span,
                      void *out, char *why, size_t why_size) {
    const rig *r = ctx;
    static atomic_int inside;
    assert_int_equal(atomic_fetch_add(&inside, 1), 0);
    uint8_t *to = out;
    int rc = 0;
    (void)why;
    (void)why_size;
    for (size_t i = 0; i < span->count && rc == 0; i++, to += span->bytes) {
        rc = gguf_read(r->file, t, span->offset + i * span->stride, span->bytes,
                       to);
    }
    atomic_fetch_sub(&inside, 1);
    return rc;
}

static void asks_another_source_one_unit_at_a_time(void **state) {
    char why[256] = "";
    rig r;
    (void)state;
    rig_open(&r, "bulk-source.gguf");
    assert_true(expert_store_reads_file(r.store));
    expert_store *s = new_store(&r, (expert_source){read_alone, &r});
    assert_false(expert_store_reads_file(s));
    assert_int_equal(load_all(&r, s, 3, why, sizeof(why)), 0);
    assert_int_equal(load_all(&r, r.store, 3, why, sizeof(why)), 0);
    assert_same_stores(&r, s, r.store);
    expert_store_free(s);
    rig_close(&r);
}

static void hints_change_nothing(void **state) {
    char why[256] = "";
    rig r;
    (void)state;
    rig_open(&r, "bulk-hints.gguf");
    expert_store_hint(r.store, 0, 0, EXPERT_AHEAD);
    assert_int_equal(load_all(&r, r.store, 2, why, sizeof(why)), 0);
    for (size_t i = 0; i < r.n_units; i++) {
        expert_store_hint(r.store, r.units[i].layer, r.units[i].unit,
                          EXPERT_BEHIND);
    }
    expert_store_hint(r.store, 1000, 0, EXPERT_AHEAD); /* there is none */
    expert_store_hint(r.store, 0, 100000, EXPERT_BEHIND);
    expert_store *s = new_store(&r, (expert_source){0});
    assert_int_equal(load_all(&r, s, 2, why, sizeof(why)), 0);
    assert_same_stores(&r, s, r.store);
    expert_store_free(s);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_what_one_thread_loads),
        cmocka_unit_test(stops_at_damage_and_names_the_tensor),
        cmocka_unit_test(asks_another_source_one_unit_at_a_time),
        cmocka_unit_test(hints_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
