/* place_faults.c - what goes wrong, and when.
 *
 * In half of the seeds no process dies while others count on it: then not one
 * copy may be missed at any time.  In the others everything happens. */
#include "tests/sim/place_sim.h"

#include <stdio.h>

#define FIRST_MS 4000 /* begin of the first fault, at the earliest */
#define SPAN_MS 50000

static uint64_t length_of(place_sim *s, place_fault_kind kind) {
    switch (kind) {
    case PLACE_FREEZE:
    case PLACE_LAG:
        return 500 + place_below(s, 14000);
    case PLACE_KILL:
        return 100 + place_below(s, 25000);
    case PLACE_OUTAGE:
        return 200 + place_below(s, 12000);
    default:
        return 1000 + place_below(s, 20000);
    }
}

static bool is_of_node(place_fault_kind kind) {
    return kind == PLACE_LEAVE || kind == PLACE_DRAIN || kind == PLACE_JOIN;
}

void place_faults_choose(place_sim *s) {
    s->kills = s->options.seed % 2 == 0;
    s->lose_percent = place_chance(s, 40) ? 4 : 0;
    s->n_faults = 3 + (uint32_t)place_below(s, PLACE_FAULTS - 2);
    for (uint32_t i = 0; i < s->n_faults; i++) {
        place_fault *f = &s->faults[i];
        do {
            f->kind = (place_fault_kind)place_below(s, PLACE_FAULT_KINDS);
        } while (!s->kills &&
                 (f->kind == PLACE_KILL || f->kind == PLACE_LEAVE));
        bool node = is_of_node(f->kind) || place_chance(s, 50);
        if (f->kind == PLACE_LAG) node = false;
        f->member =
            node ? place_node_member((uint32_t)place_below(s, s->n_nodes))
                 : (uint32_t)place_below(s, s->n_coords);
        f->begin_ms = FIRST_MS + place_below(s, SPAN_MS);
        f->length_ms = length_of(s, f->kind);
        uint64_t end_ms = f->begin_ms + f->length_ms;
        if (end_ms > s->faults_end_ms) s->faults_end_ms = end_ms;
        place_after(s, f->begin_ms, PLACE_FAULT_BEGIN, -1, i);
        place_after(s, end_ms, PLACE_FAULT_END, -1, i);
    }
}

/* ---- etcd ---- */

static void begin_outage(place_sim *s) {
    if (s->etcd.away) return;
    s->etcd.away = true;
    s->result->outages++;
    for (uint32_t i = 0; i < PLACE_MEMBERS; i++) {
        if (!s->members[i].alive) continue;
        s->members[i].watching = false;
        place_after(s, 3000, PLACE_CUT_OFF, (int)i, 0);
    }
}

/* A new leader of etcd's own gives every lease its full time again; one that
 * was only cut off does not. */
static void end_outage(place_sim *s) {
    place_etcd *e = &s->etcd;
    if (!e->away) return;
    e->away = false;
    bool renewed = place_chance(s, 50);
    for (uint32_t i = 0; renewed && i < e->n_leases; i++)
        e->leases[i].ends_ms = s->now_ms + PLACE_TTL_MS;
    place_after(s, 1, PLACE_EXPIRE, -1, 0);
    place_after(s, PLACE_TTL_MS, PLACE_EXPIRE, -1, 0);
    for (uint32_t i = 0; i < PLACE_MEMBERS; i++) {
        if (!s->members[i].alive) continue;
        place_after(s, 100 + place_below(s, 900), PLACE_RELIST, (int)i, 0);
    }
}

static void set_drain(place_sim *s, uint32_t member, bool drain) {
    char key[64];
    snprintf(key, sizeof(key), "drain/%s", s->members[member].name);
    if (s->etcd.away) return;
    if (drain) {
        place_etcd_put(s, key,
                       "{\"by\":\"me\",\"at\":\"2026-01-01T00:00:00Z\"}");
    } else {
        place_etcd_delete(s, key);
    }
}

/* ---- all ---- */

void place_fault_begin(place_sim *s, uint32_t fault) {
    static const char *const names[PLACE_FAULT_KINDS] = {
        "freeze", "kill", "leave", "outage", "slow", "lag", "drain", "join"};
    const place_fault *f = &s->faults[fault];
    place_member *m = &s->members[f->member];
    place_trace(s, "FAULT %s: %s, %llu ms", names[f->kind], m->name,
                (unsigned long long)f->length_ms);
    if (f->kind == PLACE_KILL || f->kind == PLACE_LEAVE) s->result->kills++;
    switch (f->kind) {
    case PLACE_FREEZE:
        place_freeze(s, f->member);
        break;
    case PLACE_LEAVE:
        m->gone = true;
        place_kill(s, f->member);
        break;
    case PLACE_KILL:
        place_kill(s, f->member);
        break;
    case PLACE_OUTAGE:
        begin_outage(s);
        break;
    case PLACE_SLOW:
        m->slow_ms = 200 + place_below(s, 3000);
        break;
    case PLACE_LAG:
        s->coords[f->member].lag_ms = 15000;
        break;
    case PLACE_DRAIN:
        set_drain(s, f->member, true);
        break;
    case PLACE_JOIN:
        place_revive(s, f->member);
        break;
    case PLACE_FAULT_KINDS:
        break;
    }
}

void place_fault_end(place_sim *s, uint32_t fault) {
    if (fault >= PLACE_FAULTS) { /* stopped before a write */
        place_thaw(s, fault - PLACE_FAULTS);
        return;
    }
    const place_fault *f = &s->faults[fault];
    switch (f->kind) {
    case PLACE_FREEZE:
        place_thaw(s, f->member);
        break;
    case PLACE_KILL:
        place_revive(s, f->member);
        break;
    case PLACE_OUTAGE:
        end_outage(s);
        break;
    case PLACE_SLOW:
        s->members[f->member].slow_ms = 0;
        break;
    case PLACE_LAG:
        s->coords[f->member].lag_ms = 0;
        break;
    case PLACE_DRAIN:
        if (place_chance(s, 50)) set_drain(s, f->member, false);
        break;
    case PLACE_LEAVE:
    case PLACE_JOIN:
    case PLACE_FAULT_KINDS:
        break;
    }
}
