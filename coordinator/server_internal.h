/* server_internal.h - the server's state, for server.c, answers.c and status.c. */
#ifndef COORDINATOR_SERVER_INTERNAL_H
#define COORDINATOR_SERVER_INTERNAL_H

#include "coordinator/clients.h"
#include "coordinator/server.h"
#include "proto/zmq_watch.h"

struct server {
    server_config config;
    const nodes *nodes; /* NULL until they are open */
    struct link *link;
    zmq_watch *watch;
    message_arena *arena;
    clients *clients;
    uv_timer_t flush;
    uv_timer_cb on_flush;
    uint64_t last_id;
    uint64_t started_ms;
    uint64_t tokens_generated;
    bool refusing, closing;
};

/* Send to a client; takes *f.  The client and its requests may be gone after. */
void server_send(server *s, client *to, frames *f);

#endif
