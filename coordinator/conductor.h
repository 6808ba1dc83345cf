/* conductor.h - a coordinator's part in a rack that organizes itself by etcd:
 * it joins the registry (our record, the view, leadership), the leader machine
 * and the nodes, and says whether we may serve.
 *
 * Loop thread only.  With a static list of nodes there is none. */
#ifndef COORDINATOR_CONDUCTOR_H
#define COORDINATOR_CONDUCTOR_H

#include <jansson.h>
#include <uv.h>
#include "coordinator/identity.h"
#include "coordinator/nodes.h"
#include "discovery/etcd_options.h"
#include "engine/gguf.h"

typedef struct {
    uv_loop_t *loop;
    const identity *self; /* borrowed, but for the endpoints */
    const profile *profile;
    const model_config *model;
    const gguf *file;
    const etcd_options *etcd;
    const char *client, *weights; /* our endpoints, as others reach them */
    uint32_t slices;              /* of a first placement; 0: by its nodes */
    uint32_t min_replicas, replace_after_ms;
    bool no_balance; /* experts move by themselves only if they must */
    uint32_t balance_every_ms; /* 0: the leader's default */
    uint32_t stranded_ms;      /* refused for so long; 0: a default */
    nodes *nodes;
    /* No request is alive: asked while this coordinator is drained. */
    bool (*is_idle)(void *ctx);
    /* New requests are to be refused with this, or (code 0) taken again. */
    void (*on_refuse)(void *ctx, int code, const char *text);
    /* Every node refuses what we ask for, and etcd does not tell us why: what
     * runs is to end with ERR_CLOSED, so that others go on with it.  NULL: we
     * can do without nodes. */
    void (*on_stranded)(void *ctx, const char *why);
    /* What etcd says was taken up. */
    void (*on_view)(void *ctx);
    void *ctx;
} conductor_config;

typedef struct conductor conductor;

/* On failure *out may be set and needs closing all the same. */
int conductor_open(conductor **out, const conductor_config *c, char *why,
                   size_t why_size);
/* Deregisters and starts closing; run the loop until nothing is left, then
 * _free(). */
void conductor_close(conductor *c);
void conductor_free(conductor *c); /* NULL is fine */

/* etcd has been listed at least once. */
bool conductor_listed(const conductor *c);
/* An operator asked that this coordinator take no requests. */
bool conductor_drained(const conductor *c);

/* Record that a node or coordinator is to be emptied, or used again.  A
 * negative code with a sentence: ERR_NOT_LEADER while etcd is away, ERR_RANGE
 * for a name that nobody has, -ENOMEM, -EAGAIN; then `done` is not called. Else
 * it is, later, with such a code or 0. */
typedef void (*conductor_done)(void *ctx, int code, const char *why);
int conductor_drain(conductor *c, const char *name, bool undo,
                    conductor_done done, void *ctx, char *why, size_t why_size);

/* The picture, for reports; NULL before the first listing. */
const rack_view *conductor_view(const conductor *c);
/* The members "etcd", "leader", "frozen", "incarnation", "epoch", "slices",
 * "min_replicas", "coordinators" and "placement" of the status object. */
int conductor_status(conductor *c, json_t *into);

#endif
