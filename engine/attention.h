/* attention.h - causal attention of single queries over a paged KV cache.
 *
 * Numerics contract: keys are taken in blocks of KV_PAGE (64) counted from
 * position 0, merged in ascending order by online softmax (Milakov and
 * Gimelshein 2018), whatever the batch or chunk:
 *   s_j  = scale * (chain over d ascending: acc = fmaf(q_d, k_jd, acc))
 *   m'   = max(m, max_j s_j);  c = exp(m - m') (0 for the first block)
 *   p_j  = exp(s_j - m')
 *   l    = fmaf(l, c, vm_sum order of the 64 p_j, masked ones being 0)
 *   o_d  = o_d * c, then for j ascending o_d = fmaf(p_j, v_jd, o_d)
 * and o_d / l at the end.  Keys after the query's position are masked and never
 * read into a sum. */
#ifndef ENGINE_ATTENTION_H
#define ENGINE_ATTENTION_H

#include "engine/kv_cache.h"

#define ATTENTION_MAX_GROUP 64 /* query heads per KV head */
#define ATTENTION_MAX_DIM 1024 /* key_dim and value_dim */

/* The query heads that share KV head `kv_head`, at `position` (its own key is
 * already in the cache): q [group][key_dim] -> out [group][value_dim]. */
void attention_group(const kv_cache *kv, const kv_seq *seq, uint32_t layer,
                     uint32_t kv_head, uint32_t position, size_t group,
                     const float *q, float scale, float *out);

#endif
