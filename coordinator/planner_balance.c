/* planner_balance.c - moves between nodes, until each holds its share.
 *
 * With d how many units a node is above its share of a layer, D above its share
 * of everything (in units of the mean size) and s the size of this layer's
 * units (by the mean), the sum of d^2 + w D^2 over all nodes falls by a move
 * from a to b exactly when load(a) - load(b) > 1 + w s^2, where load = d + w s
 * D.  Only such moves are made, so there is an end, and the end moves nothing.
 *
 * Nothing at all is moved while the shares are nearly right: a move costs
 * reading an expert's weights, and memory offers differ a little each time a
 * node starts. */
#include "coordinator/planner_internal.h"

#include <math.h>
#include <string.h>

#define PASSES 8 /* over all layers; two or three find nearly everything */

/* Units above or below a share that nobody minds. */
#define TOLERATED 1.0
#define TOLERATED_OF_TOTAL 0.05
#define TOLERATED_OF_LAYER 0.15

static double least_gain(const plan *p, uint32_t layer) {
    double size = plan_unit_size(p, layer);
    return 1 + PLAN_TOTAL_WEIGHT * size * size + 1e-6;
}

/* Shares of what is placed, which may be less than what is wanted. */
static void weigh(plan *p) {
    p->weight_bytes = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint64_t placed = 0;
        for (uint32_t u = p->base[l]; u < p->base[l + 1]; u++)
            placed += p->goal.n[u];
        p->weight[l] = (double)placed / p->copies;
        p->weight_bytes += p->weight[l] * (double)p->in->model->unit_bytes[l];
    }
}

static bool is_off(double surplus, double share, double tolerated) {
    return fabs(surplus) > fmax(TOLERATED, tolerated * share) + 1e-6;
}

static bool is_uneven(const plan *p) {
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const plan_node *n = &p->nodes[i];
        if (!n->stays) continue;
        if (is_off(plan_total_surplus(p, i),
                   n->share * p->weight_bytes / p->mean, TOLERATED_OF_TOTAL)) {
            return true;
        }
        for (uint32_t l = 0; l < p->n_layers; l++) {
            if (is_off(plan_layer_surplus(p, l, i), n->share * p->weight[l],
                       TOLERATED_OF_LAYER)) {
                return true;
            }
        }
    }
    return false;
}

/* How readily a unit moves from one node to another. */
enum {
    CANNOT,
    BESIDE,   /* another slice of its expert */
    APART,    /* away from them */
    NOT_HERE, /* `from` would only get it in this step */
    IS_THERE  /* `to` has it: nothing is moved */
};

static int ease(const plan *p, uint32_t unit, uint32_t from, uint32_t to) {
    if (!plan_has(&p->goal, p->stride, unit, from)) return CANNOT;
    if (plan_has(&p->goal, p->stride, unit, to)) return CANNOT;
    if (!plan_has_room(p, unit, to, plan_reserve(p))) return CANNOT;
    if (plan_has(&p->now, p->stride, unit, to)) return IS_THERE;
    if (!plan_has(&p->now, p->stride, unit, from)) return NOT_HERE;
    return plan_has_sibling(p, unit, to) ? BESIDE : APART;
}

/* Does a node have units now that its goal does not have? */
static bool has_left(const plan_node *n) {
    return n->goal_bytes < n->now_bytes + n->adding_bytes;
}

/* Beginning anywhere, so that not the same few units move all the time. */
static uint32_t find_unit(plan *p, uint32_t layer, uint32_t from, uint32_t to) {
    uint32_t first = p->base[layer], n = p->base[layer + 1] - first;
    uint32_t start = (uint32_t)(plan_hash(from, to) % n), best = PLAN_NONE;
    int most = CANNOT, enough = APART;
    if (p->nodes[from].adding_bytes > 0) enough = NOT_HERE;
    if (has_left(&p->nodes[to])) enough = IS_THERE;

    for (uint32_t i = 0; i < n && most < enough; i++) {
        uint32_t unit = first + (start + i) % n;
        int e = ease(p, unit, from, to);
        if (e <= most) continue;
        best = unit;
        most = e;
    }
    return best;
}

/* The fullest node that has more of this layer than it should. */
static uint32_t find_giver(const plan *p, uint32_t layer) {
    uint32_t best = PLAN_NONE;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        if (!p->nodes[i].stays || p->gave_up[i]) continue;
        if (plan_layer_surplus(p, layer, i) <= 0) continue;
        if (best == PLAN_NONE ||
            plan_load(p, layer, i) > plan_load(p, layer, best)) {
            best = i;
        }
    }
    return best;
}

/* Has it room for one of the layer's units, or is a unit there that its goal
 * does not have? */
static bool can_take(const plan *p, uint32_t layer, uint32_t node) {
    const plan_node *n = &p->nodes[node];
    uint64_t used = n->now_bytes + n->adding_bytes;
    uint64_t bytes = p->in->model->unit_bytes[layer] + plan_reserve(p);
    if (!n->open || p->tried[node]) return false;
    return has_left(n) || used + bytes <= n->memory;
}

/* The emptiest node that has less of this layer than it should. */
static uint32_t find_taker(const plan *p, uint32_t layer) {
    uint32_t best = PLAN_NONE;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        if (!can_take(p, layer, i)) continue;
        if (plan_layer_surplus(p, layer, i) >= 0) continue;
        if (best == PLAN_NONE ||
            plan_load(p, layer, i) < plan_load(p, layer, best)) {
            best = i;
        }
    }
    return best;
}

/* Move one unit away from a node, to where it does most good. */
static bool give(plan *p, uint32_t layer, uint32_t from) {
    memset(p->tried, 0, p->n_nodes * sizeof(*p->tried));
    for (;;) {
        uint32_t to = find_taker(p, layer);
        if (to == PLAN_NONE) return false;
        double gain = plan_load(p, layer, from) - plan_load(p, layer, to);
        if (gain < least_gain(p, layer)) return false;
        uint32_t unit = find_unit(p, layer, from, to);
        if (unit != PLAN_NONE) {
            plan_drop(p, unit, from);
            plan_add(p, unit, to);
            return true;
        }
        p->tried[to] = true;
    }
}

static bool balance_layer(plan *p, uint32_t layer) {
    bool moved = false;
    uint32_t from;
    memset(p->gave_up, 0, p->n_nodes * sizeof(*p->gave_up));
    while ((from = find_giver(p, layer)) != PLAN_NONE) {
        if (give(p, layer, from)) {
            moved = true;
        } else {
            p->gave_up[from] = true;
        }
    }
    return moved;
}

void plan_balance(plan *p) {
    if (p->copies <= 0) return;
    weigh(p);
    if (!p->first && !is_uneven(p)) return;

    bool moved = true;
    for (uint32_t pass = 0; moved && pass < PASSES; pass++) {
        moved = false;
        for (uint32_t l = 0; l < p->n_layers; l++) {
            if (balance_layer(p, l)) moved = true;
        }
    }
}
