/* keeper_peers.h - the coordinators that a keeper has to wait for: who is
 * connected, and up to which epoch they have switched.  Part of the keeper, and
 * as plain as it is. */
#ifndef EXPERT_NODE_KEEPER_PEERS_H
#define EXPERT_NODE_KEEPER_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "expert_node/keeper.h"

/* A placement, by its number and its contents. */
typedef struct {
    uint64_t epoch;
    uint64_t sum; /* rack_placement_sum(); 0: not told */
} placement_id;

typedef struct {
    uint64_t boot_id;
    uint64_t since_ms; /* when it connected */
    uint64_t seen_ms;
    placement_id acked;  /* by its last ping */
    placement_id needed; /* stale until it has pinged with this */
    bool stale;
    bool told; /* what keeper_peers_news() said last */
} keeper_peer;

typedef struct {
    keeper_peer table[KEEPER_MAX_PEERS];
    size_t count;
} keeper_peers; /* zeroed is empty */

int keeper_peers_hello(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms,
                       uint64_t boot_id);
int keeper_peers_ping(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms,
                      uint64_t boot_id, placement_id acked);

/* Does it go by this placement, or by a later one? */
bool keeper_peer_switched(const keeper_peer *p, placement_id to);

/* Does everybody who counts: connected, not silent, not stale?  *wake_ms: when
 * somebody who counts will have fallen silent. */
bool keeper_peers_switched(const keeper_peers *p, uint64_t now_ms,
                           uint32_t silent_ms, placement_id to,
                           uint64_t *wake_ms);

/* The newest epoch that anybody who is not silent has switched to; 0: none. */
uint64_t keeper_peers_newest(const keeper_peers *p, uint64_t now_ms,
                             uint32_t silent_ms);

/* Time in which nobody could be heard. */
void keeper_peers_paused(keeper_peers *p, uint64_t now_ms, uint64_t ms);

/* Drop those that have fallen silent; stale ones are remembered longer. */
void keeper_peers_forget(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms);

/* Somebody who became stale or caught up since it was last said; false: none.
 */
bool keeper_peers_news(keeper_peers *p, uint64_t *boot_id, bool *stale);
/* Whoever was told has forgotten it. */
void keeper_peers_tell_again(keeper_peers *p);

uint32_t keeper_peers_stale(const keeper_peers *p);

#endif
