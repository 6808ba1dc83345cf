/* registry_watch.c - keeps the view true: lists everything, then watches; and
 * says in the log, once each, that etcd went away and came back.
 *
 * A listing is of one revision, and the watch begins with the next, so nothing
 * falls between.  When the watch is lost (events were compacted away, or the
 * store is not the one it was), everything is listed anew. */
#include "discovery/registry_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

static void on_watch(void *ctx, etcd_watch_what what, const etcd_answer *a,
                     const etcd_event *events, size_t n);

/* ---- here and away ---- */

/* "placement 1.12", or "no placement" */
static const char *placement_text(const registry *r, char out[48]) {
    const rack_placement *p = rack_view_placement(r->view);
    snprintf(out, 48, "no placement");
    if (p != NULL) {
        const epoch_record *head = rack_placement_head(p);
        snprintf(out, 48, "placement %llu.%llu",
                 (unsigned long long)head->incarnation,
                 (unsigned long long)head->epoch);
    }
    return out;
}

static void tell_away(registry *r, const char *why) {
    char placement[48];
    snprintf(r->why, sizeof(r->why), "%s", why);
    r->live_since = 0;
    if (r->seen == ETCD_NEVER_SEEN) {
        if (!r->waiting_told) {
            log_warn("etcd does not answer (%s); waiting for it", why);
        }
        r->waiting_told = true;
    } else if (r->seen == ETCD_HERE) {
        r->seen = ETCD_NOT_HERE;
        r->away_since = now_ms();
        log_warn("etcd is away (%s): serving goes on with %s", why,
                 placement_text(r, placement));
    }
    registry_notify(r);
}

static void tell_here(registry *r) {
    char placement[48];
    bool news = r->live_since == 0 || r->seen != ETCD_HERE;
    if (!news) return;

    if (r->seen == ETCD_NEVER_SEEN) {
        log_info("etcd is there (%s): %s", etcd_endpoint(r->etcd),
                 placement_text(r, placement));
    } else if (r->seen == ETCD_NOT_HERE) {
        log_info("etcd is back (%s) after %.1f s: %s", etcd_endpoint(r->etcd),
                 (double)(now_ms() - r->away_since) / 1000.0,
                 placement_text(r, placement));
    }
    r->seen = ETCD_HERE;
    r->why[0] = '\0';
    r->live_since = now_ms();
    session_reachable(r->session);
    registry_notify(r);
    registry_drive(r);
}

/* A placement older than the one in use, or none where there was one. */
static void tell_rolled_back(registry *r) {
    char placement[48];
    bool back = rack_view_rolled_back(r->view);
    if (back == r->told_rolled_back) return;
    r->told_rolled_back = back;
    placement_text(r, placement);
    if (back) {
        log_warn("etcd has no placement, or an older one: it was restored or "
                 "wiped; serving goes on with %s, and nothing is placed until "
                 "an operator runs `roster recover`",
                 placement);
    } else {
        log_info("etcd's placement is not older any more: %s", placement);
    }
}

/* ---- feeding the view ---- */

static own_key *own_of(registry *r, const void *key, size_t key_len) {
    for (int i = 0; i < SESSION_SLOTS; i++) {
        own_key *own = &r->own[i];
        if (own->key_len == key_len && memcmp(own->key, key, key_len) == 0) {
            return own;
        }
    }
    return NULL;
}

/* false without memory: the view lacks something, and must be listed anew. */
static bool feed(registry *r, const etcd_kv *kv) {
    char why[REGISTRY_WHY] = "", key[RECORD_KEY];
    if (kv->key_len < r->prefix_len) return true; /* not asked for */

    int rc =
        rack_view_put(r->view, (const char *)kv->key + r->prefix_len,
                      kv->key_len - r->prefix_len, kv->value, kv->value_len,
                      kv->create_revision, kv->mod_revision, why, sizeof(why));
    if (rc == 0) return true;
    if (rc == -ENOMEM) return false;
    snprintf(key, sizeof(key), "%.*s", (int)kv->key_len, (const char *)kv->key);
    log_warn("etcd: %s cannot be read and is passed over: %s", key, why);
    return true;
}

static bool settle(registry *r) {
    char why[REGISTRY_WHY] = "";
    int rc = rack_view_settle(r->view, why, sizeof(why));
    if (rc < 0 && rc != -ENOMEM) {
        log_warn("etcd's placement is not taken up: %s", why);
    }
    tell_rolled_back(r);
    return rc != -ENOMEM;
}

/* ---- listing ---- */

static void list_later(registry *r) {
    uint32_t wait = r->list_retry_ms;
    r->list_retry_ms =
        wait * 2 < REGISTRY_RETRY_MOST_MS ? wait * 2 : REGISTRY_RETRY_MOST_MS;
    uv_timer_start(&r->list_timer, registry_on_list_timer, wait, 0);
}

/* At once, or later if that did not help just now. */
static void list_again(registry *r) {
    if (r->list_retry_ms > REGISTRY_RETRY_MS) {
        list_later(r);
        return;
    }
    r->list_retry_ms = 2 * REGISTRY_RETRY_MS;
    registry_list(r);
}

/* Own keys that a listing lacks are sighted too: as absent. */
static void sight_listing(registry *r, const etcd_kv *kvs, size_t n,
                          int64_t revision) {
    const etcd_kv *found[SESSION_SLOTS] = {NULL};
    for (size_t i = 0; i < n; i++) {
        const own_key *own = own_of(r, kvs[i].key, kvs[i].key_len);
        if (own != NULL) found[own->slot] = &kvs[i];
    }
    for (int i = 0; i < SESSION_SLOTS; i++) {
        registry_sight(r, &r->own[i], found[i], revision);
    }
}

/* The placement's epoch is the key that tells whether the store is the same:
 * never deleted, rarely changed, and what matters most. */
static int watch_from(registry *r, const etcd_answer *a, const etcd_kv *kvs,
                      size_t n) {
    char key[RECORD_KEY];
    record_key(r->cluster, RECORD_EPOCH, NULL, 0, key);
    etcd_kv anchor = {.key = key, .key_len = strlen(key)};
    for (size_t i = 0; i < n; i++) {
        if (kvs[i].key_len == anchor.key_len &&
            memcmp(kvs[i].key, key, anchor.key_len) == 0) {
            anchor = kvs[i];
        }
    }
    assert(r->watch == NULL);
    int rc = etcd_watch_open(&r->watch, r->etcd, r->prefix, r->prefix_len,
                             a->revision + 1, a->cluster_id, on_watch, r);
    return rc == 0 ? etcd_watch_anchor(r->watch, &anchor) : rc;
}

static bool take_listing(registry *r, const etcd_kv *kvs, size_t n,
                         int64_t revision) {
    rack_view_clear(r->view);
    for (size_t i = 0; i < n; i++) {
        if (!feed(r, &kvs[i])) return false;
    }
    if (!settle(r)) return false;
    r->revision = revision;
    r->listed = true;
    if (r->listing_anew) session_forget(r->session);
    r->listing_anew = false;
    sight_listing(r, kvs, n, revision);
    return true;
}

static void on_listed(void *ctx, const etcd_answer *a, const etcd_kv *kvs,
                      size_t n, bool more) {
    registry *r = ctx;
    (void)more;
    r->listing = false;
    if (r->phase != REGISTRY_RUNNING) return;

    if (a->code != ETCD_OK) {
        tell_away(r, a->why);
        list_later(r);
        return;
    }
    if (!take_listing(r, kvs, n, a->revision) || watch_from(r, a, kvs, n) < 0) {
        tell_away(r, "out of memory for what it says");
        list_later(r);
        return;
    }
    registry_notify(r);
    registry_drive(r);
}

void registry_list(registry *r) {
    const etcd_range all = {
        .key = r->prefix, .key_len = r->prefix_len, .prefix = true};
    if (r->phase != REGISTRY_RUNNING || r->listing) return;
    etcd_watch_close(r->watch);
    r->watch = NULL;
    r->live_since = 0;
    if (etcd_get(r->etcd, &all, on_listed, r) < 0) {
        list_later(r);
        return;
    }
    r->listing = true;
}

void registry_on_list_timer(uv_timer_t *timer) {
    registry_list(timer->data);
}

/* ---- watching ---- */

static void take_events(registry *r, const etcd_answer *a,
                        const etcd_event *events, size_t n) {
    bool whole = true;
    for (size_t i = 0; i < n; i++) {
        const etcd_kv *kv = &events[i].kv;
        own_key *own = own_of(r, kv->key, kv->key_len);
        if (own != NULL) {
            registry_sight(r, own, events[i].deleted ? NULL : kv,
                           kv->mod_revision);
        }
        if (!events[i].deleted) {
            whole = feed(r, kv) && whole;
        } else if (kv->key_len >= r->prefix_len) {
            rack_view_delete(r->view, (const char *)kv->key + r->prefix_len,
                             kv->key_len - r->prefix_len);
        }
    }
    whole = settle(r) && whole;
    if (a->revision > r->revision) r->revision = a->revision;
    registry_notify(r);
    if (!whole) registry_list(r);
    registry_drive(r);
}

static void lose_sight(registry *r) {
    r->listing_anew = true;
    r->live_since = 0;
    list_again(r);
    registry_notify(r);
}

static void on_watch(void *ctx, etcd_watch_what what, const etcd_answer *a,
                     const etcd_event *events, size_t n) {
    registry *r = ctx;
    if (r->phase != REGISTRY_RUNNING) return;

    switch (what) {
    case ETCD_WATCH_EVENTS:
        take_events(r, a, events, n);
        break;
    case ETCD_WATCH_LIVE:
        if (a->revision > r->revision) r->revision = a->revision;
        /* The second time: what was listed has held for a while. */
        if (r->live_since != 0) r->list_retry_ms = REGISTRY_RETRY_MS;
        tell_here(r);
        registry_look_for_space(r);
        break;
    case ETCD_WATCH_AWAY:
        tell_away(r, a->why);
        break;
    case ETCD_WATCH_LOST:
        log_warn("etcd's history cannot be followed (%s): everything is read "
                 "anew",
                 a->why);
        lose_sight(r);
        break;
    }
}

void registry_list_anew(registry *r) {
    if (r->phase == REGISTRY_RUNNING && r->listed) lose_sight(r);
}
