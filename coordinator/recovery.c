/* recovery.c - see recovery.h. */
#include "coordinator/recovery.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ---- what is wrong ---- */

static void find_fault(recovery *r, const recovery_input *in) {
    const rack_placement *known = rack_view_placement(in->view);
    uint64_t epoch = known != NULL ? rack_placement_epoch(known) : 0;
    uint64_t etcd = rack_view_head_epoch(in->view);
    int64_t revision = rack_view_epoch_revision(in->view);
    int64_t accepted =
        known != NULL ? rack_placement_head(known)->mod_revision : 0;
    const char *fault = "";

    if (rack_view_rolled_back(in->view)) {
        fault = revision == 0 ? "etcd has lost the placement"
                : etcd == epoch
                    ? "etcd has another placement under the same number"
                    : "etcd has an older placement than the rack";
    } else if (in->nodes_epoch > epoch) {
        fault = "the rack knows a newer placement than etcd has";
    } else if (in->at_odds) {
        fault = "the rack knows another placement under the number that etcd "
                "has";
    } else if (accepted != revision) {
        fault = "the placement in etcd cannot be used";
    }
    snprintf(r->why, sizeof(r->why), "%s", fault);
}

/* ---- from memory ---- */

static int copy_names(epoch_record *to, const epoch_record *from) {
    *to = *from;
    to->nodes = calloc((size_t)from->n_nodes + 1, sizeof(*to->nodes));
    if (to->nodes == NULL) return -ENOMEM;
    if (from->n_nodes > 0)
        memcpy(to->nodes, from->nodes, from->n_nodes * sizeof(*to->nodes));
    return 0;
}

static int take_memory(recovery *r, const recovery_input *in, char *why,
                       size_t why_size) {
    const rack_placement *known = rack_view_placement(in->view);
    const epoch_record *head = rack_placement_head(known);
    if (memcmp(head->model, in->model->model, RECORD_MODEL) != 0 ||
        head->n_layers != in->model->n_layers) {
        return err_why(why, why_size, ERR_WRONG_MODEL,
                       "the placement that is known is of another model");
    }
    r->source = RECOVERY_MEMORY;
    r->kept = rack_placement_ref(known);
    int rc = copy_names(&r->head, head);
    if (rc < 0) return rc;
    for (uint32_t i = 0; i < head->n_layers; i++)
        r->maps[i] = rack_placement_layer(known, i);
    return 0;
}

/* ---- from what the nodes hold ---- */

static bool has(const recovery_node *n, uint32_t layer, uint32_t unit) {
    return n->held != NULL && holdings_has(n->held, layer, unit);
}

static uint32_t count_holders(const recovery_input *in, uint32_t layer,
                              uint32_t unit) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < in->n_nodes; i++)
        n += has(&in->nodes[i], layer, unit);
    return n < LAYER_MAP_MAX_HOLDERS ? n : LAYER_MAP_MAX_HOLDERS;
}

static int map_layer(layer_map *m, const recovery_input *in, uint32_t layer) {
    uint32_t slices = in->model->slices[layer];
    uint32_t units = in->model->n_experts * slices, total = 0, at = 0;
    for (uint32_t u = 0; u < units; u++)
        total += count_holders(in, layer, u);
    int rc = layer_map_init(m, slices, units, total);
    if (rc < 0) return rc;

    for (uint32_t u = 0; u < units; u++) {
        uint32_t left = count_holders(in, layer, u);
        m->first[u] = at;
        for (uint32_t i = 0; i < in->n_nodes && left > 0; i++) {
            if (!has(&in->nodes[i], layer, u)) continue;
            m->holders[at++] = (uint16_t)i;
            left--;
        }
    }
    m->first[units] = at;
    return 0;
}

static bool has_said(const recovery_input *in, const char *name) {
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        if (strcmp(in->nodes[i].name, name) == 0) return true;
    }
    return false;
}

/* A live node that reports units, and has not told us which: what it holds
 * would be taken from it.  It is a matter of moments, or its lease ends.  (The
 * report itself may be old: a node that is in no placement makes none.) */
static int check_silent(const recovery_input *in, char *why, size_t why_size) {
    size_t n;
    const node_record *records = rack_view_nodes(in->view, &n);
    for (size_t i = 0; i < n; i++) {
        const ready_record *ready = rack_view_ready(in->view, records[i].name);
        if (ready == NULL || ready->boot != records[i].boot) continue;
        if (ready->units == 0 || has_said(in, records[i].name)) continue;
        return err_why(why, why_size, ERR_UNAVAILABLE,
                       "node '%s' is registered and reports %u units, but has "
                       "not told this coordinator which: try again when it is "
                       "up",
                       records[i].name, (unsigned)ready->units);
    }
    return 0;
}

/* Nobody holds anything: a placement without holders is begun, which is wrong
 * only if somebody has not said yet that he does. */
static int check_empty(const recovery_input *in, char *why, size_t why_size) {
    const char *silent = "";
    size_t n;
    const node_record *records = rack_view_nodes(in->view, &n);
    for (size_t i = 0; i < n && *silent == '\0'; i++) {
        if (!has_said(in, records[i].name)) silent = records[i].name;
    }
    if (in->n_nodes > 0 && *silent == '\0') return 0;
    return err_why(why, why_size, ERR_UNAVAILABLE,
                   "the rack knows placement %llu.%llu, but %s%s%s said what "
                   "it holds: ask a coordinator that knows it, or wait until "
                   "all nodes are up",
                   (unsigned long long)epoch_incarnation(in->nodes_epoch),
                   (unsigned long long)epoch_number(in->nodes_epoch),
                   *silent != '\0' ? "node '" : "no node has", silent,
                   *silent != '\0' ? "' has not" : "");
}

/* Nodes that are not there (yet) can be known by an older placement alone. */
static void find_away(recovery *r, const recovery_input *in) {
    const rack_placement *known = rack_view_placement(in->view);
    if (known == NULL) return;
    const epoch_record *head = rack_placement_head(known);
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        const char *name = head->nodes[i];
        if (name[0] == '\0' || rack_placement_units(known, (int32_t)i) == 0)
            continue;
        if (has_said(in, name)) continue;
        if (r->n_away++ == 0) snprintf(r->away, sizeof(r->away), "%s", name);
    }
}

static int take_nodes(recovery *r, const recovery_input *in, char *why,
                      size_t why_size) {
    const planner_model *model = in->model;
    epoch_record *head = &r->head;
    uint64_t held = 0;
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        if (in->nodes[i].held != NULL)
            held += holdings_count(in->nodes[i].held);
    }
    int silent = held > 0 ? check_silent(in, why, why_size)
                          : check_empty(in, why, why_size);
    if (silent < 0) return silent;
    find_away(r, in);
    r->source = RECOVERY_NODES;
    *head = (epoch_record){.n_layers = model->n_layers,
                           .n_experts = model->n_experts,
                           .slices = model->max_slices,
                           .min_replicas = model->min_replicas,
                           .n_nodes = in->n_nodes};
    memcpy(head->model, model->model, RECORD_MODEL);
    head->nodes = calloc((size_t)in->n_nodes + 1, sizeof(*head->nodes));
    r->made = calloc((size_t)model->n_layers + 1, sizeof(*r->made));
    if (head->nodes == NULL || r->made == NULL) return -ENOMEM;
    for (uint32_t i = 0; i < in->n_nodes; i++)
        memcpy(head->nodes[i], in->nodes[i].name, RECORD_NAME);

    for (uint32_t l = 0; l < model->n_layers; l++) {
        if (model->slices[l] == 0) continue;
        int rc = map_layer(&r->made[l], in, l);
        if (rc < 0) return rc;
        r->maps[l] = &r->made[l];
    }
    return 0;
}

/* ---- transactions ---- */

/* At most: a count and two bytes for each holder, and the frame. */
static size_t packed_bytes(const layer_map *m) {
    if (m == NULL) return 0;
    return 32 + 2 * (size_t)m->n_units + 3 * (size_t)m->first[m->n_units];
}

static int cut_steps(recovery *r) {
    size_t bytes = 0;
    r->steps = calloc((size_t)r->head.n_layers + 1, sizeof(*r->steps));
    if (r->steps == NULL) return -ENOMEM;
    r->n_steps = 1;
    for (uint32_t l = 0; l < r->head.n_layers; l++) {
        recovery_step *s = &r->steps[r->n_steps - 1];
        size_t more = packed_bytes(r->maps[l]);
        if (s->end > s->first && (s->end - s->first >= PLANNER_STEP_LAYERS ||
                                  bytes + more > PLANNER_STEP_BYTES)) {
            s = &r->steps[r->n_steps++];
            s->first = l;
            bytes = 0;
        }
        s->end = l + 1;
        bytes += more;
    }
    return 0;
}

static void count(recovery *r) {
    for (uint32_t l = 0; l < r->head.n_layers; l++) {
        const layer_map *m = r->maps[l];
        if (m == NULL) continue;
        r->layers++;
        r->units += m->n_units;
        for (uint32_t u = 0; u < m->n_units; u++)
            r->unheld += m->first[u] == m->first[u + 1];
        r->holders += m->first[m->n_units];
    }
}

/* ---- the plan ---- */

static int plan(recovery *r, const recovery_input *in, char *why,
                size_t why_size) {
    const rack_placement *known = rack_view_placement(in->view);
    uint64_t epoch = known != NULL ? rack_placement_epoch(known) : 0;
    uint64_t etcd = rack_view_head_epoch(in->view);

    find_fault(r, in);
    r->was = r->becomes = larger(epoch, in->nodes_epoch);
    if (r->why[0] == '\0') return 0;
    if (epoch == 0 && in->nodes_epoch == 0) {
        r->begins_anew = true;
        return 0;
    }
    r->maps = calloc((size_t)in->model->n_layers + 1, sizeof(*r->maps));
    if (r->maps == NULL) return -ENOMEM;
    int rc = in->nodes_epoch > epoch ? take_nodes(r, in, why, why_size)
                                     : take_memory(r, in, why, why_size);
    if (rc < 0) return rc;

    r->head.incarnation = epoch_incarnation(larger(r->was, etcd)) + 1;
    r->head.epoch = 1;
    r->head.mod_revision = 0;
    r->becomes = epoch_pack(r->head.incarnation, r->head.epoch);
    count(r);
    return cut_steps(r);
}

int recovery_plan(recovery *out, const recovery_input *in, char *why,
                  size_t why_size) {
    *out = (recovery){.source = RECOVERY_NOTHING};
    if (why_size > 0) why[0] = '\0';
    int rc = plan(out, in, why, why_size);
    if (rc < 0 && why_size > 0 && why[0] == '\0')
        err_why(why, why_size, rc, "%s", err_text(rc));
    return rc;
}

void recovery_fini(recovery *r) {
    if (r->made != NULL) {
        for (uint32_t l = 0; l < r->head.n_layers; l++)
            layer_map_fini(&r->made[l]);
    }
    free(r->made);
    free(r->maps);
    free(r->steps);
    rack_placement_unref(r->kept);
    epoch_record_fini(&r->head);
    *r = (recovery){0};
}
