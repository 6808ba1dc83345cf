/* heat_memory.h - how much a node's experts were needed, remembered on disk: so
 * that a node that starts again loads the hottest of them first.
 *
 * One small file for each node of a cluster, written now and then; what it says
 * fades, by half with each time it is written.  Nothing depends on it: without
 * a file, or with a damaged one or one of another model, all are as cold.
 * Owned by one thread. */
#ifndef EXPERT_NODE_HEAT_MEMORY_H
#define EXPERT_NODE_HEAT_MEMORY_H

#include <stdint.h>

typedef struct {
    const char *dir; /* made if it is not there */
    const char *cluster, *name;
    uint8_t model[32]; /* the fingerprint */
    uint32_t n_layers, n_experts;
} heat_memory_config;

typedef struct heat_memory heat_memory;

/* With what the file says, if there is one that fits.  -ENOMEM, ERR_TOO_LARGE
 * for a path or a model that is too large. */
int heat_memory_open(heat_memory **out, const heat_memory_config *c);
void heat_memory_close(heat_memory *h); /* NULL is fine; nothing is written */

/* 0 outside the model. */
uint64_t heat_memory_of(const heat_memory *h, uint32_t layer, uint32_t expert);
/* So many pairs more were computed. */
void heat_memory_add(heat_memory *h, uint32_t layer, uint32_t expert,
                     uint64_t pairs);

/* Write it, if anything was added since; complete or not at all.  -errno. */
int heat_memory_save(heat_memory *h);

#endif
