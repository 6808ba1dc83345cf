/* recovery.h - what an operator's recovery of a rack's etcd would write: a pure
 * function.
 *
 * When etcd was wiped, restored from an older snapshot or holds a placement
 * that cannot be used, the rack goes on with the one it has and its leader
 * writes nothing.  A recovery writes what the rack has as the first epoch of a
 * new incarnation, which everybody takes for newer than anything before it:
 * nodes keep what they hold.  What the rack has is what this coordinator
 * remembers; if others have seen a newer placement than that (the coordinator
 * was started since), it is what the nodes say that they hold, be it nothing.
 */
#ifndef COORDINATOR_RECOVERY_H
#define COORDINATOR_RECOVERY_H

#include "coordinator/planner.h"
#include "discovery/holdings.h"
#include "discovery/rack_view.h"

/* A live node that has said what it holds. */
typedef struct {
    char name[RECORD_NAME];
    const holdings *held; /* cut as the model is; NULL: nothing */
} recovery_node;

typedef struct {
    const rack_view *view;
    uint64_t nodes_epoch; /* the highest that a node or a coordinator says it
                             knows */
    bool at_odds; /* some know another one under the number of the view's */
    const planner_model *model;
    const recovery_node *nodes; /* ascending by name, at most
                                   RECORD_NODES_MAX */
    uint32_t n_nodes;
} recovery_input;

typedef enum {
    RECOVERY_NOTHING, /* all is well, or there is nothing to begin from */
    RECOVERY_MEMORY,  /* from what this coordinator remembers */
    RECOVERY_NODES    /* from what the nodes hold */
} recovery_source;

/* The layers of one transaction. */
typedef struct {
    uint32_t first, end;
} recovery_step;

typedef struct {
    recovery_source source;
    char why[160];         /* what is wrong with what etcd has; "": nothing */
    uint64_t was, becomes; /* packed; 0: no placement */
    /* Nothing is known, but what stands in etcd keeps a first placement from
     * being made: its head is to be deleted, and that is all. */
    bool begins_anew;
    epoch_record head;      /* owned; writer and term are the caller's */
    const layer_map **maps; /* [head.n_layers], NULL: dense; from the two: */
    layer_map *made;        /* [head.n_layers] */
    rack_placement *kept;
    uint64_t units, holders;
    uint64_t unheld; /* units that nobody holds by it: to be placed anew */
    /* By the placement that is known, who else holds something: the first of
     * them, and how many there are. */
    char away[RECORD_NAME];
    uint32_t n_away;
    uint32_t layers; /* with experts */
    recovery_step *steps;
    uint32_t n_steps;
} recovery;

/* 0 also if there is nothing to do.  ERR_UNAVAILABLE with a sentence if a node
 * that lives and holds something has not said what, or none has said anything,
 * ERR_WRONG_MODEL if what is
 * remembered is of another model, -ENOMEM.  To be ended in any case. */
int recovery_plan(recovery *out, const recovery_input *in, char *why,
                  size_t why_size);
void recovery_fini(recovery *r); /* zeroed is fine */

#endif
