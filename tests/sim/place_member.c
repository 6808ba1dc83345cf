/* place_member.c - a process's side of etcd: what registry.c does with sockets,
 * around the real session and view. */
#include "tests/sim/place_sim.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- requests ---- */

void place_member_send(place_sim *s, uint32_t member, place_request *r) {
    place_member *m = &s->members[member];
    r->member = member;
    r->life = m->life;
    place_after(s, place_below(s, 4), PLACE_REQUEST, -1, 0)->request = r;
    place_after(s, PLACE_TIMEOUT_MS, PLACE_TIMEOUT, (int)member, 0)->request =
        r;
}

static place_request *request_new(place_sim *s, place_request_kind kind) {
    place_request *r = place_memory(s, sizeof(*r));
    r->kind = kind;
    return r;
}

static void own_key(uint32_t member, const char *name, session_slot slot,
                    char *out, size_t size) {
    const char *folder = member < PLACE_COORDS ? "coordinators" : "nodes";
    if (slot == SLOT_LEADER) snprintf(out, size, "leader");
    if (slot == SLOT_READY) snprintf(out, size, "ready/%s", name);
    if (slot == SLOT_RECORD) snprintf(out, size, "%s/%s", folder, name);
}

void place_member_list(place_sim *s, uint32_t member) {
    place_member *m = &s->members[member];
    if (m->listing) return;
    m->listing = true;
    place_member_send(s, member, request_new(s, PLACE_LIST));
}

/* ---- the session ---- */

void place_member_want(place_sim *s, uint32_t member, session_slot slot,
                       char *text) {
    place_member *m = &s->members[member];
    if (text == NULL) abort();
    free(m->texts[slot]);
    m->texts[slot] = text;
    if (slot != SLOT_LEADER) session_want(m->session, slot);
    (void)s;
}

static void carry_out(place_sim *s, uint32_t member, const session_action *a) {
    static const place_request_kind kinds[] = {[SESSION_GRANT] = PLACE_GRANT,
                                               [SESSION_KEEP] = PLACE_KEEP,
                                               [SESSION_READ] = PLACE_READ,
                                               [SESSION_WRITE] = PLACE_WRITE};
    place_member *m = &s->members[member];
    if (a->kind == SESSION_REVOKE) return; /* nobody ends in good order */
    assert(a->kind != SESSION_RELEASE);    /* nor resigns */
    place_request *r = request_new(s, kinds[a->kind]);
    r->slot = a->slot;
    r->lease = a->lease;
    r->expected = a->mod_revision;
    r->puts = place_memory(s, sizeof(*r->puts));
    r->n_puts = 1;
    own_key(member, m->name, a->slot, r->puts->key, sizeof(r->puts->key));
    if (a->kind == SESSION_WRITE) {
        size_t n = strlen(m->texts[a->slot]);
        char *copy = place_memory(s, n + 1);
        memcpy(copy, m->texts[a->slot], n);
        r->puts->value = copy;
        r->puts->bytes = n;
        r->puts->lease = a->lease;
    }
    place_member_send(s, member, r);
}

uint64_t place_member_act(place_sim *s, uint32_t member) {
    session_action a;
    for (;;) {
        session_next(s->members[member].session, s->now_ms, &a);
        if (a.kind == SESSION_WAIT) return a.wake_ms;
        carry_out(s, member, &a);
    }
}

/* ---- what stands under its own keys ---- */

static session_found read_own(const place_member *m, uint32_t member,
                              session_slot slot, const place_kv *kv,
                              int64_t revision) {
    session_found found = {.mod_revision = revision};
    node_record node;
    coordinator_record coordinator;
    ready_record ready;
    leader_record leads;
    (void)m;
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
    } else if (member < PLACE_COORDS) {
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

static void show_own(place_sim *s, uint32_t member, const place_kv *kv) {
    place_member *m = &s->members[member];
    for (int i = 0; i < SESSION_SLOTS; i++) {
        char key[64];
        own_key(member, m->name, (session_slot)i, key, sizeof(key));
        if (strcmp(key, kv->key) != 0) continue;
        session_found found =
            read_own(m, member, (session_slot)i, kv, kv->mod_revision);
        session_seen(m->session, (session_slot)i, &found);
    }
}

/* ---- the view ---- */

static void feed(place_sim *s, uint32_t member, const place_kv *kv) {
    place_member *m = &s->members[member];
    char why[256] = "";
    if (kv->value == NULL) {
        rack_view_delete(m->view, kv->key, strlen(kv->key));
        return;
    }
    int rc =
        rack_view_put(m->view, kv->key, strlen(kv->key), kv->value, kv->bytes,
                      kv->create_revision, kv->mod_revision, why, sizeof(why));
    if (rc < 0) place_fail(s, "%s cannot be read: %s", kv->key, why);
}

static void settle(place_sim *s, uint32_t member) {
    char why[256] = "";
    if (rack_view_settle(s->members[member].view, why, sizeof(why)) < 0) {
        place_fail(s, "a placement makes no sense: %s", why);
    }
}

static void take_list(place_sim *s, uint32_t member, const place_request *r) {
    place_member *m = &s->members[member];
    m->listing = false;
    if (r->outcome != SESSION_DONE) {
        place_after(s, 300, PLACE_RELIST, (int)member, 0);
        return;
    }
    rack_view_clear(m->view);
    for (uint32_t i = 0; i < r->n_found; i++) {
        feed(s, member, &r->found[i]);
        show_own(s, member, &r->found[i]);
    }
    settle(s, member);
    m->seen = r->revision;
    m->listed = true;
    m->live_since_ms = s->now_ms;
}

void place_member_watched(place_sim *s, uint32_t member, const place_event *e) {
    place_member *m = &s->members[member];
    if (e->from != m->watch) return;
    if (m->listing || !m->listed) { /* the listing comes first */
        place_event *again =
            place_after(s, 5, PLACE_WATCHED, (int)member, e->number);
        again->from = e->from;
        return;
    }
    for (uint32_t i = 0; i < s->etcd.n_history; i++) {
        const place_kv *kv = &s->etcd.history[i];
        if (kv->mod_revision <= m->seen) continue;
        if (kv->mod_revision > (int64_t)e->number) break;
        feed(s, member, kv);
        show_own(s, member, kv);
        bool whole = i + 1 == s->etcd.n_history ||
                     s->etcd.history[i + 1].mod_revision != kv->mod_revision;
        if (!whole) continue;
        settle(s, member);
        m->seen = kv->mod_revision;
    }
}

/* ---- answers ---- */

void place_member_answer(place_sim *s, uint32_t member, place_request *r) {
    place_member *m = &s->members[member];
    session_found found = {.mod_revision = r->revision};
    if (r->answered || r->life != m->life) return;
    r->answered = true;

    switch (r->kind) {
    case PLACE_GRANT:
        session_granted(m->session, s->now_ms, r->outcome, r->granted,
                        PLACE_TTL_MS);
        break;
    case PLACE_KEEP:
        session_kept(m->session, s->now_ms, r->outcome);
        break;
    case PLACE_READ:
        found = read_own(m, member, r->slot, r->found, r->revision);
        session_read(m->session, s->now_ms, r->slot, r->outcome, &found);
        break;
    case PLACE_WRITE:
        session_wrote(m->session, s->now_ms, r->slot, r->outcome, r->revision);
        break;
    case PLACE_LIST:
        take_list(s, member, r);
        break;
    case PLACE_STEP:
        place_coord_wrote(s, member, r);
        break;
    case PLACE_COMPACT:
        break;
    }
}

/* ---- its life ---- */

void place_member_start(place_sim *s, uint32_t member) {
    place_member *m = &s->members[member];
    m->alive = m->started = true;
    m->boot = ++s->boots;
    const session_config c = {.ttl_ms = PLACE_TTL_MS,
                              .retry_ms = 200,
                              .boot = m->boot,
                              .campaign = member < PLACE_COORDS};
    if (session_new(&m->session, &c) < 0 || rack_view_new(&m->view) < 0) {
        abort();
    }
    place_member_list(s, member);
}

void place_member_stop(place_sim *s, uint32_t member) {
    place_member *m = &s->members[member];
    (void)s;
    session_free(m->session);
    rack_view_free(m->view);
    for (int i = 0; i < SESSION_SLOTS; i++) {
        free(m->texts[i]);
        m->texts[i] = NULL;
    }
    m->session = NULL;
    m->view = NULL;
    m->alive = m->frozen = m->listed = m->listing = m->watching = false;
    m->live_since_ms = 0;
    m->life++;
    m->watch++;
}
