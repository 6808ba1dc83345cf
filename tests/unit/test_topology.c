/* test_topology.c - memory nodes of a machine that is described, not there: two
 * sockets of two cores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/pool.h"
#include "engine/topology.h"
#include "engine/weight_pages.h"

#define MACHINE "pack:2 [numa] core:2 pu:1"
#define MAX_TASKS 5000

static void divides_threads_by_cpus(void **state) {
    static const uint32_t nodes[] = {0, 0, 1, 1};
    (void)state;
    assert_int_equal(topology_nodes(), 2);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(topology_node_of(i, 4), nodes[i]);
    for (uint32_t i = 0; i < 64; i++)
        assert_int_equal(topology_node_of(i, 64), i / 32);
    assert_int_equal(topology_node_of(0, 1), 0);
    assert_int_equal(topology_here(1), 1); /* as planned: nothing is bound */
    topology_bind_thread(1);
    topology_bind_thread(1000);
}

static void spreads_weights_in_stripes(void **state) {
    (void)state;
    size_t bytes = 8 * TOPOLOGY_STRIPE;
    uint8_t *at = weight_pages_new(bytes);
    assert_non_null(at);
    uint32_t first = topology_home(at);
    for (size_t i = 0; i + TOPOLOGY_STRIPE <= bytes; i += TOPOLOGY_STRIPE) {
        uint32_t home = topology_home(at + i);
        assert_int_equal(home, (first + i / TOPOLOGY_STRIPE) % 2);
    }
    weight_pages_free(at, bytes);
}

/* ---- tasks with homes ---- */

typedef struct {
    uint32_t n_threads, n_tasks;
    atomic_uint begun;
    bool meet; /* a task ends when all have begun: each has its own thread */
    atomic_uint runs[MAX_TASKS];
    uint32_t node_of[MAX_TASKS]; /* of the thread that ran it */
} tally;

static uint32_t odd_are_far(const void *ctx, uint32_t task) {
    (void)ctx;
    return task % 2;
}

static uint32_t all_are_far(const void *ctx, uint32_t task) {
    (void)ctx;
    (void)task;
    return 1;
}

static void note(void *ctx, uint32_t task, uint32_t worker) {
    tally *t = ctx;
    atomic_fetch_add(&t->runs[task], 1);
    t->node_of[task] = topology_node_of(worker, t->n_threads);
    atomic_fetch_add(&t->begun, 1);
    while (t->meet && atomic_load(&t->begun) < t->n_tasks)
        sched_yield();
}

static void run(tally *t, pool *p, pool_home home) {
    memset(t->runs, 0, sizeof(t->runs));
    t->begun = 0;
    pool_run_near(p, t->n_tasks, note, home, t);
    for (uint32_t i = 0; i < t->n_tasks; i++)
        assert_int_equal(t->runs[i], 1);
}

static void gives_tasks_to_threads_near_their_weights(void **state) {
    static tally t = {.n_threads = 4, .n_tasks = 4, .meet = true};
    pool *p;
    (void)state;
    assert_int_equal(pool_new(&p, t.n_threads), 0);
    for (int round = 0; round < 50; round++) {
        run(&t, p, odd_are_far);
        for (uint32_t i = 0; i < t.n_tasks; i++)
            assert_int_equal(t.node_of[i], i % 2);
    }
    pool_free(p);
}

/* Threads of the other node help: four tasks at once need all four threads. */
static void lets_no_thread_idle_for_a_home(void **state) {
    static tally t = {.n_threads = 4, .n_tasks = 4, .meet = true};
    pool *p;
    (void)state;
    assert_int_equal(pool_new(&p, t.n_threads), 0);
    run(&t, p, all_are_far);
    pool_free(p);
}

static void runs_each_task_once_with_homes_or_without(void **state) {
    static const uint32_t n_tasks[] = {0, 1, 2, 7, 100, 4096, MAX_TASKS};
    static tally t;
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 5; n_threads++) {
        pool *p;
        assert_int_equal(pool_new(&p, n_threads), 0);
        t.n_threads = n_threads;
        for (size_t i = 0; i < sizeof(n_tasks) / sizeof(n_tasks[0]); i++) {
            t.n_tasks = n_tasks[i];
            run(&t, p, odd_are_far);
            run(&t, p, NULL);
            run(&t, p, all_are_far);
        }
        pool_free(p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divides_threads_by_cpus),
        cmocka_unit_test(spreads_weights_in_stripes),
        cmocka_unit_test(gives_tasks_to_threads_near_their_weights),
        cmocka_unit_test(lets_no_thread_idle_for_a_home),
        cmocka_unit_test(runs_each_task_once_with_homes_or_without),
    };
    setenv("HWLOC_SYNTHETIC", MACHINE, 1); /* before anybody asks */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
