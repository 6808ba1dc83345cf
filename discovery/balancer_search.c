/* balancer_search.c - shorter times by single changes.
 *
 * Again and again the layer whose slowest node is furthest above the mean is
 * taken, and of that node's units the change with the most gain by byte: a unit
 * moves away, is shared with another node, is exchanged for a lighter one, or a
 * spare copy is dropped.  Gain is the fall of the sum over all nodes of speed *
 * time^2: unlike the fall of the largest time it sees that a second slow node
 * is left.  A change must leave all nodes that it touches faster than the
 * slowest one was, so times fall in order and the search ends.
 *
 * A layer is left alone (unless forced) until it is above SEARCH_FROM, and then
 * brought below SEARCH_TO if that can be: where one run ends the next one does
 * not begin.
 *
 * The layers that are searched have equal parts of an effort, counted in units
 * that are looked at: large racks with hardly any room have very many exchanges
 * to try, and a leader changes nothing else meanwhile. */
#include "discovery/balancer_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEARCH_FROM 1.06
#define SEARCH_TO 1.015
/* Only units that are hotter than others get copies: in mean loads of a unit of
 * the layer. */
#define HOT 1.3

/* What a change costs, in loads of the unit's bytes.  A copy also takes memory
 * for as long as it stays. */
#define COST_LOAD 1.0
#define COST_MEMORY 0.75
#define COST_LEAST 0.1

/* How much better it is to be with one's group; worse, with another slice. */
#define KINSHIP 0.25
#define SIBLING 0.8

#define TARGETS 6 /* nodes that are looked at, the fastest ones */
#define OPERATIONS_BY_UNIT 4

/* Detours: units that are tried, each with all targets, and the changes that
 * each may take to be worth it. */
#define DETOUR_UNITS 4
#define DETOUR_CHANGES 12
#define DETOURS_BY_LAYER 64

/* Of one search, about a second's. */
#define EFFORT ((uint64_t)100 << 20)

typedef enum { NOTHING, MOVE, SHARE, SWAP, DROP } kind;

typedef struct {
    kind kind;
    uint32_t unit, to; /* from the slowest node */
    uint32_t back;     /* SWAP: what comes for it */
    double worth;      /* gain by cost */
} change;

typedef struct {
    balance_work *w;
    uint32_t layer, from;
    double *time;  /* of the layer */
    double most;   /* the slowest node's; nobody may reach it */
    double weight; /* what gains are compared with: nothing gained is below */
    uint32_t targets[TARGETS];
    uint32_t n_targets;
    change best;
} look;

/* false: there is no more. */
static bool spend(balance_work *w, uint64_t effort) {
    w->effort -= effort < w->effort ? effort : w->effort;
    return w->effort > 0;
}

/* ---- what a change gains ---- */

/* The fall of speed * time^2 on a node; sets *bad if it gets too slow. */
static double gain_on(const look *k, uint32_t node, double difference,
                      bool *bad) {
    double before = k->time[node], after = before + difference;
    if (difference > 0 && after >= k->most * (1 - 1e-9)) *bad = true;
    return k->w->in->nodes[node].speed * (before * before - after * after);
}

/* Of a unit's holders that keep it, if each of them takes `cost` more. */
static double gain_of_rest(const look *k, uint32_t unit, uint32_t without,
                           double cost, bool *bad) {
    const balance_work *w = k->w;
    const uint16_t *holders = w->holders + (size_t)unit * w->stride;
    double gain = 0;
    for (uint32_t i = 0; i < w->n[unit]; i++) {
        if (holders[i] == without) continue;
        gain += gain_on(k, holders[i], cost, bad);
    }
    return gain;
}

/* What has to be loaded, less what has not any more. */
static double cost_of(const look *k, uint32_t unit, uint32_t from,
                      uint32_t to) {
    double cost = 0;
    if (to != BALANCE_NONE && !balance_had(k->w, unit, to)) cost += COST_LOAD;
    if (from != BALANCE_NONE && !balance_had(k->w, unit, from)) {
        cost -= COST_LOAD;
    }
    return cost;
}

static double favour(const look *k, uint32_t unit, uint32_t from, uint32_t to) {
    const balance_work *w = k->w;
    double favour = 1;
    if (w->n_groups > 1) {
        favour += KINSHIP * (balance_kinship(w, unit, to) -
                             balance_kinship(w, unit, from));
    }
    if (w->in->slices[k->layer] > 1 && balance_has_sibling(w, unit, to)) {
        favour *= SIBLING;
    }
    return favour;
}

/* Keep the change if it is the best so far and allowed. */
static void consider(look *k, change c, double gain, double cost) {
    if (cost < COST_LEAST) cost = COST_LEAST;
    c.worth = gain / cost;
    if (c.worth <= k->weight || c.worth <= k->best.worth) return;
    if (c.to != BALANCE_NONE && balance_is_banned(k->w, c.unit, c.to)) return;
    if (c.kind == SWAP && balance_is_banned(k->w, c.back, k->from)) return;
    k->best = c;
}

/* ---- the changes ---- */

static bool has_room(const look *k, uint32_t node) {
    uint64_t bytes = k->w->in->unit_bytes[k->layer];
    return k->w->used[node] <= k->w->limit[node] &&
           bytes <= k->w->limit[node] - k->w->used[node];
}

static void consider_move(look *k, uint32_t unit, uint32_t to) {
    const balance_work *w = k->w;
    double speed = balance_speed(w, unit);
    double then = speed - w->in->nodes[k->from].speed + w->in->nodes[to].speed;
    double cost = balance_cost(w->load[unit], speed);
    double next = balance_cost(w->load[unit], then);
    bool bad = !balance_zones_fit(w, unit, k->from, to) &&
               balance_zones_fit(w, unit, BALANCE_NONE, BALANCE_NONE);
    double gain = gain_on(k, k->from, -cost, &bad) +
                  gain_on(k, to, next, &bad) +
                  gain_of_rest(k, unit, k->from, next - cost, &bad);
    if (bad) return;
    consider(k, (change){.kind = MOVE, .unit = unit, .to = to},
             gain * favour(k, unit, k->from, to),
             cost_of(k, unit, k->from, to));
}

/* Is the unit one to make copies of, and may `to` have one? */
static bool may_share(const balance_work *w, uint32_t unit, uint32_t to) {
    uint32_t layer = w->layer_of[unit];
    uint32_t units = w->base[layer + 1] - w->base[layer];
    return w->n[unit] < w->most &&
           w->load[unit] * units >= HOT * w->total[layer] &&
           balance_zones_fit(w, unit, BALANCE_NONE, to);
}

static void consider_share(look *k, uint32_t unit, uint32_t to) {
    const balance_work *w = k->w;
    double speed = balance_speed(w, unit);
    double cost = balance_cost(w->load[unit], speed);
    double next = balance_cost(w->load[unit], speed + w->in->nodes[to].speed);
    bool bad = false;
    if (!may_share(w, unit, to)) return;
    double gain = gain_on(k, to, next, &bad) +
                  gain_of_rest(k, unit, BALANCE_NONE, next - cost, &bad);
    if (bad) return;
    consider(k, (change){.kind = SHARE, .unit = unit, .to = to},
             gain * favour(k, unit, k->from, to),
             COST_MEMORY + cost_of(k, unit, BALANCE_NONE, to));
}

static void consider_drop(look *k, uint32_t unit) {
    const balance_work *w = k->w;
    double speed = balance_speed(w, unit);
    double cost = balance_cost(w->load[unit], speed);
    double next =
        balance_cost(w->load[unit], speed - w->in->nodes[k->from].speed);
    bool bad = w->n[unit] <= w->replicas ||
               !balance_zones_fit(w, unit, k->from, BALANCE_NONE);
    if (bad) return;
    double gain = gain_on(k, k->from, -cost, &bad) +
                  gain_of_rest(k, unit, k->from, next - cost, &bad);
    if (bad) return;
    consider(k, (change){.kind = DROP, .unit = unit, .to = BALANCE_NONE}, gain,
             cost_of(k, unit, k->from, BALANCE_NONE));
}

/* Only units with one holder are exchanged: the others have easier ways. */
static void consider_swap(look *k, uint32_t unit, uint32_t back, uint32_t to) {
    const balance_work *w = k->w;
    double from_speed = w->in->nodes[k->from].speed;
    double to_speed = w->in->nodes[to].speed;
    bool bad = false;
    double gain =
        gain_on(k, k->from, (w->load[back] - w->load[unit]) / from_speed,
                &bad) +
        gain_on(k, to, (w->load[unit] - w->load[back]) / to_speed, &bad);
    if (bad) return;
    consider(k, (change){.kind = SWAP, .unit = unit, .to = to, .back = back},
             gain * favour(k, unit, k->from, to),
             cost_of(k, unit, k->from, to) + cost_of(k, back, to, k->from));
}

static bool is_alone(const balance_work *w, uint32_t unit, uint32_t node) {
    return w->n[unit] == 1 && w->holders[(size_t)unit * w->stride] == node &&
           !balance_is_pinned(w, unit, node);
}

/* ---- looking at all of them ---- */

/* The fastest nodes for the layer, without the slowest one. */
static void find_targets(look *k) {
    const balance_work *w = k->w;
    k->n_targets = 0;
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        if (!w->in->nodes[i].stays || i == k->from) continue;
        uint32_t at = k->n_targets;
        if (at == TARGETS) {
            if (k->time[i] >= k->time[k->targets[at - 1]]) continue;
            at--;
        } else {
            k->n_targets++;
        }
        while (at > 0 && k->time[k->targets[at - 1]] > k->time[i]) {
            k->targets[at] = k->targets[at - 1];
            at--;
        }
        k->targets[at] = i;
    }
}

static void look_at_unit(look *k, uint32_t unit, bool keep) {
    bool pinned = keep || balance_is_pinned(k->w, unit, k->from);
    if (!pinned) consider_drop(k, unit);
    for (uint32_t i = 0; i < k->n_targets; i++) {
        uint32_t to = k->targets[i];
        if (balance_has(k->w, unit, to) || !has_room(k, to)) continue;
        if (!pinned) consider_move(k, unit, to);
        consider_share(k, unit, to);
    }
}

/* An exchange is made before anything is given up. */
static bool has_room_for_a_while(const look *k, uint32_t node) {
    uint64_t memory = k->w->in->nodes[node].memory_bytes;
    return k->w->used[node] <= memory &&
           k->w->in->unit_bytes[k->layer] <= memory - k->w->used[node];
}

/* Units that only `node` has, and may give up. */
static uint32_t list_alone(const look *k, uint32_t node, uint32_t *out) {
    const balance_work *w = k->w;
    uint32_t n = 0;
    for (uint32_t u = w->base[k->layer]; u < w->base[k->layer + 1]; u++) {
        if (is_alone(w, u, node)) out[n++] = u;
    }
    return n;
}

/* Behind the `n` units of the slowest node there is room for all others. */
static void look_at_swaps(look *k, uint32_t *units, uint32_t n) {
    const balance_work *w = k->w;
    uint32_t *others = units + n;
    if (!has_room_for_a_while(k, k->from)) return;
    for (uint32_t t = 0; t < k->n_targets; t++) {
        uint32_t to = k->targets[t];
        if (!has_room_for_a_while(k, to)) continue;
        uint32_t n_others = list_alone(k, to, others);
        for (uint32_t i = 0; i < n; i++) {
            if (!spend(k->w, n_others + 1)) return;
            if (!is_alone(w, units[i], k->from)) continue;
            for (uint32_t o = 0; o < n_others; o++) {
                if (w->load[others[o]] >= w->load[units[i]]) continue;
                consider_swap(k, units[i], others[o], to);
            }
        }
    }
}

static void apply(balance_work *w, const look *k) {
    const change *c = &k->best;
    switch (c->kind) {
    case MOVE:
        balance_drop(w, c->unit, k->from);
        balance_add(w, c->unit, c->to);
        break;
    case SHARE:
        balance_add(w, c->unit, c->to);
        break;
    case SWAP:
        balance_drop(w, c->unit, k->from);
        balance_drop(w, c->back, c->to);
        balance_add(w, c->unit, c->to);
        balance_add(w, c->back, k->from);
        break;
    case DROP:
        balance_drop(w, c->unit, k->from);
        break;
    default:
        break;
    }
}

static look begin_look(balance_work *w, uint32_t layer) {
    look k = {.w = w,
              .layer = layer,
              .from = balance_slowest(w, layer),
              .time = w->time + (size_t)layer * w->n_nodes};
    double mean = balance_mean(w, layer);
    k.most = k.time[k.from];
    k.weight = 1e-7 * mean * mean * w->speed;
    find_targets(&k);
    return k;
}

/* One change to a layer, but not one that takes unit `keep` away; false: none
 * helps.  `units` is room for a layer's. */
static bool improve(balance_work *w, uint32_t layer, uint32_t keep,
                    uint32_t *units) {
    look k = begin_look(w, layer);
    uint32_t n = 0;
    if (!spend(w, w->base[layer + 1] - w->base[layer])) return false;
    for (uint32_t u = w->base[layer]; u < w->base[layer + 1]; u++) {
        if (w->load[u] > 0 && balance_has(w, u, k.from)) units[n++] = u;
    }
    for (uint32_t i = 0; i < n; i++)
        look_at_unit(&k, units[i], units[i] == keep);
    if (k.best.kind == NOTHING) look_at_swaps(&k, units, n);
    apply(w, &k);
    return k.best.kind != NOTHING;
}

/* ---- detours: a change that makes it worse, and what it makes possible ----

 * A unit that is hotter than a node's whole share can only be shared with a
 * node that gives up others for it. */

typedef struct {
    uint32_t *units;   /* room for a layer's */
    uint16_t *holders; /* [a layer's units * stride], as they were */
    uint8_t *n;
} notes;

static void note(const balance_work *w, uint32_t layer, notes *t) {
    uint32_t first = w->base[layer], n = w->base[layer + 1] - first;
    memcpy(t->n, w->n + first, n * sizeof(*t->n));
    memcpy(t->holders, w->holders + (size_t)first * w->stride,
           (size_t)n * w->stride * sizeof(*t->holders));
}

static void restore(balance_work *w, uint32_t layer, const notes *t) {
    uint32_t first = w->base[layer], n = w->base[layer + 1] - first;
    for (uint32_t u = 0; u < n; u++) {
        const uint16_t *old = t->holders + (size_t)u * w->stride;
        uint16_t *new = w->holders + (size_t)(first + u) * w->stride;
        if (w->n[first + u] == t->n[u] &&
            memcmp(old, new, t->n[u] * sizeof(*old)) == 0) {
            continue;
        }
        while (w->n[first + u] > 0)
            balance_drop(w, first + u, new[0]);
        for (uint32_t i = 0; i < t->n[u]; i++)
            balance_add(w, first + u, old[i]);
    }
}

static double sum_of_squares(const balance_work *w, uint32_t layer) {
    const double *time = w->time + (size_t)layer * w->n_nodes;
    double sum = 0;
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        if (!w->in->nodes[i].stays) continue;
        sum += w->in->nodes[i].speed * time[i] * time[i];
    }
    return sum;
}

/* Share a unit with a node, and see. */
static bool detour(balance_work *w, uint32_t layer, uint32_t unit, uint32_t to,
                   notes *t) {
    const double *time = w->time + (size_t)layer * w->n_nodes;
    double most = time[balance_slowest(w, layer)] * (1 + 1e-9);
    double sum = sum_of_squares(w, layer) * (1 - 1e-6);

    note(w, layer, t);
    balance_add(w, unit, to);
    for (uint32_t i = 0; i < DETOUR_CHANGES; i++) {
        if (!improve(w, layer, unit, t->units)) break;
        if (time[balance_slowest(w, layer)] > most) continue;
        if (sum_of_squares(w, layer) < sum) return true;
    }
    restore(w, layer, t);
    return false;
}

/* The hottest units of the slowest node, by what each of their holders needs.
 */
static uint32_t find_hottest(const look *k, uint32_t out[DETOUR_UNITS]) {
    const balance_work *w = k->w;
    double cost[DETOUR_UNITS];
    uint32_t n = 0;
    for (uint32_t u = w->base[k->layer]; u < w->base[k->layer + 1]; u++) {
        if (!balance_has(w, u, k->from)) continue;
        double c = balance_cost(w->load[u], balance_speed(w, u));
        uint32_t at = n;
        if (n == DETOUR_UNITS) {
            if (c <= cost[n - 1]) continue;
            at--;
        } else {
            n++;
        }
        for (; at > 0 && cost[at - 1] < c; at--) {
            cost[at] = cost[at - 1];
            out[at] = out[at - 1];
        }
        cost[at] = c;
        out[at] = u;
    }
    return n;
}

/* false: none is worth it. */
static bool find_detour(balance_work *w, uint32_t layer, notes *t) {
    look k = begin_look(w, layer);
    uint32_t units[DETOUR_UNITS], n = find_hottest(&k, units);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < k.n_targets; j++) {
            uint32_t to = k.targets[j];
            if (balance_has(w, units[i], to) || !has_room(&k, to)) continue;
            if (!may_share(w, units[i], to)) continue;
            if (balance_is_banned(w, units[i], to)) continue;
            if (detour(w, layer, units[i], to, t)) return true;
        }
    }
    return false;
}

/* ---- the layers in turn ---- */

typedef struct {
    bool open;
    uint32_t changes, detours; /* that it may still have */
    uint64_t effort;
    double excess; /* of its slowest node over the mean */
} progress;

static double excess_of(const balance_work *w, uint32_t layer) {
    uint32_t slowest = balance_slowest(w, layer);
    return w->time[(size_t)layer * w->n_nodes + slowest] -
           balance_mean(w, layer);
}

static bool is_above(const balance_work *w, uint32_t layer, double limit) {
    return excess_of(w, layer) > (limit - 1) * balance_mean(w, layer);
}

static uint32_t worst_layer(const progress *p, uint32_t n_layers) {
    uint32_t worst = BALANCE_NONE;
    for (uint32_t l = 0; l < n_layers; l++) {
        if (!p[l].open) continue;
        if (worst == BALANCE_NONE || p[l].excess > p[worst].excess) worst = l;
    }
    return worst;
}

/* One change, or one detour; false: this layer is as good as it gets. */
static bool advance(balance_work *w, uint32_t layer, progress *p, notes *t) {
    if (!is_above(w, layer, SEARCH_TO)) return false;
    if (p->changes == 0) return false;
    p->changes--;
    if (improve(w, layer, BALANCE_NONE, t->units)) return true;
    if (!is_above(w, layer, SEARCH_FROM) || p->detours == 0) return false;
    p->detours--;
    return find_detour(w, layer, t);
}

static void search(balance_work *w, progress *p, notes *t) {
    double from = w->in->forced ? SEARCH_TO : SEARCH_FROM;
    uint32_t open = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        p[l].excess = excess_of(w, l);
        p[l].open = is_above(w, l, from);
        p[l].changes = OPERATIONS_BY_UNIT * (w->base[l + 1] - w->base[l]);
        p[l].detours = DETOURS_BY_LAYER;
        open += p[l].open;
    }
    for (uint32_t l = 0; l < w->n_layers; l++)
        p[l].effort = EFFORT / (open + 1);
    uint32_t l;
    while ((l = worst_layer(p, w->n_layers)) != BALANCE_NONE) {
        w->effort = p[l].effort;
        p[l].open = advance(w, l, &p[l], t);
        p[l].effort = w->effort;
        p[l].excess = excess_of(w, l);
    }
}

static uint32_t longest_layer(const balance_work *w) {
    uint32_t most = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        uint32_t n = w->base[l + 1] - w->base[l];
        if (n > most) most = n;
    }
    return most;
}

int balance_search(balance_work *w) {
    size_t units = (size_t)longest_layer(w) + 1;
    if (w->replicas == 0) return 0; /* no node stays */

    progress *p = calloc((size_t)w->n_layers + 1, sizeof(*p));
    notes t = {.units = calloc(units, sizeof(*t.units)),
               .holders = calloc(units * w->stride, sizeof(*t.holders)),
               .n = calloc(units, sizeof(*t.n))};
    int rc = -ENOMEM;
    if (p != NULL && t.units != NULL && t.holders != NULL && t.n != NULL) {
        search(w, p, &t);
        rc = 0;
    }
    free(p);
    free(t.units);
    free(t.holders);
    free(t.n);
    return rc;
}
