/* census.h - what a model's file holds, and what a token uses of it: parameters
 * and bytes, counted from keys and the tensor table alone.
 *
 * No weight is read, and nothing depends on whether we can run the model: a
 * tensor is an expert's by its name (..._exps), everything else is shared by
 * all tokens.  Layers that a plain pass does not compute (next-token
 * prediction) are counted apart. */
#ifndef ENGINE_CENSUS_H
#define ENGINE_CENSUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"

/* How much of the file some tensors are. */
typedef struct {
    uint64_t params, bytes;
} census_sum;

typedef struct {
    char arch[68];
    uint32_t n_layers, n_moe_layers; /* that a pass computes */
    uint32_t n_extra_layers;         /* that it does not */
    uint32_t n_experts, n_used;      /* of a layer; 0: a dense model */

    census_sum total;
    census_sum shared; /* what every token uses, both large matrices included */
    census_sum tables; /* of these: embedding and output, once if tied */
    census_sum experts;  /* all routed experts of the layers computed */
    census_sum extra;    /* the layers not computed */
    census_sum expert;   /* one, of the first layer that has experts */
    bool experts_differ; /* by layer: in size or in format */

    uint64_t active_params; /* shared ones and those of n_used experts */
    /* Read for a token that is decoded alone: the shared tensors, of the
     * embeddings one row (all of them if they are the output matrix, too), and
     * n_used experts of each layer. */
    uint64_t decode_bytes;
    uint64_t n_cache_values; /* that a token adds to the KV cache, all layers */
} census;

/* ERR_FORMAT names the key or tensor that is missing or makes no sense; also
 * for a file without tensors. */
int census_take(census *c, const gguf *g, char *why, size_t why_size);

/* Bytes of experts that the fullest of `n_nodes` nodes holds if they share
 * every layer's experts evenly. */
uint64_t census_node_bytes(const census *c, uint32_t n_nodes);

#endif
