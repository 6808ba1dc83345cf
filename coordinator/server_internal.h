/* server_internal.h - the server's state, for server.c, answers.c, status.c,
 * server_drain.c and server_members.c. */
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
    conductor *conductor; /* NULL: the nodes are a list */
    const weight_server *shared;
    const char *reached_at;   /* by clients; "" until it is known */
    const char *const *peers; /* client endpoints of other coordinators */
    size_t n_peers;
    bool refusing, closing;
    int declined; /* 0: requests are taken */
    char declined_why[400];
};

/* Send to a client; takes *f.  The client and its requests may be gone after.
 */
void server_send(server *s, client *to, frames *f);

/* The answer to a message, to be filled in. */
message server_reply(const server *s, const message *asked, message_kind kind);
void server_send_message(server *s, client *to, const message *m);
void server_send_error(server *s, client *to, const message *asked, int code,
                       const char *text);

/* An operator's wish (Drain), answered when it is recorded. */
void server_on_drain(server *s, client *from, const frames *f,
                     const message *asked);

/* End a request with an error: cancelled, told to its client and forgotten.
 * The client may be gone after. */
void server_give_up(server *s, request *r, int code, const char *why);

#endif
