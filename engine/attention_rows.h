/* attention_rows.h - attention of a group of heads over sixteen-lane vectors.
 *
 * The body of attention_avx2.c and attention_avx512.c, which define the level
 * for vec16.h, the function's name ATTENTION_GROUP, and how many vectors of
 * accumulators each of TILE_HEADS heads keeps in registers, TILE_VECTORS.
 * Scores have one lane per key, outputs one lane per value dim, so that each
 * lane is one of the reference's chains.  A block's keys and values are taken
 * for TILE_HEADS heads at a time, and come from memory once for the whole
 * group: after the first tile they are in the cache. */
#ifndef ATTENTION_GROUP
#error "attention_rows.h is the body of attention_avx2.c and _avx512.c"
#endif

#include <math.h>
#include "engine/attention_internal.h"
#include "engine/util.h"
#include "engine/vec16.h"
#include "engine/vmath.h"

#define TILE_HEADS 4
#define LONE_VECTORS 4 /* a head by itself leaves registers for as many */
#define PAGE_VECTORS (KV_PAGE / 16)
#define UNROLL _Pragma("GCC unroll 16")

/* What the blocks of one call share, and the state between blocks. */
typedef struct {
    size_t key_dim, value_dim, group;
    const float *q; /* [group][key_dim] */
    float scale;
    float *out;                            /* [group][value_dim] */
    float p[ATTENTION_MAX_GROUP][KV_PAGE]; /* scores, then their exponentials */
    float m[ATTENTION_MAX_GROUP];          /* largest score so far */
    float l[ATTENTION_MAX_GROUP];          /* sum of exponentials so far */
    float c[ATTENTION_MAX_GROUP]; /* this block's factor for l and out */
} attention_state;

V16_INLINE v16 load_lanes(kv_type type, const void *from, size_t at) {
    if (type == KV_F16) return v16_load_f16((const uint16_t *)from + at);
    return v16_load((const float *)from + at);
}

V16_INLINE v16 load_lanes_n(kv_type type, const void *from, size_t at,
                            size_t n) {
    if (type == KV_F16) return v16_load_f16_n((const uint16_t *)from + at, n);
    return v16_load_n((const float *)from + at, n);
}

/* Scores of n_heads heads, from `head` on, for n_vectors vectors of keys from
 * lane `first` on.  The counts are constants where this is inlined. */
V16_INLINE void score_tile(attention_state *a, kv_type type, const void *keys,
                           size_t head, size_t n_heads, size_t first,
                           size_t n_vectors) {
    const float *q = a->q + head * a->key_dim;
    v16 acc[TILE_HEADS][LONE_VECTORS];

    UNROLL for (size_t h = 0; h < n_heads; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) acc[h][i] = v16_set(0);
    }
    for (size_t d = 0; d < a->key_dim; d++) {
        v16 k[LONE_VECTORS];
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            k[i] = load_lanes(type, keys, d * KV_PAGE + first + i * V16_LANES);
        }
        UNROLL for (size_t h = 0; h < n_heads; h++) {
            v16 qd = v16_set(q[h * a->key_dim + d]);
            UNROLL for (size_t i = 0; i < n_vectors; i++) {
                acc[h][i] = v16_fma(qd, k[i], acc[h][i]);
            }
        }
    }
    const v16 scale = v16_set(a->scale);
    UNROLL for (size_t h = 0; h < n_heads; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v16_store(&a->p[head + h][first + i * V16_LANES],
                      v16_mul(scale, acc[h][i]));
        }
    }
}

/* Exponentials of one head's n scores; the other lanes become 0. */
static void soften(attention_state *a, size_t head, size_t n, bool first) {
    const v16 lowest = v16_set(-INFINITY);
    float *p = a->p[head];
    v16 s[PAGE_VECTORS], best = lowest, sum = v16_set(0.0f);

    for (size_t i = 0; i < PAGE_VECTORS; i++) {
        size_t valid = n > i * V16_LANES ? n - i * V16_LANES : 0;
        s[i] = v16_first_n(size_min(valid, V16_LANES),
                           v16_load(p + i * V16_LANES), lowest);
        best = v16_max(s[i], best);
    }
    float block_max = v16_fold_max(best);
    float m = block_max > a->m[head] ? block_max : a->m[head];
    float c = first ? 0.0f : vm_expf(a->m[head] - m);

    const v16 shift = v16_set(m);
    for (size_t i = 0; i < PAGE_VECTORS; i++) {
        size_t valid = n > i * V16_LANES ? n - i * V16_LANES : 0;
        v16 e = v16_first_n(size_min(valid, V16_LANES),
                            v16_exp(v16_sub(s[i], shift)), v16_set(0.0f));
        v16_store(p + i * V16_LANES, e);
        sum = v16_add(sum, e);
    }
    a->l[head] = fmaf(a->l[head], c, v16_fold_sum(sum));
    a->m[head] = m;
    a->c[head] = c;
}

/* out = out * c + sum of p[j] * v_j over the first n values, for n_heads heads
 * and n_vectors vectors of dims from dim `first` on. */
V16_INLINE void value_tile(attention_state *a, kv_type type, const void *values,
                           size_t n, size_t head, size_t n_heads, size_t first,
                           size_t n_vectors) {
    float *out = a->out + head * a->value_dim + first;
    v16 acc[TILE_HEADS][LONE_VECTORS];

    UNROLL for (size_t h = 0; h < n_heads; h++) {
        v16 c = v16_set(a->c[head + h]);
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            const float *o = out + h * a->value_dim + i * V16_LANES;
            acc[h][i] = v16_mul(v16_load(o), c);
        }
    }
    for (size_t j = 0; j < n; j++) {
        v16 v[LONE_VECTORS];
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v[i] = load_lanes(type, values,
                              j * a->value_dim + first + i * V16_LANES);
        }
        UNROLL for (size_t h = 0; h < n_heads; h++) {
            v16 p = v16_set(a->p[head + h][j]);
            UNROLL for (size_t i = 0; i < n_vectors; i++) {
                acc[h][i] = v16_fma(p, v[i], acc[h][i]);
            }
        }
    }
    UNROLL for (size_t h = 0; h < n_heads; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v16_store(out + h * a->value_dim + i * V16_LANES, acc[h][i]);
        }
    }
}

/* The last dims, fewer than a vector, of one head. */
V16_INLINE void value_tail(attention_state *a, kv_type type, const void *values,
                           size_t n, size_t head, size_t first) {
    size_t dims = a->value_dim - first;
    float *out = a->out + head * a->value_dim + first;
    v16 acc = v16_mul(v16_load_n(out, dims), v16_set(a->c[head]));

    for (size_t j = 0; j < n; j++) {
        v16 v = load_lanes_n(type, values, j * a->value_dim + first, dims);
        acc = v16_fma(v16_set(a->p[head][j]), v, acc);
    }
    v16_store_n(out, dims, acc);
}

/* All lanes and dims of n_heads heads; again the counts are constants. */
V16_INLINE void score_heads(attention_state *a, kv_type type, const void *keys,
                            size_t n, size_t head, size_t n_heads,
                            size_t n_vectors) {
    for (size_t first = 0; first < n; first += n_vectors * V16_LANES) {
        score_tile(a, type, keys, head, n_heads, first, n_vectors);
    }
}

V16_INLINE void value_heads(attention_state *a, kv_type type,
                            const void *values, size_t n, size_t head,
                            size_t n_heads, size_t n_vectors) {
    const size_t step = n_vectors * V16_LANES;
    size_t d = 0;
    for (; d + step <= a->value_dim; d += step) {
        value_tile(a, type, values, n, head, n_heads, d, n_vectors);
    }
    for (; d + V16_LANES <= a->value_dim; d += V16_LANES) {
        value_tile(a, type, values, n, head, n_heads, d, 1);
    }
    if (d == a->value_dim) return;
    for (size_t h = 0; h < n_heads; h++) {
        value_tail(a, type, values, n, head + h, d);
    }
}

/* One block of n keys and values: scores, exponentials, outputs. */
V16_INLINE void attend_block(attention_state *a, kv_type type, const void *keys,
                             const void *values, size_t n, bool first) {
    size_t head = 0;
    for (; head + TILE_HEADS <= a->group; head += TILE_HEADS) {
        score_heads(a, type, keys, n, head, TILE_HEADS, TILE_VECTORS);
    }
    for (; head < a->group; head++) {
        score_heads(a, type, keys, n, head, 1, LONE_VECTORS);
    }
    for (head = 0; head < a->group; head++) {
        soften(a, head, n, first);
    }
    for (head = 0; head + TILE_HEADS <= a->group; head += TILE_HEADS) {
        value_heads(a, type, values, n, head, TILE_HEADS, TILE_VECTORS);
    }
    for (; head < a->group; head++) {
        value_heads(a, type, values, n, head, 1, LONE_VECTORS);
    }
}

static void attend_block_f32(attention_state *a, const void *keys,
                             const void *values, size_t n, bool first) {
    attend_block(a, KV_F32, keys, values, n, first);
}

static void attend_block_f16(attention_state *a, const void *keys,
                             const void *values, size_t n, bool first) {
    attend_block(a, KV_F16, keys, values, n, first);
}

void ATTENTION_GROUP(const kv_cache *kv, const kv_seq *seq, uint32_t layer,
                     uint32_t kv_head, uint32_t position, size_t group,
                     const float *q, float scale, float *out) {
    const kv_config *config = kv_cache_config(kv);
    attention_state a;
    a.key_dim = config->key_dim;
    a.value_dim = config->value_dim;
    a.group = group;
    a.q = q;
    a.scale = scale;
    a.out = out;
    for (size_t head = 0; head < group; head++) {
        a.m[head] = -INFINITY;
        a.l[head] = 0.0f;
    }
    memset(out, 0, group * a.value_dim * sizeof(*out));

    for (uint32_t b = 0; b <= position / KV_PAGE; b++) {
        size_t n = size_min(KV_PAGE, (size_t)position + 1 - b * KV_PAGE);
        const void *keys = kv_keys(kv, seq->pages[b], layer, kv_head);
        const void *values = kv_values(kv, seq->pages[b], layer, kv_head);
        if (config->type == KV_F16) {
            attend_block_f16(&a, keys, values, n, b == 0);
        } else {
            attend_block_f32(&a, keys, values, n, b == 0);
        }
    }
    for (size_t head = 0; head < group; head++) {
        for (size_t d = 0; d < a.value_dim; d++) {
            out[head * a.value_dim + d] =
                out[head * a.value_dim + d] / a.l[head];
        }
    }
}
