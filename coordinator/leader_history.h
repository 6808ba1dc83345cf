/* leader_history.h - which holders came or went a little while ago: what the
 * balancer has to leave alone.
 *
 * Read off the placements that a coordinator sees, whoever wrote them.  Part of
 * leader.h's machine. */
#ifndef COORDINATOR_LEADER_HISTORY_H
#define COORDINATOR_LEADER_HISTORY_H

#include "coordinator/leader_peers.h"
#include "discovery/rack_view.h"

typedef struct {
    uint64_t at_ms;
    uint32_t unit; /* through all layers */
    uint32_t peer;
} leader_change;

typedef struct {
    leader_change *items; /* by time */
    uint32_t n, room;
    uint32_t fresh; /* the first that the last look noted; n: it noted none */
    rack_placement *seen; /* NULL: none yet */
} leader_history;

void leader_history_fini(leader_history *h); /* zeroed is fine */

/* The placement in force, NULL for none.  The first one seen is not a change,
 * and neither is that of another model.  What is older than `still_ms` is
 * forgotten.  -ENOMEM: this one was not seen. */
int leader_history_look(leader_history *h, leader_peers *peers, uint64_t now_ms,
                        uint64_t still_ms, const rack_placement *now);

#endif
