/* pool.h - the compute threads of one process.
 *
 * One thread, the lead, calls pool_run(); it works too, so a pool of one has no
 * other thread.  Workers spin briefly for the next run, then sleep on a futex.
 * Tasks are claimed by an atomic counter: which thread runs a task is chance,
 * so a task's result must not depend on it.  This is the one place that sets
 * thread counts. */
#ifndef ENGINE_POOL_H
#define ENGINE_POOL_H

#include <stdint.h>

#define POOL_MAX_THREADS 256

typedef struct pool pool;
typedef void (*pool_task)(void *ctx, uint32_t task, uint32_t worker);

/* CPUs that this process may use; at least 1. */
uint32_t pool_cpus(void);

/* `n_threads` counts the lead; 0 means pool_cpus().  ERR_RANGE above
 * POOL_MAX_THREADS, -errno. */
int pool_new(pool **out, uint32_t n_threads);

/* Stop and join the workers.  NULL is fine.  No run may be going on. */
void pool_free(pool *p);

uint32_t pool_threads(const pool *p);

/* Call fn(ctx, task, worker) once for each task in [0, n_tasks), worker being
 * below pool_threads(); returns when all are done.  Writes made by tasks are
 * visible to the caller.  Only the lead may call it, and not from a task. */
void pool_run(pool *p, uint32_t n_tasks, pool_task fn, void *ctx);

/* From within a long task, as the `worker` that runs it: it goes on. */
void pool_advance(pool *p, uint32_t worker);

/* Counts finished runs, claimed tasks and what tasks say: advances while the
 * pool makes progress.  Any thread. */
uint64_t pool_progress(const pool *p);

#endif
