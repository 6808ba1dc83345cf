/* first_failure.h - of many tasks of a run, the first that failed, and why.
 *
 * Tasks ask whether another one has failed, and leave their work undone then.
 * Any thread. */
#ifndef ENGINE_FIRST_FAILURE_H
#define ENGINE_FIRST_FAILURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define FIRST_FAILURE_WHY 512

typedef struct {
    pthread_mutex_t lock; /* guards the sentence */
    atomic_int rc;        /* 0: none has failed */
    char why[FIRST_FAILURE_WHY];
} first_failure;

void first_failure_init(first_failure *f);

/* `rc` is a negative code; only the first one counts. */
void first_failure_set(first_failure *f, int rc, const char *why);

static inline bool first_failure_any(first_failure *f) {
    return atomic_load_explicit(&f->rc, memory_order_relaxed) != 0;
}

/* When all tasks are done: its code, 0 if there is none, and its sentence. */
int first_failure_fini(first_failure *f, char *why, size_t why_size);

#endif
