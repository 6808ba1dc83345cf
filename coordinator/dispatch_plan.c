/* dispatch_plan.c - which node computes which pair.
 *
 * The waiting pairs are walked in the order of their experts, and each expert's
 * pairs go to one holder, so that its weights are read once: the holder that is
 * predicted to finish first, counting what it has to do already and what this
 * plan gave it.  The plan is made anew whenever something changes (an answer
 * that does not come, a node that comes or goes), always from all waiting
 * pairs; so every queue is in order and no decision is ever patched. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>
#include <string.h>

#define DIGIT_BITS 8
#define DIGITS (1u << DIGIT_BITS)

/* One pass of a counting sort by one digit of the expert, stable. */
static void sort_by_digit(const dispatch *d, const uint32_t *from, uint32_t *to,
                          uint32_t shift) {
    uint32_t start[DIGITS + 1] = {0};

    for (uint32_t i = 0; i < d->n_pairs; i++) {
        uint32_t digit = (d->pairs[i].expert >> shift) % DIGITS;
        start[digit + 1]++;
    }
    for (uint32_t i = 0; i < DIGITS; i++)
        start[i + 1] += start[i];
    for (uint32_t i = 0; i < d->n_pairs; i++) {
        uint32_t digit = (d->pairs[from[i]].expert >> shift) % DIGITS;
        to[start[digit]++] = from[i];
    }
}

void dispatch_sort(dispatch *d) {
    uint32_t largest = 0;
    for (uint32_t i = 0; i < d->n_pairs; i++) {
        d->order[i] = i;
        if (d->pairs[i].expert > largest) largest = d->pairs[i].expert;
    }
    for (uint32_t shift = 0; shift < 32; shift += DIGIT_BITS) {
        if (largest >> shift == 0) break;
        sort_by_digit(d, d->order, d->scratch, shift);
        uint32_t *sorted = d->scratch;
        d->scratch = d->order;
        d->order = sorted;
    }
}

uint64_t dispatch_holder(const dispatch *d, uint32_t expert, uint32_t node) {
    uint32_t n;
    const uint16_t *holders = placement_nodes(d->where, d->layer, expert, &n);

    for (uint32_t i = 0; i < n && i < DISPATCH_HOLDERS; i++) {
        if (holders[i] == node) return 1ull << i;
    }
    return 0;
}

/* A node that has not answered yet is expected to be faster than the usual for
 * one piece, so that it is measured soon, and slow beyond: it is not given all
 * there is on a guess. */
static uint64_t guessed_us(const dispatch *d, uint64_t pairs) {
    if (pairs > d->piece_pairs) {
        return DISPATCH_BASE_US + pairs * DISPATCH_PAIR_NS / 1000;
    }
    return (d->usual_base_us + pairs * d->usual_pair_ns / 1000) / 2;
}

/* When the node would be done with `more` pairs on top of what it has.  An
 * estimate fades while it is not renewed, but never so far that the number of
 * pairs no longer matters. */
static uint64_t predicted_us(const dispatch *d, const dispatch_peer *peer,
                             uint64_t now_us, uint32_t more) {
    uint64_t pairs = (uint64_t)peer->outstanding_pairs + peer->planned + more;
    if (peer->n_samples == 0) return guessed_us(d, pairs);
    uint32_t fade = dispatch_faded(peer, now_us);
    uint64_t pair_ns = dispatch_max(peer->pair_ns >> fade, 1000);
    return (peer->base_us >> fade) + pairs * pair_ns / 1000;
}

/* May a piece of this many pairs be sent now? */
static bool has_credit(const dispatch *d, const dispatch_peer *peer,
                       uint32_t count) {
    uint32_t n = count < d->piece_pairs ? count : d->piece_pairs;
    uint64_t bytes = n * d->config.reply_row_bytes;
    return peer->outstanding_bytes == 0 ||
           peer->outstanding_bytes + bytes <= d->config.credit_bytes;
}

/* A node whose credit is held by answers that nobody counts on any more would
 * keep what is queued for it without a deadline, which is one piece. */
static bool is_blocked(const dispatch *d, uint32_t node, uint32_t count) {
    const dispatch_peer *peer = &d->peers[node];
    return dispatch_table_fresh(d, node) == 0 &&
           !has_credit(d, peer, peer->planned + count);
}

/* A suspect node's turn to show that it answers again. */
static bool trial_due(const dispatch_peer *peer, uint64_t now_us) {
    return now_us >= peer->trial_at_us && !peer->on_trial;
}

typedef struct {
    uint32_t node;    /* DISPATCH_NONE: nobody */
    uint32_t suspect; /* the best of those that answer late; or NONE */
    uint32_t refuser; /* the best of those that refused it lately; or NONE */
    bool soon;        /* somebody could be asked after a short rest */
    bool later;       /* somebody could be asked after a rest */
    bool blocked;     /* somebody could be asked after an answer that is late */
} choice;

static void prefer(uint32_t *best, uint64_t *best_us, uint32_t node,
                   uint64_t us) {
    if (us >= *best_us) return;
    *best_us = us;
    *best = node;
}

/* The best holder for `count` waiting pairs like *p. */
static choice choose(dispatch *d, uint64_t now_us, const dispatch_pair *p,
                     uint32_t count) {
    choice c = {DISPATCH_NONE, DISPATCH_NONE, DISPATCH_NONE,
                false,         false,         false};
    uint64_t best_us = UINT64_MAX, suspect_us = UINT64_MAX;
    uint64_t refuser_us = UINT64_MAX;
    uint32_t n;
    const uint16_t *holders =
        placement_nodes(d->where, d->layer, p->expert, &n);

    for (uint32_t i = 0; i < n && i < DISPATCH_HOLDERS; i++) {
        uint32_t node = holders[i];
        assert(node < d->config.max_nodes);
        dispatch_peer *peer = &d->peers[node];
        if (!peer->up || ((p->asked | p->refused) >> i & 1)) continue;
        if (now_us < peer->rest_until_us) {
            c.later = true;
            if (peer->rest_us <= DISPATCH_REST_SHORT_US) c.soon = true;
            d->rest_wake_us =
                dispatch_min(d->rest_wake_us, peer->rest_until_us);
            continue;
        }
        if (is_blocked(d, node, count)) {
            c.blocked = d->blocked = true;
            continue;
        }
        uint64_t us = predicted_us(d, peer, now_us, count);
        if (dispatch_refusal_holds(d, node, d->layer, p->expert, now_us)) {
            prefer(&c.refuser, &refuser_us, node, us);
        } else if (peer->suspect && !trial_due(peer, now_us)) {
            prefer(&c.suspect, &suspect_us, node, us);
        } else {
            prefer(&c.node, &best_us, node, us);
        }
    }
    return c;
}

/* Waiting pairs of one expert with the same past are placed together: order[i]
 * is the first, *end follows the last; others may lie between. */
static uint32_t run_of(const dispatch *d, uint32_t i, uint32_t *end) {
    const dispatch_pair *p = &d->pairs[d->order[i]];
    uint32_t count = 0;

    for (; i < d->n_pairs; i++) {
        const dispatch_pair *q = &d->pairs[d->order[i]];
        if (q->expert != p->expert) break;
        if (!q->waiting) continue;
        if (q->asked != p->asked || q->refused != p->refused ||
            q->local_failed != p->local_failed || q->overdue != p->overdue) {
            break;
        }
        count++;
    }
    *end = i;
    return count;
}

static void queue_run(dispatch *d, uint32_t node, uint32_t i, uint32_t end,
                      uint32_t count) {
    dispatch_peer *peer = &d->peers[node];

    if (peer->head == DISPATCH_NONE) d->busy[d->n_busy++] = node;
    if (peer->suspect) peer->on_trial = true;
    peer->planned += count;
    for (; i < end; i++) {
        uint32_t pair = d->order[i];
        if (!d->pairs[pair].waiting) continue;
        d->pairs[pair].next = DISPATCH_NONE;
        if (peer->head == DISPATCH_NONE) {
            peer->head = pair;
        } else {
            d->pairs[peer->tail].next = pair;
        }
        peer->tail = pair;
    }
}

/* Preferably a node that answers in time, at once or after a short rest; then
 * here; then a node that does not answer in time; then wait for its own answer
 * or for a rest to end; then a node that refused in an earlier layer; then wait
 * for an answer that is late and holds the credit of its node; else it is lost.
 */
static void place_run(dispatch *d, uint64_t now_us, uint32_t i, uint32_t end,
                      uint32_t count) {
    const dispatch_pair *p = &d->pairs[d->order[i]];
    bool here = d->config.local && !p->local_failed;
    choice c = choose(d, now_us, p, count);

    bool wait = c.soon && p->asked == 0;
    if (here && p->overdue) {
        c.node = DISPATCH_NONE;
        wait = false;
    }
    if (c.node == DISPATCH_NONE && !here && !wait) c.node = c.suspect;
    if (c.node == DISPATCH_NONE && !here && p->asked == 0 && !c.later) {
        c.node = c.refuser;
    }
    if (c.node != DISPATCH_NONE) {
        queue_run(d, c.node, i, end, count);
        return;
    }
    if (wait || (!here && (p->asked != 0 || c.later || c.blocked))) return;
    for (; i < end; i++) {
        uint32_t pair = d->order[i];
        if (!d->pairs[pair].waiting) continue;
        if (here) {
            d->here[d->n_here++] = pair;
        } else {
            dispatch_lose_pair(d, &d->pairs[pair]);
        }
    }
}

static void clear_plan(dispatch *d) {
    for (uint32_t i = 0; i < d->n_busy; i++) {
        dispatch_peer *peer = &d->peers[d->busy[i]];
        peer->head = peer->tail = DISPATCH_NONE;
        peer->planned = 0;
        peer->on_trial = false;
    }
    d->n_busy = 0;
    d->turn = 0;
    d->rest_wake_us = UINT64_MAX;
    d->blocked = false;
    d->replan = false;
}

void dispatch_plan(dispatch *d, uint64_t now_us) {
    clear_plan(d);
    d->n_here = d->n_here_kept;

    uint32_t i = 0;
    while (i < d->n_pairs && d->n_waiting > 0) {
        if (!d->pairs[d->order[i]].waiting) {
            i++;
            continue;
        }
        uint32_t end;
        uint32_t count = run_of(d, i, &end);
        place_run(d, now_us, i, end, count);
        i = end;
    }
}

/* ---- pieces ---- */

/* How long the node will take for everything it was asked, by what it showed.
 * A slow node must not be called late, nor a dead one be waited for without
 * end. */
static uint64_t late_after_us(const dispatch *d, const dispatch_peer *peer) {
    bool known = peer->n_samples > 0;
    uint64_t base_us = known ? peer->base_us : DISPATCH_BASE_US;
    uint64_t pair_ns = known ? peer->pair_ns : DISPATCH_PAIR_NS;
    uint64_t us = base_us + peer->outstanding_pairs * pair_ns / 1000;
    us *= d->config.hedge_factor;
    us = dispatch_min(us, d->config.patience_us / 2);
    return dispatch_max(us, d->config.hedge_min_us);
}

static void put_in_flight(dispatch *d, uint64_t now_us, dispatch_request *r,
                          bool *takeover) {
    dispatch_peer *peer = &d->peers[r->node];
    uint32_t pair = peer->head;

    *takeover = false;
    for (uint32_t n = 0; n < r->n_pairs; pair = d->pairs[pair].next) {
        dispatch_pair *p = &d->pairs[pair];
        if (!p->waiting) continue;
        r->pairs[n++] = pair;
        dispatch_unwait_pair(d, p);
        p->asked |= dispatch_holder(d, p->expert, r->node);
        if (p->first == DISPATCH_NONE) {
            p->first = r->node;
            p->first_id = r->id;
            p->first_us = now_us;
        }
        if (p->first != r->node) *takeover = true;
    }
    peer->head = pair;

    uint64_t late_us = late_after_us(d, peer);
    r->ahead = peer->outstanding_pairs;
    r->sent_us = now_us;
    r->late_us = dispatch_later(now_us, late_us);
    r->again_us = dispatch_later(
        now_us, dispatch_max(late_us * DISPATCH_RESENDS,
                             d->config.patience_us / DISPATCH_RESENDS));
    d->late_wake_us = dispatch_min(d->late_wake_us, r->late_us);
    d->give_up_us = dispatch_min(d->give_up_us,
                                 dispatch_later(now_us, d->config.patience_us));
    if (peer->suspect) {
        peer->trial_at_us = now_us + peer->trial_us;
        peer->trial_us = (uint32_t)dispatch_min(peer->trial_us * 2ull,
                                                DISPATCH_TRIAL_MAX_US);
    }
}

/* The next piece of one node's queue, unless it would exceed its credit.  A
 * piece larger than the whole credit goes alone. */
static bool cut_piece(dispatch *d, uint64_t now_us, uint32_t node,
                      dispatch_action *out) {
    dispatch_peer *peer = &d->peers[node];

    while (peer->head != DISPATCH_NONE && !d->pairs[peer->head].waiting) {
        peer->head = d->pairs[peer->head].next;
    }
    uint32_t n = 0;
    for (uint32_t pair = peer->head;
         pair != DISPATCH_NONE && n < d->piece_pairs;
         pair = d->pairs[pair].next) {
        if (d->pairs[pair].waiting) n++;
    }
    if (n == 0) return false;
    if (!has_credit(d, peer, n)) return false;
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
    for (uint32_t i = 0; i < d->n_busy; i++) {
        uint32_t at = (d->turn + i) % d->n_busy;
        if (!cut_piece(d, now_us, d->busy[at], out)) continue;
        d->turn = (at + 1) % d->n_busy;
        return true;
    }
    return false;
}
