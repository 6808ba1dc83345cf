/* nodes_switch.c - from one placement of the rack to the next.
 *
 * A placement may take a unit away from a node because another one has reported
 * it as resident.  The leader has heard that by etcd; we hear what a node holds
 * from its welcome, which may come a little later.  Switching at once would
 * leave the unit without anybody to ask in between.  So the older placement
 * stays in use until the nodes of the newer one have said what they hold, which
 * they are asked for at once.  The pings go on naming the older one meanwhile,
 * so nobody unloads anything that we still use.  This wait is bounded: a node
 * that says nothing is not worth holding up the rack for. */
#include <stdlib.h>
#include "coordinator/nodes_internal.h"
#include "engine/log.h"
#include "engine/util.h"

#define SWITCH_PATIENCE_MS 3000 /* well within what nodes wait for us */

const node **nodes_by_place(const nodes *n, const rack_placement *p) {
    const epoch_record *head = rack_placement_head(p);
    const node **of = calloc(head->n_nodes + 1, sizeof(*of));
    for (uint32_t i = 0; of != NULL && i < n->n_all; i++) {
        const node *each = n->all[i];
        if (each == NULL || !node_is_up(n, each)) continue;
        if (each->held.slices != head->slices) continue;
        int32_t place = rack_placement_node(p, each->listed);
        if (place >= 0) of[place] = each;
    }
    return of;
}

static bool can_be_asked(const layer_map *map, const node *const *of,
                         uint32_t layer, uint32_t unit) {
    uint32_t count;
    const uint16_t *holders = layer_map_holders(map, unit, &count);
    for (uint32_t i = 0; i < count; i++) {
        const node *p = of[holders[i]];
        if (p != NULL && node_can_be_asked(p, layer, unit)) return true;
    }
    return false;
}

/* Those who are to hold a unit, and have not said that they do: ask them. */
static bool ask_holders(nodes *n, const layer_map *map, const node *const *of,
                        uint32_t unit) {
    uint32_t count;
    bool asked = false;
    const uint16_t *holders = layer_map_holders(map, unit, &count);
    for (uint32_t i = 0; i < count; i++) {
        if (of[holders[i]] == NULL) continue;
        node *p = n->all[of[holders[i]]->index];
        if (!p->greeted) nodes_greet(n, p);
        asked = true;
    }
    return asked;
}

/* Is there a unit that somebody can be asked for now, and after the switch
 * nobody, although there is a live node that is to hold it?  All such nodes are
 * asked in one go. */
static bool would_lose(nodes *n, const node *const *now,
                       const node *const *then) {
    bool lose = false;
    for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
        const layer_map *old = rack_placement_layer(n->assignment, l);
        const layer_map *new = rack_placement_layer(n->next, l);
        if (old == NULL || new == NULL || old == new) continue;
        for (uint32_t unit = 0; unit < new->n_units; unit++) {
            if (!can_be_asked(old, now, l, unit)) continue;
            if (can_be_asked(new, then, l, unit)) continue;
            lose |= ask_holders(n, new, then, unit);
        }
    }
    return lose;
}

/* Would the switch leave anything to nobody? */
static bool loses(nodes *n) {
    if (n->assignment == NULL) return false;
    const epoch_record *old = rack_placement_head(n->assignment);
    if (old->slices != rack_placement_head(n->next)->slices) return false;
    const node **now = nodes_by_place(n, n->assignment);
    const node **then = nodes_by_place(n, n->next);
    bool lose = now == NULL || then == NULL || would_lose(n, now, then);
    free(now);
    free(then);
    return lose;
}

static bool must_wait(nodes *n) {
    if (!loses(n)) return false;
    if (now_ms() < n->switch_until_ms) return true;
    log_warn("epoch %llu is used from now on, though nodes have not said that "
             "they hold what it gives them",
             (unsigned long long)rack_placement_head(n->next)->epoch);
    return false;
}

/* The switch tells the nodes, by our pings, that we ask for some units no more:
 * from then on what they said of these counts no longer. */
static void doubt_layer(node *p, uint32_t layer, const layer_map *map,
                        int32_t was, int32_t is, const rack_placement *old,
                        const rack_placement *new) {
    uint32_t unit = holdings_next(&p->held, layer, 0, map->n_units);
    while (unit < map->n_units) {
        if (rack_placement_assigns(old, was, layer, unit) &&
            !rack_placement_assigns(new, is, layer, unit)) {
            holdings_add(&p->doubted, layer, unit);
            p->doubted_since = true;
        }
        unit = holdings_next(&p->held, layer, unit + 1, map->n_units);
    }
}

static bool is_given(const rack_placement *p, const node *to, uint32_t layer,
                     uint32_t unit) {
    return p != NULL && rack_placement_assigns(
                            p, rack_placement_node(p, to->listed), layer, unit);
}

void nodes_doubt(nodes *n, node *p) {
    if (!n->config.registered) return;
    const model_config *m = n->config.model;
    uint32_t end = m->n_experts * p->held.slices;
    for (uint32_t l = 0; l < m->n_layers; l++) {
        uint32_t unit = holdings_next(&p->held, l, 0, end);
        for (; unit < end; unit = holdings_next(&p->held, l, unit + 1, end)) {
            if (is_given(n->assignment, p, l, unit)) continue;
            if (is_given(n->next, p, l, unit)) continue;
            holdings_add(&p->doubted, l, unit);
        }
    }
}

static bool gets_doubted_back(const node *p, uint32_t layer,
                              const layer_map *map, int32_t is,
                              const rack_placement *new) {
    uint32_t unit = holdings_next(&p->doubted, layer, 0, map->n_units);
    while (unit < map->n_units) {
        if (rack_placement_assigns(new, is, layer, unit)) return true;
        unit = holdings_next(&p->doubted, layer, unit + 1, map->n_units);
    }
    return false;
}

static void doubt_what_is_taken(nodes *n) {
    const rack_placement *old = n->assignment, *new = n->next;
    for (uint32_t i = 0; i < n->n_all; i++) {
        node *p = n->all[i];
        bool ask = false;
        if (p == NULL || !p->welcomed) continue;
        int32_t is = rack_placement_node(new, p->listed);
        int32_t was = old != NULL ? rack_placement_node(old, p->listed) : -1;
        for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
            const layer_map *after = rack_placement_layer(new, l);
            const layer_map *before =
                old != NULL ? rack_placement_layer(old, l) : NULL;
            if (after == NULL || before == after) continue;
            if (was >= 0 && before != NULL) {
                doubt_layer(p, l, before, was, is, old, new);
            }
            ask = ask || (is >= 0 && gets_doubted_back(p, l, after, is, new));
        }
        if (ask) nodes_greet(n, p);
    }
}

bool nodes_switch(nodes *n) {
    if (n->next == NULL || must_wait(n)) return false;
    doubt_what_is_taken(n);
    rack_placement_unref(n->assignment);
    n->assignment = n->next;
    n->next = NULL;
    return true;
}

bool nodes_assign(nodes *n, const rack_placement *p) {
    if (p == NULL) {
        bool had = n->assignment != NULL;
        rack_placement_unref(n->assignment);
        rack_placement_unref(n->next);
        n->assignment = n->next = NULL;
        return had;
    }
    if (p == n->assignment || p == n->next) return nodes_switch(n);
    /* The patience is for the first of several that come one after another. */
    if (n->next == NULL) n->switch_until_ms = now_ms() + SWITCH_PATIENCE_MS;
    rack_placement_unref(n->next);
    n->next = rack_placement_ref(p);
    return nodes_switch(n);
}
