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
    return 2ull * d->config.max_nodes + 4 * pieces + 16;
}

static int grow(uint32_t **list, size_t n) {
    uint32_t *grown = realloc(*list, n * sizeof(**list));
    if (grown == NULL) return -ENOMEM;
    *list = grown;
    return 0;
}

static int grow_parts(dispatch *d, size_t n) {
    dispatch_part *grown = realloc(d->parts, n * sizeof(*grown));
    if (grown == NULL) return -ENOMEM;
    d->parts = grown;
    return 0;
}

int dispatch_reserve(dispatch *d, uint32_t max_pairs) {
    assert(d->where == NULL);
    if (max_pairs <= d->room) return 0;
    if (max_pairs > INT32_MAX) return ERR_RANGE;

    dispatch_pair *pairs = realloc(d->pairs, max_pairs * sizeof(*pairs));
    if (pairs == NULL) return -ENOMEM;
    d->pairs = pairs;
    int rc = grow(&d->order, max_pairs);
    if (rc == 0) rc = grow(&d->scratch, max_pairs);
    if (rc == 0) rc = grow(&d->here, max_pairs);
    if (rc == 0) rc = grow_parts(d, max_pairs);
    if (rc < 0) return rc;

    uint64_t piece = d->config.piece_bytes / d->config.reply_row_bytes;
    piece = dispatch_min(dispatch_max(piece, 1), max_pairs);
    rc = dispatch_table_grow(d, slots_for(d, max_pairs, (uint32_t)piece),
                             (uint32_t)piece);
    if (rc < 0) return rc;
    d->room = max_pairs;
    return 0;
}

static int allocate(dispatch *d) {
    size_t nodes = d->config.max_nodes;
    d->busy = calloc(nodes + 1, sizeof(*d->busy));
    d->peers = calloc(nodes + 1, sizeof(*d->peers));
    if (d->busy == NULL || d->peers == NULL) return -ENOMEM;
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
        d->peers[i] = (dispatch_peer){
            .trial_us = DISPATCH_TRIAL_MIN_US,
            .head = DISPATCH_NONE,
            .tail = DISPATCH_NONE,
        };
        dispatch_forget_speed(d, &d->peers[i]);
    }
    d->budget = 100 * DISPATCH_HEDGE_BURST;
    d->usual_base_us = DISPATCH_BASE_US;
    d->usual_pair_ns = DISPATCH_PAIR_NS;
    d->lost_expert = DISPATCH_NONE;
    *out = d;
    return 0;
}

void dispatch_free(dispatch *d) {
    if (d == NULL) return;
    free(d->pairs);
    free(d->order);
    free(d->scratch);
    free(d->here);
    free(d->parts);
    free(d->busy);
    free(d->peers);
    free(d->requests);
    free(d->request_pairs);
    free(d->request_works);
    free(d);
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

    fade_given(d, now_us);
    d->layer_seq++;
    d->layer = layer;
    d->n_rows = n_rows;
    d->k = k;
    d->n_pairs = (uint32_t)n_pairs;
    d->where = where;
    for (uint32_t i = 0; i < d->n_pairs; i++) {
        d->pairs[i] = (dispatch_pair){
            .expert = experts[i], .first = DISPATCH_NONE, .waiting = true};
    }
    dispatch_sort(d);
    d->n_open = d->n_waiting = d->n_pairs;
    d->n_here = d->n_here_out = d->n_here_kept = 0;
    d->lost_expert = DISPATCH_NONE;
    d->progress_us = now_us;
    d->late_wake_us = UINT64_MAX;
    d->give_up_us = dispatch_later(now_us, d->config.patience_us);
    d->replan = true;
    return 0;
}

/* ---- what can become of a pair ---- */

void dispatch_wait_pair(dispatch *d, dispatch_pair *p) {
    if (p->state != PAIR_OPEN || p->waiting || p->local) return;
    p->waiting = true;
    d->n_waiting++;
    d->replan = true;
}

void dispatch_unwait_pair(dispatch *d, dispatch_pair *p) {
    if (!p->waiting) return;
    p->waiting = false;
    d->n_waiting--;
}

void dispatch_lose_pair(dispatch *d, dispatch_pair *p) {
    assert(p->state == PAIR_OPEN);
    dispatch_unwait_pair(d, p);
    p->state = PAIR_LOST;
    d->n_open--;
    d->stats.lost_pairs++;
    if (d->lost_expert == DISPATCH_NONE) d->lost_expert = p->expert;
}

/* ---- the next action ---- */

static bool hand_out_local(dispatch *d, dispatch_action *out) {
    if (d->n_here_out > 0) return false;

    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_here; i++) {
        dispatch_pair *p = &d->pairs[d->here[i]];
        if (!p->waiting) continue; /* answered meanwhile */
        dispatch_unwait_pair(d, p);
        p->local = true;
        if (p->first != DISPATCH_NONE) out->takeover = true;
        d->here[n++] = d->here[i];
    }
    d->n_here = d->n_here_out = d->n_here_kept = n;
    if (n == 0) return false;

    out->kind = DISPATCH_LOCAL;
    out->pairs = d->here;
    out->n_pairs = n;
    return true;
}

/* The placement is the caller's again then. */
static bool is_done(dispatch *d) {
    if (d->n_open > 0 || d->n_here_out > 0) return false;
    d->where = NULL;
    return true;
}

void dispatch_next(dispatch *d, uint64_t now_us, dispatch_action *out) {
    *out = (dispatch_action){.kind = DISPATCH_DONE, .wake_us = UINT64_MAX};

    uint64_t wake_us = dispatch_table_expire(d, now_us);
    if (is_done(d)) return;

    dispatch_check_late(d, now_us);
    dispatch_check_patience(d, now_us);
    if (d->n_waiting > 0) {
        if (now_us >= d->rest_wake_us) d->replan = true;
        if (d->replan) dispatch_plan(d, now_us);
        if (dispatch_cut(d, now_us, out)) return;
        if (hand_out_local(d, out)) return;
    }
    if (is_done(d)) return;

    out->kind = DISPATCH_WAIT;
    wake_us = dispatch_min(wake_us, d->late_wake_us);
    wake_us = dispatch_min(wake_us, d->give_up_us);
    if (d->n_waiting > 0) wake_us = dispatch_min(wake_us, d->rest_wake_us);
    out->wake_us = wake_us;
}

/* ---- results ---- */

bool dispatch_row_lost(const dispatch *d, uint32_t row) {
    assert(row < d->n_rows);
    for (uint32_t i = 0; i < d->k; i++) {
        if (d->pairs[row * d->k + i].state == PAIR_LOST) return true;
    }
    return false;
}

bool dispatch_lost_expert(const dispatch *d, uint32_t *expert) {
    if (d->lost_expert == DISPATCH_NONE) return false;
    *expert = d->lost_expert;
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
