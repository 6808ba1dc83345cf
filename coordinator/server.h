/* server.h - the loop thread's side of the clients: takes requests, streams
 * answers (docs/protocol.md, "Clients").
 *
 * It turns text into tokens, hands whole requests to the step thread, and turns
 * the step thread's events into messages. */
#ifndef COORDINATOR_SERVER_H
#define COORDINATOR_SERVER_H

#include <uv.h>
#include "coordinator/conductor.h"
#include "coordinator/identity.h"
#include "coordinator/local_experts.h"
#include "coordinator/nodes.h"
#include "coordinator/step.h"
#include "coordinator/weight_server.h"
#include "coordinator/weights.h"
#include "engine/profile.h"
#include "engine/tokenizer.h"

typedef struct {
    uv_loop_t *loop;
    const identity *self; /* borrowed, like all of these */
    const profile *profile;
    const weights *weights;
    const tokenizer *words;
    step *steps;
    exchange *experts;
    const local_experts *local;
    bool local_allowed;
    uint64_t expert_bytes_per_token; /* packed, of the experts of one token */
    uint32_t max_context;
    uint32_t timeout_ms; /* a request's default */
    link_config links;
    const char *listen;
} server_config;

typedef struct server server;
int server_open(server **out, const server_config *c, char *why,
                size_t why_size);
void server_close(server *s); /* starts closing; then run the loop */
void server_free(server *s);  /* NULL is fine */

/* The nodes, and what serves the model to those without files, for reports; set
 * once they are open. */
void server_set_nodes(server *s, const nodes *n);
void server_set_weights(server *s, const weight_server *w);
/* What knows the rack's etcd; never set with a list of nodes. */
void server_set_conductor(server *s, conductor *c);
/* The endpoint at which clients reach us, and those of other coordinators that
 * no etcd lists; all borrowed. */
void server_set_members(server *s, const char *reached_at,
                        const char *const *peers, size_t n_peers);

/* The step thread has events: call from the loop. */
void server_take_events(server *s);

const char *server_endpoint(const server *s);
/* No request is alive and nothing waits to be sent. */
bool server_idle(const server *s);
/* Refuse new requests from now on: the process is ending. */
void server_refuse(server *s);
/* Refuse new requests with this (copied) until it is lifted by code 0. */
void server_decline(server *s, int code, const char *text);
/* Tell those whose requests are still alive that they will not be answered, and
 * why. */
void server_cut_off(server *s, const char *why);

#endif
