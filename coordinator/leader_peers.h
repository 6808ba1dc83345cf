/* leader_peers.h - nodes that a leader has heard of, numbered once and for all,
 * and what it knows of them besides their records.
 *
 * Nodes' places in a picture change whenever one comes or goes; a peer's number
 * does not.  Part of leader.h's machine. */
#ifndef COORDINATOR_LEADER_PEERS_H
#define COORDINATOR_LEADER_PEERS_H

#include <stdint.h>
#include "discovery/records.h"

typedef struct {
    uint64_t hash;
    char name[RECORD_NAME];
    double speed; /* in steps; 1: usual, or not known */
    /* Another speed that is heard all the time: what of it is nearest to the
     * present one, since when and until when it was heard; 0: none is. */
    double other;
    uint64_t other_since_ms, other_until_ms;
} leader_peer;

typedef struct {
    leader_peer *items;
    uint32_t n, room;
} leader_peers;

/* More are not told apart: then all are forgotten. */
#define LEADER_PEERS_MAX (4 * RECORD_NODES_MAX)

void leader_peers_fini(leader_peers *p); /* zeroed is fine */

/* A name's number; it gets one if it has none.  -ENOMEM, ERR_RANGE above the
 * limit. */
int leader_peers_number(leader_peers *p, const char *name, uint32_t *number);

/* A measured speed, to be told every few seconds; 0: not known.  It counts in
 * steps of LEADER_SPEED_STEP.  Another step is taken only if for
 * LEADER_SPEED_LASTS_MS everything that was heard was clearly beyond the
 * present one on the same side, and then for what was least so: a busy computer
 * makes nodes look slow or fast for a while, and experts are not moved for
 * that. */
#define LEADER_SPEED_STEP 0.25
#define LEADER_SPEED_LEAST 0.25
#define LEADER_SPEED_MOST 16.0
#define LEADER_SPEED_LASTS_MS 60000
#define LEADER_SPEED_GAP_MS 10000 /* longer silences begin anew */
void leader_peer_set_speed(leader_peer *p, uint64_t now_ms, double speed);

#endif
