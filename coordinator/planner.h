/* planner.h - from what a rack is to the placement it should have: a pure
 * function.
 *
 * Every unit (layer, expert, slice) gets min_replicas holders on different
 * nodes where memory allows, else as many as fit (and at least 1 before anybody
 * has 2); nodes get shares in proportion to their free memory; what is placed
 * moves as little as possible.  A change is make-before-break, one step at a
 * time: a step may add holders, or remove holders that the others can spare.
 * The same input gives the same step, whoever leads. */
#ifndef COORDINATOR_PLANNER_H
#define COORDINATOR_PLANNER_H

#include <stdbool.h>
#include <stdint.h>
#include "discovery/balancer.h"
#include "discovery/rack_view.h"

typedef struct {
    uint32_t n_layers, n_experts;
    const uint32_t *slices;     /* [n_layers], 0: no experts in that layer */
    const uint64_t *unit_bytes; /* [n_layers], packed */
    uint8_t model[RECORD_MODEL];
    uint32_t max_slices;   /* the option; into the epoch record */
    uint32_t min_replicas; /* 1 .. PLANNER_MAX_REPLICAS */
} planner_model;

/* A unit that moves has its old and its new holders for a while. */
#define PLANNER_MAX_REPLICAS (LAYER_MAP_MAX_HOLDERS / 2)

typedef struct {
    const char *name;
    uint64_t memory_bytes;
    bool live;    /* registered, and can work with us */
    bool missing; /* not registered, but its absence is not acted on yet */
    bool draining;
    /* The epoch (packed) up to which it reported all that is assigned to it as
     * resident; 0: never. */
    uint64_t ready_epoch;
    /* For the balancer alone; see balance_node. */
    double speed; /* 0: usual */
    uint32_t zone;
} planner_node;

typedef struct {
    const planner_model *model;
    const rack_placement *now; /* NULL: none yet */
    const planner_node *nodes; /* live, missing or in `now`; sorted by name */
    uint32_t n_nodes;
    uint64_t incarnation; /* for a first placement */
    /* Who should hold what, as the balancer has it: units through all layers,
     * nodes as in `nodes`; NULL: equal shares.  As far as nodes stay and memory
     * allows; what it lacks of min_replicas is filled up. */
    const balance_map *target;
} planner_input;

typedef struct {
    epoch_record head; /* the next one; nothing to do if n_layers is 0 */
    uint32_t n_layers; /* layers that changed */
    uint32_t *numbers;
    layer_map *layers;
    uint64_t added, removed; /* holders */
    bool more; /* more steps are known to follow without any event */
} planner_step;

/* The next step (at most PLANNER_STEP_LAYERS layers, and about
 * PLANNER_STEP_BYTES packed: etcd refuses large transactions).  step->n_layers
 * 0: the rack is as it should be, or has to wait for its nodes.  The head's
 * writer and term are the caller's to fill in.  ERR_WRONG_MODEL if the
 * placement is of another model or cut in another way, ERR_RANGE above the
 * limits, -ENOMEM. */
#define PLANNER_STEP_LAYERS 100
#define PLANNER_STEP_BYTES ((size_t)700 << 10)
int planner_next(const planner_input *in, planner_step *step);
void planner_step_fini(planner_step *s);

/* Figures for `status`, from a placement and the nodes that hold it. */
typedef struct {
    uint64_t units, unplaced, single; /* with no holder; with one */
    uint64_t moving;           /* holders that are assigned but not ready */
    bool survives_largest;     /* the loss of any one node leaves every unit a
                                  live, ready holder */
    char weakest[RECORD_NAME]; /* a node whose loss would not; else "" */
    uint64_t lost_units;       /* that only it holds */
} planner_health;
void planner_look(const planner_input *in, planner_health *out);

#endif
