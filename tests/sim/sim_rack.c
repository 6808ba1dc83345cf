/* sim_rack.c - which nodes a coordinator uses, for what, and by which
 * placement: what nodes_set.c, nodes_switch.c and nodes_rack.c do with links.
 */
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define SWITCH_PATIENCE_MS 3000
#define NEWCOMER_MS 10000
#define RACK_PAUSE_MS 5 /* between two racks that can wait */

/* ---- placements ---- */

/* Nodes are called n0, n1, ... */
int32_t sim_node_named(const sim *s, const char *name) {
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (strcmp(name, s->members[sim_node_member(i)].name) == 0) {
            return (int32_t)i;
        }
    }
    return -1;
}

void sim_rack_assigned(const sim *s, const rack_placement *p,
                       unit_set out[SIM_NODES]) {
    memset(out, 0, SIM_NODES * sizeof(*out));
    if (p == NULL) return;
    const epoch_record *head = rack_placement_head(p);
    int32_t of[RECORD_NODES_MAX];
    for (uint32_t i = 0; i < head->n_nodes; i++)
        of[i] = sim_node_named(s, head->nodes[i]);
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        const layer_map *map = rack_placement_layer(p, l);
        for (uint32_t u = 0; map != NULL && u < map->n_units; u++) {
            uint32_t n;
            const uint16_t *holders = layer_map_holders(map, u, &n);
            for (uint32_t i = 0; i < n; i++) {
                if (of[holders[i]] >= 0)
                    unit_set_add(&out[of[holders[i]]], l, u);
            }
        }
    }
}

static bool is_up(const sim_coord *c, const sim_seen *n) {
    return n->there && membership_state(c->members, n->place) == NODE_UP;
}

/* It said that it holds this, and there is no reason why it should not. */
static unit_set can_be_asked(const sim_seen *n) {
    return unit_set_less(&n->held, &n->doubted);
}

/* ---- telling the step thread ---- */

void sim_rack_fini(sim_rack *r) {
    placement_unref(r->where);
    *r = (sim_rack){0};
}

void sim_rack_fill(const sim *s, const unit_set *units, holdings *h) {
    if (holdings_init_slices(h, SIM_LAYERS, s->model.n_experts, s->slices) <
        0) {
        abort();
    }
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        for (uint64_t left = units->of[l]; left != 0; left &= left - 1)
            holdings_add(h, l, (uint32_t)__builtin_ctzll(left));
    }
}

static placement *make_placement(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    unit_set assigned[SIM_NODES];
    holdings usable[SIM_NODES] = {{0}};
    const holdings *held[SIM_NODES] = {NULL};
    bool all = s->options.plant == PLANT_UNASSIGNED;
    sim_rack_assigned(s, c->assignment, assigned);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *n = &c->seen[i];
        if (!is_up(c, n) || c->assignment == NULL) continue;
        unit_set units = can_be_asked(n);
        if (!all) units = unit_set_and(&units, &assigned[i]);
        if (all) units = n->held;
        sim_rack_fill(s, &units, &usable[n->place]);
        held[n->place] = &usable[n->place];
    }
    const placement_shape shape = {
        .epoch =
            c->assignment != NULL ? rack_placement_epoch(c->assignment) : 0,
        .source = c->assignment != NULL ? rack_placement_sum(c->assignment) : 0,
        .n_layers = SIM_LAYERS,
        .n_experts = s->model.n_experts,
        .slices = s->slices,
        .layer_slices = s->layer_slices};
    placement *where;
    if (placement_new(&where, &shape, held, SIM_NODES) < 0) abort();
    for (uint32_t i = 0; i < SIM_NODES; i++)
        holdings_fini(&usable[i]);
    return where;
}

static void publish(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    sim_rack_fini(&c->posted);
    c->unpublished = false;
    c->rack_due_ms = sim_mono_ms(s, coord) + RACK_PAUSE_MS;
    c->posted.where = make_placement(s, coord);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *n = &c->seen[i];
        if (!is_up(c, n)) continue;
        c->posted.at[n->place].up = true;
        c->posted.at[n->place].node = i;
        c->posted.at[n->place].boot = membership_boot(c->members, n->place);
        c->posted.at[n->place].serial = n->serial;
        c->posted.at[n->place].trust =
            membership_trust(c->members, n->place, NULL, NULL);
    }
    uint64_t us = 10 + sim_below(s, 300) + sim_below(s, c->lag_us + 1);
    sim_after(s, us, EVENT_RACK, (int)coord, 0);
}

/* ---- switching ---- */

void sim_rack_greet(sim *s, uint32_t coord, uint32_t node) {
    sim_seen *n = &s->coords[coord].seen[node];
    n->greeted = true;
    n->doubted_since = false;
    const sim_message m = {.kind = MESSAGE_HELLO,
                           .from = coord,
                           .to = sim_node_member(node),
                           .boot = s->members[coord].boot};
    sim_send(s, &m);
}

/* Is there a unit that somebody can be asked for now, and after the switch
 * nobody, although there is a live node that is to hold it?  Such are asked. */
static bool would_lose(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    unit_set old[SIM_NODES], new[SIM_NODES], now = {0}, then = {0};
    sim_rack_assigned(s, c->assignment, old);
    sim_rack_assigned(s, c->next, new);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (!is_up(c, &c->seen[i])) continue;
        unit_set can = can_be_asked(&c->seen[i]);
        unit_set by_old = unit_set_and(&can, &old[i]);
        unit_set by_new = unit_set_and(&can, &new[i]);
        now = unit_set_or(&now, &by_old);
        then = unit_set_or(&then, &by_new);
    }
    unit_set lost = unit_set_less(&now, &then);
    bool lose = false;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        unit_set its = unit_set_and(&new[i], &lost);
        if (!is_up(c, &c->seen[i]) || unit_set_empty(&its)) continue;
        if (!c->seen[i].greeted) sim_rack_greet(s, coord, i);
        lose = true;
    }
    return lose;
}

/* From now on what nodes said of units that the switch takes from them counts
 * no longer. */
static void doubt_what_is_taken(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    unit_set old[SIM_NODES], new[SIM_NODES];
    sim_rack_assigned(s, c->assignment, old);
    sim_rack_assigned(s, c->next, new);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        sim_seen *n = &c->seen[i];
        if (!n->there || !n->welcomed) continue;
        unit_set taken = unit_set_and(&n->held, &old[i]);
        taken = unit_set_less(&taken, &new[i]);
        n->doubted_since |= !unit_set_empty(&taken);
        n->doubted = unit_set_or(&n->doubted, &taken);
        unit_set back = unit_set_and(&n->doubted, &new[i]);
        if (!unit_set_empty(&back)) sim_rack_greet(s, coord, i);
    }
}

static bool switch_over(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    if (c->next == NULL) return false;
    bool may_wait = c->assignment != NULL &&
                    sim_mono_ms(s, coord) < c->switch_until_ms &&
                    s->options.plant != PLANT_BLIND_SWITCH;
    if (may_wait && would_lose(s, coord)) return false;
    doubt_what_is_taken(s, coord);
    rack_placement_unref(c->assignment);
    c->assignment = c->next;
    c->next = NULL;
    sim_trace(s, "%s uses %llx", s->members[coord].name,
              (unsigned long long)rack_placement_epoch(c->assignment));
    return true;
}

void sim_rack_lost(sim *s, uint32_t coord) {
    (void)switch_over(s, coord);
    publish(s, coord);
}

void sim_rack_changed(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    c->unpublished = true;
    if (sim_mono_ms(s, coord) < c->rack_due_ms) return; /* the loop will */
    sim_rack_lost(s, coord);
}

static bool assign(sim *s, uint32_t coord, const rack_placement *p) {
    sim_coord *c = &s->coords[coord];
    if (p == NULL) {
        bool had = c->assignment != NULL;
        rack_placement_unref(c->assignment);
        rack_placement_unref(c->next);
        c->assignment = c->next = NULL;
        return had;
    }
    if (p != c->assignment && p != c->next) {
        if (c->next == NULL) {
            c->switch_until_ms = sim_mono_ms(s, coord) + SWITCH_PATIENCE_MS;
        }
        rack_placement_unref(c->next);
        c->next = rack_placement_ref(p);
    }
    return switch_over(s, coord);
}

/* ---- which nodes are there ---- */

/* nodes_see_all() */
bool sim_rack_sees_all(const sim *s, uint32_t coord) {
    const sim_coord *c = &s->coords[coord];
    const rack_placement *newest = c->next != NULL ? c->next : c->assignment;
    unit_set assigned[SIM_NODES];
    if (newest != NULL && c->epoch < rack_placement_epoch(newest)) return false;
    if (sim_mono_ms(s, coord) >= c->begun_ms + NEWCOMER_MS) return true;
    sim_rack_assigned(s, c->assignment, assigned);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (!c->seen[i].there && !unit_set_empty(&assigned[i])) return false;
    }
    return true;
}

static bool has_work(const sim *s, const sim_coord *c, uint32_t node) {
    const char *name = s->members[sim_node_member(node)].name;
    const rack_placement *of[] = {c->assignment, c->next};
    for (int i = 0; i < 2; i++) {
        int32_t at = of[i] != NULL ? rack_placement_node(of[i], name) : -1;
        if (at >= 0 && rack_placement_units(of[i], at) > 0) return true;
    }
    return false;
}

static void join(sim *s, uint32_t coord, uint32_t node, uint64_t boot) {
    sim_coord *c = &s->coords[coord];
    sim_seen *n = &c->seen[node];
    *n = (sim_seen){.there = true,
                    .registered = true,
                    .record_boot = boot,
                    .serial = ++c->last_serial};
    if (membership_add(c->members, &n->place) < 0) abort();
    c->node_at[n->place] = (int32_t)node;
}

static void leave(sim_coord *c, uint32_t node) {
    sim_seen *n = &c->seen[node];
    membership_remove(c->members, n->place);
    c->node_at[n->place] = -1;
    *n = (sim_seen){0};
}

/* PLANT_LEASE_DOWN: who is not registered is not there. */
static bool may_leave(const sim *s, const sim_coord *c, uint32_t node) {
    uint64_t epoch =
        c->assignment != NULL ? rack_placement_epoch(c->assignment) : 0;
    if (s->options.plant == PLANT_LEASE_DOWN) return true;
    return c->epoch >= epoch && !has_work(s, c, node);
}

bool sim_rack_let_go(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    bool left = false;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *n = &c->seen[i];
        if (!n->there || n->registered || !may_leave(s, c, i)) continue;
        leave(c, i);
        left = true;
    }
    return left;
}

void sim_rack_set(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    const rack_view *view = s->members[coord].view;
    if (c->begun_ms == 0) c->begun_ms = sim_mono_ms(s, coord);
    bool changed = assign(s, coord, rack_view_placement(view));
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        sim_seen *n = &c->seen[i];
        const node_record *r =
            rack_view_node(view, s->members[sim_node_member(i)].name);
        if (!n->there) {
            if (r != NULL) join(s, coord, i, r->boot);
            continue;
        }
        n->registered = r != NULL;
        if (r != NULL && r->boot != n->record_boot) {
            n->record_boot = r->boot;
            if (membership_boot(c->members, n->place) != r->boot) {
                sim_rack_greet(s, coord, i);
            }
        }
    }
    changed |= sim_rack_let_go(s, coord);
    if (changed) publish(s, coord);
    sim_coord_loop(s, coord);
}

/* What it holds, but was not to hold, does not count: it may drop it. */
void sim_rack_welcome(sim *s, uint32_t coord, uint32_t node,
                      const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    sim_seen *n = &c->seen[node];
    unit_set given[SIM_NODES], to_be[SIM_NODES];
    if (!n->doubted_since) n->doubted = (unit_set){0};
    n->held = m->holds;
    n->version = m->version;
    n->welcomed = true;
    sim_rack_assigned(s, c->assignment, given);
    sim_rack_assigned(s, c->next, to_be);
    unit_set odd = unit_set_less(&n->held, &given[node]);
    odd = unit_set_less(&odd, &to_be[node]);
    n->doubted = unit_set_or(&n->doubted, &odd);
}

static bool uses(const sim *s, uint32_t coord, const placement *where,
                 uint32_t node, uint32_t layer, uint32_t unit) {
    const sim_coord *c = &s->coords[coord];
    uint32_t n;
    const uint16_t *holders = placement_nodes(where, layer, unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        const sim_link *l = &c->links[holders[i]];
        if (l->up && l->node == node &&
            l->boot == s->members[sim_node_member(node)].boot) {
            return true;
        }
    }
    return false;
}

static bool is_outdated(const placement *p, uint64_t epoch, uint64_t sum) {
    if (placement_epoch(p) != epoch) return placement_epoch(p) < epoch;
    return placement_source(p) != sum;
}

bool sim_coord_uses(const sim *s, uint32_t coord, uint32_t node, uint32_t layer,
                    uint32_t unit, uint64_t epoch, uint64_t sum) {
    const sim_coord *c = &s->coords[coord];
    const placement *by[DISPATCH_LANES] = {NULL};
    bool open = false;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        if (c->lanes[i].in_layer) by[i] = c->lanes[i].during;
        open = open || c->lanes[i].in_layer;
    }
    if (!open) by[0] = c->now.where;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        if (by[i] == NULL || !is_outdated(by[i], epoch, sum)) continue;
        if (uses(s, coord, by[i], node, layer, unit)) return true;
    }
    return false;
}
