/* leader_question.c - what the balancer is asked: the rack of a picture, with
 * loads that are more than noise.
 *
 * Counts are samples: with even traffic no two experts are counted alike, and
 * the busiest node of a layer seems busier than it is.  So each layer's counts
 * are drawn towards their mean (James and Stein's estimator): with m the mean
 * of an expert and v the variance over the layer's experts, what is noise is
 * about NOISE m, and only the rest, 1 - NOISE m / v of each difference, is
 * believed. Even traffic gives loads that are all the same, and no move; a few
 * hundred tokens of really uneven traffic are believed nearly whole.
 *
 * What is predicted from them has an error too: a node's pairs are a sum of
 * such counts, and the balancer looks for the sum that is least.  So it is told
 * how far off its times may be, for what it gains to be clearly more. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/leader_internal.h"

/* The variance of a count by its mean: 1 for independent tokens; the tokens of
 * one text are alike. */
#define NOISE 6.0

/* Pairs a layer must have on average before its counts mean anything. */
#define PAIRS_LEAST 64.0
#define PAIRS_BY_EXPERT 2.0

#define NOBODY UINT32_MAX /* no such node in the input */

/* Kept free on each node, so that something can move. */
#define RESERVE 0.03
/* Moving a hundredth of the model has to gain as much of a step's time. */
#define PRICE 0.002

/* ---- heat ---- */

static bool heat_fits(const heat *h, const planner_model *m) {
    if (heat_layers(h) != m->n_layers) return false;
    for (uint32_t l = 0; l < m->n_layers; l++) {
        if (heat_units(h, l) != m->n_experts * m->slices[l]) return false;
    }
    return true;
}

/* Of all layers, whole experts. */
static double count_pairs(const heat *h, const planner_model *m,
                          uint32_t *layers) {
    double pairs = 0;
    *layers = 0;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        if (m->slices[i] == 0) continue;
        ++*layers;
        pairs += heat_total(h, i) / m->slices[i];
    }
    return pairs;
}

bool leader_has_heat(const leader *l) {
    const planner_model *m = l->picture.model;
    const heat *h = l->picture.heat;
    double least = PAIRS_BY_EXPERT * m->n_experts;
    uint32_t layers;
    if (h == NULL || !heat_fits(h, m)) return false;
    double pairs = count_pairs(h, m, &layers);
    if (least < PAIRS_LEAST) least = PAIRS_LEAST;
    return layers > 0 && pairs >= least * layers;
}

/* How far off the rack's predicted time may be: that of the busiest node of
 * each layer, added up.  A node's pairs vary as NOISE times their number. */
static double noise_of(const heat *h, const planner_model *m,
                       uint32_t n_nodes) {
    uint32_t layers;
    double pairs = count_pairs(h, m, &layers);
    return pairs > 0 ? sqrt(NOISE * n_nodes / pairs) : 0;
}

/* All slices of an expert do the same work. */
static double expert_pairs(const double *counts, uint32_t expert,
                           uint32_t slices) {
    double sum = 0;
    for (uint32_t s = 0; s < slices; s++)
        sum += counts[expert * slices + s];
    return sum / slices;
}

static void believe_layer(const double *counts, uint32_t n_experts,
                          uint32_t slices, double *load) {
    double mean = 0, variance = 0;
    for (uint32_t e = 0; e < n_experts; e++)
        mean += expert_pairs(counts, e, slices) / n_experts;
    for (uint32_t e = 0; e < n_experts; e++) {
        double off = expert_pairs(counts, e, slices) - mean;
        variance += off * off / n_experts;
    }
    double belief = variance > NOISE * mean ? 1 - NOISE * mean / variance : 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        double off = expert_pairs(counts, e, slices) - mean;
        for (uint32_t s = 0; s < slices; s++)
            load[e * slices + s] = mean + belief * off;
    }
}

static int read_heat(const leader *l, leader_job *j) {
    const planner_model *m = &j->model;
    const heat *h = l->picture.heat;
    uint32_t base = 0;
    if (!leader_has_heat(l)) return 0;
    j->load = calloc((size_t)leader_units(m) + 1, sizeof(*j->load));
    if (j->load == NULL) return -ENOMEM;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        if (m->slices[i] == 0) continue;
        believe_layer(heat_layer(h, i), m->n_experts, m->slices[i],
                      j->load + base);
        base += m->n_experts * m->slices[i];
    }
    return 0;
}

/* ---- nodes ---- */

static uint32_t count_staying(const leader_job *j) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < j->input.n_nodes; i++)
        n += j->balance_nodes[i].stays;
    return n;
}

static int read_nodes(leader_job *j) {
    const planner_input *in = &j->input;
    j->balance_nodes =
        calloc((size_t)in->n_nodes + 1, sizeof(*j->balance_nodes));
    if (j->balance_nodes == NULL) return -ENOMEM;
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        const planner_node *n = &in->nodes[i];
        j->balance_nodes[i] =
            (balance_node){.memory_bytes = n->memory_bytes,
                           .speed = n->speed > 0 ? n->speed : 1,
                           .zone = n->zone,
                           .stays = (n->live || n->missing) && !n->draining};
    }
    return 0;
}

static uint32_t find_node(const leader_job *j, const char *name) {
    for (uint32_t i = 0; i < j->input.n_nodes; i++) {
        if (strcmp(j->names[i], name) == 0) return i;
    }
    return NOBODY;
}

/* ---- who holds what ---- */

static uint32_t count_holders(const leader_job *j) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < j->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(j->now, l);
        if (m != NULL) n += m->first[m->n_units];
    }
    return n;
}

static int compare_nodes(const void *a, const void *b) {
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

static void read_layer(leader_job *j, uint32_t layer, uint32_t base,
                       const uint16_t *node_at, uint32_t *at) {
    const layer_map *m = rack_placement_layer(j->now, layer);
    uint32_t units = j->model.n_experts * j->model.slices[layer];
    for (uint32_t u = 0; u < units; u++) {
        j->holders.first[base + u] = *at;
        if (m == NULL) continue;
        uint32_t n;
        const uint16_t *places = layer_map_holders(m, u, &n);
        uint16_t *to = j->holders.nodes + *at;
        for (uint32_t i = 0; i < n; i++)
            to[i] = node_at[places[i]];
        qsort(to, n, sizeof(*to), compare_nodes);
        *at += n;
    }
}

/* A placement's nodes are all in the input, those that are away too. */
static int read_holders(leader_job *j) {
    const epoch_record *head = rack_placement_head(j->now);
    uint32_t units = leader_units(&j->model), base = 0, at = 0;
    int rc = balance_map_init(&j->holders, units, count_holders(j));
    uint16_t *node_at = calloc((size_t)head->n_nodes + 1, sizeof(*node_at));
    if (rc < 0 || node_at == NULL) {
        free(node_at);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < head->n_nodes; i++)
        node_at[i] = (uint16_t)find_node(j, head->nodes[i]);
    for (uint32_t l = 0; l < j->model.n_layers; l++) {
        read_layer(j, l, base, node_at, &at);
        base += j->model.n_experts * j->model.slices[l];
    }
    j->holders.first[units] = at;
    free(node_at);
    return 0;
}

/* ---- what is to be left alone ---- */

static int compare_holders(const void *a, const void *b) {
    const balance_holder *x = a, *y = b;
    if (x->unit != y->unit) return x->unit < y->unit ? -1 : 1;
    return (int)x->node - (int)y->node;
}

/* A holder that came or went of late: pinned if it is one, else banned. */
static void leave_alone(leader_job *j, uint32_t unit, uint32_t node) {
    const balance_map *m = &j->holders;
    for (uint32_t i = m->first[unit]; i < m->first[unit + 1]; i++) {
        if (m->nodes[i] != node) continue;
        j->pinned[i] = true;
        return;
    }
    j->banned[j->question.n_banned++] = (balance_holder){unit, (uint16_t)node};
}

static int read_history(const leader *l, uint64_t now_ms, leader_job *j) {
    const leader_history *h = &l->history;
    const balance_map *m = &j->holders;
    uint32_t units = m->n_units;
    uint32_t *node_of = calloc((size_t)l->peers.n + 1, sizeof(*node_of));
    j->pinned = calloc((size_t)m->first[units] + 1, sizeof(*j->pinned));
    j->banned = calloc((size_t)h->n + 1, sizeof(*j->banned));
    if (node_of == NULL || j->pinned == NULL || j->banned == NULL) {
        free(node_of);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < l->peers.n; i++)
        node_of[i] = find_node(j, l->peers.items[i].name);
    for (uint32_t i = 0; i < h->n; i++) {
        const leader_change *c = &h->items[i];
        if (c->at_ms + l->config.still_ms <= now_ms) continue;
        if (c->unit >= units || node_of[c->peer] == NOBODY) continue;
        leave_alone(j, c->unit, node_of[c->peer]);
    }
    qsort(j->banned, j->question.n_banned, sizeof(*j->banned), compare_holders);
    free(node_of);
    return 0;
}

/* ---- all together ---- */

int leader_question(leader *l, uint64_t now_ms, leader_job *j) {
    const planner_model *m = &j->model;
    int rc = read_nodes(j);
    if (rc == 0) rc = read_heat(l, j);
    if (rc == 0) rc = read_holders(j);
    if (rc == 0) rc = read_history(l, now_ms, j);
    if (rc < 0) return rc;

    uint32_t most = PLANNER_MAX_REPLICAS;
    balance_input *q = &j->question;
    q->n_layers = m->n_layers;
    q->n_experts = m->n_experts;
    q->slices = m->slices;
    q->unit_bytes = m->unit_bytes;
    q->n_groups = l->picture.n_groups;
    q->min_replicas = m->min_replicas;
    q->max_replicas = m->min_replicas > most ? m->min_replicas : most;
    q->nodes = j->balance_nodes;
    q->n_nodes = j->input.n_nodes;
    q->load = j->load;
    q->now = &j->holders;
    q->pinned = j->pinned;
    q->banned = j->banned;
    q->reserve = RESERVE;
    q->price = PRICE;
    if (j->load != NULL) {
        q->noise = noise_of(l->picture.heat, m, count_staying(j));
    }
    return 0;
}
