/* etcd_watch.c - watching a prefix, over broken connections; see etcd.h.
 *
 * A watch is a stream: one POST whose answer does not end.  A stream that says
 * nothing may be well, or half open, or served by a member cut off from the
 * others, and etcd 3.4 tells progress every ten minutes only.  So every
 * CHECK_EVERY_MS the same endpoint is asked for the newest key under the prefix
 * that was written after what the stream has covered, linearizably:
 * - no answer in time: the member, or its quorum, is away; break off;
 * - such a key, and the stream has not said a byte until the next check: it is
 *   stalled though the member is well; break off;
 * - the store's revision is below what was covered, or it is another cluster:
 *   lost (a member that merely lags behind cannot answer this way);
 * - no such key: live.  A deletion cannot be seen this way, so `covered` is
 *   moved only by what the stream itself says.
 * The same check precedes each connection, so it decides alone about LOST, and
 * logs in when etcd wants that.
 *
 * etcd walks all keys under the prefix for that question.  With an anchor it is
 * asked before each connection, and while the stream is silent although the
 * store's revision rises (by others' keys, most likely), every WIDE_EVERY_MS at
 * most.  Otherwise the question is for the anchor alone.
 *
 * etcd's `hasleader` ends the stream when its member has no leader, which is
 * sooner than the check notices; keepalives of TCP (etcd_http.c) notice a
 * machine that is gone.
 *
 * The revision to go on from is that of the last event, not of the header it
 * came with: while etcd catches up, it sends a thousand revisions at a time
 * under the header of the newest. */
#include "discovery/libetcd/etcd_watch.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_build.h"
#include "discovery/libetcd/etcd_call.h"

#define CHECK_EVERY_MS 2000
#define CHECK_TIMEOUT_MS 3000
#define WIDE_EVERY_MS 30000
#define BACKOFF_FIRST_MS 100
#define BACKOFF_LAST_MS 1000

/* A key's history, as far as it was handed over; 0, 0: it is not there. */
typedef struct {
    int64_t create_revision, mod_revision;
} stamp;

struct etcd_watch {
    etcd *etcd;
    etcd_watch *next, *prev;
    uint8_t *prefix;
    size_t prefix_len;
    uint64_t cluster_id; /* 0: not known yet */
    uint64_t member_id;
    size_t endpoint;

    uv_timer_t timer; /* until the next check, or the next try */
    etcd_call *check; /* under way, or NULL */
    etcd_transfer *stream;
    size_t searched; /* of what the stream holds: no end of line */
    uint32_t backoff_ms;

    int64_t covered; /* all up to here was handed over */
    int64_t newest;  /* of the keys under the prefix, at the last check; 0: no
                      * newer one than covered */
    uint8_t *anchor; /* NULL: none */
    size_t anchor_len;
    stamp known;           /* of the anchor */
    bool missed;           /* it was not there, at the last check */
    int64_t wide_revision; /* of the store, at the last wide check */
    uint64_t wide_ms;      /* when that was */
    int64_t revision;      /* of the store, at the last check */
    bool heard;            /* something came since the last check */
    bool created;          /* the stream runs */
    bool told_away;        /* since it was last live */
    bool ended;            /* LOST was told */
    bool closed;

    etcd_watch_cb cb;
    void *ctx;
};

typedef struct {
    etcd_call call; /* first: a call is a check */
    etcd_watch *watch;
    bool is_wide; /* else it is for the anchor */
    stamp found;  /* the newest key, or the anchor */
} check;

static void on_timer(uv_timer_t *timer);

/* ---- telling ---- */

static void tell(etcd_watch *w, etcd_watch_what what, etcd_code code,
                 const char *why, const etcd_parse_watch_out *line) {
    etcd_answer a = {
        .code = code,
        .why = why,
        .cluster_id = w->cluster_id,
        .member_id = w->member_id,
        .revision = w->covered,
    };
    w->cb(w->ctx, what, &a, line != NULL ? line->events : NULL,
          line != NULL ? line->n : 0);
}

/* After a callback: whether it ended what was going on. */
static bool is_over(const etcd_watch *w) {
    return w->closed || w->ended || w->etcd->closing;
}

static void stop(etcd_watch *w) {
    etcd_http_cancel(w->stream);
    etcd_call_cancel(w->check);
    w->stream = NULL;
    w->check = NULL;
    w->created = false;
    w->searched = 0;
    uv_timer_stop(&w->timer);
}

static void name_endpoint(const etcd_watch *w, const char *what,
                          char why[ETCD_WHY_MAX]) {
    snprintf(why, ETCD_WHY_MAX, "watch at %s: %s",
             w->etcd->endpoints[w->endpoint], what);
    etcd_text_clean(why);
}

/* The stream is of no use any more; another endpoint is tried soon. */
static void break_off(etcd_watch *w, const char *what) {
    char why[ETCD_WHY_MAX];
    name_endpoint(w, what, why);
    stop(w);
    etcd_call_blame(w->etcd, w->endpoint);
    w->endpoint = (w->endpoint + 1) % w->etcd->n_endpoints;
    uv_timer_start(&w->timer, on_timer, w->backoff_ms, 0);
    w->backoff_ms *= 2;
    if (w->backoff_ms > BACKOFF_LAST_MS) w->backoff_ms = BACKOFF_LAST_MS;
    if (w->told_away) return;
    w->told_away = true;
    tell(w, ETCD_WATCH_AWAY, ETCD_AWAY, why, NULL);
}

static void lose(etcd_watch *w, const char *what) {
    char why[ETCD_WHY_MAX];
    name_endpoint(w, what, why);
    stop(w);
    w->ended = true;
    tell(w, ETCD_WATCH_LOST, ETCD_REFUSED, why, NULL);
}

/* Connected, and nothing known to be missing. */
static void live(etcd_watch *w) {
    w->told_away = false;
    tell(w, ETCD_WATCH_LIVE, ETCD_OK, "", NULL);
}

/* ---- the stream ---- */

/* NULL, or what is wrong with the line's events.  Those of one revision come in
 * one line, so what was covered cannot come again. */
static const char *check_events(const etcd_watch *w,
                                const etcd_parse_watch_out *line) {
    for (size_t i = 0; i < line->n; i++) {
        const etcd_kv *kv = &line->events[i].kv;
        if (kv->key_len < w->prefix_len ||
            memcmp(kv->key, w->prefix, w->prefix_len) != 0)
            return "an event of a key that is not watched";
    }
    return NULL;
}

static void note_anchor(etcd_watch *w, const etcd_parse_watch_out *line) {
    if (w->anchor == NULL) return;
    for (size_t i = 0; i < line->n; i++) {
        const etcd_kv *kv = &line->events[i].kv;
        if (kv->key_len != w->anchor_len ||
            memcmp(kv->key, w->anchor, kv->key_len) != 0)
            continue;
        bool gone = line->events[i].deleted;
        w->known.create_revision = gone ? 0 : kv->create_revision;
        w->known.mod_revision = gone ? 0 : kv->mod_revision;
    }
}

static void on_events(etcd_watch *w, const etcd_parse_watch_out *line) {
    const char *wrong = check_events(w, line);
    if (wrong != NULL) {
        break_off(w, wrong);
        return;
    }
    if (line->events[0].kv.mod_revision <= w->covered) {
        /* Half of it may have been handed over as if it were the whole. */
        lose(w, "events of a revision that was handed over already");
        return;
    }
    bool was_behind = w->newest > w->covered;
    w->covered = line->events[line->n - 1].kv.mod_revision;
    note_anchor(w, line);
    tell(w, ETCD_WATCH_EVENTS, ETCD_OK, "", line);
    if (is_over(w) || !was_behind || w->newest > w->covered) return;
    live(w);
}

static void on_created(etcd_watch *w) {
    w->created = true;
    if (w->newest <= w->covered) live(w);
}

static void on_cancelled(etcd_watch *w, const etcd_parse_watch_out *line) {
    char why[ETCD_WHY_MAX];
    if (line->compact_revision > 0) {
        snprintf(why, sizeof(why),
                 "revision %" PRId64 " is compacted up to %" PRId64,
                 w->covered + 1, line->compact_revision);
        lose(w, why);
        return;
    }
    snprintf(why, sizeof(why), "etcd ended it: %s",
             line->reason[0] != '\0' ? line->reason : "no reason given");
    break_off(w, why);
}

static void on_line(etcd_watch *w, const etcd_parse_watch_out *line) {
    if (line->is_error) {
        break_off(w, line->error.message);
        return;
    }
    if (line->header.cluster_id != w->cluster_id) {
        lose(w, "another cluster answers");
        return;
    }
    w->member_id = line->header.member_id;
    if (line->canceled) {
        on_cancelled(w, line);
        return;
    }
    if (line->created) {
        on_created(w);
        return;
    }
    if (line->n > 0) {
        on_events(w, line);
        return;
    }
    /* Progress: nothing happened up to here. */
    if (line->header.revision > w->covered) w->covered = line->header.revision;
}

static void read_line(etcd_watch *w, const char *text, size_t len) {
    etcd_parse_watch_out line;
    etcd_why why = {""};
    int rc = etcd_parse_watch(text, len, &line, &why);
    if (rc < 0) {
        break_off(w, rc == -ENOMEM ? "no memory for an event" : why.text);
        return;
    }
    on_line(w, &line);
    etcd_parse_watch_fini(&line);
}

static size_t on_data(void *ctx, const char *data, size_t len) {
    etcd_watch *w = ctx;
    size_t used = 0;
    w->heard = true; /* part of a long line, too */
    for (;;) {
        size_t from = used + w->searched;
        const char *end = memchr(data + from, '\n', len - from);
        if (end == NULL) break;
        size_t n = (size_t)(end - data) - used;
        w->searched = 0;
        if (n > 0) read_line(w, data + used, n);
        used += n + 1;
        if (w->stream == NULL) return used; /* it ended */
    }
    w->searched = len - used;
    return used;
}

static void on_stream_end(void *ctx, const etcd_http_answer *a) {
    etcd_watch *w = ctx;
    etcd_parse_error_out error;
    etcd_why no_error;
    w->stream = NULL;
    if (a->too_large && a->status == 200) {
        /* It would come again with every connection: a history that etcd sends
         * as one line, since we were away for long.  What is now is less. */
        lose(w, "events that are larger than allowed");
    } else if (!a->answered) {
        break_off(w, a->error);
    } else if (etcd_parse_error(a->body, a->len, &error, &no_error) == 0) {
        break_off(w, error.message);
    } else {
        char what[64];
        snprintf(what, sizeof(what), "it ended with HTTP status %ld",
                 a->status);
        break_off(w, what);
    }
}

static int open_stream(etcd_watch *w) {
    etcd *e = w->etcd;
    etcd_text body = {0};
    etcd_build_watch(&body, w->prefix, w->prefix_len, w->covered + 1);
    if (body.failed) return -ENOMEM;
    etcd_http_request r = {
        .endpoint = e->endpoints[w->endpoint],
        .path = "/v3/watch",
        .body = body.data,
        .body_len = body.len,
        .token = e->token,
        .has_leader = true,
        .connect_ms = e->connect_ms,
        .max_bytes = e->max_line,
        .on_data = on_data,
        .on_done = on_stream_end,
        .ctx = w,
    };
    int rc = etcd_http_post(&w->stream, e->http, &r);
    etcd_text_fini(&body);
    return rc;
}

/* ---- the check ---- */

static etcd_code read_check(etcd_call *c, const char *body, size_t len,
                            etcd_why *why) {
    etcd_parse_range_out out;
    int rc = etcd_parse_range(body, len, &out, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    c->header = out.header;
    if (out.n > 0) {
        ((check *)c)->found.create_revision = out.kvs[0].create_revision;
        ((check *)c)->found.mod_revision = out.kvs[0].mod_revision;
    }
    etcd_parse_range_fini(&out);
    return ETCD_OK;
}

static int begin_check(etcd_watch *w, bool wide);

/* Could the anchor have got this stamp since what was handed over? */
static bool may_follow(etcd_watch *w, const stamp *found, int64_t revision) {
    const stamp *known = &w->known;
    bool missed = w->missed;
    w->missed = found->mod_revision == 0 && known->mod_revision != 0;
    /* Deleted just now, and the event is on its way?  It has one more look. */
    if (w->missed) return w->stream != NULL && revision > w->covered && !missed;
    if (found->mod_revision <= w->covered)
        return found->mod_revision == known->mod_revision &&
               found->create_revision == known->create_revision;
    return found->create_revision > w->covered ||
           found->create_revision == known->create_revision;
}

/* Are there newer keys than the stream brought?  As far as this check, or an
 * earlier one, can tell. */
static int64_t newest_of(const etcd_watch *w, const check *c) {
    int64_t newest = c->found.mod_revision;
    if (c->is_wide) return newest;
    if (newest < w->newest) newest = w->newest;
    return newest > w->covered ? newest : 0;
}

static bool wants_wide(const etcd_watch *w) {
    if (w->anchor == NULL) return true;
    if (w->stream == NULL || w->heard) return false;
    return w->revision > w->covered && w->revision > w->wide_revision &&
           uv_now(w->etcd->loop) - w->wide_ms >= WIDE_EVERY_MS;
}

/* The endpoint is well: what of the stream? */
static void connect_or_judge(etcd_watch *w, int64_t newest) {
    bool silent = !w->heard;
    bool behind = w->newest > w->covered; /* as of the last check */
    w->heard = false;
    w->newest = newest;
    if (w->stream == NULL) {
        if (open_stream(w) < 0) break_off(w, "no memory to connect");
        return;
    }
    if (!w->created) {
        break_off(w, "it does not begin");
        return;
    }
    if (behind && silent) {
        break_off(w, "events do not come");
        return;
    }
    /* Streams that end as soon as they begin are not made in a hurry. */
    w->backoff_ms = BACKOFF_FIRST_MS;
    if (newest <= w->covered) live(w);
}

static void on_check(etcd_call *call, const etcd_answer *a) {
    const check *c = (const check *)call;
    etcd_watch *w = c->watch;
    char why[ETCD_WHY_MAX];
    w->check = NULL;
    if (w->etcd->closing) return;
    if (a->code != ETCD_OK) {
        break_off(w, a->why);
        return;
    }
    if (w->cluster_id == 0) w->cluster_id = a->cluster_id;
    w->member_id = a->member_id;
    if (a->cluster_id != w->cluster_id) {
        lose(w, "another cluster answers");
        return;
    }
    if (a->revision < w->covered) {
        snprintf(why, sizeof(why),
                 "the store went back from revision %" PRId64 " to %" PRId64,
                 w->covered, a->revision);
        lose(w, why);
        return;
    }
    w->revision = a->revision;
    if (!c->is_wide && !may_follow(w, &c->found, a->revision)) {
        lose(w, "the store is another one: a key has not the history it had");
        return;
    }
    if (!c->is_wide && w->stream == NULL) {
        if (begin_check(w, true) < 0) break_off(w, "no memory");
        return;
    }
    if (c->is_wide) {
        w->wide_revision = a->revision;
        w->wide_ms = uv_now(w->etcd->loop);
    }
    uv_timer_start(&w->timer, on_timer, CHECK_EVERY_MS, 0);
    connect_or_judge(w, newest_of(w, c));
}

static int begin_check(etcd_watch *w, bool wide) {
    check *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    c->is_wide = wide;
    uint32_t longest = w->etcd->request_ms;
    c->watch = w;
    c->call.path = "/v3/kv/range";
    c->call.is_internal = true;
    c->call.is_pinned = true;
    c->call.endpoint = w->endpoint;
    c->call.total_ms = longest < CHECK_TIMEOUT_MS ? longest : CHECK_TIMEOUT_MS;
    c->call.read = read_check;
    c->call.done = on_check;
    if (wide) {
        etcd_build_newer(&c->call.body, w->prefix, w->prefix_len, w->covered);
    } else {
        etcd_build_stamp(&c->call.body, w->anchor, w->anchor_len);
    }
    int rc = etcd_call_begin(w->etcd, &c->call);
    w->check = rc < 0 ? NULL : &c->call;
    return rc;
}

static void on_timer(uv_timer_t *timer) {
    etcd_watch *w = timer->data;
    if (w->check == NULL && begin_check(w, wants_wide(w)) < 0)
        break_off(w, "no memory");
}

/* ---- open and close ---- */

static etcd_watch *new_watch(etcd *e, const void *prefix, size_t prefix_len) {
    etcd_watch *w = calloc(1, sizeof(*w));
    if (w == NULL) return NULL;
    w->prefix = malloc(prefix_len + 1);
    if (w->prefix == NULL) {
        free(w);
        return NULL;
    }
    if (prefix_len > 0) memcpy(w->prefix, prefix, prefix_len);
    w->prefix_len = prefix_len;
    w->etcd = e;
    w->endpoint = e->current;
    w->backoff_ms = BACKOFF_FIRST_MS;
    uv_timer_init(e->loop, &w->timer); /* cannot fail */
    w->timer.data = w;
    e->n_handles++;
    return w;
}

int etcd_watch_open(etcd_watch **out, etcd *e, const void *prefix,
                    size_t prefix_len, int64_t revision, uint64_t cluster_id,
                    etcd_watch_cb cb, void *ctx) {
    *out = NULL;
    if (e->closing) return -ECANCELED;
    if (revision <= 0) return -EINVAL;
    if (prefix_len > ETCD_REQUEST_BYTES_MAX) return -E2BIG;

    etcd_watch *w = new_watch(e, prefix, prefix_len);
    if (w == NULL) return -ENOMEM;
    w->cluster_id = cluster_id;
    w->covered = revision - 1;
    w->cb = cb;
    w->ctx = ctx;
    w->next = e->watches;
    if (w->next != NULL) w->next->prev = w;
    e->watches = w;
    uv_timer_start(&w->timer, on_timer, 0, 0);
    *out = w;
    return 0;
}

int etcd_watch_anchor(etcd_watch *w, const etcd_kv *key) {
    assert(w->anchor == NULL && w->stream == NULL && key->key_len > 0);
    w->anchor = malloc(key->key_len);
    if (w->anchor == NULL) return -ENOMEM;
    memcpy(w->anchor, key->key, key->key_len);
    w->anchor_len = key->key_len;
    w->known = (stamp){key->create_revision, key->mod_revision};
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    etcd_watch *w = handle->data;
    etcd *e = w->etcd;
    free(w->anchor);
    free(w->prefix);
    free(w);
    etcd_release_handle(e);
}

void etcd_watch_close(etcd_watch *w) {
    if (w == NULL || w->closed) return;
    w->closed = true;
    stop(w);
    if (w->prev != NULL) w->prev->next = w->next;
    if (w->next != NULL) w->next->prev = w->prev;
    if (w->etcd->watches == w) w->etcd->watches = w->next;
    uv_close((uv_handle_t *)&w->timer, on_closed);
}

void etcd_watch_silence(etcd *e) {
    for (etcd_watch *w = e->watches; w != NULL; w = w->next)
        stop(w);
}

void etcd_watch_end_all(etcd *e) {
    while (e->watches != NULL)
        etcd_watch_close(e->watches);
}
