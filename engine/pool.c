/* pool.c - claims by one atomic word, sleeps on futexes.
 *
 * A run is published in `ticket`: the run's number in the upper half, the
 * tasks that nobody has claimed in the lower.  A claim is a compare-and-swap
 * that lowers the count, so it can only succeed in the run it was read from: a
 * worker that wakes up late finds no task, or helps with a newer run, but
 * never mixes two.  Whoever holds a task keeps its run open, so fn and ctx need
 * no protection of their own.
 *
 * Sleeping follows one pattern twice (workers for a run, the lead for the last
 * task): the sleeper announces itself, then looks again; the other side
 * changes the word, then looks for sleepers.  All four are sequentially
 * consistent, so one of the two always sees the other, and nothing is locked
 * while nobody sleeps.
 *
 * Where tasks have homes, a claim gives the right to one task, and which one is
 * looked up then: the first that is free at home, else anywhere.  There are as
 * many rights as tasks, so there always is one.  Threads are pinned to CPUs
 * only where somebody said who begins where: several processes may share a
 * machine, and each would pin to the same. */
#include "engine/pool.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/topology.h"
#include "engine/util.h"

#define LINE 64
/* Longer than the coordinator needs between two products of a layer, shorter
 * than would show as load on an idle machine. */
#define SPIN_US 30
#define PAUSES_PER_LOOK_AT_CLOCK 16
/* Runs of more tasks, which are long ones, do without homes. */
#define MAX_HOMES 4096

typedef struct {
    _Alignas(LINE) pool *pool;
    uint32_t index;
    uint32_t node; /* planned */
    pthread_t thread;
    _Atomic uint64_t progress; /* written by its own thread only */
} worker;

struct pool {
    _Alignas(LINE) _Atomic uint64_t ticket;   /* run << 32 | unclaimed tasks */
    _Alignas(LINE) _Atomic uint32_t finished; /* tasks of the current run */
    _Atomic uint32_t lead_sleeps;
    _Alignas(LINE) _Atomic uint32_t round; /* workers sleep on it */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t stop;

    /* The run: written by the lead before it stores the ticket, read by those
     * who claimed a task. */
    _Alignas(LINE) pool_task fn;
    void *ctx;
    uint32_t n_tasks;
    pool_home home;     /* NULL: tasks are taken in their order */
    atomic_bool *taken; /* [MAX_HOMES], of a run with homes; NULL: one node */

    void (*look)(void *ctx); /* the lead's, between tasks; or NULL */
    void *look_ctx;

    uint32_t n_threads;
    uint32_t n_started; /* workers to join; the lead is not one */
    uint64_t spin_us;
    bool pinned;
    uint32_t first_cpu; /* of those allowed, where pinned */
    worker workers[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
    /* EAGAIN and EINTR are as good as a wake-up: callers look again. */
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Wait for a short while until the word is `wanted` (or, if `differs`, is
 * anything else).  False when the time was up. */
static bool spin(const pool *p, _Atomic uint32_t *word, uint32_t wanted,
                 bool differs) {
    if (p->spin_us == 0) return false;

    uint64_t until = now_us() + p->spin_us;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK_AT_CLOCK; i++) {
            uint32_t now = atomic_load_explicit(word, memory_order_acquire);
            if ((now == wanted) != differs) return true;
            pause_cpu();
        }
    } while (now_us() < until);
    return false;
}

static void count_progress(worker *w) {
    uint64_t n = atomic_load_explicit(&w->progress, memory_order_relaxed);
    atomic_store_explicit(&w->progress, n + 1, memory_order_relaxed);
}

/* Claim one task of the run in progress; false when none is left. */
static bool claim(pool *p, uint32_t *task) {
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    do {
        if ((uint32_t)ticket == 0) return false;
    } while (!atomic_compare_exchange_weak_explicit(
        &p->ticket, &ticket, ticket - 1, memory_order_acq_rel,
        memory_order_acquire));
    *task = p->n_tasks - (uint32_t)ticket;
    return true;
}

/* Of the tasks that are free, one at home or, if `anywhere`, any. */
static bool pick_from(pool *p, uint32_t node, bool anywhere, uint32_t *task) {
    for (uint32_t i = 0; i < p->n_tasks; i++) {
        if (atomic_load_explicit(&p->taken[i], memory_order_relaxed)) continue;
        if (!anywhere && p->home(p->ctx, i) != node) continue;
        if (atomic_exchange_explicit(&p->taken[i], true, memory_order_relaxed))
            continue;
        *task = i;
        return true;
    }
    return false;
}

/* Whoever has claimed one finds one: others that look may be faster, but are no
 * more than there are tasks. */
static uint32_t pick(pool *p, const worker *w) {
    uint32_t task, node = topology_here(w->node);
    bool found = pick_from(p, node, false, &task);
    while (!found)
        found = pick_from(p, node, true, &task);
    return task;
}

static void look_around(const pool *p, const worker *w) {
    if (w->index == 0 && p->look != NULL) p->look(p->look_ctx);
}

static void work(pool *p, worker *w) {
    uint32_t task;
    while (claim(p, &task)) {
        uint32_t n_tasks = p->n_tasks;
        if (p->home != NULL) task = pick(p, w);
        count_progress(w);
        p->fn(p->ctx, task, w->index);
        look_around(p, w);
        /* From here on the run may end and the fields may change. */
        if (atomic_fetch_add(&p->finished, 1) + 1 != n_tasks) continue;
        if (atomic_load(&p->lead_sleeps)) futex_wake(&p->finished, 1);
    }
}

static uint32_t next_round(pool *p, uint32_t seen) {
    if (!spin(p, &p->round, seen, true)) {
        atomic_fetch_add(&p->sleepers, 1);
        while (atomic_load(&p->round) == seen) {
            futex_wait(&p->round, seen);
        }
        atomic_fetch_sub(&p->sleepers, 1);
    }
    return atomic_load(&p->round);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    pool *p = w->pool;

    char name[16];
    snprintf(name, sizeof(name), "compute-%u", w->index);
    pthread_setname_np(pthread_self(), name);
    if (p->n_threads == pool_cpus()) topology_bind_thread(w->node);

    for (uint32_t seen = 0; !atomic_load(&p->stop);) {
        seen = next_round(p, seen);
        work(p, w);
    }
    return NULL;
}

uint32_t pool_cpus(void) {
    cpu_set_t set;
    /* Fails on machines with more CPUs than the set holds. */
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return (uint32_t)CPU_COUNT(&set);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online < 1 ? 1 : (uint32_t)online;
}

/* Workers take no signals: handling them is the loop thread's. */
static int start_workers(pool *p) {
    sigset_t all, before;
    sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (rc != 0) return -rc;

    for (uint32_t i = 1; i < p->n_threads && rc == 0; i++) {
        rc = pthread_create(&p->workers[i].thread, NULL, worker_main,
                            &p->workers[i]);
        if (rc == 0) p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -rc;
}

static int make_homes(pool *p) {
    if (topology_nodes() == 1) return 0;
    p->taken = calloc(MAX_HOMES, sizeof(*p->taken));
    return p->taken != NULL ? 0 : -ENOMEM;
}

int pool_new(pool **out, uint32_t n_threads) {
    *out = NULL;
    if (n_threads > POOL_MAX_THREADS) return ERR_RANGE;

    uint32_t cpus = pool_cpus();
    if (n_threads == 0) n_threads = (uint32_t)size_min(cpus, POOL_MAX_THREADS);

    pool *p = aligned_alloc_zero(sizeof(*p) + n_threads * sizeof(worker));
    if (p == NULL) return -ENOMEM;
    p->n_threads = n_threads;
    /* With more threads than CPUs, who spins keeps another from working. */
    p->spin_us = n_threads > cpus ? 0 : SPIN_US;
    for (uint32_t i = 0; i < n_threads; i++) {
        p->workers[i].pool = p;
        p->workers[i].index = i;
        p->workers[i].node = topology_node_of(i, n_threads);
    }

    int rc = make_homes(p);
    if (rc == 0) rc = start_workers(p);
    if (rc < 0) {
        pool_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

/* Where that is refused, the system goes on choosing. */
static void pin_thread(const pool *p, pthread_t thread, uint32_t index) {
    cpu_set_t allowed, one;
    if (sched_getaffinity(getpid(), sizeof(allowed), &allowed) < 0) return;
    uint32_t left = (p->first_cpu + index) % (uint32_t)CPU_COUNT(&allowed);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &allowed) || left-- > 0)
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)pthread_setaffinity_np(thread, sizeof(one), &one);
}

void pool_pin(pool *p, uint32_t first) {
    p->pinned = true;
    p->first_cpu = first % pool_cpus();
    for (uint32_t i = 1; i <= p->n_started; i++)
        pin_thread(p, p->workers[i].thread, i);
}

void pool_lead(pool *p) {
    if (p->pinned) pin_thread(p, pthread_self(), 0);
}

void pool_free(pool *p) {
    if (p == NULL) return;

    atomic_store(&p->stop, 1);
    atomic_fetch_add(&p->round, 1);
    futex_wake(&p->round, POOL_MAX_THREADS);
    for (uint32_t i = 1; i <= p->n_started; i++) {
        pthread_join(p->workers[i].thread, NULL);
    }
    free(p->taken);
    aligned_release(p);
}

uint32_t pool_threads(const pool *p) {
    return p->n_threads;
}

/* Nobody is looking: whoever claimed a task of the last run has done it. */
static void publish_homes(pool *p, uint32_t n_tasks, pool_home home) {
    p->home = p->taken != NULL && n_tasks <= MAX_HOMES ? home : NULL;
    for (uint32_t i = 0; p->home != NULL && i < n_tasks; i++)
        atomic_store_explicit(&p->taken[i], false, memory_order_relaxed);
}

static void publish(pool *p, uint32_t n_tasks, pool_task fn, pool_home home,
                    void *ctx) {
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    assert((uint32_t)ticket == 0); /* not from a task, and only the lead */

    p->fn = fn;
    p->ctx = ctx;
    p->n_tasks = n_tasks;
    publish_homes(p, n_tasks, home);
    atomic_store_explicit(&p->finished, 0, memory_order_relaxed);
    uint64_t run = (ticket >> 32) + 1;
    atomic_store_explicit(&p->ticket, run << 32 | n_tasks,
                          memory_order_release);

    atomic_fetch_add(&p->round, 1);
    uint32_t sleepers = atomic_load(&p->sleepers);
    if (sleepers == 0) return;
    futex_wake(&p->round, (uint32_t)size_min(sleepers, n_tasks - 1));
}

static void await_finish(pool *p, uint32_t n_tasks) {
    if (spin(p, &p->finished, n_tasks, false)) return;

    atomic_store(&p->lead_sleeps, 1);
    for (;;) {
        uint32_t finished = atomic_load(&p->finished);
        if (finished == n_tasks) break;
        futex_wait(&p->finished, finished);
    }
    atomic_store(&p->lead_sleeps, 0);
}

void pool_run(pool *p, uint32_t n_tasks, pool_task fn, void *ctx) {
    pool_run_near(p, n_tasks, fn, NULL, ctx);
}

void pool_run_near(pool *p, uint32_t n_tasks, pool_task fn, pool_home home,
                   void *ctx) {
    worker *lead = &p->workers[0];

    if (p->n_threads == 1 || n_tasks <= 1) {
        for (uint32_t task = 0; task < n_tasks; task++) {
            count_progress(lead);
            fn(ctx, task, lead->index);
            look_around(p, lead);
        }
    } else {
        publish(p, n_tasks, fn, home, ctx);
        work(p, lead);
        await_finish(p, n_tasks);
    }
    count_progress(lead);
}

void pool_on_look(pool *p, void (*look)(void *ctx), void *ctx) {
    p->look = look;
    p->look_ctx = ctx;
}

void pool_advance(pool *p, uint32_t index) {
    assert(index < p->n_threads);
    count_progress(&p->workers[index]);
}

uint64_t pool_progress(const pool *p) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->n_threads; i++) {
        sum +=
            atomic_load_explicit(&p->workers[i].progress, memory_order_relaxed);
    }
    return sum;
}
