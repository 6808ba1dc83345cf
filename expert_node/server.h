/* server.h - a running expert node: its sockets, its loop and what serves.
 *
 * On a static list everything is loaded before it opens, and stays.  With etcd
 * it opens first, and then learns from the rack what to do (member.h). */
#ifndef EXPERT_NODE_SERVER_H
#define EXPERT_NODE_SERVER_H

#include <stddef.h>
#include "expert_node/config.h"
#include "expert_node/shard.h"

typedef struct server server;

/* Bind the sockets and make ready to serve.  `held` is a static list's filled
 * shard, or NULL with etcd; taken over, also on failure.  `c` is borrowed until
 * server_close().  On failure `why` names the endpoint or what was short. */
int server_open(server **out, const node_config *c, shard *held, char *why,
                size_t why_size);

/* Print "ready ENDPOINT" on stdout and serve until SIGTERM or SIGINT; the batch
 * being computed is finished and answered.  Call once.  Negative, with a
 * sentence, if it had to stop. */
int server_run(server *v, char *why, size_t why_size);

void server_close(server *v);

#endif
