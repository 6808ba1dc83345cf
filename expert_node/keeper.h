/* keeper.h - decides what a node of a self-organizing rack loads and unloads: a
 * plain state machine.
 *
 * It is told the newest placement, what became of loads and unloads, and which
 * coordinators are connected and up to which epoch they have switched.  Events
 * and the time go in, actions come out; no socket, no clock, no thread.
 *
 * Rules it keeps (each has a test):
 *   - only a placement with a higher epoch than the one known changes anything;
 *   - what it assigns to this node is loaded, first what nobody else holds, and
 *     of that first what was needed most, as far as that is remembered; a load
 *     that failed is tried again, others do not wait for it;
 *   - when all of it is resident, the epoch is reported, once;
 *   - what it no longer assigns is unloaded only when every coordinator that is
 *     connected has pinged with that epoch or a newer one; a coordinator that
 *     has fallen silent does not count; one that lags for longer than the grace
 *     time is stale: refused, and not waited for, until it has caught up; time
 *     in which etcd could not have told it what is known here does not count;
 *   - what no placement of an incarnation has assigned to it since that began
 *     is kept until another node is ready that has it: a recovery, which begins
 *     one, may know nothing of what is here, and give it to nobody or to nodes
 *     that have yet to load it;
 *   - one that has pinged with the epoch, and means another placement by it,
 *     has not: there are two where etcd was restored and somebody wrote into
 *     it what was planned before;
 *   - nor is anything unloaded while a coordinator uses an epoch that is not
 *     known here yet, which may assign it again; but for no longer than the
 *     grace time, since that epoch may never come;
 *   - where loads of several units fail one after the other, all are tried ever
 *     more seldom; what a placement adds is tried at once all the same, and one
 *     unit that fails delays itself alone;
 *   - memory: a load waits while what is resident, loading or leaving leaves no
 *     room for it. */
#ifndef EXPERT_NODE_KEEPER_H
#define EXPERT_NODE_KEEPER_H

#include <stdbool.h>
#include <stdint.h>
#include "discovery/rack_view.h"

#define KEEPER_MAX_PEERS 256

typedef struct {
    const char *name;      /* in placements; borrowed */
    uint64_t memory_bytes; /* for packed experts; 0: not limited */
    uint32_t max_loads;    /* handed out at once; 0: 1 */
    uint32_t max_unloads;  /* handed out at once; 0: 64 */
    /* All in ms, 0: the default. */
    uint32_t grace_ms;      /* 10,000: until a laggard is stale */
    uint32_t silent_ms;     /* 5,000: without a ping; not connected any more */
    uint32_t retry_ms;      /* 1,000: after a first failure; doubles */
    uint32_t retry_most_ms; /* 30,000 */
    uint32_t version_ms;    /* 100: at least between two holdings versions */
    /* How much a unit was needed before; NULL: not known. */
    uint64_t (*heat)(void *ctx, uint32_t layer, uint32_t unit);
    void *ctx;
} keeper_config;

typedef struct keeper keeper;
int keeper_new(keeper **out, const keeper_config *c);
void keeper_free(keeper *k);

typedef enum {
    KEEPER_CUT,     /* nothing is resident: make an empty store whose experts
                       are cut into `slices`, then keeper_cut() */
    KEEPER_LOAD,    /* (layer, unit), then keeper_loaded() */
    KEEPER_UNLOAD,  /* (layer, unit), then keeper_unloaded(); it has to be gone
                       from what the node says it holds before anything else */
    KEEPER_REPORT,  /* write the ready record */
    KEEPER_STALE,   /* answer `peer`'s pings and batches with ERR_STALE; said
                       again after a cut */
    KEEPER_UNSTALE, /* it has caught up, or is forgotten */
    KEEPER_WAIT     /* nothing before an event or wake_ms */
} keeper_kind;

typedef struct {
    keeper_kind kind;
    uint32_t slices, layer, unit;
    uint64_t peer; /* boot id */
    /* REPORT: the last epoch (packed) of which everything was resident; units
     * resident, and still to load for a newer one. */
    uint64_t epoch, digest;
    uint32_t units, waiting;
    uint64_t wake_ms; /* UINT64_MAX: an event only */
} keeper_action;

/* The next thing to do; call until WAIT, after every event. */
void keeper_next(keeper *k, uint64_t now_ms, keeper_action *out);

/* ---- events ---- */

/* The newest placement that etcd has; kept (a reference) if it is newer than
 * the one known, else nothing happens.  -ENOMEM: nothing changed, try again. */
int keeper_placement(keeper *k, uint64_t now_ms, const rack_placement *p);

/* The store that KEEPER_CUT asked for is there (rc 0) or could not be made: it
 * is asked for again.  unit_bytes[n_layers]: packed, of one unit; NULL: not
 * known, memory is not watched then. */
void keeper_cut(keeper *k, uint64_t now_ms, int rc, const uint64_t *unit_bytes);
void keeper_loaded(keeper *k, uint64_t now_ms, uint32_t layer, uint32_t unit,
                   int rc);
void keeper_unloaded(keeper *k, uint64_t now_ms, uint32_t layer, uint32_t unit);
/* A resident unit is not what it was and has been dropped: it is not held any
 * more and, as far as it is wanted, loaded again at once. */
void keeper_lost(keeper *k, uint64_t now_ms, uint32_t layer, uint32_t unit);
/* For so long this process did not run: it was stopped, or its machine was.
 * Nobody fell silent or lagged meanwhile. */
void keeper_paused(keeper *k, uint64_t now_ms, uint64_t ms);

/* Can a coordinator learn from etcd what is known here?  Not while etcd is
 * away, or was restored to an older placement: nobody lags by its own fault
 * then. True at first. */
void keeper_can_learn(keeper *k, uint64_t now_ms, bool can);

/* What etcd says of the other nodes: which of them are ready. */
void keeper_others(keeper *k, const rack_view *view);

/* A coordinator is to be welcomed, or pings with the epoch it has switched to
 * and rack_placement_sum() of what it means by that (0: it does not say).
 * Either makes it a connected one, until it falls silent.  ERR_OVERLOADED: too
 * many are connected.  ERR_STALE (pings only): it is to be answered so. */
int keeper_hello(keeper *k, uint64_t now_ms, uint64_t peer);
int keeper_ping(keeper *k, uint64_t now_ms, uint64_t peer, uint64_t epoch,
                uint64_t sum);

/* ---- reports ---- */

typedef struct {
    uint64_t epoch; /* of the placement known, packed; 0: none */
    uint32_t slices;
    uint32_t assigned, resident, loading, unloading;
    uint32_t leaving; /* resident, not assigned, not yet unloading */
    uint32_t waiting; /* assigned, not resident */
    uint32_t failed;  /* of those: tried in vain */
    uint32_t peers, stale;
    bool no_room; /* what is assigned exceeds the memory: some of it waits */
} keeper_figures;
void keeper_look(const keeper *k, keeper_figures *out);

/* Resident, and not being unloaded: what the node may say it holds. */
bool keeper_holds(const keeper *k, uint32_t layer, uint32_t unit);
/* Rises, from 1, when that has changed, but not too often. */
uint64_t keeper_version(const keeper *k);

#endif
