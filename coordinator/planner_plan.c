/* planner_plan.c - the tables that a plan is made in. */
#include "coordinator/planner_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define UNITS_MOST ((uint32_t)1 << 24)

/* ---- sizes ---- */

/* Does the placement have the model's layers, cut in the model's way? */
static bool is_of_model(const rack_placement *now, const planner_model *m) {
    const epoch_record *head = rack_placement_head(now);
    if (memcmp(head->model, m->model, RECORD_MODEL) != 0) return false;
    if (head->n_layers != m->n_layers || head->n_experts != m->n_experts) {
        return false;
    }
    for (uint32_t l = 0; l < m->n_layers; l++) {
        const layer_map *map = rack_placement_layer(now, l);
        if (map != NULL && map->slices != m->slices[l]) return false;
    }
    return true;
}

/* The most holders of a unit; false: it is not this model's, or names others
 * than the input's nodes. */
static bool measure_target(const plan *p, uint32_t *most) {
    const balance_map *t = p->in->target;
    if (t->n_units != p->n_units) return false;
    for (uint32_t u = 0; u < t->n_units; u++) {
        uint32_t n = t->first[u + 1] - t->first[u];
        if (n > PLANNER_MAX_REPLICAS) return false;
        if (n > *most) *most = n;
        for (uint32_t i = t->first[u]; i < t->first[u + 1]; i++) {
            if (t->nodes[i] >= p->n_nodes) return false;
        }
    }
    return true;
}

static int measure(plan *p) {
    const planner_input *in = p->in;
    const planner_model *m = in->model;
    uint64_t units = 0;
    uint32_t most = m->min_replicas, named = 0;

    for (uint32_t l = 0; l < m->n_layers; l++) {
        uint64_t n = (uint64_t)m->n_experts * m->slices[l];
        const layer_map *map =
            in->now != NULL ? rack_placement_layer(in->now, l) : NULL;
        if (n == 0) continue;
        units += n;
        if (units > UNITS_MOST) return ERR_RANGE;
        if (map == NULL) p->first = true;
        for (uint32_t u = 0; map != NULL && u < map->n_units; u++) {
            uint32_t held = map->first[u + 1] - map->first[u];
            if (held > most) most = held;
        }
        p->bytes += n * m->unit_bytes[l];
        if (m->unit_bytes[l] > p->largest) p->largest = m->unit_bytes[l];
    }
    if (most > LAYER_MAP_MAX_HOLDERS) return ERR_RANGE;
    p->n_units = (uint32_t)units;
    p->mean = units > 0 ? (double)p->bytes / (double)units : 0;
    if (in->target != NULL && !measure_target(p, &named)) return ERR_RANGE;
    /* A move has a holder more for a moment; a target may name all others. */
    p->stride = most + named + 1;
    return 0;
}

static int holders_init(plan_holders *h, const plan *p) {
    size_t n;
    if (!size_mul(p->n_units, p->stride, &n)) return ERR_RANGE;
    h->nodes = calloc(n + 1, sizeof(*h->nodes));
    h->n = calloc((size_t)p->n_units + 1, sizeof(*h->n));
    return h->nodes != NULL && h->n != NULL ? 0 : -ENOMEM;
}

static int make_tables(plan *p) {
    size_t nodes = (size_t)p->n_nodes + 1, layers = (size_t)p->n_layers + 1;
    size_t units = (size_t)p->n_units + 1;

    p->nodes = calloc(nodes, sizeof(*p->nodes));
    p->mark = calloc(nodes, sizeof(*p->mark));
    p->gave_up = calloc(nodes, sizeof(*p->gave_up));
    p->tried = calloc(nodes, sizeof(*p->tried));
    p->base = calloc(layers, sizeof(*p->base));
    p->weight = calloc(layers, sizeof(*p->weight));
    p->count = calloc(nodes * layers, sizeof(*p->count));
    p->layer_of = calloc(units, sizeof(*p->layer_of));
    p->order = calloc(units, sizeof(*p->order));
    if (p->nodes == NULL || p->mark == NULL || p->gave_up == NULL ||
        p->tried == NULL || p->base == NULL || p->weight == NULL ||
        p->count == NULL || p->layer_of == NULL || p->order == NULL) {
        return -ENOMEM;
    }
    int rc = holders_init(&p->now, p);
    return rc < 0 ? rc : holders_init(&p->goal, p);
}

/* ---- units ---- */

static void number_units(plan *p) {
    const planner_model *m = p->in->model;
    uint32_t unit = 0, longest = 0;

    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t n = m->n_experts * m->slices[l];
        p->base[l] = unit;
        for (uint32_t u = 0; u < n; u++) {
            p->layer_of[unit++] = (uint16_t)l;
        }
        if (n > longest) longest = n;
    }
    p->base[p->n_layers] = unit;

    /* What there is not enough memory for is spread over all layers. */
    uint32_t at = 0;
    for (uint32_t u = 0; u < longest; u++) {
        for (uint32_t l = 0; l < p->n_layers; l++) {
            uint32_t n = p->base[l + 1] - p->base[l];
            if (u < n) p->order[at++] = p->base[l] + u;
        }
    }
    assert(at == p->n_units);
}

/* ---- nodes ---- */

static uint32_t find_node(const planner_input *in, const char *name) {
    uint32_t low = 0, high = in->n_nodes;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(in->nodes[middle].name, name);
        if (order == 0) return middle;
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return PLAN_NONE;
}

/* What the placement says, in the input's numbers. */
static void read_placement(plan *p, const uint32_t *node_at) {
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const layer_map *map = rack_placement_layer(p->in->now, l);
        if (map == NULL) continue;
        for (uint32_t u = 0; u < map->n_units; u++) {
            uint32_t unit = p->base[l] + u, n;
            const uint16_t *places = layer_map_holders(map, u, &n);
            for (uint32_t i = 0; i < n; i++) {
                uint32_t node = node_at[places[i]];
                assert(node != PLAN_NONE); /* a free place has no units */
                p->now.nodes[unit * p->stride + p->now.n[unit]++] =
                    (uint16_t)node;
                p->nodes[node].now_bytes += plan_unit_bytes(p, unit);
                p->nodes[node].now_units++;
            }
        }
    }
}

static int read_now(plan *p) {
    const epoch_record *head = rack_placement_head(p->in->now);
    uint32_t *node_at = calloc((size_t)head->n_nodes + 1, sizeof(*node_at));
    if (node_at == NULL) return -ENOMEM;

    int rc = 0;
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        uint32_t node = find_node(p->in, head->nodes[i]);
        node_at[i] = node;
        if (node != PLAN_NONE) p->nodes[node].place = (int32_t)i;
        if (node == PLAN_NONE && head->nodes[i][0] != '\0') rc = ERR_RANGE;
    }
    if (rc == 0) read_placement(p, node_at);
    free(node_at);
    return rc;
}

/* Places in the epoch record that this step can give away: those behind its
 * end, those that are free, and those of nodes that are gone and hold nothing.
 */
static uint32_t places_left(const plan *p) {
    uint32_t left = RECORD_NODES_MAX;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const plan_node *n = &p->nodes[i];
        if (n->place >= 0 && !(n->gone && n->now_units == 0)) left--;
    }
    return left;
}

static void judge_nodes(plan *p) {
    const planner_input *in = p->in;
    uint64_t epoch = in->now != NULL ? rack_placement_epoch(in->now) : 0;

    for (uint32_t i = 0; i < p->n_nodes; i++) {
        plan_node *n = &p->nodes[i];
        const planner_node *given = &in->nodes[i];
        n->gone = !given->live && !given->missing;
        n->stays = !n->gone && !given->draining;
        n->ready = given->live && given->ready_epoch >= epoch;
        n->memory = given->memory_bytes;
        /* A leader that is new does not know what a missing node offered. */
        if (given->missing && n->memory < n->now_bytes) {
            n->memory = n->now_bytes;
        }
        if (given->missing) p->missing = true;
    }
    uint32_t left = places_left(p);
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        plan_node *n = &p->nodes[i];
        /* What was taken from a node is in its memory until it reports the
         * epoch that took it. */
        bool settled = n->ready || n->now_units == 0 || p->first;
        n->open = in->nodes[i].live && n->stays && settled;
        if (n->open && n->place < 0) {
            n->open = left > 0;
            if (left > 0) left--;
        }
    }
}

/* The goal begins as what stays. */
static void begin_goal(plan *p) {
    uint32_t stay = 0;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        if (p->nodes[i].stays) stay++;
    }
    p->replicas = p->in->model->min_replicas;
    if (stay < p->replicas) p->replicas = stay;

    for (uint32_t unit = 0; unit < p->n_units; unit++) {
        for (uint32_t i = 0; i < p->now.n[unit]; i++) {
            uint32_t node = p->now.nodes[unit * p->stride + i];
            if (p->nodes[node].stays) plan_add(p, unit, node);
        }
    }
}

int plan_init(plan *p, const planner_input *in) {
    const planner_model *m = in->model;
    *p = (plan){.in = in, .n_nodes = in->n_nodes, .n_layers = m->n_layers};
    if (m->n_layers > UINT16_MAX || in->n_nodes >= UINT16_MAX ||
        m->min_replicas == 0 || m->min_replicas > PLANNER_MAX_REPLICAS) {
        return ERR_RANGE;
    }
    if (in->now != NULL && !is_of_model(in->now, m)) return ERR_WRONG_MODEL;

    p->first = in->now == NULL;
    int rc = measure(p);
    if (rc < 0) return rc;
    rc = make_tables(p);
    if (rc < 0) goto fail;
    number_units(p);
    for (uint32_t i = 0; i < p->n_nodes; i++)
        p->nodes[i].place = -1;
    if (in->now != NULL) {
        p->n_places = rack_placement_head(in->now)->n_nodes;
        rc = read_now(p);
        if (rc < 0) goto fail;
    }
    judge_nodes(p);
    begin_goal(p);
    return 0;

fail:
    plan_fini(p);
    return rc;
}

void plan_fini(plan *p) {
    free(p->nodes);
    free(p->mark);
    free(p->gave_up);
    free(p->tried);
    free(p->base);
    free(p->weight);
    free(p->count);
    free(p->layer_of);
    free(p->order);
    free(p->now.nodes);
    free(p->now.n);
    free(p->goal.nodes);
    free(p->goal.n);
    *p = (plan){0};
}

/* ---- changing the goal ---- */

bool plan_has(const plan_holders *h, uint32_t stride, uint32_t unit,
              uint32_t node) {
    const uint16_t *nodes = h->nodes + (size_t)unit * stride;
    for (uint32_t i = 0; i < h->n[unit]; i++) {
        if (nodes[i] == node) return true;
    }
    return false;
}

void plan_add(plan *p, uint32_t unit, uint32_t node) {
    plan_node *n = &p->nodes[node];
    uint64_t bytes = plan_unit_bytes(p, unit);
    assert(p->goal.n[unit] < p->stride);

    p->goal.nodes[unit * p->stride + p->goal.n[unit]++] = (uint16_t)node;
    p->count[p->layer_of[unit] * p->n_nodes + node]++;
    n->goal_bytes += bytes;
    if (!plan_has(&p->now, p->stride, unit, node)) n->adding_bytes += bytes;
}

void plan_drop(plan *p, uint32_t unit, uint32_t node) {
    plan_node *n = &p->nodes[node];
    uint16_t *nodes = p->goal.nodes + (size_t)unit * p->stride;
    uint64_t bytes = plan_unit_bytes(p, unit);
    uint32_t i = 0;

    while (i < p->goal.n[unit] && nodes[i] != node)
        i++;
    assert(i < p->goal.n[unit]);
    nodes[i] = nodes[--p->goal.n[unit]];
    p->count[p->layer_of[unit] * p->n_nodes + node]--;
    n->goal_bytes -= bytes;
    if (!plan_has(&p->now, p->stride, unit, node)) n->adding_bytes -= bytes;
}

bool plan_has_room(const plan *p, uint32_t unit, uint32_t node,
                   uint64_t reserve) {
    const plan_node *n = &p->nodes[node];
    uint64_t used = n->now_bytes + n->adding_bytes;
    uint64_t bytes = plan_unit_bytes(p, unit) + reserve;

    /* What it has needs no room, but for a node that offers less now. */
    if (plan_has(&p->now, p->stride, unit, node)) {
        return n->goal_bytes + plan_unit_bytes(p, unit) <= n->memory;
    }
    if (p->now.n[unit] + p->replicas > LAYER_MAP_MAX_HOLDERS) return false;
    return used <= n->memory && bytes <= n->memory - used;
}

uint64_t plan_reserve(const plan *p) {
    return p->is_short ? p->largest : 0;
}

/* ---- shares ---- */

double plan_layer_surplus(const plan *p, uint32_t layer, uint32_t node) {
    return p->count[layer * p->n_nodes + node] -
           p->nodes[node].share * p->weight[layer];
}

double plan_total_surplus(const plan *p, uint32_t node) {
    const plan_node *n = &p->nodes[node];
    return ((double)n->goal_bytes - n->share * p->weight_bytes) / p->mean;
}

double plan_unit_size(const plan *p, uint32_t layer) {
    return (double)p->in->model->unit_bytes[layer] / p->mean;
}

double plan_load(const plan *p, uint32_t layer, uint32_t node) {
    return plan_layer_surplus(p, layer, node) + PLAN_TOTAL_WEIGHT *
                                                    plan_unit_size(p, layer) *
                                                    plan_total_surplus(p, node);
}

/* ---- slices ---- */

/* The first slice of the unit's expert, and how many there are. */
static uint32_t first_sibling(const plan *p, uint32_t unit, uint32_t *n) {
    uint32_t layer = p->layer_of[unit];
    *n = p->in->model->slices[layer];
    return unit - (unit - p->base[layer]) % *n;
}

bool plan_has_sibling(const plan *p, uint32_t unit, uint32_t node) {
    uint32_t slices, first = first_sibling(p, unit, &slices);
    for (uint32_t u = first; u < first + slices; u++) {
        if (u != unit && plan_has(&p->goal, p->stride, u, node)) return true;
    }
    return false;
}

static void add_siblings(plan *p, uint32_t unit, uint32_t by) {
    uint32_t slices, first = first_sibling(p, unit, &slices);

    for (uint32_t u = first; u < first + slices; u++) {
        if (u == unit) continue;
        for (uint32_t i = 0; i < p->goal.n[u]; i++) {
            p->mark[p->goal.nodes[u * p->stride + i]] += by;
        }
    }
}

void plan_mark(plan *p, uint32_t unit) {
    add_siblings(p, unit, 1);
}

void plan_unmark(plan *p, uint32_t unit) {
    add_siblings(p, unit, UINT32_MAX); /* minus 1 */
}

/* splitmix64's last steps */
uint64_t plan_hash(uint64_t a, uint64_t b) {
    uint64_t z = a * 0x9E3779B97F4A7C15u + b + 1;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
