/* arch_deepseek2.c - `deepseek2`: DeepSeek-V2, V2-Lite, V3 and R1, Kimi-K2.
 *
 * Latent attention with or without low-rank queries, RoPE on adjacent pairs
 * with YaRN, leading dense layers, a shared expert as wide as several, and a
 * router whose every step is in the keys: softmax over all experts (V2), or
 * sigmoids with a bias for choosing, groups, a norm and a scale (V3).
 *
 * Newer files store what a head takes to and from the latent space as attn_k_b
 * and attn_v_b, with the heads' own sizes in key_length_mla, value_length_mla;
 * older ones have one tensor attn_kv_b and the sizes in key_length and
 * value_length. */
#include <math.h>
#include <stdio.h>
#include "engine/architecture.h"
#include "engine/attention.h"
#include "engine/err.h"
#include "engine/vmath.h"

static const char *const takes[] = {
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "leading_dense_block_count",
    "nextn_predict_layers",
    "rope.scaling.yarn_log_multiplier",
    NULL,
};

/* A head's own sizes, where the general keys may say those of the cache. */
static int read_head(const model_config *c, const model_keys *k,
                     uint32_t *key_dim, uint32_t *value_dim) {
    int rc = model_key_u32_or(k, "attention.key_length_mla", key_dim, 0);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "attention.value_length_mla", value_dim, 0);
    if (rc < 0) return rc;
    if (*key_dim == 0) *key_dim = c->key_dim;
    if (*value_dim == 0) *value_dim = c->value_dim;
    rc = model_check_u32(k, "attention.key_length_mla", *key_dim,
                         c->rope.n_dims + 1, ATTENTION_MAX_DIM);
    if (rc < 0) return rc;
    return model_check_u32(k, "attention.value_length_mla", *value_dim, 1,
                           ATTENTION_MAX_DIM);
}

static int read_latent(model_config *c, const model_keys *k) {
    latent_rule *d = &c->latent;
    int rc = model_key_u32_or(k, "attention.q_lora_rank", &d->q_rank, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "attention.q_lora_rank", d->q_rank, 0,
                         MODEL_MAX_DIM);
    if (rc < 0) return rc;
    rc = model_key_u32(k, "attention.kv_lora_rank", &d->rank);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "attention.kv_lora_rank", d->rank, 1,
                         ATTENTION_MAX_DIM - c->rope.n_dims);
    if (rc < 0) return rc;

    uint32_t key_dim;
    rc = read_head(c, k, &key_dim, &d->value_dim);
    if (rc < 0) return rc;
    d->nope_dim = key_dim - c->rope.n_dims;
    d->unsplit = !model_has_tensor(k, "blk.0.attn_k_b.weight");

    c->attention.kind = ATTENTION_LATENT;
    c->n_kv_heads = 1;
    c->key_dim = d->rank + c->rope.n_dims;
    c->value_dim = d->rank;
    return 0;
}

/* 1 / sqrt of a head's size unless attention.scale says otherwise; where the
 * file has YaRN's log multiplier L, what other models multiply into sines and
 * cosines is multiplied into the scores, as (1 + L ln s)^2. */
static int read_scale(model_config *c, const model_keys *k) {
    float scale, log_multiplier;
    int rc = model_read_factor(k, "attention.scale",
                               1.0f / sqrtf((float)model_latent_head_dim(c)),
                               &scale);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "rope.scaling.yarn_log_multiplier", 0.0f,
                           &log_multiplier);
    if (rc < 0) return rc;
    if (c->rope.yarn.original_context != 0 && log_multiplier != 0.0f) {
        double longer = 1.0 + (double)log_multiplier * vm_log(c->rope.scale);
        scale = (float)((double)scale * longer * longer);
        c->rope.magnitude /= rope_yarn_magnitude(c->rope.scale);
    }
    c->attention.scale = scale;
    return model_check_positive(k, "attention.scale", scale);
}

static int read_experts(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX};
    char name[64];
    int rc = model_read_leading_dense(c, k);
    if (rc < 0) return rc;
    if (c->n_experts == 0) {
        return model_check_u32(k, "feed_forward_length", c->ffn_dim, 1,
                               MODEL_MAX_DIM);
    }
    rc = model_read_expert_dim(c, k, false);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = model_read_routing(c, k, &silent);
    if (rc < 0) return rc;
    snprintf(name, sizeof(name), "blk.%u.exp_probs_b.bias", c->first_moe_layer);
    c->selection_bias = model_has_tensor(k, name);
    return 0;
}

static int read_deepseek2(model_config *c, const model_keys *k) {
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_extra_layers(c, k);
    if (rc == 0) rc = read_latent(c, k);
    if (rc == 0) rc = read_scale(c, k);
    if (rc == 0) rc = read_experts(c, k);
    if (rc < 0) return rc;
    c->rope.style = ROPE_NORM;
    return 0;
}

const architecture arch_deepseek2 = {"deepseek2", read_deepseek2, takes};
