/* loader.h - threads for what takes long: reading a model, loading experts.
 *
 * Whole jobs go in, whole results come out, in order; both queues are bounded
 * by the jobs that may be under way.  Whoever owns the loader pushes and takes
 * on one thread; jobs run on the loader's, with several threads at once. */
#ifndef EXPERT_NODE_LOADER_H
#define EXPERT_NODE_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOADER_MAX_JOBS 16
#define LOADER_MAX_THREADS 4 /* enough to keep a fast disk busy */
#define LOADER_WHY 512

typedef struct {
    /* 0, or a negative code with a sentence. */
    int (*run)(void *ctx, uint32_t layer, uint32_t unit, char *why,
               size_t why_size);
    void *ctx;
    uint32_t layer, unit;
    int kind; /* the owner's */
} loader_job;

typedef struct {
    loader_job job;
    int rc;
    char why[LOADER_WHY];
} loader_result;

typedef struct loader loader;

/* `n_threads` is 1 to LOADER_MAX_THREADS.  `on_done` is called on the loader's
 * threads after each job; its result is there once those before it are. */
int loader_start(loader **out, uint32_t n_threads, void (*on_done)(void *ctx),
                 void *ctx);

/* -EAGAIN: LOADER_MAX_JOBS are under way, those whose results were not taken
 * included. */
int loader_push(loader *l, const loader_job *j);

/* The next result; false: none yet. */
bool loader_take(loader *l, loader_result *out);

/* Ends the threads after the jobs in hand, which the caller cuts short if it
 * can; jobs that wait are dropped.  NULL is fine. */
void loader_stop(loader *l);

#endif
