/* kv_cache.c - see kv_cache.h.
 *
 * One anonymous mapping holds all pages, so that memory is taken from the
 * system only where a page is first written, and a page's address is a
 * multiplication.  Free pages are a stack: a page that was just released, and
 * may still be in a CPU cache, is the next to be used.  Nothing clears a page:
 * what lies beyond a sequence's last position is arbitrary, and attention must
 * not look at it. */
#include "engine/kv_cache.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/kv_internal.h"
#include "engine/util.h"
#include "engine/weight.h"

#define CONVERT_CHUNK 256 /* f16 values converted at a time, on the stack */

struct kv_cache {
    kv_config config;
    size_t page_bytes, block_bytes; /* a block: keys, values of one head */
    size_t key_bytes;               /* of a block: where its values start */
    uint8_t *data;
    size_t data_bytes;
    uint32_t *free_pages; /* a stack, the next page on top */
    uint32_t n_free;
};

static size_t element_bytes(kv_type type) {
    return type == KV_F16 ? sizeof(uint16_t) : sizeof(float);
}

size_t kv_page_bytes(const kv_config *c) {
    size_t dims, bytes;
    if (!size_add(c->key_dim, c->latent ? 0 : c->value_dim, &dims)) return 0;
    if (!size_mul(dims, KV_PAGE * element_bytes(c->type), &bytes)) return 0;
    if (!size_mul(bytes, c->n_kv_heads, &bytes)) return 0;
    if (!size_mul(bytes, c->n_layers, &bytes)) return 0;
    return bytes;
}

static int allocate(kv_cache *kv) {
    void *data = mmap(NULL, kv->data_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return -errno;
    kv->data = data;
    /* Advice only: without huge pages everything works, somewhat slower. */
    madvise(kv->data, kv->data_bytes, MADV_HUGEPAGE);

    kv->free_pages = malloc(kv->config.n_pages * sizeof(*kv->free_pages));
    return kv->free_pages != NULL ? 0 : -ENOMEM;
}

int kv_cache_new(kv_cache **out, const kv_config *c) {
    *out = NULL;
    if ((int)c->type < 0 || c->type >= KV_TYPES) return ERR_UNSUPPORTED;
    if (c->n_layers == 0 || c->n_kv_heads == 0 || c->key_dim == 0 ||
        c->value_dim == 0 || c->n_pages == 0 ||
        (c->latent && c->value_dim > c->key_dim)) {
        return ERR_RANGE;
    }
    size_t page_bytes = kv_page_bytes(c), data_bytes;
    if (page_bytes == 0) return ERR_RANGE;
    if (!size_mul(page_bytes, c->n_pages, &data_bytes)) return ERR_RANGE;

    kv_cache *kv = calloc(1, sizeof(*kv));
    if (kv == NULL) return -ENOMEM;
    kv->config = *c;
    kv->page_bytes = page_bytes;
    kv->block_bytes = page_bytes / c->n_layers / c->n_kv_heads;
    kv->key_bytes =
        c->latent ? 0 : (size_t)KV_PAGE * c->key_dim * element_bytes(c->type);
    kv->data_bytes = data_bytes;

    int rc = allocate(kv);
    if (rc < 0) {
        kv_cache_free(kv);
        return rc;
    }
    for (uint32_t i = 0; i < c->n_pages; i++) {
        kv->free_pages[i] = c->n_pages - 1 - i;
    }
    kv->n_free = c->n_pages;
    *out = kv;
    return 0;
}

void kv_cache_free(kv_cache *kv) {
    if (kv == NULL) return;
    if (kv->data != NULL) munmap(kv->data, kv->data_bytes);
    free(kv->free_pages);
    free(kv);
}

uint32_t kv_free_pages(const kv_cache *kv) {
    return kv->n_free;
}

const kv_config *kv_cache_config(const kv_cache *kv) {
    return &kv->config;
}

/* ---- sequences ---- */

static int grow(kv_seq *seq, uint32_t n_pages) {
    if (n_pages <= seq->capacity) return 0;

    /* Doubled, so that a growing sequence copies its list rarely; cannot
     * overflow, since positions / KV_PAGE is below 2^26. */
    uint32_t capacity = seq->capacity * 2;
    if (capacity < n_pages) capacity = n_pages;
    uint32_t *pages = realloc(seq->pages, capacity * sizeof(*pages));
    if (pages == NULL) return -ENOMEM;
    seq->pages = pages;
    seq->capacity = capacity;
    return 0;
}

int kv_reserve(kv_cache *kv, kv_seq *seq, uint32_t positions) {
    uint32_t wanted = positions / KV_PAGE + (positions % KV_PAGE != 0);
    if (wanted <= seq->n_pages) return 0;

    /* A list longer than the cache has pages would never be filled. */
    uint32_t possible = seq->n_pages + kv->n_free;
    int rc = grow(seq, wanted < possible ? wanted : possible);
    if (rc < 0) return rc;

    while (seq->n_pages < wanted) {
        if (kv->n_free == 0) return ERR_OVERLOADED;
        seq->pages[seq->n_pages++] = kv->free_pages[--kv->n_free];
    }
    return 0;
}

void kv_release(kv_cache *kv, kv_seq *seq) {
    while (seq->n_pages > 0) {
        assert(kv->n_free < kv->config.n_pages);
        kv->free_pages[kv->n_free++] = seq->pages[--seq->n_pages];
    }
    free(seq->pages);
    *seq = (kv_seq){0};
}

/* ---- elements ---- */

static uint8_t *block(const kv_cache *kv, uint32_t page, uint32_t layer,
                      uint32_t kv_head) {
    assert(page < kv->config.n_pages && layer < kv->config.n_layers &&
           kv_head < kv->config.n_kv_heads);
    size_t index = (size_t)layer * kv->config.n_kv_heads + kv_head;
    return kv->data + page * kv->page_bytes + index * kv->block_bytes;
}

const void *kv_keys(const kv_cache *kv, uint32_t page, uint32_t layer,
                    uint32_t kv_head) {
    return block(kv, page, layer, kv_head);
}

const void *kv_values(const kv_cache *kv, uint32_t page, uint32_t layer,
                      uint32_t kv_head) {
    return block(kv, page, layer, kv_head) + kv->key_bytes;
}

static void to_f16(size_t n, const float *x, uint16_t *out) {
    if (cpu_current() >= CPU_AVX2) {
        kv_to_f16_avx2(n, x, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = f32_to_f16(x[i]);
    }
}

static void write_f32(size_t key_dim, size_t value_dim, size_t slot,
                      const float *k, const float *v, float *keys,
                      float *values) {
    for (size_t d = 0; d < key_dim; d++) {
        keys[d * KV_PAGE + slot] = k[d];
    }
    memcpy(values + slot * value_dim, v, value_dim * sizeof(*v));
}

static void write_f16(size_t key_dim, size_t value_dim, size_t slot,
                      const float *k, const float *v, uint16_t *keys,
                      uint16_t *values) {
    uint16_t chunk[CONVERT_CHUNK];
    for (size_t from = 0; from < key_dim; from += CONVERT_CHUNK) {
        size_t n = size_min(CONVERT_CHUNK, key_dim - from);
        to_f16(n, k + from, chunk);
        for (size_t i = 0; i < n; i++) {
            keys[(from + i) * KV_PAGE + slot] = chunk[i];
        }
    }
    to_f16(value_dim, v, values + slot * value_dim);
}

static void write_latent(const kv_config *c, size_t slot, const float *k,
                         void *keys) {
    if (c->type == KV_F16) {
        to_f16(c->key_dim, k, (uint16_t *)keys + slot * c->key_dim);
    } else {
        memcpy((float *)keys + slot * c->key_dim, k, c->key_dim * sizeof(*k));
    }
}

void kv_write(kv_cache *kv, const kv_seq *seq, uint32_t layer,
              uint32_t position, const float *k, const float *v) {
    const kv_config *c = &kv->config;
    uint32_t index = position / KV_PAGE;
    size_t slot = position % KV_PAGE;
    assert(index < seq->n_pages);

    for (uint32_t head = 0; head < c->n_kv_heads; head++) {
        uint8_t *keys = block(kv, seq->pages[index], layer, head);
        void *values = keys + kv->key_bytes;
        if (c->latent) {
            write_latent(c, slot, k, keys);
            k += c->key_dim;
            continue;
        }
        if (c->type == KV_F16) {
            write_f16(c->key_dim, c->value_dim, slot, k, v, (uint16_t *)keys,
                      values);
        } else {
            write_f32(c->key_dim, c->value_dim, slot, k, v, (float *)keys,
                      values);
        }
        k += c->key_dim;
        v += c->value_dim;
    }
}
