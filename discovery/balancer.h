/* balancer.h - from loads to a better placement: a pure function.
 *
 * Given how many tokens each unit (layer, expert, slice) gets, what each node
 * can hold and how fast it is, and who holds what now, it says who should:
 * every unit has min_replicas holders on different nodes (and in different
 * zones where there are such), hot ones more; the largest predicted time of a
 * node in each layer is as small as it gets; as little moves as pay.  The same
 * input gives the same answer.  No clock, no thread, no etcd.
 *
 * Predicted time of a node in a layer: the sum over its units of load / speed
 * of all the unit's holders together, as if a unit's tokens were split among
 * its holders in proportion to their speed; a dispatcher that looks at finish
 * times does at least as well.  Imbalance is max / mean of time in a layer over
 * the nodes that can work, the mean weighted by speed: what all would take if
 * everything could be shared out evenly.  Of the whole rack: load-weighted over
 * layers.
 *
 * BALANCE_EPLB is the published algorithm (DeepSeek, EPLB), hierarchical where
 * nodes divide groups: for comparison, and for racks of equal devices. */
#ifndef DISCOVERY_BALANCER_H
#define DISCOVERY_BALANCER_H

#include <stdbool.h>
#include <stdint.h>

/* Who holds each unit; units are numbered through all layers.  nodes[first[u]
 * .. first[u + 1] - 1], ascending. */
typedef struct {
    uint32_t n_units;
    uint32_t *first; /* [n_units + 1] */
    uint16_t *nodes;
} balance_map;

int balance_map_init(balance_map *m, uint32_t n_units, uint32_t n_holders);
void balance_map_fini(balance_map *m);

typedef struct {
    uint32_t unit;
    uint16_t node;
} balance_holder;

typedef struct {
    uint64_t memory_bytes; /* for units */
    double speed;          /* relative: 1 is usual; 1e-6 .. 1e6 */
    uint32_t zone;         /* failure domain; equal numbers fail together */
    bool stays;            /* may be in the answer: alive and not drained */
} balance_node;

typedef struct {
    uint32_t n_layers, n_experts;
    const uint32_t *slices;     /* [n_layers], 0: no experts in that layer */
    const uint64_t *unit_bytes; /* [n_layers] */
    uint32_t n_groups; /* of experts (group-limited routing); 0, 1: none */
    uint32_t min_replicas, max_replicas;
    const balance_node *nodes;
    uint32_t n_nodes;
    /* [n_units] tokens, up to 1e60; NULL: nothing is known, all alike */
    const double *load;
    const balance_map *now; /* NULL: nothing is placed */
    /* [holders of now] true: must stay this time (moved a little while ago);
     * NULL: none must */
    const bool *pinned;
    /* Holders that may not be added this time (taken away a little while ago),
     * ascending by unit, then node. */
    const balance_holder *banned;
    uint32_t n_banned;
    double
        reserve; /* share of each node's memory left free for moves, 0 .. 1 */
    /* A change pays if it lowers the rack's predicted time by this share for
     * each percent of all bytes that it moves, and by BALANCE_LEAST_GAIN. */
    double price;
    /* Loads are counts of what came by chance: about which share of the rack's
     * predicted time may be only that.  A gain that is not clearly more does
     * not pay; 0: loads are exact. */
    double noise;
    bool forced; /* even small gains, and even if they do not pay */
} balance_input;

#define BALANCE_LEAST_GAIN 0.03
#define BALANCE_SURE 2.0 /* a gain must be so many times the noise */

/* Imbalance, max / mean. */
typedef struct {
    double rack;
    double worst; /* of the worst layer with a load */
    uint32_t worst_layer;
} balance_figures;

typedef struct {
    balance_map target;
    balance_figures before, after; /* of now and of the target */
    uint64_t added, removed;       /* holders */
    uint64_t moved_bytes;          /* to be loaded */
    /* It is worth its moves, or copies that nobody needs are given up.  If not
     * (and not forced), the target is `now` with only what has to change: units
     * without enough holders, nodes that leave or hold too much. */
    bool pays;
} balance_result;

/* -ENOMEM; ERR_RANGE for sizes that are none.  A target that lacks memory for
 * min_replicas gives every unit one holder before any has two. */
int balance(const balance_input *in, balance_result *out);
void balance_result_fini(balance_result *r);

/* The imbalance of a map under loads: of the rack, and of the worst layer. */
int balance_measure(const balance_input *in, const balance_map *m,
                    balance_figures *out);

/* The published algorithm, as published: weights[n_layers][n_experts] ->
 * slots[n_layers][n_replicas] (physical to logical), devices in order, each
 * with n_replicas / n_devices slots. ERR_RANGE if the sizes do not divide. */
int balance_eplb(const double *weights, uint32_t n_layers, uint32_t n_experts,
                 uint32_t n_replicas, uint32_t n_groups, uint32_t n_nodes,
                 uint32_t n_devices, uint32_t *slots);

#endif
