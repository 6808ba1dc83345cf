/* attention_rows.h - attention of a tile of rows over sixteen-lane vectors.
 *
 * The body of attention_avx2.c and attention_avx512.c, which define the level
 * for vec16.h, the function's name ATTENTION_TILE, and what fits into the
 * registers: TILE_VECTORS of accumulators for each of TILE_LANES lanes, and
 * LATENT_KEYS keys of one vector of lanes.
 *
 * Every (row, head) of the tile is a lane.  A block is taken by all lanes that
 * see some of it before the next one: scores [lanes][64], their exponentials,
 * sums [lanes][value_dim].  Both products are register tiles of chains, one
 * chain in each SIMD lane, so that each is the reference's; keys and values
 * come from memory, and are converted, once for all lanes.  Lanes see
 * different ends of the blocks at their windows' begins and at their own
 * positions: scores beyond are computed and dropped, values beyond are never
 * read into a sum.
 *
 * Scores have SIMD lanes over keys, which lie transposed in pages.  Keys of a
 * latent cache lie the other way round, since their first part is the values
 * too; there the queries are transposed, SIMD lanes are the tile's lanes, and
 * the scores are turned afterwards. */
#ifndef ATTENTION_TILE
#error "attention_rows.h is the body of attention_avx2.c and _avx512.c"
#endif

#include <math.h>
#include <stdbool.h>
#include "engine/attention_internal.h"
#include "engine/attention_panel.h"
#include "engine/util.h"
#include "engine/vec16.h"

#define TILE_LANES 4
#define LONE_VECTORS 4 /* a lane by itself leaves registers for as many */
#define MOST_TILE 8    /* rows of accumulators, of any tile */
#define PAGE_VECTORS (KV_PAGE / V16_LANES)
/* Dims of latent keys that are multiplied at a time, so that the queries' part
 * stays in the first cache. */
#define LATENT_DIMS ((size_t)96)
#define UNROLL _Pragma("GCC unroll 16")

typedef struct {
    const kv_cache *kv;
    const kv_config *config;
    const attention_query *query;
    attention_scratch *s;
    size_t n_lanes;
    size_t out_stride;   /* of s->out */
    size_t turned_lanes; /* latent: n_lanes in whole vectors */

    /* The block: what each lane sees of it. */
    size_t lane0, lane1;           /* lanes that see any */
    uint8_t from[ATTENTION_LANES]; /* first key seen, */
    uint8_t n[ATTENTION_LANES];    /* end of those seen */
    bool empty[ATTENTION_LANES];   /* no key or sink so far */

    float m[ATTENTION_LANES];   /* largest score so far */
    float l[ATTENTION_LANES];   /* sum of exponentials so far */
    float c[ATTENTION_LANES];   /* this block's factor for l and sums */
    float sum[ATTENTION_LANES]; /* this block's exponentials */
} tile;

static float *scores_of(const tile *t, size_t lane) {
    return t->s->p + lane * KV_PAGE;
}

/* ---- the chains ---- */

/* One step of n_rows x n_vectors chains: acc += x[row] * b, x being values of
 * the rows, x_stride apart.  The counts are constants where this is inlined. */
V16_INLINE void chain_step(v16 acc[][LONE_VECTORS], size_t n_rows,
                           size_t n_vectors, const float *x, size_t x_stride,
                           kv_type type, const void *b, size_t at) {
    v16 column[LONE_VECTORS];
    UNROLL for (size_t i = 0; i < n_vectors; i++) {
        column[i] = load_lanes(type, b, at + i * V16_LANES);
    }
    UNROLL for (size_t r = 0; r < n_rows; r++) {
        v16 factor = v16_set(x[r * x_stride]);
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            acc[r][i] = v16_fma(factor, column[i], acc[r][i]);
        }
    }
}

/* ---- scores ---- */

V16_INLINE void score_tile(const tile *t, const panel *keys, kv_type type,
                           size_t lane, size_t n_lanes, size_t vector,
                           size_t n_vectors) {
    const size_t key_dim = t->config->key_dim, first = vector * V16_LANES;
    const float *q = t->s->q + lane * key_dim;
    const v16 scale = v16_set(t->query->scale);
    v16 acc[MOST_TILE][LONE_VECTORS];

    UNROLL for (size_t h = 0; h < n_lanes; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) acc[h][i] = v16_set(0);
    }
    for (size_t d = 0; d < key_dim; d++) {
        chain_step(acc, n_lanes, n_vectors, q + d, key_dim, type, keys->data,
                   d * keys->stride + first);
    }
    UNROLL for (size_t h = 0; h < n_lanes; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v16_store(scores_of(t, lane + h) + first + i * V16_LANES,
                      v16_mul(scale, acc[h][i]));
        }
    }
}

/* What any of n_lanes lanes sees: the last sees farthest. */
V16_INLINE void score_lanes(const tile *t, const panel *keys, kv_type type,
                            size_t lane, size_t n_lanes, size_t n_vectors) {
    const size_t end = t->n[lane + n_lanes - 1];
    const size_t vectors = (end + V16_LANES - 1) / V16_LANES;
    size_t v = t->from[lane] / V16_LANES;
    for (; v + n_vectors <= vectors; v += n_vectors) {
        score_tile(t, keys, type, lane, n_lanes, v, n_vectors);
    }
    for (; v + 2 <= vectors; v += 2) {
        score_tile(t, keys, type, lane, n_lanes, v, 2);
    }
    if (v < vectors) score_tile(t, keys, type, lane, n_lanes, v, 1);
}

V16_INLINE void score_type(const tile *t, const panel *keys, kv_type type) {
    size_t lane = t->lane0;
    for (; lane + TILE_LANES <= t->lane1; lane += TILE_LANES) {
        score_lanes(t, keys, type, lane, TILE_LANES, TILE_VECTORS);
    }
    for (; lane < t->lane1; lane++) {
        score_lanes(t, keys, type, lane, 1, LONE_VECTORS);
    }
}

static void score_f32(const tile *t, const panel *keys) {
    score_type(t, keys, KV_F32);
}

static void score_f16(const tile *t, const panel *keys) {
    score_type(t, keys, KV_F16);
}

/* Scores of n_keys keys for n_vectors vectors of lanes, over dims [from, to),
 * before the scale; those of earlier dims are there already. */
V16_INLINE void latent_tile(const tile *t, const panel *keys, size_t key,
                            size_t n_keys, size_t vector, size_t n_vectors,
                            size_t from, size_t to) {
    const size_t lanes = t->turned_lanes;
    const float *k = (const float *)keys->data + key * keys->stride;
    const float *q = t->s->q + vector * V16_LANES;
    float *out = t->s->turned + key * lanes + vector * V16_LANES;
    v16 acc[MOST_TILE][LONE_VECTORS];

    UNROLL for (size_t h = 0; h < n_keys; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            acc[h][i] = from == 0 ? v16_set(0.0f)
                                  : v16_load(out + h * lanes + i * V16_LANES);
        }
    }
    for (size_t d = from; d < to; d++) {
        chain_step(acc, n_keys, n_vectors, k + d, keys->stride, KV_F32, q,
                   d * lanes);
    }
    UNROLL for (size_t h = 0; h < n_keys; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v16_store(out + h * lanes + i * V16_LANES, acc[h][i]);
        }
    }
}

/* All lanes' vectors, and keys in whole tiles from the first on. */
static void multiply_latent(const tile *t, const panel *keys, size_t n) {
    const size_t vectors = t->turned_lanes / V16_LANES;
    const size_t dims = t->config->key_dim;
    for (size_t from = 0; from < dims; from += LATENT_DIMS) {
        const size_t to = size_min(from + LATENT_DIMS, dims);
        size_t v = 0;
        for (; v + TILE_VECTORS <= vectors && TILE_VECTORS > 1;
             v += TILE_VECTORS) {
            for (size_t key = 0; key < n; key += 4) {
                latent_tile(t, keys, key, 4, v, TILE_VECTORS, from, to);
            }
        }
        for (; v < vectors; v++) {
            for (size_t key = 0; key < n; key += LATENT_KEYS) {
                latent_tile(t, keys, key, LATENT_KEYS, v, 1, from, to);
            }
        }
    }
}

/* Scores of the first n keys, lane after lane. */
static void turn_scores(const tile *t, size_t n) {
    const float scale = t->query->scale;
    for (size_t lane = t->lane0; lane < t->lane1; lane++) {
        const float *from = t->s->turned + lane;
        float *to = scores_of(t, lane);
        for (size_t j = 0; j < n; j++) {
            to[j] = scale * from[j * t->turned_lanes];
        }
    }
}

/* ---- exponentials ---- */

/* The lanes of keys [from, n) of vector i of a block; the others become
 * `other`. */
V16_INLINE v16 seen_lanes(size_t i, size_t from, size_t n, v16 a, v16 other) {
    size_t before = from > i * V16_LANES ? from - i * V16_LANES : 0;
    size_t valid = n > i * V16_LANES ? n - i * V16_LANES : 0;
    a = v16_first_n(size_min(valid, V16_LANES), a, other);
    return v16_first_n(size_min(before, V16_LANES), other, a);
}

/* The largest of a lane's scores, capped; masked ones become -inf. */
static float largest_score(const tile *t, size_t lane) {
    const v16 lowest = v16_set(-INFINITY), cap = v16_set(t->query->softcap);
    const size_t from = t->from[lane], n = t->n[lane];
    const bool whole = from == 0 && n == KV_PAGE;
    float *p = scores_of(t, lane);
    v16 best = lowest;

    UNROLL for (size_t i = 0; i < PAGE_VECTORS; i++) {
        v16 s = v16_load(p + i * V16_LANES);
        if (t->query->softcap > 0.0f) s = v16_softcap(s, cap);
        if (!whole) s = seen_lanes(i, from, n, s, lowest);
        if (!whole || t->query->softcap > 0.0f) {
            v16_store(p + i * V16_LANES, s);
        }
        best = v16_max(s, best);
    }
    return v16_fold_max(best);
}

/* Exponentials of a lane's scores, 0 for masked keys, and their sum. */
static float soften_lane(const tile *t, size_t lane) {
    const size_t from = t->from[lane], n = t->n[lane];
    const bool whole = from == 0 && n == KV_PAGE;
    const v16 shift = v16_set(t->m[lane]), zero = v16_set(0.0f);
    float *p = scores_of(t, lane);
    v16 sum = zero;

    UNROLL for (size_t i = 0; i < PAGE_VECTORS; i++) {
        v16 e = v16_exp(v16_sub(v16_load(p + i * V16_LANES), shift));
        if (!whole) e = seen_lanes(i, from, n, e, zero);
        v16_store(p + i * V16_LANES, e);
        sum = v16_add(sum, e);
    }
    return v16_fold_sum(sum);
}

/* m = max(m, sum), which holds the block's largest scores; c follows. */
static void raise_maxima(tile *t) {
    for (size_t lane = t->lane0; lane < t->lane1; lane += V16_LANES) {
        size_t n = size_min(t->lane1 - lane, V16_LANES);
        v16 before = v16_load_n(t->m + lane, n);
        v16 m = v16_max(v16_load_n(t->sum + lane, n), before);
        v16_store_n(t->m + lane, n, m);
        v16_store_n(t->c + lane, n, v16_exp(v16_sub(before, m)));
    }
    for (size_t lane = t->lane0; lane < t->lane1; lane++) {
        if (t->empty[lane]) t->c[lane] = 0.0f;
        t->empty[lane] = false;
    }
}

static void soften(tile *t) {
    for (size_t lane = t->lane0; lane < t->lane1; lane++) {
        t->sum[lane] = largest_score(t, lane);
    }
    raise_maxima(t);
    for (size_t lane = t->lane0; lane < t->lane1; lane++) {
        t->sum[lane] = soften_lane(t, lane);
    }
    for (size_t lane = t->lane0; lane < t->lane1; lane += V16_LANES) {
        size_t n = size_min(t->lane1 - lane, V16_LANES);
        v16 l = v16_fma(v16_load_n(t->l + lane, n), v16_load_n(t->c + lane, n),
                        v16_load_n(t->sum + lane, n));
        v16_store_n(t->l + lane, n, l);
    }
}

/* ---- values ---- */

/* Keys [from, to), of which each lane takes those that it sees. */
V16_INLINE void chain_seen(const tile *t, v16 acc[][LONE_VECTORS], size_t lane,
                           size_t n_lanes, size_t n_vectors, kv_type type,
                           const panel *values, size_t first, size_t from,
                           size_t to) {
    for (size_t j = from; j < to; j++) {
        UNROLL for (size_t h = 0; h < n_lanes; h++) {
            if (j < t->from[lane + h] || j >= t->n[lane + h]) continue;
            chain_step(acc + h, 1, n_vectors, scores_of(t, lane + h) + j, 0,
                       type, values->data, j * values->stride + first);
        }
    }
}

/* out = out * c + sum of p[j] * v_j over the values that each lane sees, for
 * n_lanes lanes and n_vectors vectors of dims from dim `first` on. */
V16_INLINE void value_tile(const tile *t, const panel *values, kv_type type,
                           size_t lane, size_t n_lanes, size_t first,
                           size_t n_vectors) {
    const size_t last = lane + n_lanes - 1;
    /* Lanes are in the order of positions: all of them see [begin, end). */
    const size_t begin = t->from[last], end = size_max(t->n[lane], begin);
    const float *p = scores_of(t, lane);
    float *out = t->s->out + lane * t->out_stride + first;
    v16 acc[MOST_TILE][LONE_VECTORS];

    UNROLL for (size_t h = 0; h < n_lanes; h++) {
        v16 c = v16_set(t->c[lane + h]);
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            const float *o = out + h * t->out_stride + i * V16_LANES;
            acc[h][i] = v16_mul(v16_load(o), c);
        }
    }
    chain_seen(t, acc, lane, n_lanes, n_vectors, type, values, first,
               t->from[lane], begin);
    for (size_t j = begin; j < end; j++) {
        chain_step(acc, n_lanes, n_vectors, p + j, KV_PAGE, type, values->data,
                   j * values->stride + first);
    }
    chain_seen(t, acc, lane, n_lanes, n_vectors, type, values, first, end,
               t->n[last]);
    UNROLL for (size_t h = 0; h < n_lanes; h++) {
        UNROLL for (size_t i = 0; i < n_vectors; i++) {
            v16_store(out + h * t->out_stride + i * V16_LANES, acc[h][i]);
        }
    }
}

/* The same dims of all lanes, so that they stay in the first cache. */
V16_INLINE void value_dims(const tile *t, const panel *values, kv_type type,
                           size_t first, size_t n_vectors) {
    size_t lane = t->lane0;
    for (; lane + TILE_LANES <= t->lane1; lane += TILE_LANES) {
        value_tile(t, values, type, lane, TILE_LANES, first, n_vectors);
    }
    for (; lane < t->lane1; lane++) {
        value_tile(t, values, type, lane, 1, first, n_vectors);
    }
}

V16_INLINE void value_type(const tile *t, const panel *values, kv_type type) {
    const size_t lone = LONE_VECTORS * V16_LANES;
    const size_t step = TILE_VECTORS * V16_LANES;
    size_t d = 0;
    if (t->lane1 - t->lane0 < TILE_LANES) {
        for (; d + lone <= t->out_stride; d += lone) {
            value_dims(t, values, type, d, LONE_VECTORS);
        }
    }
    for (; d + step <= t->out_stride; d += step) {
        value_dims(t, values, type, d, TILE_VECTORS);
    }
    for (; d + 2 * V16_LANES <= t->out_stride && TILE_VECTORS > 1;
         d += 2 * V16_LANES) {
        value_dims(t, values, type, d, 2);
    }
    for (; d < t->out_stride; d += V16_LANES) {
        value_dims(t, values, type, d, 1);
    }
}

static void value_f32(const tile *t, const panel *values) {
    value_type(t, values, KV_F32);
}

static void value_f16(const tile *t, const panel *values) {
    value_type(t, values, KV_F16);
}

/* ---- a block ---- */

/* What lanes see of block b; false if none sees any. */
static bool see_block(tile *t, size_t b) {
    const attention_query *a = t->query;
    t->lane0 = t->lane1 = t->n_lanes;
    for (size_t i = 0; i < a->n_rows; i++) {
        const attention_row *row = &a->rows[i];
        if (row->position / KV_PAGE < b || row->first / KV_PAGE > b) continue;
        size_t from = row->first / KV_PAGE == b ? row->first % KV_PAGE : 0;
        size_t n = size_min(KV_PAGE, (size_t)row->position + 1 - b * KV_PAGE);
        if (t->lane0 == t->n_lanes) t->lane0 = i * a->group;
        t->lane1 = (i + 1) * a->group;
        memset(t->from + i * a->group, (int)from, a->group);
        memset(t->n + i * a->group, (int)n, a->group);
    }
    return t->lane0 < t->n_lanes;
}

static void attend_grouped(tile *t, const kv_block *block) {
    const kv_config *c = t->config;
    const size_t lanes = t->lane1 - t->lane0, n = t->n[t->lane1 - 1];
    const elements keys = {.type = c->type,
                           .data = block->keys,
                           .scales = block->key_scales,
                           .stride = KV_PAGE,
                           .scale_stride = KV_PAGE,
                           .column_scales = true};
    const elements values = {.type = c->type,
                             .data = block->values,
                             .scales = block->value_scales,
                             .stride = c->value_dim,
                             .scale_stride = kv_scales(c->value_dim)};

    panel k = panel_of(&keys, lanes, c->key_dim, KV_PAGE, t->s->block);
    (k.type == KV_F16 ? score_f16 : score_f32)(t, &k);
    soften(t);
    panel v = panel_of(&values, lanes, n, c->value_dim, t->s->block);
    (v.type == KV_F16 ? value_f16 : value_f32)(t, &v);
}

/* The values are what the keys begin with, so both products share a panel; of
 * floats, since the first one takes its elements one by one. */
static void attend_latent(tile *t, const kv_block *block) {
    const kv_config *c = t->config;
    const size_t n = t->n[t->lane1 - 1];
    const elements keys = {.type = c->type,
                           .data = block->keys,
                           .scales = block->key_scales,
                           .stride = c->key_dim,
                           .scale_stride = kv_scales(c->key_dim)};

    panel k = panel_of(&keys, ATTENTION_LANES, n, c->key_dim, t->s->block);
    multiply_latent(t, &k, n);
    turn_scores(t, n);
    soften(t);
    value_f32(t, &k);
}

/* ---- a tile ---- */

static void gather_lanes(tile *t) {
    const attention_query *a = t->query;
    const size_t dim = t->config->key_dim;
    size_t lane = 0;
    for (size_t i = 0; i < a->n_rows; i++) {
        for (size_t h = 0; h < a->group; h++, lane++) {
            t->empty[lane] = a->sinks == NULL;
            t->m[lane] = t->empty[lane] ? -INFINITY : a->sinks[h];
            t->l[lane] = t->empty[lane] ? 0.0f : 1.0f;
            if (t->config->latent) continue;
            memcpy(t->s->q + lane * dim, a->rows[i].q + h * a->q_stride,
                   dim * sizeof(float));
        }
    }
    memset(t->s->out, 0, t->n_lanes * t->out_stride * sizeof(float));
}

/* Queries as [key_dim][turned_lanes], some dims of all lanes at a time, so that
 * the lines written to stay in the first cache; lanes that there are not are
 * 0. */
static void turn_queries(tile *t) {
    const attention_query *a = t->query;
    const size_t dims = t->config->key_dim, lanes = t->turned_lanes;
    memset(t->s->q, 0, dims * lanes * sizeof(float));
    for (size_t d0 = 0; d0 < dims; d0 += V16_LANES) {
        const size_t n = size_min(dims - d0, V16_LANES);
        float *to = t->s->q + d0 * lanes;
        for (size_t i = 0; i < a->n_rows; i++) {
            const float *q = a->rows[i].q + d0;
            for (size_t h = 0; h < a->group; h++, q += a->q_stride, to++) {
                for (size_t d = 0; d < n; d++) {
                    to[d * lanes] = q[d];
                }
            }
        }
    }
}

/* out = sums / l, n of them. */
static void divide(size_t n, const float *sums, float l, float *out) {
    const v16 by = v16_set(l);
    size_t d = 0;
    for (; d + V16_LANES <= n; d += V16_LANES) {
        v16_store(out + d, v16_div(v16_load(sums + d), by));
    }
    if (d == n) return;
    v16_store_n(out + d, n - d, v16_div(v16_load(sums + d), by));
}

static void give_out(const tile *t) {
    const attention_query *a = t->query;
    const size_t dim = t->config->value_dim;
    size_t lane = 0;
    for (size_t i = 0; i < a->n_rows; i++) {
        for (size_t h = 0; h < a->group; h++, lane++) {
            divide(dim, t->s->out + lane * t->out_stride, t->l[lane],
                   a->rows[i].out + h * dim);
        }
    }
}

void ATTENTION_TILE(const kv_cache *kv, const attention_query *query,
                    attention_scratch *scratch) {
    const kv_config *config = kv_cache_config(kv);
    const attention_row *last = &query->rows[query->n_rows - 1];
    tile t = {.kv = kv,
              .config = config,
              .query = query,
              .s = scratch,
              .n_lanes = query->n_rows * query->group,
              .out_stride = round_up(config->value_dim, V16_LANES)};
    t.turned_lanes = round_up(t.n_lanes, V16_LANES);
    gather_lanes(&t);
    if (config->latent) turn_queries(&t);

    for (size_t b = query->rows[0].first / KV_PAGE;
         b <= last->position / KV_PAGE; b++) {
        if (!see_block(&t, b)) continue;
        kv_block block =
            kv_block_at(kv, query->seq->pages[b], query->layer, query->kv_head);
        (config->latent ? attend_latent : attend_grouped)(&t, &block);
    }
    give_out(&t);
}
