/* member.h - a node's life in a rack that organizes itself: the shell around
 * registry (etcd), keeper (what to load and unload), loader and fetch.
 *
 * It learns the model (from its own file, or from a coordinator), registers,
 * follows the placement and reports.  Loop thread only; what takes long runs on
 * the loader's thread. */
#ifndef EXPERT_NODE_MEMBER_H
#define EXPERT_NODE_MEMBER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include "expert_node/config.h"
#include "expert_node/keeper.h"
#include "expert_node/service.h"

typedef struct {
    uv_loop_t *loop;
    const node_config *config; /* borrowed, like the service */
    uint64_t boot_id;
    const char *control_endpoint; /* where this node is greeted; borrowed */
    service *service;
    void *zmq; /* context, for the socket that units are given from */
    /* From the loader's thread: member_step() is to be called. */
    void (*on_news)(void *ctx);
    /* The service has a shard, or another store or worker than before. */
    void (*on_served)(void *ctx);
    /* The node cannot go on: its own file is damaged, or the like. */
    void (*on_failed)(void *ctx, int rc, const char *why);
    void *ctx;
} member_config;

typedef struct member member;
int member_open(member **out, const member_config *c, char *why,
                size_t why_size);

/* Do what is due; call after every piece of news, and every control message. */
void member_step(member *m);

/* For the control endpoint. */
keeper *member_keeper(member *m);
/* A new object with the members of the status that a rack's node has more. */
json_t *member_status(const member *m);

/* Is the node's own file being read?  That cannot be cut short. */
bool member_reading(const member *m);

/* Deregister and close; then on_closed, from the loop. */
void member_close(member *m, void (*on_closed)(void *ctx), void *ctx);
/* After on_closed, once nobody calls any more; waits for the load in hand. */
void member_free(member *m);

#endif
