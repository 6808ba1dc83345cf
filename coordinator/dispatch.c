/* dispatch.c - a layer's life: begin, the next action, what time brings.
 *
 * dispatch_next() first lets time act (requests that are late, pairs out of
 * patience), then has the waiting pairs planned if anything changed, then hands
 * out one action: a piece that may be sent, what is to be computed here, or how
 * long to wait.  Sends come first, so that the nodes work while we do.
 *
 * Nothing is allocated but by dispatch_new() and dispatch_reserve(), and a look
 * at a quiet dispatch costs no pass over the pairs: points in time are kept as
 * lower bounds and looked into only when they are reached. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

static int check_config(const dispatch_config *c) {
    if (c->max_nodes > PLACEMENT_MAX_NODES) return ERR_RANGE;
    if (c->max_pairs == 0 || c->max_pairs > INT32_MAX) return ERR_RANGE;
    if (c->reply_row_bytes == 0 || c->reply_row_bytes > INT32_MAX) {
        return ERR_RANGE;
    }
    if (c->piece_bytes == 0 || c->credit_bytes == 0) return ERR_RANGE;
    if (c->hedge_factor == 0 || c->hedge_factor > 1000) return ERR_RANGE;
    if (c->patience_us == 0 || c->hedge_percent > 100) return ERR_RANGE;
    return 0;
}

/* Each pair may be asked of some nodes at once, and every node may have a last
 * small piece of this layer and of earlier ones. */
static uint64_t slots_for(const dispatch *d, uint32_t max_pairs,
                          uint32_t piece_pairs) {
    uint64_t pieces = (max_pairs + piece_pairs - 1ull) / piece_pairs;
    uint64_t slots = 2ull * d->config.max_nodes + 4 * pieces + 16;
    return slots * DISPATCH_LANES;
}

static int grow(uint32_t **list, size_t n) {
    uint32_t *grown = realloc(*list, n * sizeof(**list));
    if (grown == NULL) return -ENOMEM;
    *list = grown;
    return 0;
}

static int grow_lane(dispatch_lane *l, size_t n) {
    dispatch_pair *pairs = realloc(l->pairs, n * sizeof(*pairs));
    if (pairs == NULL) return -ENOMEM;
    l->pairs = pairs;
    dispatch_part *parts = realloc(l->parts, n * sizeof(*parts));
    if (parts == NULL) return -ENOMEM;
    l->parts = parts;
    int rc = grow(&l->order, n);
    if (rc == 0) rc = grow(&l->scratch, n);
    if (rc == 0) rc = grow(&l->here, n);
    return rc;
}

int dispatch_reserve(dispatch *d, uint32_t max_pairs) {
    if (max_pairs <= d->room) return 0;
    if (max_pairs > INT32_MAX) return ERR_RANGE;

    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        assert(d->lanes[i].where == NULL);
        int rc = grow_lane(&d->lanes[i], max_pairs);
        if (rc < 0) return rc;
    }
    uint64_t piece = d->config.piece_bytes / d->config.reply_row_bytes;
    piece = dispatch_min(dispatch_max(piece, 1), max_pairs);
    int rc = dispatch_table_grow(d, slots_for(d, max_pairs, (uint32_t)piece),
                                 (uint32_t)piece);
    if (rc < 0) return rc;
    d->room = max_pairs;
    return 0;
}

static int new_lane(dispatch_lane *l, size_t nodes) {
    l->lost_expert = DISPATCH_NONE;
    l->busy = calloc(nodes + 1, sizeof(*l->busy));
    l->queues = calloc(nodes + 1, sizeof(*l->queues));
    if (l->busy == NULL || l->queues == NULL) return -ENOMEM;
    for (size_t i = 0; i < nodes; i++) {
        l->queues[i] =
            (dispatch_queue){.head = DISPATCH_NONE, .tail = DISPATCH_NONE};
    }
    return 0;
}

static int allocate(dispatch *d) {
    size_t nodes = d->config.max_nodes;
    d->lane = &d->lanes[0];
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        int rc = new_lane(&d->lanes[i], nodes);
        if (rc < 0) return rc;
    }
    d->peers = calloc(nodes + 1, sizeof(*d->peers));
    if (d->peers == NULL) return -ENOMEM;
    return dispatch_reserve(d, d->config.max_pairs);
}

int dispatch_new(dispatch **out, const dispatch_config *config) {
    *out = NULL;
    int rc = check_config(config);
    if (rc < 0) return rc;

    dispatch *d = calloc(1, sizeof(*d));
    if (d == NULL) return -ENOMEM;
    d->config = *config;
    d->free_slot = d->oldest = d->newest = DISPATCH_NONE;
    d->next_seq = 1;

    rc = allocate(d);
    if (rc < 0) {
        dispatch_free(d);
        return rc;
    }
    for (uint32_t i = 0; i < config->max_nodes; i++) {
        d->peers[i].trial_us = DISPATCH_TRIAL_MIN_US;
        dispatch_forget_speed(d, &d->peers[i]);
    }
    d->budget = 100 * DISPATCH_HEDGE_BURST;
    d->usual_base_us = DISPATCH_BASE_US;
    d->usual_pair_ns = DISPATCH_PAIR_NS;
    *out = d;
    return 0;
}

static void free_lane(dispatch_lane *l) {
    free(l->pairs);
    free(l->order);
    free(l->scratch);
    free(l->here);
    free(l->parts);
    free(l->busy);
    free(l->queues);
}

void dispatch_free(dispatch *d) {
    if (d == NULL) return;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++)
        free_lane(&d->lanes[i]);
    free(d->peers);
    free(d->requests);
    free(d->request_pairs);
    free(d->request_works);
    free(d);
}

void dispatch_choose(dispatch *d, uint32_t lane) {
    assert(lane < DISPATCH_LANES);
    d->lane = &d->lanes[lane];
}

uint32_t dispatch_lane_of(const dispatch *d, uint64_t request_id) {
    const dispatch_request *r =
        dispatch_table_find(d, DISPATCH_NONE, request_id);
    return r != NULL && dispatch_table_open(d, r) ? r->lane : DISPATCH_LANES;
}

void dispatch_replan(dispatch *d) {
    for (uint32_t i = 0; i < DISPATCH_LANES; i++)
        d->lanes[i].replan = true;
}

/* What was given halves in a certain time, for all at once. */
static void fade_given(dispatch *d, uint64_t now_us) {
    uint64_t times = (now_us - d->given_us) / DISPATCH_GIVEN_US;
    if (times == 0 || now_us < d->given_us) return;
    d->given_us = now_us;
    for (uint32_t i = 0; i < d->n_seen; i++)
        d->peers[i].given >>= dispatch_min(times, 63);
}

int dispatch_begin(dispatch *d, uint64_t now_us, uint32_t layer,
                   const uint32_t *experts, uint32_t n_rows, uint32_t k,
                   const placement *where) {
    uint64_t n_pairs = (uint64_t)n_rows * k;
    if (n_pairs > d->room) return ERR_RANGE;

    dispatch_lane *l = d->lane;
    fade_given(d, now_us);
    l->layer_seq = ++d->last_seq;
    l->first_stamp = d->last_stamp + 1;
    l->layer = layer;
    l->n_rows = n_rows;
    l->k = k;
    l->n_pairs = (uint32_t)n_pairs;
    l->where = where;
    for (uint32_t i = 0; i < l->n_pairs; i++) {
        l->pairs[i] = (dispatch_pair){
            .expert = experts[i], .first = DISPATCH_NONE, .waiting = true};
    }
    dispatch_sort(d);
    l->n_open = l->n_waiting = l->n_pairs;
    l->n_here = l->n_here_out = l->n_here_kept = 0;
    l->lost_expert = DISPATCH_NONE;
    l->progress_us = now_us;
    l->late_wake_us = UINT64_MAX;
    l->give_up_us = dispatch_later(now_us, d->config.patience_us);
    l->replan = true;
    return 0;
}

/* ---- what can become of a pair ---- */

void dispatch_wait_pair(dispatch *d, dispatch_pair *p) {
    if (p->state != PAIR_OPEN || p->waiting || p->local) return;
    p->waiting = true;
    d->lane->n_waiting++;
    d->lane->replan = true;
}

void dispatch_unwait_pair(dispatch *d, dispatch_pair *p) {
    if (!p->waiting) return;
    p->waiting = false;
    d->lane->n_waiting--;
}

void dispatch_lose_pair(dispatch *d, dispatch_pair *p) {
    assert(p->state == PAIR_OPEN);
    dispatch_unwait_pair(d, p);
    p->state = PAIR_LOST;
    d->lane->n_open--;
    d->stats.lost_pairs++;
    if (d->lane->lost_expert == DISPATCH_NONE) d->lane->lost_expert = p->expert;
}

/* ---- the next action ---- */

static bool hand_out_local(dispatch *d, dispatch_action *out) {
    if (d->lane->n_here_out > 0) return false;

    uint32_t n = 0;
    for (uint32_t i = 0; i < d->lane->n_here; i++) {
        dispatch_pair *p = &d->lane->pairs[d->lane->here[i]];
        if (!p->waiting) continue; /* answered meanwhile */
        dispatch_unwait_pair(d, p);
        p->local = true;
        if (p->first != DISPATCH_NONE) out->takeover = true;
        d->lane->here[n++] = d->lane->here[i];
    }
    d->lane->n_here = d->lane->n_here_out = d->lane->n_here_kept = n;
    if (n == 0) return false;

    out->kind = DISPATCH_LOCAL;
    out->pairs = d->lane->here;
    out->n_pairs = n;
    return true;
}

/* The placement is the caller's again then. */
static bool is_done(dispatch *d) {
    if (d->lane->n_open > 0 || d->lane->n_here_out > 0) return false;
    d->lane->where = NULL;
    return true;
}

void dispatch_next(dispatch *d, uint64_t now_us, dispatch_action *out) {
    *out = (dispatch_action){.kind = DISPATCH_DONE, .wake_us = UINT64_MAX};

    uint64_t wake_us = dispatch_table_expire(d, now_us);
    if (is_done(d)) return;

    dispatch_check_late(d, now_us);
    dispatch_check_patience(d, now_us);
    if (d->lane->n_waiting > 0) {
        if (now_us >= d->lane->rest_wake_us) d->lane->replan = true;
        if (d->lane->replan) dispatch_plan(d, now_us);
        if (dispatch_cut(d, now_us, out)) return;
        if (hand_out_local(d, out)) return;
    }
    if (is_done(d)) return;

    out->kind = DISPATCH_WAIT;
    wake_us = dispatch_min(wake_us, d->lane->late_wake_us);
    wake_us = dispatch_min(wake_us, d->lane->give_up_us);
    if (d->lane->n_waiting > 0)
        wake_us = dispatch_min(wake_us, d->lane->rest_wake_us);
    out->wake_us = wake_us;
}

/* ---- results ---- */

bool dispatch_row_lost(const dispatch *d, uint32_t row) {
    assert(row < d->lane->n_rows);
    for (uint32_t i = 0; i < d->lane->k; i++) {
        if (d->lane->pairs[row * d->lane->k + i].state == PAIR_LOST)
            return true;
    }
    return false;
}

bool dispatch_lost_expert(const dispatch *d, uint32_t *expert) {
    if (d->lane->lost_expert == DISPATCH_NONE) return false;
    *expert = d->lane->lost_expert;
    return true;
}

void dispatch_node(const dispatch *d, uint32_t node, dispatch_node_stats *out) {
    assert(node < d->config.max_nodes);
    const dispatch_peer *peer = &d->peers[node];

    *out = (dispatch_node_stats){
        .serial = peer->serial,
        .pairs = peer->answered_pairs,
        .outstanding_bytes = peer->outstanding_bytes,
        .latency_us = peer->latency_us,
        .late_us =
            (uint32_t)dispatch_late_us(d, peer, dispatch_expect_us(peer, 1)),
        .up = peer->up,
        .suspect = peer->suspect,
        .slow_us = peer->slow_us,
    };
}

void dispatch_totals(const dispatch *d, dispatch_stats *out) {
    *out = d->stats;
}
