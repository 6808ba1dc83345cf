/* bench_pool.c - what a run of the compute pool costs, and what is left of its
 * speed when every CPU has a busy neighbour.  The work is arithmetic alone, cut
 * as a small model's decoding is: runs of a fraction of a millisecond, one
 * after the other.  `bench_pool [THREADS]`; prints a table, takes about 15
 * seconds. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/pool.h"
#include "engine/util.h"

#define EMPTY_RUNS 200000
#define MEASURE_US 1500000u
#define ROUNDS 3
#define TASKS_PER_THREAD 8
#define TASK_STEPS 12000 /* about 20 us */
#define GAP_STEPS 6000   /* what the lead does alone between two runs */

static void fail(const char *what) {
    fprintf(stderr, "bench_pool: %s\n", what);
    exit(EXIT_FAILURE);
}

static void do_nothing(void *ctx, uint32_t task, uint32_t worker) {
    (void)ctx;
    (void)task;
    (void)worker;
}

static uint32_t compute(uint32_t seed, int steps) {
    for (int i = 0; i < steps; i++)
        seed = seed * 1664525u + 1013904223u;
    return seed;
}

static void compute_task(void *ctx, uint32_t task, uint32_t worker) {
    uint32_t *out = ctx;
    (void)worker;
    out[task] = compute(out[task], TASK_STEPS);
}

static double empty_run_ns(pool *p) {
    uint32_t n_tasks = pool_threads(p) * TASKS_PER_THREAD;
    uint64_t began = now_us();
    for (int i = 0; i < EMPTY_RUNS; i++)
        pool_run(p, n_tasks, do_nothing, NULL);
    return (double)(now_us() - began) * 1e3 / EMPTY_RUNS;
}

/* Runs each second. */
static double speed(pool *p) {
    static uint32_t values[POOL_MAX_THREADS * TASKS_PER_THREAD];
    uint32_t n_tasks = pool_threads(p) * TASKS_PER_THREAD;
    uint64_t began = now_us(), runs = 0;
    while (now_us() - began < MEASURE_US) {
        pool_run(p, n_tasks, compute_task, values);
        values[0] = compute(values[0], GAP_STEPS);
        runs++;
    }
    return (double)runs * 1e6 / (double)(now_us() - began);
}

/* ---- neighbours ---- */

static pid_t start_neighbour(int cpu) {
    pid_t pid = fork();
    if (pid < 0) fail("cannot fork");
    if (pid > 0) return pid;

    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
    for (volatile uint32_t busy = 0;;)
        busy = busy + 1;
}

static int start_neighbours(pid_t pids[CPU_SETSIZE]) {
    cpu_set_t set;
    int n = 0;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) fail("no affinity");
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set)) pids[n++] = start_neighbour(cpu);
    }
    return n;
}

static void stop_neighbours(const pid_t *pids, int n) {
    for (int i = 0; i < n; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
}

static void measure_neighbours(pool *p) {
    pid_t pids[CPU_SETSIZE];
    for (int round = 0; round < ROUNDS; round++) {
        double quiet = speed(p);
        int n = start_neighbours(pids);
        double busy = speed(p);
        stop_neighbours(pids, n);
        printf("%8.0f runs/s alone, %8.0f with %d busy neighbours: %.2f\n",
               quiet, busy, n, busy / quiet);
    }
}

int main(int argc, char **argv) {
    pool *p;
    uint32_t n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    if (pool_new(&p, n_threads) < 0) fail("no pool");

    printf("%u threads; an empty run of %u tasks: %.0f ns\n", pool_threads(p),
           pool_threads(p) * TASKS_PER_THREAD, empty_run_ns(p));
    fflush(stdout); /* before it is copied into children */
    measure_neighbours(p);
    pool_free(p);
    return EXIT_SUCCESS;
}
