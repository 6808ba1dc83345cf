/* nodes_switch.c - from one placement of the rack to the next.
 *
 * A placement may take a unit away from a node because another one has reported
 * it as resident.  The leader has heard that by etcd; we hear what a node holds
 * from its welcome, which may come a little later.  Switching at once would
 * leave the unit without anybody to ask in between.  So the older placement
 * stays in use until the nodes of the newer one have said what they hold, which
 * they are asked for at once.  The pings go on naming the older one meanwhile,
 * so nobody unloads anything that we still use.
 *
 * What must not be lost is a unit's last copy, and no copy below the number
 * that each unit is to have, since the node that has the only other one may die
 * in that moment.  Copies beyond those are there to share load.  The wait is
 * bounded: nodes stop to wait for us at some time, and give up what we go on to
 * use.  After it, units that are left to nobody are asked of nobody (their
 * sequences are parked, or computed from our own file) until a node says that
 * it has them; that is logged, with numbers and names. */
#include <stdlib.h>
#include "coordinator/nodes_internal.h"
#include "engine/log.h"
#include "engine/util.h"

#define SWITCH_PATIENCE_MS 3000 /* well within what nodes wait for us */
#define ASK_AGAIN_MS 50         /* a node, what it holds now */

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

/* What a switch would leave to too few, for the log. */
typedef struct {
    uint64_t units, unheld; /* with fewer copies than due; with none at all */
    const node *silent;     /* one who is to hold such a unit */
} loss;

static uint32_t count_copies(const layer_map *map, const node *const *of,
                             uint32_t layer, uint32_t unit) {
    uint32_t count, copies = 0;
    const uint16_t *holders = layer_map_holders(map, unit, &count);
    for (uint32_t i = 0; i < count; i++) {
        const node *p = of[holders[i]];
        copies += p != NULL && node_can_be_asked(p, layer, unit);
    }
    return copies;
}

/* A live node that is to hold the unit, and has not said that it does; NULL:
 * there is none, so nothing is to be waited for. */
static const node *find_silent(const layer_map *map, const node *const *of,
                               uint32_t layer, uint32_t unit) {
    uint32_t count;
    const uint16_t *holders = layer_map_holders(map, unit, &count);
    for (uint32_t i = 0; i < count; i++) {
        const node *p = of[holders[i]];
        if (p != NULL && !node_can_be_asked(p, layer, unit)) return p;
    }
    return NULL;
}

/* One that was asked a moment ago has not had the time for an answer, or for
 * another one. */
static void ask_silent(nodes *n, const layer_map *map, const node *const *of,
                       uint32_t layer, uint32_t unit) {
    uint32_t count;
    uint64_t now = now_ms();
    const uint16_t *holders = layer_map_holders(map, unit, &count);
    for (uint32_t i = 0; i < count; i++) {
        const node *its = of[holders[i]];
        if (its == NULL || node_can_be_asked(its, layer, unit)) continue;
        if (now < its->greeted_ms + ASK_AGAIN_MS) continue;
        nodes_greet(n, n->all[its->index]);
    }
}

static void look_at_unit(nodes *n, uint32_t layer, uint32_t unit,
                         const node *const *now, const node *const *then,
                         loss *out) {
    const layer_map *old = rack_placement_layer(n->assignment, layer);
    const layer_map *new = rack_placement_layer(n->next, layer);
    uint32_t due = rack_placement_head(n->next)->min_replicas;
    uint32_t before = count_copies(old, now, layer, unit);
    uint32_t after = count_copies(new, then, layer, unit);
    if (after >= before || (after > 0 && after >= due)) return;
    const node *silent = find_silent(new, then, layer, unit);
    if (silent == NULL) return;
    out->silent = silent;
    out->units++;
    out->unheld += after == 0;
    ask_silent(n, new, then, layer, unit);
}

/* What would be lost although there is a live node that is to hold it.  All
 * such nodes are asked in one go. */
static void find_loss(nodes *n, const node *const *now, const node *const *then,
                      loss *out) {
    for (uint32_t l = 0; l < n->config.model->n_layers; l++) {
        const layer_map *old = rack_placement_layer(n->assignment, l);
        const layer_map *new = rack_placement_layer(n->next, l);
        if (old == NULL || new == NULL || old == new) continue;
        for (uint32_t unit = 0; unit < new->n_units; unit++)
            look_at_unit(n, l, unit, now, then, out);
    }
}

/* Would the switch leave anything to too few?  Without memory to tell: yes, and
 * that is looked at again. */
static bool loses(nodes *n, loss *out) {
    *out = (loss){0};
    if (n->assignment == NULL) return false;
    const epoch_record *old = rack_placement_head(n->assignment);
    if (old->slices != rack_placement_head(n->next)->slices) return false;
    const node **now = nodes_by_place(n, n->assignment);
    const node **then = nodes_by_place(n, n->next);
    bool known = now != NULL && then != NULL;
    if (known) find_loss(n, now, then, out);
    free(now);
    free(then);
    return !known || out->units > 0;
}

static bool must_wait(nodes *n) {
    loss lost;
    uint64_t now = now_ms();
    if (!loses(n, &lost)) return false;
    if (now < n->switch_until_ms) {
        n->switch_look_ms = size_min(now + ASK_AGAIN_MS, n->switch_until_ms);
        return true;
    }
    log_warn("epoch %llu is used from now on, though %llu units have fewer "
             "copies by it than they are to have, %llu of them none: %s has "
             "not said that it holds what it is given",
             (unsigned long long)rack_placement_head(n->next)->epoch,
             (unsigned long long)lost.units, (unsigned long long)lost.unheld,
             lost.silent != NULL ? nodes_name(n, lost.silent->index)
                                 : "a node");
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
            p->doubted_by = p->greeting;
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
