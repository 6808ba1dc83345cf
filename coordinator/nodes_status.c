/* nodes_status.c - the nodes as the status object shows them. */
#include "coordinator/nodes_internal.h"
#include "coordinator/nodes_quarantine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

uint32_t nodes_count(const nodes *n) {
    return n->n_all;
}

const char *nodes_name(const nodes *n, uint32_t i) {
    const node *p = i < n->n_all ? n->all[i] : NULL;
    if (p == NULL) return NULL;
    if (p->listed[0] != '\0') return p->listed;
    return p->welcomed && p->name[0] != '\0' ? p->name : p->control;
}

/* What is counted for its place may still be its predecessor's. */
static dispatch_node_stats own_stats(const nodes *n, const node *p) {
    dispatch_node_stats d;
    exchange_node(n->config.experts, p->index, &d);
    if (d.serial != p->serial) d = (dispatch_node_stats){0};
    return d;
}

uint64_t nodes_pairs(const nodes *n, uint32_t i, uint64_t *serial) {
    const node *p = i < n->n_all ? n->all[i] : NULL;
    *serial = p != NULL ? p->serial : 0;
    if (p == NULL) return 0;
    return own_stats(n, p).pairs;
}

/* ---- one node ---- */

static json_t *link_json(const nodes *n, const node *p) {
    node_state state = membership_state(n->machine, p->index);
    dispatch_node_stats d = own_stats(n, p);
    uint64_t units = p->welcomed ? holdings_count(&p->held) : 0;
    uint32_t slices = p->held.slices > 0 ? p->held.slices : 1;
    char boot[20] = "";
    if (p->welcomed) {
        snprintf(boot, sizeof(boot), "%016llx",
                 (unsigned long long)membership_boot(n->machine, p->index));
    }
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I, "
        "s:i, s:s, s:i, s:b}",
        "name", nodes_name(n, p->index), "endpoint", p->control, "state",
        node_state_name(state), "why", p->why, "boot_id", boot, "experts",
        (json_int_t)(units / slices), "held", (json_int_t)units, "slices",
        (int)slices, "resident_bytes", (json_int_t)p->resident_bytes, "batches",
        (json_int_t)p->batches, "pairs", (json_int_t)p->pairs, "pairs_used",
        (json_int_t)d.pairs, "latency_us", (json_int_t)d.latency_us, "threads",
        (int)p->threads, "cpu", p->cpu, "queued", (int)p->queued, "suspect",
        d.suspect);
}

/* Has it reported all that the placement gives it as resident? */
static bool is_ready(const rack_placement *p, const rack_view *view,
                     const char *name, int32_t place) {
    const ready_record *ready = rack_view_ready(view, name);
    const node_record *record = rack_view_node(view, name);
    if (ready == NULL || record == NULL) return false;
    if (ready->boot != record->boot) return false;
    const epoch_record *head = rack_placement_head(p);
    return ready->incarnation == head->incarnation &&
           ready->epoch == head->epoch &&
           ready->digest == rack_placement_digest(p, place);
}

/* What etcd says of a node: into its object. */
static int add_record(const nodes *n, const rack_view *view, const char *name,
                      json_t *into) {
    const node_record *r = rack_view_node(view, name);
    const ready_record *ready = rack_view_ready(view, name);
    const rack_placement *p = nodes_newest(n);
    int32_t place = p != NULL ? rack_placement_node(p, name) : -1;
    json_int_t assigned = 0;
    if (place >= 0) assigned = (json_int_t)rack_placement_units(p, place);
    json_t *more = json_pack(
        "{s:b, s:b, s:b, s:b, s:I, s:I, s:s, s:I}", "registered", r != NULL,
        "missing", r == NULL && assigned > 0, "draining",
        rack_view_drain(view, name) != NULL, "ready",
        place >= 0 && is_ready(p, view, name, place), "assigned", assigned,
        "waiting", (json_int_t)(ready != NULL ? ready->waiting : 0), "zone",
        r != NULL ? r->zone : "", "memory_bytes",
        (json_int_t)(r != NULL ? r->memory_bytes : 0));
    int rc = json_object_update(into, more);
    json_decref(more);
    return rc;
}

/* ---- the list ---- */

/* Who has units in the placement, and is known by nothing else. */
static int add_missing(const nodes *n, const rack_view *view, json_t *list) {
    const rack_placement *newest = nodes_newest(n);
    if (newest == NULL) return 0;
    const epoch_record *head = rack_placement_head(newest);
    bool known[RECORD_NODES_MAX] = {false};
    for (uint32_t i = 0; i < n->n_all; i++) {
        const node *p = n->all[i];
        int32_t place = p != NULL ? rack_placement_node(newest, p->listed) : -1;
        if (place >= 0) known[place] = true;
    }
    int rc = 0;
    for (uint32_t i = 0; i < head->n_nodes && rc == 0; i++) {
        if (known[i] || head->nodes[i][0] == '\0') continue;
        json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i}", "name",
                              head->nodes[i], "endpoint", "", "state",
                              "missing", "why", "it is not registered",
                              "boot_id", "", "experts", 0, "held", 0);
        rc = add_record(n, view, head->nodes[i], o);
        rc |= json_array_append_new(list, o);
    }
    return rc;
}

static json_t *list_json(const nodes *n, const rack_view *view) {
    json_t *list = json_array();
    int rc = 0;
    for (uint32_t i = 0; i < n->n_all && rc == 0; i++) {
        const node *p = n->all[i];
        if (p == NULL) continue;
        json_t *o = link_json(n, p);
        if (view != NULL) rc = add_record(n, view, p->listed, o);
        rc |= nodes_add_trust(n, p, o);
        rc |= nodes_load_node_json(n, i, o);
        rc |= json_array_append_new(list, o);
    }
    if (rc == 0 && view != NULL) rc = add_missing(n, view, list);
    if (rc == 0) return list;
    json_decref(list);
    return NULL;
}

/* ---- layers ---- */

/* Who holds what is told as long as it takes no more than this. */
#define HELD_DIGITS_MAX ((size_t)512 << 10)

static bool tells_holders(const nodes *n) {
    const model_config *m = n->config.model;
    uint64_t slices = placement_max_slices(n->where);
    uint64_t digits = (uint64_t)m->n_layers * m->n_experts * slices / 4;
    return digits * (n->n_all + 1) <= HELD_DIGITS_MAX;
}

/* The units of a layer that a node holds, as hex digits: digit i stands for
 * units 4i to 4i + 3, the first one being its lowest bit. */
static json_t *held_digits(const holdings *h, uint32_t layer, uint32_t units) {
    char digits[HOLDINGS_MAX_EXPERTS * HOLDINGS_MAX_SLICES / 4 + 2];
    uint32_t n = (units + 3) / 4;
    for (uint32_t i = 0; i < n; i++) {
        unsigned bits = 0;
        for (uint32_t b = 0; b < 4 && 4 * i + b < units; b++)
            bits |= (unsigned)holdings_has(h, layer, 4 * i + b) << b;
        digits[i] = "0123456789abcdef"[bits];
    }
    return json_stringn(digits, n);
}

/* By name, the nodes that can be used now and hold some of the layer. */
static json_t *held_json(const nodes *n, uint32_t layer, uint32_t units) {
    json_t *held = json_object();
    for (uint32_t i = 0; i < n->n_all; i++) {
        const node *p = n->all[i];
        if (p == NULL || membership_state(n->machine, i) != NODE_UP) continue;
        if (holdings_next(&p->held, layer, 0, units) == units) continue;
        json_object_set_new(held, nodes_name(n, i),
                            held_digits(&p->held, layer, units));
    }
    return held;
}

/* Layers with experts, how many nodes hold a unit of each at least and at most,
 * and who holds which. */
static json_t *layers_json(const nodes *n) {
    const model_config *m = n->config.model;
    json_t *list = json_array();
    bool holders = tells_holders(n);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        if (!model_is_moe(m, l)) continue;
        uint32_t slices = placement_slices(n->where, l);
        uint32_t units = m->n_experts * slices, least = UINT32_MAX, most = 0;
        for (uint32_t unit = 0; unit < units; unit++) {
            uint32_t count;
            placement_nodes(n->where, l, unit, &count);
            if (count < least) least = count;
            if (count > most) most = count;
        }
        json_t *layer =
            json_pack("{s:i, s:i, s:i, s:i, s:i}", "layer", (int)l, "slices",
                      (int)slices, "units", (int)units, "min_holders",
                      (int)least, "max_holders", (int)most);
        nodes_load_layer_json(n, l, layer);
        if (holders && n->n_all > 0) {
            json_object_set_new(layer, "held", held_json(n, l, units));
            nodes_load_units_json(n, l, layer);
        }
        json_array_append_new(list, layer);
    }
    return list;
}

/* With a list of nodes, what would be if one were lost; a rack with a placement
 * has the planner to say so. */
static json_t *health_json(const nodes_health *h) {
    return json_pack("{s:I, s:I, s:I, s:b, s:s, s:I}", "units",
                     (json_int_t)h->units, "unplaced", (json_int_t)h->unheld,
                     "single", (json_int_t)h->single, "survives_largest",
                     h->survives_largest, "weakest", h->weakest, "lost_units",
                     (json_int_t)h->lost_units);
}

int nodes_status(const nodes *n, const rack_view *view, json_t *into) {
    nodes_health h;
    nodes_look(n, &h);
    int rc = json_object_set_new(into, "nodes", list_json(n, view));
    rc |= nodes_add_checks(n, into);
    rc |= json_object_set_new(into, "layers", layers_json(n));
    rc |= nodes_load_json(n, into);
    rc |= json_object_set_new(
        into, "coverage",
        json_pack("{s:I, s:I, s:I}", "experts", (json_int_t)h.units, "unheld",
                  (json_int_t)h.unheld, "single", (json_int_t)h.single));
    if (!n->config.registered) {
        json_t *epoch = json_integer((json_int_t)n->epoch);
        rc |= json_object_set_new(into, "epoch", epoch);
        rc |=
            json_object_set_new(into, "slices", json_integer(n->config.slices));
        if (n->n_all > 0) {
            rc |= json_object_set_new(into, "placement", health_json(&h));
        }
    }
    return rc == 0 ? 0 : -ENOMEM;
}
