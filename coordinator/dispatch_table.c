/* dispatch_table.c - the requests in flight, and who refused what.
 *
 * A number of slots that only dispatch_reserve() changes.  A request's id is a
 * running number and its slot: unique, rising, and found without a search.
 * Slots in flight form a list by age.  A request whose layer is over stays in
 * the table until it is answered, because the node still works for it and its
 * reply will still arrive: that is what the credit counts.
 *
 * Refusals are remembered in a direct-mapped table: a collision forgets the
 * older one, which costs one more refusal. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define MAX_SLOTS (1u << DISPATCH_SLOT_BITS)

int dispatch_table_grow(dispatch *d, uint64_t n_slots, uint32_t piece_pairs) {
    size_t pairs, bytes;
    if (n_slots < d->n_slots) n_slots = d->n_slots;
    if (n_slots > MAX_SLOTS) return ERR_RANGE;
    if (!size_mul(n_slots, piece_pairs, &pairs)) return ERR_RANGE;
    if (!size_mul(pairs, sizeof(uint32_t), &bytes)) return ERR_RANGE;

    uint32_t *lists = malloc(bytes);
    dispatch_work *works = calloc(pairs, sizeof(*works));
    dispatch_request *grown = NULL;
    if (lists != NULL && works != NULL)
        grown = realloc(d->requests, n_slots * sizeof(*d->requests));
    if (grown == NULL) {
        free(lists);
        free(works);
        return -ENOMEM;
    }
    d->requests = grown;
    free(d->request_pairs);
    free(d->request_works);
    d->request_pairs = lists;
    d->request_works = works;
    for (uint32_t i = d->n_slots; i < n_slots; i++) {
        grown[i] = (dispatch_request){.newer = d->free_slot};
        d->free_slot = i;
    }
    for (uint32_t i = 0; i < n_slots; i++) {
        grown[i].pairs = lists + (size_t)i * piece_pairs;
        grown[i].kept = false;
    }
    d->n_slots = (uint32_t)n_slots;
    d->piece_pairs = piece_pairs;
    return 0;
}

/* The slot that an id names; NULL: there is no such slot. */
static dispatch_request *slot_of(const dispatch *d, uint64_t request_id) {
    uint64_t slot = request_id & (MAX_SLOTS - 1);
    return slot < d->n_slots ? &d->requests[slot] : NULL;
}

bool dispatch_table_open(const dispatch *d, const dispatch_request *r) {
    const dispatch_lane *l = &d->lanes[r->lane];
    return l->where != NULL && r->layer_seq == l->layer_seq;
}

bool dispatch_table_own(const dispatch *d, const dispatch_request *r) {
    return r->layer_seq == d->lane->layer_seq;
}

bool dispatch_table_current(const dispatch *d, const dispatch_request *r) {
    return d->lane->where != NULL && dispatch_table_own(d, r);
}

uint32_t dispatch_table_fresh(const dispatch *d, uint32_t node) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        const dispatch_lane *l = &d->lanes[i];
        const dispatch_queue *queue = &l->queues[node];
        bool open = l->where != NULL && queue->fresh_seq == l->layer_seq;
        if (open) n += queue->n_fresh;
    }
    return n;
}

/* With the last of them, what is left of its node's credit is held by answers
 * that may never come: what is queued there must not wait for them. */
static void unfresh(dispatch *d, const dispatch_request *r) {
    dispatch_queue *queue = &d->lanes[r->lane].queues[r->node];
    if (r->late || r->layer_seq != queue->fresh_seq) return;
    assert(queue->n_fresh > 0);
    queue->n_fresh--;
    if (queue->n_fresh == 0 && d->peers[r->node].outstanding_bytes > 0)
        dispatch_replan(d);
}

void dispatch_table_late(dispatch *d, dispatch_request *r) {
    unfresh(d, r);
    r->late = true;
}

/* Full: the oldest request of a layer that is over goes, if its node does not
 * answer anyway, or did. */
static void make_room(dispatch *d) {
    for (uint32_t i = d->oldest; i != DISPATCH_NONE; i = d->requests[i].newer) {
        dispatch_request *r = &d->requests[i];
        if (dispatch_table_open(d, r)) continue;
        if (!d->peers[r->node].suspect && !r->arrived) continue;
        dispatch_table_remove(d, r);
        return;
    }
}

/* As the newest one, of the layer that is worked on. */
static void append(dispatch *d, dispatch_request *r) {
    uint32_t slot = (uint32_t)(r - d->requests);
    r->newer = DISPATCH_NONE;
    r->older = d->newest;
    if (d->newest != DISPATCH_NONE) d->requests[d->newest].newer = slot;
    if (d->oldest == DISPATCH_NONE) d->oldest = slot;
    d->newest = slot;

    r->stamp = ++d->last_stamp;

    dispatch_queue *queue = &d->lane->queues[r->node];
    if (queue->fresh_seq != d->lane->layer_seq) {
        queue->fresh_seq = d->lane->layer_seq;
        queue->n_fresh = 0;
    }
    queue->n_fresh++;
}

static void unlink_request(dispatch *d, dispatch_request *r) {
    uint32_t slot = (uint32_t)(r - d->requests);
    if (r->older != DISPATCH_NONE) d->requests[r->older].newer = r->newer;
    if (r->newer != DISPATCH_NONE) d->requests[r->newer].older = r->older;
    if (d->oldest == slot) d->oldest = r->newer;
    if (d->newest == slot) d->newest = r->older;
}

dispatch_request *dispatch_table_add(dispatch *d, uint32_t node,
                                     uint32_t n_pairs) {
    assert(n_pairs > 0 && n_pairs <= d->piece_pairs);
    if (d->free_slot == DISPATCH_NONE) make_room(d);
    if (d->free_slot == DISPATCH_NONE) return NULL;

    uint32_t slot = d->free_slot;
    dispatch_request *r = &d->requests[slot];
    d->free_slot = r->newer;

    uint32_t *pairs = r->pairs;
    *r = (dispatch_request){
        .id = d->next_seq++ << DISPATCH_SLOT_BITS | slot,
        .layer_seq = d->lane->layer_seq,
        .lane = (uint32_t)(d->lane - d->lanes),
        .layer = d->lane->layer,
        .node = node,
        .n_pairs = n_pairs,
        .pairs = pairs,
    };
    append(d, r);

    dispatch_peer *peer = &d->peers[node];
    r->round = peer->rounds;
    peer->outstanding_bytes += n_pairs * d->config.reply_row_bytes;
    peer->outstanding_pairs += n_pairs;
    return r;
}

void dispatch_table_renew(dispatch *d, dispatch_request *r) {
    assert(!dispatch_table_open(d, r));
    unlink_request(d, r);
    r->layer_seq = d->lane->layer_seq;
    r->lane = (uint32_t)(d->lane - d->lanes);
    r->late = r->doubled = r->again = r->hedge = false;
    append(d, r);
}

dispatch_request *dispatch_table_find(const dispatch *d, uint32_t node,
                                      uint64_t request_id) {
    dispatch_request *r = slot_of(d, request_id);
    if (request_id == 0 || r == NULL || r->id != request_id) return NULL;
    return r->node == node || node == DISPATCH_NONE ? r : NULL;
}

/* Its node owes nothing of it any more. */
static void return_credit(dispatch *d, const dispatch_request *r) {
    dispatch_peer *peer = &d->peers[r->node];
    uint64_t bytes = r->n_pairs * d->config.reply_row_bytes;
    assert(peer->outstanding_bytes >= bytes);
    assert(peer->outstanding_pairs >= r->n_pairs);
    peer->outstanding_bytes -= bytes;
    peer->outstanding_pairs -= r->n_pairs;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        if (d->lanes[i].blocked) d->lanes[i].replan = true;
    }
}

void dispatch_table_remove(dispatch *d, dispatch_request *r) {
    assert(r->id != 0);
    unlink_request(d, r);
    if (!r->arrived) return_credit(d, r);
    unfresh(d, r);

    r->id = 0;
    r->newer = d->free_slot;
    d->free_slot = (uint32_t)(r - d->requests);
}

/* Of layers that are over: those of open ones have deadlines of their own.  An
 * answer that is here was not lost. */
static void forget_passed(dispatch *d, uint32_t node) {
    uint64_t rounds = d->peers[node].rounds;
    for (uint32_t i = d->oldest; i != DISPATCH_NONE;) {
        dispatch_request *r = &d->requests[i];
        i = r->newer;
        if (dispatch_table_open(d, r)) continue;
        if (r->node != node || r->arrived) continue;
        if (r->round + DISPATCH_ROUNDS <= rounds) dispatch_table_remove(d, r);
    }
}

void dispatch_table_answered(dispatch *d, dispatch_request *r) {
    assert(!r->arrived);
    return_credit(d, r);
    r->arrived = true;
    if (r->round != d->peers[r->node].rounds) return;
    d->peers[r->node].rounds++;
    forget_passed(d, r->node);
}

/* Requests of layers that are over, unless their node is still at work.  Those
 * behind one of an open layer, which is soon done, have their turn then. */
uint64_t dispatch_table_expire(dispatch *d, uint64_t now_us) {
    uint64_t age_us = (uint64_t)d->config.patience_us * DISPATCH_FORGET;

    while (d->oldest != DISPATCH_NONE) {
        dispatch_request *r = &d->requests[d->oldest];
        uint64_t sign_us = dispatch_max(r->late_us, d->peers[r->node].works_us);
        uint64_t at_us = dispatch_later(sign_us, age_us);
        if (dispatch_table_open(d, r)) return UINT64_MAX;
        if (now_us < at_us) return at_us;
        dispatch_table_remove(d, r);
    }
    return UINT64_MAX;
}

/* ---- refusals ---- */

static uint32_t refusal_slot(uint32_t node, uint32_t layer, uint32_t expert) {
    uint32_t h = node * 0x9E3779B1u ^ layer * 0x85EBCA77u;
    h = (h ^ expert) * 0xC2B2AE3Du;
    return (h >> 16) & (DISPATCH_REFUSALS - 1);
}

void dispatch_refusal_add(dispatch *d, uint32_t node, uint32_t layer,
                          uint32_t expert, uint64_t until_us) {
    d->refusals[refusal_slot(node, layer, expert)] =
        (dispatch_refusal){until_us, node, layer, expert};
}

bool dispatch_refusal_holds(const dispatch *d, uint32_t node, uint32_t layer,
                            uint32_t expert, uint64_t now_us) {
    const dispatch_refusal *r = &d->refusals[refusal_slot(node, layer, expert)];
    return now_us < r->until_us && r->node == node && r->layer == layer &&
           r->expert == expert;
}

void dispatch_refusal_clear(dispatch *d, uint32_t node) {
    for (uint32_t i = 0; i < DISPATCH_REFUSALS; i++) {
        if (d->refusals[i].node == node) d->refusals[i].until_us = 0;
    }
}
