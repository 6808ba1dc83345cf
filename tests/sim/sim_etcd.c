/* sim_etcd.c - a model of etcd; see sim_etcd.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define REPLACED_US 8000000 /* until everybody knows of the new store */

const sim_kv *sim_etcd_find(const sim_etcd *e, const char *key) {
    for (uint32_t i = 0; i < e->now.n_keys; i++) {
        if (strcmp(e->now.keys[i].key, key) == 0) return &e->now.keys[i];
    }
    return NULL;
}

/* ---- changes ---- */

/* Records of nodes, drains and the leader: a balance of before may be out of
 * date. */
static bool is_of_rack(const char *key) {
    return strncmp(key, "nodes/", 6) == 0 || strncmp(key, "drain/", 6) == 0 ||
           strcmp(key, "leader") == 0;
}

static void remember(sim_etcd *e, const sim_kv *kv) {
    if (e->now.n_history == e->history_room) {
        e->history_room = e->history_room == 0 ? 256 : 2 * e->history_room;
        e->history = realloc(e->history, e->history_room * sizeof(*e->history));
        if (e->history == NULL) abort();
    }
    e->history[e->now.n_history++] = *kv;
}

static void put(sim_etcd *e, const sim_kv *kv) {
    sim_kv *to = (sim_kv *)sim_etcd_find(e, kv->key);
    if (to == NULL) {
        if (e->now.n_keys == SIM_KEYS) abort();
        to = &e->now.keys[e->now.n_keys++];
        *to = (sim_kv){.create_revision = e->now.revision};
        memcpy(to->key, kv->key, sizeof(to->key));
    }
    to->value = kv->value;
    to->bytes = kv->bytes;
    to->lease = kv->lease;
    to->mod_revision = e->now.revision;
    remember(e, to);
}

static void remove_key(sim_etcd *e, uint32_t at) {
    sim_kv gone = e->now.keys[at];
    e->now.keys[at] = e->now.keys[--e->now.n_keys];
    gone.value = NULL;
    gone.mod_revision = e->now.revision;
    remember(e, &gone);
}

static void tell_watcher(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    uint64_t at = s->clock.now_us + 200 + sim_below(s, 15000) + m->slow_us;
    if (at > m->watch_us) m->watch_us = at;
    sim_after(s, m->watch_us - s->clock.now_us, EVENT_WATCHED, (int)member,
              (uint64_t)s->etcd.now.revision)
        ->from = m->watch;
}

/* A revision is whole: whoever watches will hear of it, in order. */
static void publish(sim *s) {
    const sim_etcd *e = &s->etcd;
    for (uint32_t i = e->now.n_history; i > 0; i--) {
        const sim_kv *kv = &e->history[i - 1];
        if (kv->mod_revision != e->now.revision) break;
        if (is_of_rack(kv->key)) sim_moves_restart(s);
    }
    for (uint32_t i = 0; i < SIM_MEMBERS; i++) {
        if (s->members[i].watching) tell_watcher(s, i);
    }
}

void sim_etcd_put(sim *s, const char *key, const char *text) {
    sim_kv kv = {.bytes = strlen(text)};
    kv.value = sim_copy(text, kv.bytes);
    snprintf(kv.key, sizeof(kv.key), "%s", key);
    s->etcd.now.revision++;
    put(&s->etcd, &kv);
    publish(s);
}

void sim_etcd_delete(sim *s, const char *key) {
    const sim_kv *kv = sim_etcd_find(&s->etcd, key);
    if (kv == NULL) return;
    s->etcd.now.revision++;
    remove_key(&s->etcd, (uint32_t)(kv - s->etcd.now.keys));
    publish(s);
}

/* ---- leases ---- */

static sim_lease *find_lease(sim_etcd *e, int64_t id) {
    for (uint32_t i = 0; i < e->now.n_leases; i++) {
        if (e->now.leases[i].id == id) return &e->now.leases[i];
    }
    return NULL;
}

void sim_etcd_expire(sim *s) {
    sim_etcd *e = &s->etcd;
    if (e->state != STORE_UP) return;
    for (uint32_t i = 0; i < e->now.n_leases;) {
        if (e->now.leases[i].ends_us > s->clock.now_us) {
            i++;
            continue;
        }
        int64_t id = e->now.leases[i].id;
        bool any = false;
        e->now.leases[i] = e->now.leases[--e->now.n_leases];
        for (uint32_t k = 0; k < e->now.n_keys;) {
            if (e->now.keys[k].lease != id) {
                k++;
                continue;
            }
            if (!any) e->now.revision++;
            any = true;
            sim_trace(s, "etcd: %s expires", e->now.keys[k].key);
            remove_key(e, k);
        }
        if (any) publish(s);
    }
}

static void let_live(sim *s, sim_lease *l) {
    l->ends_us = s->clock.now_us + s->ttl_ms * 1000ull;
    sim_after(s, s->ttl_ms * 1000ull, EVENT_EXPIRE, -1, 0);
}

static void grant(sim *s, sim_request *r) {
    sim_etcd *e = &s->etcd;
    r->outcome = SESSION_NOT;
    if (e->full || e->now.n_leases == SIM_LEASES) return;
    r->outcome = SESSION_DONE;
    r->granted = ++e->next_lease;
    sim_lease *l = &e->now.leases[e->now.n_leases++];
    l->id = r->granted;
    let_live(s, l);
}

static void keep(sim *s, sim_request *r) {
    sim_lease *l = find_lease(&s->etcd, r->lease);
    r->outcome = l != NULL ? SESSION_DONE : SESSION_LOST;
    if (l != NULL) let_live(s, l);
}

/* ---- transactions ---- */

static int64_t mod_revision(const sim_etcd *e, const char *key) {
    const sim_kv *kv = sim_etcd_find(e, key);
    return kv != NULL ? kv->mod_revision : 0;
}

static void write_key(sim *s, sim_request *r) {
    sim_etcd *e = &s->etcd;
    r->outcome = SESSION_NOT;
    if (e->full && !r->releases) return;
    if (r->puts[0].lease != 0 && find_lease(e, r->puts[0].lease) == NULL) {
        r->outcome = SESSION_LOST;
        return;
    }
    if (mod_revision(e, r->puts[0].key) != r->expected) return;
    r->outcome = SESSION_DONE;
    r->revision = ++e->now.revision;
    sim_trace(s, "etcd: %s by %s", r->puts[0].key, s->members[r->member].name);
    const sim_kv *old = sim_etcd_find(e, r->puts[0].key);
    if (!r->releases) {
        put(e, &r->puts[0]);
    } else if (old != NULL) {
        remove_key(e, (uint32_t)(old - e->now.keys));
    }
    publish(s);
}

/* Which placement a process says in its record that it knows, as far as the
 * writer has seen that; 0: none.  (Who stands still, is cut off from etcd or
 * has not come back to a store that was replaced can be asked by nobody; what
 * is written without it is frozen when it comes back.) */
static uint64_t said_by(const sim *s, const sim_request *r, uint32_t member) {
    const sim_member *m = &s->members[member];
    bool node = member >= SIM_COORDS;
    char key[40];
    snprintf(key, sizeof(key), "%s/%s", node ? "ready" : "coordinators",
             m->name);
    const sim_kv *kv = sim_etcd_find(&s->etcd, key);
    if (kv == NULL || kv->mod_revision > r->seen) return 0;
    if (node) {
        ready_record said;
        if (ready_record_unpack(&said, kv->value, kv->bytes, NULL, 0) < 0)
            abort();
        if (said.boot != m->boot) return 0;
        return epoch_pack(said.incarnation, said.epoch);
    }
    coordinator_record said;
    if (coordinator_record_unpack(&said, kv->value, kv->bytes, NULL, 0) < 0)
        abort();
    return said.boot == m->boot ? epoch_pack(said.incarnation, said.epoch) : 0;
}

/* Could the writer know of a placement that is newer than this one, or another
 * one of its number: by its own memory, a node's answer or a record?  (A
 * recovery that was wiped away before anybody saw it is made again.) */
static bool is_outdone(const sim *s, const sim_request *r, uint64_t epoch,
                       bool recovers) {
    uint64_t known = r->told;
    const sim_member *writer = &s->members[r->member];
    if (writer->epoch > known) known = writer->epoch;
    for (uint32_t i = 0; i < SIM_MEMBERS; i++) {
        const sim_member *m = &s->members[i];
        uint64_t said = m->alive && !m->frozen ? said_by(s, r, i) : 0;
        if (said > known) known = said;
    }
    return known > epoch || (known == epoch && !recovers);
}

/* Nobody but the leader may have written this, and nobody before it. */
static void check_step(sim *s, const sim_request *r) {
    const sim_kv *leads = sim_etcd_find(&s->etcd, "leader");
    const sim_kv *last = &r->puts[r->n_puts - 1];
    epoch_record head;
    if (epoch_record_unpack(&head, last->value, last->bytes, NULL, 0) < 0) {
        sim_fail(s, "an epoch that cannot be read is written");
        return;
    }
    uint64_t epoch = epoch_pack(head.incarnation, head.epoch);
    uint64_t newest = s->etcd.newest_epoch;
    bool recovers = head.epoch == 1 && head.incarnation > 1;
    if (leads == NULL || leads->create_revision != head.term) {
        sim_fail(s, "epoch %llu is written by a stale term",
                 (unsigned long long)head.epoch);
    }
    /* One that was planned from a store that is no more, by a process that was
     * stopped since, fits the snapshot that the store was restored from as if
     * nothing had happened.  No transaction can tell.  Who knows what the store
     * has lost does not take it up; who does tells nodes, by its pings, that it
     * means another one than they do. */
    bool belated = r->cluster != s->etcd.cluster;
    bool outdone =
        epoch <= newest || (!belated && is_outdone(s, r, epoch, recovers));
    if (outdone) {
        sim_fail(s, "epoch %llu.%llu is written after %llu.%llu",
                 (unsigned long long)head.incarnation,
                 (unsigned long long)head.epoch,
                 (unsigned long long)epoch_incarnation(newest),
                 (unsigned long long)epoch_number(newest));
    }
    if (head.epoch == 1) sim_moves_restart(s);
    for (uint32_t i = 0; i + 1 < r->n_puts; i++) {
        uint32_t layer = (uint32_t)strtoul(
            r->puts[i].key + strlen("placement/layer/"), NULL, 10);
        sim_moves_look(s, &head, layer, r->puts[i].value, r->puts[i].bytes);
    }
    if (head.epoch == 1) sim_moves_restart(s);
    s->etcd.newest_epoch = epoch;
    sim_note(s, epoch, (uint64_t)head.term, r->member);
    epoch_record_fini(&head);
}

static void write_step(sim *s, sim_request *r) {
    sim_etcd *e = &s->etcd;
    const sim_kv *key = sim_etcd_find(e, "leader");
    leader_record leads = {0};
    if (key != NULL) {
        leader_record_unpack(&leads, key->value, key->bytes, NULL, 0);
    }
    /* The term, and that it is this process's. */
    bool fenced = key != NULL && key->create_revision == r->term &&
                  strcmp(leads.name, s->members[r->member].name) == 0;
    bool planned = mod_revision(e, "placement/epoch") == r->expected;
    if (s->options.plant == PLANT_NO_FENCE) fenced = true;
    if (s->options.plant == PLANT_NO_REVISION) planned = true;

    r->outcome = SESSION_NOT;
    if (!fenced || !planned || e->full) {
        sim_add(s, COUNT_FENCED, 1);
        sim_trace(s, "etcd: a placement by %s is refused",
                  s->members[r->member].name);
        return;
    }
    r->outcome = SESSION_DONE;
    r->revision = ++e->now.revision;
    sim_add(s, COUNT_EPOCHS, 1);
    for (uint32_t i = 0; i < r->n_puts; i++)
        put(e, &r->puts[i]);
    sim_trace(s, "etcd: a placement by %s, %u layers",
              s->members[r->member].name, r->n_puts - 1);
    check_step(s, r);
    publish(s);
}

/* ---- reading ---- */

static void read_key(sim *s, sim_request *r) {
    const sim_kv *kv = sim_etcd_find(&s->etcd, r->puts[0].key);
    r->outcome = SESSION_DONE;
    if (kv == NULL) return;
    r->found = sim_copy(kv, sizeof(*kv));
    r->n_found = 1;
}

static void list(sim *s, sim_request *r) {
    const sim_store *now = &s->etcd.now;
    r->outcome = SESSION_DONE;
    r->found = sim_copy(now->keys, now->n_keys * sizeof(*now->keys));
    r->n_found = now->n_keys;
    r->cluster = s->etcd.cluster;
}

static void watch(sim *s, sim_request *r) {
    sim_etcd *e = &s->etcd;
    sim_member *m = &s->members[r->member];
    r->outcome = SESSION_DONE;
    r->lost = r->cluster != e->cluster || r->expected > e->now.revision ||
              r->expected + 1 < e->now.compacted;
    if (r->lost || r->stuck || m->life != r->life) return;
    m->watch++;
    m->watching = true;
    if (s->options.plant == PLANT_WATCH_GAP) m->seen = e->now.revision;
    if (e->now.revision > r->expected) tell_watcher(s, r->member);
}

/* One that is not there yet is refused; nobody may ask for it, unless the store
 * was another one a moment ago. */
void sim_etcd_compact(sim *s, int64_t revision) {
    const sim_etcd *e = &s->etcd;
    if (revision > e->now.revision) {
        bool replaced = e->replaced_us != 0 &&
                        s->clock.now_us < e->replaced_us + REPLACED_US;
        if (replaced) return;
        sim_fail(s, "a revision that is not there yet is compacted");
    }
    if (revision > s->etcd.now.compacted) s->etcd.now.compacted = revision;
}

void sim_etcd_do(sim *s, sim_request *r) {
    sim_etcd_expire(s);
    r->revision = s->etcd.now.revision;
    switch (r->kind) {
    case REQUEST_GRANT:
        grant(s, r);
        break;
    case REQUEST_KEEP:
        keep(s, r);
        break;
    case REQUEST_READ:
        read_key(s, r);
        break;
    case REQUEST_WRITE:
        write_key(s, r);
        break;
    case REQUEST_LIST:
        list(s, r);
        break;
    case REQUEST_WATCH:
        watch(s, r);
        break;
    case REQUEST_STEP:
        write_step(s, r);
        break;
    case REQUEST_COMPACT:
        r->outcome = SESSION_DONE;
        sim_etcd_compact(s, r->expected);
        break;
    }
}

/* ---- faults ---- */

static void cut_off(sim *s, uint32_t member, uint64_t after_ms) {
    sim_member *m = &s->members[member];
    if (!m->alive) return;
    m->watching = false;
    sim_after(s, after_ms * 1000, EVENT_CUT_OFF, (int)member, 0)->from =
        m->watch;
}

static void break_watch(sim *s, uint32_t member, uint64_t after_ms) {
    if (s->members[member].watching) cut_off(s, member, after_ms);
}

void sim_etcd_stop(sim *s, sim_store_state state) {
    s->etcd.state = state;
    for (uint32_t i = 0; i < SIM_MEMBERS; i++)
        break_watch(s, i, state == STORE_DEAD ? 5 : SIM_CUT_OFF_MS);
}

/* A new leader of etcd's own gives every lease its full time again; one that
 * was only cut off does not. */
void sim_etcd_start(sim *s, bool renew_leases) {
    sim_etcd *e = &s->etcd;
    e->state = STORE_UP;
    for (uint32_t i = 0; renew_leases && i < e->now.n_leases; i++)
        let_live(s, &e->now.leases[i]);
    sim_after(s, 1000, EVENT_EXPIRE, -1, 0);
}

void sim_etcd_save(sim *s) {
    if (s->etcd.state != STORE_UP) return;
    s->etcd.saved = s->etcd.now;
    s->etcd.has_saved = true;
}

/* What a store has; 0: no placement. */
static uint64_t stored_epoch(const sim_etcd *e) {
    const sim_kv *kv = sim_etcd_find(e, "placement/epoch");
    epoch_record head;
    if (kv == NULL) return 0;
    if (epoch_record_unpack(&head, kv->value, kv->bytes, NULL, 0) < 0) abort();
    uint64_t epoch = epoch_pack(head.incarnation, head.epoch);
    epoch_record_fini(&head);
    return epoch;
}

/* Another cluster, with what the snapshot had, or nothing.  The processes of
 * the old one are gone: their connections break at once, those that had lost
 * their quorum too. */
void sim_etcd_restore(sim *s, bool wipe) {
    sim_etcd *e = &s->etcd;
    if (wipe || !e->has_saved) {
        memset(&e->now, 0, sizeof(e->now));
    } else {
        e->now = e->saved;
    }
    e->has_saved = false;
    e->full = false;
    e->cluster++;
    e->replaced_us = s->clock.now_us;
    e->newest_epoch = stored_epoch(e);
    sim_moves_reread(s);
    for (uint32_t i = 0; i < SIM_MEMBERS; i++)
        cut_off(s, i, 5);
    sim_etcd_start(s, true);
}

void sim_etcd_cut(sim *s, uint32_t member, bool cut) {
    s->members[member].cut = cut;
    if (cut) break_watch(s, member, SIM_CUT_OFF_MS);
}
