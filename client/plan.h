/* plan.h - `roster plan`: what a rack should hold, worked out from a model's
 * headers or a file of loads; nobody is asked.
 *
 *   cmd_plan.c    options
 *   plan_rack.c   nodes as they are given on the command line
 *   plan_loads.c  a file of loads: who holds what by a policy
 *   plan_model.c  a model: does it fit, and what if a node is lost? */
#ifndef CLIENT_PLAN_H
#define CLIENT_PLAN_H

#include <stddef.h>
#include <stdint.h>
#include "discovery/balancer.h"

#define PLAN_NODES_MAX 1024

typedef struct {
    const char *loads, *now; /* files */
    const char *policy;      /* "eplb", "roster" */
    const char *model;       /* file */
    uint32_t replicas, groups, nodes, devices, slices, min_replicas;
    uint64_t expert_bytes;
    /* Lists, separated by commas: one for all nodes, or one for each. */
    const char *memory, *speeds, *zones;
    int json;
} plan_config;

/* nodes[c->nodes]; memory_bytes is 0 where none is given.  ERR_USAGE names the
 * option and the word. */
int plan_rack_read(balance_node *nodes, const plan_config *c, char *why,
                   size_t why_size);

/* Print the result.  ERR_USAGE for options that do not fit together, ERR_FORMAT
 * for a file that is not what it should be, -errno; with a sentence. */
int plan_loads_run(const plan_config *c, char *why, size_t why_size);
int plan_model_run(const plan_config *c, char *why, size_t why_size);

#endif
