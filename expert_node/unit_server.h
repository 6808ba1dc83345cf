/* unit_server.h - gives units to other nodes: those of this node's own model
 * file, or those in its cache.  What is not there is ERR_NOT_HERE.
 *
 * Loop thread only, but for _mark(). */
#ifndef EXPERT_NODE_UNIT_SERVER_H
#define EXPERT_NODE_UNIT_SERVER_H

#include "expert_node/shard.h"
#include "proto/bulk_server.h"

typedef struct {
    uv_loop_t *loop;
    const char *cluster; /* borrowed */
    uint64_t boot_id;
    link_config links;
    const char *listen;
} unit_server_config;

typedef struct unit_server unit_server;

/* On failure *out may be set and needs closing all the same. */
int unit_server_open(unit_server **out, const unit_server_config *c, char *why,
                     size_t why_size);
/* The model is known: from now on its units are given, out of the shard's own
 * file or, if it has none, the cache (NULL: nothing is given).  Both are
 * borrowed until the server is idle.  -ENOMEM. */
int unit_server_serve(unit_server *s, const shard *held, unit_cache *cache);
/* This unit was checked when it was loaded. */
void unit_server_mark(unit_server *s, uint32_t layer, uint32_t unit,
                      uint32_t slices);

const char *unit_server_endpoint(const unit_server *s);
bulk_server_stats unit_server_look(const unit_server *s);

/* Then, on the loop, on_idle: nothing of shard and cache is used any more. */
void unit_server_close(unit_server *s, void (*on_idle)(void *ctx), void *ctx);
void unit_server_free(unit_server *s); /* after that; NULL is fine */

#endif
