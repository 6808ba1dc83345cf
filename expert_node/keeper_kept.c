/* keeper_kept.c - what a keeper goes on holding though the placement does not
 * assign it to this node; see keeper.h.
 *
 * Within an incarnation the leader takes a unit from a node only when others
 * have reported that they hold it.  What begins an incarnation is a recovery,
 * and that writes what one coordinator remembers, or what the nodes hold that
 * it can reach.  A node that was out of reach then may have the last copy of
 * units that the recovery gives to nobody, or to nodes that lack them.  So what
 * the incarnation has never assigned to this node is kept until a node that it
 * is assigned to is ready: make-before-break, from one incarnation to the next.
 *
 * Two nodes may wait for one another: what each keeps for the other leaves no
 * room for what it is to load.  After a while what is assigned has the room. */
#include "expert_node/keeper_internal.h"

#include <string.h>

#define KEPT_GRACES 6 /* so many times the grace time, where room is needed */

void keeper_begin_incarnation(keeper *k) {
    for (uint32_t i = 0; i < k->n_layers; i++) {
        for (uint32_t j = 0; j < k->layers[i].n_units; j++)
            k->layers[i].units[j].ours = false;
    }
    k->cramped = false;
}

/* With units that are numbered in another way nobody can have this one. */
void keeper_unwanted(keeper *k, work_lists *l, place at, uint64_t now_ms) {
    if (keeper_at(k, at)->ours || !k->fits) {
        keeper_depart(k, l, at, now_ms);
    } else {
        k->keeps = true;
    }
}

void keeper_others(keeper *k, const rack_view *view) {
    const rack_placement *p = rack_view_placement(view);
    if (!k->keeps || k->untold || p == NULL) return;
    if (rack_placement_epoch(p) != k->epoch) return;
    const epoch_record *head = rack_placement_head(p);
    for (uint32_t i = 0; i < head->n_nodes; i++)
        k->ready[i] = rack_view_ready_epoch(view, head->nodes[i]) == k->epoch;
}

/* Does a node have it that it is assigned to?  We are none of those. */
static bool another_has(const keeper *k, place at) {
    const layer_map *map = rack_placement_layer(k->placement, at.layer);
    uint32_t n = 0;
    const uint16_t *holders = NULL;
    if (map != NULL && at.unit < map->n_units)
        holders = layer_map_holders(map, at.unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (k->ready[holders[i]]) return true;
    }
    return false;
}

static uint64_t patience_ms(const keeper *k) {
    return (uint64_t)KEPT_GRACES * k->config.grace_ms;
}

void keeper_is_cramped(keeper *k, uint64_t now_ms, keeper_action *out) {
    if (!k->cramped) k->cramped_ms = now_ms;
    k->cramped = true;
    keeper_wake_by(out, k->cramped_ms + patience_ms(k));
}

/* Rare, and soon over, so that there is no list of what is kept. */
void keeper_let_go(keeper *k, uint64_t now_ms) {
    if (!k->keeps) return;
    if (keeper_waiting(k) == 0) k->cramped = false;
    const bool must = k->cramped && now_ms - k->cramped_ms >= patience_ms(k);
    k->keeps = false;
    for (uint32_t i = 0; i < k->n_layers; i++) {
        for (uint32_t j = 0; j < k->layers[i].n_units; j++) {
            const unit *u = &k->layers[i].units[j];
            if (u->state != RESIDENT || u->wanted || u->leaving) continue;
            if (must || another_has(k, (place){i, j})) {
                keeper_depart(k, &k->lists, (place){i, j}, now_ms);
            } else {
                k->keeps = true;
            }
        }
    }
}
