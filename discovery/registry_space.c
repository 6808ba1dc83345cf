/* registry_space.c - an etcd whose quota is used up, and the way out.
 *
 * etcd refuses every put and every new lease then, but keeps the leases there
 * are, so that a rack goes on as it is.  What is in the way is mostly history:
 * compacted, and the files rewritten, there is room again, and the alarm can be
 * taken back.  Each step waits for the one before:
 *
 *   alarms -> revision -> compact -> defragment endpoint 0, 1, ... -> disarm
 *   each -> alarms
 *
 * An endpoint that does not answer is passed over: its member is away, or full
 * still, and the alarms at the end tell. */
#include "discovery/registry_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define MEMBERS_MAX 64
#define LOOK_EVERY_MS 5000

struct reclaim {
    registry *registry;
    bool only_look, again;
    uint64_t members[MEMBERS_MAX];
    size_t n_members, next;
    registry_space found;
    registry_space_done cb;
    void *ctx;
};

bool registry_no_space(const registry *r) {
    return r->no_space;
}

static void set_no_space(registry *r, bool is) {
    if (is == r->no_space) return;
    r->no_space = is;
    r->space_looked_ms = now_ms();
    if (is) {
        log_error("etcd is out of space and refuses writes: serving goes on, "
                  "nothing is placed until an operator runs `roster recover`");
    } else {
        log_info("etcd has space again");
    }
    registry_notify(r);
}

void registry_note_space(registry *r, const etcd_answer *a) {
    if (a->code == ETCD_OK) set_no_space(r, false);
    if (a->code != ETCD_NO_SPACE) return;
    snprintf(r->refusal, sizeof(r->refusal), "%s", a->why);
    set_no_space(r, true);
}

/* ---- the end ---- */

static void end(reclaim *q, etcd_code code, const char *why) {
    registry *r = q->registry;
    r->reclaiming = NULL;
    if (code == ETCD_OK && r->phase == REGISTRY_RUNNING) {
        set_no_space(r, false);
        r->refusal[0] = '\0';
    }
    q->cb(q->ctx, code, why, &q->found);
    free(q);
}

/* A call that could not be begun. */
static void begun(reclaim *q, int rc) {
    if (rc == 0) return;
    end(q, rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_CANCELLED, err_text(rc));
}

/* ---- step by step ---- */

static void ask_alarms(reclaim *q);

static void disarm_next(reclaim *q);

static void on_disarmed(void *ctx, const etcd_answer *a) {
    reclaim *q = ctx;
    if (a->code != ETCD_OK) {
        end(q, a->code, a->why);
        return;
    }
    q->found.disarmed++;
    disarm_next(q);
}

static void disarm_next(reclaim *q) {
    if (q->next == q->n_members) {
        q->again = true;
        ask_alarms(q);
        return;
    }
    uint64_t member = q->members[q->next++];
    begun(q, etcd_disarm(q->registry->etcd, member, on_disarmed, q));
}

static void defragment_next(reclaim *q);

static void on_defragmented(void *ctx, const etcd_answer *a) {
    reclaim *q = ctx;
    if (a->code == ETCD_CANCELLED) {
        end(q, a->code, a->why);
        return;
    }
    if (a->code == ETCD_OK) {
        q->found.defragmented++;
    } else {
        q->found.not_defragmented++;
        log_warn("etcd: not defragmented: %s", a->why);
    }
    defragment_next(q);
}

static void defragment_next(reclaim *q) {
    etcd *e = q->registry->etcd;
    if (q->next == etcd_endpoints(e)) {
        q->next = 0;
        disarm_next(q);
        return;
    }
    begun(q, etcd_defragment(e, q->next++, on_defragmented, q));
}

static void on_compacted(void *ctx, const etcd_answer *a) {
    reclaim *q = ctx;
    if (a->code != ETCD_OK) {
        end(q, a->code, a->why);
        return;
    }
    q->next = 0;
    defragment_next(q);
}

static void on_revision(void *ctx, const etcd_answer *a, const etcd_kv *kvs,
                        size_t n, bool more) {
    reclaim *q = ctx;
    (void)kvs;
    (void)n;
    (void)more;
    if (a->code != ETCD_OK) {
        end(q, a->code, a->why);
        return;
    }
    q->found.compacted = a->revision;
    begun(q,
          etcd_compact_fully(q->registry->etcd, a->revision, on_compacted, q));
}

/* Up to the store's own revision: history of keys that are not ours fills it as
 * well. */
static void compact(reclaim *q) {
    const own_key *own = &q->registry->own[SLOT_RECORD];
    const etcd_range any = {.key = own->key, .key_len = own->key_len};
    begun(q, etcd_get(q->registry->etcd, &any, on_revision, q));
}

static void on_alarms(void *ctx, const etcd_answer *a, const uint64_t *members,
                      size_t n) {
    reclaim *q = ctx;
    if (a->code != ETCD_OK) {
        end(q, a->code, a->why);
        return;
    }
    if (n == 0) {
        end(q, ETCD_OK, "");
        return;
    }
    set_no_space(q->registry, true);
    if (!q->again) q->found.alarms = (uint32_t)n;
    if (q->only_look || q->again) {
        end(q, ETCD_NO_SPACE,
            q->again ? "etcd is still out of space: its data needs a larger "
                       "--quota-backend-bytes"
                     : "etcd is out of space");
        return;
    }
    q->n_members = size_min(n, MEMBERS_MAX);
    memcpy(q->members, members, q->n_members * sizeof(*members));
    compact(q);
}

static void ask_alarms(reclaim *q) {
    begun(q, etcd_no_space_alarms(q->registry->etcd, on_alarms, q));
}

int registry_reclaim(registry *r, bool only_look, registry_space_done cb,
                     void *ctx) {
    if (r->reclaiming != NULL) return -EBUSY;
    reclaim *q = calloc(1, sizeof(*q));
    if (q == NULL) return -ENOMEM;
    q->registry = r;
    q->only_look = only_look;
    q->cb = cb;
    q->ctx = ctx;
    int rc = etcd_no_space_alarms(r->etcd, on_alarms, q);
    if (rc < 0) {
        free(q);
        return rc;
    }
    r->reclaiming = q;
    return 0;
}

/* ---- is there space again? ---- */

static void on_looked(void *ctx, etcd_code code, const char *why,
                      const registry_space *found) {
    (void)ctx;
    (void)code;
    (void)why;
    (void)found;
}

/* Whoever has nothing to write would not notice. */
void registry_look_for_space(registry *r) {
    uint64_t now = now_ms();
    if (!r->no_space || now - r->space_looked_ms < LOOK_EVERY_MS) return;
    r->space_looked_ms = now;
    (void)registry_reclaim(r, true, on_looked, r);
}
