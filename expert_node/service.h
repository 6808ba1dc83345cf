/* service.h - what a node computes with: its shard and the worker's thread.
 *
 * The loop's thread owns it.  On a static list the shard is filled first and
 * the worker starts once; in a rack that organizes itself the store is made
 * anew, empty, whenever experts are cut in another way. */
#ifndef EXPERT_NODE_SERVICE_H
#define EXPERT_NODE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include "expert_node/config.h"
#include "expert_node/shard.h"
#include "expert_node/worker.h"

typedef struct {
    const node_config *config; /* borrowed, like the link */
    uint64_t boot_id;
    struct link *data; /* a server's end */
    /* On the worker's thread: it ended, or dropped units. */
    void (*on_news)(void *ctx);
    void *ctx;
} service_config;

typedef struct service service;
int service_new(service **out, const service_config *c);
/* The worker must have ended, or never have run. */
void service_free(service *s);

/* The model that is served; taken over.  Call once. */
void service_adopt(service *s, shard *held);
shard *service_shard(const service *s);   /* NULL: not known yet */
worker *service_worker(const service *s); /* NULL: nothing computes */

/* Start computing with the shard's store, which is cut. */
int service_start(service *s, char *why, size_t why_size);
/* An empty store, cut into `slices`, and a worker for it, in the place of what
 * there was: waits for the batch that is being computed, not longer than that
 * takes.  No load may be under way. */
int service_cut(service *s, uint32_t slices, char *why, size_t why_size);

/* Ask the worker to finish; then on_news, and service_ended(). */
void service_stop(service *s);
/* Nothing computes (any more); *rc: why, if the worker ended by itself. */
bool service_ended(service *s, int *rc);

#endif
