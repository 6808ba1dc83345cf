/* placement.h - which nodes hold which unit: an immutable snapshot.
 *
 * A unit is an expert or, where experts are cut, a slice of one (expert *
 * slices + slice, with the slices of its layer).  Built from what the nodes
 * said they hold; a change makes a new snapshot with a higher epoch.  Reference
 * counted, so that the loop thread can hand it to the step thread: any thread
 * may read one and drop its own reference. */
#ifndef COORDINATOR_PLACEMENT_H
#define COORDINATOR_PLACEMENT_H

#include <stdint.h>
#include "discovery/holdings.h"

#define PLACEMENT_MAX_NODES 1024

typedef struct placement placement;

/* How far a node is to be relied on: for all that it holds; only for what no
 * other node that answers holds; only for what nobody else holds at all. */
typedef enum { NODE_TRUSTED, NODE_LAST, NODE_WRONG } node_trust;

/* What a placement is made for. */
typedef struct {
    uint64_t epoch;
    uint64_t source; /* digest of the rack's placement that it follows; 0: it
                        follows none */
    uint32_t n_layers, n_experts;
    uint32_t slices; /* of an expert, at most, in any layer; 0: 1 */
    /* [n_layers] of each layer, 0 for one without experts; NULL: all `slices`.
     * The placement keeps a copy. */
    const uint32_t *layer_slices;
} placement_shape;

/* `nodes[i]` is what node i holds, NULL for one that holds nothing now.
 * ERR_RANGE if one has another shape.  The caller owns one reference. */
int placement_new(placement **out, const placement_shape *shape,
                  const holdings *const *nodes, uint32_t n_nodes);
placement *placement_ref(placement *p);
void placement_unref(placement *p); /* NULL is fine */

uint64_t placement_epoch(const placement *p);
uint64_t placement_source(const placement *p);
/* The slices that experts of a layer are cut into, and of the layer that is cut
 * most often. */
uint32_t placement_slices(const placement *p, uint32_t layer);
uint32_t placement_max_slices(const placement *p);

/* The nodes that hold a unit, ascending; borrowed. */
const uint16_t *placement_nodes(const placement *p, uint32_t layer,
                                uint32_t unit, uint32_t *n);

/* Units of the given layers [first_layer, n_layers) held by nobody, and by
 * one node only: for `status` and warnings. */
void placement_coverage(const placement *p, uint32_t first_layer,
                        uint32_t *unheld, uint32_t *single);

#endif
