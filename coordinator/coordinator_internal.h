/* coordinator_internal.h - the process's parts: coordinator.c opens what
 * computes, coordinator_service.c what runs on the loop. */
#ifndef COORDINATOR_COORDINATOR_INTERNAL_H
#define COORDINATOR_COORDINATOR_INTERNAL_H

#include <uv.h>
#include "coordinator/conductor.h"
#include "coordinator/coordinator.h"
#include "coordinator/model_cut.h"
#include "coordinator/server.h"
#include "coordinator/weight_server.h"

struct coordinator {
    config config;
    identity self;
    profile profile;

    gguf *file;
    model_config model;
    manifest *checks;
    tokenizer *words;
    weights *weights;
    model_cut cut; /* until a placement of the rack cuts otherwise */
    pool *threads;
    local_experts *local;
    kv_cache *kv;
    exchange *experts;
    forward *forward;
    stopwatch watch; /* the step thread's */
    step *steps;

    void *zmq;
    uv_loop_t loop;
    bool loop_open;
    uv_async_t events;
    uv_signal_t on_term, on_int;
    uv_timer_t start_timer, drain_timer;
    server *server;
    weight_server *shared;
    nodes *nodes;
    conductor *conductor; /* NULL: the nodes are a list */
    /* Endpoints as others reach them, which the conductor borrows. */
    char client_at[ENDPOINT_MAX + 32], weights_at[ENDPOINT_MAX + 32];
    bool ready, closing;
    bool waiting;            /* the start timer was started */
    bool declined;           /* the rack is not ours to serve */
    uint64_t drain_until_ms; /* 0: not ending */
    bool was_idle, cut_off;
};

/* Do nodes register, instead of being listed? */
static inline bool coordinator_by_etcd(const coordinator *c) {
    return etcd_options_given(&c->config.etcd);
}

/* Limits of the links to nodes and clients. */
link_config coordinator_links(const coordinator *c);
uint32_t coordinator_max_context(const coordinator *c);

/* ---- coordinator_service.c ---- */
/* The loop itself, before anything that wakes it. */
int coordinator_open_loop(coordinator *c);
int coordinator_open_service(coordinator *c, char *why, size_t why_size);
/* Start closing all of it, but the handle that the step thread uses. */
void coordinator_end(coordinator *c);
/* After the step thread has ended: close, and run the loop until it is empty.
 */
void coordinator_close_loop(coordinator *c);

#endif
