/* balancer_work.c - the tables that a rack is balanced in. */
#include "discovery/balancer_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

#define UNITS_MOST ((uint32_t)1 << 24)
#define HOLDERS_MOST 64 /* of one unit */
/* Sums and squares of what is more are not numbers. */
#define SPEED_LEAST 1e-6
#define SPEED_MOST 1e6
#define LOAD_MOST 1e60

/* ---- is the question one? ---- */

static bool map_is_sound(const balance_map *m, uint32_t n_units,
                         uint32_t n_nodes) {
    if (m->n_units != n_units || m->first[0] != 0) return false;
    for (uint32_t u = 0; u < n_units; u++) {
        uint32_t from = m->first[u], to = m->first[u + 1];
        if (to < from || to - from > HOLDERS_MOST) return false;
        for (uint32_t i = from; i < to; i++) {
            if (m->nodes[i] >= n_nodes) return false;
            if (i > from && m->nodes[i] <= m->nodes[i - 1]) return false;
        }
    }
    return true;
}

static bool nodes_are_sound(const balance_input *in) {
    if (in->n_nodes >= UINT16_MAX) return false;
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        double speed = in->nodes[i].speed;
        if (!(speed >= SPEED_LEAST && speed <= SPEED_MOST)) return false;
    }
    return true;
}

static bool loads_are_sound(const balance_input *in, uint32_t n_units) {
    for (uint32_t u = 0; in->load != NULL && u < n_units; u++) {
        if (!(in->load[u] >= 0 && in->load[u] <= LOAD_MOST)) return false;
    }
    return true;
}

static int count_units(balance_work *w) {
    const balance_input *in = w->in;
    uint64_t units = 0;
    if (in->n_layers > UINT16_MAX) return ERR_RANGE;
    for (uint32_t l = 0; l < in->n_layers; l++) {
        uint64_t n = (uint64_t)in->n_experts * in->slices[l];
        units += n;
        if (units > UNITS_MOST) return ERR_RANGE;
        if (n > 0 && in->unit_bytes[l] == 0) return ERR_RANGE;
        if (__builtin_mul_overflow(n, in->unit_bytes[l], &n) ||
            __builtin_add_overflow(w->bytes, n, &w->bytes)) {
            return ERR_RANGE;
        }
    }
    w->n_units = (uint32_t)units;
    return 0;
}

static int check(balance_work *w) {
    const balance_input *in = w->in;
    int rc = count_units(w);
    if (rc < 0) return rc;
    if (in->min_replicas == 0 || in->min_replicas > HOLDERS_MOST ||
        in->max_replicas < in->min_replicas || !(in->reserve >= 0) ||
        in->reserve > 1 || !nodes_are_sound(in) ||
        !loads_are_sound(in, w->n_units)) {
        return ERR_RANGE;
    }
    if (in->now != NULL && !map_is_sound(in->now, w->n_units, w->n_nodes)) {
        return ERR_RANGE;
    }
    return 0;
}

/* ---- making the tables ---- */

static void measure_rack(balance_work *w) {
    const balance_input *in = w->in;
    uint32_t stay = 0, zone = 0;
    w->n_zones = 1;
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        const balance_node *n = &in->nodes[i];
        if (!n->stays) continue;
        if (stay++ == 0) zone = n->zone;
        if (n->zone != zone) w->n_zones = 2;
        w->speed += n->speed;
    }
    uint32_t held = in->max_replicas;
    for (uint32_t u = 0; in->now != NULL && u < w->n_units; u++) {
        uint32_t n = in->now->first[u + 1] - in->now->first[u];
        if (n > held) held = n;
    }
    if (held > stay) held = stay;
    if (held > HOLDERS_MOST) held = HOLDERS_MOST;
    w->stride = held + 1;
    w->replicas = in->min_replicas < stay ? in->min_replicas : stay;
    w->most = in->max_replicas < held ? in->max_replicas : held;
    w->n_groups = in->n_groups > 1 && in->n_experts % in->n_groups == 0
                      ? in->n_groups
                      : 1;
}

static int make_tables(balance_work *w) {
    size_t units = (size_t)w->n_units + 1, nodes = (size_t)w->n_nodes + 1;
    size_t layers = (size_t)w->n_layers + 1, holders, mates;
    if (!size_mul(units, w->stride, &holders)) return ERR_RANGE;
    if (!size_mul(layers * nodes, w->n_groups, &mates)) return ERR_RANGE;

    w->base = calloc(layers, sizeof(*w->base));
    w->total = calloc(layers, sizeof(*w->total));
    w->layer_of = calloc(units, sizeof(*w->layer_of));
    w->order = calloc(units, sizeof(*w->order));
    w->load = calloc(units, sizeof(*w->load));
    w->n = calloc(units, sizeof(*w->n));
    w->holders = calloc(holders, sizeof(*w->holders));
    w->time = calloc(layers * nodes, sizeof(*w->time));
    w->mates = calloc(mates, sizeof(*w->mates));
    w->used = calloc(nodes, sizeof(*w->used));
    w->limit = calloc(nodes, sizeof(*w->limit));
    if (w->base == NULL || w->total == NULL || w->layer_of == NULL ||
        w->order == NULL || w->load == NULL || w->n == NULL ||
        w->holders == NULL || w->time == NULL || w->mates == NULL ||
        w->used == NULL || w->limit == NULL) {
        return -ENOMEM;
    }
    return 0;
}

static void number_units(balance_work *w) {
    const balance_input *in = w->in;
    double mean = w->n_units > 0 ? (double)w->bytes / w->n_units : 0;
    uint32_t unit = 0;

    for (uint32_t l = 0; l < w->n_layers; l++) {
        uint32_t n = in->n_experts * in->slices[l];
        double size = n > 0 ? (double)in->unit_bytes[l] / mean : 0;
        w->base[l] = unit;
        if (n > 0 && in->unit_bytes[l] > w->largest) {
            w->largest = in->unit_bytes[l];
        }
        for (uint32_t u = 0; u < n; u++, unit++) {
            w->layer_of[unit] = (uint16_t)l;
            w->load[unit] = size * (in->load != NULL ? in->load[unit] : 1);
            w->total[l] += w->load[unit];
        }
    }
    w->base[w->n_layers] = unit;
    assert(unit == w->n_units);
}

/* Equal loads alternate between layers, so that what there is not enough memory
 * for is spread over all of them. */
static int compare_units(const void *a, const void *b, void *ctx) {
    const balance_work *w = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (w->load[x] != w->load[y]) return w->load[x] > w->load[y] ? -1 : 1;
    uint32_t i = x - w->base[w->layer_of[x]], k = y - w->base[w->layer_of[y]];
    if (i != k) return i < k ? -1 : 1;
    return x < y ? -1 : 1;
}

static void set_limits(balance_work *w) {
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        uint64_t memory = w->in->nodes[i].memory_bytes;
        uint64_t kept = (uint64_t)((double)memory * w->in->reserve);
        if (kept < w->largest && w->in->reserve > 0) kept = w->largest;
        w->limit[i] = memory > kept ? memory - kept : 0;
    }
}

int balance_work_init(balance_work *w, const balance_input *in) {
    *w = (balance_work){
        .in = in, .n_nodes = in->n_nodes, .n_layers = in->n_layers};
    int rc = check(w);
    if (rc < 0) return rc;
    measure_rack(w);
    rc = make_tables(w);
    if (rc < 0) {
        balance_work_fini(w);
        return rc;
    }
    number_units(w);
    for (uint32_t u = 0; u < w->n_units; u++)
        w->order[u] = u;
    qsort_r(w->order, w->n_units, sizeof(*w->order), compare_units, w);
    set_limits(w);

    const balance_map *now = in->now;
    for (uint32_t u = 0; now != NULL && u < w->n_units; u++) {
        for (uint32_t i = now->first[u]; i < now->first[u + 1]; i++) {
            if (in->nodes[now->nodes[i]].stays)
                balance_add(w, u, now->nodes[i]);
        }
    }
    return 0;
}

void balance_work_fini(balance_work *w) {
    free(w->base);
    free(w->total);
    free(w->layer_of);
    free(w->order);
    free(w->load);
    free(w->n);
    free(w->holders);
    free(w->time);
    free(w->mates);
    free(w->used);
    free(w->limit);
    *w = (balance_work){0};
}

/* ---- asking ---- */

bool balance_has(const balance_work *w, uint32_t unit, uint32_t node) {
    const uint16_t *holders = w->holders + (size_t)unit * w->stride;
    for (uint32_t i = 0; i < w->n[unit]; i++) {
        if (holders[i] == node) return true;
    }
    return false;
}

/* Its place in `now`; BALANCE_NONE: it has none. */
static uint32_t place_in_now(const balance_work *w, uint32_t unit,
                             uint32_t node) {
    const balance_map *now = w->in->now;
    if (now == NULL) return BALANCE_NONE;
    for (uint32_t i = now->first[unit]; i < now->first[unit + 1]; i++) {
        if (now->nodes[i] == node) return i;
    }
    return BALANCE_NONE;
}

bool balance_had(const balance_work *w, uint32_t unit, uint32_t node) {
    return place_in_now(w, unit, node) != BALANCE_NONE;
}

bool balance_is_pinned(const balance_work *w, uint32_t unit, uint32_t node) {
    if (w->in->pinned == NULL) return false;
    uint32_t at = place_in_now(w, unit, node);
    return at != BALANCE_NONE && w->in->pinned[at];
}

static int compare_holders(const void *a, const void *b) {
    const balance_holder *x = a, *y = b;
    if (x->unit != y->unit) return x->unit < y->unit ? -1 : 1;
    return (int)x->node - (int)y->node;
}

bool balance_is_banned(const balance_work *w, uint32_t unit, uint32_t node) {
    const balance_holder key = {unit, (uint16_t)node};
    if (w->in->n_banned == 0) return false;
    return bsearch(&key, w->in->banned, w->in->n_banned, sizeof(key),
                   compare_holders) != NULL;
}

double balance_speed(const balance_work *w, uint32_t unit) {
    const uint16_t *holders = w->holders + (size_t)unit * w->stride;
    double speed = 0;
    for (uint32_t i = 0; i < w->n[unit]; i++)
        speed += w->in->nodes[holders[i]].speed;
    return speed;
}

uint32_t balance_slowest(const balance_work *w, uint32_t layer) {
    const double *time = w->time + (size_t)layer * w->n_nodes;
    uint32_t slowest = BALANCE_NONE;
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        if (!w->in->nodes[i].stays) continue;
        if (slowest == BALANCE_NONE || time[i] > time[slowest]) slowest = i;
    }
    return slowest;
}

bool balance_zones_fit(const balance_work *w, uint32_t unit, uint32_t from,
                       uint32_t to) {
    const uint16_t *holders = w->holders + (size_t)unit * w->stride;
    uint32_t n = 0, zone = 0;
    if (w->n_zones < 2) return true;
    if (to != BALANCE_NONE) {
        zone = w->in->nodes[to].zone;
        n = 1;
    }
    for (uint32_t i = 0; i < w->n[unit]; i++) {
        uint32_t other = w->in->nodes[holders[i]].zone;
        if (holders[i] == from) continue;
        if (n++ == 0) zone = other;
        if (other != zone) return true;
    }
    return n < 2;
}

bool balance_has_sibling(const balance_work *w, uint32_t unit, uint32_t node) {
    uint32_t layer = w->layer_of[unit], slices = w->in->slices[layer];
    uint32_t first = unit - (unit - w->base[layer]) % slices;
    for (uint32_t u = first; u < first + slices; u++) {
        if (u != unit && balance_has(w, u, node)) return true;
    }
    return false;
}

static uint32_t *find_mates(const balance_work *w, uint32_t unit,
                            uint32_t node) {
    uint32_t layer = w->layer_of[unit];
    uint32_t group_units =
        w->in->n_experts / w->n_groups * w->in->slices[layer];
    uint32_t group = (unit - w->base[layer]) / group_units;
    return w->mates + ((size_t)layer * w->n_groups + group) * w->n_nodes + node;
}

double balance_kinship(const balance_work *w, uint32_t unit, uint32_t node) {
    uint32_t layer = w->layer_of[unit];
    uint32_t group_units =
        w->in->n_experts / w->n_groups * w->in->slices[layer];
    uint32_t mates = *find_mates(w, unit, node);
    if (balance_has(w, unit, node)) mates--;
    return (double)mates / group_units;
}

/* ---- changing ---- */

/* Add `cost` to the time of all holders. */
static void charge(balance_work *w, uint32_t unit, double cost) {
    const uint16_t *holders = w->holders + (size_t)unit * w->stride;
    double *time = w->time + (size_t)w->layer_of[unit] * w->n_nodes;
    for (uint32_t i = 0; i < w->n[unit]; i++)
        time[holders[i]] += cost;
}

void balance_add(balance_work *w, uint32_t unit, uint32_t node) {
    assert(w->n[unit] < w->stride && !balance_has(w, unit, node));
    charge(w, unit, -balance_cost(w->load[unit], balance_speed(w, unit)));
    w->holders[(size_t)unit * w->stride + w->n[unit]++] = (uint16_t)node;
    charge(w, unit, balance_cost(w->load[unit], balance_speed(w, unit)));
    w->used[node] += balance_unit_bytes(w, unit);
    (*find_mates(w, unit, node))++;
}

void balance_drop(balance_work *w, uint32_t unit, uint32_t node) {
    uint16_t *holders = w->holders + (size_t)unit * w->stride;
    uint32_t i = 0;
    while (i < w->n[unit] && holders[i] != node)
        i++;
    assert(i < w->n[unit]);
    charge(w, unit, -balance_cost(w->load[unit], balance_speed(w, unit)));
    holders[i] = holders[--w->n[unit]];
    charge(w, unit, balance_cost(w->load[unit], balance_speed(w, unit)));
    w->used[node] -= balance_unit_bytes(w, unit);
    (*find_mates(w, unit, node))--;
}
