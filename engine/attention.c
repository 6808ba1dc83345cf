/* attention.c - the reference of attention_run(), and the choice of a level.
 *
 * The reference takes one query head at a time and one block after the other;
 * attention_rows.h computes the same values for a tile of rows and heads, with
 * SIMD lanes over keys (of a latent cache, over heads) and over value dims.
 * Unwritten slots of the last block may hold anything, NaN included: they are
 * left out of every sum, not multiplied by zero. */
#include "engine/attention.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include "engine/attention_internal.h"
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/util.h"
#include "engine/vmath.h"

/* s[j] = scale * q . k_j, capped, for the first n keys of a block. */
static void score(const kv_config *c, const kv_block *block, size_t n,
                  const attention_query *a, const float *q, float *s) {
    for (size_t j = 0; j < n; j++) {
        float acc = 0.0f;
        for (size_t d = 0; d < c->key_dim; d++) {
            acc = fmaf(q[d], kv_key(c, block, j, d), acc);
        }
        s[j] = a->scale * acc;
        if (a->softcap > 0.0f) s[j] = vm_softcapf(s[j], a->softcap);
    }
}

/* o = o * c + sum of p[j] * v_j over values [from, n) of a block. */
static void accumulate(const kv_config *config, const kv_block *block,
                       size_t from, size_t n, const float *p, float c,
                       float *o) {
    for (size_t d = 0; d < config->value_dim; d++) {
        float acc = o[d] * c;
        for (size_t j = from; j < n; j++) {
            acc = fmaf(p[j], kv_value(config, block, j, d), acc);
        }
        o[d] = acc;
    }
}

static void attend_one_head(const kv_cache *kv, const attention_query *a,
                            const attention_row *row, size_t head) {
    const kv_config *config = kv_cache_config(kv);
    const float *q = row->q + head * a->q_stride;
    float *out = row->out + head * config->value_dim;
    float m = a->sinks != NULL ? a->sinks[head] : -INFINITY;
    float l = a->sinks != NULL ? 1.0f : 0.0f;
    bool empty = a->sinks == NULL;
    float p[KV_PAGE];

    for (size_t d = 0; d < config->value_dim; d++) {
        out[d] = 0.0f;
    }
    for (uint32_t b = row->first / KV_PAGE; b <= row->position / KV_PAGE; b++) {
        size_t from = b == row->first / KV_PAGE ? row->first % KV_PAGE : 0;
        size_t n = size_min(KV_PAGE, (size_t)row->position + 1 - b * KV_PAGE);
        kv_block block =
            kv_block_at(kv, a->seq->pages[b], a->layer, a->kv_head);

        score(config, &block, n, a, q, p);
        for (size_t j = 0; j < from; j++) {
            p[j] = -INFINITY;
        }
        float block_max = vm_max(n, p);
        float new_m = block_max > m ? block_max : m;
        float c = empty ? 0.0f : vm_expf(m - new_m);
        for (size_t j = 0; j < KV_PAGE; j++) {
            p[j] = j >= from && j < n ? vm_expf(p[j] - new_m) : 0.0f;
        }
        l = fmaf(l, c, vm_sum(KV_PAGE, p));
        m = new_m;
        empty = false;
        accumulate(config, &block, from, n, p, c, out);
    }
    for (size_t d = 0; d < config->value_dim; d++) {
        out[d] = out[d] / l;
    }
}

static void tile_scalar(const kv_cache *kv, const attention_query *query,
                        attention_scratch *scratch) {
    (void)scratch;
    for (size_t i = 0; i < query->n_rows; i++) {
        for (size_t head = 0; head < query->group; head++) {
            attend_one_head(kv, query, &query->rows[i], head);
        }
    }
}

/* ---- scratch ---- */

int attention_scratch_new(attention_scratch **out, const kv_config *c) {
    *out = NULL;
    if (c->key_dim > ATTENTION_MAX_DIM || c->value_dim > ATTENTION_MAX_DIM) {
        return ERR_RANGE;
    }
    const size_t lanes = ATTENTION_LANES;
    const size_t key_dim = round_up(c->key_dim, 16);
    const size_t value_dim = round_up(c->value_dim, 16);
    const size_t block = KV_PAGE * size_max(key_dim, value_dim);
    const size_t n =
        lanes * (key_dim + value_dim + 2 * (size_t)KV_PAGE) + block;

    attention_scratch *s = calloc(1, sizeof(*s));
    float *room = aligned_alloc_zero(n * sizeof(*room));
    if (s == NULL || room == NULL) {
        aligned_release(room);
        free(s);
        return -ENOMEM;
    }
    s->q = room;
    s->out = s->q + lanes * key_dim;
    s->p = s->out + lanes * value_dim;
    s->turned = s->p + lanes * KV_PAGE;
    s->block = s->turned + lanes * KV_PAGE;
    *out = s;
    return 0;
}

void attention_scratch_free(attention_scratch *s) {
    if (s == NULL) return;
    aligned_release(s->q);
    free(s);
}

/* ---- dispatch ---- */

static void check_rows(const attention_query *query) {
    for (size_t i = 0; i < query->n_rows; i++) {
        const attention_row *row = &query->rows[i];
        assert(row->first <= row->position);
        assert(row->position / KV_PAGE < query->seq->n_pages);
        if (i == 0) continue;
        assert(row[-1].position < row->position && row[-1].first <= row->first);
    }
}

/* Heads [head, head + n_heads) of rows [first, first + n_rows). */
static void run_part(const kv_cache *kv, const attention_query *query,
                     size_t head, size_t n_heads, size_t first, size_t n_rows,
                     attention_scratch *scratch) {
    static const attention_kernel by_level[CPU_LEVELS] = {
        [CPU_SCALAR] = tile_scalar,
        [CPU_AVX2] = attention_tile_avx2,
        [CPU_AVX512] = attention_tile_avx512,
    };
    attention_row rows[ATTENTION_LANES];
    attention_query part = *query;
    part.group = n_heads;
    part.n_rows = n_rows;
    part.rows = rows;
    if (query->sinks != NULL) part.sinks = query->sinks + head;
    for (size_t i = 0; i < n_rows; i++) {
        rows[i] = query->rows[first + i];
        rows[i].q += head * query->q_stride;
        rows[i].out += head * kv_cache_config(kv)->value_dim;
    }
    by_level[cpu_current()](kv, &part, scratch);
}

void attention_run(const kv_cache *kv, const attention_query *query,
                   attention_scratch *scratch) {
    attention_query whole = *query;
    if (whole.q_stride == 0) whole.q_stride = kv_cache_config(kv)->key_dim;
    check_rows(query);

    const size_t heads = size_min(query->group, ATTENTION_LANES);
    for (size_t head = 0; head < query->group; head += heads) {
        size_t n_heads = size_min(heads, query->group - head);
        size_t step = ATTENTION_LANES / n_heads;
        for (size_t row = 0; row < query->n_rows; row += step) {
            size_t n_rows = size_min(step, query->n_rows - row);
            run_part(kv, &whole, head, n_heads, row, n_rows, scratch);
        }
    }
}
