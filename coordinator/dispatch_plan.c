/* dispatch_plan.c - which node computes which pair.
 *
 * The waiting pairs are walked in the order of their experts, and each expert's
 * pairs go to one holder, so that its weights are read once: the holder that is
 * predicted to finish first, counting what it has to do already and what this
 * plan gave it; of those that are about as good, the one that was given least
 * lately, so that replicas share the work.  Then long runs are looked at again
 * (dispatch_split.c).  The plan is made anew whenever something changes (an
 * answer that does not come, a node that comes or goes), always from all
 * waiting pairs; so every queue is in order and no decision is ever patched. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>

#define DIGIT_BITS 8
#define DIGITS (1u << DIGIT_BITS)

/* One pass of a counting sort by one digit of the expert, stable. */
static void sort_by_digit(const dispatch *d, const uint32_t *from, uint32_t *to,
                          uint32_t shift) {
    uint32_t start[DIGITS + 1] = {0};

    for (uint32_t i = 0; i < d->lane->n_pairs; i++) {
        uint32_t digit = (d->lane->pairs[i].expert >> shift) % DIGITS;
        start[digit + 1]++;
    }
    for (uint32_t i = 0; i < DIGITS; i++)
        start[i + 1] += start[i];
    for (uint32_t i = 0; i < d->lane->n_pairs; i++) {
        uint32_t digit = (d->lane->pairs[from[i]].expert >> shift) % DIGITS;
        to[start[digit]++] = from[i];
    }
}

void dispatch_sort(dispatch *d) {
    uint32_t largest = 0;
    for (uint32_t i = 0; i < d->lane->n_pairs; i++) {
        d->lane->order[i] = i;
        if (d->lane->pairs[i].expert > largest)
            largest = d->lane->pairs[i].expert;
    }
    for (uint32_t shift = 0; shift < 32; shift += DIGIT_BITS) {
        if (largest >> shift == 0) break;
        sort_by_digit(d, d->lane->order, d->lane->scratch, shift);
        uint32_t *sorted = d->lane->scratch;
        d->lane->scratch = d->lane->order;
        d->lane->order = sorted;
    }
}

uint64_t dispatch_holder(const dispatch *d, uint32_t expert, uint32_t node) {
    uint32_t n;
    const uint16_t *holders =
        placement_nodes(d->lane->where, d->lane->layer, expert, &n);

    for (uint32_t i = 0; i < n && i < DISPATCH_HOLDERS; i++) {
        if (holders[i] == node) return 1ull << i;
    }
    return 0;
}

/* A node whose credit is held by answers that nobody counts on any more would
 * keep what is queued for it without a deadline, which is one piece. */
static bool is_blocked(const dispatch *d, uint32_t node, uint32_t count) {
    const dispatch_peer *peer = &d->peers[node];
    return dispatch_table_fresh(d, node) == 0 &&
           !dispatch_has_credit(d, peer, d->lane->queues[node].planned + count);
}

/* Others are asked first: it did not answer in time, or is far slower. */
static bool is_doubtful(const dispatch_peer *peer) {
    return peer->suspect || peer->slow_us != 0;
}

/* A doubtful node's turn to show what it can do. */
static bool trial_due(const dispatch *d, const dispatch_peer *peer,
                      uint64_t now_us) {
    bool budget = d->config.hedge_percent == 0 || d->budget > 0;
    return is_doubtful(peer) && now_us >= peer->trial_at_us &&
           !dispatch_queue_of(d, peer)->on_trial && budget;
}

/* In the order in which they are asked. */
typedef enum {
    CLASS_GOOD,
    CLASS_LAST,     /* quarantined */
    CLASS_DOUBTFUL, /* late or slow */
    CLASS_REFUSER,  /* of this expert, lately */
    CLASS_WRONG,    /* its answers were not what others answered */
    CLASSES
} class;

static class class_of(const dispatch *d, uint64_t now_us, uint32_t expert,
                      uint32_t node) {
    const dispatch_peer *peer = &d->peers[node];
    if (peer->trust == NODE_WRONG) return CLASS_WRONG;
    if (dispatch_refusal_holds(d, node, d->lane->layer, expert, now_us)) {
        return CLASS_REFUSER;
    }
    if (is_doubtful(peer)) return CLASS_DOUBTFUL;
    return peer->trust == NODE_LAST ? CLASS_LAST : CLASS_GOOD;
}

typedef struct {
    uint32_t best[CLASSES]; /* DISPATCH_NONE: nobody */
    uint32_t trial;         /* a doubtful node whose turn it is; or NONE */
    bool soon;              /* somebody could be asked after a short rest */
    bool later;             /* somebody could be asked after a rest */
    bool blocked; /* somebody could be asked after an answer that is late */
} choice;

typedef struct {
    uint32_t node;
    uint64_t us; /* would be done then */
} candidate;

/* The soonest; or, of those that are nearly as soon, the one that was given
 * least lately, then the lowest. */
static uint32_t best_of(const dispatch *d, const candidate *list, uint32_t n) {
    uint64_t least_us = UINT64_MAX, least_given = UINT64_MAX;
    uint32_t best = DISPATCH_NONE;
    for (uint32_t i = 0; i < n; i++)
        least_us = dispatch_min(least_us, list[i].us);
    for (uint32_t i = 0; i < n; i++) {
        const dispatch_peer *peer = &d->peers[list[i].node];
        uint64_t given = peer->given + d->lane->queues[list[i].node].planned;
        bool near = list[i].us - least_us <= least_us / DISPATCH_NEAR;
        if (!near || given >= least_given) continue;
        least_given = given;
        best = list[i].node;
    }
    return best;
}

static bool rests(dispatch *d, uint64_t now_us, const dispatch_peer *peer,
                  choice *c) {
    if (now_us >= peer->rest_until_us) return false;
    c->later = true;
    if (peer->rest_us <= DISPATCH_REST_SHORT_US) c->soon = true;
    d->lane->rest_wake_us =
        dispatch_min(d->lane->rest_wake_us, peer->rest_until_us);
    return true;
}

/* The best holders for `count` waiting pairs like *p. */
static choice choose(dispatch *d, uint64_t now_us, const dispatch_pair *p,
                     uint32_t count) {
    choice c = {.trial = DISPATCH_NONE};
    candidate lists[CLASSES][DISPATCH_HOLDERS];
    uint32_t lengths[CLASSES] = {0}, n;
    const uint16_t *holders =
        placement_nodes(d->lane->where, d->lane->layer, p->expert, &n);

    for (uint32_t i = 0; i < n && i < DISPATCH_HOLDERS; i++) {
        uint32_t node = holders[i];
        assert(node < d->config.max_nodes);
        const dispatch_peer *peer = &d->peers[node];
        if (!peer->up || ((p->asked | p->refused) >> i & 1)) continue;
        if (rests(d, now_us, peer, &c)) continue;
        if (is_blocked(d, node, count)) {
            c.blocked = d->lane->blocked = true;
            continue;
        }
        class k = class_of(d, now_us, p->expert, node);
        lists[k][lengths[k]++] =
            (candidate){node, dispatch_predict_us(d, peer, now_us, count)};
        if (k == CLASS_DOUBTFUL && trial_due(d, peer, now_us)) c.trial = node;
    }
    for (uint32_t k = 0; k < CLASSES; k++)
        c.best[k] = best_of(d, lists[k], lengths[k]);
    return c;
}

bool dispatch_is_good(const dispatch *d, uint64_t now_us,
                      const dispatch_pair *p, uint32_t i, uint32_t node,
                      uint32_t count) {
    const dispatch_peer *peer = &d->peers[node];
    return peer->up && ((p->asked | p->refused) >> i & 1) == 0 &&
           now_us >= peer->rest_until_us && !is_blocked(d, node, count) &&
           class_of(d, now_us, p->expert, node) == CLASS_GOOD;
}

/* Waiting pairs of one expert with the same past are placed together: order[i]
 * is the first, *end follows the last; others may lie between. */
static uint32_t run_of(const dispatch *d, uint32_t i, uint32_t *end) {
    const dispatch_pair *p = &d->lane->pairs[d->lane->order[i]];
    uint32_t count = 0;

    for (; i < d->lane->n_pairs; i++) {
        const dispatch_pair *q = &d->lane->pairs[d->lane->order[i]];
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

static void add_part(dispatch *d, uint32_t node, uint32_t i, uint32_t end,
                     uint32_t count, bool trial) {
    assert(d->lane->n_parts < d->room);
    d->lane->parts[d->lane->n_parts++] =
        (dispatch_part){i, end, count, node, trial};
    d->lane->queues[node].planned += count;
    if (trial) d->lane->queues[node].on_trial = true;
}

/* So many waiting pairs from order[i] on end before order[that]. */
static uint32_t skip_waiting(const dispatch *d, uint32_t i, uint32_t count) {
    for (; count > 0; i++)
        count -= d->lane->pairs[d->lane->order[i]].waiting;
    return i;
}

static void place_nowhere(dispatch *d, uint32_t i, uint32_t end, bool here) {
    for (; i < end; i++) {
        uint32_t pair = d->lane->order[i];
        if (!d->lane->pairs[pair].waiting) continue;
        if (here) {
            d->lane->here[d->lane->n_here++] = pair;
        } else {
            dispatch_lose_pair(d, &d->lane->pairs[pair]);
        }
    }
}

/* Preferably a node that answers in time, at once or after a short rest; then
 * here; then one in quarantine; then a node that does not answer in time; then
 * wait for its own answer or for a rest to end; then a node that refused in an
 * earlier layer, or answered wrongly; then wait for an answer that is late and
 * holds the credit of its node; else it is lost. */
static uint32_t pick(const dispatch_pair *p, const choice *c, bool here,
                     bool *wait) {
    uint32_t node = c->best[CLASS_GOOD];
    *wait = c->soon && p->asked == 0;
    if (here && p->overdue) {
        *wait = false;
        return DISPATCH_NONE;
    }
    if (node != DISPATCH_NONE || here || *wait) return node;
    node = c->best[CLASS_LAST];
    if (node == DISPATCH_NONE) node = c->best[CLASS_DOUBTFUL];
    *wait = p->asked != 0 || c->later;
    if (node != DISPATCH_NONE || *wait) return node;
    node = c->best[CLASS_REFUSER];
    if (node == DISPATCH_NONE) node = c->best[CLASS_WRONG];
    *wait = c->blocked;
    return node;
}

static void place_run(dispatch *d, uint64_t now_us, uint32_t i, uint32_t end,
                      uint32_t count) {
    const dispatch_pair *p = &d->lane->pairs[d->lane->order[i]];
    bool here = d->config.local && !p->local_failed, wait;
    choice c = choose(d, now_us, p, count);
    uint32_t node = pick(p, &c, here, &wait);

    /* A copy for one on trial, of what somebody else will do. */
    bool sure =
        node != DISPATCH_NONE ? c.best[CLASS_DOUBTFUL] != node : here && !wait;
    if (sure && c.trial != DISPATCH_NONE) {
        uint32_t part = (uint32_t)dispatch_min(count, DISPATCH_TRIAL_PAIRS);
        uint32_t cut = part < count ? skip_waiting(d, i, part) : end;
        add_part(d, c.trial, i, cut, part, true);
        i = cut;
        count -= part;
    }
    if (count == 0) return;
    if (node != DISPATCH_NONE) {
        add_part(d, node, i, end, count, false);
    } else if (!wait) {
        place_nowhere(d, i, end, here);
    }
}

static void queue_part(dispatch *d, const dispatch_part *part) {
    dispatch_queue *queue = &d->lane->queues[part->node];
    if (queue->head == DISPATCH_NONE)
        d->lane->busy[d->lane->n_busy++] = part->node;
    for (uint32_t i = part->begin; i < part->end; i++) {
        uint32_t pair = d->lane->order[i];
        dispatch_pair *p = &d->lane->pairs[pair];
        if (!p->waiting) continue;
        p->next = DISPATCH_NONE;
        p->trial = part->trial;
        if (queue->head == DISPATCH_NONE) {
            queue->head = pair;
        } else {
            d->lane->pairs[queue->tail].next = pair;
        }
        queue->tail = pair;
    }
}

/* Every node with a part has a queue since, and is among the busy ones. */
static void clear_plan(dispatch *d) {
    for (uint32_t i = 0; i < d->lane->n_busy; i++) {
        dispatch_queue *queue = &d->lane->queues[d->lane->busy[i]];
        queue->head = queue->tail = DISPATCH_NONE;
        queue->planned = 0;
        queue->on_trial = false;
    }
    d->lane->n_busy = 0;
    d->lane->n_parts = 0;
    d->lane->turn = 0;
    d->lane->rest_wake_us = UINT64_MAX;
    d->lane->blocked = false;
    d->lane->replan = false;
}

void dispatch_plan(dispatch *d, uint64_t now_us) {
    clear_plan(d);
    d->lane->n_here = d->lane->n_here_kept;

    uint32_t i = 0, longest = 0;
    while (i < d->lane->n_pairs && d->lane->n_waiting > 0) {
        if (!d->lane->pairs[d->lane->order[i]].waiting) {
            i++;
            continue;
        }
        uint32_t end;
        uint32_t count = run_of(d, i, &end);
        place_run(d, now_us, i, end, count);
        longest = count > longest ? count : longest;
        i = end;
    }
    if (longest >= 2 * DISPATCH_READ_PAIRS) dispatch_split(d, now_us);
    for (i = 0; i < d->lane->n_parts; i++)
        queue_part(d, &d->lane->parts[i]);
}
