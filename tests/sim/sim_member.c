/* sim_member.c - a process's side of etcd: what registry.c and libetcd's watch
 * do with sockets, around the real session and view. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define REWATCH_MS 300
#define RELIST_MS 300

/* ---- clocks ---- */

uint64_t sim_mono_us(const sim *s, uint32_t member) {
    return s->clock.now_us - s->members[member].asleep_us;
}

uint64_t sim_mono_ms(const sim *s, uint32_t member) {
    return sim_mono_us(s, member) / 1000;
}

uint64_t sim_boot_ms(const sim *s, uint32_t member) {
    if (s->options.plant == PLANT_SLEEPING_CLOCK) return sim_mono_ms(s, member);
    return s->clock.now_us / 1000;
}

/* ---- requests ---- */

void sim_member_send(sim *s, uint32_t member, sim_request *r) {
    r->member = member;
    r->life = s->members[member].life;
    sim_after(s, 100 + sim_below(s, 3000), EVENT_REQUEST, -1, 0)->data = r;
    sim_after(s, SIM_TIMEOUT_MS * 1000, EVENT_TIMEOUT, (int)member, 0)->data =
        r;
}

static bool is_write(const sim_request *r) {
    return r->kind == REQUEST_STEP || r->kind == REQUEST_WRITE;
}

/* Without an answer a write may be stuck on its way, and be carried out later;
 * when nobody is there it is certainly not. */
void sim_member_request(sim *s, sim_request *r) {
    const sim_member *m = &s->members[r->member];
    bool hung = s->etcd.state == STORE_HUNG || m->cut;
    if (s->etcd.state == STORE_DEAD) {
        if (r->stuck) return;
        r->outcome = SESSION_NOT;
    } else if (hung || r->decided) {
        bool carried_out = is_write(r) && (r->decided || sim_chance(s, 30));
        r->stuck = true;
        r->decided = true;
        if (!carried_out) return;
        if (s->etcd.state == STORE_HUNG) {
            sim_after(s, 200000, EVENT_REQUEST, -1, 0)->data = r;
            return;
        }
        sim_etcd_do(s, r);
    } else {
        if (sim_chance(s, s->lose_percent)) r->stuck = true;
        sim_etcd_do(s, r);
    }
    if (r->stuck || !m->alive || r->life != m->life) return;
    sim_after(s, 100 + sim_below(s, 3000), EVENT_ANSWER, (int)r->member, 0)
        ->data = r;
}

void sim_member_timeout(sim *s, uint32_t member, sim_request *r) {
    if (r->answered) return;
    r->outcome = is_write(r) ? SESSION_MAYBE : SESSION_NOT;
    r->found = NULL;
    r->n_found = 0;
    sim_member_answer(s, member, r);
}

static sim_request *request_new(sim_request_kind kind) {
    sim_request *r = sim_memory(sizeof(*r));
    r->kind = kind;
    return r;
}

static void own_key(uint32_t member, const char *name, session_slot slot,
                    char *out, size_t size) {
    const char *folder = member < SIM_COORDS ? "coordinators" : "nodes";
    if (slot == SLOT_LEADER) snprintf(out, size, "leader");
    if (slot == SLOT_READY) snprintf(out, size, "ready/%s", name);
    if (slot == SLOT_RECORD) snprintf(out, size, "%s/%s", folder, name);
}

/* ---- the session ---- */

void sim_member_want(sim *s, uint32_t member, session_slot slot, char *text) {
    sim_member *m = &s->members[member];
    if (text == NULL) abort();
    free(m->texts[slot]);
    m->texts[slot] = text;
    if (slot != SLOT_LEADER) session_want(m->session, slot);
}

static void carry_out(sim *s, uint32_t member, const session_action *a) {
    static const sim_request_kind kinds[] = {[SESSION_GRANT] = REQUEST_GRANT,
                                             [SESSION_KEEP] = REQUEST_KEEP,
                                             [SESSION_READ] = REQUEST_READ,
                                             [SESSION_WRITE] = REQUEST_WRITE,
                                             [SESSION_RELEASE] = REQUEST_WRITE};
    sim_member *m = &s->members[member];
    if (a->kind == SESSION_REVOKE) return; /* nobody ends in good order */
    sim_request *r = request_new(kinds[a->kind]);
    r->slot = a->slot;
    r->lease = a->lease;
    r->expected = a->mod_revision;
    r->releases = a->kind == SESSION_RELEASE;
    r->puts = sim_memory(sizeof(*r->puts));
    r->n_puts = 1;
    own_key(member, m->name, a->slot, r->puts->key, sizeof(r->puts->key));
    if (a->kind == SESSION_WRITE) {
        r->puts->bytes = strlen(m->texts[a->slot]);
        r->puts->value = sim_copy(m->texts[a->slot], r->puts->bytes);
        r->puts->lease = a->lease;
    }
    sim_member_send(s, member, r);
}

uint64_t sim_member_act(sim *s, uint32_t member) {
    session_action a;
    for (;;) {
        uint64_t now_ms = sim_boot_ms(s, member);
        session_next(s->members[member].session, now_ms, &a);
        if (a.kind == SESSION_WAIT && a.wake_ms == UINT64_MAX) {
            return UINT64_MAX;
        }
        if (a.kind == SESSION_WAIT) {
            return a.wake_ms > now_ms ? (a.wake_ms - now_ms) * 1000 : 1000;
        }
        carry_out(s, member, &a);
    }
}

/* ---- what stands under its own keys ---- */

static session_found read_own(uint32_t member, session_slot slot,
                              const sim_kv *kv, int64_t revision) {
    session_found found = {.mod_revision = revision};
    node_record node;
    coordinator_record coordinator;
    ready_record ready;
    leader_record leads;
    if (kv == NULL || kv->value == NULL) return found;

    found.create_revision = kv->create_revision;
    found.mod_revision = kv->mod_revision;
    found.lease = kv->lease;
    if (slot == SLOT_LEADER) {
        leader_record_unpack(&leads, kv->value, kv->bytes, NULL, 0);
        found.boot = leads.boot;
    } else if (slot == SLOT_READY) {
        ready_record_unpack(&ready, kv->value, kv->bytes, NULL, 0);
        found.boot = ready.boot;
    } else if (member < SIM_COORDS) {
        coordinator_record_unpack(&coordinator, kv->value, kv->bytes, NULL, 0);
        found.boot = coordinator.boot;
        found.same_place = true; /* names are this process's, and its port */
    } else {
        node_record_unpack(&node, kv->value, kv->bytes, NULL, 0);
        found.boot = node.boot;
        found.same_place = true;
    }
    return found;
}

static void show_slot(sim *s, uint32_t member, session_slot slot,
                      const sim_kv *kv, int64_t revision) {
    session_found found = read_own(member, slot, kv, revision);
    session_seen(s->members[member].session, slot, &found);
}

static int own_slot(const sim *s, uint32_t member, const char *key) {
    for (int i = 0; i < SESSION_SLOTS; i++) {
        char own[64];
        own_key(member, s->members[member].name, (session_slot)i, own,
                sizeof(own));
        if (strcmp(own, key) == 0) return i;
    }
    return -1;
}

/* ---- the view ---- */

static void feed(sim *s, uint32_t member, const sim_kv *kv) {
    sim_member *m = &s->members[member];
    char why[256] = "";
    if (kv->value == NULL) {
        rack_view_delete(m->view, kv->key, strlen(kv->key));
        return;
    }
    int rc =
        rack_view_put(m->view, kv->key, strlen(kv->key), kv->value, kv->bytes,
                      kv->create_revision, kv->mod_revision, why, sizeof(why));
    if (rc < 0) sim_fail(s, "%s cannot be read: %s", kv->key, why);
}

/* A placement that is taken up is never older than one that was. */
static void settle(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    char why[256] = "";
    if (rack_view_settle(m->view, why, sizeof(why)) < 0) {
        sim_fail(s, "a placement makes no sense: %s", why);
    }
    const rack_placement *p = rack_view_placement(m->view);
    if (p == NULL) return;
    if (rack_placement_epoch(p) < m->epoch) {
        sim_fail(s, "%s: the placement goes back to %llx", m->name,
                 (unsigned long long)rack_placement_epoch(p));
    }
    m->epoch = rack_placement_epoch(p);
}

void sim_member_list(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    if (m->listing) return;
    m->listing = true;
    m->live_ms = 0;
    m->watching = false;
    m->watch++;
    sim_member_send(s, member, request_new(REQUEST_LIST));
}

/* Own keys that a listing lacks are sighted too: as absent. */
static void show_own(sim *s, uint32_t member, const sim_request *r) {
    const sim_kv *own[SESSION_SLOTS] = {NULL};
    for (uint32_t i = 0; i < r->n_found; i++) {
        int slot = own_slot(s, member, r->found[i].key);
        if (slot >= 0) own[slot] = &r->found[i];
    }
    for (int i = 0; i < SESSION_SLOTS; i++)
        show_slot(s, member, (session_slot)i, own[i], r->revision);
}

static void take_list(sim *s, uint32_t member, const sim_request *r) {
    sim_member *m = &s->members[member];
    m->listing = false;
    if (r->outcome != SESSION_DONE) {
        sim_after(s, RELIST_MS * 1000, EVENT_RELIST, (int)member, 0);
        return;
    }
    if (s->options.plant == PLANT_OLD_EPOCH && m->listed) {
        rack_view_free(m->view);
        if (rack_view_new(&m->view) < 0) abort();
    }
    rack_view_clear(m->view);
    for (uint32_t i = 0; i < r->n_found; i++)
        feed(s, member, &r->found[i]);
    settle(s, member);
    m->seen = r->revision;
    m->cluster = r->cluster;
    m->listed = true;
    if (m->listing_anew && s->options.plant != PLANT_FORGET_NOTHING) {
        session_forget(m->session);
    }
    m->listing_anew = false;
    show_own(s, member, r);
    sim_member_rewatch(s, member);
}

/* ---- watching ---- */

void sim_member_rewatch(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    if (m->watching || m->rewatching || m->listing || !m->listed) return;
    m->rewatching = true;
    sim_request *r = request_new(REQUEST_WATCH);
    r->expected = m->seen;
    r->cluster = m->cluster;
    sim_member_send(s, member, r);
}

static void take_watch(sim *s, uint32_t member, const sim_request *r) {
    sim_member *m = &s->members[member];
    m->rewatching = false;
    if (r->outcome != SESSION_DONE) {
        sim_after(s, REWATCH_MS * 1000, EVENT_REWATCH, (int)member, 0);
    } else if (r->lost) {
        sim_add(s, COUNT_RELISTED, 1);
        sim_trace(s, "%s lists everything anew", m->name);
        m->listing_anew = true;
        sim_member_list(s, member);
    } else if (m->watching) {
        m->live_ms = sim_mono_ms(s, member);
        session_reachable(m->session);
    } else { /* cut again meanwhile */
        sim_after(s, REWATCH_MS * 1000, EVENT_REWATCH, (int)member, 0);
    }
}

void sim_member_cut_off(sim *s, uint32_t member, const sim_event *e) {
    sim_member *m = &s->members[member];
    if (e->from != m->watch || m->watching) return;
    m->live_ms = 0;
    sim_member_rewatch(s, member);
}

/* The first change after a revision: history is ascending. */
static uint32_t after_revision(const sim_etcd *e, int64_t revision) {
    uint32_t low = 0, high = e->now.n_history;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (e->history[middle].mod_revision <= revision) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

void sim_member_watched(sim *s, uint32_t member, const sim_event *e) {
    sim_member *m = &s->members[member];
    if (e->from != m->watch || m->cluster != s->etcd.cluster) return;
    uint32_t n = s->etcd.now.n_history;
    for (uint32_t i = after_revision(&s->etcd, m->seen); i < n; i++) {
        const sim_kv *kv = &s->etcd.history[i];
        if (kv->mod_revision > (int64_t)e->number) break;
        feed(s, member, kv);
        int slot = own_slot(s, member, kv->key);
        if (slot >= 0) {
            show_slot(s, member, (session_slot)slot, kv, kv->mod_revision);
        }
        bool whole = i + 1 == n ||
                     s->etcd.history[i + 1].mod_revision != kv->mod_revision;
        if (!whole) continue;
        settle(s, member);
        m->seen = kv->mod_revision;
    }
}

/* ---- answers ---- */

void sim_member_answer(sim *s, uint32_t member, sim_request *r) {
    sim_member *m = &s->members[member];
    session_found found = {.mod_revision = r->revision};
    if (r->answered || r->life != m->life) return;
    r->answered = true;

    uint64_t now_ms = sim_boot_ms(s, member);
    switch (r->kind) {
    case REQUEST_GRANT:
        session_granted(m->session, now_ms, r->outcome, r->granted, s->ttl_ms);
        break;
    case REQUEST_KEEP:
        session_kept(m->session, now_ms, r->outcome);
        break;
    case REQUEST_READ:
        found = read_own(member, r->slot, r->found, r->revision);
        session_read(m->session, now_ms, r->slot, r->outcome, &found);
        break;
    case REQUEST_WRITE:
        if (r->releases) {
            session_released(m->session, now_ms, r->slot, r->outcome,
                             r->revision);
        } else {
            session_wrote(m->session, now_ms, r->slot, r->outcome, r->revision);
        }
        break;
    case REQUEST_LIST:
        take_list(s, member, r);
        break;
    case REQUEST_WATCH:
        take_watch(s, member, r);
        break;
    case REQUEST_STEP:
        sim_leader_wrote(s, member, r);
        break;
    case REQUEST_COMPACT:
        break;
    }
}

/* ---- its life ---- */

void sim_member_start(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    m->alive = m->started = true;
    m->boot = ++s->boots;
    m->epoch = 0;
    const session_config c = {.ttl_ms = s->ttl_ms,
                              .retry_ms = 200,
                              .boot = m->boot,
                              .campaign = member < SIM_COORDS};
    if (session_new(&m->session, &c) < 0 || rack_view_new(&m->view) < 0) {
        abort();
    }
    sim_member_list(s, member);
}

void sim_member_stop(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    session_free(m->session);
    rack_view_free(m->view);
    for (int i = 0; i < SESSION_SLOTS; i++) {
        free(m->texts[i]);
        m->texts[i] = NULL;
    }
    m->session = NULL;
    m->view = NULL;
    m->alive = m->frozen = m->asleep = m->listed = m->listing = false;
    m->listing_anew = m->watching = m->rewatching = false;
    m->live_ms = 0;
    m->died_us = s->clock.now_us;
    m->life++;
    m->watch++;
}
