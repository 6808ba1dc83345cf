/* attention_internal.h - the levels of attention_run(), and what a tile needs.
 * Only attention*.c include it. */
#ifndef ENGINE_ATTENTION_INTERNAL_H
#define ENGINE_ATTENTION_INTERNAL_H

#include "engine/attention.h"

/* A lane is one head of one row.  Widths are padded to whole vectors. */
struct attention_scratch {
    float *q;      /* [lanes][key_dim]; of a latent cache [key_dim][lanes] */
    float *out;    /* [lanes][padded value_dim]: sums so far */
    float *p;      /* [lanes][KV_PAGE]: scores, then their exponentials */
    float *block;  /* a block's keys or values as floats */
    float *turned; /* [KV_PAGE][lanes]: scores of a latent cache */
};

/* A query of at most ATTENTION_LANES lanes, with its q_stride. */
typedef void (*attention_kernel)(const kv_cache *kv,
                                 const attention_query *query,
                                 attention_scratch *scratch);

void attention_tile_avx2(const kv_cache *kv, const attention_query *query,
                         attention_scratch *scratch);
void attention_tile_avx512(const kv_cache *kv, const attention_query *query,
                           attention_scratch *scratch);

#endif
