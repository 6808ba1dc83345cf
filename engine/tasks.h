/* tasks.h - how finely a product over packed weights is cut for the pool.
 *
 * Private to matrix.c and ffn.c.  A cost is in bytes read: few activation rows
 * cost what reading the weights costs, more rows cost arithmetic too.  Cutting
 * changes no bit of a result. */
#ifndef ENGINE_TASKS_H
#define ENGINE_TASKS_H

#include <stddef.h>
#include "engine/pool.h"
#include "engine/util.h"

/* Activation rows whose arithmetic hides behind one read of the weights. */
#define TASK_FREE_ROWS 8
/* Handing a task to another thread costs about what computing this much does.
 */
#define TASK_MIN_COST ((size_t)64 << 10)
/* Enough that threads finish at about the same time, whatever each one's speed.
 */
#define TASKS_PER_THREAD 8

static inline size_t task_cost(size_t bytes, size_t n_x) {
    return bytes * ((n_x + TASK_FREE_ROWS - 1) / TASK_FREE_ROWS);
}

/* The cost that each task of a run should have. */
static inline size_t task_target(const pool *p, size_t total_cost) {
    size_t n = (size_t)pool_threads(p) * TASKS_PER_THREAD;
    return size_max(total_cost / n, TASK_MIN_COST);
}

/* Units (e.g. groups of rows) of a task, when all `n_units` cost `cost`: a
 * multiple of `step`, which keeps the kernels' tiles whole, unless the threads
 * are so many that smaller tasks are needed to occupy them. */
static inline size_t task_units(size_t target, size_t cost, size_t n_units,
                                size_t step) {
    size_t unit_cost = size_max(cost / n_units, 1);
    size_t units = size_max(target / unit_cost, 1);
    return units < step ? units : round_up(units, step);
}

#endif
