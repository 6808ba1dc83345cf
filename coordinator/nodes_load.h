/* nodes_load.h - what the nodes computed of late: every node that is up is
 * asked for its counters about once a second, which become one heat table and
 * figures of each node.
 *
 * Part of nodes.h's object, for whoever balances or reports.  All nodes are
 * asked at the same moment: counts fade, so one that is heard later than
 * another would look hotter all the time.  Loop thread only. */
#ifndef COORDINATOR_NODES_LOAD_H
#define COORDINATOR_NODES_LOAD_H

#include "coordinator/heat.h"
#include "coordinator/nodes.h"

#define LOAD_EVERY_MS 1000
#define LOAD_LOST_MS 5000 /* then an answer is not waited for any more */

/* Of the model as the rack's experts are cut now.  On loan until the rack is
 * cut in another way; then the earlier one stays once more as long. */
const heat *nodes_heat(const nodes *n);
/* Counts decay to one a second from a steady pair a second times this. */
#define HEAT_SECONDS (HEAT_HALF_MS / 1000.0 / 0.69314718055994531)

/* How fast a node computes, of late: 1 for the median of those that are up and
 * known; 0: not known, it computes too little. */
double nodes_speed(const nodes *n, uint32_t node);

/* How evenly the nodes are used: in a layer, the most pairs of a node by the
 * mean over the nodes that can work; of the rack, the mean over layers by their
 * pairs.  0: nothing was computed. */
typedef struct {
    double imbalance, worst;
    uint32_t worst_layer;
} nodes_evenness;
void nodes_measure(const nodes *n, nodes_evenness *out);
/* Of one layer. */
double nodes_measure_layer(const nodes *n, uint32_t layer);

/* Units on the move, by what the nodes said last and the newest placement. */
typedef struct {
    uint64_t to_load, to_drop; /* over all nodes that are known */
    uint64_t bytes_left;       /* of what is to be loaded */
} nodes_moves;
/* unit_bytes[n_layers]; NULL: no bytes are told. */
void nodes_count_moves(const nodes *n, const uint64_t *unit_bytes,
                       nodes_moves *out);

#endif
