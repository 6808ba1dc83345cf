/* attention_internal.h - the levels of attention_group().  Only attention*.c
 * include it. */
#ifndef ENGINE_ATTENTION_INTERNAL_H
#define ENGINE_ATTENTION_INTERNAL_H

#include "engine/attention.h"

typedef void (*attention_kernel)(const kv_cache *kv, const kv_seq *seq,
                                 uint32_t layer, uint32_t kv_head,
                                 uint32_t position, size_t group,
                                 const float *q, float scale, float *out);

void attention_group_avx2(const kv_cache *kv, const kv_seq *seq, uint32_t layer,
                          uint32_t kv_head, uint32_t position, size_t group,
                          const float *q, float scale, float *out);
void attention_group_avx512(const kv_cache *kv, const kv_seq *seq,
                            uint32_t layer, uint32_t kv_head, uint32_t position,
                            size_t group, const float *q, float scale,
                            float *out);

#endif
