/* weight_server.h - serves the model's files to nodes that have none: a socket
 * of its own, so that bulk data never stands before a client's token.
 *
 * It says what files there are (ModelRequest) and gives pieces of them (Fetch);
 * one more file, after the last, is the manifest.  Files are read by libuv's
 * threads, never by the loop.  What is read at once is bounded, over all peers
 * and for each; what goes beyond is refused with ERR_OVERLOADED.  Loop thread
 * only. */
#ifndef COORDINATOR_WEIGHT_SERVER_H
#define COORDINATOR_WEIGHT_SERVER_H

#include <uv.h>
#include "coordinator/identity.h"
#include "engine/gguf.h"
#include "engine/manifest.h"
#include "proto/link.h"

#define WEIGHT_SERVER_MOST 64   /* pieces read at once */
#define WEIGHT_SERVER_OF_PEER 8 /* of these for one peer */

typedef struct {
    uv_loop_t *loop;
    const identity *self; /* borrowed, like the next two */
    const gguf *file;
    const manifest *checks;
    link_config links;
    const char *listen; /* "tcp://HOST:PORT", '*' for any port */
} weight_server_config;

typedef struct weight_server weight_server;

/* On failure *out may be set and needs closing all the same.  `why` names the
 * file or the endpoint. */
int weight_server_open(weight_server **out, const weight_server_config *c,
                       char *why, size_t why_size);
/* Starts closing; run the loop until nothing is left, then _free(). */
void weight_server_close(weight_server *w);
void weight_server_free(weight_server *w); /* NULL is fine */

const char *weight_server_endpoint(const weight_server *w);

typedef struct {
    uint64_t pieces, bytes, refusals; /* since the start */
    uint32_t outstanding;
} weight_server_stats;
weight_server_stats weight_server_look(const weight_server *w);

#endif
