/* clients.h - who is connected, what waits to be sent to whom, and which
 * requests belong to whom: the loop thread's tables.
 *
 * A client that stops reading fills its own outbox and nobody else's; its
 * requests are then held back.  One that has gone loses its requests. */
#ifndef COORDINATOR_CLIENTS_H
#define COORDINATOR_CLIENTS_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/tokenizer.h"
#include "proto/link.h"
#include "proto/message.h"

#define CLIENTS_MAX 1024
#define CLIENT_HOLD_BYTES ((size_t)32 << 20)  /* waiting: hold its requests */
#define CLIENT_RESUME_BYTES ((size_t)8 << 20) /* below: let them go on */
#define CLIENT_MOST_BYTES ((size_t)192 << 20) /* beyond: it is cut off */

typedef struct client client;

/* What the node in some place had computed when a request began. */
typedef struct {
    uint64_t serial; /* of the node, see nodes_pairs() */
    uint64_t pairs;
} pairs_count;

/* One request of a client, as the loop sees it. */
typedef struct request {
    struct request *next;
    client *owner;
    uint64_t id;         /* ours, unique */
    uint64_t request_id; /* the client's */
    uint64_t boot_id;    /* the client's */
    utf8_stream text;
    uint64_t delivered_bytes;
    char *head; /* text that a resume owes before the first token */
    size_t head_bytes;
    uint32_t first_index; /* of the first token: after those resumed */
    uint64_t takeovers_at_start;
    pairs_count *at_start; /* [n_at_start], by place; owned */
    uint32_t n_at_start;
    uint64_t local_at_start; /* pairs that we computed ourselves */
} request;

typedef struct {
    struct link *link; /* ROUTER; borrowed */
    void (*on_hold)(void *ctx, const request *r, bool held);
    void (*on_gone)(void *ctx, const request *r); /* before it is forgotten */
    void *ctx;
} clients_config;

typedef struct clients clients;
int clients_new(clients **out, const clients_config *c);
void clients_free(clients *c);

/* The client a message came from; known ones are found, new ones are made.
 * NULL: there are CLIENTS_MAX with requests already. */
client *clients_of(clients *c, const frames *f);

/* Send now or when it reads again; takes *f in every case.  The client may be
 * gone after this (its requests too): use neither afterwards without asking.
 * true: it has just begun to wait, clients_flush() should be called soon. */
bool clients_send(clients *c, client *to, frames *f);

/* Try again what waits.  Returns whether something still does; *moved says
 * whether anything could be sent. */
bool clients_flush(clients *c, bool *moved);
bool clients_waiting(const clients *c); /* does anything wait to be sent? */

/* Its requests are held back: so should a new one be. */
bool clients_held(const client *of);

/* Send something to every client that has requests and was sent nothing since
 * the last call: one that has gone is found out by that. */
void clients_probe(clients *c, int (*build)(void *ctx, frames *f), void *ctx);

/* NULL: no memory, or the client uses this request_id already. */
request *clients_add_request(clients *c, client *of, uint64_t id,
                             const message *m);
request *clients_find(const clients *c, uint64_t id); /* NULL: not there */
request *clients_find_of(const clients *c, const client *of,
                         uint64_t request_id);
request *clients_any_request(const clients *c); /* NULL: there is none */
void clients_drop_request(clients *c, request *r);
uint32_t clients_n_requests(const clients *c);

#endif
