/* attention.h - causal attention of single queries over a paged KV cache.
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
 * that it sees are masked: they are never read into a sum. */
#ifndef ENGINE_ATTENTION_H
#define ENGINE_ATTENTION_H

#include "engine/kv_cache.h"

#define ATTENTION_MAX_DIM 1024 /* key_dim and value_dim */
/* Heads that a kernel takes at once over a latent cache: of a query with more,
 * each so many can be a task of their own at no cost. */
#define ATTENTION_LATENT_HEADS 16

/* The query heads that share a KV head, at one position. */
typedef struct {
    const kv_seq *seq;
    uint32_t layer, kv_head;
    uint32_t position;  /* its own key is already in the cache */
    uint32_t first;     /* the first position that is seen */
    size_t group;       /* heads */
    const float *q;     /* [group][q_stride], key_dim of each are used */
    size_t q_stride;    /* 0: key_dim */
    float scale;        /* of q.k */
    float softcap;      /* of scores; 0: none */
    const float *sinks; /* [group]: a logit without a value, or NULL */
} attention_query;

/* out [group][value_dim]. */
void attention_group(const kv_cache *kv, const attention_query *query,
                     float *out);

#endif
