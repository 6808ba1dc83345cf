/* place_node.c - an expert node: the real keeper, and loads and unloads that
 * take their time. */
#include "tests/sim/place_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- its life ---- */

void place_node_start(place_sim *s, uint32_t node) {
    uint32_t member = place_node_member(node);
    const place_member *m = &s->members[member];
    place_node *n = &s->nodes[node];
    const keeper_config c = {.name = m->name, .memory_bytes = n->memory};
    if (keeper_new(&n->machine, &c) < 0) abort();
    n->busy = 0;
    memset(n->peers, 0, sizeof(n->peers));

    node_record r = {
        .boot = m->boot,
        .memory_bytes = n->memory,
        .cpu = "avx2",
        .version = "1",
        .threads = 1,
        .protocol = 1,
        .has_model = true,
        .profile = {.version = 1, .activation = "a8", .rows = "f32"}};
    snprintf(r.control, sizeof(r.control), "tcp://10.0.1.%u:1", node + 1);
    memcpy(r.model, s->model.model, RECORD_MODEL);
    place_member_want(s, member, SLOT_RECORD, node_record_pack(&r));
}

void place_node_stop(place_sim *s, uint32_t node) {
    keeper_free(s->nodes[node].machine);
    s->nodes[node].machine = NULL;
    s->nodes[node].lost_ms = s->now_ms;
}

uint64_t place_node_holds(const place_sim *s, uint32_t node) {
    uint64_t holds = 0;
    const keeper *k = s->nodes[node].machine;
    for (uint32_t l = 0; k != NULL && l < PLACE_LAYERS; l++) {
        for (uint32_t u = 0; u < PLACE_UNITS; u++) {
            if (keeper_holds(k, l, u)) holds |= place_bit(l, u);
        }
    }
    return holds;
}

/* ---- what must hold ---- */

/* Another copy stays, unless a node that had one died a short while ago: until
 * its lease has run out nobody can know. */
static void check_last(place_sim *s, uint32_t node, uint64_t bit) {
    const uint64_t lately_ms = 30000;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        uint64_t died_ms = s->nodes[i].lost_ms;
        if (died_ms != 0 && s->now_ms < died_ms + lately_ms) return;
        if (i != node && (place_node_holds(s, i) & bit) != 0) return;
    }
    place_fail(s, "%s unloads the last copy of %llx",
               s->members[place_node_member(node)].name,
               (unsigned long long)bit);
}

/* By an older placement than the node's own.  (A newer one may give the unit
 * back; the node will hear of it and load again.) */
static bool still_uses(const place_sim *s, uint32_t coord, uint32_t node,
                       uint64_t bit) {
    const place_member *m = &s->members[place_node_member(node)];
    const place_link *link = &s->coords[coord].links[node];
    const rack_placement *used = s->coords[coord].used;
    keeper_figures figures;
    keeper_look(s->nodes[node].machine, &figures);
    if (used == NULL || rack_placement_epoch(used) >= figures.epoch) {
        return false;
    }
    return link->up && link->boot == m->boot && (link->holds & bit) != 0 &&
           (place_assigned(used, m->name) & bit) != 0;
}

/* Nobody who is in touch may still send what needs it. */
static void check_used(place_sim *s, uint32_t node, uint64_t bit) {
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const place_peer *peer = &s->nodes[node].peers[i];
        bool in_touch = peer->boot == s->members[i].boot &&
                        s->members[i].alive && !peer->stale &&
                        s->now_ms < peer->heard_ms + PLACE_SILENT_MS;
        if (!in_touch || !still_uses(s, i, node, bit)) continue;
        place_fail(s, "%s unloads %llx, which %s still uses",
                   s->members[place_node_member(node)].name,
                   (unsigned long long)bit, s->members[i].name);
    }
}

static void check_memory(place_sim *s, uint32_t node) {
    const place_node *n = &s->nodes[node];
    uint64_t bytes = place_bytes(s, place_node_holds(s, node) | n->busy);
    if (bytes <= n->memory) return;
    place_fail(s, "%s holds %llu of %llu bytes",
               s->members[place_node_member(node)].name,
               (unsigned long long)bytes, (unsigned long long)n->memory);
}

/* ---- what the keeper asks for ---- */

static void load(place_sim *s, uint32_t node, const keeper_action *a) {
    uint64_t bit = place_bit(a->layer, a->unit);
    s->nodes[node].busy |= bit;
    s->result->loads++;
    check_memory(s, node);
    place_after(s, 5 + place_below(s, 120), PLACE_LOADED,
                (int)place_node_member(node), bit);
}

static void unload(place_sim *s, uint32_t node, const keeper_action *a) {
    uint64_t bit = place_bit(a->layer, a->unit);
    s->nodes[node].busy |= bit;
    s->result->unloads++;
    place_trace(s, "%s: unloads %llx", s->members[place_node_member(node)].name,
                (unsigned long long)bit);
    check_used(s, node, bit);
    check_last(s, node, bit);
    place_after(s, 1 + place_below(s, 30), PLACE_UNLOADED,
                (int)place_node_member(node), bit);
}

static void report(place_sim *s, uint32_t node, uint64_t epoch, uint64_t digest,
                   uint32_t units, uint32_t waiting) {
    uint32_t member = place_node_member(node);
    ready_record r = {.boot = s->members[member].boot,
                      .incarnation = epoch >> EPOCH_BITS,
                      .epoch = epoch & ((1ull << EPOCH_BITS) - 1),
                      .digest = digest,
                      .units = units,
                      .waiting = waiting};
    place_trace(s, "%s: reports %llu", s->members[member].name,
                (unsigned long long)r.epoch);
    place_member_want(s, member, SLOT_READY, ready_record_pack(&r));
}

/* PLACE_EARLY_READY */
static void report_at_once(place_sim *s, uint32_t node,
                           const rack_placement *p) {
    int32_t at =
        rack_placement_node(p, s->members[place_node_member(node)].name);
    report(s, node, rack_placement_epoch(p),
           at >= 0 ? rack_placement_digest(p, at) : 0, 0, 0);
}

static void set_stale(place_sim *s, uint32_t node, uint64_t boot, bool stale) {
    if (stale) s->result->stale++;
    for (uint32_t i = 0; i < s->n_coords; i++) {
        place_peer *p = &s->nodes[node].peers[i];
        if (p->boot == boot) p->stale = stale;
    }
}

static void carry_out(place_sim *s, uint32_t node, const keeper_action *a) {
    switch (a->kind) {
    case KEEPER_CUT:
        keeper_cut(s->nodes[node].machine, s->now_ms, 0, s->unit_bytes);
        break;
    case KEEPER_LOAD:
        load(s, node, a);
        break;
    case KEEPER_UNLOAD:
        unload(s, node, a);
        break;
    case KEEPER_REPORT:
        if (s->options.plant == PLACE_EARLY_READY) break;
        report(s, node, a->epoch, a->digest, a->units, a->waiting);
        break;
    case KEEPER_STALE:
        set_stale(s, node, a->peer, true);
        break;
    case KEEPER_UNSTALE:
        set_stale(s, node, a->peer, false);
        break;
    case KEEPER_WAIT:
        break;
    }
}

static void take_placement(place_sim *s, uint32_t node) {
    const place_member *m = &s->members[place_node_member(node)];
    keeper *k = s->nodes[node].machine;
    const rack_placement *p = m->listed ? rack_view_placement(m->view) : NULL;
    keeper_figures before;
    keeper_look(k, &before);
    if (keeper_placement(k, s->now_ms, p) < 0) abort();
    if (p == NULL || rack_placement_epoch(p) <= before.epoch) return;
    if (place_bytes(s, place_assigned(p, m->name)) > s->nodes[node].memory) {
        place_fail(s, "%s is given more than it offers", m->name);
    }
    if (s->options.plant == PLACE_EARLY_READY) report_at_once(s, node, p);
}

uint64_t place_node_act(place_sim *s, uint32_t node) {
    keeper_action a;
    take_placement(s, node);
    do {
        keeper_next(s->nodes[node].machine, s->now_ms, &a);
        carry_out(s, node, &a);
    } while (a.kind != KEEPER_WAIT);
    uint64_t wake = place_member_act(s, place_node_member(node));
    return a.wake_ms < wake ? a.wake_ms : wake;
}

void place_node_loaded(place_sim *s, uint32_t node, uint64_t bit) {
    uint32_t at = (uint32_t)__builtin_ctzll(bit);
    int rc = place_chance(s, 3) ? -5 : 0;
    s->nodes[node].busy &= ~bit;
    keeper_loaded(s->nodes[node].machine, s->now_ms, at / PLACE_UNITS,
                  at % PLACE_UNITS, rc);
}

void place_node_unloaded(place_sim *s, uint32_t node, uint64_t bit) {
    uint32_t at = (uint32_t)__builtin_ctzll(bit);
    s->nodes[node].busy &= ~bit;
    keeper_unloaded(s->nodes[node].machine, s->now_ms, at / PLACE_UNITS,
                    at % PLACE_UNITS);
}

/* ---- coordinators ---- */

void place_node_message(place_sim *s, uint32_t node, uint32_t coord,
                        const place_message *m) {
    place_node *n = &s->nodes[node];
    place_peer *peer = &n->peers[coord];
    place_message reply = {.kind = MESSAGE_PONG,
                           .boot = s->members[place_node_member(node)].boot};
    uint64_t epoch = m->epoch;
    if (s->options.plant == PLACE_NO_WAIT) epoch = UINT64_MAX;

    if (m->kind == MESSAGE_HELLO) {
        if (keeper_hello(n->machine, s->now_ms, m->boot) < 0) return;
        if (peer->boot != m->boot) *peer = (place_peer){.boot = m->boot};
        reply.kind = MESSAGE_WELCOME;
        reply.holds = place_node_holds(s, node);
    } else if (keeper_ping(n->machine, s->now_ms, m->boot, epoch) < 0) {
        return; /* it is told that it is stale: not in touch */
    }
    if (peer->boot == m->boot) peer->heard_ms = s->now_ms;
    reply.version = keeper_version(n->machine);
    place_say(s, place_node_member(node), coord, &reply);
}
