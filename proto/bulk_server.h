/* bulk_server.h - an endpoint for bulk data: answers ModelRequest, Fetch and
 * FetchUnit out of whatever its owner reads from.
 *
 * A socket of its own, so that bulk data never stands before a client's token
 * or a batch.  Requests are checked on the loop and read by libuv's threads,
 * which also make the answer's checksum.  What is read at once is bounded, over
 * all peers and for each; what goes beyond is refused with ERR_OVERLOADED.
 * Loop thread only, but for `read`. */
#ifndef PROTO_BULK_SERVER_H
#define PROTO_BULK_SERVER_H

#include <uv.h>
#include "proto/link.h"
#include "proto/message.h"

#define BULK_SERVER_MOST 64   /* pieces read at once, unless the owner says */
#define BULK_SERVER_OF_PEER 8 /* of these for one peer */

/* What the owner knows.  `why` is for a sentence; an empty one becomes the
 * code's.  A request's kind is the one that the function is for, its body is
 * checked as far as message_open() can. */
typedef struct {
    /* Fill in m->model of an answer; what it points to must stay until the next
     * call.  NULL: nobody learns the model here. */
    int (*describe)(void *ctx, message *m);
    /* May this be read, and how many bytes are it?  Of MESSAGE_FETCH and
     * MESSAGE_FETCH_UNIT. */
    int (*plan)(void *ctx, const message *asked, size_t *bytes, char *why,
                size_t why_size);
    /* Read what was planned, on any thread, several at once. */
    int (*read)(void *ctx, const message *asked, void *out, char *why,
                size_t why_size);
    void *ctx;
} bulk_source;

typedef struct {
    uv_loop_t *loop;
    const char *cluster; /* borrowed */
    uint64_t boot_id;
    bulk_source source;
    link_config links;  /* queue and part sizes are the server's own */
    const char *listen; /* "tcp://HOST:PORT", '*' for any port */
    uint32_t most;      /* 0: BULK_SERVER_MOST */
} bulk_server_config;

typedef struct bulk_server bulk_server;

/* On failure *out may be set and needs closing all the same.  `why` names the
 * endpoint. */
int bulk_server_open(bulk_server **out, const bulk_server_config *c, char *why,
                     size_t why_size);
/* Starts closing; run the loop until nothing is left, then _free().  NULL is
 * fine, and so is a second time. */
void bulk_server_close(bulk_server *b);
/* Nothing is being read any more: after _close(), when this says so, no
 * function of the source is called again. */
bool bulk_server_idle(const bulk_server *b);
/* Called once it is idle; from _close(), or later from the loop. */
void bulk_server_on_idle(bulk_server *b, void (*on_idle)(void *ctx), void *ctx);
void bulk_server_free(bulk_server *b); /* NULL is fine */

/* Which model is served; until then everything is ERR_NOT_HERE. */
void bulk_server_serve(bulk_server *b,
                       const uint8_t fingerprint[MESSAGE_FINGERPRINT]);

const char *bulk_server_endpoint(const bulk_server *b);

typedef struct {
    uint64_t pieces, bytes, refusals; /* since the start */
    uint32_t outstanding;
} bulk_server_stats;
bulk_server_stats bulk_server_look(const bulk_server *b);

#endif
