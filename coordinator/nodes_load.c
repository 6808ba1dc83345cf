/* nodes_load.c - see nodes_load.h.
 *
 * A node's answer is believed only as far as it fits the question, the process
 * that is up, and what can be computed in the time (load_meter.h).  No answer,
 * or a refusal, says nothing of the node's health: pings do. */
#include "coordinator/nodes_load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/nodes_internal.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

/* ---- the table ---- */

static uint32_t units_of(const nodes *n, uint32_t layer) {
    const model_config *m = n->config.model;
    if (n->where == NULL || !model_is_moe(m, layer)) return 0;
    return m->n_experts * placement_slices(n->where, layer);
}

static bool heat_fits(const nodes *n) {
    uint32_t n_layers = n->config.model->n_layers;
    if (n->heat == NULL || heat_layers(n->heat) != n_layers) return false;
    for (uint32_t l = 0; l < n_layers; l++) {
        if (heat_units(n->heat, l) != units_of(n, l)) return false;
    }
    return true;
}

static void forget_node(node *p) {
    load_meter_free(p->meter);
    p->meter = NULL;
    p->load_id = 0;
}

/* A new table, if the rack's experts are cut in another way than the last one's
 * were.  Somebody may be reading that still. */
static int fit_heat(nodes *n) {
    if (heat_fits(n)) return 0;
    uint32_t n_layers = n->config.model->n_layers;
    uint32_t *units = calloc(n_layers + 1, sizeof(*units));
    heat *h = NULL;
    for (uint32_t l = 0; units != NULL && l < n_layers; l++)
        units[l] = units_of(n, l);
    int rc = units != NULL ? heat_new(&h, n_layers, units) : -ENOMEM;
    free(units);
    if (rc < 0) return rc;
    heat_free(n->old_heat);
    n->old_heat = n->heat;
    n->heat = h;
    for (uint32_t i = 0; i < n->n_all; i++) {
        if (n->all[i] != NULL) forget_node(n->all[i]);
    }
    return 0;
}

const heat *nodes_heat(const nodes *n) {
    return n->heat;
}

/* ---- asking ---- */

static void ask(nodes *n, node *p, uint64_t now_ms) {
    bool waits = p->load_id != 0 && now_ms < p->load_asked_ms + LOAD_LOST_MS;
    if (waits) return;
    message m = identity_message(n->config.self, MESSAGE_LOAD_REQUEST);
    m.to_boot_id = membership_boot(n->machine, p->index);
    m.request_id = p->load_id = ++n->last_question;
    p->load_asked_ms = now_ms;
    nodes_send(p, &m);
}

uint64_t nodes_load_ask(nodes *n, uint64_t now_ms) {
    if (now_ms < n->load_due_ms) return n->load_due_ms;
    uint32_t every_ms = n->config.load_every_ms;
    n->load_due_ms = now_ms + (every_ms != 0 ? every_ms : LOAD_EVERY_MS);
    int rc = fit_heat(n);
    if (rc < 0) {
        log_error("cannot measure the nodes' load: %s", err_text(rc));
        return n->load_due_ms;
    }
    for (uint32_t i = 0; i < n->n_all; i++) {
        node *p = n->all[i];
        if (p == NULL) continue;
        if (node_is_up(n, p)) {
            ask(n, p, now_ms);
        } else {
            forget_node(p);
        }
    }
    return n->load_due_ms;
}

/* ---- answers ---- */

static int take(nodes *n, node *p, const message *m, frames *f) {
    const model_config *model = n->config.model;
    int rc = 0;
    if (n->heat == NULL || !heat_fits(n)) return ERR_RANGE;
    if (p->meter == NULL) {
        rc = load_meter_new(&p->meter, model->n_layers, model->n_experts);
    }
    if (rc < 0) return rc;
    const load_word w = {
        .boot_id = m->boot_id,
        .slices = m->load.slices,
        .held = m->load.holdings,
        .held_bytes = m->load.holdings_bytes,
        .counters = frames_data(f, 1),
        .pairs = m->load.pairs,
        .runs = m->load.runs,
        .weight_bytes = m->load.weight_bytes,
        .busy_us = m->load.busy_us,
    };
    uint64_t now = now_ms();
    heat_decay(n->heat, now);
    return load_meter_take(p->meter, now, nodes_slices(n), &w, n->heat);
}

void nodes_load_take(nodes *n, node *p, const message *m, frames *f) {
    bool asked = p->load_id != 0 && m->request_id == p->load_id &&
                 node_is_up(n, p) &&
                 m->boot_id == membership_boot(n->machine, p->index);
    if (!asked) {
        log_debug("node %s: a load that was not asked for", p->control);
        return;
    }
    p->load_id = 0;
    int rc = take(n, p, m, f);
    if (rc == ERR_MALFORMED && !p->load_doubted) {
        log_warn("node %s says that it computed more than can be: its load is "
                 "not counted",
                 nodes_name(n, p->index));
    } else if (rc < 0 && rc != ERR_MALFORMED) {
        /* Cut in another way than ours: it has not taken up the placement. */
        log_debug("node %s: its load is not counted: %s", p->control,
                  err_text(rc));
    }
    p->load_doubted = rc == ERR_MALFORMED;
}

bool nodes_load_refused(node *p, const message *m) {
    if (p->load_id == 0 || m->request_id != p->load_id) return false;
    p->load_id = 0;
    return true;
}

/* ---- figures ---- */

static bool is_measured(const nodes *n, const node *p) {
    return p != NULL && p->meter != NULL && node_is_up(n, p);
}

bool nodes_load_figures(const nodes *n, const node *p, load_figures *out) {
    *out = (load_figures){0};
    if (!is_measured(n, p)) return false;
    load_meter_look(p->meter, out);
    return true;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the speeds that are known, counted in one way; 0: none is. */
static double median_speed(const nodes *n, int way) {
    double speeds[MEMBERSHIP_MAX_NODES];
    size_t known = 0;
    for (uint32_t i = 0; i < n->n_all; i++) {
        load_figures f;
        if (!nodes_load_figures(n, n->all[i], &f)) continue;
        if (f.speed[way] > 0) speeds[known++] = f.speed[way];
    }
    if (known == 0) return 0;
    qsort(speeds, known, sizeof(speeds[0]), compare_doubles);
    return (speeds[(known - 1) / 2] + speeds[known / 2]) / 2;
}

double nodes_speed(const nodes *n, uint32_t i) {
    load_figures f;
    double usual[LOAD_WAYS];
    if (i >= n->n_all || !nodes_load_figures(n, n->all[i], &f)) return 0;
    for (int way = 0; way < LOAD_WAYS; way++)
        usual[way] = median_speed(n, way);
    return load_meter_speed(&f, usual);
}

/* ---- evenness ---- */

/* One that is being emptied is not to do its share. */
static bool can_work(const nodes *n, const node *p) {
    return p != NULL && node_is_up(n, p) && !p->draining;
}

/* *total: the layer's pairs on the nodes that can work. */
static double measure_layer(const nodes *n, uint32_t layer, double *total) {
    double most = 0;
    uint32_t able = 0;
    *total = 0;
    for (uint32_t i = 0; i < n->n_all; i++) {
        const node *p = n->all[i];
        if (!can_work(n, p)) continue;
        double pairs = p->meter != NULL ? load_meter_layer(p->meter, layer) : 0;
        able++;
        *total += pairs;
        if (pairs > most) most = pairs;
    }
    return *total > 0 ? most * able / *total : 0;
}

double nodes_measure_layer(const nodes *n, uint32_t layer) {
    double total;
    return measure_layer(n, layer, &total);
}

void nodes_measure(const nodes *n, nodes_evenness *out) {
    double sum = 0, weight = 0;
    *out = (nodes_evenness){0};
    for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
        double total, layer = measure_layer(n, l, &total);
        sum += layer * total;
        weight += total;
        if (layer <= out->worst) continue;
        out->worst = layer;
        out->worst_layer = l;
    }
    if (weight > 0) out->imbalance = sum / weight;
}

/* ---- moves ---- */

typedef struct {
    uint32_t held, right; /* right: held, and it is to be */
} layer_count;

static layer_count count_layer(const node *p, const rack_placement *newest,
                               int32_t place, uint32_t layer, uint32_t end) {
    layer_count c = {0, 0};
    uint32_t unit = holdings_next(&p->held, layer, 0, end);
    for (; unit < end; unit = holdings_next(&p->held, layer, unit + 1, end)) {
        c.held++;
        c.right += rack_placement_assigns(newest, place, layer, unit);
    }
    return c;
}

/* One that is not up is not on its way to anything. */
static bool moves(const nodes *n, const node *p) {
    return p != NULL && p->listed[0] != '\0' && node_is_up(n, p);
}

void nodes_load_moves(const nodes *n, const node *p, nodes_moves *out) {
    const rack_placement *newest = nodes_newest(n);
    *out = (nodes_moves){0};
    if (newest == NULL || !moves(n, p)) return;
    int32_t place = rack_placement_node(newest, p->listed);
    uint64_t right = 0;
    for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
        const layer_map *map = rack_placement_layer(newest, l);
        if (map == NULL) continue;
        layer_count c = count_layer(p, newest, place, l, map->n_units);
        right += c.right;
        out->to_drop += c.held - c.right;
    }
    if (place >= 0) out->to_load = rack_placement_units(newest, place) - right;
}

/* assigned[place]: how many units of the layer a node is to hold. */
static void count_assigned(const layer_map *map, uint32_t *assigned,
                           uint32_t n_places) {
    memset(assigned, 0, n_places * sizeof(*assigned));
    for (uint32_t unit = 0; unit < map->n_units; unit++) {
        uint32_t count;
        const uint16_t *of = layer_map_holders(map, unit, &count);
        for (uint32_t i = 0; i < count; i++)
            if (of[i] < n_places) assigned[of[i]]++;
    }
}

void nodes_count_moves(const nodes *n, const uint64_t *unit_bytes,
                       nodes_moves *out) {
    const rack_placement *newest = nodes_newest(n);
    uint32_t assigned[RECORD_NODES_MAX];
    *out = (nodes_moves){0};
    if (newest == NULL) return;
    for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
        const layer_map *map = rack_placement_layer(newest, l);
        if (map == NULL) continue;
        count_assigned(map, assigned, rack_placement_head(newest)->n_nodes);
        for (uint32_t i = 0; i < n->n_all; i++) {
            const node *p = n->all[i];
            if (!moves(n, p)) continue;
            int32_t place = rack_placement_node(newest, p->listed);
            layer_count c = count_layer(p, newest, place, l, map->n_units);
            uint32_t lacks = place >= 0 ? assigned[place] - c.right : 0;
            out->to_load += lacks;
            out->to_drop += c.held - c.right;
            if (unit_bytes != NULL) out->bytes_left += lacks * unit_bytes[l];
        }
    }
}
