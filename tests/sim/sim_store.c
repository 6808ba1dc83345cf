/* sim_store.c - a node's experts: the real keeper, and loads and unloads that
 * take their time and go wrong.
 *
 * A unit comes from the node's own file, from its cache on disk, or from a
 * coordinator or another node that has it; then it is kept in the cache, if
 * the disk takes it.  A flipped byte is found by the checksum: the load fails,
 * and what was cached is dropped. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "tests/sim/sim.h"

/* A load under way: layer, unit, and whether it comes from the cache. */
static uint64_t pack_unit(uint32_t layer, uint32_t unit, bool cached) {
    return (uint64_t)layer << 16 | unit << 1 | cached;
}
static uint32_t layer_of(uint64_t number) {
    return (uint32_t)(number >> 16);
}
static uint32_t unit_of(uint64_t number) {
    return (uint32_t)(number >> 1) & 0x7fff;
}

/* ---- its life ---- */

void sim_store_open(sim *s, uint32_t node) {
    uint32_t member = sim_node_member(node);
    const sim_member *m = &s->members[member];
    sim_node *n = &s->nodes[node];
    bool blind = s->options.plant == PLANT_OVER_MEMORY;
    const keeper_config c = {.name = m->name,
                             .memory_bytes = blind ? 0 : n->memory,
                             .max_loads = 2,
                             .grace_ms = SIM_GRACE_MS,
                             .silent_ms = SIM_SILENT_MS,
                             .retry_ms = 200,
                             .retry_most_ms = 2000};
    if (keeper_new(&n->keeper, &c) < 0) abort();
    n->resident = n->wrong = n->busy = (unit_set){0};
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
    if (s->zones) snprintf(r.zone, sizeof(r.zone), "z%u", node % 2);
    memcpy(r.model, s->plan_model.model, RECORD_MODEL);
    sim_member_want(s, member, SLOT_RECORD, node_record_pack(&r));
}

void sim_store_close(sim *s, uint32_t node) {
    sim_node *n = &s->nodes[node];
    keeper_free(n->keeper);
    n->keeper = NULL;
    n->resident = n->wrong = n->busy = (unit_set){0};
}

void sim_store_paused(sim *s, uint32_t node, uint64_t us) {
    sim_node *n = &s->nodes[node];
    if (n->keeper == NULL || us < 1000000) return;
    keeper_paused(n->keeper, sim_mono_ms(s, sim_node_member(node)), us / 1000);
}

unit_set sim_store_holds(const sim *s, uint32_t node) {
    const sim_node *n = &s->nodes[node];
    unit_set holds = {0};
    for (uint32_t l = 0; n->keeper != NULL && l < SIM_LAYERS; l++) {
        for (uint32_t u = 0; u < sim_units(s, l); u++) {
            if (keeper_holds(n->keeper, l, u)) unit_set_add(&holds, l, u);
        }
    }
    return holds;
}

uint64_t sim_store_bytes(const sim *s, const unit_set *units) {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        bytes +=
            (uint64_t)__builtin_popcountll(units->of[l]) * s->unit_bytes[l];
    }
    return bytes;
}

/* ---- what must hold ---- */

#define LATELY_US 30000000

/* Another copy stays, unless a node that had one died a short while ago: until
 * its lease has run out nobody can know. */
static void check_last(sim *s, uint32_t node, uint32_t layer, uint32_t unit) {
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_node *other = &s->nodes[i];
        uint64_t died_us = s->members[sim_node_member(i)].died_us;
        if (died_us != 0 && s->clock.now_us < died_us + LATELY_US) return;
        if (i == node || other->keeper == NULL) continue;
        if (keeper_holds(other->keeper, layer, unit)) return;
    }
    sim_fail(s, "node %u unloads the last copy of unit %u of layer %u", node,
             unit, layer);
}

/* By an older placement than the node's own, or another one of its number.  (A
 * newer one may give the unit back; the node will hear of it and load again.)
 * Nobody who is in touch may still send what needs it. */
static void check_used(sim *s, uint32_t node, uint32_t layer, uint32_t unit) {
    keeper_figures own;
    keeper_look(s->nodes[node].keeper, &own);
    const rack_placement *p =
        rack_view_placement(s->members[sim_node_member(node)].view);
    uint64_t sum = rack_placement_sum(p);
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_peer *peer = &s->nodes[node].peers[i];
        bool in_touch =
            peer->boot == s->members[i].boot && s->members[i].alive &&
            !peer->stale &&
            s->clock.now_us < peer->heard_us + SIM_SILENT_MS * 1000ull - 2000;
        if (!in_touch ||
            !sim_coord_uses(s, i, node, layer, unit, own.epoch, sum)) {
            continue;
        }
        sim_fail(s, "node %u unloads unit %u of layer %u, which %s still uses",
                 node, unit, layer, s->members[i].name);
    }
}

static void check_memory(sim *s, uint32_t node) {
    const sim_node *n = &s->nodes[node];
    unit_set all = unit_set_or(&n->resident, &n->busy);
    uint64_t bytes = sim_store_bytes(s, &all);
    if (bytes <= n->memory) return;
    sim_fail(s, "node %u holds %llu of %llu bytes", node,
             (unsigned long long)bytes, (unsigned long long)n->memory);
}

/* ---- loads ---- */

static void load(sim *s, uint32_t node, const keeper_action *a) {
    sim_node *n = &s->nodes[node];
    bool cached = !n->has_file && unit_set_has(&n->cached, a->layer, a->unit);
    unit_set_add(&n->busy, a->layer, a->unit);
    sim_add(s, COUNT_LOADS, 1);
    if (cached) sim_add(s, COUNT_CACHED, 1);
    check_memory(s, node);
    uint64_t us = cached || n->has_file ? 1000 + sim_below(s, 8000)
                                        : 4000 + sim_below(s, 40000);
    sim_after(s, us, EVENT_LOADED, (int)sim_node_member(node),
              pack_unit(a->layer, a->unit, cached));
}

/* Is there anybody to load it from? */
static bool has_source(const sim *s, uint32_t node, uint32_t layer,
                       uint32_t unit) {
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        if (m->alive && !m->frozen && !s->paths[i][node].cut) return true;
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_member *m = &s->members[sim_node_member(i)];
        if (i == node || !m->alive || m->frozen) continue;
        if (unit_set_has(&s->nodes[i].resident, layer, unit)) return true;
    }
    return false;
}

/* Is what was read damaged?  Then it is not used, nor kept. */
static bool is_damaged(sim *s, sim_node *n, uint32_t layer, uint32_t unit,
                       bool cached) {
    bool damaged = cached ? unit_set_has(&n->spoiled, layer, unit)
                          : sim_chance(s, n->flips_percent);
    if (!damaged) return false;
    sim_add(s, COUNT_DAMAGED, 1);
    if (s->options.plant == PLANT_CHECKSUM) {
        unit_set_add(&n->wrong, layer, unit);
        return false;
    }
    unit_set_remove(&n->cached, layer, unit);
    unit_set_remove(&n->spoiled, layer, unit);
    return true;
}

/* From the cache, or else from somewhere else in the same go. */
static int outcome_of_load(sim *s, uint32_t node, uint64_t number) {
    sim_node *n = &s->nodes[node];
    uint32_t layer = layer_of(number), unit = unit_of(number);
    bool cached = number & 1;
    if (sim_chance(s, n->load_fails_percent)) return -EIO;
    if (cached && !is_damaged(s, n, layer, unit, true)) return 0;
    if (!n->has_file && !has_source(s, node, layer, unit)) return ERR_CLOSED;
    if (is_damaged(s, n, layer, unit, false)) return ERR_CHECKSUM;
    if (!n->disk_full) unit_set_add(&n->cached, layer, unit);
    return 0;
}

void sim_store_loaded(sim *s, uint32_t node, uint64_t number) {
    sim_node *n = &s->nodes[node];
    uint32_t layer = layer_of(number), unit = unit_of(number);
    int rc = outcome_of_load(s, node, number);
    sim_trace(s, "node %u: unit %u of layer %u is loaded: %d", node, unit,
              layer, rc);
    sim_note(s, node, number, (uint64_t)rc);
    unit_set_remove(&n->busy, layer, unit);
    if (rc == 0) unit_set_add(&n->resident, layer, unit);
    check_memory(s, node);
    keeper_loaded(n->keeper, sim_mono_ms(s, sim_node_member(node)), layer, unit,
                  rc);
}

/* ---- unloads ---- */

static void unload(sim *s, uint32_t node, const keeper_action *a) {
    sim_node *n = &s->nodes[node];
    unit_set_add(&n->busy, a->layer, a->unit);
    sim_add(s, COUNT_UNLOADS, 1);
    sim_trace(s, "node %u: unloads unit %u of layer %u", node, a->unit,
              a->layer);
    check_used(s, node, a->layer, a->unit);
    check_last(s, node, a->layer, a->unit);
    sim_after(s, 100 + sim_below(s, 3000), EVENT_UNLOADED,
              (int)sim_node_member(node), pack_unit(a->layer, a->unit, false));
}

/* The worker drops between two merges. */
void sim_store_unloaded(sim *s, uint32_t node, uint64_t number) {
    sim_node *n = &s->nodes[node];
    uint32_t member = sim_node_member(node);
    if (n->n_computing > 0 && s->options.plant != PLANT_DROP_IN_MERGE) {
        sim_after(s, 500, EVENT_UNLOADED, (int)member, number);
        return;
    }
    uint32_t layer = layer_of(number), unit = unit_of(number);
    unit_set_remove(&n->busy, layer, unit);
    unit_set_remove(&n->resident, layer, unit);
    unit_set_remove(&n->wrong, layer, unit);
    keeper_unloaded(n->keeper, sim_mono_ms(s, member), layer, unit);
}

/* ---- reports ---- */

/* What the leader counts on: all that the epoch gives to the node is there. */
static void check_ready(sim *s, uint32_t node, uint64_t epoch) {
    const rack_placement *p =
        rack_view_placement(s->members[sim_node_member(node)].view);
    unit_set assigned[SIM_NODES];
    if (p == NULL || rack_placement_epoch(p) != epoch) return;
    sim_rack_assigned(s, p, assigned);
    unit_set lacks = unit_set_less(&assigned[node], &s->nodes[node].resident);
    if (unit_set_empty(&lacks)) return;
    sim_fail(s, "node %u reports epoch %llu before it holds all of it", node,
             (unsigned long long)epoch_number(epoch));
}

static void report(sim *s, uint32_t node, uint64_t epoch, uint64_t digest,
                   uint32_t units, uint32_t waiting) {
    uint32_t member = sim_node_member(node);
    check_ready(s, node, epoch);
    ready_record r = {.boot = s->members[member].boot,
                      .incarnation = epoch_incarnation(epoch),
                      .epoch = epoch_number(epoch),
                      .digest = digest,
                      .units = units,
                      .waiting = waiting};
    sim_trace(s, "node %u: reports %llu", node, (unsigned long long)r.epoch);
    sim_member_want(s, member, SLOT_READY, ready_record_pack(&r));
}

/* PLANT_EARLY_READY */
static void report_at_once(sim *s, uint32_t node, const rack_placement *p) {
    const char *name = s->members[sim_node_member(node)].name;
    int32_t at = rack_placement_node(p, name);
    report(s, node, rack_placement_epoch(p),
           at >= 0 ? rack_placement_digest(p, at) : 0, 0, 0);
}

/* ---- coordinators ---- */

static void set_stale(sim *s, uint32_t node, uint64_t boot, bool stale) {
    if (stale) sim_add(s, COUNT_STALE, 1);
    for (uint32_t i = 0; i < s->n_coords; i++) {
        sim_peer *p = &s->nodes[node].peers[i];
        if (p->boot == boot) p->stale = stale;
    }
}

bool sim_store_is_stale(const sim *s, uint32_t node, uint64_t boot) {
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_peer *p = &s->nodes[node].peers[i];
        if (p->boot == boot) return p->stale;
    }
    return false;
}

bool sim_store_hears(sim *s, uint32_t node, const sim_message *m) {
    sim_node *n = &s->nodes[node];
    sim_peer *peer = &n->peers[m->from];
    uint64_t now_ms = sim_mono_ms(s, sim_node_member(node));
    uint64_t epoch = m->epoch;
    if (s->options.plant == PLANT_NO_WAIT) epoch = UINT64_MAX;

    if (m->kind == MESSAGE_HELLO) {
        if (keeper_hello(n->keeper, now_ms, m->boot) < 0) return false;
        if (peer->boot != m->boot) *peer = (sim_peer){.boot = m->boot};
    } else if (keeper_ping(n->keeper, now_ms, m->boot, epoch, m->placement) <
               0) {
        return false; /* stale: not in touch */
    }
    if (peer->boot == m->boot) peer->heard_us = s->clock.now_us;
    return true;
}

/* ---- what the keeper asks for ---- */

static void carry_out(sim *s, uint32_t node, const keeper_action *a) {
    sim_node *n = &s->nodes[node];
    switch (a->kind) {
    case KEEPER_CUT:
        keeper_cut(n->keeper, sim_mono_ms(s, sim_node_member(node)), 0,
                   s->unit_bytes);
        break;
    case KEEPER_LOAD:
        load(s, node, a);
        break;
    case KEEPER_UNLOAD:
        unload(s, node, a);
        break;
    case KEEPER_REPORT:
        if (s->options.plant == PLANT_EARLY_READY) break;
        report(s, node, a->epoch, a->digest, a->units, a->waiting);
        break;
    case KEEPER_STALE:
    case KEEPER_UNSTALE:
        set_stale(s, node, a->peer, a->kind == KEEPER_STALE);
        break;
    case KEEPER_WAIT:
        break;
    }
}

static void take_placement(sim *s, uint32_t node) {
    uint32_t member = sim_node_member(node);
    const sim_member *m = &s->members[member];
    sim_node *n = &s->nodes[node];
    const rack_placement *p = m->listed ? rack_view_placement(m->view) : NULL;
    keeper_figures before;
    keeper_look(n->keeper, &before);
    if (keeper_placement(n->keeper, sim_mono_ms(s, member), p) < 0) abort();
    if (p == NULL || rack_placement_epoch(p) <= before.epoch) return;
    if (s->options.plant == PLANT_EARLY_READY) report_at_once(s, node, p);
}

uint64_t sim_store_act(sim *s, uint32_t node) {
    uint32_t member = sim_node_member(node);
    keeper_action a;
    uint64_t now_ms = sim_mono_ms(s, member);
    take_placement(s, node);
    const sim_member *m = &s->members[member];
    keeper_can_learn(s->nodes[node].keeper, now_ms,
                     m->live_ms != 0 && !rack_view_rolled_back(m->view));
    keeper_others(s->nodes[node].keeper, m->view);
    do {
        keeper_next(s->nodes[node].keeper, now_ms, &a);
        carry_out(s, node, &a);
    } while (a.kind != KEEPER_WAIT);
    if (a.wake_ms == UINT64_MAX) return UINT64_MAX;
    return a.wake_ms > now_ms ? (a.wake_ms - now_ms) * 1000 : 1000;
}
