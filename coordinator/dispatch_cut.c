/* dispatch_cut.c - the queues that a plan made become requests, one piece at a
 * time, as each node's credit allows. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>

bool dispatch_has_credit(const dispatch *d, const dispatch_peer *peer,
                         uint32_t count) {
    uint32_t n = count < d->piece_pairs ? count : d->piece_pairs;
    uint64_t bytes = n * d->config.reply_row_bytes;
    return peer->outstanding_bytes == 0 ||
           peer->outstanding_bytes + bytes <= d->config.credit_bytes;
}

/* What the pairs of a request have been through. */
typedef struct {
    bool takeover; /* others were asked for some of them */
    bool hedge;    /* and may still answer */
    bool retry;    /* and will not, or it was us */
    bool trial;    /* a copy, which nobody waits for */
} past;

/* A pair on trial counts as asked of nobody: it keeps waiting for somebody
 * else. */
static void ask_pair(dispatch *d, uint64_t now_us, dispatch_request *r,
                     dispatch_pair *p, past *was) {
    bool in_flight = p->asked != 0;
    bool asked = p->first != DISPATCH_NONE;
    dispatch_unwait_pair(d, p);
    p->asked |= dispatch_holder(d, p->expert, r->node);
    if (p->trial) {
        p->trial = false;
        was->trial = true;
        dispatch_wait_pair(d, p);
        return;
    }
    if (!asked) {
        p->first = r->node;
        p->first_id = r->id;
        p->first_us = now_us;
    }
    p->asked_us = now_us;
    if (p->first != r->node) was->takeover = true;
    if (asked && in_flight && !p->second) was->hedge = true;
    if (asked && (!in_flight || p->second)) was->retry = true;
    p->second = false;
    if (p->tries > r->tries) r->tries = p->tries;
    if (p->tries < DISPATCH_TRIES_MOST) p->tries++;
}

void dispatch_set_deadlines(dispatch *d, uint64_t now_us, uint64_t asked_us,
                            dispatch_request *r) {
    const dispatch_peer *peer = &d->peers[r->node];
    uint64_t late_us = dispatch_late_us(d, peer, r->expected_us);
    uint64_t second_us =
        dispatch_max(late_us * DISPATCH_SECOND, DISPATCH_SECOND_US);
    second_us = dispatch_min(second_us, d->config.patience_us / 2);
    r->late_us = dispatch_later(now_us, late_us);
    r->second_us = dispatch_later(now_us, dispatch_max(second_us, late_us));
    uint64_t again_us = dispatch_max(late_us * DISPATCH_RESENDS,
                                     d->config.patience_us / DISPATCH_RESENDS);
    r->again_us = dispatch_later(asked_us, again_us << r->tries);
    d->lane->late_wake_us = dispatch_min(d->lane->late_wake_us, r->late_us);
    d->lane->give_up_us = dispatch_min(
        d->lane->give_up_us, dispatch_later(now_us, d->config.patience_us));
}

/* The next one comes after a while; for a node that stays silent, after longer
 * and longer. */
static void plan_next_trial(dispatch_peer *peer, uint64_t now_us) {
    if (!peer->suspect && peer->slow_us == 0) return;
    peer->trial_at_us = now_us + peer->trial_us;
    if (!peer->suspect) return;
    peer->trial_us =
        (uint32_t)dispatch_min(peer->trial_us * 2ull, DISPATCH_TRIAL_MAX_US);
}

static void put_in_flight(dispatch *d, uint64_t now_us, dispatch_request *r,
                          bool *takeover) {
    dispatch_peer *peer = &d->peers[r->node];
    dispatch_queue *queue = &d->lane->queues[r->node];
    uint32_t pair = queue->head;
    past was = {false, false, false, false};

    for (uint32_t n = 0; n < r->n_pairs;) {
        dispatch_pair *p = &d->lane->pairs[pair];
        uint32_t next = p->next;
        if (p->waiting) {
            r->pairs[n++] = pair;
            ask_pair(d, now_us, r, p, &was);
        }
        pair = next;
    }
    queue->head = pair;
    peer->given += r->n_pairs;
    r->hedge = was.hedge;
    *takeover = was.takeover;
    r->ahead = peer->outstanding_pairs;
    r->sent_us = now_us;
    r->expected_us = dispatch_expect_us(peer, r->ahead);
    dispatch_set_deadlines(d, now_us, now_us, r);
    dispatch_count_call(d, r, was.retry, was.trial);
    plan_next_trial(peer, now_us);
}

/* How many pairs the next piece has: it ends where an expert's pairs end, if
 * that does not make it much shorter, so that weights are read once. */
static uint32_t piece_length(const dispatch *d, uint32_t head) {
    uint32_t n = 0, whole = 0, expert = 0;
    for (uint32_t at = head; at != DISPATCH_NONE;
         at = d->lane->pairs[at].next) {
        const dispatch_pair *p = &d->lane->pairs[at];
        if (!p->waiting) continue;
        if (p->expert != expert) whole = n;
        if (n == d->piece_pairs) return 2 * whole >= n ? whole : n;
        expert = p->expert;
        n++;
    }
    return n;
}

/* The next piece of one node's queue, unless it would exceed its credit.  A
 * piece larger than the whole credit goes alone. */
static bool cut_piece(dispatch *d, uint64_t now_us, uint32_t node,
                      dispatch_action *out) {
    dispatch_queue *queue = &d->lane->queues[node];

    while (queue->head != DISPATCH_NONE &&
           !d->lane->pairs[queue->head].waiting) {
        queue->head = d->lane->pairs[queue->head].next;
    }
    uint32_t n = piece_length(d, queue->head);
    if (n == 0) return false;
    if (!dispatch_has_credit(d, &d->peers[node], n)) return false;
    dispatch_request *r = dispatch_table_add(d, node, n);
    if (r == NULL) return false;

    put_in_flight(d, now_us, r, &out->takeover);
    out->kind = DISPATCH_SEND;
    out->node = node;
    out->request_id = r->id;
    out->pairs = r->pairs;
    out->n_pairs = r->n_pairs;
    return true;
}

/* The nodes take turns, so that all have something to do early. */
bool dispatch_cut(dispatch *d, uint64_t now_us, dispatch_action *out) {
    for (uint32_t i = 0; i < d->lane->n_busy; i++) {
        uint32_t at = (d->lane->turn + i) % d->lane->n_busy;
        if (!cut_piece(d, now_us, d->lane->busy[at], out)) continue;
        d->lane->turn = (at + 1) % d->lane->n_busy;
        return true;
    }
    return false;
}
