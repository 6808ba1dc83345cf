/* etcd_http.c - see etcd_http.h.
 *
 * curl says which sockets it waits for and when it wants to be called again; a
 * poll handle for each socket and one timer do that on the loop.  Inside its
 * own callbacks curl allows no call that adds or removes a transfer, so what
 * arrives there is only kept, and pump() hands it over when curl has returned.
 *
 * A transfer whose callback runs is never freed under it: cancelling marks it,
 * and pump() frees it afterwards. */
#include "discovery/libetcd/etcd_http.h"
#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "discovery/libetcd/etcd_text.h"

#define KEPT_CONNECTIONS 8
/* A peer whose machine is gone is noticed after 3 + 3 * 2 s of silence. */
#define KEEPALIVE_IDLE_S 3
#define KEEPALIVE_EVERY_S 2
#define KEEPALIVE_COUNT 3
#define UNACKNOWLEDGED_MS 9000

typedef struct {
    uv_poll_t poll;
    etcd_http *http;
    curl_socket_t fd;
} waited_socket;

struct etcd_transfer {
    etcd_http *http;
    etcd_transfer *next, *prev; /* of all that run */
    CURL *curl;
    struct curl_slist *head;
    etcd_text answer;
    uint64_t max_bytes;
    etcd_http_data_cb on_data;
    etcd_http_done_cb on_done;
    void *ctx;
    bool fresh_data; /* came since the last on_data */
    bool too_large;
    bool calling;   /* a callback runs: not to be freed */
    bool cancelled; /* meanwhile */
    char error[CURL_ERROR_SIZE];
};

struct etcd_http {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    etcd_transfer *transfers;
    etcd_http_tls tls;
    size_t n_handles; /* of libuv, that live in this memory or point to it */
    bool closing;
    void (*on_closed)(void *ctx);
    void *ctx;
};

/* ---- handing over ---- */

static void free_transfer(etcd_transfer *t) {
    if (t == NULL) return;
    curl_easy_cleanup(t->curl);
    curl_slist_free_all(t->head);
    etcd_text_fini(&t->answer);
    free(t);
}

static void unlink_transfer(etcd_transfer *t) {
    etcd_http *h = t->http;
    if (t->prev != NULL) t->prev->next = t->next;
    if (t->next != NULL) t->next->prev = t->prev;
    if (h->transfers == t) h->transfers = t->next;
    t->next = t->prev = NULL;
    curl_multi_remove_handle(h->multi, t->curl);
}

void etcd_http_cancel(etcd_transfer *t) {
    if (t == NULL || t->cancelled) return;
    unlink_transfer(t);
    t->cancelled = true;
    if (!t->calling) free_transfer(t);
}

static long status_of(etcd_transfer *t) {
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static void hand_over_data(etcd_transfer *t) {
    t->fresh_data = false;
    if (t->on_data == NULL || status_of(t) != 200) return;

    t->calling = true;
    size_t used = t->on_data(t->ctx, t->answer.data, t->answer.len);
    t->calling = false;
    if (t->cancelled) {
        free_transfer(t);
        return;
    }
    assert(used <= t->answer.len);
    etcd_text_drop(&t->answer, used);
}

static void hand_over_end(etcd_transfer *t, CURLcode code) {
    long request_bytes = 0;
    curl_easy_getinfo(t->curl, CURLINFO_REQUEST_SIZE, &request_bytes);
    etcd_http_answer a = {
        .answered = code == CURLE_OK,
        .maybe_sent = request_bytes > 0,
        .too_large = t->too_large,
        .status = status_of(t),
        .body = t->answer.data != NULL ? t->answer.data : "",
        .len = t->answer.len,
        .error = t->error[0] != '\0' ? t->error : curl_easy_strerror(code),
    };
    if (t->too_large) a.error = "its answer is larger than allowed";
    if (t->answer.failed) a.error = "no memory for its answer";

    unlink_transfer(t);
    t->cancelled = true; /* a late etcd_http_cancel() has nothing to do */
    t->calling = true;
    t->on_done(t->ctx, &a);
    free_transfer(t);
}

static etcd_transfer *with_fresh_data(etcd_http *h) {
    for (etcd_transfer *t = h->transfers; t != NULL; t = t->next) {
        if (t->fresh_data && !t->calling) return t;
    }
    return NULL;
}

/* Callbacks change the list, so it is looked at anew after each. */
static void pump(etcd_http *h) {
    while (!h->closing) {
        etcd_transfer *t = with_fresh_data(h);
        if (t != NULL) {
            hand_over_data(t);
            continue;
        }
        int left;
        CURLMsg *m = curl_multi_info_read(h->multi, &left);
        if (m == NULL) return;
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result; /* m dies with the transfer */
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        hand_over_end(t, code);
    }
}

/* ---- what curl calls ---- */

static size_t on_write(char *data, size_t size, size_t n, void *arg) {
    etcd_transfer *t = arg;
    size_t bytes = size * n;
    if (bytes > t->max_bytes || t->answer.len > t->max_bytes - bytes) {
        t->too_large = true;
        return 0; /* ends the transfer */
    }
    etcd_text_bytes(&t->answer, data, bytes);
    if (t->answer.failed) return 0;
    t->fresh_data = t->on_data != NULL;
    return bytes;
}

static int on_sockopt(void *arg, curl_socket_t fd, curlsocktype purpose) {
    (void)arg;
    (void)purpose;
    int count = KEEPALIVE_COUNT, unacknowledged = UNACKNOWLEDGED_MS;
    /* curl sets the other keepalive times.  Failing changes only how soon a
     * dead peer is noticed. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged,
                     sizeof(unacknowledged));
    return CURL_SOCKOPT_OK;
}

static void act(etcd_http *h, curl_socket_t fd, int events) {
    int running;
    curl_multi_socket_action(h->multi, fd, events, &running);
    pump(h);
}

static void on_timer(uv_timer_t *timer) {
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_want_timer(CURLM *multi, long timeout_ms, void *arg) {
    etcd_http *h = arg;
    (void)multi;
    if (h->closing || timeout_ms < 0) {
        uv_timer_stop(&h->timer);
        return 0;
    }
    uv_update_time(h->loop);
    return uv_timer_start(&h->timer, on_timer, (uint64_t)timeout_ms, 0) < 0 ? -1
                                                                            : 0;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    waited_socket *s = poll->data;
    int flags = 0;
    if (status < 0) flags = CURL_CSELECT_ERR;
    if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
    act(s->http, s->fd, flags);
}

static void release(etcd_http *h) {
    assert(h->n_handles > 0);
    if (--h->n_handles > 0) return;
    if (h->on_closed != NULL) h->on_closed(h->ctx);
    free(h);
}

static void on_socket_closed(uv_handle_t *handle) {
    waited_socket *s = handle->data;
    etcd_http *h = s->http;
    free(s);
    release(h);
}

static waited_socket *wait_for(etcd_http *h, curl_socket_t fd) {
    waited_socket *s = calloc(1, sizeof(*s));
    if (s == NULL) return NULL;
    if (uv_poll_init_socket(h->loop, &s->poll, fd) < 0) {
        free(s);
        return NULL;
    }
    s->poll.data = s;
    s->http = h;
    s->fd = fd;
    h->n_handles++;
    curl_multi_assign(h->multi, fd, s);
    return s;
}

static int on_want_socket(CURL *curl, curl_socket_t fd, int what, void *arg,
                          void *socket_arg) {
    etcd_http *h = arg;
    waited_socket *s = socket_arg;
    (void)curl;
    if (what == CURL_POLL_REMOVE) {
        if (s == NULL) return 0;
        curl_multi_assign(h->multi, fd, NULL);
        uv_close((uv_handle_t *)&s->poll, on_socket_closed);
        return 0;
    }
    if (s == NULL) s = wait_for(h, fd);
    /* Without memory the transfer runs into its time.  Saying so would end the
     * multi handle, and every other transfer would wait for ever. */
    if (s == NULL) return 0;
    int events = 0;
    if (what != CURL_POLL_IN) events |= UV_WRITABLE;
    if (what != CURL_POLL_OUT) events |= UV_READABLE;
    (void)uv_poll_start(&s->poll, events, on_poll); /* likewise */
    return 0;
}

/* ---- one transfer ---- */

static int add_head(etcd_transfer *t, const char *name, const char *value) {
    etcd_text line = {0};
    etcd_text_add(&line, name);
    etcd_text_add(&line, value);
    struct curl_slist *longer =
        line.failed ? NULL : curl_slist_append(t->head, line.data);
    etcd_text_fini(&line);
    if (longer == NULL) return -ENOMEM;
    t->head = longer;
    return 0;
}

static int make_head(etcd_transfer *t, const etcd_http_request *r) {
    int rc = add_head(t, "Content-Type: ", "application/json");
    /* Else curl asks before it sends a large body, and waits for a second. */
    if (rc == 0) rc = add_head(t, "Expect:", "");
    if (rc == 0 && r->token != NULL)
        rc = add_head(t, "Authorization: ", r->token);
    if (rc == 0 && r->has_leader)
        rc = add_head(t, "Grpc-Metadata-hasleader: ", "true");
    return rc;
}

static CURLcode set_safety(etcd_transfer *t, const etcd_http_tls *tls) {
    CURLcode rc = 0;
    CURL *c = t->curl;
    rc |= curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    rc |= curl_easy_setopt(c, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    rc |= curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    rc |= curl_easy_setopt(c, CURLOPT_PROXY, "");
    rc |= curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    rc |= curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    rc |= curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L); /* no wait for DNS */
    rc |= curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    rc |= curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    rc |=
        curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (tls->ca_file != NULL) {
        rc |= curl_easy_setopt(c, CURLOPT_CAINFO, tls->ca_file);
        rc |= curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
    }
    if (tls->cert_file != NULL) {
        rc |= curl_easy_setopt(c, CURLOPT_SSLCERT, tls->cert_file);
        rc |= curl_easy_setopt(c, CURLOPT_SSLKEY, tls->key_file);
    }
    return rc;
}

static CURLcode set_times(etcd_transfer *t, const etcd_http_request *r) {
    CURLcode rc = 0;
    CURL *c = t->curl;
    rc |= curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)r->connect_ms);
    rc |= curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)r->total_ms);
    rc |= curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    rc |= curl_easy_setopt(c, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_IDLE_S);
    rc |= curl_easy_setopt(c, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_EVERY_S);
    rc |= curl_easy_setopt(c, CURLOPT_SOCKOPTFUNCTION, on_sockopt);
    return rc;
}

static CURLcode set_request(etcd_transfer *t, const etcd_http_request *r) {
    CURLcode rc = 0;
    CURL *c = t->curl;
    etcd_text url = {0};
    etcd_text_add(&url, r->endpoint);
    etcd_text_add(&url, r->path);
    if (url.failed) return CURLE_OUT_OF_MEMORY;
    rc |= curl_easy_setopt(c, CURLOPT_URL, url.data);
    etcd_text_fini(&url);
    rc |= curl_easy_setopt(c, CURLOPT_POST, 1L);
    rc |= curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE,
                           (curl_off_t)r->body_len);
    rc |= curl_easy_setopt(c, CURLOPT_COPYPOSTFIELDS, r->body);
    rc |= curl_easy_setopt(c, CURLOPT_HTTPHEADER, t->head);
    rc |= curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, r->once ? 1L : 0L);
    rc |= curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_write);
    rc |= curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    rc |= curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->error);
    rc |= curl_easy_setopt(c, CURLOPT_PRIVATE, t);
    return rc;
}

int etcd_http_post(etcd_transfer **out, etcd_http *h,
                   const etcd_http_request *r) {
    *out = NULL;
    if (h->closing) return -ECANCELED;

    etcd_transfer *t = calloc(1, sizeof(*t));
    if (t == NULL) return -ENOMEM;
    t->http = h;
    t->max_bytes = r->max_bytes;
    t->on_data = r->on_data;
    t->on_done = r->on_done;
    t->ctx = r->ctx;
    t->curl = curl_easy_init();
    if (t->curl == NULL || make_head(t, r) < 0 ||
        set_safety(t, &h->tls) != CURLE_OK || set_times(t, r) != CURLE_OK ||
        set_request(t, r) != CURLE_OK ||
        curl_multi_add_handle(h->multi, t->curl) != CURLM_OK) {
        free_transfer(t);
        return -ENOMEM;
    }
    t->next = h->transfers;
    if (t->next != NULL) t->next->prev = t;
    h->transfers = t;
    *out = t;
    return 0;
}

/* ---- open and close ---- */

static CURLcode global_result;

static void global_init(void) {
    global_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static CURLM *make_multi(etcd_http *h) {
    CURLM *m = curl_multi_init();
    if (m == NULL) return NULL;
    CURLMcode rc = CURLM_OK;
    rc |= curl_multi_setopt(m, CURLMOPT_SOCKETFUNCTION, on_want_socket);
    rc |= curl_multi_setopt(m, CURLMOPT_SOCKETDATA, h);
    rc |= curl_multi_setopt(m, CURLMOPT_TIMERFUNCTION, on_want_timer);
    rc |= curl_multi_setopt(m, CURLMOPT_TIMERDATA, h);
    rc |= curl_multi_setopt(m, CURLMOPT_MAXCONNECTS, (long)KEPT_CONNECTIONS);
    if (rc == CURLM_OK) return m;
    curl_multi_cleanup(m);
    return NULL;
}

int etcd_http_open(etcd_http **out, uv_loop_t *loop, const etcd_http_tls *tls) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    *out = NULL;
    pthread_once(&once, global_init);
    if (global_result != CURLE_OK) return -ENOMEM;

    etcd_http *h = calloc(1, sizeof(*h));
    if (h == NULL) return -ENOMEM;
    h->loop = loop;
    h->tls = *tls;
    h->multi = make_multi(h);
    int rc = h->multi == NULL ? -ENOMEM : uv_timer_init(loop, &h->timer);
    if (rc < 0) {
        if (h->multi != NULL) curl_multi_cleanup(h->multi);
        free(h);
        return rc;
    }
    h->timer.data = h;
    h->n_handles = 1;
    *out = h;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle) {
    release(handle->data);
}

void etcd_http_close(etcd_http *h, void (*on_closed)(void *ctx), void *ctx) {
    assert(!h->closing);
    h->closing = true;
    h->on_closed = on_closed;
    h->ctx = ctx;
    while (h->transfers != NULL)
        etcd_http_cancel(h->transfers);
    /* Takes the kept connections along; curl says of each socket that it waits
     * for it no more. */
    curl_multi_cleanup(h->multi);
    uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}
