/* peers.h - the coordinators that send batches to this node.
 *
 * A peer is a connection (the address that the ROUTER socket gives it) and the
 * boot id of the process behind it.  The table is bounded: a connection that
 * has nothing outstanding makes room for a new one, the longest silent one
 * first. */
#ifndef EXPERT_NODE_PEERS_H
#define EXPERT_NODE_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "expert_node/account.h"

#define PEERS_MAX 64

typedef struct {
    uint8_t address[FRAMES_ADDRESS];
    size_t address_bytes;
    uint64_t boot_id;
    uint64_t seen_us;
    account *account;
} peer;

typedef struct {
    peer table[PEERS_MAX];
    size_t count;
} peers;

void peers_init(peers *p);
void peers_fini(peers *p);

/* The peer that sent `from`, new or known; stays valid until the next call.
 * *earlier_boot is the boot id of the process that had this address before, if
 * it was another one; or this one's, if it had another address: it has
 * connected anew.  Their work so far is of no use to anybody.  Else 0.
 * ERR_OVERLOADED: the table is full of busy peers.  -ENOMEM. */
int peers_find(peers *p, const frames *from, uint64_t boot_id, uint64_t now_us,
               peer **out, uint64_t *earlier_boot);

/* Reply bytes that no coordinator has taken yet, of all of them. */
uint64_t peers_reply_bytes(const peers *p);

#endif
