/* kv_internal.h - kv_cache.c's fast conversion. */
#ifndef ENGINE_KV_INTERNAL_H
#define ENGINE_KV_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

/* f32_to_f16() of n values by the CPU's instruction: the same bits. */
void kv_to_f16_avx2(size_t n, const float *x, uint16_t *out);

#endif
