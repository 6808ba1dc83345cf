/* weight_server.h - serves the model's files to nodes that have none.
 *
 * It says what files there are (ModelRequest) and gives pieces of them (Fetch);
 * one more file, after the last, is the manifest.  It gives units as well
 * (FetchUnit), each checked against the manifest before its first bytes are
 * given.  Loop thread only. */
#ifndef COORDINATOR_WEIGHT_SERVER_H
#define COORDINATOR_WEIGHT_SERVER_H

#include "coordinator/identity.h"
#include "engine/gguf.h"
#include "engine/manifest.h"
#include "engine/model.h"
#include "proto/bulk_server.h"

typedef struct {
    uv_loop_t *loop;
    const identity *self; /* borrowed, like the next three */
    const gguf *file;
    const manifest *checks;
    const model_config *model; /* NULL: no units are given */
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
bulk_server_stats weight_server_look(const weight_server *w);

#endif
