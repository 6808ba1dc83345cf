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
#include "engine/act.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/kv_internal.h"
#include "engine/util.h"
#include "engine/weight.h"

#define CONVERT_CHUNK 256 /* values converted at a time, on the stack */

struct kv_cache {
    kv_config config;
    size_t page_bytes, block_bytes; /* a block: keys, values of one head */
    size_t key_bytes;               /* of a block: where its values start */
    uint8_t *data;
    size_t data_bytes;
    uint32_t *free_pages; /* a stack, the next page on top */
    uint32_t n_free;
};

static const char *const type_names[KV_TYPES] = {
    [KV_F32] = "f32", [KV_F16] = "f16", [KV_Q8_0] = "q8_0"};
static const uint8_t element_bytes[KV_TYPES] = {
    [KV_F32] = sizeof(float), [KV_F16] = sizeof(uint16_t), [KV_Q8_0] = 1};

const char *kv_type_name(kv_type type) {
    return type_names[type];
}

kv_type kv_type_find(const char *name) {
    int type = 0;
    while (type < KV_TYPES && strcmp(name, type_names[type]) != 0)
        type++;
    return (kv_type)type;
}

/* Bytes of a page's keys or values of one head; false if they overflow. */
static bool side_bytes(kv_type type, size_t dim, size_t *out) {
    size_t scales = type == KV_Q8_0 ? kv_scales(dim) * sizeof(float) : 0;
    return size_mul(dim, element_bytes[type], out) &&
           size_add(*out, scales, out) && size_mul(*out, KV_PAGE, out);
}

size_t kv_page_bytes(const kv_config *c) {
    size_t values, bytes;
    if (!side_bytes(c->type, c->key_dim, &bytes)) return 0;
    if (!side_bytes(c->type, c->latent ? 0 : c->value_dim, &values)) return 0;
    if (!size_add(bytes, values, &bytes)) return 0;
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
    side_bytes(c->type, c->key_dim, &kv->key_bytes);
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

/* Where the scales of n positions of `dim` values stand, behind them. */
static void *scales_of(const void *elements, size_t dim) {
    return (uint8_t *)(uintptr_t)elements + KV_PAGE * dim;
}

kv_block kv_block_at(const kv_cache *kv, uint32_t page, uint32_t layer,
                     uint32_t kv_head) {
    const kv_config *c = &kv->config;
    kv_block b = {.keys = block(kv, page, layer, kv_head)};
    b.values = c->latent ? b.keys : (const uint8_t *)b.keys + kv->key_bytes;
    if (c->type == KV_Q8_0) {
        b.key_scales = scales_of(b.keys, c->key_dim);
        b.value_scales = scales_of(b.values, kv_value_stride(c));
    }
    return b;
}

/* Element i, whose scale is number `scale`. */
static float element(kv_type type, const void *from, size_t i,
                     const float *scales, size_t scale) {
    if (type == KV_Q8_0)
        return scales[scale] * (float)((const int8_t *)from)[i];
    if (type == KV_F16) return f16_to_f32(((const uint16_t *)from)[i]);
    return ((const float *)from)[i];
}

/* Of elements that lie [64][dim]. */
static float row_element(kv_type type, size_t dim, const void *from,
                         const float *scales, size_t j, size_t d) {
    return element(type, from, j * dim + d, scales,
                   j * kv_scales(dim) + d / KV_SCALE_DIMS);
}

float kv_key(const kv_config *c, const kv_block *b, size_t j, size_t d) {
    if (c->latent) {
        return row_element(c->type, c->key_dim, b->keys, b->key_scales, j, d);
    }
    return element(c->type, b->keys, d * KV_PAGE + j, b->key_scales,
                   d / KV_SCALE_DIMS * KV_PAGE + j);
}

float kv_value(const kv_config *c, const kv_block *b, size_t j, size_t d) {
    return row_element(c->type, kv_value_stride(c), b->values, b->value_scales,
                       j, d);
}

/* ---- writing ---- */

static void to_f16(size_t n, const float *x, uint16_t *out) {
    if (cpu_current() >= CPU_AVX2) {
        kv_to_f16_avx2(n, x, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = f32_to_f16(x[i]);
    }
}

/* Where a position's key or value goes: element i at i * step, scale number b
 * at b * step.  The step is 1 or, where keys lie transposed, KV_PAGE. */
typedef struct {
    void *elements;
    float *scales;
    size_t step;
} place;

static void put_f32(const place *to, size_t from, size_t n, const float *x) {
    float *out = (float *)to->elements + from * to->step;
    if (to->step == 1) {
        memcpy(out, x, n * sizeof(*x));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        out[i * KV_PAGE] = x[i];
    }
}

static void put_f16(const place *to, size_t from, size_t n, const float *x) {
    uint16_t *out = (uint16_t *)to->elements + from * to->step;
    uint16_t half[CONVERT_CHUNK];
    if (to->step == 1) {
        to_f16(n, x, out);
        return;
    }
    to_f16(n, x, half);
    for (size_t i = 0; i < n; i++) {
        out[i * KV_PAGE] = half[i];
    }
}

/* Missing dims of the last block count as 0. */
static void put_q8_0(const place *to, size_t from, size_t n, const float *x) {
    int8_t *out = (int8_t *)to->elements + from * to->step;
    float *scales = to->scales + from / KV_SCALE_DIMS * to->step;
    size_t whole = kv_scales(n) * KV_SCALE_DIMS;
    float padded[CONVERT_CHUNK], row[CONVERT_CHUNK / 2];
    _Static_assert(KV_SCALE_DIMS == ACT_BLOCK, "rounded as A8 is");

    memcpy(padded, x, n * sizeof(*x));
    memset(padded + n, 0, (whole - n) * sizeof(*x));
    assert(act_row_bytes(ACT_A8, whole) <= sizeof(row));
    act_encode(ACT_A8, whole, padded, row);
    const int8_t *q = act_values(whole, row);
    for (size_t i = 0; i < n; i++) {
        out[i * to->step] = q[i];
    }
    for (size_t b = 0; b < kv_scales(n); b++) {
        scales[b * to->step] = act_scales(row)[b];
    }
}

static void put(kv_type type, const place *to, size_t dim, const float *x) {
    static void (*const by_type[KV_TYPES])(const place *, size_t, size_t,
                                           const float *) = {
        [KV_F32] = put_f32, [KV_F16] = put_f16, [KV_Q8_0] = put_q8_0};
    for (size_t from = 0; from < dim; from += CONVERT_CHUNK) {
        by_type[type](to, from, size_min(CONVERT_CHUNK, dim - from), x + from);
    }
}

/* Slot j of elements that lie [64][dim]. */
static place row_place(kv_type type, size_t dim, const void *elements,
                       size_t j) {
    uint8_t *at = (uint8_t *)(uintptr_t)elements;
    return (place){.elements = at + j * dim * element_bytes[type],
                   .scales = (float *)scales_of(at, dim) + j * kv_scales(dim),
                   .step = 1};
}

static place column_place(kv_type type, size_t dim, const void *elements,
                          size_t j) {
    uint8_t *at = (uint8_t *)(uintptr_t)elements;
    return (place){.elements = at + j * element_bytes[type],
                   .scales = (float *)scales_of(at, dim) + j,
                   .step = KV_PAGE};
}

void kv_write_head(kv_cache *kv, const kv_seq *seq, uint32_t layer,
                   uint32_t kv_head, uint32_t position, const float *k,
                   const float *v) {
    const kv_config *c = &kv->config;
    uint32_t index = position / KV_PAGE;
    size_t slot = position % KV_PAGE;
    assert(index < seq->n_pages);

    uint8_t *keys = block(kv, seq->pages[index], layer, kv_head);
    if (c->latent) {
        place at = row_place(c->type, c->key_dim, keys, slot);
        put(c->type, &at, c->key_dim, k);
        return;
    }
    place key = column_place(c->type, c->key_dim, keys, slot);
    place value = row_place(c->type, c->value_dim, keys + kv->key_bytes, slot);
    put(c->type, &key, c->key_dim, k);
    put(c->type, &value, c->value_dim, v);
}

void kv_write(kv_cache *kv, const kv_seq *seq, uint32_t layer,
              uint32_t position, const float *k, const float *v) {
    const kv_config *c = &kv->config;
    for (uint32_t head = 0; head < c->n_kv_heads; head++) {
        kv_write_head(kv, seq, layer, head, position, k + head * c->key_dim,
                      c->latent ? NULL : v + head * c->value_dim);
    }
}
