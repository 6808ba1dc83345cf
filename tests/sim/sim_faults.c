/* sim_faults.c - see sim_faults.h. */
#include "tests/sim/sim_faults.h"

#include <stdio.h>
#include "engine/err.h"
#include "tests/sim/sim.h"

#define LAG_US 4000000   /* until a coordinator has caught up */
#define COSTS_US 1500000 /* until a node is used again */

/* Whom a fault hits, and what it may cost. */
enum {
    OF_NODE = 1,    /* one that serves */
    COSTS_NODE = 2, /* its copies, for a while */
    OF_COORD = 4,
    COSTS_COORD = 8,
    OF_ETCD = 16, /* of its own, or of the way to it */
    WILD = 32,    /* more than a rack can survive without a loss */
    STALE = 64    /* a coordinator may fall so far behind that it is refused */
};

typedef struct {
    const char *name;
    uint32_t flags;
    uint32_t least_ms, most_ms;
} fault_row;

static const fault_row rows[FAULT_KINDS] = {
    [FAULT_KILL] = {"kill", OF_NODE | COSTS_NODE, 20, 6000},
    [FAULT_FREEZE] = {"freeze", OF_NODE | COSTS_NODE, 20, 8000},
    [FAULT_SLEEP] = {"sleep", OF_NODE | COSTS_NODE, 20, 8000},
    [FAULT_SLOW] = {"slow", OF_NODE | COSTS_NODE, 100, 3000},
    [FAULT_STUCK] = {"stuck", OF_NODE | COSTS_NODE, 50, 4000},
    [FAULT_REFUSE] = {"refuse", OF_NODE | COSTS_NODE, 50, 2000},
    [FAULT_FULL] = {"overload", OF_NODE | COSTS_NODE, 50, 2000},
    [FAULT_CUT] = {"cut", OF_NODE | OF_COORD | COSTS_NODE, 20, 4000},
    [FAULT_LOSE] = {"lose", OF_NODE | OF_COORD | COSTS_NODE, 100, 3000},
    [FAULT_DELAY] = {"delay", OF_NODE | OF_COORD | COSTS_NODE, 100, 3000},
    [FAULT_LEAVE] = {"leave", OF_NODE | COSTS_NODE, 1, 2},
    [FAULT_SHRINK] = {"shrink", OF_NODE | COSTS_NODE, 100, 600},
    [FAULT_COORD_KILL] = {"kill coordinator", OF_COORD | COSTS_COORD | STALE,
                          20, 4000},
    [FAULT_COORD_FREEZE] = {"freeze coordinator",
                            OF_COORD | COSTS_COORD | STALE, 20, 9000},
    [FAULT_COORD_SLEEP] = {"sleep of a coordinator",
                           OF_COORD | COSTS_COORD | STALE, 20, 9000},
    [FAULT_COORD_LAG] = {"lag", OF_COORD | COSTS_COORD | STALE, 100, 9000},
    [FAULT_COORD_DRAIN] = {"drain coordinator", OF_COORD | COSTS_COORD, 100,
                           5000},
    [FAULT_ETCD_DEAD] = {"etcd dead", OF_ETCD, 50, 7000},
    [FAULT_ETCD_HUNG] = {"etcd without quorum", OF_ETCD, 50, 7000},
    [FAULT_ETCD_RESTART] = {"etcd restarts", OF_ETCD, 20, 400},
    [FAULT_ETCD_COMPACT] = {"etcd compacted", OF_ETCD | OF_COORD, 3200, 5000},
    [FAULT_ETCD_RESTORE] = {"etcd restored", OF_ETCD, 50, 500},
    [FAULT_ETCD_WIPE] = {"etcd wiped", OF_ETCD, 50, 500},
    [FAULT_ETCD_FULL] = {"etcd full", OF_ETCD, 200, 6000},
    [FAULT_ETCD_CUT] = {"cut from etcd", OF_ETCD | STALE, 100, 6000},
    [FAULT_WATCH_SLOW] = {"slow watch", STALE, 100, 3000},
    [FAULT_ANSWERS_LOST] = {"answers lost", 0, 500, 4000},
    [FAULT_DISK_FULL] = {"disk full", OF_NODE, 500, 6000},
    [FAULT_DISK_ERRORS] = {"disk errors", OF_NODE, 500, 3000},
    [FAULT_CACHE_FLIP] = {"cache flipped", OF_NODE, 1, 2},
    [FAULT_WIRE_FLIP] = {"wire flips", OF_NODE, 500, 4000},
    [FAULT_JOIN] = {"join", 0, 1, 2},
    [FAULT_DRAIN] = {"drain", OF_NODE, 500, 6000},
    [FAULT_REBALANCE] = {"rebalance", OF_COORD, 1, 2},
    [FAULT_POWER] = {"power", WILD, 200, 2500},
};

const char *sim_fault_name(sim_fault_kind kind) {
    return rows[kind].name;
}

/* ---- may it begin? ---- */

static bool is_active(const sim *s, uint32_t flags) {
    for (uint32_t i = 0; i < SIM_ACTIVE; i++) {
        const sim_fault *f = &s->faults[i];
        if (f->active && (rows[f->kind].flags & flags) != 0) return true;
    }
    return false;
}

static bool is_draining(const sim *s, uint32_t member) {
    char key[40];
    snprintf(key, sizeof(key), "drain/%s", s->members[member].name);
    return sim_etcd_find(&s->etcd, key) != NULL;
}

/* Coordinators that serve: with a placement, and not in trouble. */
static uint32_t serving(const sim *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        if (m->alive && !m->frozen && s->coords[i].assignment != NULL &&
            !s->coords[i].drained && !is_draining(s, i)) {
            n++;
        }
    }
    return n;
}

static uint32_t staying(const sim *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        uint32_t member = sim_node_member(i);
        if (s->members[member].alive && !is_draining(s, member)) n++;
    }
    return n;
}

/* Is there a second node that this coordinator can ask for each unit? */
static bool is_spared(const sim *s, uint32_t coord) {
    const sim_coord *c = &s->coords[coord];
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        for (uint32_t u = 0; u < sim_units(s, l); u++) {
            uint32_t n, good = 0;
            const uint16_t *of = placement_nodes(c->now.where, l, u, &n);
            for (uint32_t i = 0; i < n; i++) {
                const sim_link *link = &c->links[of[i]];
                const sim_member *m = &s->members[sim_node_member(link->node)];
                good += link->up && m->alive && !m->frozen &&
                        link->boot == m->boot &&
                        unit_set_has(&s->nodes[link->node].resident, l, u);
            }
            if (good < 2) return false;
        }
    }
    return true;
}

/* All coordinators go by one placement, which has a copy to spare. */
static bool has_spare(const sim *s) {
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_coord *c = &s->coords[i];
        if (!s->members[i].alive) continue;
        if (s->members[i].frozen || c->next != NULL) return false;
        if (placement_epoch(c->now.where) != s->etcd.newest_epoch) return false;
        if (!is_spared(s, i)) return false;
    }
    return true;
}

/* A coordinator that begins finds nodes by their records alone. */
static bool can_be_found(const sim *s) {
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_member *m = &s->members[sim_node_member(i)];
        char key[40];
        snprintf(key, sizeof(key), "nodes/%s", m->name);
        if (m->alive && sim_etcd_find(&s->etcd, key) == NULL) return false;
    }
    return true;
}

static bool is_rolled_back(const sim *s) {
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        if (m->alive && rack_view_rolled_back(m->view)) return true;
    }
    return false;
}

static bool etcd_is_well(const sim *s) {
    return s->etcd.state == STORE_UP && !s->etcd.full && !is_rolled_back(s) &&
           !is_active(s, OF_ETCD) &&
           sim_etcd_find(&s->etcd, "placement/epoch") != NULL;
}

/* No coordinator knows less than another. */
static bool are_level(const sim *s) {
    uint64_t epoch = 0;
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        if (!m->alive) continue;
        if (m->frozen || s->coords[i].next != NULL) return false;
        if (epoch != 0 && m->epoch != epoch) return false;
        epoch = m->epoch;
    }
    return true;
}

/* In a rack where no request may fail. */
static bool is_survivable(const sim *s, const sim_fault *f) {
    uint32_t flags = rows[f->kind].flags;
    if (flags & WILD) return false;
    if (flags & COSTS_COORD) {
        if (serving(s) < 2 || is_active(s, COSTS_COORD)) return false;
        if (!etcd_is_well(s)) return false;
        if (f->kind == FAULT_COORD_KILL && !can_be_found(s)) return false;
    }
    /* What is recovered is what those say that can be reached. */
    bool replaces = f->kind == FAULT_ETCD_WIPE || f->kind == FAULT_ETCD_RESTORE;
    if (replaces && is_active(s, OF_ETCD | COSTS_NODE)) return false;
    /* Without etcd a coordinator that begins has no placement, and one that
     * was left behind cannot catch up. */
    if (flags & OF_ETCD) {
        if (serving(s) < s->n_coords || is_active(s, COSTS_COORD)) return false;
        if (!are_level(s)) return false;
    }
    if (s->local) return true;
    if (f->kind == FAULT_LEAVE && staying(s) < 4) return false;
    if (flags & COSTS_NODE) {
        return !is_active(s, COSTS_NODE) && has_spare(s) && !is_rolled_back(s);
    }
    return true;
}

static bool is_possible(const sim *s, const sim_fault *f) {
    const sim_member *node = &s->members[sim_node_member(f->node)];
    const sim_member *coord = &s->members[f->coord];
    uint32_t flags = rows[f->kind].flags;
    if ((flags & OF_NODE) && (!node->alive || node->frozen)) return false;
    if ((flags & OF_COORD) && (!coord->alive || coord->frozen)) return false;
    switch (f->kind) {
    case FAULT_JOIN:
        return !node->started;
    case FAULT_LEAVE:
        return staying(s) > 2;
    case FAULT_DRAIN:
        return s->etcd.state == STORE_UP && staying(s) > 3;
    case FAULT_COORD_DRAIN:
        return s->etcd.state == STORE_UP && serving(s) > 1;
    case FAULT_ETCD_DEAD:
    case FAULT_ETCD_HUNG:
    case FAULT_ETCD_RESTART:
    case FAULT_ETCD_COMPACT:
    case FAULT_ETCD_FULL:
        return s->etcd.state == STORE_UP;
    case FAULT_ETCD_RESTORE:
        return s->etcd.state == STORE_UP && s->etcd.has_saved;
    case FAULT_ETCD_WIPE:
        return s->etcd.state == STORE_UP &&
               sim_etcd_find(&s->etcd, "placement/epoch") != NULL;
    case FAULT_ETCD_CUT:
    case FAULT_WATCH_SLOW:
        return s->members[f->member].alive;
    case FAULT_POWER:
        return !is_active(s, WILD);
    default:
        return true;
    }
}

/* ---- begin and end ---- */

static void set_drain(sim *s, uint32_t member, bool drain) {
    char key[40];
    snprintf(key, sizeof(key), "drain/%s", s->members[member].name);
    if (drain) {
        sim_etcd_put(s, key, "{\"by\":\"me\",\"at\":\"2026-01-01T00:00:00Z\"}");
    } else {
        sim_etcd_delete(s, key);
    }
}

/* Those that are cut off come back to a history that is gone. */
static void compact(sim *s, const sim_fault *f) {
    for (uint32_t i = 0; i < s->n_nodes; i += 2)
        sim_etcd_cut(s, sim_node_member(i), true);
    sim_etcd_cut(s, f->coord, true);
}

static void end_compact(sim *s, const sim_fault *f) {
    for (uint32_t i = 0; i < s->n_nodes; i++)
        sim_etcd_cut(s, sim_node_member(i), false);
    sim_etcd_cut(s, f->coord, false);
    if (s->etcd.state == STORE_UP) sim_etcd_compact(s, s->etcd.now.revision);
}

static void power_off(sim *s) {
    for (uint32_t i = 0; i < SIM_MEMBERS; i++)
        sim_kill(s, i);
    sim_etcd_stop(s, STORE_DEAD);
}

static void power_on(sim *s) {
    if (s->etcd.state != STORE_UP) sim_etcd_start(s, true);
    for (uint32_t i = 0; i < SIM_MEMBERS; i++) {
        if (s->members[i].started) sim_revive(s, i);
    }
}

static void begin_at_node(sim *s, const sim_fault *f) {
    uint32_t member = sim_node_member(f->node);
    sim_node *node = &s->nodes[f->node];
    sim_path *path = &s->paths[f->coord][f->node];
    switch (f->kind) {
    case FAULT_KILL:
        sim_kill(s, member);
        break;
    case FAULT_FREEZE:
        sim_freeze(s, member, false);
        break;
    case FAULT_SLEEP:
        sim_freeze(s, member, true);
        break;
    case FAULT_SLOW:
        node->slow = true;
        break;
    case FAULT_STUCK:
        node->stuck = true;
        break;
    case FAULT_REFUSE:
        node->refuse = ERR_INTERNAL;
        break;
    case FAULT_FULL:
        node->refuse = ERR_OVERLOADED;
        break;
    case FAULT_CUT:
        path->cut = true;
        break;
    case FAULT_LOSE:
        path->lose_percent = 20;
        path->double_percent = 30;
        break;
    case FAULT_DELAY:
        path->delay_us = 20000;
        path->jitter_us = 80000;
        break;
    case FAULT_LEAVE:
        s->members[member].gone = true;
        sim_kill(s, member);
        break;
    case FAULT_SHRINK:
        sim_kill(s, member);
        node->memory -= node->memory / 8;
        break;
    case FAULT_DISK_FULL:
        node->disk_full = true;
        break;
    case FAULT_DISK_ERRORS:
        node->load_fails_percent = 40;
        break;
    case FAULT_CACHE_FLIP:
        node->spoiled = node->cached;
        break;
    case FAULT_WIRE_FLIP:
        node->flips_percent = 25;
        break;
    case FAULT_DRAIN:
        set_drain(s, member, true);
        break;
    case FAULT_JOIN:
        sim_revive(s, member);
        break;
    default:
        break;
    }
}

static void begin_elsewhere(sim *s, const sim_fault *f) {
    switch (f->kind) {
    case FAULT_COORD_KILL:
        sim_kill(s, f->coord);
        break;
    case FAULT_COORD_FREEZE:
        sim_freeze(s, f->coord, false);
        break;
    case FAULT_COORD_SLEEP:
        sim_freeze(s, f->coord, true);
        break;
    case FAULT_COORD_LAG:
        s->coords[f->coord].lag_us = 9000000;
        break;
    case FAULT_COORD_DRAIN:
        set_drain(s, f->coord, true);
        break;
    case FAULT_ETCD_DEAD:
    case FAULT_ETCD_RESTART:
        sim_etcd_stop(s, STORE_DEAD);
        break;
    case FAULT_ETCD_HUNG:
        sim_etcd_stop(s, STORE_HUNG);
        break;
    case FAULT_ETCD_COMPACT:
        compact(s, f);
        break;
    case FAULT_ETCD_RESTORE:
    case FAULT_ETCD_WIPE:
        sim_etcd_restore(s, f->kind == FAULT_ETCD_WIPE);
        break;
    case FAULT_ETCD_FULL:
        s->etcd.full = true;
        break;
    case FAULT_ETCD_CUT:
        sim_etcd_cut(s, f->member, true);
        break;
    case FAULT_WATCH_SLOW:
        s->members[f->member].slow_us = 2000000;
        break;
    case FAULT_ANSWERS_LOST:
        s->lose_percent = 8;
        break;
    case FAULT_REBALANCE:
        sim_leader_rebalance(s, f->coord);
        sim_wake(s, f->coord);
        break;
    case FAULT_POWER:
        power_off(s);
        break;
    default:
        break;
    }
}

/* A stream that has lost something does not go on: the connection breaks, and
 * there is a new one. */
static void mend_path(sim *s, const sim_fault *f) {
    s->paths[f->coord][f->node] = (sim_path){.double_percent = 1};
    if (f->kind == FAULT_DELAY || !s->members[f->coord].alive) return;
    sim_after(s, 1000 + sim_below(s, 20000), EVENT_BROKEN, (int)f->coord,
              f->node);
}

/* What ends is made whole, whatever else was wrong with it. */
static void end_at_node(sim *s, const sim_fault *f) {
    uint32_t member = sim_node_member(f->node);
    sim_node *node = &s->nodes[f->node];
    switch (f->kind) {
    case FAULT_KILL:
    case FAULT_SHRINK:
        sim_revive(s, member);
        break;
    case FAULT_FREEZE:
    case FAULT_SLEEP:
        sim_thaw(s, member);
        break;
    case FAULT_SLOW:
        node->slow = false;
        break;
    case FAULT_STUCK:
        sim_node_unstick(s, f->node);
        break;
    case FAULT_REFUSE:
    case FAULT_FULL:
        node->refuse = 0;
        break;
    case FAULT_CUT:
    case FAULT_LOSE:
    case FAULT_DELAY:
        mend_path(s, f);
        break;
    case FAULT_DISK_FULL:
        node->disk_full = false;
        break;
    case FAULT_DISK_ERRORS:
        node->load_fails_percent = 0;
        break;
    case FAULT_WIRE_FLIP:
        node->flips_percent = 0;
        break;
    default:
        break;
    }
}

static void end_elsewhere(sim *s, const sim_fault *f) {
    switch (f->kind) {
    case FAULT_COORD_KILL:
        sim_revive(s, f->coord);
        break;
    case FAULT_COORD_FREEZE:
    case FAULT_COORD_SLEEP:
        sim_thaw(s, f->coord);
        break;
    case FAULT_COORD_LAG:
        s->coords[f->coord].lag_us = 0;
        break;
    case FAULT_ETCD_DEAD:
    case FAULT_ETCD_RESTART:
        if (s->etcd.state != STORE_UP) sim_etcd_start(s, true);
        break;
    case FAULT_ETCD_HUNG:
        if (s->etcd.state != STORE_UP) sim_etcd_start(s, sim_chance(s, 50));
        break;
    case FAULT_ETCD_COMPACT:
        end_compact(s, f);
        break;
    case FAULT_ETCD_FULL:
        s->etcd.full = false;
        break;
    case FAULT_ETCD_CUT:
        sim_etcd_cut(s, f->member, false);
        break;
    case FAULT_WATCH_SLOW:
        s->members[f->member].slow_us = 0;
        break;
    case FAULT_ANSWERS_LOST:
        s->lose_percent = 0;
        break;
    case FAULT_POWER:
        power_on(s);
        break;
    default:
        break;
    }
}

/* A drain is undone when etcd takes that; one of a node, only now and then. */
static bool end_drain(sim *s, const sim_fault *f) {
    bool node = f->kind == FAULT_DRAIN;
    uint32_t member = node ? sim_node_member(f->node) : f->coord;
    if (node && (s->options.seed + f->node) % 2 == 0) return true;
    if (s->etcd.state != STORE_UP) return false;
    set_drain(s, member, false);
    return true;
}

/* ---- all ---- */

static int32_t free_slot(const sim *s) {
    for (int32_t i = 0; i < SIM_ACTIVE; i++) {
        if (!s->faults[i].active) return i;
    }
    return -1;
}

static void begin(sim *s, const sim_fault *drawn, uint64_t length_us) {
    int32_t slot = free_slot(s);
    if (slot < 0) return;
    sim_fault *f = &s->faults[slot];
    *f = *drawn;
    f->active = true;
    f->ends_us = s->clock.now_us + length_us;
    s->n_faults++;
    sim_add(s, COUNT_FAULTS, 1);
    s->result->faults[f->kind]++;
    if ((rows[f->kind].flags & STALE) != 0 &&
        f->ends_us + LAG_US > s->lag_until_us) {
        s->lag_until_us = f->ends_us + LAG_US;
    }
    if ((rows[f->kind].flags & COSTS_NODE) != 0 &&
        f->ends_us + COSTS_US > s->costs_until_us) {
        s->costs_until_us = f->ends_us + COSTS_US;
    }
    sim_trace(s, "FAULT %s: node %u, coordinator %u, process %s, %llu ms",
              rows[f->kind].name, f->node, f->coord, s->members[f->member].name,
              (unsigned long long)(length_us / 1000));
    sim_note(s, f->kind, f->node, f->coord);
    begin_at_node(s, f);
    begin_elsewhere(s, f);
    sim_after(s, length_us, EVENT_FAULT_END, -1, (uint64_t)slot);
}

void sim_fault_end(sim *s, uint32_t fault) {
    sim_fault *f = &s->faults[fault];
    bool drain = f->kind == FAULT_DRAIN || f->kind == FAULT_COORD_DRAIN;
    if (drain && !end_drain(s, f)) {
        sim_after(s, 300000, EVENT_FAULT_END, -1, fault);
        return;
    }
    sim_trace(s, "fault %s ends", rows[f->kind].name);
    end_at_node(s, f);
    end_elsewhere(s, f);
    f->active = false;
}

static uint64_t draw(sim *s, sim_fault *f) {
    *f = (sim_fault){
        .kind = (sim_fault_kind)sim_below(s, FAULT_KINDS),
        .node = (uint32_t)sim_below(s, s->n_nodes),
        .coord = (uint32_t)sim_below(s, s->n_coords),
    };
    f->member = sim_chance(s, 50) ? f->coord : sim_node_member(f->node);
    const fault_row *r = &rows[f->kind];
    uint64_t ms = r->least_ms + sim_below(s, r->most_ms - r->least_ms + 1);
    if (sim_chance(s, 50)) ms = r->least_ms + (ms - r->least_ms) / 8;
    /* A coordinator that is up but hears nothing new for too long is refused
     * by the nodes, as it must be. */
    bool strict_lag = s->strict && (r->flags & STALE) != 0 && !s->local;
    if (strict_lag && ms > 2500) ms = 2500;
    return ms * 1000;
}

void sim_fault_next(sim *s) {
    if (s->n_faults >= s->faults_wanted) {
        bool any = false;
        for (uint32_t i = 0; i < SIM_ACTIVE; i++)
            any |= s->faults[i].active;
        if (any) {
            sim_after(s, 100000, EVENT_FAULT, -1, 0);
        } else {
            sim_faults_over(s);
        }
        return;
    }
    if (sim_chance(s, 25)) sim_etcd_save(s);
    for (uint32_t tries = 0; tries < 8; tries++) {
        sim_fault f;
        uint64_t length_us = draw(s, &f);
        if (!is_possible(s, &f)) continue;
        if (s->strict && !is_survivable(s, &f)) continue;
        begin(s, &f, length_us);
        break;
    }
    uint64_t gap_us = 20000 + sim_below(s, s->strict ? 700000 : 900000);
    sim_after(s, gap_us, EVENT_FAULT, -1, 0);
}

uint64_t sim_fault_before_write(sim *s, uint32_t coord) {
    sim_fault f = {.kind = FAULT_COORD_FREEZE, .coord = coord, .member = coord};
    if (s->n_faults == 0 || s->faults_over || !sim_chance(s, 6)) return 0;
    if (s->strict && !is_survivable(s, &f)) return 0;
    uint64_t us = 1000000 + sim_below(s, s->strict ? 1500000 : 8000000);
    begin(s, &f, us);
    return us;
}
