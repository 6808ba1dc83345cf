/* dispatch_event.c - what others do: answers, refusals, nodes that come and go.
 *
 * Whoever answers anything is trusted again.  What a request asked for is
 * looked up in our own table, never believed from the peer. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>
#include "engine/err.h"

/* It lives. */
static void believe(dispatch *d, dispatch_peer *peer) {
    if (!peer->suspect) return;
    peer->suspect = false;
    dispatch_replan(d);
}

/* Asking a full node again and again makes it no emptier.  What it refuses
 * while it rests was sent before, and says nothing new. */
static void rest(dispatch *d, dispatch_peer *peer, uint64_t now_us) {
    if (now_us < peer->rest_until_us) return;
    peer->rest_us =
        peer->rest_us == 0 ? DISPATCH_REST_MIN_US : peer->rest_us * 2;
    if (peer->rest_us > DISPATCH_REST_MAX_US) {
        peer->rest_us = DISPATCH_REST_MAX_US;
    }
    peer->rest_until_us = now_us + peer->rest_us;
    dispatch_replan(d);
}

/* ---- pairs ---- */

/* What is done to a request is done to its layer; leave() with what this
 * returns. */
static dispatch_lane *enter(dispatch *d, uint32_t lane) {
    dispatch_lane *chosen = d->lane;
    d->lane = &d->lanes[lane];
    return chosen;
}

static void leave(dispatch *d, dispatch_lane *chosen) {
    d->lane = chosen;
}

/* Its answer will not come from this request any more. */
static void release_pairs(dispatch *d, dispatch_request *r) {
    if (!dispatch_table_open(d, r)) return;
    dispatch_lane *chosen = enter(d, r->lane);
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        dispatch_pair *p = dispatch_pair_of(d, r, i);
        if (p == NULL) continue;
        /* After `again` the bit may stand for a younger request. */
        if (!r->again) p->asked &= ~dispatch_holder(d, p->expert, r->node);
        if (p->asked == 0) dispatch_wait_pair(d, p);
    }
    d->lane->replan = true; /* also for those that wait already */
    leave(d, chosen);
}

static void answer_pair(dispatch *d, uint64_t now_us, dispatch_pair *p,
                        bool by_another) {
    dispatch_unwait_pair(d, p);
    p->state = PAIR_ANSWERED;
    d->lane->n_open--;
    d->lane->progress_us = now_us;
    if (by_another) d->stats.takeover_pairs++;
}

/* ---- answers ---- */

int dispatch_expected(const dispatch *d, uint32_t node, uint64_t request_id,
                      uint32_t *layer, uint32_t *n_pairs) {
    const dispatch_request *r = dispatch_table_find(d, node, request_id);
    if (r == NULL || r->arrived) return ERR_NOT_HERE;
    *layer = r->layer;
    *n_pairs = r->n_pairs;
    return 0;
}

/* What the answer says of its node, whatever becomes of its rows. */
static void note_answer(dispatch *d, uint64_t now_us, dispatch_request *r) {
    if (r->arrived) return;
    dispatch_peer *peer = &d->peers[r->node];
    dispatch_learn(d, peer, now_us, r);
    believe(d, peer);
    peer->rest_us = 0;
    dispatch_table_answered(d, r);
}

bool dispatch_hold(dispatch *d, uint64_t now_us, uint32_t node,
                   uint64_t request_id) {
    if (!dispatch_is_kept(d, request_id)) return false;
    dispatch_request *r = dispatch_table_find(d, node, request_id);
    if (r == NULL || r->arrived) return false;
    note_answer(d, now_us, r);
    return true;
}

int dispatch_rows(dispatch *d, uint64_t now_us, uint32_t node,
                  uint64_t request_id, const uint32_t **pairs, uint32_t *n,
                  bool *take) {
    *pairs = NULL;
    *n = 0;
    dispatch_request *r = dispatch_table_find(d, node, request_id);
    if (r == NULL) return ERR_NOT_HERE;

    note_answer(d, now_us, r);
    if (!dispatch_table_open(d, r)) {
        d->stats.late_rows += r->n_pairs;
        dispatch_table_remove(d, r);
        return ERR_NOT_HERE;
    }
    dispatch_lane *chosen = enter(d, r->lane);
    bool won = false;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        dispatch_pair *p = dispatch_pair_of(d, r, i);
        if (p != NULL && !r->again)
            p->asked &= ~dispatch_holder(d, p->expert, node);
        take[i] = p != NULL && p->state == PAIR_OPEN;
        if (!take[i]) {
            d->stats.late_rows++;
            continue;
        }
        won = true;
        d->peers[node].answered_pairs++;
        bool by_another = p->first != DISPATCH_NONE && p->first != node;
        answer_pair(d, now_us, p, by_another);
    }
    if (won && r->hedge) d->stats.hedge_wins++;
    *pairs = r->pairs;
    *n = r->n_pairs;
    dispatch_table_remove(d, r);
    leave(d, chosen);
    return 0;
}

/* A full node, or one that dropped a batch as too old, may take the next one;
 * whatever else it says, it would say again. */
static bool only_busy(int code) {
    return code == ERR_OVERLOADED || code == ERR_DEADLINE;
}

static void note_refusal(dispatch *d, uint64_t now_us,
                         const dispatch_request *r) {
    dispatch_lane *chosen = enter(d, r->lane);
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        dispatch_pair *p = dispatch_pair_of(d, r, i);
        if (p == NULL) continue;
        p->refused |= dispatch_holder(d, p->expert, r->node);
        dispatch_refusal_add(d, r->node, d->lane->layer, p->expert,
                             now_us + DISPATCH_REFUSED_US);
    }
    leave(d, chosen);
}

void dispatch_refused(dispatch *d, uint64_t now_us, uint32_t node,
                      uint64_t request_id, int code) {
    dispatch_request *r = dispatch_table_find(d, node, request_id);
    if (r == NULL) return;

    dispatch_peer *peer = &d->peers[node];
    d->stats.refusals++;
    believe(d, peer);
    if (only_busy(code)) {
        rest(d, peer, now_us);
    } else if (dispatch_table_open(d, r)) {
        note_refusal(d, now_us, r);
    }
    release_pairs(d, r);
    dispatch_table_remove(d, r);
}

void dispatch_send_failed(dispatch *d, uint64_t now_us, uint64_t request_id) {
    dispatch_request *r = dispatch_table_find(d, DISPATCH_NONE, request_id);
    if (r == NULL) return;
    assert(dispatch_table_current(d, r));

    /* It was not asked, after all. */
    d->stats.calls--;
    if (r->hedge) d->stats.hedges--;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        dispatch_pair *p = &d->lane->pairs[r->pairs[i]];
        if (p->first_id == request_id) p->first = DISPATCH_NONE;
    }
    rest(d, &d->peers[r->node], now_us);
    release_pairs(d, r);
    dispatch_table_remove(d, r);
}

/* `pairs` is the list of the LOCAL action, or a copy of it. */
void dispatch_local_done(dispatch *d, uint64_t now_us, const uint32_t *pairs,
                         uint32_t n_pairs, bool ok) {
    assert(n_pairs <= d->lane->n_here_out);
    d->lane->n_here_out -= n_pairs;

    for (uint32_t i = 0; i < n_pairs; i++) {
        dispatch_pair *p = &d->lane->pairs[pairs[i]];
        assert(p->local);
        p->local = false;
        p->local_failed = !ok;
        if (p->state != PAIR_OPEN) continue;
        if (!ok) {
            dispatch_wait_pair(d, p);
            continue;
        }
        bool asked = p->first != DISPATCH_NONE;
        answer_pair(d, now_us, p, asked);
        d->stats.local_pairs++;
        if (asked) d->stats.takeover_local++;
    }
    if (d->lane->n_here_out > 0) return;
    d->lane->n_here_kept = 0;
    d->lane->replan = true; /* the list starts anew */
}

/* ---- membership ---- */

void dispatch_node_works(dispatch *d, uint64_t now_us, uint32_t node) {
    assert(node < d->config.max_nodes);
    d->peers[node].works_us = now_us;
}

void dispatch_paused(dispatch *d, uint64_t now_us) {
    d->paused_us = now_us;
}

static void drop_requests(dispatch *d, uint32_t node) {
    uint32_t i = d->oldest;
    while (i != DISPATCH_NONE) {
        dispatch_request *r = &d->requests[i];
        i = r->newer;
        if (r->node != node) continue;
        release_pairs(d, r);
        dispatch_table_remove(d, r);
    }
}

void dispatch_node_broken(dispatch *d, uint64_t now_us, uint32_t node) {
    assert(node < d->config.max_nodes);
    dispatch_peer *peer = &d->peers[node];
    if (!peer->up) return;

    d->stats.broken++;
    peer->suspect = true;
    peer->trial_us = DISPATCH_TRIAL_MIN_US;
    peer->trial_at_us = now_us + DISPATCH_BROKEN_US;
    drop_requests(d, node);
    dispatch_replan(d);
}

void dispatch_node_trust(dispatch *d, uint32_t node, node_trust trust) {
    assert(node < d->config.max_nodes);
    if (d->peers[node].trust == trust) return;
    d->peers[node].trust = trust;
    dispatch_replan(d);
}

void dispatch_node_down(dispatch *d, uint64_t now_us, uint32_t node) {
    assert(node < d->config.max_nodes);
    (void)now_us;
    dispatch_peer *peer = &d->peers[node];

    peer->up = false;
    peer->suspect = false;
    drop_requests(d, node);
    dispatch_replan(d);
}

void dispatch_node_replaced(dispatch *d, uint32_t node, uint64_t serial) {
    assert(node < d->config.max_nodes);
    dispatch_peer *peer = &d->peers[node];
    assert(!peer->up && peer->outstanding_pairs == 0);

    dispatch_forget_speed(d, peer);
    peer->trust = NODE_TRUSTED;
    peer->given = 0;
    peer->answered_pairs = 0;
    peer->serial = serial;
}

/* A new process has refused nothing. */
static void forget_refused(dispatch *d, uint32_t node) {
    for (uint32_t i = 0; i < d->lane->n_pairs && d->lane->where != NULL; i++) {
        dispatch_pair *p = &d->lane->pairs[i];
        if (p->refused == 0) continue;
        p->refused &= ~dispatch_holder(d, p->expert, node);
    }
}

void dispatch_node_up(dispatch *d, uint32_t node) {
    assert(node < d->config.max_nodes);
    dispatch_peer *peer = &d->peers[node];

    drop_requests(d, node); /* a new process knows nothing of them */
    peer->up = true;
    peer->suspect = false;
    if (peer->slow_us != 0) peer->n_samples = 0;
    peer->slow_us = peer->slow_since_us = 0;
    if (d->n_seen <= node) d->n_seen = node + 1;
    peer->rest_us = 0;
    peer->rest_until_us = 0;
    peer->works_us = 0;
    dispatch_refusal_clear(d, node);
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        dispatch_lane *chosen = enter(d, i);
        forget_refused(d, node);
        leave(d, chosen);
    }
    dispatch_replan(d);
}
