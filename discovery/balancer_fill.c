/* balancer_fill.c - what has to change whatever the loads are: no node holds
 * more than its memory, and every unit has enough holders.
 *
 * Nodes that offer less than they hold give up copies first that others have.
 * Then everybody gets a first holder before anybody a second, the hottest units
 * first, each where its layer is computed soonest.  A unit that finds no room
 * takes the place of the coldest one that has two copies more. */
#include "discovery/balancer_internal.h"

#include <assert.h>

/* How much a place beside another slice of the same expert is worth avoiding,
 * in parts of the layer's mean time.  One with others of the expert's group is
 * better than any without, until the node has its part of the work. */
#define BESIDE_SIBLING 0.25
#define WITH_GROUP 2.0

static bool has_room(const balance_work *w, uint32_t unit, uint32_t node,
                     uint64_t limit) {
    uint64_t bytes = balance_unit_bytes(w, unit);
    return w->used[node] <= limit && bytes <= limit - w->used[node];
}

/* ---- shedding ---- */

static bool is_too_full(const balance_work *w, uint32_t node) {
    return w->used[node] > w->in->nodes[node].memory_bytes;
}

/* Units with at least `holders` holders leave nodes that are too full, the
 * coldest first. */
static void shed(balance_work *w, uint32_t holders, bool pinned_too) {
    for (uint32_t i = w->n_units; i-- > 0;) {
        uint32_t unit = w->order[i], at = 0;
        while (at < w->n[unit] && w->n[unit] >= holders) {
            uint32_t node = w->holders[(size_t)unit * w->stride + at];
            bool stays = !is_too_full(w, node) ||
                         (!pinned_too && balance_is_pinned(w, unit, node));
            if (stays) {
                at++;
            } else {
                balance_drop(w, unit, node);
            }
        }
    }
}

static bool somebody_too_full(const balance_work *w) {
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        if (is_too_full(w, i)) return true;
    }
    return false;
}

static void shed_all(balance_work *w) {
    for (uint32_t pinned = 0; pinned < 2; pinned++) {
        for (uint32_t holders = w->stride; holders > 0; holders--) {
            if (!somebody_too_full(w)) return;
            shed(w, holders, pinned != 0);
        }
    }
}

/* ---- filling ---- */

/* How bad a place is; less is better. */
static double judge(const balance_work *w, uint32_t unit, uint32_t node) {
    uint32_t layer = w->layer_of[unit];
    double mean = balance_mean(w, layer);
    double speed = balance_speed(w, unit) + w->in->nodes[node].speed;
    double time = w->time[(size_t)layer * w->n_nodes + node] +
                  balance_cost(w->load[unit], speed);
    double bad = mean > 0 ? time / mean : 0;

    if (w->n_groups > 1 && bad <= 1) {
        double kinship = balance_kinship(w, unit, node);
        if (kinship > 0) bad -= WITH_GROUP + kinship;
    }
    if (balance_has_sibling(w, unit, node)) bad += BESIDE_SIBLING;
    return bad;
}

typedef enum { PICKY, ANY_ZONE, ANYWHERE } taste;

static bool may_hold(const balance_work *w, uint32_t unit, uint32_t node,
                     taste t) {
    if (!w->in->nodes[node].stays || balance_has(w, unit, node)) return false;
    if (t == PICKY && !balance_zones_fit(w, unit, BALANCE_NONE, node)) {
        return false;
    }
    return t == ANYWHERE || !balance_is_banned(w, unit, node);
}

/* The best place with room; among equal ones the emptiest by bytes. */
static uint32_t find_place(const balance_work *w, uint32_t unit, taste t,
                           bool whole_memory) {
    uint32_t best = BALANCE_NONE;
    double least = 0;
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        uint64_t limit =
            whole_memory ? w->in->nodes[i].memory_bytes : w->limit[i];
        if (!may_hold(w, unit, i, t) || !has_room(w, unit, i, limit)) continue;
        double bad = judge(w, unit, i);
        if (best != BALANCE_NONE && bad > least) continue;
        if (best != BALANCE_NONE && bad >= least &&
            w->used[i] >= w->used[best]) {
            continue;
        }
        best = i;
        least = bad;
    }
    return best;
}

static bool place(balance_work *w, uint32_t unit, bool whole_memory) {
    for (taste t = PICKY; t <= ANYWHERE; t++) {
        uint32_t node = find_place(w, unit, t, whole_memory);
        if (node == BALANCE_NONE) continue;
        balance_add(w, unit, node);
        return true;
    }
    return false;
}

/* Everybody's holder number `holders`; false: somebody found no room. */
static bool fill(balance_work *w, uint32_t holders) {
    bool all = true;
    for (uint32_t i = 0; i < w->n_units; i++) {
        uint32_t unit = w->order[i];
        if (w->n[unit] >= holders) continue;
        if (w->n[unit] + 1u < holders || !place(w, unit, holders == 1)) {
            all = false;
        }
    }
    return all;
}

/* ---- making way ---- */

/* Copies on a node of units with `holders` or more, the coldest first, go until
 * there is room.  `from` is where the search goes on next time: what was passed
 * over will not do later either. */
static bool evict_for(balance_work *w, uint32_t unit, uint32_t node,
                      uint32_t holders, uint64_t limit, uint32_t *from) {
    while (!has_room(w, unit, node, limit)) {
        if (*from == 0) return false;
        uint32_t victim = w->order[--*from];
        if (victim == unit || w->n[victim] < holders) continue;
        if (!balance_has(w, victim, node)) continue;
        if (balance_is_pinned(w, victim, node)) continue;
        balance_drop(w, victim, node);
    }
    return true;
}

/* Units with fewer than `holders` that found no room get it from those that
 * have one more than that. */
static void make_way(balance_work *w, uint32_t holders) {
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        const balance_node *n = &w->in->nodes[i];
        uint32_t from = w->n_units;
        if (!n->stays) continue;
        uint64_t limit = holders == 1 ? n->memory_bytes : w->limit[i];
        for (uint32_t k = 0; k < w->n_units && from > 0; k++) {
            uint32_t unit = w->order[k];
            if (w->n[unit] + 1u != holders) continue;
            if (!may_hold(w, unit, i, ANYWHERE)) continue;
            if (balance_unit_bytes(w, unit) > limit) continue;
            if (!evict_for(w, unit, i, holders + 1, limit, &from)) break;
            balance_add(w, unit, i);
        }
    }
}

void balance_fill(balance_work *w) {
    shed_all(w);
    for (uint32_t holders = 1; holders <= w->replicas; holders++) {
        if (!fill(w, holders)) make_way(w, holders);
    }
}
