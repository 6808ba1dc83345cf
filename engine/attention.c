/* attention.c - the reference of attention_group(), and the choice of a level.
 *
 * The reference takes one query head at a time and one block after the other;
 * attention_rows.h computes the same values for a whole group, with SIMD lanes
 * over keys (of a latent cache, over heads) and over value dims.  Unwritten
 * slots of the last block may hold anything, NaN included: they are left out of
 * every sum, not multiplied by zero. */
#include "engine/attention.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include "engine/attention_internal.h"
#include "engine/cpu.h"
#include "engine/util.h"
#include "engine/vmath.h"
#include "engine/weight.h"

static float element(kv_type type, const void *from, size_t i) {
    if (type == KV_F16) return f16_to_f32(((const uint16_t *)from)[i]);
    return ((const float *)from)[i];
}

static float key_element(const kv_config *c, const void *keys, size_t j,
                         size_t d) {
    return element(c->type, keys,
                   c->latent ? j * c->key_dim + d : d * KV_PAGE + j);
}

/* s[j] = scale * q . k_j, capped, for the first n keys of a block. */
static void score(const kv_config *c, const void *keys, size_t n,
                  const attention_query *a, const float *q, float *s) {
    for (size_t j = 0; j < n; j++) {
        float acc = 0.0f;
        for (size_t d = 0; d < c->key_dim; d++) {
            acc = fmaf(q[d], key_element(c, keys, j, d), acc);
        }
        s[j] = a->scale * acc;
        if (a->softcap > 0.0f) s[j] = vm_softcapf(s[j], a->softcap);
    }
}

/* o = o * c + sum of p[j] * v_j over values [from, n) of a block. */
static void accumulate(const kv_config *config, const void *values, size_t from,
                       size_t n, const float *p, float c, float *o) {
    size_t stride = kv_value_stride(config);
    for (size_t d = 0; d < config->value_dim; d++) {
        float acc = o[d] * c;
        for (size_t j = from; j < n; j++) {
            float v = element(config->type, values, j * stride + d);
            acc = fmaf(p[j], v, acc);
        }
        o[d] = acc;
    }
}

static void attend_one_head(const kv_cache *kv, const attention_query *a,
                            size_t head, float *out) {
    const kv_config *config = kv_cache_config(kv);
    const float *q = a->q + head * a->q_stride;
    float m = a->sinks != NULL ? a->sinks[head] : -INFINITY;
    float l = a->sinks != NULL ? 1.0f : 0.0f;
    bool empty = a->sinks == NULL;
    float p[KV_PAGE];

    for (size_t d = 0; d < config->value_dim; d++) {
        out[d] = 0.0f;
    }
    for (uint32_t b = a->first / KV_PAGE; b <= a->position / KV_PAGE; b++) {
        size_t from = b == a->first / KV_PAGE ? a->first % KV_PAGE : 0;
        size_t n = size_min(KV_PAGE, (size_t)a->position + 1 - b * KV_PAGE);
        uint32_t page = a->seq->pages[b];

        score(config, kv_keys(kv, page, a->layer, a->kv_head), n, a, q, p);
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
        accumulate(config, kv_values(kv, page, a->layer, a->kv_head), from, n,
                   p, c, out);
    }
    for (size_t d = 0; d < config->value_dim; d++) {
        out[d] = out[d] / l;
    }
}

static void group_scalar(const kv_cache *kv, const attention_query *query,
                         float *out) {
    for (size_t head = 0; head < query->group; head++) {
        attend_one_head(kv, query, head,
                        out + head * kv_cache_config(kv)->value_dim);
    }
}

void attention_group(const kv_cache *kv, const attention_query *query,
                     float *out) {
    static const attention_kernel by_level[CPU_LEVELS] = {
        [CPU_SCALAR] = group_scalar,
        [CPU_AVX2] = attention_group_avx2,
        [CPU_AVX512] = attention_group_avx512,
    };
    const kv_config *config = kv_cache_config(kv);
    assert(config->key_dim <= ATTENTION_MAX_DIM &&
           config->value_dim <= ATTENTION_MAX_DIM);
    assert(query->first <= query->position);
    assert(query->position / KV_PAGE < query->seq->n_pages);

    const size_t most =
        config->latent ? ATTENTION_LATENT_HEADS : ATTENTION_MAX_GROUP;
    attention_query part = *query;
    if (part.q_stride == 0) part.q_stride = config->key_dim;
    for (size_t head = 0; head < query->group; head += part.group) {
        part.group = size_min(query->group - head, most);
        part.q = query->q + head * part.q_stride;
        if (query->sinks != NULL) part.sinks = query->sinks + head;
        by_level[cpu_current()](kv, &part, out + head * config->value_dim);
    }
}
