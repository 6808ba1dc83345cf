/* planner.c - the next step from the placement that is to the one that should
 * be.
 *
 * What is added is added at once: the plan only counts on memory that is free
 * now.  What is too many goes when it can be spared: when as many of the unit's
 * holders as are wanted stay, live, and have reported that they hold all that
 * is assigned to them.  So a move is a step that adds, the node's report, and a
 * step that removes, without anybody remembering the move.
 *
 * A holder that is gone is named until another one is ready: it may live, and
 * only be cut off from etcd.  Where memory does not allow all that is wanted, a
 * unit gives up a copy (for a drain, or for one that has none) only when
 * nothing else is under way. */
#include "coordinator/planner_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

/* A unit's next holders: nodes of the input. */
typedef struct {
    uint16_t nodes[2 * LAYER_MAP_MAX_HOLDERS];
    uint32_t n, added, removed;
} holder_set;

/* ---- what may go ---- */

/* Holders that are, will be, and can serve. */
static uint32_t count_ready(const plan *p, uint32_t unit) {
    uint32_t ready = 0;
    for (uint32_t i = 0; i < p->goal.n[unit]; i++) {
        uint32_t node = p->goal.nodes[unit * p->stride + i];
        if (!p->nodes[node].ready) continue;
        if (plan_has(&p->now, p->stride, unit, node)) ready++;
    }
    return ready;
}

/* `last_resort`: with as many as there is memory for. */
static bool may_go(const plan *p, uint32_t unit, uint32_t node,
                   bool last_resort) {
    uint32_t ready = count_ready(p, unit);
    if (ready == 0) return false;
    if (p->nodes[node].gone || ready >= p->replicas) return true;
    return last_resort && ready >= p->goal.n[unit];
}

static void next_holders(const plan *p, uint32_t unit, bool last_resort,
                         holder_set *out) {
    *out = (holder_set){0};
    for (uint32_t i = 0; i < p->now.n[unit]; i++) {
        uint16_t node = p->now.nodes[unit * p->stride + i];
        bool keep = plan_has(&p->goal, p->stride, unit, node) ||
                    !may_go(p, unit, node, last_resort);
        if (keep) {
            out->nodes[out->n++] = node;
        } else {
            out->removed++;
        }
    }
    for (uint32_t i = 0; i < p->goal.n[unit]; i++) {
        uint16_t node = p->goal.nodes[unit * p->stride + i];
        if (plan_has(&p->now, p->stride, unit, node)) continue;
        out->nodes[out->n++] = node;
        out->added++;
    }
    assert(out->n <= LAYER_MAP_MAX_HOLDERS);
}

/* Is everybody ready who holds something and stays?  A node that was given more
 * than it has room for, since it came back with less, never will be. */
static bool nothing_under_way(const plan *p) {
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const plan_node *n = &p->nodes[i];
        if (n->now_bytes > n->memory) continue;
        if (n->stays && n->now_units > 0 && !n->ready) return false;
    }
    return true;
}

/* ---- the record ---- */

/* Copies names; a place is free when its node is gone and holds nothing. */
static int make_head(const plan *p, epoch_record *head) {
    const planner_model *m = p->in->model;
    const epoch_record *now =
        p->in->now != NULL ? rack_placement_head(p->in->now) : NULL;

    head->nodes = calloc(RECORD_NODES_MAX, sizeof(*head->nodes));
    if (head->nodes == NULL) return -ENOMEM;
    head->incarnation = now != NULL ? now->incarnation : p->in->incarnation;
    head->epoch = now != NULL ? now->epoch + 1 : 1;
    head->slices = now != NULL ? now->slices : m->max_slices;
    head->n_layers = m->n_layers;
    head->n_experts = m->n_experts;
    head->min_replicas = m->min_replicas;
    memcpy(head->model, m->model, RECORD_MODEL);

    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const plan_node *n = &p->nodes[i];
        if (n->place < 0 || (n->gone && n->now_units == 0)) continue;
        snprintf(head->nodes[n->place], RECORD_NAME, "%s",
                 p->in->nodes[i].name);
        if ((uint32_t)n->place >= head->n_nodes) {
            head->n_nodes = (uint32_t)n->place + 1;
        }
    }
    return 0;
}

/* A node's place; the first free one if it has none yet. */
static uint16_t find_place(plan *p, uint32_t node, epoch_record *head) {
    plan_node *n = &p->nodes[node];
    uint32_t at = 0;
    if (n->place >= 0) return (uint16_t)n->place;

    while (at < RECORD_NODES_MAX && head->nodes[at][0] != '\0')
        at++;
    assert(at < RECORD_NODES_MAX); /* judge_nodes() has counted */
    snprintf(head->nodes[at], RECORD_NAME, "%s", p->in->nodes[node].name);
    if (at >= head->n_nodes) head->n_nodes = at + 1;
    n->place = (int32_t)at;
    return (uint16_t)at;
}

/* ---- layers ---- */

static bool layer_changes(const plan *p, uint32_t layer, bool last_resort,
                          uint32_t *n_holders) {
    bool changes = false;
    *n_holders = 0;
    for (uint32_t unit = p->base[layer]; unit < p->base[layer + 1]; unit++) {
        holder_set set;
        next_holders(p, unit, last_resort, &set);
        if (set.added + set.removed > 0) changes = true;
        *n_holders += set.n;
    }
    return changes;
}

static int compare_places(const void *a, const void *b) {
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

static int fill_layer(plan *p, planner_step *step, uint32_t layer,
                      bool last_resort, uint32_t n_holders) {
    layer_map *map = &step->layers[step->n_layers];
    uint32_t n_units = p->base[layer + 1] - p->base[layer], at = 0;
    int rc =
        layer_map_init(map, p->in->model->slices[layer], n_units, n_holders);
    if (rc < 0) return rc;
    step->numbers[step->n_layers++] = layer;

    for (uint32_t u = 0; u < n_units; u++) {
        holder_set set;
        next_holders(p, p->base[layer] + u, last_resort, &set);
        map->first[u] = at;
        for (uint32_t i = 0; i < set.n; i++) {
            map->holders[at + i] = find_place(p, set.nodes[i], &step->head);
        }
        qsort(map->holders + at, set.n, sizeof(*map->holders), compare_places);
        at += set.n;
        step->added += set.added;
        step->removed += set.removed;
    }
    map->first[n_units] = at;
    assert(at == n_holders);
    return 0;
}

/* The packed form's bytes, about: a number of holders is one, a holder at most
 * two. */
static size_t packed_bytes(uint32_t n_units, uint32_t n_holders) {
    return 32 + (size_t)n_units + 2 * (size_t)n_holders;
}

static int fill_step(plan *p, planner_step *step, bool last_resort) {
    size_t bytes = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t n_holders;
        if (!layer_changes(p, l, last_resort, &n_holders)) continue;
        bytes += packed_bytes(p->base[l + 1] - p->base[l], n_holders);
        if (step->n_layers > 0 && (step->n_layers == PLANNER_STEP_LAYERS ||
                                   bytes > PLANNER_STEP_BYTES)) {
            step->more = true;
            return 0;
        }
        int rc = fill_layer(p, step, l, last_resort, n_holders);
        if (rc < 0) return rc;
    }
    return 0;
}

static int make_step(plan *p, planner_step *step) {
    step->numbers = calloc(PLANNER_STEP_LAYERS, sizeof(*step->numbers));
    step->layers = calloc(PLANNER_STEP_LAYERS, sizeof(*step->layers));
    if (step->numbers == NULL || step->layers == NULL) return -ENOMEM;

    int rc = make_head(p, &step->head);
    if (rc < 0) return rc;
    rc = fill_step(p, step, false);
    if (rc < 0 || step->n_layers > 0 || !nothing_under_way(p)) return rc;
    return fill_step(p, step, true);
}

int planner_next(const planner_input *in, planner_step *step) {
    plan p;
    *step = (planner_step){0};
    int rc = plan_init(&p, in);
    if (rc < 0) return rc;

    plan_target(&p);
    rc = make_step(&p, step);
    plan_fini(&p);
    if (rc < 0) planner_step_fini(step);
    return rc;
}

void planner_step_fini(planner_step *s) {
    for (uint32_t i = 0; s->layers != NULL && i < PLANNER_STEP_LAYERS; i++)
        layer_map_fini(&s->layers[i]);
    free(s->layers);
    free(s->numbers);
    epoch_record_fini(&s->head);
    *s = (planner_step){0};
}
