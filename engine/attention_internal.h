/* attention_internal.h - the levels of attention_group().  Only attention*.c
 * include it. */
#ifndef ENGINE_ATTENTION_INTERNAL_H
#define ENGINE_ATTENTION_INTERNAL_H

#include "engine/attention.h"

/* Heads that a kernel takes at once: it keeps their scores on the stack. */
#define ATTENTION_MAX_GROUP 64

typedef void (*attention_kernel)(const kv_cache *kv,
                                 const attention_query *query, float *out);

void attention_group_avx2(const kv_cache *kv, const attention_query *query,
                          float *out);
void attention_group_avx512(const kv_cache *kv, const attention_query *query,
                            float *out);

#endif
