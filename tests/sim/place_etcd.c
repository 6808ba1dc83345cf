/* place_etcd.c - a model of etcd: one linear history, leases, transactions with
 * compares, and nothing else. */
#include "tests/sim/place_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const place_kv *place_etcd_find(const place_etcd *e, const char *key) {
    for (uint32_t i = 0; i < e->n_keys; i++) {
        if (strcmp(e->keys[i].key, key) == 0) return &e->keys[i];
    }
    return NULL;
}

/* ---- changes ---- */

static void remember(place_etcd *e, const place_kv *kv) {
    if (e->n_history == e->history_room) {
        e->history_room = e->history_room == 0 ? 256 : 2 * e->history_room;
        e->history = realloc(e->history, e->history_room * sizeof(*e->history));
        if (e->history == NULL) abort(); /* a test without memory is none */
    }
    e->history[e->n_history++] = *kv;
}

static void put(place_etcd *e, const place_kv *kv) {
    place_kv *to = (place_kv *)place_etcd_find(e, kv->key);
    if (to == NULL) {
        if (e->n_keys == PLACE_KEYS) abort();
        to = &e->keys[e->n_keys++];
        *to = (place_kv){.create_revision = e->revision};
        memcpy(to->key, kv->key, sizeof(to->key));
    }
    to->value = kv->value;
    to->bytes = kv->bytes;
    to->lease = kv->lease;
    to->mod_revision = e->revision;
    remember(e, to);
}

static void delete (place_etcd *e, uint32_t at) {
    place_kv gone = e->keys[at];
    e->keys[at] = e->keys[--e->n_keys];
    gone.value = NULL;
    gone.mod_revision = e->revision;
    remember(e, &gone);
}

/* A revision is whole: whoever watches will hear of it, in order. */
static void publish(place_sim *s) {
    for (uint32_t i = 0; i < PLACE_MEMBERS; i++) {
        place_member *m = &s->members[i];
        if (!m->watching) continue;
        uint64_t at = s->now_ms + place_below(s, 20) + m->slow_ms;
        if (at > m->watch_ms) m->watch_ms = at;
        place_event *e = place_after(s, m->watch_ms - s->now_ms, PLACE_WATCHED,
                                     (int)i, (uint64_t)s->etcd.revision);
        e->from = m->watch;
    }
}

void place_etcd_put(place_sim *s, const char *key, const char *text) {
    place_kv kv = {.bytes = strlen(text)};
    char *copy = place_memory(s, kv.bytes + 1);
    memcpy(copy, text, kv.bytes);
    kv.value = copy;
    snprintf(kv.key, sizeof(kv.key), "%s", key);
    s->etcd.revision++;
    put(&s->etcd, &kv);
    publish(s);
}

void place_etcd_delete(place_sim *s, const char *key) {
    const place_kv *kv = place_etcd_find(&s->etcd, key);
    if (kv == NULL) return;
    s->etcd.revision++;
    delete (&s->etcd, (uint32_t)(kv - s->etcd.keys));
    publish(s);
}

/* ---- leases ---- */

static place_lease *find_lease(place_etcd *e, int64_t id) {
    for (uint32_t i = 0; i < e->n_leases; i++) {
        if (e->leases[i].id == id) return &e->leases[i];
    }
    return NULL;
}

void place_etcd_expire(place_sim *s) {
    place_etcd *e = &s->etcd;
    if (e->away) return;
    for (uint32_t i = 0; i < e->n_leases;) {
        if (e->leases[i].ends_ms > s->now_ms) {
            i++;
            continue;
        }
        int64_t id = e->leases[i].id;
        bool any = false;
        e->leases[i] = e->leases[--e->n_leases];
        for (uint32_t k = 0; k < e->n_keys;) {
            if (e->keys[k].lease != id) {
                k++;
                continue;
            }
            if (!any) e->revision++;
            any = true;
            place_trace(s, "etcd: %s expires", e->keys[k].key);
            delete (e, k);
        }
        if (any) publish(s);
    }
}

static void grant(place_sim *s, place_request *r) {
    place_etcd *e = &s->etcd;
    r->outcome = SESSION_NOT;
    if (e->n_leases == PLACE_LEASES) return;
    r->outcome = SESSION_DONE;
    r->granted = ++e->next_lease;
    e->leases[e->n_leases++] =
        (place_lease){.id = r->granted, .ends_ms = s->now_ms + PLACE_TTL_MS};
    place_after(s, PLACE_TTL_MS, PLACE_EXPIRE, -1, 0);
}

static void keep(place_sim *s, place_request *r) {
    place_lease *l = find_lease(&s->etcd, r->lease);
    r->outcome = l != NULL ? SESSION_DONE : SESSION_LOST;
    if (l == NULL) return;
    l->ends_ms = s->now_ms + PLACE_TTL_MS;
    place_after(s, PLACE_TTL_MS, PLACE_EXPIRE, -1, 0);
}

/* ---- transactions ---- */

static int64_t mod_revision(const place_etcd *e, const char *key) {
    const place_kv *kv = place_etcd_find(e, key);
    return kv != NULL ? kv->mod_revision : 0;
}

static void write_key(place_sim *s, place_request *r) {
    place_etcd *e = &s->etcd;
    if (r->puts[0].lease != 0 && find_lease(e, r->puts[0].lease) == NULL) {
        r->outcome = SESSION_LOST;
        return;
    }
    r->outcome = SESSION_NOT;
    if (mod_revision(e, r->puts[0].key) != r->expected) return;
    r->outcome = SESSION_DONE;
    r->revision = ++e->revision;
    place_trace(s, "etcd: %s by %s", r->puts[0].key,
                s->members[r->member].name);
    put(e, &r->puts[0]);
    publish(s);
}

/* Nobody but the leader may have written this, and nobody before it. */
static void check_step(place_sim *s, const place_request *r) {
    const place_kv *leads = place_etcd_find(&s->etcd, "leader");
    const place_kv *last = &r->puts[r->n_puts - 1];
    epoch_record head;
    if (epoch_record_unpack(&head, last->value, last->bytes, NULL, 0) < 0) {
        place_fail(s, "an epoch that cannot be read is written");
        return;
    }
    uint64_t epoch = epoch_pack(head.incarnation, head.epoch);
    if (leads == NULL || leads->create_revision != head.term) {
        place_fail(s, "epoch %llu is written by a stale term",
                   (unsigned long long)head.epoch);
    }
    if (epoch != s->etcd.last_epoch + 1 && s->etcd.last_epoch != 0) {
        place_fail(s, "epoch %llu is written after %llu",
                   (unsigned long long)head.epoch,
                   (unsigned long long)s->etcd.last_epoch);
    }
    s->etcd.last_epoch = epoch;
    epoch_record_fini(&head);
}

static void write_step(place_sim *s, place_request *r) {
    place_etcd *e = &s->etcd;
    const place_kv *key = place_etcd_find(e, "leader");
    bool leads = key != NULL && key->create_revision == r->term;
    if (s->options.plant == PLACE_NO_FENCE) leads = true;

    r->outcome = SESSION_NOT;
    if (!leads || mod_revision(e, "placement/epoch") != r->expected) {
        s->result->fenced++;
        place_trace(s, "etcd: a placement by %s is refused",
                    s->members[r->member].name);
        return;
    }
    r->outcome = SESSION_DONE;
    r->revision = ++e->revision;
    s->result->epochs++;
    for (uint32_t i = 0; i < r->n_puts; i++)
        put(e, &r->puts[i]);
    place_trace(s, "etcd: a placement by %s, %u layers",
                s->members[r->member].name, r->n_puts - 1);
    check_step(s, r);
    publish(s);
}

/* ---- reading ---- */

static void read_key(place_sim *s, place_request *r) {
    const place_kv *kv = place_etcd_find(&s->etcd, r->puts[0].key);
    r->outcome = SESSION_DONE;
    if (kv == NULL) return;
    r->found = place_memory(s, sizeof(*kv));
    *r->found = *kv;
    r->n_found = 1;
}

/* The answer, and a watch from the next revision on. */
static void list(place_sim *s, place_request *r) {
    place_etcd *e = &s->etcd;
    place_member *m = &s->members[r->member];
    r->outcome = SESSION_DONE;
    r->found = place_memory(s, (e->n_keys + 1) * sizeof(*r->found));
    memcpy(r->found, e->keys, e->n_keys * sizeof(*r->found));
    r->n_found = e->n_keys;
    if (r->stuck || m->life != r->life) return;
    m->watch++;
    m->watching = true;
}

void place_etcd_do(place_sim *s, place_request *r) {
    place_etcd_expire(s);
    r->revision = s->etcd.revision;
    switch (r->kind) {
    case PLACE_GRANT:
        grant(s, r);
        break;
    case PLACE_KEEP:
        keep(s, r);
        break;
    case PLACE_READ:
        read_key(s, r);
        break;
    case PLACE_WRITE:
        write_key(s, r);
        break;
    case PLACE_LIST:
        list(s, r);
        break;
    case PLACE_STEP:
        write_step(s, r);
        break;
    case PLACE_COMPACT:
        r->outcome = SESSION_DONE;
        if (r->expected > s->etcd.revision) {
            place_fail(s, "a revision that is not there yet is compacted");
        }
        break;
    }
}
