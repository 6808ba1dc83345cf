/* executor.h - computes batches of one layer together.
 *
 * The pairs of all batches are grouped by unit, so that a unit's weights are
 * read once for everybody, and run in pieces short enough that the caller
 * can look at its link between them.  How pairs are grouped and cut changes no
 * bit of any output.  Owned by one thread, the lead of its pool. */
#ifndef EXPERT_NODE_EXECUTOR_H
#define EXPERT_NODE_EXECUTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "expert_node/batch.h"
#include "expert_node/tally.h"

typedef struct executor executor;

typedef struct {
    const expert_store *store;
    uint32_t width, expert_dim;
    bool exact;
    uint32_t threads; /* 0: one per CPU */
    uint32_t pin;     /* the first one's CPU, from 1; 0: not pinned */
    tally *tally;     /* counts what is computed; NULL: nobody does */
} executor_config;

/* -ENOMEM and what pool_new() says. */
int executor_new(executor **out, const executor_config *c);
void executor_free(executor *e);

/* Fill the outputs of `n` batches of one layer.  `between` is called between
 * pieces; it must not change the batches, nor drop their units.  ERR_NOT_HERE
 * if a unit is not there: see batch_still_held(). */
int executor_run(executor *e, batch *const *batches, size_t n,
                 void (*between)(void *ctx), void *ctx);

/* The calling thread is the one that runs it from now on. */
void executor_lead(executor *e);

uint32_t executor_threads(const executor *e);
uint64_t executor_progress(const executor *e); /* any thread */

#endif
