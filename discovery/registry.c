/* registry.c - see registry.h and registry_internal.h.
 *
 * Opening asks nothing of etcd yet; the first turn of the loop does.  Closing
 * has a way of its own through every state: the session gives its lease back if
 * it has one (or is just getting one), for at most LEAVE_MS; then libetcd ends
 * all requests, each with its callback; then the timers are closed. */
#include "discovery/registry_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define TTL_S 5
#define TTL_LEAST_S 2
#define LEAVE_MS 500

/* ---- opening ---- */

static void init_own(registry *r, session_slot slot, record_kind kind) {
    own_key *own = &r->own[slot];
    own->registry = r;
    own->slot = slot;
    record_key(r->cluster, kind, r->name, 0, own->key);
    own->key_len = strlen(own->key);
}

static void init_timer(registry *r, uv_timer_t *timer) {
    uv_timer_init(r->loop, timer);
    timer->data = r;
    r->open_handles++;
}

/* All that needs no handle of the loop. */
static int build(registry *r, const registry_config *c, char *why,
                 size_t why_size) {
    if (rack_view_new(&r->view) < 0) return -ENOMEM;
    const session_config s = {.ttl_ms = r->ttl_s * 1000,
                              .retry_ms = REGISTRY_RETRY_MS,
                              .boot = r->boot,
                              .campaign = r->role == REGISTRY_COORDINATOR};
    if (session_new(&r->session, &s) < 0) return -ENOMEM;

    init_own(r, SLOT_RECORD,
             r->role == REGISTRY_NODE ? RECORD_NODE : RECORD_COORDINATOR);
    init_own(r, SLOT_READY, RECORD_READY);
    init_own(r, SLOT_LEADER, RECORD_LEADER);
    leader_record leader = {.boot = r->boot};
    strcpy(leader.name, r->name);
    r->own[SLOT_LEADER].text = leader_record_pack(&leader);
    if (r->own[SLOT_LEADER].text == NULL) return -ENOMEM;

    etcd_config e = c->etcd;
    e.loop = c->loop;
    return etcd_open(&r->etcd, &e, why, why_size);
}

static void registry_free(registry *r) {
    for (int i = 0; i < SESSION_SLOTS; i++)
        free(r->own[i].text);
    session_free(r->session);
    rack_view_free(r->view);
    free(r);
}

int registry_open(registry **out, const registry_config *c, char *why,
                  size_t why_size) {
    *out = NULL;
    if (!record_is_name(c->cluster) || !record_is_name(c->name)) {
        return err_why(why, why_size, ERR_USAGE,
                       "'%s' and '%s' must be names of 1 to %d printable "
                       "characters without '/'",
                       c->cluster, c->name, RECORD_NAME - 1);
    }
    registry *r = calloc(1, sizeof(*r));
    if (r == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    r->loop = c->loop;
    r->role = c->role;
    r->boot = c->boot;
    r->ttl_s = c->ttl_s == 0 ? TTL_S : c->ttl_s;
    if (r->ttl_s < TTL_LEAST_S) r->ttl_s = TTL_LEAST_S;
    r->on_change = c->on_change;
    r->ctx = c->ctx;
    r->list_retry_ms = REGISTRY_RETRY_MS;
    strcpy(r->cluster, c->cluster);
    strcpy(r->name, c->name);
    r->prefix_len = record_prefix(r->cluster, r->prefix);

    if (why_size > 0) why[0] = '\0';
    int rc = build(r, c, why, why_size);
    if (rc < 0) {
        if (why_size > 0 && why[0] == '\0') {
            err_why(why, why_size, rc, "%s", err_text(rc));
        }
        registry_free(r);
        return rc;
    }
    init_timer(r, &r->session_timer);
    init_timer(r, &r->list_timer);
    init_timer(r, &r->notify_timer);
    init_timer(r, &r->close_timer);
    registry_list(r);
    *out = r;
    return 0;
}

/* ---- telling the owner ---- */

static void on_notify(uv_timer_t *timer) {
    registry *r = timer->data;
    if (r->phase == REGISTRY_RUNNING && r->on_change != NULL) {
        r->on_change(r->ctx);
    }
}

void registry_notify(registry *r) {
    if (r->phase != REGISTRY_RUNNING) return;
    uv_timer_start(&r->notify_timer, on_notify, 0, 0);
}

/* ---- closing ---- */

static void on_handle_closed(uv_handle_t *handle) {
    registry *r = handle->data;
    assert(r->open_handles > 0);
    if (--r->open_handles > 0) return;

    void (*on_closed)(void *ctx) = r->on_closed;
    void *ctx = r->closed_ctx;
    registry_free(r);
    if (on_closed != NULL) on_closed(ctx);
}

static void on_etcd_closed(void *ctx) {
    registry *r = ctx;
    uv_close((uv_handle_t *)&r->session_timer, on_handle_closed);
    uv_close((uv_handle_t *)&r->list_timer, on_handle_closed);
    uv_close((uv_handle_t *)&r->notify_timer, on_handle_closed);
    uv_close((uv_handle_t *)&r->close_timer, on_handle_closed);
}

void registry_left(registry *r) {
    if (r->phase == REGISTRY_CLOSING) return;
    r->phase = REGISTRY_CLOSING;
    uv_timer_stop(&r->session_timer);
    uv_timer_stop(&r->list_timer);
    uv_timer_stop(&r->notify_timer);
    uv_timer_stop(&r->close_timer);
    etcd_close(r->etcd, on_etcd_closed, r);
}

static void on_close_timer(uv_timer_t *timer) {
    registry_left(timer->data);
}

void registry_close(registry *r, void (*on_closed)(void *ctx), void *ctx) {
    if (r == NULL || r->phase != REGISTRY_RUNNING) return;
    r->phase = REGISTRY_LEAVING;
    r->on_closed = on_closed;
    r->closed_ctx = ctx;
    uv_timer_stop(&r->list_timer);
    uv_timer_stop(&r->notify_timer);
    etcd_watch_close(r->watch);
    r->watch = NULL;

    session_end(r->session);
    bool leased = session_leased(r->session);
    uv_update_time(r->loop);
    uv_timer_start(&r->close_timer, on_close_timer, leased ? LEAVE_MS : 0, 0);
    registry_drive(r);
}

/* ---- what is published ---- */

/* Readers refuse a document with a wrong member (a zone that is not ASCII,
 * say), and would take it for another's: better not to publish it. */
static int check_own(const registry *r, session_slot slot, const char *text) {
    node_record node;
    coordinator_record coordinator;
    ready_record ready;
    char why[REGISTRY_WHY] = "";
    size_t len = strlen(text);
    int rc;
    if (slot == SLOT_READY) {
        rc = ready_record_unpack(&ready, text, len, why, sizeof(why));
    } else if (r->role == REGISTRY_NODE) {
        rc = node_record_unpack(&node, text, len, why, sizeof(why));
    } else {
        rc = coordinator_record_unpack(&coordinator, text, len, why,
                                       sizeof(why));
    }
    if (rc < 0) log_error("not registered in etcd: %s", why);
    return rc;
}

/* Takes ownership of `text`. */
static int publish(registry *r, session_slot slot, char *text) {
    own_key *own = &r->own[slot];
    if (text == NULL) return -ENOMEM;
    if (own->text != NULL && strcmp(own->text, text) == 0) {
        free(text);
        return 0;
    }
    int rc = check_own(r, slot, text);
    if (rc < 0) {
        free(text);
        return rc;
    }
    free(own->text);
    own->text = text;
    if (r->phase != REGISTRY_RUNNING) return 0;
    session_want(r->session, slot);
    registry_drive(r);
    return 0;
}

int registry_set_node(registry *r, const node_record *n) {
    assert(r->role == REGISTRY_NODE && n->boot == r->boot);
    int rc = publish(r, SLOT_RECORD, node_record_pack(n));
    if (rc == 0) strcpy(r->place, n->control);
    return rc;
}

int registry_set_coordinator(registry *r, const coordinator_record *c) {
    assert(r->role == REGISTRY_COORDINATOR && c->boot == r->boot);
    int rc = publish(r, SLOT_RECORD, coordinator_record_pack(c));
    if (rc == 0) strcpy(r->place, c->client);
    return rc;
}

int registry_set_ready(registry *r, const ready_record *ready) {
    assert(r->role == REGISTRY_NODE && ready->boot == r->boot);
    return publish(r, SLOT_READY, ready_record_pack(ready));
}

void registry_resign(registry *r) {
    session_campaign(r->session, false);
    registry_drive(r);
}

void registry_campaign(registry *r) {
    if (r->role != REGISTRY_COORDINATOR) return;
    session_campaign(r->session, true);
    registry_drive(r);
}

/* ---- what is read ---- */

const rack_view *registry_view(const registry *r) {
    return r->listed ? r->view : NULL;
}

int64_t registry_term(const registry *r) {
    return session_term(r->session, registry_now_ms());
}

uint64_t registry_live_since(const registry *r) {
    return r->live_since;
}

json_t *registry_status(const registry *r) {
    bool back = rack_view_rolled_back(r->view);
    const char *why = r->why[0] != '\0' ? r->why : r->refusal;
    return json_pack(
        "{s:b, s:s, s:I, s:b, s:b, s:b, s:b, s:b, s:s}", "connected",
        r->live_since != 0, "endpoint", etcd_endpoint(r->etcd), "revision",
        (json_int_t)r->revision, "registered", session_registered(r->session),
        "leading", registry_term(r) != 0, "name_taken",
        session_name_taken(r->session), "rolled_back", back, "no_space",
        r->no_space, "why", why);
}
