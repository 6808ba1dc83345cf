/* dispatch_split.c - long runs of one expert, shared between its holders.
 *
 * The plan gave each run to one node, expert by expert; so a node that holds a
 * hot expert, or got its large runs last, may end long after the others.  While
 * that is so, the node that would end last hands something over to a holder
 * that would end sooner: a whole run, or the rear part of one.  A part costs
 * the other node one more reading of the expert's weights, so there have to be
 * many pairs for it to pay; decoding has few, and is left alone.
 *
 * Each hand-over is the one that brings the later of the two to its end
 * soonest. A run's parts stay next to each other in the order of the plan, so
 * every node's queue remains sorted by expert. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>
#include <string.h>

#define ROUNDS 32     /* hand-overs in one plan */
#define USUAL_GAIN 16 /* one brings at least this part of the node's time */

typedef struct {
    uint32_t part, to;
    uint32_t pairs;  /* from the rear; all: the whole part moves */
    uint64_t end_us; /* of the later one of the two nodes, then */
} offer;

static uint64_t end_us(const dispatch *d, uint64_t now_us, uint32_t node) {
    return dispatch_predict_us(d, &d->peers[node], now_us, 0);
}

static uint32_t last_node(const dispatch *d, uint64_t now_us) {
    uint32_t last = DISPATCH_NONE;
    uint64_t last_us = 0;
    for (uint32_t i = 0; i < d->lane->n_parts; i++) {
        uint64_t us = end_us(d, now_us, d->lane->parts[i].node);
        if (last != DISPATCH_NONE && us <= last_us) continue;
        last = d->lane->parts[i].node;
        last_us = us;
    }
    return last;
}

/* Both nodes' ends if `pairs` move, which costs the other one `more`. */
static uint64_t later_end_us(const dispatch *d, uint64_t now_us, uint32_t from,
                             uint32_t to, uint32_t pairs, uint32_t more) {
    uint64_t from_ns = dispatch_pair_ns(d, &d->peers[from], now_us);
    uint64_t to_ns = dispatch_pair_ns(d, &d->peers[to], now_us);
    uint64_t less_us = pairs * from_ns / 1000, us = end_us(d, now_us, from);
    us = us > less_us ? us - less_us : 0;
    uint64_t then_us = end_us(d, now_us, to) + (pairs + more) * to_ns / 1000;
    return dispatch_max(us, then_us);
}

/* How many pairs of a part make both end at the same time; 0: too few. */
static uint32_t even_pairs(const dispatch *d, uint64_t now_us,
                           const dispatch_part *part, uint32_t to) {
    uint64_t from_ns = dispatch_pair_ns(d, &d->peers[part->node], now_us);
    uint64_t to_ns = dispatch_pair_ns(d, &d->peers[to], now_us);
    uint64_t from_us = end_us(d, now_us, part->node);
    uint64_t to_us = end_us(d, now_us, to) + DISPATCH_READ_PAIRS * to_ns / 1000;
    if (to_us >= from_us) return 0;
    uint64_t pairs = (from_us - to_us) * 1000 / (from_ns + to_ns);
    if (part->count < 2 * DISPATCH_READ_PAIRS || pairs < DISPATCH_READ_PAIRS) {
        return 0;
    }
    return (uint32_t)dispatch_min(pairs, part->count - DISPATCH_READ_PAIRS);
}

static void consider(const dispatch *d, uint64_t now_us, uint32_t i,
                     uint32_t to, offer *best) {
    const dispatch_part *part = &d->lane->parts[i];
    uint64_t us = later_end_us(d, now_us, part->node, to, part->count, 0);
    if (us < best->end_us) *best = (offer){i, to, part->count, us};

    uint32_t pairs = even_pairs(d, now_us, part, to);
    if (pairs == 0) return;
    us = later_end_us(d, now_us, part->node, to, pairs, DISPATCH_READ_PAIRS);
    if (us < best->end_us) *best = (offer){i, to, pairs, us};
}

static const dispatch_pair *first_of(const dispatch *d,
                                     const dispatch_part *part) {
    uint32_t i = part->begin;
    while (!d->lane->pairs[d->lane->order[i]].waiting)
        i++;
    return &d->lane->pairs[d->lane->order[i]];
}

static void consider_part(const dispatch *d, uint64_t now_us, uint32_t i,
                          offer *best) {
    const dispatch_part *part = &d->lane->parts[i];
    const dispatch_pair *p = first_of(d, part);
    uint32_t n;
    const uint16_t *holders =
        placement_nodes(d->lane->where, d->lane->layer, p->expert, &n);
    for (uint32_t h = 0; h < n && h < DISPATCH_HOLDERS; h++) {
        if (holders[h] == part->node) continue;
        if (!dispatch_is_good(d, now_us, p, h, holders[h], part->count)) {
            continue;
        }
        consider(d, now_us, i, holders[h], best);
    }
}

static void hand_over(dispatch *d, const offer *o) {
    dispatch_part *part = &d->lane->parts[o->part];
    dispatch_queue *from = &d->lane->queues[part->node];
    dispatch_queue *to = &d->lane->queues[o->to];
    from->planned -= o->pairs;
    to->planned += o->pairs;
    if (o->pairs == part->count) {
        part->node = o->to;
        return;
    }
    assert(d->lane->n_parts < d->room);
    size_t after = d->lane->n_parts++ - o->part;
    memmove(part + 1, part, after * sizeof(*part));
    uint32_t at = part->end;
    for (uint32_t left = o->pairs; left > 0;)
        left -= d->lane->pairs[d->lane->order[--at]].waiting;
    part[0].end = part[1].begin = at;
    part[0].count -= o->pairs;
    part[1].count = o->pairs;
    part[1].node = o->to;
    to->planned += DISPATCH_READ_PAIRS;
    d->stats.splits++;
}

void dispatch_split(dispatch *d, uint64_t now_us) {
    uint32_t gain = d->config.split_gain;
    if (gain == 0) gain = USUAL_GAIN;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t from = last_node(d, now_us);
        if (from == DISPATCH_NONE) return;
        uint64_t now_end_us = end_us(d, now_us, from);
        offer best = {
            .to = DISPATCH_NONE,
            .end_us = now_end_us - now_end_us / gain,
        };
        for (uint32_t i = 0; i < d->lane->n_parts; i++) {
            if (d->lane->parts[i].node != from || d->lane->parts[i].trial)
                continue;
            consider_part(d, now_us, i, &best);
        }
        if (best.to == DISPATCH_NONE) return;
        hand_over(d, &best);
    }
}
