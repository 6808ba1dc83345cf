/* planner_target.c - the placement that a rack should have: enough holders for
 * every unit, on nodes that have room.
 *
 * It begins with what is there and changes as little as it can, in this order:
 * shares (how much each node should hold), shedding (nodes that offer less than
 * they hold), trimming (units with too many holders), filling (those with too
 * few: everybody's first holder before anybody's second), making way (a unit
 * without a holder and without room takes the place of a second copy), and
 * balance.
 *
 * Where the balancer has said who should hold what, that takes the place of
 * trimming and balance: what it names comes as soon as there is room, for those
 * with too few holders first, and what it does not name goes as far as
 * min_replicas allows.  The rest stays as the net below it, and a unit with too
 * few holders may take the place of any copy that another one can spare.
 *
 * Nothing is remembered from one step to the next: while a move is under way
 * the unit has a holder too many, and trimming finds the same one to go as
 * before, because it is the fuller node. */
#include "coordinator/planner_internal.h"

#include <assert.h>
#include <math.h>

/* ---- shares ---- */

/* A node's part in proportion to its memory, but nobody can hold a unit twice:
 * who reaches 1 stays there, and the others share the rest. */
static void pour(plan *p, double copies) {
    bool changed = true;
    while (changed) {
        double memory = 0, rest = copies;
        for (uint32_t i = 0; i < p->n_nodes; i++) {
            const plan_node *n = &p->nodes[i];
            if (!n->stays) continue;
            if (n->share >= 1) {
                rest -= 1;
            } else {
                memory += (double)n->memory;
            }
        }
        changed = false;
        for (uint32_t i = 0; i < p->n_nodes; i++) {
            plan_node *n = &p->nodes[i];
            if (!n->stays || n->share >= 1) continue;
            n->share = memory > 0 ? rest * (double)n->memory / memory : 0;
            if (n->share < 1) continue;
            n->share = 1;
            changed = true;
        }
    }
}

static void find_shares(plan *p) {
    double room = 0; /* for how many copies of everything */
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const plan_node *n = &p->nodes[i];
        if (n->stays) room += fmin(1, (double)n->memory / (double)p->bytes);
    }
    p->is_short = room < p->replicas;
    p->copies = fmin(room, p->replicas);
    pour(p, p->copies);

    p->weight_bytes = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t units = p->base[l + 1] - p->base[l];
        p->weight[l] = units;
        p->weight_bytes += units * (double)p->in->model->unit_bytes[l];
    }
}

/* ---- shedding: a node came back with less memory ---- */

/* Units with at least `holders` holders leave nodes that are too full. */
static void shed(plan *p, uint32_t holders) {
    for (uint32_t i = 0; i < p->n_units; i++) {
        uint32_t unit = p->order[i];
        uint32_t at = 0;
        while (at < p->goal.n[unit] && p->goal.n[unit] >= holders) {
            uint32_t node = p->goal.nodes[unit * p->stride + at];
            const plan_node *n = &p->nodes[node];
            if (n->goal_bytes > n->memory) {
                plan_drop(p, unit, node); /* another takes its place */
            } else {
                at++;
            }
        }
    }
}

static bool somebody_too_full(const plan *p) {
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        if (p->nodes[i].goal_bytes > p->nodes[i].memory) return true;
    }
    return false;
}

static void shed_all(plan *p) {
    for (uint32_t holders = p->stride; holders > 0; holders--) {
        if (!somebody_too_full(p)) return;
        shed(p, holders);
    }
}

/* ---- trimming ---- */

static void trim(plan *p, uint32_t unit) {
    uint32_t layer = p->layer_of[unit];

    while (p->goal.n[unit] > p->replicas) {
        const uint16_t *nodes = p->goal.nodes + (size_t)unit * p->stride;
        uint32_t fullest = nodes[0];
        for (uint32_t i = 1; i < p->goal.n[unit]; i++) {
            double load = plan_load(p, layer, nodes[i]);
            double most = plan_load(p, layer, fullest);
            if (load > most || (load >= most && nodes[i] > fullest)) {
                fullest = nodes[i];
            }
        }
        plan_drop(p, unit, fullest);
    }
}

static void trim_all(plan *p) {
    for (uint32_t i = 0; i < p->n_units; i++)
        trim(p, p->order[i]);
}

/* ---- filling ---- */

/* The emptiest node that has room and not the unit: better none that holds
 * another slice of the same expert, so that one token's work is shared.  A
 * little noise keeps nodes from becoming pairs that hold the same units, where
 * the loss of one would double the other's work. */
static uint32_t find_place(plan *p, uint32_t unit, uint64_t reserve) {
    uint32_t layer = p->layer_of[unit], best = PLAN_NONE;
    double least = 0;

    plan_mark(p, unit);
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        if (!p->nodes[i].open || !plan_has_room(p, unit, i, reserve)) continue;
        if (plan_has(&p->goal, p->stride, unit, i)) continue;
        double noise = (double)(plan_hash(unit, i) >> 40) * 0x1p-24;
        double load = plan_load(p, layer, i) + p->mark[i] + noise;
        if (best != PLAN_NONE && load >= least) continue;
        best = i;
        least = load;
    }
    plan_unmark(p, unit);
    return best;
}

static void fill(plan *p, uint32_t holders) {
    uint64_t reserve = holders > 1 ? plan_reserve(p) : 0;

    for (uint32_t i = 0; i < p->n_units; i++) {
        uint32_t unit = p->order[i];
        if (p->goal.n[unit] >= holders) continue;
        uint32_t node = find_place(p, unit, reserve);
        if (node != PLAN_NONE) plan_add(p, unit, node);
    }
}

static void fill_all(plan *p) {
    for (uint32_t holders = 1; holders <= p->replicas; holders++)
        fill(p, holders);
}

/* ---- following the balancer ---- */

static bool is_named(const balance_map *t, uint32_t unit, uint32_t node) {
    for (uint32_t i = t->first[unit]; i < t->first[unit + 1]; i++) {
        if (t->nodes[i] == node) return true;
    }
    return false;
}

/* With those that it would get, has the unit room for one more holder? */
static bool may_have_more(const plan *p, uint32_t unit) {
    uint32_t n = p->now.n[unit];
    for (uint32_t i = 0; i < p->goal.n[unit]; i++) {
        uint32_t node = p->goal.nodes[unit * p->stride + i];
        if (!plan_has(&p->now, p->stride, unit, node)) n++;
    }
    return n < LAYER_MAP_MAX_HOLDERS;
}

/* Those that the target names come, as far as there is room. */
static void name(plan *p, uint32_t unit) {
    const balance_map *t = p->in->target;
    for (uint32_t i = t->first[unit]; i < t->first[unit + 1]; i++) {
        uint32_t node = t->nodes[i];
        if (!p->nodes[node].open || !may_have_more(p, unit)) continue;
        if (plan_has(&p->goal, p->stride, unit, node)) continue;
        if (plan_has_room(p, unit, node, 0)) plan_add(p, unit, node);
    }
}

/* Those that it does not name go, as far as enough stay. */
static void drop_others(plan *p, uint32_t unit) {
    uint32_t at = 0;
    while (at < p->goal.n[unit] && p->goal.n[unit] > p->replicas) {
        uint32_t node = p->goal.nodes[unit * p->stride + at];
        if (is_named(p->in->target, unit, node)) {
            at++;
        } else {
            plan_drop(p, unit, node); /* another takes its place */
        }
    }
}

/* Whoever has too few holders gets them before room goes to moves and to more
 * copies of others. */
static void follow(plan *p) {
    for (uint32_t i = 0; i < p->n_units; i++) {
        if (p->goal.n[p->order[i]] < p->replicas) name(p, p->order[i]);
    }
    fill_all(p);
    for (uint32_t i = 0; i < p->n_units; i++) {
        name(p, p->order[i]);
        drop_others(p, p->order[i]);
    }
}

/* A node that has the unit now, and could keep it; PLAN_NONE: there is none. */
static uint32_t find_former(const plan *p, uint32_t unit) {
    for (uint32_t i = 0; i < p->now.n[unit]; i++) {
        uint32_t node = p->now.nodes[unit * p->stride + i];
        if (!p->nodes[node].open || !plan_has_room(p, unit, node, 0)) continue;
        if (!plan_has(&p->goal, p->stride, unit, node)) return node;
    }
    return PLAN_NONE;
}

/* Moves to nodes that offer less than they are given are given up: nothing has
 * to be loaded for that, and no room found. */
static void turn_back(plan *p) {
    for (uint32_t i = 0; i < p->n_units; i++) {
        uint32_t unit = p->order[i];
        uint32_t at = 0, former = find_former(p, unit);
        while (former != PLAN_NONE && at < p->goal.n[unit]) {
            uint32_t node = p->goal.nodes[unit * p->stride + at];
            if (p->nodes[node].goal_bytes <= p->nodes[node].memory) {
                at++;
                continue;
            }
            plan_drop(p, unit, node); /* another takes its place */
            plan_add(p, unit, former);
            former = find_former(p, unit);
        }
    }
}

/* ---- making way ---- */

static uint64_t free_bytes(const plan_node *n) {
    return n->memory > n->goal_bytes ? n->memory - n->goal_bytes : 0;
}

/* Nodes that the unit could be on, if there is room. */
static bool could_hold(const plan *p, uint32_t unit, uint32_t node) {
    return p->nodes[node].stays && p->in->nodes[node].live &&
           !plan_has(&p->goal, p->stride, unit, node);
}

/* Room that will be there when what is under way is done.  The unit waits for
 * it, and nobody else counts on it. */
static bool await_room(plan *p, uint32_t unit, uint64_t bytes) {
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        if (!could_hold(p, unit, i)) continue;
        if (free_bytes(&p->nodes[i]) < bytes) continue;
        p->nodes[i].goal_bytes += bytes;
        p->waits = true;
        return true;
    }
    return false;
}

/* What each node holds of units with at least `holders` holders. */
static void count_evictable(plan *p, uint32_t holders) {
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        p->nodes[i].evictable_bytes = 0;
        p->nodes[i].evict_at = 0;
    }
    for (uint32_t unit = 0; unit < p->n_units; unit++) {
        if (p->goal.n[unit] < holders) continue;
        for (uint32_t i = 0; i < p->goal.n[unit]; i++) {
            uint32_t node = p->goal.nodes[unit * p->stride + i];
            p->nodes[node].evictable_bytes += plan_unit_bytes(p, unit);
        }
    }
}

static void evict(plan *p, uint32_t victim, uint32_t node, uint32_t holders) {
    uint64_t bytes = plan_unit_bytes(p, victim);
    plan_drop(p, victim, node);
    p->nodes[node].evictable_bytes -= bytes;
    if (p->goal.n[victim] >= holders) return;
    for (uint32_t i = 0; i < p->goal.n[victim]; i++) {
        uint32_t other = p->goal.nodes[victim * p->stride + i];
        p->nodes[other].evictable_bytes -= bytes;
    }
}

/* Make the node that lacks least give up copies of units that have `holders` or
 * more, until it has room.  false: nobody can. */
static bool evict_for(plan *p, uint32_t unit, uint64_t bytes,
                      uint32_t holders) {
    uint32_t best = PLAN_NONE;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const plan_node *n = &p->nodes[i];
        if (!could_hold(p, unit, i)) continue;
        if (free_bytes(n) + n->evictable_bytes < bytes) continue;
        if (best == PLAN_NONE || free_bytes(n) > free_bytes(&p->nodes[best])) {
            best = i;
        }
    }
    if (best == PLAN_NONE) return false;

    plan_node *n = &p->nodes[best];
    for (; free_bytes(n) < bytes; n->evict_at++) {
        assert(n->evict_at < p->n_units);
        uint32_t victim = p->order[p->n_units - 1 - n->evict_at];
        if (p->goal.n[victim] < holders) continue;
        if (!plan_has(&p->goal, p->stride, victim, best)) continue;
        evict(p, victim, best, holders);
    }
    return true;
}

/* Units with `holders` holders that found no room get it from those that have
 * two more. */
static void make_way(plan *p, uint32_t holders) {
    bool counted = false;
    for (uint32_t i = 0; i < p->n_units; i++) {
        uint32_t unit = p->order[i];
        if (p->goal.n[unit] > holders) continue;
        uint64_t bytes = plan_unit_bytes(p, unit);
        if (holders > 0) bytes += plan_reserve(p);
        if (await_room(p, unit, bytes)) continue;
        if (!counted) count_evictable(p, holders + 2);
        counted = true;
        if (evict_for(p, unit, bytes, holders + 2)) await_room(p, unit, bytes);
    }
}

void plan_target(plan *p) {
    if (p->n_units == 0 || p->bytes == 0) return;
    find_shares(p);
    bool follows = p->in->target != NULL;
    if (follows) {
        follow(p);
        turn_back(p);
        shed_all(p);
    } else {
        shed_all(p);
        trim_all(p);
    }
    fill_all(p);
    /* Only a target leaves units with more holders than they must have. */
    uint32_t most = p->replicas + (follows ? 1 : 0);
    for (uint32_t holders = 0; holders + 2 <= most; holders++)
        make_way(p, holders);
    if (!follows && !p->missing && !p->waits) plan_balance(p);
}
