/* pool.h - the compute threads of one process.
 *
 * One thread, the lead, calls pool_run(); it works too, so a pool of one has no
 * other thread.  Workers spin briefly for the next run, then sleep on a futex.
 * Tasks are claimed by an atomic counter: which thread runs a task is chance,
 * so a task's result must not depend on it.  This is the one place that sets
 * thread counts.  On a machine with several memory nodes threads stay on the
 * node that topology_node_of() gives them, if there is one for each CPU. */
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

/* Bind the threads to one CPU each, of those that the process may use, the
 * lead's being number `first`; all but the lead, who binds itself by
 * pool_lead().  For processes that share a machine and take turns: left to
 * itself the system wakes two threads of one on the same CPU. */
void pool_pin(pool *p, uint32_t first);

/* The calling thread is the lead from now on. */
void pool_lead(pool *p);

/* Stop and join the workers.  NULL is fine.  No run may be going on. */
void pool_free(pool *p);

uint32_t pool_threads(const pool *p);

/* Call fn(ctx, task, worker) once for each task in [0, n_tasks), worker being
 * below pool_threads(); returns when all are done.  Writes made by tasks are
 * visible to the caller.  Only the lead may call it, and not from a task. */
void pool_run(pool *p, uint32_t n_tasks, pool_task fn, void *ctx);

/* The same; a task goes to a thread on the node that home(ctx, task) names
 * (topology.h), while there is one that has nothing nearer to do. */
typedef uint32_t (*pool_home)(const void *ctx, uint32_t task);
void pool_run_near(pool *p, uint32_t n_tasks, pool_task fn, pool_home home,
                   void *ctx);

/* What the lead does between its tasks, on its own thread: something quick that
 * runs nothing here.  NULL: nothing.  Lead only, not from a task. */
void pool_on_look(pool *p, void (*look)(void *ctx), void *ctx);

/* From within a long task, as the `worker` that runs it: it goes on. */
void pool_advance(pool *p, uint32_t worker);

/* Counts finished runs, claimed tasks and what tasks say: advances while the
 * pool makes progress.  Any thread. */
uint64_t pool_progress(const pool *p);

#endif
