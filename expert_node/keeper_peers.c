/* keeper_peers.c - see keeper_peers.h.
 *
 * A coordinator that was stopped and goes on after it was forgotten pings
 * without a new hello: it knows our boot id, so it was welcomed once, and it
 * counts again from that moment on. */
#include "expert_node/keeper_peers.h"

#include "engine/err.h"
#include "engine/util.h"

#define STALE_KEPT_MS 60000 /* a silent one's memory of being stale */

static bool silent(const keeper_peer *p, uint64_t now_ms, uint32_t silent_ms) {
    return now_ms - p->seen_ms >= silent_ms;
}

static void drop(keeper_peers *p, size_t i) {
    p->table[i] = p->table[--p->count];
}

/* Out of the silent ones that nobody was told of, the longest silent one. */
static bool make_room(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms) {
    size_t oldest = p->count;
    for (size_t i = 0; i < p->count; i++) {
        const keeper_peer *peer = &p->table[i];
        if (peer->told || !silent(peer, now_ms, silent_ms)) continue;
        if (oldest == p->count || peer->seen_ms < p->table[oldest].seen_ms) {
            oldest = i;
        }
    }
    if (oldest == p->count) return false;
    drop(p, oldest);
    return true;
}

/* Known or new; NULL: too many are connected. */
static keeper_peer *see(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms,
                        uint64_t boot_id) {
    for (size_t i = 0; i < p->count; i++) {
        keeper_peer *known = &p->table[i];
        if (known->boot_id != boot_id) continue;
        known->seen_ms = now_ms;
        return known;
    }
    if (p->count == KEEPER_MAX_PEERS && !make_room(p, now_ms, silent_ms)) {
        return NULL;
    }
    keeper_peer *made = &p->table[p->count++];
    *made = (keeper_peer){
        .boot_id = boot_id, .since_ms = now_ms, .seen_ms = now_ms};
    return made;
}

int keeper_peers_hello(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms,
                       uint64_t boot_id) {
    return see(p, now_ms, silent_ms, boot_id) != NULL ? 0 : ERR_OVERLOADED;
}

int keeper_peers_ping(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms,
                      uint64_t boot_id, placement_id acked) {
    keeper_peer *peer = see(p, now_ms, silent_ms, boot_id);
    if (peer == NULL) return ERR_OVERLOADED;
    peer->acked = acked;
    if (keeper_peer_switched(peer, peer->needed)) peer->stale = false;
    return peer->stale ? ERR_STALE : 0;
}

bool keeper_peer_switched(const keeper_peer *p, placement_id to) {
    if (p->acked.epoch != to.epoch) return p->acked.epoch > to.epoch;
    return p->acked.sum == 0 || to.sum == 0 || p->acked.sum == to.sum;
}

bool keeper_peers_switched(const keeper_peers *p, uint64_t now_ms,
                           uint32_t silent_ms, placement_id to,
                           uint64_t *wake_ms) {
    bool all = true;
    *wake_ms = UINT64_MAX;
    for (size_t i = 0; i < p->count; i++) {
        const keeper_peer *peer = &p->table[i];
        if (peer->stale || silent(peer, now_ms, silent_ms)) continue;
        all = all && keeper_peer_switched(peer, to);
        if (peer->seen_ms + silent_ms < *wake_ms)
            *wake_ms = peer->seen_ms + silent_ms;
    }
    return all;
}

uint64_t keeper_peers_newest(const keeper_peers *p, uint64_t now_ms,
                             uint32_t silent_ms) {
    uint64_t newest = 0;
    for (size_t i = 0; i < p->count; i++) {
        const keeper_peer *peer = &p->table[i];
        if (!silent(peer, now_ms, silent_ms) && peer->acked.epoch > newest)
            newest = peer->acked.epoch;
    }
    return newest;
}

void keeper_peers_paused(keeper_peers *p, uint64_t now_ms, uint64_t ms) {
    for (size_t i = 0; i < p->count; i++) {
        keeper_peer *peer = &p->table[i];
        /* Some have been heard since. */
        peer->since_ms += size_min(ms, now_ms - peer->since_ms);
        peer->seen_ms += size_min(ms, now_ms - peer->seen_ms);
    }
}

void keeper_peers_forget(keeper_peers *p, uint64_t now_ms, uint32_t silent_ms) {
    for (size_t i = 0; i < p->count;) {
        keeper_peer *peer = &p->table[i];
        uint32_t kept_ms = peer->stale ? STALE_KEPT_MS : silent_ms;
        if (!silent(peer, now_ms, kept_ms)) {
            i++;
            continue;
        }
        peer->stale = false;
        if (peer->told) {
            i++; /* until that is said */
        } else {
            drop(p, i);
        }
    }
}

bool keeper_peers_news(keeper_peers *p, uint64_t *boot_id, bool *stale) {
    for (size_t i = 0; i < p->count; i++) {
        keeper_peer *peer = &p->table[i];
        if (peer->stale == peer->told) continue;
        peer->told = peer->stale;
        *boot_id = peer->boot_id;
        *stale = peer->stale;
        return true;
    }
    return false;
}

void keeper_peers_tell_again(keeper_peers *p) {
    for (size_t i = 0; i < p->count; i++)
        p->table[i].told = false;
}

uint32_t keeper_peers_stale(const keeper_peers *p) {
    uint32_t n = 0;
    for (size_t i = 0; i < p->count; i++)
        n += p->table[i].stale;
    return n;
}
