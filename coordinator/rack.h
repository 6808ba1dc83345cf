/* rack.h - the nodes as the step thread sees them: an immutable snapshot of who
 * is up, where batches go and who holds what.
 *
 * The loop thread makes a new one at every change and posts it; reference
 * counted, any thread may drop its own reference. */
#ifndef COORDINATOR_RACK_H
#define COORDINATOR_RACK_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/placement.h"
#include "proto/endpoint.h"

typedef struct {
    bool up;
    uint64_t serial; /* of who has this place, which others may take later */
    uint64_t boot_id;
    node_trust trust;
    char endpoint[ENDPOINT_MAX]; /* of its data socket */
} rack_node;

typedef struct rack rack;

/* Takes ownership of one reference of `where`. */
int rack_new(rack **out, placement *where, const rack_node *nodes,
             uint32_t n_nodes);
rack *rack_ref(rack *r);
void rack_unref(rack *r); /* NULL is fine */

placement *rack_where(const rack *r); /* borrowed */
uint32_t rack_n_nodes(const rack *r);
const rack_node *rack_node_at(const rack *r, uint32_t node);

#endif
