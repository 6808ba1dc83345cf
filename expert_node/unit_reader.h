/* unit_reader.h - loads units whose bytes are fetched: the bytes of the next
 * ones are on their way while the present one is packed.
 *
 * Between an expert store, which asks for spans of tensors, and the fetch and
 * the cache, which know images of units.  Ahead: any thread; loading: the
 * loading thread. */
#ifndef EXPERT_NODE_UNIT_READER_H
#define EXPERT_NODE_UNIT_READER_H

#include "engine/expert_store.h"
#include "expert_node/fetch.h"

#define UNIT_READER_AHEAD 16 /* units on their way */

typedef struct {
    fetch *fetch;      /* borrowed, like all of these, until free */
    unit_cache *cache; /* NULL: none */
    const gguf *g;
    const model_config *model;
    const manifest *checks;
} unit_reader_config;

typedef struct unit_reader unit_reader;
int unit_reader_new(unit_reader **out, const unit_reader_config *c);
void unit_reader_free(unit_reader *r); /* NULL is fine */

/* Begin to bring a unit that will be loaded soon; `holders` are nodes that have
 * it.  What cannot be begun now is brought when it is loaded. */
void unit_reader_ahead(unit_reader *r, uint32_t layer, uint32_t unit,
                       uint32_t slices, const char *const *holders,
                       size_t n_holders);
/* It will not be loaded after all. */
void unit_reader_forget(unit_reader *r, uint32_t layer, uint32_t unit);

/* expert_store_load() of a store whose source is this reader.  A copy on disk
 * that is damaged is fetched anew at once. */
int unit_reader_load(unit_reader *r, expert_store *store, uint32_t layer,
                     uint32_t unit, char *why, size_t why_size);

/* What the store reads from; `ctx` is the reader. */
int unit_reader_read(void *ctx, const gguf_tensor *t, const expert_span *span,
                     void *out, char *why, size_t why_size);

/* The key of a unit; ERR_RANGE if there is no such unit. */
int unit_reader_key(const unit_reader *r, uint32_t layer, uint32_t unit,
                    uint32_t slices, unit_key *key, uint64_t *bytes);

#endif
