/* leader_nodes.h - which nodes a rack has, as its leader sees them: what is
 * registered, and what the placement names and is away.
 *
 * Part of leader.h's machine; remembers of each node since when it is away and
 * what it offered. */
#ifndef COORDINATOR_LEADER_NODES_H
#define COORDINATOR_LEADER_NODES_H

#include "coordinator/planner.h"

typedef struct {
    char name[RECORD_NAME];
    char zone[RECORD_NAME];
    uint32_t zone_number;  /* equal for equal zones */
    uint64_t memory_bytes; /* the last offer */
    uint64_t ready_epoch;
    uint64_t away_ms; /* not registered since; meaningless if it is */
    bool registered, usable, draining;
} leader_node;

typedef struct {
    leader_node *items; /* ascending by name */
    uint32_t n;
    planner_node *given; /* [n], for the planner */
} leader_nodes;

void leader_nodes_fini(leader_nodes *l); /* zeroed is fine */

/* Read the records anew.  Nodes are usable with `model`'s fingerprint (or none
 * yet) and `profile`.  -ENOMEM: nothing changed. */
int leader_nodes_read(leader_nodes *l, uint64_t now_ms, const rack_view *view,
                      const planner_model *model,
                      const record_profile *profile);

/* The nodes for a planner_input.  A node that is away counts as missing until
 * `patience_ms` after it went or after `since_ms`, whichever is later. */
planner_node *leader_nodes_give(leader_nodes *l, uint64_t now_ms,
                                uint64_t since_ms, uint32_t patience_ms);
/* When the next one of them will be gone; UINT64_MAX: none is missing. */
uint64_t leader_nodes_deadline(const leader_nodes *l, uint64_t now_ms,
                               uint64_t since_ms, uint32_t patience_ms);

/* A digest of which nodes can be used. */
uint64_t leader_nodes_usable(const leader_nodes *l);

/* The highest epoch that a registered node says it has reached, or a
 * coordinator that it knows; 0: there is none. */
uint64_t leader_nodes_epoch(const rack_view *view);

/* Does one of them know another placement under the number of the view's?  Each
 * was written into an etcd that had forgotten the other. */
bool leader_nodes_at_odds(const rack_view *view);

#endif
