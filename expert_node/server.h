/* server.h - a running expert node: its sockets, its loop and its worker.
 *
 * Two threads beside the compute pool: the loop answers control messages, the
 * worker owns the batches (worker.h). */
#ifndef EXPERT_NODE_SERVER_H
#define EXPERT_NODE_SERVER_H

#include <stddef.h>
#include "expert_node/config.h"
#include "expert_node/shard.h"

typedef struct server server;

/* Bind the sockets and make ready to serve.  `c` and `s` are borrowed until
 * server_close().  On failure `why` names the endpoint or what was short. */
int server_open(server **out, const node_config *c, const shard *s, char *why,
                size_t why_size);

/* Print "ready ENDPOINT" on stdout and serve until SIGTERM or SIGINT; the batch
 * being computed is finished and answered.  Call once. */
int server_run(server *v);

void server_close(server *v);

#endif
