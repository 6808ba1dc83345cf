/* registry_session.c - carries out what the session asks of etcd, and tells it
 * how that went; see registry_internal.h. */
#include "discovery/registry_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "engine/log.h"

/* A boot id that no process has, for a document that cannot be read: somebody
 * else's, then. */
#define BOOT_UNREADABLE UINT64_MAX

/* A lease goes on while the machine sleeps, so this clock does too. */
uint64_t registry_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- what happened, in the session's words ---- */

static session_outcome outcome_of(etcd_code code) {
    switch (code) {
    case ETCD_OK:
        return SESSION_DONE;
    case ETCD_GONE:
        return SESSION_LOST;
    case ETCD_UNKNOWN:
    case ETCD_CANCELLED:
        return SESSION_MAYBE;
    case ETCD_FALSE:
    case ETCD_REFUSED:
    case ETCD_NO_SPACE:
    case ETCD_AWAY:
    case ETCD_BAD_ANSWER:
    case ETCD_NO_MEMORY:
        break;
    }
    return SESSION_NOT;
}

/* Refusals last until somebody does something: they are said, but not again
 * and again.  That etcd is away is registry_watch.c's to say. */
static void tell_refusal(registry *r, const etcd_answer *a) {
    if (a->code != ETCD_REFUSED && a->code != ETCD_NO_SPACE) return;
    if (strcmp(a->why, r->refusal) == 0) return;
    snprintf(r->refusal, sizeof(r->refusal), "%s", a->why);
    log_warn("etcd refuses: %s", r->refusal);
}

/* Only a write that works says that writes are refused no more. */
static void tell_write(registry *r, const etcd_answer *a) {
    if (a->code == ETCD_OK) r->refusal[0] = '\0';
    registry_note_space(r, a);
    if (a->code != ETCD_NO_SPACE) tell_refusal(r, a);
}

/* Whose document it is, and whether it names our own endpoint. */
static void read_owner(const registry *r, session_slot slot, const etcd_kv *kv,
                       session_found *out) {
    node_record node;
    coordinator_record coordinator;
    ready_record ready;
    leader_record leader;
    int rc;

    if (slot == SLOT_READY) {
        rc = ready_record_unpack(&ready, kv->value, kv->value_len, NULL, 0);
        out->boot = ready.boot;
    } else if (slot == SLOT_LEADER) {
        rc = leader_record_unpack(&leader, kv->value, kv->value_len, NULL, 0);
        out->boot = leader.boot;
    } else if (r->role == REGISTRY_NODE) {
        rc = node_record_unpack(&node, kv->value, kv->value_len, NULL, 0);
        out->boot = node.boot;
        out->same_place = rc == 0 && strcmp(node.control, r->place) == 0;
    } else {
        rc = coordinator_record_unpack(&coordinator, kv->value, kv->value_len,
                                       NULL, 0);
        out->boot = coordinator.boot;
        out->same_place = rc == 0 && strcmp(coordinator.client, r->place) == 0;
    }
    if (rc < 0) out->boot = BOOT_UNREADABLE;
}

static session_found found_of(const registry *r, session_slot slot,
                              const etcd_kv *kv, int64_t revision) {
    session_found found = {.mod_revision = revision};
    if (kv == NULL) return found;
    found.create_revision = kv->create_revision;
    found.mod_revision = kv->mod_revision;
    found.lease = kv->lease;
    read_owner(r, slot, kv, &found);
    return found;
}

void registry_sight(registry *r, own_key *own, const etcd_kv *kv,
                    int64_t revision) {
    session_found found = found_of(r, own->slot, kv, revision);
    session_seen(r->session, own->slot, &found);
}

/* ---- the lease ---- */

static void on_granted(void *ctx, const etcd_answer *a, int64_t lease,
                       int64_t ttl_s) {
    registry *r = ctx;
    int64_t most = UINT32_MAX / 1000;
    uint32_t ttl_ms = (uint32_t)(ttl_s < most ? ttl_s : most) * 1000;
    tell_write(r, a);
    session_granted(r->session, registry_now_ms(), outcome_of(a->code), lease,
                    ttl_ms);
    registry_drive(r);
}

static void on_kept(void *ctx, const etcd_answer *a, int64_t lease,
                    int64_t ttl_s) {
    registry *r = ctx;
    (void)lease;
    (void)ttl_s;
    session_kept(r->session, registry_now_ms(), outcome_of(a->code));
    /* A lease that was kept goes when we slept, and when the store was replaced
     * by one that never knew it, which may not show otherwise. */
    if (a->code == ETCD_GONE) registry_list_anew(r);
    registry_drive(r);
}

static void on_revoked(void *ctx, const etcd_answer *a, int64_t lease,
                       int64_t ttl_s) {
    registry *r = ctx;
    (void)a;
    (void)lease;
    (void)ttl_s;
    registry_left(r);
}

/* ---- the keys ---- */

static void on_read(void *ctx, const etcd_answer *a, const etcd_kv *kvs,
                    size_t n, bool more) {
    own_key *own = ctx;
    registry *r = own->registry;
    (void)more;
    session_outcome o = outcome_of(a->code);
    session_found found =
        found_of(r, own->slot, n > 0 ? &kvs[0] : NULL, a->revision);
    tell_refusal(r, a);
    session_read(r->session, registry_now_ms(), own->slot, o, &found);
    registry_drive(r);
}

static void on_wrote(void *ctx, const etcd_answer *a, const etcd_kv *reads,
                     size_t n_reads) {
    own_key *own = ctx;
    registry *r = own->registry;
    (void)reads;
    (void)n_reads;
    tell_write(r, a);
    session_wrote(r->session, registry_now_ms(), own->slot, outcome_of(a->code),
                  a->revision);
    registry_drive(r);
}

static int begin_read(registry *r, own_key *own) {
    etcd_range range = {.key = own->key, .key_len = own->key_len, .limit = 1};
    return etcd_get(r->etcd, &range, on_read, own);
}

static void on_released(void *ctx, const etcd_answer *a, const etcd_kv *reads,
                        size_t n_reads) {
    own_key *own = ctx;
    registry *r = own->registry;
    (void)reads;
    (void)n_reads;
    tell_write(r, a);
    session_released(r->session, registry_now_ms(), own->slot,
                     outcome_of(a->code), a->revision);
    registry_drive(r);
}

/* Puts or deletes the key if it is still as the session knows it. */
static int begin_write(registry *r, own_key *own, const session_action *a) {
    etcd_compare compare = {.key = own->key,
                            .key_len = own->key_len,
                            .target = ETCD_MOD_REVISION,
                            .relation = ETCD_EQUAL,
                            .number = a->mod_revision};
    bool put = a->kind == SESSION_WRITE;
    etcd_op op = {.kind = put ? ETCD_PUT : ETCD_DELETE,
                  .key = own->key,
                  .key_len = own->key_len,
                  .value = put ? own->text : NULL,
                  .value_len = put ? strlen(own->text) : 0,
                  .lease = put ? a->lease : 0};
    etcd_txn txn = {
        .compares = &compare, .n_compares = 1, .then = &op, .n_then = 1};
    return etcd_commit(r->etcd, &txn, put ? on_wrote : on_released, own);
}

/* ---- driving ---- */

/* Begun, or answered for libetcd when it could not even begin. */
static void carry_out(registry *r, const session_action *a) {
    own_key *own = &r->own[a->slot];
    int rc;

    switch (a->kind) {
    case SESSION_GRANT:
        rc = etcd_grant(r->etcd, r->ttl_s, on_granted, r);
        if (rc < 0)
            session_granted(r->session, registry_now_ms(), SESSION_NOT, 0, 0);
        break;
    case SESSION_KEEP:
        rc = etcd_keep_alive(r->etcd, a->lease, on_kept, r);
        if (rc < 0) session_kept(r->session, registry_now_ms(), SESSION_NOT);
        break;
    case SESSION_REVOKE:
        rc = etcd_revoke(r->etcd, a->lease, on_revoked, r);
        if (rc < 0) registry_left(r);
        break;
    case SESSION_READ:
        rc = begin_read(r, own);
        if (rc < 0) {
            const session_found none = {0};
            session_read(r->session, registry_now_ms(), own->slot, SESSION_NOT,
                         &none);
        }
        break;
    case SESSION_WRITE:
        assert(own->text != NULL);
        rc = begin_write(r, own, a);
        if (rc < 0) {
            session_wrote(r->session, registry_now_ms(), own->slot, SESSION_NOT,
                          0);
        }
        break;
    case SESSION_RELEASE:
        rc = begin_write(r, own, a);
        if (rc < 0) {
            session_released(r->session, registry_now_ms(), own->slot,
                             SESSION_NOT, 0);
        }
        break;
    case SESSION_WAIT:
        break;
    }
}

static void tell_name(registry *r, bool was_registered) {
    const char *what = r->role == REGISTRY_NODE ? "node" : "coordinator";
    if (r->name_taken) {
        log_warn("the name '%s' is taken: another live process is registered "
                 "under %s; trying again until it is gone",
                 r->name, r->own[SLOT_RECORD].key);
    } else if (r->registered) {
        log_info("registered in etcd as %s '%s'", what, r->name);
    } else if (was_registered) {
        log_warn("not registered in etcd any more: the lease ran out, or the "
                 "record was taken away; registering anew");
    }
}

/* What the owner should know of. */
static void look_at_session(registry *r) {
    bool registered = session_registered(r->session);
    bool taken = session_name_taken(r->session);
    int64_t term = session_term(r->session, registry_now_ms());
    bool was_registered = r->registered;
    bool renamed = registered != r->registered || taken != r->name_taken;
    if (!renamed && term == r->term) return;

    r->registered = registered;
    r->name_taken = taken;
    r->term = term;
    if (renamed && r->phase == REGISTRY_RUNNING) tell_name(r, was_registered);
    registry_notify(r);
}

static void on_session_timer(uv_timer_t *timer) {
    registry_drive(timer->data);
}

void registry_drive(registry *r) {
    session_action a;
    uint64_t now = registry_now_ms();

    if (r->phase == REGISTRY_CLOSING) return;
    for (session_next(r->session, now, &a); a.kind != SESSION_WAIT;
         session_next(r->session, now, &a)) {
        carry_out(r, &a);
        if (r->phase == REGISTRY_CLOSING) return;
        now = registry_now_ms();
    }
    look_at_session(r);
    if (a.wake_ms == UINT64_MAX) {
        uv_timer_stop(&r->session_timer);
        return;
    }
    /* The loop's idea of now may be older than ours. */
    uv_update_time(r->loop);
    uint64_t wait = a.wake_ms > now ? a.wake_ms - now : 0;
    uv_timer_start(&r->session_timer, on_session_timer, wait, 0);
}
