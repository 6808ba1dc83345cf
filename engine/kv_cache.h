/* kv_cache.h - keys and values of all sequences, in pages.
 *
 * A page holds KV_PAGE (64) consecutive positions of one sequence, all layers
 * and KV heads.  Within a page, per layer and KV head, keys lie transposed,
 * [key_dim][64], and values [64][value_dim]: attention reads keys with one SIMD
 * lane per position.  In a latent cache a key holds its value, as its first
 * value_dim elements, and nothing is kept twice: keys lie [64][key_dim], and
 * attention reads them with one lane per query head, of which there are many.
 *
 * Numerics contract: F32 keeps values as they are, F16 rounds them half to
 * even. Q8_0 rounds them as A8 does (act.h): of a position's key and of its
 * value, each 32 dims from 0 on share a scale, the last block having what is
 * left; an element is read as scale * q, which f32 holds exactly.
 *
 * All pages are allocated at once; a sequence is a list of page numbers.  Owned
 * by the step thread; no locks. */
#ifndef ENGINE_KV_CACHE_H
#define ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_PAGE 64

#define KV_SCALE_DIMS 32 /* dims that share a scale */

typedef enum { KV_F32 = 0, KV_F16 = 1, KV_Q8_0 = 2, KV_TYPES } kv_type;

#define KV_TYPE_NAMES "f32, f16 or q8_0"
const char *kv_type_name(kv_type type);
/* KV_TYPES for a name that is none. */
kv_type kv_type_find(const char *name);

typedef struct {
    kv_type type;
    uint32_t n_layers, n_kv_heads, key_dim, value_dim;
    uint32_t n_pages;
    bool latent; /* values are in the keys; value_dim is at most key_dim */
} kv_config;

typedef struct kv_cache kv_cache;

/* Bytes of one page, for budgets; 0 if the sizes overflow. */
size_t kv_page_bytes(const kv_config *c);

int kv_cache_new(kv_cache **out, const kv_config *c);
void kv_cache_free(kv_cache *kv);
uint32_t kv_free_pages(const kv_cache *kv);

/* The pages of one sequence; zero-initialize, kv_release() when done. */
typedef struct {
    uint32_t *pages;
    uint32_t n_pages, capacity;
} kv_seq;

/* Make room for `positions` positions in total.  ERR_OVERLOADED when no page is
 * free (what was got so far is kept), -ENOMEM. */
int kv_reserve(kv_cache *kv, kv_seq *seq, uint32_t positions);
void kv_release(kv_cache *kv, kv_seq *seq);

/* Write one position's keys and values of one layer: k [n_kv_heads][key_dim],
 * v [n_kv_heads][value_dim], which a latent cache has no use for (NULL).  The
 * position must be reserved.  Different positions may be written by different
 * threads. */
void kv_write(kv_cache *kv, const kv_seq *seq, uint32_t layer,
              uint32_t position, const float *k, const float *v);
/* The same of one head: k [key_dim], v [value_dim].  Different heads may be
 * written by different threads. */
void kv_write_head(kv_cache *kv, const kv_seq *seq, uint32_t layer,
                   uint32_t kv_head, uint32_t position, const float *k,
                   const float *v);

/* Keys and values of one (page, layer, head), on loan until the sequence
 * releases the page.  Elements are f32, f16 or int8 by the cache's type. */
typedef struct {
    const void *keys;          /* [key_dim][64]; latent: [64][key_dim] */
    const void *values;        /* [64][kv_value_stride()] */
    const float *key_scales;   /* Q8_0: [key blocks][64]; latent: */
    const float *value_scales; /* [64][blocks of kv_value_stride()], for both */
} kv_block;

kv_block kv_block_at(const kv_cache *kv, uint32_t page, uint32_t layer,
                     uint32_t kv_head);
const kv_config *kv_cache_config(const kv_cache *kv);

static inline size_t kv_value_stride(const kv_config *c) {
    return c->latent ? c->key_dim : c->value_dim;
}
static inline size_t kv_scales(size_t dim) {
    return (dim + KV_SCALE_DIMS - 1) / KV_SCALE_DIMS;
}

/* Dim d of the key or the value in slot j. */
float kv_key(const kv_config *c, const kv_block *b, size_t j, size_t d);
float kv_value(const kv_config *c, const kv_block *b, size_t j, size_t d);

#endif
