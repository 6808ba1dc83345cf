/* dispatch_late.c - what time brings: requests that are late, and pairs that
 * are out of patience.
 *
 * A late request is asked of somebody else as well, which is a hedge: most
 * often it was only slow, and then the work was done twice.  So every call adds
 * a small part of one hedge to a budget, and a hedge takes a whole one; what
 * was saved up is enough for all that a node which is suddenly lost may owe.
 * When the budget is empty, a request has to be late for much longer; then it
 * counts as lost, and is asked again in any case. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>

#define WHOLE 100 /* one hedge, in percent */

/* ---- the budget ---- */

static bool may_hedge(const dispatch *d) {
    return d->config.hedge_percent == 0 || d->budget >= WHOLE;
}

void dispatch_count_call(dispatch *d, const dispatch_request *r, bool retry,
                         bool trial) {
    d->stats.calls++;
    if (r->hedge) d->stats.hedges++;
    if (retry && !r->hedge) d->stats.retries++;
    if (trial) d->stats.trials++;
    if (r->hedge || trial) {
        d->budget -= WHOLE;
    } else {
        d->budget += d->config.hedge_percent;
    }
    const int64_t most = WHOLE * DISPATCH_HEDGE_BURST;
    if (d->budget > most) d->budget = most;
    if (d->budget < -most) d->budget = -most;
}

/* ---- late ---- */

/* Whatever the node owes of this request is asked of somebody else as well. */
static void ask_others(dispatch *d, dispatch_request *r, bool second) {
    r->doubled = true;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        dispatch_pair *p = dispatch_pair_of(d, r, i);
        if (p == NULL) continue;
        if (second) p->second = true;
        dispatch_wait_pair(d, p);
    }
}

/* The node is not trusted until it answers. */
static void mark_late(dispatch *d, uint64_t now_us, dispatch_request *r) {
    dispatch_peer *peer = &d->peers[r->node];

    dispatch_table_late(d, r);
    if (!peer->suspect) {
        peer->suspect = true;
        peer->trial_us = DISPATCH_TRIAL_MIN_US;
        peer->trial_at_us = now_us + peer->trial_us;
        dispatch_replan(d); /* also for what waits for its credit */
    }
}

/* The request may have been lost: its node becomes a choice again. */
static void allow_again(dispatch *d, dispatch_request *r) {
    r->again = true;
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        dispatch_pair *p = dispatch_pair_of(d, r, i);
        if (p == NULL) continue;
        p->asked &= ~dispatch_holder(d, p->expert, r->node);
        dispatch_wait_pair(d, p);
    }
    d->lane->replan = true;
}

/* When a late request counts as lost: not while its node is at work. */
static uint64_t again_us(const dispatch *d, const dispatch_request *r) {
    uint64_t works_us = d->peers[r->node].works_us;
    if (works_us == 0) return r->again_us;
    return dispatch_max(
        r->again_us,
        dispatch_later(works_us, d->config.patience_us / DISPATCH_WORKS));
}

/* Returns when time alone changes something about it next. */
static uint64_t check_request(dispatch *d, uint64_t now_us,
                              dispatch_request *r) {
    if (!r->late && now_us < r->late_us) return r->late_us;
    if (!r->late) mark_late(d, now_us, r);
    bool second = now_us >= r->second_us;
    if (!r->doubled && (second || may_hedge(d))) ask_others(d, r, second);
    uint64_t lost_us = again_us(d, r);
    if (!r->again && now_us >= lost_us) allow_again(d, r);
    uint64_t next_us = r->again ? UINT64_MAX : lost_us;
    return r->doubled ? next_us : dispatch_min(next_us, r->second_us);
}

void dispatch_check_late(dispatch *d, uint64_t now_us) {
    if (now_us < d->lane->late_wake_us) return;
    d->lane->late_wake_us = UINT64_MAX;

    /* This layer's requests are among the newest ones. */
    for (uint32_t i = d->newest; i != DISPATCH_NONE; i = d->requests[i].older) {
        dispatch_request *r = &d->requests[i];
        if (r->stamp < d->lane->first_stamp) break;
        if (!dispatch_table_current(d, r)) continue;
        d->lane->late_wake_us =
            dispatch_min(d->lane->late_wake_us, check_request(d, now_us, r));
    }
}

/* ---- patience ---- */

/* The last sign that a pair may still be computed.  One that was asked counts
 * from then on, one that was not (its node's credit is used up, or it rests) as
 * long as others are answered; and both as long as a holder is at work. */
static uint64_t last_sign_us(const dispatch *d, const dispatch_pair *p) {
    uint64_t us =
        p->first != DISPATCH_NONE ? p->first_us : d->lane->progress_us;
    us = dispatch_max(us, d->paused_us);
    uint32_t n;
    const uint16_t *holders =
        placement_nodes(d->lane->where, d->lane->layer, p->expert, &n);
    for (uint32_t i = 0; i < n && i < DISPATCH_HOLDERS; i++) {
        const dispatch_peer *peer = &d->peers[holders[i]];
        if (!peer->up || (p->refused >> i & 1)) continue;
        us = dispatch_max(us, peer->works_us);
    }
    return us;
}

void dispatch_check_patience(dispatch *d, uint64_t now_us) {
    if (now_us < d->lane->give_up_us) return;
    d->lane->give_up_us = UINT64_MAX;

    for (uint32_t i = 0; i < d->lane->n_pairs; i++) {
        dispatch_pair *p = &d->lane->pairs[i];
        if (p->state != PAIR_OPEN || p->local || p->overdue) continue;
        uint64_t due_us =
            dispatch_later(last_sign_us(d, p), d->config.patience_us);
        if (now_us < due_us) {
            d->lane->give_up_us = dispatch_min(d->lane->give_up_us, due_us);
        } else if (d->config.local && !p->local_failed) {
            p->overdue = true;
            dispatch_wait_pair(d, p);
            d->lane->replan = true;
        } else {
            dispatch_lose_pair(d, p);
        }
    }
}
