/* model_cut.c - see model_cut.h.  A store that holds nothing knows it all. */
#include "coordinator/model_cut.h"

#include <errno.h>
#include <stdlib.h>
#include "engine/expert_store.h"

int model_cut_init(model_cut *c, const gguf *g, const model_config *model,
                   uint32_t max_slices, char *why, size_t why_size) {
    *c = (model_cut){.max_slices = max_slices};
    c->slices = calloc(model->n_layers + 1, sizeof(*c->slices));
    c->unit_bytes = calloc(model->n_layers + 1, sizeof(*c->unit_bytes));
    int rc = c->slices == NULL || c->unit_bytes == NULL ? -ENOMEM : 0;
    expert_store *store = NULL;
    expert_store_config s = {.g = g, .model = model, .slices = max_slices};
    if (rc == 0) rc = expert_store_new(&store, &s, why, why_size);
    if (rc < 0) {
        model_cut_fini(c);
        return rc;
    }
    for (uint32_t l = 0; l < model->n_layers; l++) {
        c->slices[l] = expert_store_slices(store, l);
        c->unit_bytes[l] = expert_store_unit_bytes(store, l);
    }
    expert_store_free(store);
    return 0;
}

void model_cut_fini(model_cut *c) {
    free(c->slices);
    free(c->unit_bytes);
    *c = (model_cut){0};
}
