/* attention.h - causal attention of a tile of queries over a paged KV cache.
 *
 * Numerics contract: keys are taken in blocks of KV_PAGE (64) counted from
 * position 0, merged in ascending order by online softmax (Milakov and
 * Gimelshein 2018), whatever the batch or chunk.  The first block is that of
 * the first key that is seen.  Without a sink c is 0 in it; with one the state
 * before it is m = sink, l = 1, o = 0 and c is as ever:
 *   s_j  = scale * (chain over d ascending: acc = fmaf(q_d, k_jd, acc))
 *   s_j  = vm_softcapf(s_j, softcap), if there is a cap
 *   m'   = max(m, max_j s_j);  c = exp(m - m')
 *   p_j  = exp(s_j - m')
 *   l    = fmaf(l, c, vm_sum order of the 64 p_j, masked ones being 0)
 *   o_d  = o_d * c, then for j ascending o_d = fmaf(p_j, v_jd, o_d)
 * and o_d / l at the end.  Keys after the query's position and before the first
 * that it sees are masked: they are never read into a sum.  k and v are what
 * the cache stores, taken to f32 (kv_cache.h).
 *
 * Which queries stand in a tile changes no bit; it decides how often a key is
 * read and converted. */
#ifndef ENGINE_ATTENTION_H
#define ENGINE_ATTENTION_H

#include "engine/kv_cache.h"

#define ATTENTION_MAX_DIM 1024 /* key_dim and value_dim */
/* Heads of all rows that a kernel takes at once: a tile of more is cut. */
#define ATTENTION_LANES 64
/* Of a latent cache, fewer heads at a time take no less work. */
#define ATTENTION_LATENT_HEADS 16

/* One position of a sequence. */
typedef struct {
    uint32_t position; /* its own key is already in the cache */
    uint32_t first;    /* the first position that is seen */
    const float *q;    /* [group][q_stride], key_dim of each are used */
    float *out;        /* [group][value_dim] */
} attention_row;

/* The query heads that share a KV head, at some positions of a sequence. */
typedef struct {
    const kv_seq *seq;
    uint32_t layer, kv_head;
    size_t group;       /* heads */
    size_t q_stride;    /* 0: key_dim */
    float scale;        /* of q.k */
    float softcap;      /* of scores; 0: none */
    const float *sinks; /* [group]: a logit without a value, or NULL */
    size_t n_rows;
    const attention_row *rows; /* `position` rises, `first` does not fall */
} attention_query;

/* What a thread that computes attention over caches of one shape needs. */
typedef struct attention_scratch attention_scratch;
int attention_scratch_new(attention_scratch **out, const kv_config *c);
void attention_scratch_free(attention_scratch *s);

/* Fill `out` of all rows. */
void attention_run(const kv_cache *kv, const attention_query *query,
                   attention_scratch *scratch);

#endif
