/* etcd.c - opening, transactions, leases; see etcd.h.
 *
 * Quirks of etcd 3.4 that are met in this library:
 * - Unknown fields are ignored, so a misspelt name changes what is asked
 *   (etcd_build.c), and a transaction without a compare always writes.
 * - 64-bit numbers are strings, zeros are left out, keys and values are base64
 *   of the standard alphabet (etcd_json.c).
 * - A keepalive of an expired lease is answered 200, without "TTL".
 * - A watch from a compacted revision is created and then cancelled, and its
 *   stream stays open; without the header `hasleader` it hangs after a loss of
 *   quorum; progress is told every ten minutes only (etcd_watch.c).
 * - Writes without quorum end after 7 s with an error although they may be
 *   done later: unknown (etcd_call.c).
 * - The token goes into `Authorization` as it is, without a scheme, and is
 *   worth nothing after a restart of the member.  A client certificate with a
 *   common name is refused by the gateway; `--config-file` turns the gateway
 *   off, and then every path answers 404.
 * - Out of space, it refuses puts and new leases (429, code 8) until its alarm
 *   is disarmed, which needs the member's id: without one the request is
 *   answered as if all were well (etcd_upkeep.c).
 * - A cluster that is wiped and started again with the same addresses and the
 *   same --initial-cluster-token has the same cluster id: only its revision
 *   tells, and only until it has overtaken the old one. */
#include "discovery/libetcd/etcd.h"
#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "discovery/libetcd/etcd_build.h"
#include "discovery/libetcd/etcd_call.h"
#include "discovery/libetcd/etcd_watch.h"

#define DEFAULT_CONNECT_MS 1000
#define DEFAULT_REQUEST_MS 5000
#define DEFAULT_BODY ((uint64_t)64 << 20)
#define DEFAULT_LINE ((uint64_t)16 << 20)
#define TIME_MAX_MS 3600000

const char *etcd_code_text(etcd_code code) {
    static const char *const texts[] = {
        [ETCD_OK] = "ok",
        [ETCD_FALSE] = "the compare did not hold",
        [ETCD_REFUSED] = "refused",
        [ETCD_NO_SPACE] = "etcd is out of space",
        [ETCD_UNKNOWN] = "outcome unknown",
        [ETCD_AWAY] = "etcd is away",
        [ETCD_GONE] = "the lease is gone",
        [ETCD_BAD_ANSWER] = "bad answer",
        [ETCD_CANCELLED] = "cancelled",
        [ETCD_NO_MEMORY] = "no memory",
    };
    if ((size_t)code >= sizeof(texts) / sizeof(texts[0])) return "unknown code";
    return texts[code];
}

/* ---- opening ---- */

/* A copy without the slash at its end; NULL without memory. */
static char *copy_endpoint(const char *url) {
    size_t n = strlen(url);
    if (n > 0 && url[n - 1] == '/') n--;
    return strndup(url, n);
}

static bool has_part(CURLU *u, CURLUPart part) {
    char *text = NULL;
    bool has = curl_url_get(u, part, &text, 0) == CURLUE_OK;
    curl_free(text);
    return has;
}

/* Scheme, host, port and nothing else. */
static bool is_plain_url(CURLU *u, const char *url) {
    for (const char *c = url; *c != '\0'; c++) {
        if (*c <= ' ' || *c > '~') return false; /* it is named in documents */
    }
    bool http = strncmp(url, "http://", 7) == 0;
    if (!http && strncmp(url, "https://", 8) != 0) return false;
    if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK) return false;
    char *path = NULL;
    if (curl_url_get(u, CURLUPART_PATH, &path, 0) != CURLUE_OK) return false;
    bool no_path = strcmp(path, "/") == 0;
    curl_free(path);
    return no_path && !has_part(u, CURLUPART_USER) &&
           !has_part(u, CURLUPART_PASSWORD) && !has_part(u, CURLUPART_QUERY) &&
           !has_part(u, CURLUPART_FRAGMENT);
}

static int check_endpoint(const char *url, char *why, size_t why_size) {
    CURLU *u = curl_url();
    if (u == NULL) return -ENOMEM;
    bool plain = is_plain_url(u, url);
    curl_url_cleanup(u);
    if (plain) return 0;
    if (strchr(url, '@') != NULL) {
        snprintf(why, why_size, "%s",
                 "an endpoint of etcd has a user or password in it, which are "
                 "given apart from it");
        return -EINVAL;
    }
    snprintf(why, why_size,
             "\"%s\" is no endpoint of etcd, like http://127.0.0.1:2379", url);
    return -EINVAL;
}

static int check_file(const char *what, const char *path, char *why,
                      size_t why_size) {
    if (path == NULL || access(path, R_OK) == 0) return 0;
    int rc = -errno;
    snprintf(why, why_size, "%s %s: %s", what, path, strerror(-rc));
    return rc;
}

static int check_config(const etcd_config *c, char *why, size_t why_size) {
    if (c->n_endpoints == 0 || c->n_endpoints > ETCD_ENDPOINTS_MAX) {
        snprintf(why, why_size, "%zu endpoints of etcd; 1 to %d are possible",
                 c->n_endpoints, ETCD_ENDPOINTS_MAX);
        return -EINVAL;
    }
    for (size_t i = 0; i < c->n_endpoints; i++) {
        int rc = check_endpoint(c->endpoints[i], why, why_size);
        if (rc < 0) return rc;
    }
    if ((c->user == NULL) != (c->password == NULL) ||
        (c->cert_file == NULL) != (c->key_file == NULL)) {
        snprintf(why, why_size, "%s",
                 "a user needs a password, and a certificate its key");
        return -EINVAL;
    }
    if (c->connect_ms > TIME_MAX_MS || c->request_ms > TIME_MAX_MS) {
        snprintf(why, why_size, "a time above %d ms", TIME_MAX_MS);
        return -EINVAL;
    }
    int rc = check_file("certificate authorities", c->ca_file, why, why_size);
    if (rc == 0) rc = check_file("certificate", c->cert_file, why, why_size);
    if (rc == 0) rc = check_file("key", c->key_file, why, why_size);
    return rc;
}

static void free_etcd(etcd *e) {
    for (size_t i = 0; i < e->n_endpoints; i++)
        free(e->endpoints[i]);
    free(e->endpoints);
    free(e->user);
    free(e->password);
    free(e->ca_file);
    free(e->cert_file);
    free(e->key_file);
    free(e->token);
    free(e);
}

/* True if `from` is NULL or was copied. */
static bool copy_text(char **to, const char *from) {
    if (from == NULL) return true;
    *to = strdup(from);
    return *to != NULL;
}

static int copy_config(etcd *e, const etcd_config *c) {
    e->loop = c->loop;
    e->connect_ms = c->connect_ms > 0 ? c->connect_ms : DEFAULT_CONNECT_MS;
    e->request_ms = c->request_ms > 0 ? c->request_ms : DEFAULT_REQUEST_MS;
    e->max_body = c->max_body > 0 ? c->max_body : DEFAULT_BODY;
    e->max_line = c->max_line > 0 ? c->max_line : DEFAULT_LINE;
    e->endpoints = calloc(c->n_endpoints, sizeof(*e->endpoints));
    if (e->endpoints == NULL) return -ENOMEM;
    for (size_t i = 0; i < c->n_endpoints; i++) {
        e->endpoints[i] = copy_endpoint(c->endpoints[i]);
        if (e->endpoints[i] == NULL) return -ENOMEM;
        e->n_endpoints++;
    }
    bool copied = copy_text(&e->user, c->user) &&
                  copy_text(&e->password, c->password) &&
                  copy_text(&e->ca_file, c->ca_file) &&
                  copy_text(&e->cert_file, c->cert_file) &&
                  copy_text(&e->key_file, c->key_file);
    return copied ? 0 : -ENOMEM;
}

int etcd_open(etcd **out, const etcd_config *c, char *why, size_t why_size) {
    *out = NULL;
    int rc = check_config(c, why, why_size);
    if (rc < 0) return rc;

    etcd *e = calloc(1, sizeof(*e));
    rc = e == NULL ? -ENOMEM : copy_config(e, c);
    if (rc < 0) goto fail;

    etcd_http_tls tls = {e->ca_file, e->cert_file, e->key_file};
    rc = etcd_http_open(&e->http, e->loop, &tls);
    if (rc < 0) goto fail;
    uv_timer_init(e->loop, &e->closer); /* cannot fail */
    e->closer.data = e;
    e->n_handles = 2;
    *out = e;
    return 0;

fail:
    snprintf(why, why_size, "cannot set up etcd's client: %s", strerror(-rc));
    if (e != NULL) free_etcd(e);
    return rc;
}

const char *etcd_endpoint(const etcd *e) {
    return e->has_answered ? e->endpoints[e->current] : "";
}

/* ---- closing ---- */

void etcd_release_handle(etcd *e) {
    assert(e->n_handles > 0);
    if (--e->n_handles > 0) return;
    if (e->on_closed != NULL) e->on_closed(e->ctx);
    free_etcd(e);
}

static void on_http_closed(void *ctx) {
    etcd_release_handle(ctx);
}

static void on_closer_closed(uv_handle_t *handle) {
    etcd_release_handle(handle->data);
}

/* From the loop: the last callbacks come here. */
static void on_closer(uv_timer_t *timer) {
    etcd *e = timer->data;
    etcd_call_end_all(e);
    etcd_watch_end_all(e);
    etcd_http_close(e->http, on_http_closed, e);
    uv_close((uv_handle_t *)&e->closer, on_closer_closed);
}

void etcd_close(etcd *e, void (*on_closed)(void *ctx), void *ctx) {
    if (e == NULL || e->closing) return;
    e->closing = true;
    e->on_closed = on_closed;
    e->ctx = ctx;
    etcd_call_silence(e);
    etcd_watch_silence(e);
    uv_timer_start(&e->closer, on_closer, 0, 0);
}

/* ---- transactions ---- */

typedef struct {
    etcd_call call; /* first: a call is a commit */
    etcd_parse_asked asked;
    etcd_parse_txn_out answer;
    etcd_txn_cb cb;
    void *ctx;
} commit;

static etcd_code read_commit(etcd_call *c, const char *body, size_t len,
                             etcd_why *why) {
    commit *t = (commit *)c;
    int rc = etcd_parse_txn(body, len, &t->asked, &t->answer, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    c->header = t->answer.header;
    return t->answer.succeeded ? ETCD_OK : ETCD_FALSE;
}

static void on_commit(etcd_call *c, const etcd_answer *a) {
    commit *t = (commit *)c;
    t->cb(t->ctx, a, t->answer.reads, t->answer.n_reads);
}

static void drop_commit(etcd_call *c) {
    etcd_parse_txn_fini(&((commit *)c)->answer);
}

int etcd_commit(etcd *e, const etcd_txn *txn, etcd_txn_cb cb, void *ctx) {
    commit *t = calloc(1, sizeof(*t));
    if (t == NULL) return -ENOMEM;
    int rc = etcd_build_txn(&t->call.body, txn);
    if (rc < 0) {
        etcd_text_fini(&t->call.body);
        free(t);
        return rc;
    }
    t->asked.n_then = txn->n_then;
    t->asked.n_otherwise = txn->n_otherwise;
    for (size_t i = 0; i < txn->n_then; i++)
        t->asked.then[i] = (uint8_t)txn->then[i].kind;
    for (size_t i = 0; i < txn->n_otherwise; i++)
        t->asked.otherwise[i] = (uint8_t)txn->otherwise[i].kind;
    t->cb = cb;
    t->ctx = ctx;
    t->call.path = "/v3/kv/txn";
    t->call.is_write = true;
    t->call.read = read_commit;
    t->call.done = on_commit;
    t->call.drop = drop_commit;
    return etcd_call_begin(e, &t->call);
}

/* ---- leases ---- */

typedef struct {
    etcd_call call; /* first: a call is a lease_call */
    int64_t lease;  /* asked for; 0: a new one */
    int64_t ttl_s;
    etcd_lease_cb cb;
    void *ctx;
} lease_call;

static etcd_code read_lease(etcd_call *c, const char *body, size_t len,
                            etcd_why *why) {
    lease_call *l = (lease_call *)c;
    etcd_parse_lease_out out;
    int rc = etcd_parse_lease(body, len, &out, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    if (l->lease != 0 && out.id != l->lease) {
        snprintf(why->text, sizeof(why->text), "another lease than asked for");
        return ETCD_BAD_ANSWER;
    }
    if (l->lease == 0 && out.ttl_s == 0) {
        snprintf(why->text, sizeof(why->text), "a new lease without time");
        return ETCD_BAD_ANSWER;
    }
    c->header = out.header;
    l->lease = out.id;
    l->ttl_s = out.ttl_s;
    return out.ttl_s == 0 ? ETCD_GONE : ETCD_OK;
}

static etcd_code read_plain(etcd_call *c, const char *body, size_t len,
                            etcd_why *why) {
    int rc = etcd_parse_plain(body, len, &c->header, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;
    return ETCD_OK;
}

static void on_lease(etcd_call *c, const etcd_answer *a) {
    lease_call *l = (lease_call *)c;
    l->cb(l->ctx, a, l->lease, l->ttl_s);
}

static lease_call *new_lease_call(int64_t lease, etcd_lease_cb cb, void *ctx) {
    lease_call *l = calloc(1, sizeof(*l));
    if (l == NULL) return NULL;
    l->lease = lease;
    l->cb = cb;
    l->ctx = ctx;
    l->call.read = read_lease;
    l->call.done = on_lease;
    return l;
}

int etcd_grant(etcd *e, int64_t ttl_s, etcd_lease_cb cb, void *ctx) {
    if (ttl_s <= 0) return -EINVAL;
    lease_call *l = new_lease_call(0, cb, ctx);
    if (l == NULL) return -ENOMEM;
    l->call.path = "/v3/lease/grant";
    l->call.is_write = true;
    etcd_build_grant(&l->call.body, ttl_s);
    return etcd_call_begin(e, &l->call);
}

/* Twice is as good as once, so for asking other endpoints it is no write. */
int etcd_keep_alive(etcd *e, int64_t lease, etcd_lease_cb cb, void *ctx) {
    if (lease == 0) return -EINVAL;
    lease_call *l = new_lease_call(lease, cb, ctx);
    if (l == NULL) return -ENOMEM;
    l->call.path = "/v3/lease/keepalive";
    etcd_build_lease(&l->call.body, lease);
    return etcd_call_begin(e, &l->call);
}

int etcd_revoke(etcd *e, int64_t lease, etcd_lease_cb cb, void *ctx) {
    if (lease == 0) return -EINVAL;
    lease_call *l = new_lease_call(lease, cb, ctx);
    if (l == NULL) return -ENOMEM;
    l->call.path = "/v3/lease/revoke";
    l->call.is_write = true;
    l->call.read = read_plain;
    etcd_build_lease(&l->call.body, lease);
    return etcd_call_begin(e, &l->call);
}
