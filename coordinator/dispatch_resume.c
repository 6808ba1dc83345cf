/* dispatch_resume.c - work that outlives its layer.
 *
 * A pair that was given up comes back: its sequence is fed again soon, with the
 * same row in the same layer.  The node that was too slow for our patience may
 * still be at work for the earlier request.  Asking it once more would queue
 * the work behind itself, and a node that always takes longer than the patience
 * would never be heard.  So when a layer ends with rows that are lost, what is
 * in flight of it is remembered by what it is for, and taken up when that is
 * asked for again: the pair waits for the answer that is under way.
 *
 * Rows are told apart by keys that the caller makes; a request may be taken up
 * in part, since a later step has other rows beside those that come back. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>

static dispatch_work *works_of(dispatch *d, const dispatch_request *r) {
    size_t slot = (size_t)(r - d->requests);
    return d->request_works + slot * d->piece_pairs;
}

bool dispatch_owes(const dispatch *d) {
    for (uint32_t i = d->newest; i != DISPATCH_NONE; i = d->requests[i].older) {
        const dispatch_request *r = &d->requests[i];
        if (r->stamp < d->lane->first_stamp) return false;
        if (dispatch_table_own(d, r)) return true;
    }
    return false;
}

static void keep_request(dispatch *d, dispatch_request *r,
                         const uint64_t *row_keys) {
    dispatch_work *works = works_of(d, r);
    bool any = false;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        uint32_t pair = r->pairs[i];
        if (pair != DISPATCH_NONE) { /* else: as it was kept before */
            works[i] = (dispatch_work){.row_key = row_keys[pair / d->lane->k],
                                       .expert = d->lane->pairs[pair].expert};
        }
        any = any || works[i].row_key != 0;
    }
    r->kept = any;
}

void dispatch_keep(dispatch *d, const uint64_t *row_keys) {
    for (uint32_t i = d->newest; i != DISPATCH_NONE; i = d->requests[i].older) {
        dispatch_request *r = &d->requests[i];
        if (r->stamp < d->lane->first_stamp) break;
        if (dispatch_table_own(d, r)) keep_request(d, r, row_keys);
    }
}

bool dispatch_is_kept(const dispatch *d, uint64_t request_id) {
    const dispatch_request *r =
        dispatch_table_find(d, DISPATCH_NONE, request_id);
    return r != NULL && r->kept && !dispatch_table_open(d, r);
}

bool dispatch_has_kept(const dispatch *d, uint32_t layer) {
    for (uint32_t i = d->oldest; i != DISPATCH_NONE; i = d->requests[i].newer) {
        const dispatch_request *r = &d->requests[i];
        if (dispatch_table_open(d, r)) continue;
        if (r->kept && r->layer == layer) return true;
    }
    return false;
}

/* ---- taking up ---- */

/* Where the pairs of an expert begin in d->lane->order. */
static uint32_t first_of(const dispatch *d, uint32_t expert) {
    uint32_t low = 0, high = d->lane->n_pairs;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (d->lane->pairs[d->lane->order[middle]].expert < expert) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* A pair of this layer that is the same work; best, one that nobody was asked
 * for.  Whichever answer comes first is used. */
static uint32_t find_pair(const dispatch *d, const dispatch_work *work,
                          const uint64_t *row_keys) {
    uint32_t found = DISPATCH_NONE;
    for (uint32_t i = first_of(d, work->expert); i < d->lane->n_pairs; i++) {
        uint32_t pair = d->lane->order[i];
        const dispatch_pair *p = &d->lane->pairs[pair];
        if (p->expert != work->expert) break;
        if (row_keys[pair / d->lane->k] != work->row_key) continue;
        if (p->waiting) return pair;
        found = pair;
    }
    return found;
}

static void await_pair(dispatch *d, uint64_t now_us, dispatch_pair *p,
                       const dispatch_request *r) {
    dispatch_unwait_pair(d, p);
    p->asked |= dispatch_holder(d, p->expert, r->node);
    if (p->tries <= r->tries)
        p->tries = (uint8_t)dispatch_min(r->tries + 1, DISPATCH_TRIES_MOST);
    p->asked_us = dispatch_max(p->asked_us, r->sent_us);
    if (p->first != DISPATCH_NONE) return;
    p->first = r->node;
    p->first_id = r->id;
    p->first_us = now_us;
}

static void take_up(dispatch *d, uint64_t now_us, dispatch_request *r,
                    const uint64_t *row_keys) {
    const dispatch_work *works = works_of(d, r);
    bool any = false;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        uint32_t pair = DISPATCH_NONE;
        if (works[i].row_key != 0) pair = find_pair(d, &works[i], row_keys);
        /* Only now: the placement may have fewer units than when it was kept.
         */
        if (pair != DISPATCH_NONE &&
            dispatch_holder(d, works[i].expert, r->node) == 0) {
            pair = DISPATCH_NONE;
        }
        r->pairs[i] = pair;
        if (pair == DISPATCH_NONE) continue;
        await_pair(d, now_us, &d->lane->pairs[pair], r);
        any = true;
        d->stats.resumed_pairs++;
    }
    if (any) dispatch_table_renew(d, r);
}

/* Several may be under way for one pair: none of them is older than the others
 * when it comes to asking once more.  That is when it would have been if the
 * layer had gone on: what was lost on the way must not wait for ever. */
static void set_deadlines(dispatch *d, uint64_t now_us, dispatch_request *r) {
    uint64_t asked_us = r->sent_us;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        const dispatch_pair *p = dispatch_pair_of(d, r, i);
        if (p == NULL) continue;
        if (p->tries > r->tries + 1) r->tries = p->tries - 1;
        asked_us = dispatch_max(asked_us, p->asked_us);
    }
    dispatch_set_deadlines(d, now_us, asked_us, r);
}

static bool is_under_way(const dispatch *d, uint64_t now_us,
                         const dispatch_request *r) {
    uint64_t sign_us = dispatch_max(r->sent_us, d->peers[r->node].works_us);
    uint64_t us = (uint64_t)d->config.patience_us * DISPATCH_UNDER_WAY;
    return r->arrived || now_us < dispatch_later(sign_us, us);
}

void dispatch_resume(dispatch *d, uint64_t now_us, const uint64_t *row_keys) {
    assert(d->lane->where != NULL);
    uint32_t i = d->oldest;
    while (i != DISPATCH_NONE) {
        dispatch_request *r = &d->requests[i];
        i = r->newer;
        if (dispatch_table_open(d, r)) continue; /* or taken up just now */
        if (!r->kept || r->layer != d->lane->layer) continue;
        if (d->peers[r->node].trust == NODE_WRONG) continue;
        if (is_under_way(d, now_us, r)) {
            take_up(d, now_us, r, row_keys);
        } else {
            dispatch_table_remove(d, r);
        }
    }
    for (i = d->newest; i != DISPATCH_NONE; i = d->requests[i].older) {
        dispatch_request *r = &d->requests[i];
        if (r->stamp < d->lane->first_stamp) break;
        if (dispatch_table_current(d, r)) set_deadlines(d, now_us, r);
    }
}
