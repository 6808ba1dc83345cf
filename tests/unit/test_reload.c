/* test_reload.c - units that were lost from memory come back from the file, or
 * stay refused for a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/reload.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define WAIT_MS 60000

typedef struct {
    uv_loop_t loop;
    shard *held;
    reload *reload;
    const char *path;
    uint32_t back; /* units that came back */
} rig;

static void on_back(void *ctx) {
    rig *r = ctx;
    r->back++;
}

/* In one go, since an attempt may be under way. */
static void write_model(const char *path, uint64_t seed) {
    char why[256] = "", made[512];
    model_shape shape = model_shape_small();
    shape.seed = seed;
    snprintf(made, sizeof(made), "%s.new", path);
    if (model_gen(&shape, made, why, sizeof(why)) != 0) fail_msg("%s", why);
    /* Sums of a file that is a moment old are not believed later on, nor are
     * those of one of another time. */
    const struct timespec then = {.tv_sec = 1000000 + (time_t)seed};
    const struct timespec times[] = {then, then};
    assert_int_equal(utimensat(AT_FDCWD, made, times, 0), 0);
    assert_int_equal(rename(made, path), 0);
}

static void rig_open_retry(rig *r, uint32_t retry_ms) {
    *r = (rig){.path = fixture_path("reload.gguf")};
    char why[256] = "";
    const shard_plan all = {0};
    log_setup("test", (log_level)(LOG_ERROR + 1));
    write_model(r->path, 1);
    if (shard_open(&r->held, r->path, why, sizeof(why)) < 0 ||
        shard_cut(r->held, 1, why, sizeof(why)) < 0 ||
        shard_fill(r->held, &all, why, sizeof(why)) < 0) {
        fail_msg("%s", why);
    }
    assert_int_equal(uv_loop_init(&r->loop), 0);
    const reload_config c = {.loop = &r->loop,
                             .held = r->held,
                             .path = r->path,
                             .retry_ms = retry_ms,
                             .on_back = on_back,
                             .ctx = r};
    assert_int_equal(reload_new(&r->reload, &c), 0);
}

static void rig_open(rig *r) {
    rig_open_retry(r, 20);
}

static void rig_close(rig *r) {
    reload_close(r->reload);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    reload_free(r->reload);
    shard_close(r->held);
}

/* As the re-reading does it. */
static void lose(rig *r, uint32_t layer, uint32_t unit) {
    expert_store_drop(r->held->store, layer, unit);
    holdings_remove(&r->held->held, layer, unit);
    assert_int_equal(reload_add(r->reload, layer, unit), 0);
}

static void run_until(rig *r, uint32_t back) {
    uint64_t until = now_ms() + WAIT_MS;
    while (r->back < back) {
        assert_true(now_ms() < until);
        uv_run(&r->loop, UV_RUN_ONCE);
    }
}

/* A bit of the first layer's first expert changes on the disk, which leaves
 * no trace in the file's time. */
static void rot(const char *path) {
    char why[256] = "";
    gguf *g;
    expert_tensors t;
    struct stat st;
    model_config m;
    uint8_t byte;
    assert_int_equal(gguf_open(&g, path, why, sizeof(why)), 0);
    assert_int_equal(model_read(&m, g, why, sizeof(why)), 0);
    assert_int_equal(model_experts(&m, g, 0, &t, why, sizeof(why)), 0);
    uint64_t at = t.down->offset + 1;
    gguf_close(g);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    const struct timespec times[] = {st.st_atim, st.st_mtim};
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}

/* ---- tests ---- */

static void loads_what_was_lost_from_the_file(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    expert_store *s = r.held->store;
    uint64_t sum = expert_store_sum(s, 1, 2), bytes = expert_store_bytes(s);
    uint32_t count = expert_store_count(s);
    lose(&r, 1, 2);
    lose(&r, 0, 3);
    assert_int_equal(reload_waiting(r.reload), 2);
    run_until(&r, 2);
    assert_int_equal(reload_waiting(r.reload), 0);
    assert_true(holdings_has(&r.held->held, 1, 2));
    assert_true(holdings_has(&r.held->held, 0, 3));
    assert_non_null(expert_store_get(s, 1, 2));
    assert_true(expert_store_sum(s, 1, 2) == sum);
    assert_true(expert_store_bytes(s) == bytes);
    assert_int_equal(expert_store_count(s), count);
    rig_close(&r);
}

static void does_not_load_from_another_model(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    write_model(r.path, 2);
    lose(&r, 0, 1);
    for (int i = 0; i < 6; i++) /* the answer, and attempts after it */
        uv_run(&r.loop, UV_RUN_ONCE);
    assert_int_equal(r.back, 0);
    assert_false(holdings_has(&r.held->held, 0, 1));
    assert_int_equal(reload_waiting(r.reload), 1);
    write_model(r.path, 1);
    run_until(&r, 1);
    rig_close(&r);
}

/* The expert's own bytes are damaged in the file: it alone stays refused. */
static void one_that_fails_does_not_hold_up_the_others(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    rot(r.path);
    lose(&r, 0, 0);
    lose(&r, 0, 1);
    run_until(&r, 1);
    assert_true(holdings_has(&r.held->held, 0, 1));
    assert_false(holdings_has(&r.held->held, 0, 0));
    assert_int_equal(reload_waiting(r.reload), 1);
    rig_close(&r);
}

/* Nor those that are lost while it waits for its next attempt. */
static void what_is_lost_later_does_not_wait_for_it(void **state) {
    (void)state;
    rig r;
    rig_open_retry(&r, 2 * WAIT_MS);
    rot(r.path);
    lose(&r, 0, 0);
    uv_run(&r.loop, UV_RUN_ONCE); /* the answer */
    assert_int_equal(r.back, 0);
    for (uint32_t unit = 1; unit <= 2; unit++) {
        lose(&r, 0, unit);
        run_until(&r, unit);
    }
    assert_false(holdings_has(&r.held->held, 0, 0));
    assert_int_equal(reload_waiting(r.reload), 1);
    rig_close(&r);
}

/* Between being loaded and being told so. */
static void what_is_lost_again_at_once_is_not_held(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    lose(&r, 0, 1);
    const uint64_t until = now_ms() + WAIT_MS;
    while (expert_store_get(r.held->store, 0, 1) == NULL)
        assert_true(now_ms() < until);
    lose(&r, 0, 1);
    run_until(&r, 1);
    assert_non_null(expert_store_get(r.held->store, 0, 1));
    assert_true(holdings_has(&r.held->held, 0, 1));
    assert_int_equal(reload_waiting(r.reload), 0);
    rig_close(&r);
}

static void ends_while_something_is_lost(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    lose(&r, 0, 0);
    lose(&r, 1, 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_what_was_lost_from_the_file),
        cmocka_unit_test(does_not_load_from_another_model),
        cmocka_unit_test(one_that_fails_does_not_hold_up_the_others),
        cmocka_unit_test(what_is_lost_later_does_not_wait_for_it),
        cmocka_unit_test(what_is_lost_again_at_once_is_not_held),
        cmocka_unit_test(ends_while_something_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
