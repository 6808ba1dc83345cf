/* planner_internal.h - what the planner's parts share: the rack as tables.
 *
 *   planner.c          the next step: what is now, and what it should be
 *   planner_plan.c     the tables: made from an input, and changed
 *   planner_target.c   what the placement should be: enough holders
 *   planner_balance.c  and in which shares
 *   planner_look.c     figures
 *
 * Nodes are numbers in the input's order (by name), units are numbered through
 * all layers.  `now` is the placement as it is, `goal` what it should become;
 * the goal names only nodes that stay. */
#ifndef COORDINATOR_PLANNER_INTERNAL_H
#define COORDINATOR_PLANNER_INTERNAL_H

#include "coordinator/planner.h"

#define PLAN_NONE UINT32_MAX

typedef struct {
    int32_t place; /* in the epoch record; -1: none yet */
    bool gone;     /* neither live nor missing */
    bool stays;    /* may be in the goal: not gone, not draining */
    bool ready;    /* live, with all that is assigned to it resident */
    bool open;     /* may be given more in this step */
    uint64_t memory;
    uint64_t now_bytes;    /* assigned to it */
    uint64_t adding_bytes; /* by this plan */
    uint64_t goal_bytes;
    uint64_t evictable_bytes; /* see make_way() */
    uint32_t evict_at;
    uint32_t now_units;
    double share; /* of all units that it should hold, 0 .. 1 */
} plan_node;

/* The holders of every unit, up to plan.stride each. */
typedef struct {
    uint16_t *nodes; /* [n_units * stride] */
    uint8_t *n;      /* [n_units] */
} plan_holders;

typedef struct {
    const planner_input *in;
    uint32_t n_nodes, n_layers, n_units, n_places;
    uint32_t stride;   /* of plan_holders */
    uint32_t replicas; /* wanted, as far as there are nodes */
    uint64_t bytes;    /* of all units, once */
    double mean;       /* of a unit */
    uint64_t largest;  /* unit */
    bool first;        /* layers have no map yet: nothing was ever removed */
    bool missing;      /* a node is */
    bool is_short;     /* of memory for all replicas */
    bool waits;        /* a unit waits for memory that becomes free */
    double copies;     /* of everything that the shares add up to */

    plan_node *nodes;
    uint32_t *base;     /* [n_layers + 1]: a layer's first unit */
    uint16_t *layer_of; /* [n_units] */
    uint32_t *order; /* [n_units]: the layers' first units, their second .. */
    plan_holders now, goal;
    int32_t *count; /* [n_layers * n_nodes]: units of the goal */
    double *weight; /* [n_layers]: a share of 1 is so many units */
    double weight_bytes;
    uint32_t *mark;        /* [n_nodes], for plan_mark() */
    bool *gave_up, *tried; /* [n_nodes], for plan_balance() */
} plan;

/* ---- planner_plan.c ---- */

/* ERR_WRONG_MODEL if the placement is not the model's, ERR_RANGE above the
 * limits, -ENOMEM.  The goal is what stays of now. */
int plan_init(plan *p, const planner_input *in);
void plan_fini(plan *p);

bool plan_has(const plan_holders *h, uint32_t stride, uint32_t unit,
              uint32_t node);
static inline uint64_t plan_unit_bytes(const plan *p, uint32_t unit) {
    return p->in->model->unit_bytes[p->layer_of[unit]];
}

/* Put a node into a unit's goal; it is not there. */
void plan_add(plan *p, uint32_t unit, uint32_t node);
/* Take it out; it is there. */
void plan_drop(plan *p, uint32_t unit, uint32_t node);

/* Can the node take the unit in this step, and keep `reserve` bytes free?  What
 * this step removes is not free yet. */
bool plan_has_room(const plan *p, uint32_t unit, uint32_t node,
                   uint64_t reserve);
/* What no step fills but the one that places a unit for the first time. */
uint64_t plan_reserve(const plan *p);

/* How far above its share a node is: in units of a layer, and in units of the
 * mean size in all. */
double plan_layer_surplus(const plan *p, uint32_t layer, uint32_t node);
double plan_total_surplus(const plan *p, uint32_t node);
double plan_unit_size(const plan *p, uint32_t layer); /* by the mean */
/* Both as one number: what a move from a high one to a low one improves. */
double plan_load(const plan *p, uint32_t layer, uint32_t node);
#define PLAN_TOTAL_WEIGHT 0.5

/* p->mark[node]: how many of the other slices of the unit's expert a node of
 * the goal holds. */
void plan_mark(plan *p, uint32_t unit);
void plan_unmark(plan *p, uint32_t unit);
/* Is there any, for one node? */
bool plan_has_sibling(const plan *p, uint32_t unit, uint32_t node);

/* Evenly spread, the same everywhere. */
uint64_t plan_hash(uint64_t a, uint64_t b);

/* ---- planner_target.c, planner_balance.c ---- */
void plan_target(plan *p);
void plan_balance(plan *p);

#endif
