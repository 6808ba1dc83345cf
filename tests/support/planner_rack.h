/* planner_rack.h - a rack for the planner's tests: a model, nodes, and the
 * placement that the planner's steps make.
 *
 * Nodes load at once when the test says so.  Anything that goes wrong ends the
 * test program. */
#ifndef TESTS_SUPPORT_PLANNER_RACK_H
#define TESTS_SUPPORT_PLANNER_RACK_H

#include "coordinator/planner.h"

#define PLANNER_RACK_NODES 24
#define PLANNER_RACK_LAYERS 128

typedef struct {
    planner_model model;
    uint32_t slices[PLANNER_RACK_LAYERS];
    uint64_t unit_bytes[PLANNER_RACK_LAYERS]; /* 100 */
    rack_placement *now;                      /* NULL: none yet */
    char names[PLANNER_RACK_NODES][RECORD_NAME];
    planner_node nodes[PLANNER_RACK_NODES]; /* in the order of their names */
    uint32_t n_nodes;
    const balance_map *target; /* NULL: none; nodes in the order of names */
} planner_rack;

/* A rack must not be moved. */
void planner_rack_init(planner_rack *r, uint32_t n_layers, uint32_t n_experts,
                       uint32_t slices, uint32_t min_replicas);
void planner_rack_fini(planner_rack *r);

/* A live node, new or started anew, with room for `units` units of 100 bytes.
 */
planner_node *planner_rack_join(planner_rack *r, const char *name,
                                uint64_t units);
planner_node *planner_rack_node(planner_rack *r,
                                const char *name); /* or NULL */
planner_input planner_rack_input(const planner_rack *r);

/* As etcd and a view would do it. */
void planner_rack_apply(planner_rack *r, const planner_step *step);
/* Take one step; how many holders came and went.  false: there was none. */
bool planner_rack_step(planner_rack *r, uint64_t *added, uint64_t *removed);
/* All live nodes have loaded what they should. */
void planner_rack_ready(planner_rack *r);
/* Step until nothing is left to do, with nodes that are quick; the number of
 * steps. */
uint32_t planner_rack_settle(planner_rack *r);

uint64_t planner_rack_units(const planner_rack *r, const char *name);
uint32_t planner_rack_holders(const planner_rack *r, uint32_t layer,
                              uint32_t unit);
bool planner_rack_holds(const planner_rack *r, const char *name, uint32_t layer,
                        uint32_t unit);
/* Of all units. */
void planner_rack_range(const planner_rack *r, uint32_t *least, uint32_t *most);

#endif
