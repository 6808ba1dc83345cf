/* nodes.h - the loop thread's side of the expert nodes: greets and pings them,
 * and tells the step thread who is up and who holds what.
 *
 * The shell around the membership machine, with one control link per node.  The
 * nodes are either a list that was given once, or those that are registered
 * (nodes_set()); then a node is used for the units that the rack's placement
 * assigns to it and that it says it holds, and what is assigned comes with the
 * placement's epoch.  Loop thread only. */
#ifndef COORDINATOR_NODES_H
#define COORDINATOR_NODES_H

#include <jansson.h>
#include <uv.h>
#include "coordinator/exchange.h"
#include "coordinator/identity.h"
#include "coordinator/membership.h"
#include "coordinator/step.h"
#include "discovery/rack_view.h"
#include "engine/profile.h"

typedef struct {
    uv_loop_t *loop;
    const identity *self; /* borrowed, like all of these */
    const profile *profile;
    const model_config *model;
    link_config links;
    /* Control endpoints of the listed nodes; none if nodes register. */
    const char *const *endpoints;
    uint32_t n_nodes;
    bool registered; /* nodes come and go by nodes_set() */
    /* What experts are cut into, until a placement of the rack says otherwise:
     * at most `slices`, in each layer as many as layer_slices[n_layers] says
     * (0: a dense one). */
    uint32_t slices;
    const uint32_t *layer_slices;
    exchange *experts;
    step *steps;
    membership_config timing; /* .n_nodes is set by nodes_open() */
    uint32_t load_every_ms;   /* 0: LOAD_EVERY_MS (nodes_load.h) */
    /* Called once: every listed node has answered, with yes or no. */
    void (*on_settled)(void *ctx);
    /* The step thread was given a new rack; may be NULL. */
    void (*on_rack)(void *ctx);
    void *ctx;
} nodes_config;

typedef struct nodes nodes;
int nodes_open(nodes **out, const nodes_config *c, char *why, size_t why_size);

/* Starts closing; run the loop until nothing is left, then nodes_free(). */
void nodes_close(nodes *n);
void nodes_free(nodes *n); /* NULL is fine */

/* What etcd says now: the registered nodes, and the placement to be used (NULL:
 * none).  A node that is no longer registered stays as long as the placement
 * gives it something to do, since it may well answer.  -ENOMEM: call again. */
int nodes_set(nodes *n, const rack_view *view, const rack_placement *p);

/* Places of nodes: numbers below this; some may be empty. */
uint32_t nodes_count(const nodes *n);
/* The name of who has a place: what it is registered as, else what it calls
 * itself, else its endpoint.  NULL: the place is empty. */
const char *nodes_name(const nodes *n, uint32_t node);
/* Pairs that were computed for us by who has a place.  Places are taken again
 * by others: *serial (0: empty) says whether it is still the same. */
uint64_t nodes_pairs(const nodes *n, uint32_t node, uint64_t *serial);

uint64_t nodes_resident_bytes(const nodes *n); /* over the nodes that are up */
/* Every node that is up, of which there are some, refuses what we ask for: it
 * goes by a newer placement. */
bool nodes_all_stale(const nodes *n);
/* What nobody can be asked for here, nobody can be asked for at all.  False,
 * with the rest of a sentence: another coordinator may know better, since this
 * one has begun a short while ago and has yet to hear where a node of the
 * placement is, or has yet to go by the newest placement. */
bool nodes_see_all(const nodes *n, char *why, size_t why_size);
/* Every expert is held by a live node. */
bool nodes_all_covered(const nodes *n);

/* What the loss of one node would mean, from what the live nodes hold. */
typedef struct {
    uint64_t units, unheld, single; /* of all layers; by nobody, by one only */
    bool survives_largest;          /* no unit is in either of the two */
    char weakest[MESSAGE_NAME_MAX + 1]; /* who holds most units alone, or "" */
    uint64_t lost_units;                /* that it holds alone */
} nodes_health;
void nodes_look(const nodes *n, nodes_health *out);

/* The members "nodes", "coverage" and "layers" of the status object, and with a
 * list "epoch", "slices" and "placement".  `view` (NULL with a list) adds what
 * etcd says of each. */
int nodes_status(const nodes *n, const rack_view *view, json_t *into);

#endif
