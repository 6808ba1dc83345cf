/* shard.h - the part of a model that one node holds.
 *
 * A shard knows the model (from its own file, or pulled from a coordinator),
 * and has a store of packed units.  On a static list it is filled once and then
 * closes the file: from then on the node's memory is its experts.  In a rack
 * that organizes itself units come and go, and the file stays open.
 *
 * The owner's thread opens, cuts, fills and closes, and keeps `held`; loading
 * and dropping have the store's own rules. */
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
#include "expert_node/unit_reader.h"

typedef struct {
    model_config model;
    fingerprint print;
    expert_store *store; /* NULL: not cut yet */
    uint32_t slices;     /* that the store's experts are cut into */
    holdings held;       /* what is resident and may be asked for */
    gguf *g;             /* NULL once settled, as are the checks */
    manifest *checks;
    unit_reader *reader; /* NULL: the files are here */
} shard;

/* Where a shard without files comes from. */
typedef struct {
    fetch *fetch;
    unit_cache *cache;         /* NULL: nothing is kept */
    const fingerprint *wanted; /* NULL: what the first source serves */
} shard_origin;

/* Describe a model: of a file, or of whatever the fetch's sources serve; tensor
 * data then comes through the fetch, which, like the cache, must live as long
 * as the shard.
 * Slow: a file may have to be read once as a whole (manifest.h).  On failure
 * *out is NULL and `why` names the file, the source or the tensor at fault. */
int shard_open(shard **out, const char *path, char *why, size_t why_size);
int shard_pull(shard **out, const shard_origin *from, char *why,
               size_t why_size);
void shard_close(shard *s); /* NULL is fine */

/* An empty store whose experts are cut into `slices`, in the place of the one
 * there was, which nobody may be using.  On failure there is none. */
int shard_cut(shard *s, uint32_t slices, char *why, size_t why_size);

/* Load a unit of the store, wherever its bytes are: expert_store_load()'s
 * codes, and those of the fetch. */
int shard_load(shard *s, uint32_t layer, uint32_t unit, char *why,
               size_t why_size);

/* Load nothing any more: the fetch it came from goes. */
void shard_detach(shard *s);

/* What to hold on a static list: a share ("I/N[xR]"), or specs, or, with
 * neither, everything. */
typedef struct {
    const char *share; /* NULL: none */
    const option_list *experts;
    uint32_t threads; /* that load, if it comes from a file; 0: one per CPU */
} shard_plan;

/* Load it, then close the file.  Progress goes to stderr if that is a terminal.
 * `why` names the tensor or the option at fault. */
int shard_fill(shard *s, const shard_plan *plan, char *why, size_t why_size);

#endif
