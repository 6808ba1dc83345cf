/* placement.h - which nodes hold which expert: an immutable snapshot.
 *
 * Built from what the nodes said they hold; a change makes a new snapshot with
 * a higher epoch.  Reference counted, so that the loop thread can hand it to
 * the step thread: any thread may read one and drop its own reference. */
#ifndef COORDINATOR_PLACEMENT_H
#define COORDINATOR_PLACEMENT_H

#include <stdint.h>
#include "discovery/holdings.h"

#define PLACEMENT_MAX_NODES 1024

typedef struct placement placement;

/* `nodes[i]` is what node i holds, NULL for one that holds nothing now.  All
 * have the same shape.  The caller owns one reference. */
int placement_new(placement **out, uint64_t epoch, uint32_t n_layers,
                  uint32_t n_experts, const holdings *const *nodes,
                  uint32_t n_nodes);
placement *placement_ref(placement *p);
void placement_unref(placement *p); /* NULL is fine */

uint64_t placement_epoch(const placement *p);

/* The nodes that hold an expert, ascending; borrowed. */
const uint16_t *placement_nodes(const placement *p, uint32_t layer,
                                uint32_t expert, uint32_t *n);

/* Experts of the given layers [first_layer, n_layers) held by nobody, and by
 * one node only: for `status` and warnings. */
void placement_coverage(const placement *p, uint32_t first_layer,
                        uint32_t *unheld, uint32_t *single);

#endif
