/* etcd_http.h - HTTP POSTs by libcurl on a libuv loop.
 *
 * One etcd_http is one curl multi handle: connections are kept and reused.
 * Callbacks come from the loop, never from within a call, and never from within
 * curl, so they may begin and cancel anything, the etcd_http included. */
#ifndef DISCOVERY_LIBETCD_ETCD_HTTP_H
#define DISCOVERY_LIBETCD_ETCD_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef struct etcd_http etcd_http;
typedef struct etcd_transfer etcd_transfer;

/* Borrowed until the etcd_http is closed; NULL: see etcd_config. */
typedef struct {
    const char *ca_file, *cert_file, *key_file;
} etcd_http_tls;

int etcd_http_open(etcd_http **out, uv_loop_t *loop, const etcd_http_tls *tls);
/* Ends all transfers without a callback.  on_closed comes from the loop; the
 * etcd_http is freed after it. */
void etcd_http_close(etcd_http *h, void (*on_closed)(void *ctx), void *ctx);

typedef struct {
    bool answered;   /* a whole answer came; else `error` says what happened */
    bool maybe_sent; /* some of the request may have reached the server */
    bool too_large;  /* ended because it went over max_bytes */
    long status;
    const char *body; /* [len] and a zero */
    size_t len;
    const char *error;
} etcd_http_answer;
typedef void (*etcd_http_done_cb)(void *ctx, const etcd_http_answer *a);
/* What came so far of an answer with status 200; returns how much of it is
 * done with, the rest comes again when there is more. */
typedef size_t (*etcd_http_data_cb)(void *ctx, const char *data, size_t len);

typedef struct {
    const char *endpoint, *path; /* the URL is the one behind the other */
    const char *body;            /* copied */
    size_t body_len;
    const char *token; /* NULL: none */
    bool has_leader;   /* end the answer when the member has no leader */
    /* On a connection of its own: on a kept one that turns out to be closed,
     * curl sends a request a second time, and a write must not be. */
    bool once;
    uint32_t connect_ms;
    uint32_t total_ms;         /* 0: for ever */
    uint64_t max_bytes;        /* of the answer, or of what on_data leaves */
    etcd_http_data_cb on_data; /* NULL: the whole answer comes to on_done */
    etcd_http_done_cb on_done;
    void *ctx;
} etcd_http_request;

/* -ENOMEM, or -ECANCELED while it closes: then on_done does not come. */
int etcd_http_post(etcd_transfer **out, etcd_http *h,
                   const etcd_http_request *r);
/* No callback follows.  NULL is fine.  Not after on_done began. */
void etcd_http_cancel(etcd_transfer *t);

#endif
