/* test_loader.c - the thread for what takes long: order, limits, its end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include "engine/err.h"
#include "expert_node/loader.h"

typedef struct {
    loader *l;
    sem_t done, go;
} rig;

static void on_done(void *ctx) {
    rig *r = ctx;
    sem_post(&r->done);
}

static void rig_open_threads(rig *r, uint32_t n_threads) {
    sem_init(&r->done, 0, 0);
    sem_init(&r->go, 0, 0);
    assert_int_equal(loader_start(&r->l, n_threads, on_done, r), 0);
}

static void rig_open(rig *r) {
    rig_open_threads(r, 1);
}

static void rig_close(rig *r) {
    loader_stop(r->l);
    sem_destroy(&r->done);
    sem_destroy(&r->go);
}

static int fail_odd_units(void *ctx, uint32_t layer, uint32_t unit, char *why,
                          size_t why_size) {
    (void)ctx;
    if (unit % 2 == 0) return 0;
    snprintf(why, why_size, "layer %u, unit %u", layer, unit);
    return ERR_CHECKSUM;
}

static int wait_to_go(void *ctx, uint32_t layer, uint32_t unit, char *why,
                      size_t why_size) {
    rig *r = ctx;
    (void)layer;
    (void)unit;
    (void)why;
    (void)why_size;
    sem_wait(&r->go);
    return 0;
}

static void brings_results_in_order_with_their_sentences(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    loader_result got;
    assert_false(loader_take(r.l, &got));
    for (uint32_t i = 0; i < 5; i++) {
        const loader_job j = {fail_odd_units, &r, 3, i, 7};
        assert_int_equal(loader_push(r.l, &j), 0);
    }
    for (uint32_t i = 0; i < 5; i++) {
        sem_wait(&r.done);
        assert_true(loader_take(r.l, &got));
        assert_int_equal(got.job.unit, i);
        assert_int_equal(got.job.kind, 7);
        assert_int_equal(got.rc, i % 2 ? ERR_CHECKSUM : 0);
        assert_string_equal(got.why, i == 1   ? "layer 3, unit 1"
                                     : i == 3 ? "layer 3, unit 3"
                                              : "");
    }
    assert_false(loader_take(r.l, &got));
    rig_close(&r);
}

/* The first job waits for the others, which only other threads can do; its
 * result comes first all the same. */
static void works_at_several_jobs_and_keeps_their_order(void **state) {
    (void)state;
    rig r;
    rig_open_threads(&r, 2);
    const loader_job first = {.run = wait_to_go, .ctx = &r, .kind = 1};
    assert_int_equal(loader_push(r.l, &first), 0);
    loader_result got;
    for (uint32_t i = 0; i < 3; i++) {
        const loader_job j = {fail_odd_units, &r, 3, i, 7};
        assert_int_equal(loader_push(r.l, &j), 0);
        sem_wait(&r.done);
        assert_false(loader_take(r.l, &got));
    }
    sem_post(&r.go);
    sem_wait(&r.done);
    assert_true(loader_take(r.l, &got));
    assert_int_equal(got.job.kind, 1);
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(loader_take(r.l, &got));
        assert_int_equal(got.job.unit, i);
        assert_int_equal(got.rc, i % 2 ? ERR_CHECKSUM : 0);
    }
    assert_false(loader_take(r.l, &got));
    rig_close(&r);
}

static void takes_so_many_jobs_and_no_more(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    const loader_job j = {.run = wait_to_go, .ctx = &r};
    for (int i = 0; i < LOADER_MAX_JOBS; i++)
        assert_int_equal(loader_push(r.l, &j), 0);
    assert_int_equal(loader_push(r.l, &j), -EAGAIN);
    for (int i = 0; i < LOADER_MAX_JOBS; i++) {
        sem_post(&r.go);
        sem_wait(&r.done);
    }
    /* Results that nobody took are under way, too. */
    assert_int_equal(loader_push(r.l, &j), -EAGAIN);
    loader_result got;
    assert_true(loader_take(r.l, &got));
    assert_int_equal(loader_push(r.l, &j), 0);
    sem_post(&r.go);
    rig_close(&r);
}

static void drops_what_waits_when_it_is_stopped(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    const loader_job j = {.run = wait_to_go, .ctx = &r};
    for (int i = 0; i < 3; i++)
        assert_int_equal(loader_push(r.l, &j), 0);
    sem_post(&r.go);
    sem_wait(&r.done);
    sem_post(&r.go);
    sem_post(&r.go);
    rig_close(&r); /* returns */
    loader_stop(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(brings_results_in_order_with_their_sentences),
        cmocka_unit_test(works_at_several_jobs_and_keeps_their_order),
        cmocka_unit_test(takes_so_many_jobs_and_no_more),
        cmocka_unit_test(drops_what_waits_when_it_is_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
