/* model_cut.h - how a model's experts are cut into units: slices of each layer,
 * and how large they are once packed.
 *
 * Read from the tensors' shapes alone; nothing is loaded.  The caller's
 * storage; it does not change. */
#ifndef COORDINATOR_MODEL_CUT_H
#define COORDINATOR_MODEL_CUT_H

#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"
#include "engine/model.h"

typedef struct {
    uint32_t max_slices; /* that were asked for: 1, 2, 4, 8 */
    uint32_t *slices;    /* [n_layers], as many as the layer allows; 0: dense */
    uint64_t *unit_bytes; /* [n_layers], packed */
} model_cut;

/* -ENOMEM, or what keeps the experts from being indexed, with a sentence. */
int model_cut_init(model_cut *c, const gguf *g, const model_config *model,
                   uint32_t max_slices, char *why, size_t why_size);
void model_cut_fini(model_cut *c); /* zeroed is fine */

#endif
