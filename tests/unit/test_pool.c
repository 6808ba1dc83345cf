/* test_pool.c - every task once, whoever runs it, asleep or awake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/pool.h"

#define MAX_TASKS 1000

typedef struct {
    _Atomic uint32_t runs[MAX_TASKS];
    _Atomic uint32_t workers_out_of_range;
    uint32_t n_threads;
    uint32_t plain[MAX_TASKS]; /* written without atomics */
} tally;

static void count_task(void *ctx, uint32_t task, uint32_t worker) {
    tally *t = ctx;
    atomic_fetch_add(&t->runs[task], 1);
    if (worker >= t->n_threads) atomic_fetch_add(&t->workers_out_of_range, 1);
    t->plain[task] += task + 1;
}

static pool *new_pool(uint32_t n_threads) {
    pool *p;
    assert_int_equal(pool_new(&p, n_threads), 0);
    return p;
}

static void runs_each_task_once(void **state) {
    static const uint32_t n_tasks[] = {0, 1, 2, 3, 17, MAX_TASKS};
    (void)state;

    for (uint32_t n_threads = 1; n_threads <= 5; n_threads++) {
        pool *p = new_pool(n_threads);
        assert_int_equal(pool_threads(p), n_threads);
        for (size_t i = 0; i < sizeof(n_tasks) / sizeof(n_tasks[0]); i++) {
            tally t = {.n_threads = n_threads};
            pool_run(p, n_tasks[i], count_task, &t);
            for (uint32_t k = 0; k < MAX_TASKS; k++) {
                assert_int_equal(t.runs[k], k < n_tasks[i]);
                assert_int_equal(t.plain[k], k < n_tasks[i] ? k + 1 : 0);
            }
            assert_int_equal(t.workers_out_of_range, 0);
        }
        pool_free(p);
    }
}

/* More threads than this machine may have CPUs: every run sleeps and wakes. */
static void loses_no_wake_up_in_many_short_runs(void **state) {
    (void)state;
    for (uint32_t n_threads = 2; n_threads <= 8; n_threads += 3) {
        pool *p = new_pool(n_threads);
        tally t = {.n_threads = n_threads};
        uint32_t want[8] = {0};
        for (uint32_t run = 0; run < 3000; run++) {
            uint32_t n_tasks = run % 8 + 1;
            pool_run(p, n_tasks, count_task, &t);
            for (uint32_t k = 0; k < n_tasks; k++) {
                want[k]++;
            }
        }
        for (uint32_t k = 0; k < 8; k++) {
            assert_int_equal(t.runs[k], want[k]);
            assert_int_equal(t.plain[k], want[k] * (k + 1));
        }
        pool_free(p);
    }
}

/* A task that ends only once all tasks have begun: it needs every thread. */
typedef struct {
    _Atomic uint32_t begun;
    uint32_t n;
    _Atomic uint32_t seen; /* bit set of workers */
    _Atomic uint32_t unblocked;
} meeting;

static void meet(void *ctx, uint32_t task, uint32_t worker) {
    meeting *m = ctx;
    (void)task;

    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (worker > 0 && !sigismember(&mask, SIGTERM)) {
        atomic_fetch_add(&m->unblocked, 1);
    }
    atomic_fetch_or(&m->seen, 1u << worker);
    atomic_fetch_add(&m->begun, 1);
    while (atomic_load(&m->begun) < m->n) {
        usleep(50);
    }
}

static void wakes_as_many_sleepers_as_there_are_tasks(void **state) {
    pool *p = new_pool(4);
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        meeting m = {.n = 4};
        usleep(1000); /* gives workers time to fall asleep; none is needed */
        pool_run(p, 4, meet, &m);
        assert_int_equal(m.begun, 4);
        assert_int_equal(m.seen, 0xf);
    }
    pool_free(p);
}

static void workers_block_all_signals(void **state) {
    pool *p = new_pool(3);
    meeting m = {.n = 3};
    (void)state;

    pool_run(p, 3, meet, &m);
    assert_int_equal(m.unblocked, 0);
    pool_free(p);

    sigset_t mask; /* and the creator's own mask is as it was */
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_false(sigismember(&mask, SIGTERM));
}

static void count_look(void *ctx) {
    ++*(unsigned *)ctx; /* no lock: the lead alone looks */
}

static void the_lead_looks_around_between_its_tasks(void **state) {
    (void)state;
    unsigned looks = 0;
    tally alone = {.n_threads = 1};
    pool *p = new_pool(1);
    pool_on_look(p, count_look, &looks);
    pool_run(p, 8, count_task, &alone);
    assert_int_equal(looks, 8);
    pool_on_look(p, NULL, NULL);
    pool_run(p, 8, count_task, &alone);
    assert_int_equal(looks, 8);
    pool_free(p);

    tally shared = {.n_threads = 3};
    p = new_pool(3);
    pool_on_look(p, count_look, &looks);
    for (int i = 0; i < 100; i++)
        pool_run(p, 8, count_task, &shared);
    assert_in_range(looks, 8, 8 + 100 * 8);
    pool_free(p);
}

static void progress_counts_tasks_and_runs(void **state) {
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        pool *p = new_pool(n_threads);
        tally t = {.n_threads = n_threads};
        assert_int_equal(pool_progress(p), 0);
        pool_run(p, 10, count_task, &t);
        assert_int_equal(pool_progress(p), 11);
        pool_run(p, 1, count_task, &t);
        assert_int_equal(pool_progress(p), 13);
        pool_free(p);
    }
}

static void takes_one_thread_a_cpu_by_default(void **state) {
    (void)state;
    pool *p = new_pool(0);
    assert_true(pool_threads(p) >= 1);
    assert_true(pool_threads(p) <= POOL_MAX_THREADS);
    pool_free(p);
}

static void refuses_too_many_threads(void **state) {
    pool *p = (pool *)state;
    assert_int_equal(pool_new(&p, POOL_MAX_THREADS + 1), ERR_RANGE);
    assert_null(p);
}

static void reports_a_thread_that_cannot_start(void **state) {
    pool *p = (pool *)state;
    pthread_attr_t usual, huge;
    assert_int_equal(pthread_getattr_default_np(&usual), 0);
    assert_int_equal(pthread_attr_init(&huge), 0);
    assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 50), 0);

    assert_int_equal(pthread_setattr_default_np(&huge), 0);
    int rc = pool_new(&p, 2);
    assert_int_equal(pthread_setattr_default_np(&usual), 0);
    assert_true(rc < 0);
    assert_null(p);
    pthread_attr_destroy(&huge);
    pthread_attr_destroy(&usual);
}

static void frees_null_and_pools_that_never_ran(void **state) {
    (void)state;
    pool_free(NULL);
    for (int i = 0; i < 20; i++) {
        pool_free(new_pool(4));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_each_task_once),
        cmocka_unit_test(loses_no_wake_up_in_many_short_runs),
        cmocka_unit_test(wakes_as_many_sleepers_as_there_are_tasks),
        cmocka_unit_test(workers_block_all_signals),
        cmocka_unit_test(the_lead_looks_around_between_its_tasks),
        cmocka_unit_test(progress_counts_tasks_and_runs),
        cmocka_unit_test(takes_one_thread_a_cpu_by_default),
        cmocka_unit_test(refuses_too_many_threads),
        cmocka_unit_test(reports_a_thread_that_cannot_start),
        cmocka_unit_test(frees_null_and_pools_that_never_ran),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
