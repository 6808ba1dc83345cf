/* reload.h - loads again what was lost from memory, on a static list.
 *
 * A shard that is filled from a file closes it; this opens the file once more
 * when a unit is lost, as long as something is, on a thread of its own.  The
 * file must still be the model that is served.  A unit that cannot be loaded is
 * tried again within a minute and not held meanwhile.  Loop thread only. */
#ifndef EXPERT_NODE_RELOAD_H
#define EXPERT_NODE_RELOAD_H

#include <uv.h>
#include "expert_node/shard.h"

typedef struct {
    uv_loop_t *loop;
    shard *held; /* borrowed, like the path; its `held` gets what is back */
    const char *path;           /* of the model */
    uint32_t retry_ms;          /* 0: a minute */
    void (*on_back)(void *ctx); /* a unit is held again */
    void *ctx;
} reload_config;

typedef struct reload reload;
int reload_new(reload **out, const reload_config *c);
/* Nothing is loaded after it returns; then run the loop until nothing is left,
 * and reload_free(). */
void reload_close(reload *r);
void reload_free(reload *r); /* NULL is fine */

/* A unit is in the store no more, and not held.  ERR_CLOSED, -ENOMEM, or what a
 * thread that cannot be started says: it stays lost. */
int reload_add(reload *r, uint32_t layer, uint32_t unit);

uint64_t reload_waiting(const reload *r); /* units that are lost still */

#endif
