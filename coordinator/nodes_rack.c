/* nodes_rack.c - from what the nodes say to what the step thread is told.
 *
 * With a list, a node is asked for what it holds.  With a placement of the rack
 * a node is asked for what it holds and is assigned: what it has loaded early,
 * or keeps until everybody has switched, is not for us to use, or the node
 * would never be rid of it. */
#include "coordinator/nodes_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

/* ---- what is assigned and held ---- */

static void add_layer(const nodes *n, uint32_t layer, const node *const *of,
                      holdings *usable) {
    const layer_map *map = rack_placement_layer(n->assignment, layer);
    if (map == NULL) return;
    for (uint32_t unit = 0; unit < map->n_units; unit++) {
        uint32_t count;
        const uint16_t *holders = layer_map_holders(map, unit, &count);
        for (uint32_t i = 0; i < count; i++) {
            const node *p = of[holders[i]];
            if (p == NULL || !node_can_be_asked(p, layer, unit)) continue;
            holdings_add(&usable[p->index], layer, unit);
        }
    }
}

/* usable[i] becomes what node i may be asked for; [n_all] of them, made here
 * and empty for those who are not up. */
static int fill_assigned(const nodes *n, holdings *usable) {
    const model_config *m = n->config.model;
    const node **of = nodes_by_place(n, n->assignment);
    if (of == NULL) return -ENOMEM;
    int rc = 0;
    for (uint32_t i = 0; i < n->n_all && rc == 0; i++) {
        rc = holdings_init_slices(&usable[i], m->n_layers, m->n_experts,
                                  nodes_slices(n));
    }
    for (uint32_t l = 0; l < m->n_layers && rc == 0; l++)
        add_layer(n, l, of, usable);
    free(of);
    return rc;
}

/* ---- the placement and the rack ---- */

/* In how many slices each layer's experts are cut; 0: a dense layer.  A layer
 * that is not placed yet has its experts all the same, held by nobody: a first
 * placement of a large model takes more than one epoch. */
static void fill_layer_slices(const nodes *n, uint32_t *slices) {
    bool as_ours = nodes_slices(n) == n->config.slices;
    for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
        const layer_map *map = NULL;
        slices[l] = n->config.layer_slices[l];
        if (n->assignment != NULL) map = rack_placement_layer(n->assignment, l);
        if (map != NULL) {
            slices[l] = map->slices;
        } else if (slices[l] > 0 && !as_ours) {
            slices[l] = 1;
        }
    }
}

static uint64_t next_epoch(const nodes *n) {
    if (!n->config.registered) return n->epoch + 1;
    return n->assignment != NULL ? rack_placement_epoch(n->assignment) : 0;
}

/* Who may be asked for what; nobody for anything before there is a placement.
 */
static int make_placement(const nodes *n, placement **out) {
    const model_config *m = n->config.model;
    const holdings **held = calloc(n->n_all + 1, sizeof(*held));
    holdings *usable = calloc(n->n_all + 1, sizeof(*usable));
    uint32_t *slices = calloc(m->n_layers + 1, sizeof(*slices));
    int rc = held == NULL || usable == NULL || slices == NULL ? -ENOMEM : 0;
    if (rc == 0) fill_layer_slices(n, slices);
    if (rc == 0 && n->assignment != NULL) rc = fill_assigned(n, usable);
    for (uint32_t i = 0; i < n->n_all && rc == 0; i++) {
        const node *p = n->all[i];
        if (p == NULL || !node_is_up(n, p)) continue;
        if (!n->config.registered) {
            held[i] = holdings_count(&p->held) > 0 ? &p->held : NULL;
        } else if (n->assignment != NULL) {
            held[i] = &usable[i];
        }
    }
    if (rc == 0) {
        placement_shape shape = {
            .epoch = next_epoch(n),
            .source =
                n->assignment != NULL ? rack_placement_sum(n->assignment) : 0,
            .n_layers = m->n_layers,
            .n_experts = m->n_experts > 0 ? m->n_experts : 1,
            .slices = nodes_slices(n),
            .layer_slices = slices,
        };
        rc = placement_new(out, &shape, held, n->n_all);
    }
    for (uint32_t i = 0; usable != NULL && i < n->n_all; i++)
        holdings_fini(&usable[i]);
    free(usable);
    free(held);
    free(slices);
    return rc;
}

static rack_node *see_nodes(const nodes *n) {
    rack_node *seen = calloc(n->n_all + 1, sizeof(*seen));
    for (uint32_t i = 0; seen != NULL && i < n->n_all; i++) {
        const node *p = n->all[i];
        if (p == NULL || !node_is_up(n, p)) continue;
        seen[i].up = true;
        seen[i].serial = p->serial;
        seen[i].boot_id = membership_boot(n->machine, i);
        seen[i].trust = membership_trust(n->machine, i, NULL, NULL);
        memcpy(seen[i].endpoint, p->data, sizeof(seen[i].endpoint));
    }
    return seen;
}

/* A large rack takes milliseconds to make, and while nodes load they report
 * very often: after each one the loop does other things for this many times as
 * long. */
#define RACK_PAUSE 10

void nodes_changed(nodes *n) {
    n->unpublished = true;
    if (now_ms() < n->rack_due_ms) return; /* nodes_pump() comes back to it */
    (void)nodes_switch(n);
    nodes_publish(n);
}

int nodes_publish(nodes *n) {
    placement *where = NULL;
    rack *r = NULL;
    uint64_t begun_us = now_us();
    rack_node *seen = see_nodes(n);
    int rc = seen == NULL ? -ENOMEM : make_placement(n, &where);
    if (rc == 0) {
        rc = rack_new(&r, placement_ref(where), seen, n->n_all);
        if (rc < 0) placement_unref(where);
    }
    free(seen);
    n->unpublished = rc < 0; /* then with the next look */
    n->rack_due_ms = now_ms() + (now_us() - begun_us) * RACK_PAUSE / 1000;
    if (rc < 0) {
        placement_unref(where);
        log_error("cannot publish the rack: %s", err_text(rc));
        return rc;
    }
    n->epoch = placement_epoch(where);
    placement_unref(n->where);
    n->where = where;
    exchange_post(n->config.experts, r);
    step_wake(n->config.steps);
    if (n->config.on_rack != NULL) n->config.on_rack(n->config.ctx);
    return 0;
}

/* ---- what it amounts to ---- */

uint64_t nodes_resident_bytes(const nodes *n) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n->n_all; i++) {
        const node *p = n->all[i];
        if (p != NULL && node_is_up(n, p)) bytes += p->resident_bytes;
    }
    return bytes;
}

bool nodes_all_stale(const nodes *n) {
    bool any = false;
    for (uint32_t i = 0; i < n->n_all; i++) {
        const node *p = n->all[i];
        if (p == NULL || !node_is_up(n, p)) continue;
        if (!p->stale) return false;
        any = true;
    }
    return any;
}

bool nodes_all_covered(const nodes *n) {
    nodes_health h;
    nodes_look(n, &h);
    return h.unheld == 0;
}

void nodes_look(const nodes *n, nodes_health *out) {
    const model_config *m = n->config.model;
    uint64_t alone[PLACEMENT_MAX_NODES] = {0};
    *out = (nodes_health){0};
    for (uint32_t l = 0; l < m->n_layers; l++) {
        if (!model_is_moe(m, l)) continue;
        uint32_t units = m->n_experts * placement_slices(n->where, l);
        out->units += units;
        for (uint32_t unit = 0; unit < units; unit++) {
            uint32_t count;
            const uint16_t *of = placement_nodes(n->where, l, unit, &count);
            if (count == 0) out->unheld++;
            if (count != 1) continue;
            out->single++;
            alone[of[0]]++;
        }
    }
    out->survives_largest = out->unheld == 0 && out->single == 0;
    for (uint32_t i = 0; i < n->n_all; i++) {
        if (alone[i] <= out->lost_units) continue;
        out->lost_units = alone[i];
        snprintf(out->weakest, sizeof(out->weakest), "%s", nodes_name(n, i));
    }
}
