/* planner_look.c - how well a placement would stand the loss of a node. */
#include "coordinator/planner.h"

#include <stdio.h>
#include <string.h>

/* What a place of the placement is worth. */
typedef struct {
    const char *name;
    bool held;  /* the node lives, or is expected back */
    bool ready; /* and all that it should hold is resident */
    bool live;
    uint64_t units, alone; /* assigned; that nobody else has ready */
} place;

static const planner_node *find(const planner_input *in, const char *name) {
    for (uint32_t i = 0; i < in->n_nodes; i++) {
        if (strcmp(in->nodes[i].name, name) == 0) return &in->nodes[i];
    }
    return NULL;
}

static void look_at_nodes(const planner_input *in, place *places) {
    const epoch_record *head = rack_placement_head(in->now);
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        const planner_node *n = find(in, head->nodes[i]);
        places[i] = (place){.name = head->nodes[i]};
        if (n == NULL) continue;
        places[i].live = n->live;
        places[i].held = n->live || n->missing;
        places[i].ready =
            n->live && n->ready_epoch >= rack_placement_epoch(in->now);
    }
}

static void look_at_unit(const layer_map *map, uint32_t unit, place *places,
                         planner_health *out) {
    uint32_t n, held = 0, ready = 0;
    const uint16_t *holders = layer_map_holders(map, unit, &n);
    place *last = NULL;

    for (uint32_t i = 0; i < n; i++) {
        place *p = &places[holders[i]];
        p->units++;
        if (p->held) held++;
        if (!p->ready) continue;
        ready++;
        last = p;
    }
    if (held == 0) out->unplaced++;
    if (held == 1) out->single++;
    if (ready < 2) out->survives_largest = false;
    if (ready == 1) last->alone++;
}

static void sum_up(const place *places, uint32_t n_places,
                   planner_health *out) {
    for (uint32_t i = 0; i < n_places; i++) {
        const place *p = &places[i];
        if (p->live && !p->ready) out->moving += p->units;
        if (p->alone <= out->lost_units) continue;
        out->lost_units = p->alone;
        snprintf(out->weakest, sizeof(out->weakest), "%s", p->name);
    }
}

void planner_look(const planner_input *in, planner_health *out) {
    place places[RECORD_NODES_MAX];
    const planner_model *m = in->model;
    *out = (planner_health){.survives_largest = true};

    if (in->now != NULL) look_at_nodes(in, places);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        uint64_t units = (uint64_t)m->n_experts * m->slices[l];
        const layer_map *map =
            in->now != NULL ? rack_placement_layer(in->now, l) : NULL;
        out->units += units;
        if (map == NULL && units > 0) {
            out->unplaced += units;
            out->survives_largest = false;
        }
        for (uint32_t u = 0; map != NULL && u < map->n_units; u++) {
            look_at_unit(map, u, places, out);
        }
    }
    if (in->now != NULL) {
        sum_up(places, rack_placement_head(in->now)->n_nodes, out);
    }
}
