/* attention.c - the reference of attention_group(), and the choice of a level.
 *
 * The reference takes one query head at a time and one block after the other;
 * attention_rows.h computes the same values for a whole group, with SIMD lanes
 * over keys and over value dims.  Unwritten slots of the last block may hold
 * anything, NaN included: they are left out of every sum, not multiplied by
 * zero. */
#include "engine/attention.h"

#include <assert.h>
#include <math.h>
#include "engine/attention_internal.h"
#include "engine/cpu.h"
#include "engine/util.h"
#include "engine/vmath.h"
#include "engine/weight.h"

static float element(kv_type type, const void *from, size_t i) {
    if (type == KV_F16) return f16_to_f32(((const uint16_t *)from)[i]);
    return ((const float *)from)[i];
}

/* s[j] = scale * q . k_j for the first n keys of a block. */
static void score(kv_type type, const void *keys, size_t key_dim, size_t n,
                  const float *q, float scale, float *s) {
    for (size_t j = 0; j < n; j++) {
        float acc = 0.0f;
        for (size_t d = 0; d < key_dim; d++) {
            acc = fmaf(q[d], element(type, keys, d * KV_PAGE + j), acc);
        }
        s[j] = scale * acc;
    }
}

/* o = o * c + sum of p[j] * v_j over the first n values of a block. */
static void accumulate(kv_type type, const void *values, size_t value_dim,
                       size_t n, const float *p, float c, float *o) {
    for (size_t d = 0; d < value_dim; d++) {
        float acc = o[d] * c;
        for (size_t j = 0; j < n; j++) {
            acc = fmaf(p[j], element(type, values, j * value_dim + d), acc);
        }
        o[d] = acc;
    }
}

static void attend_one_head(const kv_cache *kv, const kv_seq *seq,
                            uint32_t layer, uint32_t kv_head, uint32_t position,
                            const float *q, float scale, float *out) {
    const kv_config *config = kv_cache_config(kv);
    float p[KV_PAGE];
    float m = -INFINITY, l = 0.0f;

    for (size_t d = 0; d < config->value_dim; d++) {
        out[d] = 0.0f;
    }
    for (uint32_t b = 0; b <= position / KV_PAGE; b++) {
        size_t n = size_min(KV_PAGE, (size_t)position + 1 - b * KV_PAGE);
        uint32_t page = seq->pages[b];

        score(config->type, kv_keys(kv, page, layer, kv_head), config->key_dim,
              n, q, scale, p);
        float block_max = vm_max(n, p);
        float new_m = block_max > m ? block_max : m;
        float c = b == 0 ? 0.0f : vm_expf(m - new_m);
        for (size_t j = 0; j < KV_PAGE; j++) {
            p[j] = j < n ? vm_expf(p[j] - new_m) : 0.0f;
        }
        l = fmaf(l, c, vm_sum(KV_PAGE, p));
        m = new_m;
        accumulate(config->type, kv_values(kv, page, layer, kv_head),
                   config->value_dim, n, p, c, out);
    }
    for (size_t d = 0; d < config->value_dim; d++) {
        out[d] = out[d] / l;
    }
}

static void group_scalar(const kv_cache *kv, const kv_seq *seq, uint32_t layer,
                         uint32_t kv_head, uint32_t position, size_t group,
                         const float *q, float scale, float *out) {
    const kv_config *config = kv_cache_config(kv);
    for (size_t i = 0; i < group; i++) {
        attend_one_head(kv, seq, layer, kv_head, position,
                        q + i * config->key_dim, scale,
                        out + i * config->value_dim);
    }
}

void attention_group(const kv_cache *kv, const kv_seq *seq, uint32_t layer,
                     uint32_t kv_head, uint32_t position, size_t group,
                     const float *q, float scale, float *out) {
    static const attention_kernel by_level[CPU_LEVELS] = {
        [CPU_SCALAR] = group_scalar,
        [CPU_AVX2] = attention_group_avx2,
        [CPU_AVX512] = attention_group_avx512,
    };
    const kv_config *config = kv_cache_config(kv);
    assert(group >= 1 && group <= ATTENTION_MAX_GROUP);
    assert(config->key_dim <= ATTENTION_MAX_DIM &&
           config->value_dim <= ATTENTION_MAX_DIM);
    assert(position / KV_PAGE < seq->n_pages);

    by_level[cpu_current()](kv, seq, layer, kv_head, position, group, q, scale,
                            out);
}
