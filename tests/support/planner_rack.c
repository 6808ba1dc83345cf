/* planner_rack.c - see planner_rack.h. */
#include "tests/support/planner_rack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/rack_placement.h"

static void expect(bool holds, const char *otherwise) {
    if (holds) return;
    fprintf(stderr, "a rack for the planner: %s\n", otherwise);
    abort();
}

void planner_rack_init(planner_rack *r, uint32_t n_layers, uint32_t n_experts,
                       uint32_t slices, uint32_t min_replicas) {
    memset(r, 0, sizeof(*r));
    for (uint32_t l = 0; l < n_layers; l++) {
        r->slices[l] = slices;
        r->unit_bytes[l] = 100;
    }
    r->model = (planner_model){.n_layers = n_layers,
                               .n_experts = n_experts,
                               .slices = r->slices,
                               .unit_bytes = r->unit_bytes,
                               .max_slices = slices,
                               .min_replicas = min_replicas};
    r->model.model[0] = 7;
}

void planner_rack_fini(planner_rack *r) {
    rack_placement_unref(r->now);
    r->now = NULL;
}

planner_node *planner_rack_node(planner_rack *r, const char *name) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (strcmp(r->nodes[i].name, name) == 0) return &r->nodes[i];
    }
    return NULL;
}

planner_node *planner_rack_join(planner_rack *r, const char *name,
                                uint64_t units) {
    planner_node *n = planner_rack_node(r, name);
    if (n == NULL) {
        expect(r->n_nodes < PLANNER_RACK_NODES, "too many nodes");
        uint32_t at = r->n_nodes++;
        while (at > 0 && strcmp(r->names[at - 1], name) > 0) {
            memcpy(r->names[at], r->names[at - 1], RECORD_NAME);
            r->nodes[at] = r->nodes[at - 1];
            r->nodes[at].name = r->names[at];
            at--;
        }
        snprintf(r->names[at], RECORD_NAME, "%s", name);
        n = &r->nodes[at];
        *n = (planner_node){.name = r->names[at]};
    }
    n->live = true;
    n->missing = n->draining = false;
    n->memory_bytes = units * 100;
    n->ready_epoch = 0;
    return n;
}

planner_input planner_rack_input(const planner_rack *r) {
    return (planner_input){.model = &r->model,
                           .now = r->now,
                           .nodes = r->nodes,
                           .n_nodes = r->n_nodes,
                           .incarnation = 1,
                           .target = r->target};
}

static shared_layer *share_layer(const layer_map *m) {
    uint8_t *packed;
    size_t bytes;
    shared_layer *l;
    char why[256] = "";
    expect(layer_map_pack(m, &packed, &bytes) == 0, "no memory");
    int rc = shared_layer_unpack(&l, packed, bytes, why, sizeof(why));
    expect(rc == 0, why);
    free(packed);
    return l;
}

void planner_rack_apply(planner_rack *r, const planner_step *step) {
    shared_layer *layers[PLANNER_RACK_LAYERS] = {0};
    rack_placement *next;
    char why[256] = "";

    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        const layer_map *old =
            r->now != NULL ? rack_placement_layer(r->now, l) : NULL;
        for (uint32_t i = 0; i < step->n_layers; i++) {
            if (step->numbers[i] == l) old = &step->layers[i];
        }
        if (old != NULL) layers[l] = share_layer(old);
    }
    int rc = rack_placement_new(&next, &step->head, layers, why, sizeof(why));
    expect(rc == 0, why);
    for (uint32_t l = 0; l < PLANNER_RACK_LAYERS; l++)
        shared_layer_unref(layers[l]);
    rack_placement_unref(r->now);
    r->now = next;
}

bool planner_rack_step(planner_rack *r, uint64_t *added, uint64_t *removed) {
    planner_input in = planner_rack_input(r);
    planner_step step;
    expect(planner_next(&in, &step) == 0, "the planner failed");
    bool any = step.n_layers > 0;
    if (added != NULL) *added = step.added;
    if (removed != NULL) *removed = step.removed;
    if (any) planner_rack_apply(r, &step);
    planner_step_fini(&step);
    return any;
}

void planner_rack_ready(planner_rack *r) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (r->nodes[i].live && r->now != NULL) {
            r->nodes[i].ready_epoch = rack_placement_epoch(r->now);
        }
    }
}

uint32_t planner_rack_settle(planner_rack *r) {
    uint32_t steps = 0;
    planner_rack_ready(r);
    while (planner_rack_step(r, NULL, NULL)) {
        planner_rack_ready(r);
        expect(++steps <= 300, "the rack does not come to rest");
    }
    return steps;
}

uint64_t planner_rack_units(const planner_rack *r, const char *name) {
    int32_t at = r->now != NULL ? rack_placement_node(r->now, name) : -1;
    return at < 0 ? 0 : rack_placement_units(r->now, at);
}

uint32_t planner_rack_holders(const planner_rack *r, uint32_t layer,
                              uint32_t unit) {
    uint32_t n;
    layer_map_holders(rack_placement_layer(r->now, layer), unit, &n);
    return n;
}

bool planner_rack_holds(const planner_rack *r, const char *name, uint32_t layer,
                        uint32_t unit) {
    int32_t at = rack_placement_node(r->now, name);
    return at >= 0 && rack_placement_assigns(r->now, at, layer, unit);
}

void planner_rack_range(const planner_rack *r, uint32_t *least,
                        uint32_t *most) {
    *least = UINT32_MAX;
    *most = 0;
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(r->now, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            uint32_t n = planner_rack_holders(r, l, u);
            if (n < *least) *least = n;
            if (n > *most) *most = n;
        }
    }
}
