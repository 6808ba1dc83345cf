/* balancer.h - from loads to a better placement: a pure function.
 *
 * Given how many tokens each unit (layer, expert, slice) gets, what each node
 * can hold and how fast it is, and who holds what now, it says who should: every
 * unit has min_replicas holders on different nodes (and in different zones where
 * there are such), hot ones more; the largest predicted time of a node in each
 * layer is as small as it gets; as little moves as pay.  The same input gives
 * the same answer.  No clock, no thread, no etcd.
 *
 * Predicted time of a node in a layer: the sum over its units of
 * (load / holders) / speed; a dispatcher that splits a unit's tokens by finish
 * time does at least as well (each unit's tokens are split in proportion as
 * `balance_shares()` says).  Imbalance is max / mean over the nodes that can
 * work, of time in a layer; of the whole rack: load-weighted over layers.
 *
 * BALANCE_EPLB is the published algorithm (DeepSeek, EPLB), hierarchical where
 * nodes divide groups: for comparison, and for racks of equal devices. */
#ifndef DISCOVERY_BALANCER_H
#define DISCOVERY_BALANCER_H

#include <stdbool.h>
#include <stdint.h>

/* Who holds each unit; units are numbered through all layers.  nodes[first[u] ..
 * first[u + 1] - 1], ascending. */
typedef struct {
    uint32_t n_units;
    uint32_t *first; /* [n_units + 1] */
    uint16_t *nodes;
} balance_map;

int balance_map_init(balance_map *m, uint32_t n_units, uint32_t n_holders);
void balance_map_fini(balance_map *m);

typedef struct {
    uint64_t memory_bytes; /* for units */
    double speed;          /* relative: 1 is usual; above 0 */
    uint32_t zone;         /* failure domain; equal numbers fail together */
    bool stays;            /* may be in the answer: alive and not drained */
} balance_node;

typedef struct {
    uint32_t n_layers, n_experts;
    const uint32_t *slices;     /* [n_layers], 0: no experts in that layer */
    const uint64_t *unit_bytes; /* [n_layers] */
    uint32_t n_groups;          /* of experts (group-limited routing); 0, 1: none */
    uint32_t min_replicas, max_replicas;
    const balance_node *nodes;
    uint32_t n_nodes;
    /* [n_units] tokens; NULL: nothing is known, all alike */
    const double *load;
    const balance_map *now; /* NULL: nothing is placed */
    /* [holders of now] true: must stay this time (moved a little while ago);
     * NULL: none must */
    const bool *pinned;
    double reserve; /* share of each node's memory left free for moves, 0 .. 1 */
    /* A change is worth it if it lowers the rack's predicted time by this share
     * for each percent of all bytes that it moves; see balance_result.pays. */
    double price;
} balance_input;

typedef struct {
    balance_map target;
    double before, after; /* imbalance, max / mean, of now and of the target */
    double worst_before, worst_after; /* of the worst layer */
    uint64_t added, removed;          /* holders */
    uint64_t moved_bytes;             /* to be loaded */
    bool pays; /* the target is worth its moves; if not, it is `now` */
} balance_result;

/* -ENOMEM; ERR_RANGE for sizes that are none.  A target that lacks memory for
 * min_replicas gives every unit one holder before any has two. */
int balance(const balance_input *in, balance_result *out);
void balance_result_fini(balance_result *r);

/* The imbalance of a map under loads: of the rack, and of the worst layer. */
int balance_measure(const balance_input *in, const balance_map *m,
                    double *rack, double *worst);

/* The published algorithm, as published: weights[n_layers][n_experts] ->
 * slots[n_layers][n_replicas] (physical to logical), devices in order, each with
 * n_replicas / n_devices slots. ERR_RANGE if the sizes do not divide. */
int balance_eplb(const double *weights, uint32_t n_layers, uint32_t n_experts,
                 uint32_t n_replicas, uint32_t n_groups, uint32_t n_nodes,
                 uint32_t n_devices, uint32_t *slots);

#endif
