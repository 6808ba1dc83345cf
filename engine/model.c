/* model.c - the table of architectures, and what they have in common. */
#include "engine/model.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>
#include "engine/attention.h"
#include "engine/err.h"
#include "engine/util.h"

static const architecture *const architectures[] = {
    &arch_llama,
    &arch_qwen3moe,
};

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
    if (c->n_heads % c->n_kv_heads != 0 ||
        c->n_heads / c->n_kv_heads > ATTENTION_MAX_GROUP) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.attention.head_count = %u is not 1 to %d times "
                       "%s.attention.head_count_kv = %u",
                       k->arch, c->n_heads, ATTENTION_MAX_GROUP, k->arch,
                       c->n_kv_heads);
    }
    return 0;
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
    int rc = model_key_f32_or(k, "attention.scale", &c->attention_scale, 0.0f);
    if (rc < 0) return rc;
    if (!(c->attention_scale >= 0.0f) || !isfinite(c->attention_scale)) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.attention.scale = %g makes no sense", k->arch,
                       (double)c->attention_scale);
    }
    if (c->attention_scale == 0.0f) {
        c->attention_scale = 1.0f / sqrtf((float)c->key_dim);
    }
    return 0;
}

/* ---- RoPE ---- */

static int positive(const model_keys *k, const char *rest, float value) {
    if (value > 0.0f && isfinite(value)) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.%s = %g is not a positive number", k->arch, rest,
                   (double)value);
}

/* Angles are divided by *out.  Without a type, scaling is linear. */
static int read_rope_factor(const model_keys *k, float *out) {
    char key[96];
    gguf_string type = {"linear", 6};
    snprintf(key, sizeof(key), "%s.rope.scaling.type", k->arch);
    int rc = 0;
    if (gguf_has(k->g, key)) {
        rc = gguf_get_string(k->g, key, &type, k->why, k->why_size);
    }
    if (rc < 0) return rc;

    *out = 1.0f;
    if (type.len == 4 && memcmp(type.data, "none", 4) == 0) return 0;
    if (type.len != 6 || memcmp(type.data, "linear", 6) != 0) {
        return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                       "%s = '%s' is not supported", key,
                       gguf_quote(type).text);
    }
    rc = model_key_f32_or(k, "rope.scaling.factor", out, 0.0f);
    if (rc < 0) return rc;
    if (*out != 0.0f) return positive(k, "rope.scaling.factor", *out);
    /* what the key was called in old files */
    rc = model_key_f32_or(k, "rope.scale_linear", out, 0.0f);
    if (rc < 0) return rc;
    if (*out != 0.0f) return positive(k, "rope.scale_linear", *out);
    *out = 1.0f;
    return 0;
}

static int read_rope(model_config *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "rope.dimension_count", &c->rope.n_dims,
                              c->key_dim);
    if (rc < 0) return rc;
    if (c->rope.n_dims == 0 || c->rope.n_dims % 2 != 0 ||
        c->rope.n_dims > c->key_dim) {
        return err_why(
            k->why, k->why_size, ERR_FORMAT,
            "%s.rope.dimension_count = %u is not an even number in 2 "
            "to the %u of a head",
            k->arch, c->rope.n_dims, c->key_dim);
    }
    float base, factor;
    rc = model_key_f32_or(k, "rope.freq_base", &base, 10000.0f);
    if (rc < 0) return rc;
    rc = positive(k, "rope.freq_base", base);
    if (rc < 0) return rc;
    rc = read_rope_factor(k, &factor);
    if (rc < 0) return rc;
    c->rope.base = (double)base;
    c->rope.scale = (double)factor;
    return 0;
}

/* ---- experts ---- */

static int read_experts(model_config *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "expert_count", &c->n_experts, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "expert_count", c->n_experts, 0, MODEL_MAX_EXPERTS);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "expert_used_count", &c->n_used, 0);
    if (rc < 0) return rc;
    uint32_t most =
        c->n_experts < MODEL_MAX_USED ? c->n_experts : MODEL_MAX_USED;
    return model_check_u32(k, "expert_used_count", c->n_used,
                           c->n_experts > 0 ? 1 : 0, most);
}

/* What they mean for the routing was the architecture's to say. */
static int read_groups(model_config *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "expert_group_count", &c->n_groups, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "expert_group_count", c->n_groups, 0,
                         c->n_experts > 1 ? c->n_experts : 1);
    if (rc < 0 || c->n_groups <= 1 || c->n_experts % c->n_groups == 0) {
        return rc;
    }
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.expert_group_count = %u does not divide %u experts",
                   k->arch, c->n_groups, c->n_experts);
}

int model_read_plain_routing(model_config *c, const model_keys *k) {
    static const model_setting others[] = {
        {"expert_gating_func", 0, GATING_SOFTMAX},
        {"expert_weights_norm", 1, 1},
        {"expert_weights_scale", 0, 1},
        {"expert_group_count", 0, 1},
        {"expert_group_used_count", 0, 1},
        {"expert_shared_count", 0, 0},
        {"expert_shared_feed_forward_length", 0, 0},
        {"leading_dense_block_count", 0, 0},
        {"interleave_moe_layer_step", 0, 1},
        {"moe_every_n_layers", 0, 1},
        {"router_logit_softcapping", 0, 0},
    };
    int rc = model_refuse(k, others, ARRAY_LEN(others));
    if (rc < 0) return rc;
    c->routing = (routing_rule){GATING_SOFTMAX, true, 0.0f};
    return 0;
}

/* ---- what all have ---- */

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

static int read_rms_eps(model_config *c, const model_keys *k) {
    static const char *const rest = "attention.layer_norm_rms_epsilon";
    int rc = model_key_f32(k, rest, &c->rms_eps);
    if (rc < 0) return rc;
    if (c->rms_eps >= 0.0f && isfinite(c->rms_eps)) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT, "%s.%s = %g makes no sense",
                   k->arch, rest, (double)c->rms_eps);
}

int model_read_common(model_config *c, const model_keys *k) {
    static const model_setting others[] = {
        {"attention.causal", 1, 1},
        {"attention.clamp_kqv", 0, 0},
        {"attention.max_alibi_bias", 0, 0},
        {"attention.q_lora_rank", 0, 0},
        {"attention.kv_lora_rank", 0, 0},
        {"attention.key_length_mla", 0, 0},
        {"attention.value_length_mla", 0, 0},
        {"attention.output_scale", 0, 1},
        {"attention.temperature_scale", 0, 0},
        {"attn_logit_softcapping", 0, 0},
        {"final_logit_softcapping", 0, 0},
        {"embedding_scale", 0, 1},
        {"residual_scale", 0, 1},
        {"logit_scale", 0, 1},
        {"use_parallel_residual", 0, 0},
        {"rope.scaling.attn_factor", 0, 1},
        {"nextn_predict_layers", 0, 0},
    };
    int rc = model_refuse(k, others, ARRAY_LEN(others));
    if (rc < 0) return rc;
    rc = read_sizes(c, k);
    if (rc < 0) return rc;
    rc = read_rms_eps(c, k);
    if (rc < 0) return rc;
    rc = read_heads(c, k);
    if (rc < 0) return rc;
    rc = read_head_dims(c, k);
    if (rc < 0) return rc;
    rc = read_attention_scale(c, k);
    if (rc < 0) return rc;
    rc = read_rope(c, k);
    if (rc < 0) return rc;
    return read_experts(c, k);
}

/* ---- the name ---- */

/* C0, DEL and C1: what a terminal may obey. */
static bool is_control(utf8proc_int32_t c) {
    return c < 0x20 || (c >= 0x7f && c <= 0x9f);
}

/* Names travel in messages and logs: whole UTF-8 characters only, and no
 * control characters. */
static void copy_name(char *out, const char *data, size_t len) {
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)data;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t n =
            utf8proc_iterate(at + i, (utf8proc_ssize_t)(len - i), &character);
        bool bad = n <= 0 || is_control(character);
        size_t bytes = n > 0 ? (size_t)n : 1;
        if (used + (bad ? 1 : bytes) > MODEL_NAME_MAX) break;
        if (bad) {
            out[used++] = '?';
        } else {
            memcpy(out + used, data + i, bytes);
            used += bytes;
        }
        i += bytes;
    }
    out[used] = '\0';
}

static void read_name(model_config *c, const gguf *g) {
    gguf_string name;
    if (gguf_get_string(g, "general.name", &name, NULL, 0) == 0 &&
        name.len > 0) {
        copy_name(c->name, name.data, name.len);
        return;
    }
    const char *path = gguf_file_path(g, 0), *slash = strrchr(path, '/');
    const char *stem = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(stem, '.');
    bool cut = dot != NULL && dot != stem;
    copy_name(c->name, stem, cut ? (size_t)(dot - stem) : strlen(stem));
}

/* ---- the whole ---- */

static int find_architecture(const gguf *g, const architecture **out, char *why,
                             size_t why_size) {
    gguf_string name;
    int rc = gguf_get_string(g, "general.architecture", &name, why, why_size);
    if (rc == ERR_NOT_HERE) {
        return err_why(why, why_size, ERR_FORMAT,
                       "general.architecture is missing");
    }
    if (rc < 0) return rc;
    for (size_t i = 0; i < ARRAY_LEN(architectures); i++) {
        if (strlen(architectures[i]->name) != name.len) continue;
        if (memcmp(architectures[i]->name, name.data, name.len) != 0) continue;
        *out = architectures[i];
        return 0;
    }
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "general.architecture = '%s' is not supported",
                   gguf_quote(name).text);
}

/* The vocabulary is as large as the embedding table. */
static int read_vocab(model_config *c, const gguf *g, char *why,
                      size_t why_size) {
    const gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    uint64_t n = t != NULL ? t->dims[1] : 1;
    int rc = model_tensor_named(g, "token_embd.weight", c->n_embd, n, 0, &t,
                                why, why_size);
    if (rc < 0) return rc;
    if (n > INT32_MAX) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor token_embd.weight has %" PRIu64 " rows", n);
    }
    c->n_vocab = (uint32_t)n;
    return 0;
}

int model_read(model_config *c, const gguf *g, char *why, size_t why_size) {
    memset(c, 0, sizeof(*c));
    const architecture *arch = NULL;
    int rc = find_architecture(g, &arch, why, why_size);
    if (rc < 0) return rc;
    snprintf(c->arch, sizeof(c->arch), "%s", arch->name);
    read_name(c, g);

    model_keys keys = {g, arch->name, why, why_size};
    rc = arch->read(c, &keys);
    if (rc == 0) rc = read_groups(c, &keys);
    if (rc < 0) return rc;
    assert(c->n_experts > 0 ? c->expert_dim > 0 : c->ffn_dim > 0);

    rc = read_vocab(c, g, why, why_size);
    if (rc < 0) return rc;
    return model_check_tensors(c, g, why, why_size);
}

bool model_is_moe(const model_config *c, uint32_t layer) {
    return c->n_experts > 0 && layer >= c->first_moe_layer;
}
