/* etcd_sync.c - see etcd_sync.h. */
#include "tests/support/etcd_sync.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PORT_CLAIMS "/tmp/roster-test-ports" /* etcd.py's, too */
#define PORT_LEAST 10000 /* below those that are given to who asks for any */
#define PORT_COUNT 22000
#define CALL_MS 30000 /* of a call to the only member */

/* ---- the loop ---- */

/* What is waited for is looked at before each sleep of the loop: a callback
 * that ran from a timer must not be followed by a sleep. */
typedef struct {
    uv_timer_t patience;
    uv_prepare_t look;
    const bool *flag; /* or, if NULL: */
    const unsigned *counter;
    unsigned than;
    unsigned n_open;
} waiting;

static void on_no_patience(uv_timer_t *timer) {
    (void)timer;
    fprintf(stderr, "nothing came for %d s\n", ETCD_SYNC_PATIENCE_S);
    abort();
}

static bool is_there(const waiting *w) {
    return w->flag != NULL ? *w->flag : *w->counter > w->than;
}

static void on_look(uv_prepare_t *look) {
    if (is_there(look->data)) uv_stop(look->loop);
}

static void on_handle_closed(uv_handle_t *handle) {
    unsigned *n_open = handle->data;
    --*n_open;
}

static void end_handle(uv_handle_t *handle, unsigned *n_open) {
    ++*n_open;
    handle->data = n_open;
    uv_close(handle, on_handle_closed);
}

static void wait_for(etcd_sync *s, waiting *w) {
    uv_timer_init(&s->loop, &w->patience);
    uv_prepare_init(&s->loop, &w->look);
    w->look.data = w;
    uv_update_time(&s->loop);
    uv_timer_start(&w->patience, on_no_patience, ETCD_SYNC_PATIENCE_S * 1000,
                   0);
    uv_prepare_start(&w->look, on_look);
    while (!is_there(w))
        uv_run(&s->loop, UV_RUN_DEFAULT);
    end_handle((uv_handle_t *)&w->patience, &w->n_open);
    end_handle((uv_handle_t *)&w->look, &w->n_open);
    while (w->n_open > 0)
        uv_run(&s->loop, UV_RUN_NOWAIT);
}

void etcd_sync_until(etcd_sync *s, const bool *flag) {
    waiting w = {.flag = flag};
    wait_for(s, &w);
}

void etcd_sync_until_more(etcd_sync *s, const unsigned *counter,
                          unsigned than) {
    waiting w = {.counter = counter, .than = than};
    wait_for(s, &w);
}

static void on_time(uv_timer_t *timer) {
    *(bool *)timer->data = true;
}

void etcd_sync_for(etcd_sync *s, uint64_t ms) {
    bool over = false;
    uv_timer_t timer;
    uv_timer_init(&s->loop, &timer);
    uv_update_time(&s->loop);
    timer.data = &over;
    uv_timer_start(&timer, on_time, ms, 0);
    etcd_sync_until(s, &over);
    unsigned n_open = 0;
    end_handle((uv_handle_t *)&timer, &n_open);
    while (n_open > 0)
        uv_run(&s->loop, UV_RUN_NOWAIT);
}

void etcd_sync_open(etcd_sync *s, const etcd_config *config) {
    char why[256] = "";
    memset(s, 0, sizeof(*s));
    int rc = uv_loop_init(&s->loop);
    assert(rc == 0);
    etcd_config c = *config;
    c.loop = &s->loop;
    rc = etcd_open(&s->etcd, &c, why, sizeof(why));
    if (rc < 0) fprintf(stderr, "%s\n", why);
    assert(rc == 0);
    s->events = calloc(ETCD_SYNC_EVENTS, sizeof(*s->events));
    assert(s->events != NULL);
}

void etcd_sync_open_at(etcd_sync *s, const char *const *endpoints, size_t n) {
    etcd_config c = {.endpoints = endpoints,
                     .n_endpoints = n,
                     .request_ms = n == 1 ? CALL_MS : 0};
    etcd_sync_open(s, &c);
}

static void on_closed(void *ctx) {
    etcd_sync *s = ctx;
    s->closed = true;
    s->etcd = NULL;
    s->watch = NULL;
}

void etcd_sync_close(etcd_sync *s) {
    if (s->events == NULL) return;
    if (s->etcd != NULL) {
        etcd_close(s->etcd, on_closed, s);
        etcd_sync_until(s, &s->closed);
    }
    int rc = uv_loop_close(&s->loop);
    assert(rc == 0);
    free(s->kvs);
    free(s->events);
    s->kvs = NULL;
    s->events = NULL;
}

/* ---- calls ---- */

static void keep_kv(etcd_sync_kv *to, const etcd_kv *from) {
    memset(to, 0, sizeof(*to));
    snprintf(to->key, sizeof(to->key), "%s", (const char *)from->key);
    snprintf(to->value, sizeof(to->value), "%s",
             from->value != NULL ? (const char *)from->value : "");
    to->value_len = from->value_len;
    to->create_revision = from->create_revision;
    to->mod_revision = from->mod_revision;
    to->lease = from->lease;
}

static void keep_answer(etcd_sync *s, const etcd_answer *a) {
    s->code = a->code;
    snprintf(s->why, sizeof(s->why), "%s", a->why);
    s->cluster_id = a->cluster_id;
    s->revision = a->revision;
    s->n_calls_back++;
}

static void keep_kvs(etcd_sync *s, const etcd_kv *kvs, size_t n) {
    free(s->kvs);
    s->kvs = calloc(n + 1, sizeof(*s->kvs));
    assert(s->kvs != NULL);
    for (size_t i = 0; i < n; i++)
        keep_kv(&s->kvs[i], &kvs[i]);
    s->n = n;
}

static void on_range(void *ctx, const etcd_answer *a, const etcd_kv *kvs,
                     size_t n, bool more) {
    etcd_sync *s = ctx;
    keep_answer(s, a);
    keep_kvs(s, kvs, n);
    s->more = more;
}

static void on_txn(void *ctx, const etcd_answer *a, const etcd_kv *reads,
                   size_t n) {
    keep_answer(ctx, a);
    keep_kvs(ctx, reads, n);
}

static void on_lease(void *ctx, const etcd_answer *a, int64_t lease,
                     int64_t ttl_s) {
    etcd_sync *s = ctx;
    keep_answer(s, a);
    s->lease = lease;
    s->ttl_s = ttl_s;
}

static void on_done(void *ctx, const etcd_answer *a) {
    keep_answer(ctx, a);
}

/* The call began with rc; its callback must not have come yet. */
static etcd_code wait_for_call(etcd_sync *s, int rc, unsigned before) {
    assert(rc == 0);
    assert(s->n_calls_back == before);
    etcd_sync_until_more(s, &s->n_calls_back, before);
    assert(s->n_calls_back == before + 1);
    return s->code;
}

etcd_code etcd_sync_range(etcd_sync *s, const etcd_range *r) {
    unsigned before = s->n_calls_back;
    return wait_for_call(s, etcd_get(s->etcd, r, on_range, s), before);
}

etcd_code etcd_sync_get(etcd_sync *s, const char *key, bool prefix) {
    etcd_range r = {.key = key, .key_len = strlen(key), .prefix = prefix};
    return etcd_sync_range(s, &r);
}

etcd_code etcd_sync_commit(etcd_sync *s, const etcd_txn *t) {
    unsigned before = s->n_calls_back;
    return wait_for_call(s, etcd_commit(s->etcd, t, on_txn, s), before);
}

static etcd_code commit_op(etcd_sync *s, const etcd_op *op,
                           etcd_relation relation, int64_t version) {
    etcd_compare compare = {.key = op->key,
                            .key_len = op->key_len,
                            .target = ETCD_VERSION,
                            .relation = relation,
                            .number = version};
    etcd_txn t = {
        .compares = &compare, .n_compares = 1, .then = op, .n_then = 1};
    return etcd_sync_commit(s, &t);
}

etcd_code etcd_sync_put(etcd_sync *s, const char *key, const char *value) {
    etcd_op op = {.kind = ETCD_PUT,
                  .key = key,
                  .value = value,
                  .key_len = strlen(key),
                  .value_len = strlen(value)};
    return commit_op(s, &op, ETCD_GREATER, -1);
}

etcd_code etcd_sync_put_leased(etcd_sync *s, const char *key, int64_t lease) {
    etcd_op op = {.kind = ETCD_PUT,
                  .key = key,
                  .value = "leased",
                  .key_len = strlen(key),
                  .value_len = 6,
                  .lease = lease};
    return commit_op(s, &op, ETCD_GREATER, -1);
}

etcd_code etcd_sync_create(etcd_sync *s, const char *key, const char *value) {
    etcd_op op = {.kind = ETCD_PUT,
                  .key = key,
                  .value = value,
                  .key_len = strlen(key),
                  .value_len = strlen(value)};
    return commit_op(s, &op, ETCD_EQUAL, 0);
}

etcd_code etcd_sync_delete(etcd_sync *s, const char *key) {
    etcd_op op = {.kind = ETCD_DELETE, .key = key, .key_len = strlen(key)};
    return commit_op(s, &op, ETCD_GREATER, -1);
}

etcd_code etcd_sync_grant(etcd_sync *s, int64_t ttl_s) {
    unsigned before = s->n_calls_back;
    return wait_for_call(s, etcd_grant(s->etcd, ttl_s, on_lease, s), before);
}

etcd_code etcd_sync_keep_alive(etcd_sync *s, int64_t lease) {
    unsigned before = s->n_calls_back;
    return wait_for_call(s, etcd_keep_alive(s->etcd, lease, on_lease, s),
                         before);
}

etcd_code etcd_sync_revoke(etcd_sync *s, int64_t lease) {
    unsigned before = s->n_calls_back;
    return wait_for_call(s, etcd_revoke(s->etcd, lease, on_lease, s), before);
}

etcd_code etcd_sync_compact(etcd_sync *s, int64_t revision) {
    unsigned before = s->n_calls_back;
    return wait_for_call(s, etcd_compact(s->etcd, revision, on_done, s),
                         before);
}

void etcd_sync_expect(const etcd_sync *s, etcd_code code) {
    bool good = code == ETCD_OK || code == ETCD_FALSE;
    if (s->code != code)
        fail_msg("%s, not %s: %s", etcd_code_text(s->code),
                 etcd_code_text(code), s->why);
    assert_int_equal(s->why[0] == '\0', good);
}

/* ---- the watch ---- */

static void on_watch(void *ctx, etcd_watch_what what, const etcd_answer *a,
                     const etcd_event *events, size_t n) {
    etcd_sync *s = ctx;
    s->covered = a->revision;
    snprintf(s->watch_why, sizeof(s->watch_why), "%s", a->why);
    s->n_live += what == ETCD_WATCH_LIVE;
    s->n_away += what == ETCD_WATCH_AWAY;
    s->n_lost += what == ETCD_WATCH_LOST;
    s->n_lines += what == ETCD_WATCH_EVENTS;
    assert((n > 0) == (what == ETCD_WATCH_EVENTS));
    for (size_t i = 0; i < n; i++) {
        assert(s->n_events < ETCD_SYNC_EVENTS);
        keep_kv(&s->events[s->n_events], &events[i].kv);
        s->events[s->n_events++].deleted = events[i].deleted;
    }
}

void etcd_sync_watch(etcd_sync *s, const char *prefix, int64_t revision,
                     uint64_t cluster_id) {
    etcd_sync_unwatch(s);
    s->n_live = s->n_away = s->n_lost = s->n_lines = 0;
    s->n_events = 0;
    int rc = etcd_watch_open(&s->watch, s->etcd, prefix, strlen(prefix),
                             revision, cluster_id, on_watch, s);
    assert(rc == 0);
}

void etcd_sync_unwatch(etcd_sync *s) {
    etcd_watch_close(s->watch);
    s->watch = NULL;
}

/* ---- ports ---- */

static bool nobody_has(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(fd >= 0);
    int rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
    close(fd);
    return rc == 0;
}

/* No other test takes it as long as we live: the lock stays. */
static bool claim(int port) {
    char path[64];
    snprintf(path, sizeof(path), PORT_CLAIMS "/%d", port);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    assert(fd >= 0);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && nobody_has(port)) return true;
    close(fd);
    return false;
}

int etcd_sync_free_port(void) {
    mkdir(PORT_CLAIMS, 0777);
    for (;;) {
        uint16_t draw;
        ssize_t n = getrandom(&draw, sizeof(draw), 0);
        assert(n == sizeof(draw));
        int port = PORT_LEAST + draw % PORT_COUNT;
        if (claim(port)) return port;
    }
}
