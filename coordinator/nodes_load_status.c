/* nodes_load_status.c - load and heat, as the status object shows them.
 *
 * Decayed counts are told as rates: what a steady stream of that rate would
 * have left.  What is not known is null. */
#include <errno.h>
#include <math.h>
#include "coordinator/nodes_internal.h"

#define HOTTEST 4

/* So many digits as mean something. */
static json_t *figure(double x, double digits) {
    return json_real(round(x * digits) / digits);
}

static json_t *known(double x) {
    return x > 0 ? figure(x, 1000) : json_null();
}

/* ---- a node ---- */

static int add_moves(const nodes *n, const node *p, json_t *into) {
    if (!n->config.registered) return 0;
    nodes_moves m;
    nodes_load_moves(n, p, &m);
    const json_t *waiting = json_object_get(into, "waiting");
    return json_object_set_new(into, "moves",
                               json_pack("{s:I, s:I, s:I}", "loading",
                                         (json_int_t)m.to_load, "waiting",
                                         json_integer_value(waiting), "leaving",
                                         (json_int_t)m.to_drop));
}

int nodes_load_node_json(const nodes *n, uint32_t i, json_t *into) {
    load_figures f;
    (void)nodes_load_figures(n, n->all[i], &f);
    int rc =
        json_object_set_new(into, "pairs_per_s", figure(f.pairs_per_s, 10));
    rc |= json_object_set_new(into, "speed", known(nodes_speed(n, i)));
    rc |= json_object_set_new(into, "busy", figure(f.busy, 1000));
    return rc | add_moves(n, n->all[i], into);
}

/* ---- a layer ---- */

typedef struct {
    uint32_t expert;
    double pairs;
} hot_expert;

/* The first `n` of them, by their pairs; a tie goes to the lower expert.
 * Returns how many have any. */
static uint32_t find_hottest(const double *counts, uint32_t n_experts,
                             uint32_t slices, hot_expert *out, uint32_t n) {
    uint32_t found = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        hot_expert each = {e, 0};
        for (uint32_t s = 0; s < slices; s++)
            each.pairs += counts[e * slices + s];
        if (each.pairs <= 0) continue;
        uint32_t at = found < n ? found++ : n;
        for (; at > 0 && out[at - 1].pairs < each.pairs; at--)
            if (at < n) out[at] = out[at - 1];
        if (at < n) out[at] = each;
    }
    return found;
}

static json_t *hottest_json(const nodes *n, uint32_t layer) {
    json_t *list = json_array();
    const double *counts = heat_layer(n->heat, layer);
    double total = heat_total(n->heat, layer);
    uint32_t n_experts = n->config.model->n_experts;
    if (counts == NULL || total <= 0) return list;
    hot_expert hot[HOTTEST];
    uint32_t slices = heat_units(n->heat, layer) / n_experts;
    uint32_t found = find_hottest(counts, n_experts, slices, hot, HOTTEST);
    for (uint32_t i = 0; i < found; i++) {
        json_array_append_new(list, json_pack("[i, o]", (int)hot[i].expert,
                                              known(hot[i].pairs / total)));
    }
    return list;
}

/* Of each unit, in its order: decayed pairs. */
static json_t *counts_json(const nodes *n, uint32_t layer) {
    json_t *list = json_array();
    const double *counts = heat_layer(n->heat, layer);
    for (uint32_t u = 0; counts != NULL && u < heat_units(n->heat, layer); u++)
        json_array_append_new(list, json_integer((json_int_t)counts[u]));
    return list;
}

int nodes_load_units_json(const nodes *n, uint32_t layer, json_t *into) {
    if (n->heat == NULL || layer >= heat_layers(n->heat)) return 0;
    return json_object_set_new(into, "load", counts_json(n, layer));
}

int nodes_load_layer_json(const nodes *n, uint32_t layer, json_t *into) {
    if (n->heat == NULL || layer >= heat_layers(n->heat)) return 0;
    double rate = heat_total(n->heat, layer) / HEAT_SECONDS;
    int rc = json_object_set_new(into, "heat", figure(rate, 10));
    rc |= json_object_set_new(into, "imbalance",
                              known(nodes_measure_layer(n, layer)));
    return rc | json_object_set_new(into, "hottest", hottest_json(n, layer));
}

/* ---- the rack ---- */

int nodes_load_json(const nodes *n, json_t *into) {
    nodes_evenness e;
    nodes_measure(n, &e);
    json_t *worst_layer =
        e.worst > 0 ? json_integer(e.worst_layer) : json_null();
    return json_object_set_new(
        into, "balance",
        json_pack("{s:o, s:o, s:o}", "imbalance", known(e.imbalance), "worst",
                  known(e.worst), "worst_layer", worst_layer));
}
