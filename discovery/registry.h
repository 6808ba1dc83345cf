/* registry.h - a process's place in its rack's etcd: the shell around session
 * (lease, own record, leadership), rack_view (what all others say) and libetcd.
 *
 * Loop thread only.  It registers, keeps alive, lists, watches and starts over
 * by itself whatever etcd does; the owner gives it contents and reads its view.
 * Nothing here is on the path of a token. */
#ifndef DISCOVERY_REGISTRY_H
#define DISCOVERY_REGISTRY_H

#include <jansson.h>
#include <uv.h>
#include "discovery/libetcd/etcd.h"
#include "discovery/rack_view.h"

typedef enum { REGISTRY_NODE, REGISTRY_COORDINATOR } registry_role;

typedef struct {
    uv_loop_t *loop;
    etcd_config etcd; /* .loop is set by registry_open() */
    const char *cluster, *name;
    registry_role role; /* coordinators campaign for the leader key */
    uint64_t boot;
    uint32_t ttl_s; /* of the lease; 0: 5 */
    /* After each revision that changed something, after each listing, and when
     * the connection or leadership changed.  Not from within a call. */
    void (*on_change)(void *ctx);
    void *ctx;
} registry_config;

typedef struct registry registry;
int registry_open(registry **out, const registry_config *c, char *why,
                  size_t why_size);
/* Deregisters (revokes the lease, within half a second) and closes; then
 * on_closed, after which the registry is freed.  NULL is fine. */
void registry_close(registry *r, void (*on_closed)(void *ctx), void *ctx);

/* What to publish; copied.  The key's name is the registry's own.  ERR_FORMAT
 * if a member is such that readers would refuse the document (the log says
 * which), -ENOMEM: what was published before stays. */
int registry_set_node(registry *r, const node_record *n);
int registry_set_coordinator(registry *r, const coordinator_record *c);
int registry_set_ready(registry *r, const ready_record *ready);

/* The picture; NULL until the first listing came. */
const rack_view *registry_view(const registry *r);

/* The term while this process may write placements, else 0. */
int64_t registry_term(const registry *r);
/* Since when (now_ms()) the view is up to date without a break; 0: it is not.
 */
uint64_t registry_live_since(const registry *r);
/* Stop wanting to lead (a coordinator that is drained). */
void registry_resign(registry *r);
/* Want to lead again (a drain that was undone); as at the start. */
void registry_campaign(registry *r);

/* ---- writing, with compares; all callbacks on the loop ---- */
typedef void (*registry_done)(void *ctx, etcd_code code, const char *why,
                              int64_t revision);

/* One step of the leader: these layers and the epoch, if the leader key is
 * ours, its create_revision is `term` and placement/epoch's mod_revision is
 * `expected_revision` (0: there is none).
 *
 * A recovery may need several: all but the last one have no head, and the one
 * that stands in etcd goes with the first, so that layers that do not belong
 * together are never taken for a placement. */
typedef struct {
    const epoch_record *head; /* NULL: there is none after this write */
    const uint32_t *layer_numbers;
    const layer_map *const *layers; /* NULL: a layer without experts */
    uint32_t n_layers;
    int64_t term, expected_revision;
    const recovered_record *audit; /* NULL: none; goes with the head */
} placement_write;
int registry_write_placement(registry *r, const placement_write *w,
                             registry_done cb, void *ctx);
/* Set or remove drain/<name>.  Removing one that is not there is ETCD_OK. */
int registry_drain(registry *r, const char *name, bool undo, registry_done cb,
                   void *ctx);
int registry_compact(registry *r, int64_t revision, registry_done cb,
                     void *ctx);

/* Members "connected", "endpoint", "revision", "registered", "leading",
 * "name_taken", "rolled_back", "no_space", "why" of a status object. */
json_t *registry_status(const registry *r);

/* ---- an etcd whose quota is used up ---- */

/* A write was refused for want of space, and none has worked since. */
bool registry_no_space(const registry *r);

/* What a reclaim found and did. */
typedef struct {
    uint32_t alarms;           /* members that had raised NOSPACE */
    uint32_t defragmented;     /* endpoints */
    uint32_t not_defragmented; /* those that did not answer, or refused */
    int64_t compacted;         /* the revision; 0: not */
    uint32_t disarmed;
} registry_space;
typedef void (*registry_space_done)(void *ctx, etcd_code code, const char *why,
                                    const registry_space *found);
/* Ask for alarms and, unless `only_look`, do something about them: compact up
 * to now, defragment every endpoint, disarm.  ETCD_OK if nothing is wrong (any
 * more).  One at a time: -EBUSY. */
int registry_reclaim(registry *r, bool only_look, registry_space_done cb,
                     void *ctx);

#endif
