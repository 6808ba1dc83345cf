/* model_common.c - the keys that every decoder has, and readers of what several
 * architectures have.  RoPE is in model_rope.c, routing in model_routing.c. */
#include <math.h>
#include <stdio.h>
#include "engine/architecture.h"
#include "engine/attention.h"
#include "engine/err.h"

/* ---- sizes ---- */

static int read_sizes(model_config *c, const model_keys *k) {
    int rc = model_key_u32(k, "block_count", &c->n_layers);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "block_count", c->n_layers, 1, MODEL_MAX_LAYERS);
    if (rc < 0) return rc;
    rc = model_key_u32(k, "embedding_length", &c->n_embd);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "embedding_length", c->n_embd, 1, MODEL_MAX_DIM);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "context_length", &c->n_context, 2048);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "context_length", c->n_context, 1, UINT32_MAX);
    if (rc < 0) return rc;
    rc = model_key_layers_or(k, "feed_forward_length", c->n_layers, &c->ffn_dim,
                             0);
    if (rc < 0) return rc;
    return model_check_u32(k, "feed_forward_length", c->ffn_dim, 0,
                           MODEL_MAX_DIM);
}

/* The key's name tells what norm it is. */
static int read_norm(model_config *c, const model_keys *k) {
    const char *rest = c->norm.kind == NORM_LAYER
                           ? "attention.layer_norm_epsilon"
                           : "attention.layer_norm_rms_epsilon";
    int rc = model_key_f32(k, rest, &c->norm.eps);
    if (rc < 0) return rc;
    if (c->norm.eps >= 0.0f && isfinite(c->norm.eps)) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT, "%s.%s = %g makes no sense",
                   k->arch, rest, (double)c->norm.eps);
}

/* ---- attention ---- */

static int read_heads(model_config *c, const model_keys *k) {
    int rc = model_key_layers_or(k, "attention.head_count", c->n_layers,
                                 &c->n_heads, 0);
    if (rc < 0) return rc;
    if (c->n_heads == 0) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.attention.head_count is missing or 0", k->arch);
    }
    rc = model_check_u32(k, "attention.head_count", c->n_heads, 1,
                         MODEL_MAX_HEADS);
    if (rc < 0) return rc;
    rc = model_key_layers_or(k, "attention.head_count_kv", c->n_layers,
                             &c->n_kv_heads, c->n_heads);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "attention.head_count_kv", c->n_kv_heads, 1,
                         c->n_heads);
    if (rc < 0) return rc;
    if (c->n_heads % c->n_kv_heads == 0) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.attention.head_count = %u is no multiple of "
                   "%s.attention.head_count_kv = %u",
                   k->arch, c->n_heads, k->arch, c->n_kv_heads);
}

static int read_head_dims(model_config *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "attention.key_length", &c->key_dim,
                              c->n_embd / c->n_heads);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "attention.key_length", c->key_dim, 1,
                         ATTENTION_MAX_DIM);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "attention.value_length", &c->value_dim,
                          c->key_dim);
    if (rc < 0) return rc;
    return model_check_u32(k, "attention.value_length", c->value_dim, 1,
                           ATTENTION_MAX_DIM);
}

static int read_attention_scale(model_config *c, const model_keys *k) {
    int rc = model_key_f32_or(k, "attention.scale", &c->attention.scale, 0.0f);
    if (rc < 0) return rc;
    if (!(c->attention.scale >= 0.0f) || !isfinite(c->attention.scale)) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.attention.scale = %g makes no sense", k->arch,
                       (double)c->attention.scale);
    }
    if (c->attention.scale == 0.0f) {
        c->attention.scale = 1.0f / sqrtf((float)c->key_dim);
    }
    return 0;
}

/* ---- the whole ---- */

int model_read_common(model_config *c, const model_keys *k) {
    c->norm.ffn = "ffn_norm";
    c->scale = (scale_rule){.embedding = 1.0f, .residual = 1.0f, .logit = 1.0f};
    int rc = model_refuse_settings(k);
    if (rc < 0) return rc;
    rc = read_sizes(c, k);
    if (rc < 0) return rc;
    rc = read_norm(c, k);
    if (rc < 0) return rc;
    rc = read_heads(c, k);
    if (rc < 0) return rc;
    rc = read_head_dims(c, k);
    if (rc < 0) return rc;
    rc = read_attention_scale(c, k);
    if (rc < 0) return rc;
    rc = model_read_rope(c, k);
    if (rc < 0) return rc;
    return model_read_experts(c, k);
}

/* ---- what several have ---- */

int model_read_factor(const model_keys *k, const char *rest, float absent,
                      float *out) {
    *out = absent;
    float value;
    int rc = model_key_f32_or(k, rest, &value, 0.0f);
    if (rc < 0 || value == 0.0f) return rc; /* 0 is how writers say "none" */
    *out = value;
    return model_check_positive(k, rest, value);
}

int model_read_extra_layers(model_config *c, const model_keys *k) {
    static const char *const rest = "nextn_predict_layers";
    int rc = model_key_u32_or(k, rest, &c->n_extra_layers, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, rest, c->n_extra_layers, 0, c->n_layers - 1);
    if (rc < 0) return rc;
    c->n_layers -= c->n_extra_layers;
    return 0;
}

static bool layer_has(const model_keys *k, uint32_t layer, const char *name) {
    char full[64];
    snprintf(full, sizeof(full), "blk.%u.%s", layer, name);
    return model_has_tensor(k, full);
}

void model_find_biases(model_config *c, const model_keys *k) {
    const char *qkv = c->attention.fused_qkv ? "attn_qkv.bias" : "attn_q.bias";
    c->attention.qkv_bias = layer_has(k, 0, qkv);
    c->attention.output_bias = layer_has(k, 0, "attn_output.bias");
    for (uint32_t layer = 0; layer < c->n_layers; layer++) {
        if (!model_is_moe(c, layer)) continue;
        c->selection_bias = layer_has(k, layer, "exp_probs_b.bias");
        return;
    }
}
