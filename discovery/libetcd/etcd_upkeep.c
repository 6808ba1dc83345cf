/* etcd_upkeep.c - compaction, and the way out when etcd's quota is used up; see
 * etcd.h.
 *
 * Answers of the maintenance service have no header, so that what is told of
 * them has no revision. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_build.h"
#include "discovery/libetcd/etcd_call.h"

/* etcd rewrites its whole file for a defragmentation, at most 8 GB. */
#define SLOW_MS 60000

/* A request that is answered by "done". */
typedef struct {
    etcd_call call; /* first: a call is an upkeep */
    etcd_done_cb cb;
    void *ctx;
} upkeep;

static etcd_code read_header(etcd_call *c, const char *body, size_t len,
                             etcd_why *why) {
    int rc = etcd_parse_plain(body, len, &c->header, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    return ETCD_OK;
}

static upkeep *upkeep_new(const char *path, etcd_done_cb cb, void *ctx) {
    upkeep *u = calloc(1, sizeof(*u));
    if (u == NULL) return NULL;
    u->cb = cb;
    u->ctx = ctx;
    u->call.path = path;
    u->call.is_write = true;
    return u;
}

static void on_done(etcd_call *c, const etcd_answer *a) {
    upkeep *u = (upkeep *)c;
    u->cb(u->ctx, a);
}

/* ---- compaction ---- */

/* Already compacted is what was asked for. */
static void on_compacted(etcd_call *c, const etcd_answer *a) {
    upkeep *u = (upkeep *)c;
    etcd_answer b = *a;
    if (a->code == ETCD_REFUSED && strstr(a->why, "has been compacted")) {
        b.code = ETCD_OK;
        b.why = "";
    }
    u->cb(u->ctx, &b);
}

static int compact(etcd *e, int64_t revision, bool fully, etcd_done_cb cb,
                   void *ctx) {
    if (revision <= 0) return -EINVAL;
    upkeep *u = upkeep_new("/v3/kv/compaction", cb, ctx);
    if (u == NULL) return -ENOMEM;
    u->call.total_ms = fully ? SLOW_MS : 0;
    u->call.read = read_header;
    u->call.done = on_compacted;
    etcd_build_compaction(&u->call.body, revision, fully);
    return etcd_call_begin(e, &u->call);
}

int etcd_compact(etcd *e, int64_t revision, etcd_done_cb cb, void *ctx) {
    return compact(e, revision, false, cb, ctx);
}

int etcd_compact_fully(etcd *e, int64_t revision, etcd_done_cb cb, void *ctx) {
    return compact(e, revision, true, cb, ctx);
}

/* ---- defragmentation ---- */

static etcd_code read_empty(etcd_call *c, const char *body, size_t len,
                            etcd_why *why) {
    size_t n;
    uint64_t members[ETCD_ALARMS_MAX];
    (void)c;
    int rc = etcd_parse_alarms(body, len, members, &n, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    return ETCD_OK;
}

int etcd_defragment(etcd *e, size_t endpoint, etcd_done_cb cb, void *ctx) {
    if (endpoint >= e->n_endpoints) return -EINVAL;
    upkeep *u = upkeep_new("/v3/maintenance/defragment", cb, ctx);
    if (u == NULL) return -ENOMEM;
    u->call.is_pinned = true;
    u->call.endpoint = endpoint;
    u->call.total_ms = SLOW_MS;
    u->call.read = read_empty;
    u->call.done = on_done;
    etcd_text_add(&u->call.body, "{}");
    return etcd_call_begin(e, &u->call);
}

size_t etcd_endpoints(const etcd *e) {
    return e->n_endpoints;
}

/* ---- alarms ---- */

typedef struct {
    etcd_call call; /* first: a call is a question for alarms */
    uint64_t members[ETCD_ALARMS_MAX];
    size_t n;
    etcd_alarms_cb cb;
    void *ctx;
} alarms;

static etcd_code read_alarms(etcd_call *c, const char *body, size_t len,
                             etcd_why *why) {
    alarms *q = (alarms *)c;
    int rc = etcd_parse_alarms(body, len, q->members, &q->n, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    return ETCD_OK;
}

static void on_alarms(etcd_call *c, const etcd_answer *a) {
    alarms *q = (alarms *)c;
    q->cb(q->ctx, a, q->members, a->code == ETCD_OK ? q->n : 0);
}

int etcd_no_space_alarms(etcd *e, etcd_alarms_cb cb, void *ctx) {
    alarms *q = calloc(1, sizeof(*q));
    if (q == NULL) return -ENOMEM;
    q->cb = cb;
    q->ctx = ctx;
    q->call.path = "/v3/maintenance/alarm";
    q->call.read = read_alarms;
    q->call.done = on_alarms;
    etcd_build_alarms(&q->call.body);
    return etcd_call_begin(e, &q->call);
}

int etcd_disarm(etcd *e, uint64_t member, etcd_done_cb cb, void *ctx) {
    if (member == 0) return -EINVAL;
    upkeep *u = upkeep_new("/v3/maintenance/alarm", cb, ctx);
    if (u == NULL) return -ENOMEM;
    u->call.read = read_empty;
    u->call.done = on_done;
    etcd_build_disarm(&u->call.body, member);
    return etcd_call_begin(e, &u->call);
}
