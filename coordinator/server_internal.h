/* server_internal.h - the server's state, for server.c, answers.c and status.c.
 */
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
    uv_check_t room; /* active while something waits to be sent */
    uv_timer_t flush, probe;
    uint32_t flush_ms; /* longer while nothing can be sent */
    uint64_t last_id;
    uint64_t started_ms;
    uint64_t tokens_generated;
    bool refusing, closing;
};

/* Send to a client; takes *f.  The client and its requests may be gone after.
 */
void server_send(server *s, client *to, frames *f);

/* End a request with an error: cancelled, told to its client and forgotten.
 * The client may be gone after. */
void server_give_up(server *s, request *r, int code, const char *why);

#endif
