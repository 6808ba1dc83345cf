/* keeper_internal.h - what keeper.c (what to load and unload), keeper_kept.c
 * (what not to unload yet) and keeper_report.c (what to tell) share. */
#ifndef EXPERT_NODE_KEEPER_INTERNAL_H
#define EXPERT_NODE_KEEPER_INTERNAL_H

#include "engine/util.h"
#include "expert_node/keeper.h"
#include "expert_node/keeper_peers.h"

typedef enum { ABSENT, LOADING, RESIDENT, UNLOADING } unit_state;

typedef struct {
    uint8_t state;
    uint8_t tries; /* in vain */
    bool wanted, leaving;
    bool ours; /* this incarnation has assigned it to us, now or before */
    uint64_t retry_ms; /* when wanted, absent and tried */
} unit;

typedef struct {
    uint32_t n_units; /* 0: dense, or not yet in any placement */
    unit *units;
} layer_units;

typedef struct {
    uint32_t layer, unit;
} place;

typedef struct {
    place at;
    placement_id by;   /* the one that gave it up */
    uint64_t known_ms; /* since when that is known here */
} departure;

typedef struct {
    place *queue, *failed;
    departure *leaving;
    size_t n_queue, queue_at, n_failed, n_leaving, leaving_at;
} work_lists;

struct keeper {
    keeper_config config;
    rack_placement *placement; /* newest; NULL: none */
    int32_t self;              /* our number in it, -1: none */
    uint64_t epoch, sum;

    /* The cut in force: how units are numbered. */
    uint32_t slices, n_layers, n_experts; /* slices 0: no store */
    layer_units *layers;
    uint64_t *unit_bytes; /* [n_layers], NULL: not known */
    bool fits;            /* the placement numbers units as the cut does */
    bool cutting;         /* KEEPER_CUT is handed out */
    uint32_t asked_slices;
    uint8_t cut_tries;
    uint64_t cut_retry_ms;

    work_lists lists;
    uint32_t n_assigned, n_wanted_resident;
    uint32_t n_resident, n_loading, n_unloading;
    uint64_t bytes; /* of everything that is not absent */
    bool no_room;
    uint8_t failures; /* loads in vain since the last good one, those of the
                         same unit in a row counted once */
    place last_failed;
    uint64_t rest_until_ms;

    bool keeps;                   /* see keeper_kept.c */
    bool ready[RECORD_NODES_MAX]; /* of the placement's nodes: who is */
    bool cramped;                 /* what is kept leaves a load no room ... */
    uint64_t cramped_ms;          /* ... since then */

    keeper_peers peers;
    bool untold;        /* etcd does not have what is known here ... */
    uint64_t told_ms;   /* ... or has it again since */
    bool behind;        /* a peer uses an epoch that is not known here */
    uint64_t behind_ms; /* since when */

    uint64_t complete_epoch, complete_digest; /* last reported as complete */
    uint32_t said_waiting;
    uint64_t said_ms;
    uint64_t version, version_ms;
    bool changed; /* holdings, since the version */
};

/* NULL: the cut has no such unit. */
static inline unit *keeper_find(const keeper *k, uint32_t layer,
                                uint32_t number) {
    if (layer >= k->n_layers || number >= k->layers[layer].n_units) return NULL;
    return &k->layers[layer].units[number];
}

static inline unit *keeper_at(const keeper *k, place p) {
    return &k->layers[p.layer].units[p.unit];
}

/* To be asked again by then, at the latest. */
static inline void keeper_wake_by(keeper_action *out, uint64_t ms) {
    if (ms < out->wake_ms) out->wake_ms = ms;
}

static inline uint32_t keeper_waiting(const keeper *k) {
    return k->n_assigned - k->n_wanted_resident;
}

/* ---- keeper.c ---- */

/* It is no longer wanted, by the placement that is known. */
void keeper_depart(keeper *k, work_lists *l, place at, uint64_t now_ms);

/* ---- keeper_kept.c ---- */

/* A placement of another incarnation: what was ours by the one before it does
 * not count any more. */
void keeper_begin_incarnation(keeper *k);
/* A resident unit is not wanted: it leaves, or is kept. */
void keeper_unwanted(keeper *k, work_lists *l, place at, uint64_t now_ms);
/* What need not be kept any longer leaves. */
void keeper_let_go(keeper *k, uint64_t now_ms);
/* What is kept leaves no room for a load. */
void keeper_is_cramped(keeper *k, uint64_t now_ms, keeper_action *out);

/* ---- keeper_report.c ---- */

/* True: the ready record is to be written. */
bool keeper_next_report(keeper *k, uint64_t now_ms, keeper_action *out);
/* Holdings have changed, and some time passed. */
void keeper_raise_version(keeper *k, uint64_t now_ms, keeper_action *out);

#endif
