/* tally.h - how much a node has computed, in all and for each unit.
 *
 * The worker's thread counts; any thread may read at the same time, and gets
 * counters that are each right, though not all of the same moment.  Counters
 * of units wrap at 2^32 and are as long-lived as the store that they belong to;
 * a unit that is dropped and loaded again goes on counting.  The totals are of
 * the whole process, over all its stores. */
#ifndef EXPERT_NODE_TALLY_H
#define EXPERT_NODE_TALLY_H

#include <stdint.h>
#include "engine/expert_store.h"

typedef struct tally tally;

int tally_new(tally **out);
void tally_free(tally *t); /* NULL is fine */

/* Counters for this store's units, from 0; nobody may be counting or reading.
 * -ENOMEM: no unit is counted until the next call, only the totals are. */
int tally_cut(tally *t, const expert_store *s, uint32_t n_layers);

/* A unit's weights were read once, for so many pairs. */
void tally_add_run(tally *t, uint32_t layer, uint32_t unit, uint32_t pairs,
                   uint64_t weight_bytes);
/* The pool was at work for runs that were, or will be, added. */
void tally_add_busy(tally *t, uint64_t us);

typedef struct {
    uint64_t pairs, runs, weight_bytes, busy_us;
} tally_totals;

void tally_read(const tally *t, tally_totals *out);
/* Modulo 2^32; 0 for a unit that the store does not have. */
uint32_t tally_pairs(const tally *t, uint32_t layer, uint32_t unit);

#endif
