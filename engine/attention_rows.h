/* attention_rows.h - attention of a group of heads over sixteen-lane vectors.
 *
 * The body of attention_avx2.c and attention_avx512.c, which define the level
 * for vec16.h, the function's name ATTENTION_GROUP, and how many vectors of
 * accumulators each of TILE_HEADS heads keeps in registers, TILE_VECTORS, and
 * how many keys of a latent cache are taken at a time, LATENT_KEYS.
 * Scores have one lane per key, outputs one lane per value dim, so that each
 * lane is one of the reference's chains.  A block's keys and values are taken
 * for TILE_HEADS heads at a time, and come from memory once for the whole
 * group: after the first tile they are in the cache.
 *
 * Keys of a latent cache lie the other way round, since their first part is
 * the values too; there scores have one lane per head. */
#ifndef ATTENTION_GROUP
#error "attention_rows.h is the body of attention_avx2.c and _avx512.c"
#endif

#include <math.h>
#include <stdbool.h>
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
    size_t key_dim, value_dim, value_stride, group;
    const float *q; /* [group][q_stride] */
    size_t q_stride;
    float *turned; /* latent: q as [key_dim][V16_LANES], a lane per head */
    float scale, softcap;
    size_t from;                           /* first key seen in this block */
    bool empty;                            /* no key or sink so far */
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
    const float *q = a->q + head * a->q_stride;
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
            v16 qd = v16_set(q[h * a->q_stride + d]);
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

/* A latent key as floats: where it lies, or in `room`. */
V16_INLINE const float *latent_key(const attention_state *a, kv_type type,
                                   const void *keys, size_t j, float *room) {
    if (type == KV_F32) return (const float *)keys + j * a->key_dim;
    const size_t at = j * a->key_dim;
    size_t d = 0;
    for (; d + V16_LANES <= a->key_dim; d += V16_LANES) {
        v16_store(room + d, load_lanes(type, keys, at + d));
    }
    size_t rest = a->key_dim - d;
    if (rest > 0) {
        v16_store_n(room + d, rest, load_lanes_n(type, keys, at + d, rest));
    }
    return room;
}

/* Scores of up to V16_LANES heads for the first n keys of a latent block.
 * Beyond the n-th, a key is computed with and its scores dropped. */
V16_INLINE void score_latent(attention_state *a, kv_type type, const void *keys,
                             size_t n) {
    float room[LATENT_KEYS][ATTENTION_MAX_DIM], lanes[V16_LANES];
    const v16 scale = v16_set(a->scale);

    for (size_t j = 0; j < n; j += LATENT_KEYS) {
        const float *k[LATENT_KEYS];
        v16 acc[LATENT_KEYS];
        for (size_t i = 0; i < LATENT_KEYS; i++) {
            size_t key = size_min(j + i, n - 1);
            k[i] = latent_key(a, type, keys, key, room[i]);
            acc[i] = v16_set(0.0f);
        }
        for (size_t d = 0; d < a->key_dim; d++) {
            v16 q = v16_load(a->turned + d * V16_LANES);
            UNROLL for (size_t i = 0; i < LATENT_KEYS; i++) {
                acc[i] = v16_fma(q, v16_set(k[i][d]), acc[i]);
            }
        }
        for (size_t i = 0; i < size_min(LATENT_KEYS, n - j); i++) {
            v16_store(lanes, v16_mul(scale, acc[i]));
            for (size_t h = 0; h < a->group; h++) {
                a->p[h][j + i] = lanes[h];
            }
        }
    }
}

/* The lanes of keys [from, n) of vector i of a block; the others become
 * `other`. */
V16_INLINE v16 seen_lanes(size_t i, size_t from, size_t n, v16 a, v16 other) {
    size_t before = from > i * V16_LANES ? from - i * V16_LANES : 0;
    size_t valid = n > i * V16_LANES ? n - i * V16_LANES : 0;
    a = v16_first_n(size_min(valid, V16_LANES), a, other);
    return v16_first_n(size_min(before, V16_LANES), other, a);
}

/* Exponentials of one head's scores of keys [from, n); the other lanes become
 * 0. */
static void soften(attention_state *a, size_t head, size_t n) {
    const v16 lowest = v16_set(-INFINITY), cap = v16_set(a->softcap);
    float *p = a->p[head];
    v16 s[PAGE_VECTORS], best = lowest, sum = v16_set(0.0f);

    for (size_t i = 0; i < PAGE_VECTORS; i++) {
        s[i] = v16_load(p + i * V16_LANES);
        if (a->softcap > 0.0f) s[i] = v16_softcap(s[i], cap);
        s[i] = seen_lanes(i, a->from, n, s[i], lowest);
        best = v16_max(s[i], best);
    }
    float block_max = v16_fold_max(best);
    float m = block_max > a->m[head] ? block_max : a->m[head];
    float c = a->empty ? 0.0f : vm_expf(a->m[head] - m);

    const v16 shift = v16_set(m);
    for (size_t i = 0; i < PAGE_VECTORS; i++) {
        v16 e = seen_lanes(i, a->from, n, v16_exp(v16_sub(s[i], shift)),
                           v16_set(0.0f));
        v16_store(p + i * V16_LANES, e);
        sum = v16_add(sum, e);
    }
    a->l[head] = fmaf(a->l[head], c, v16_fold_sum(sum));
    a->m[head] = m;
    a->c[head] = c;
}

/* out = out * c + sum of p[j] * v_j over values [from, n), for n_heads heads
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
    for (size_t j = a->from; j < n; j++) {
        v16 v[LONE_VECTORS];
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v[i] = load_lanes(type, values,
                              j * a->value_stride + first + i * V16_LANES);
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

    for (size_t j = a->from; j < n; j++) {
        v16 v = load_lanes_n(type, values, j * a->value_stride + first, dims);
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

V16_INLINE void score_block(attention_state *a, kv_type type, const void *keys,
                            size_t n) {
    if (a->turned != NULL) {
        score_latent(a, type, keys, n);
        return;
    }
    size_t head = 0;
    for (; head + TILE_HEADS <= a->group; head += TILE_HEADS) {
        score_heads(a, type, keys, n, head, TILE_HEADS, TILE_VECTORS);
    }
    for (; head < a->group; head++) {
        score_heads(a, type, keys, n, head, 1, LONE_VECTORS);
    }
}

/* One block of n keys and values: scores, exponentials, outputs. */
V16_INLINE void attend_block(attention_state *a, kv_type type, const void *keys,
                             const void *values, size_t n) {
    size_t head;
    score_block(a, type, keys, n);
    for (head = 0; head < a->group; head++) {
        soften(a, head, n);
    }
    for (head = 0; head + TILE_HEADS <= a->group; head += TILE_HEADS) {
        value_heads(a, type, values, n, head, TILE_HEADS, TILE_VECTORS);
    }
    for (; head < a->group; head++) {
        value_heads(a, type, values, n, head, 1, LONE_VECTORS);
    }
}

static void attend_block_f32(attention_state *a, const void *keys,
                             const void *values, size_t n) {
    attend_block(a, KV_F32, keys, values, n);
}

static void attend_block_f16(attention_state *a, const void *keys,
                             const void *values, size_t n) {
    attend_block(a, KV_F16, keys, values, n);
}

static void begin(attention_state *a, const kv_config *config,
                  const attention_query *query, float *out) {
    a->key_dim = config->key_dim;
    a->value_dim = config->value_dim;
    a->value_stride = kv_value_stride(config);
    a->group = query->group;
    a->q = query->q;
    a->q_stride = query->q_stride;
    a->scale = query->scale;
    a->softcap = query->softcap;
    a->empty = query->sinks == NULL;
    a->turned = NULL;
    a->out = out;
    for (size_t head = 0; head < a->group; head++) {
        a->m[head] = a->empty ? -INFINITY : query->sinks[head];
        a->l[head] = a->empty ? 0.0f : 1.0f;
    }
    memset(out, 0, a->group * a->value_dim * sizeof(*out));
}

/* Lanes of heads that there are not are 0. */
static void turn_queries(attention_state *a, float *turned) {
    for (size_t d = 0; d < a->key_dim; d++) {
        for (size_t h = 0; h < V16_LANES; h++) {
            turned[d * V16_LANES + h] =
                h < a->group ? a->q[h * a->q_stride + d] : 0.0f;
        }
    }
    a->turned = turned;
}

void ATTENTION_GROUP(const kv_cache *kv, const attention_query *query,
                     float *out) {
    const kv_config *config = kv_cache_config(kv);
    float turned[ATTENTION_MAX_DIM * V16_LANES];
    attention_state a;
    begin(&a, config, query, out);
    if (config->latent) turn_queries(&a, turned);

    uint32_t b = query->first / KV_PAGE;
    a.from = query->first % KV_PAGE;
    for (; b <= query->position / KV_PAGE; b++) {
        size_t n = size_min(KV_PAGE, (size_t)query->position + 1 - b * KV_PAGE);
        uint32_t page = query->seq->pages[b];
        const void *keys = kv_keys(kv, page, query->layer, query->kv_head);
        const void *values = kv_values(kv, page, query->layer, query->kv_head);
        if (config->type == KV_F16) {
            attend_block_f16(&a, keys, values, n);
        } else {
            attend_block_f32(&a, keys, values, n);
        }
        a.from = 0;
        a.empty = false;
    }
    for (size_t head = 0; head < a.group; head++) {
        for (size_t d = 0; d < a.value_dim; d++) {
            out[head * a.value_dim + d] =
                out[head * a.value_dim + d] / a.l[head];
        }
    }
}
