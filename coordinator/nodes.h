/* nodes.h - the loop thread's side of the expert nodes: greets and pings them,
 * and tells the step thread who is up and who holds what.
 *
 * The shell around the membership machine.  One control link per listed node.
 */
#ifndef COORDINATOR_NODES_H
#define COORDINATOR_NODES_H

#include <jansson.h>
#include <uv.h>
#include "coordinator/exchange.h"
#include "coordinator/identity.h"
#include "coordinator/membership.h"
#include "coordinator/step.h"
#include "engine/profile.h"

typedef struct {
    uv_loop_t *loop;
    const identity *self; /* borrowed, like all of these */
    const profile *profile;
    const model_config *model;
    link_config links;
    const char *const *endpoints; /* control endpoints of the listed nodes */
    uint32_t n_nodes;
    exchange *experts;
    step *steps;
    membership_config timing; /* .n_nodes is set by nodes_open() */
    /* Called once: every node has answered, with yes or no. */
    void (*on_settled)(void *ctx);
    void *ctx;
} nodes_config;

typedef struct nodes nodes;
int nodes_open(nodes **out, const nodes_config *c, char *why, size_t why_size);

/* Starts closing; run the loop until nothing is left, then nodes_free(). */
void nodes_close(nodes *n);
void nodes_free(nodes *n); /* NULL is fine */

/* Name by number: what the node calls itself, else its endpoint. */
const char *nodes_name(const nodes *n, uint32_t node);
uint64_t nodes_resident_bytes(const nodes *n); /* over the nodes that are up */
uint32_t nodes_count(const nodes *n);
bool nodes_all_covered(
    const nodes *n); /* every expert is held by a live node */

/* The members "nodes", "epoch" and "coverage" of the status object. */
int nodes_status(const nodes *n, json_t *into);

#endif
