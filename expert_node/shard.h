/* shard.h - the part of a model that one node holds, loaded.
 *
 * Opening reads the model's description, decides what to hold, checks and packs
 * exactly those experts, and closes the file: from then on the node's memory is
 * its experts.  A shard does not change, so any thread may read it. */
#ifndef EXPERT_NODE_SHARD_H
#define EXPERT_NODE_SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "discovery/holdings.h"
#include "engine/expert_store.h"
#include "engine/fingerprint.h"
#include "engine/model.h"
#include "engine/options.h"

typedef struct {
    model_config model;
    fingerprint print;
    holdings held; /* of MoE layers; exactly what is loaded */
    expert_store *store;
} shard;

/* What to hold: a share ("I/N[xR]"), or specs, or, with neither, everything. */
typedef struct {
    const char *model; /* path */
    const char *share; /* NULL: none */
    const option_list *experts;
} shard_plan;

/* Progress goes to stderr if that is a terminal.  On failure *out is NULL and
 * `why` names the file, the tensor or the option at fault. */
int shard_open(shard **out, const shard_plan *plan, char *why, size_t why_size);
void shard_close(shard *s);

#endif
