/* local_experts.h - the experts that the coordinator computes itself: all of
 * them when no node is listed, else the ones that no node answers for.
 *
 * They are computed in the units that the rack computes in (expert_store.h):
 * whole at first, then as local_experts_set_slices() says.  Units are read from
 * the model's file when first needed and kept while they fit the budget; the
 * least recently used go first.  Step thread only, but the counters, which any
 * thread may read. */
#ifndef COORDINATOR_LOCAL_EXPERTS_H
#define COORDINATOR_LOCAL_EXPERTS_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "engine/pool.h"

typedef struct {
    const gguf *g; /* these are borrowed */
    const model_config *model;
    const manifest *checks;
    pool *threads;
    uint64_t budget_bytes;
    uint32_t max_pairs; /* of one run with whole experts */
    bool exact;
} local_config;

typedef struct local_experts local_experts;
int local_experts_new(local_experts **out, const local_config *c, char *why,
                      size_t why_size);
void local_experts_free(local_experts *l);

/* Load everything now (no node is listed).  The budget does not apply. */
int local_experts_load_all(local_experts *l, char *why, size_t why_size);

/* Cut experts into so many slices from now on, which drops what is loaded.
 * Fine if they are.  On failure they are cut as before.  Between runs. */
int local_experts_set_slices(local_experts *l, uint32_t slices);
/* As expert_store_slices(). */
uint32_t local_experts_slices(const local_experts *l, uint32_t layer);

/* Compute n pairs of one layer: units[i] (ascending) applied to the encoded
 * row x[i] gives y[i], n_embd floats and padding.  ERR_RANGE above max_pairs
 * times the slices, -ENOMEM, ERR_OVERLOADED if the budget cannot hold one unit,
 * or what loading says. */
int local_experts_run(local_experts *l, uint32_t layer, uint32_t n,
                      const uint32_t *units, const void *const *x,
                      float *const *y);

/* The form of rows that experts of a layer take, wherever they are. */
act_form local_experts_form(const local_experts *l, uint32_t layer);
uint64_t local_experts_bytes(const local_experts *l); /* any thread */

#endif
