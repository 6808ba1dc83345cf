/* balancer_internal.h - what the balancer's parts share: a rack as tables.
 *
 *   balancer.c         the question and the answer
 *   balancer_work.c    the tables, and changing them
 *   balancer_fill.c    what has to change: enough holders, not too full nodes
 *   balancer_trim.c    what may: spare copies that nobody needs
 *   balancer_search.c  and shorter times
 *   balancer_eplb.c    the published algorithm, which shares nothing with these
 *
 * Nodes and units have the input's numbers.  Only nodes that stay are holders
 * here.  A unit's load is weighted by its size, so that the times of layers
 * that are cut in other ways can be added. */
#ifndef DISCOVERY_BALANCER_INTERNAL_H
#define DISCOVERY_BALANCER_INTERNAL_H

#include <stddef.h>
#include "discovery/balancer.h"

#define BALANCE_NONE UINT32_MAX

typedef struct {
    const balance_input *in;
    uint32_t n_nodes, n_layers, n_units;
    uint32_t stride;         /* of holders */
    uint32_t replicas, most; /* of a unit: wanted; allowed */
    uint32_t n_zones;        /* 2: more than one */
    uint32_t n_groups;       /* 1: none */
    double speed;            /* of all nodes that stay */
    uint64_t bytes, largest; /* of all units, once; of one */

    uint32_t *base;     /* [n_layers + 1]: a layer's first unit */
    uint16_t *layer_of; /* [n_units] */
    uint32_t *order;    /* [n_units]: by descending load */
    double *load;       /* [n_units] */
    double *total;      /* [n_layers]: of the loads */

    uint16_t *holders; /* [n_units * stride] */
    uint8_t *n;        /* [n_units] */
    double *time;      /* [n_layers * n_nodes] */
    uint32_t *mates;   /* [n_layers * n_groups * n_nodes]: holders of a group */
    uint64_t *used;    /* [n_nodes]: bytes */
    uint64_t *limit;   /* [n_nodes]: memory less what is kept free */

    uint64_t effort; /* of the search: what it may still look at */
} balance_work;

/* ---- balancer_work.c ---- */

/* ERR_RANGE, -ENOMEM; the holders are those of `now` that stay. */
int balance_work_init(balance_work *w, const balance_input *in);
void balance_work_fini(balance_work *w);

bool balance_has(const balance_work *w, uint32_t unit, uint32_t node);
/* Does it have the unit now, in the input? */
bool balance_had(const balance_work *w, uint32_t unit, uint32_t node);
/* May it not be taken away? */
bool balance_is_pinned(const balance_work *w, uint32_t unit, uint32_t node);
bool balance_is_banned(const balance_work *w, uint32_t unit, uint32_t node);
static inline uint64_t balance_unit_bytes(const balance_work *w,
                                          uint32_t unit) {
    return w->in->unit_bytes[w->layer_of[unit]];
}

/* A unit's holder comes (it is none) or goes (it is one). */
void balance_add(balance_work *w, uint32_t unit, uint32_t node);
void balance_drop(balance_work *w, uint32_t unit, uint32_t node);

/* The holders' speed together; what each of them needs for its part. */
double balance_speed(const balance_work *w, uint32_t unit);
static inline double balance_cost(double load, double speed) {
    return speed > 0 ? load / speed : 0;
}

/* The time that a layer would take if it could be shared out evenly. */
static inline double balance_mean(const balance_work *w, uint32_t layer) {
    return w->speed > 0 ? w->total[layer] / w->speed : 0;
}
/* The node that takes longest; BALANCE_NONE: none stays. */
uint32_t balance_slowest(const balance_work *w, uint32_t layer);

/* Would the unit's holders, without `from` and with `to` (either may be
 * BALANCE_NONE), be in more than one zone, or need not be? */
bool balance_zones_fit(const balance_work *w, uint32_t unit, uint32_t from,
                       uint32_t to);
/* Has the node another slice of the unit's expert? */
bool balance_has_sibling(const balance_work *w, uint32_t unit, uint32_t node);
/* Which part of the unit's group of experts the node has, without the unit. */
double balance_kinship(const balance_work *w, uint32_t unit, uint32_t node);

/* ---- balancer_fill.c, balancer_trim.c, balancer_search.c ---- */
void balance_fill(balance_work *w);
void balance_trim_cold(balance_work *w);
int balance_search(balance_work *w); /* -ENOMEM */

#endif
