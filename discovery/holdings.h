/* holdings.h - a set of (layer, unit) pairs: what a node holds.
 *
 * A unit is an expert or, where experts are cut, a slice of one: expert *
 * slices + slice, with the slices of its layer (expert_store.h).
 *
 * The static list of one machine or a small rack: every node is told on its
 * command line what to hold, either by an explicit list or as its share of a
 * simple rule, and tells every coordinator that greets it. */
#ifndef DISCOVERY_HOLDINGS_H
#define DISCOVERY_HOLDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOLDINGS_MAX_LAYERS 1024
#define HOLDINGS_MAX_EXPERTS 65536

#define HOLDINGS_MAX_SLICES 8

typedef struct {
    uint32_t n_layers, n_experts; /* layers of the model, dense ones included */
    uint32_t slices;              /* of an expert, at most, in any layer */
    uint8_t *layer_slices;        /* [n_layers], see holdings_cut(); owned */
    uint8_t *bits; /* bit layer * n_experts * slices + unit; owned */
} holdings;

/* An empty set of whole experts.  ERR_RANGE above the limits, -ENOMEM. */
int holdings_init(holdings *h, uint32_t n_layers, uint32_t n_experts);
/* The same of slices: 1, 2, 4 or 8. */
int holdings_init_slices(holdings *h, uint32_t n_layers, uint32_t n_experts,
                         uint32_t slices);
/* A layer whose experts are cut less often: 1 to h->slices; for what is added
 * by a text or as a share. */
void holdings_cut(holdings *h, uint32_t layer, uint32_t slices);
void holdings_fini(holdings *h);
int holdings_copy(holdings *to, const holdings *from);
size_t holdings_bytes(const holdings *h);

void holdings_add(holdings *h, uint32_t layer, uint32_t unit);
void holdings_remove(holdings *h, uint32_t layer, uint32_t unit);
bool holdings_has(const holdings *h, uint32_t layer, uint32_t unit);
/* The first unit of the layer from `unit` on that is held, below `end`; `end`
 * if there is none. */
uint32_t holdings_next(const holdings *h, uint32_t layer, uint32_t unit,
                       uint32_t end);
uint64_t holdings_count(const holdings *h);
bool holdings_equal(const holdings *a, const holdings *b);

/* Add by a text: "LAYERS:EXPERTS[;LAYERS:EXPERTS...]", each side a list of
 * numbers and ranges or '*': "*:0-7", "0-2,5:1,3;3:*"; with all slices of the
 * experts named.  ERR_USAGE says where. */
int holdings_add_spec(holdings *h, const char *spec, char *why,
                      size_t why_size);

/* Add the share of node `index` of `n_nodes` when every unit is held
 * `replicas` times: unit u of layer l on nodes (u + l + r) mod n_nodes for
 * r < replicas.  ERR_RANGE if index >= n_nodes or replicas > n_nodes. */
int holdings_add_share(holdings *h, uint32_t index, uint32_t n_nodes,
                       uint32_t replicas);

/* "1/3" or "1/3x2" (index/nodes x replicas) to the numbers above. */
int holdings_parse_share(const char *text, uint32_t *index, uint32_t *n_nodes,
                         uint32_t *replicas, char *why, size_t why_size);

#endif
