/* model.c - the table of architectures, and the keys and checks they share. */
#include "engine/model.h"

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

#define KEY_MAX 160

static void key_text(const model_keys *k, const char *rest, char *out) {
    snprintf(out, KEY_MAX, "%s.%s", k->arch, rest);
}

static int key_missing(const model_keys *k, int rc, const char *key) {
    if (rc != ERR_NOT_HERE) return rc;
    return err_why(k->why, k->why_size, ERR_FORMAT, "%s is missing", key);
}

int model_key_u32(const model_keys *k, const char *rest, uint32_t *out) {
    char key[KEY_MAX];
    key_text(k, rest, key);
    return key_missing(k, gguf_get_u32(k->g, key, out, k->why, k->why_size),
                       key);
}

int model_key_u32_or(const model_keys *k, const char *rest, uint32_t *out,
                     uint32_t absent) {
    char key[KEY_MAX];
    key_text(k, rest, key);
    *out = absent;
    if (!gguf_has(k->g, key)) return 0;
    return gguf_get_u32(k->g, key, out, k->why, k->why_size);
}

int model_key_f32(const model_keys *k, const char *rest, float *out) {
    char key[KEY_MAX];
    key_text(k, rest, key);
    return key_missing(k, gguf_get_f32(k->g, key, out, k->why, k->why_size),
                       key);
}

int model_key_f32_or(const model_keys *k, const char *rest, float *out,
                     float absent) {
    char key[KEY_MAX];
    key_text(k, rest, key);
    *out = absent;
    if (!gguf_has(k->g, key)) return 0;
    return gguf_get_f32(k->g, key, out, k->why, k->why_size);
}

int model_key_bool_or(const model_keys *k, const char *rest, bool *out,
                      bool absent) {
    char key[KEY_MAX];
    key_text(k, rest, key);
    *out = absent;
    if (!gguf_has(k->g, key)) return 0;
    return gguf_get_bool(k->g, key, out, k->why, k->why_size);
}

/* Keys that change the arithmetic and that no architecture here computes with:
 * a file that sets one is refused instead of being run wrongly. */
static int refuse_unsupported(const model_keys *k) {
    static const char *const scaling = "rope.scaling.type";
    char key[KEY_MAX];
    key_text(k, scaling, key);
    gguf_string type;
    if (gguf_get_string(k->g, key, &type, NULL, 0) == 0 &&
        !(type.len == 4 && memcmp(type.data, "none", 4) == 0) &&
        !(type.len == 6 && memcmp(type.data, "linear", 6) == 0)) {
        return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                       "%s = '%.*s' is not supported", key, (int)type.len,
                       type.data);
    }
    uint32_t window;
    int rc = model_key_u32_or(k, "attention.sliding_window", &window, 0);
    if (rc < 0) return rc;
    if (window != 0 && strcmp(k->arch, "llama") == 0) return 0; /* as trained
        checkpoints of Mixtral carry it, unused by their authors' code */
    if (window != 0) {
        return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                       "%s.attention.sliding_window = %u is not supported",
                       k->arch, window);
    }
    return 0;
}

static int read_heads(model_config *c, const model_keys *k) {
    int rc = model_key_u32(k, "attention.head_count", &c->n_heads);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "attention.head_count_kv", &c->n_kv_heads,
                          c->n_heads);
    if (rc < 0) return rc;
    if (c->n_heads == 0 || c->n_kv_heads == 0 ||
        c->n_heads % c->n_kv_heads != 0 ||
        c->n_heads / c->n_kv_heads > ATTENTION_MAX_GROUP) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.attention.head_count %u does not fit head_count_kv "
                       "%u",
                       k->arch, c->n_heads, c->n_kv_heads);
    }
    uint32_t head_dim = c->n_embd / c->n_heads;
    rc = model_key_u32_or(k, "attention.key_length", &c->key_dim, head_dim);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "attention.value_length", &c->value_dim,
                          c->key_dim);
    if (rc < 0) return rc;
    if (c->key_dim == 0 || c->key_dim > ATTENTION_MAX_DIM ||
        c->value_dim == 0 || c->value_dim > ATTENTION_MAX_DIM) {
        return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                       "%s.attention.key_length %u, value_length %u: outside "
                       "1..%d",
                       k->arch, c->key_dim, c->value_dim, ATTENTION_MAX_DIM);
    }
    return 0;
}

static int read_rope(model_config *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "rope.dimension_count", &c->rope.n_dims,
                              c->key_dim);
    if (rc < 0) return rc;
    float base, factor;
    rc = model_key_f32_or(k, "rope.freq_base", &base, 10000.0f);
    if (rc < 0) return rc;
    rc = model_key_f32_or(k, "rope.scaling.factor", &factor, 0.0f);
    if (rc < 0) return rc;
    if (factor == 0.0f) rc = model_key_f32_or(k, "rope.scale_linear", &factor,
                                              1.0f);
    if (rc < 0) return rc;
    if (c->rope.n_dims % 2 != 0 || c->rope.n_dims > c->key_dim ||
        !(base > 0.0f) || !isfinite(base) || !(factor > 0.0f) ||
        !isfinite(factor)) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.rope: dimension_count %u, freq_base %g and factor "
                       "%g do not fit heads of %u",
                       k->arch, c->rope.n_dims, (double)base, (double)factor,
                       c->key_dim);
    }
    c->rope.base = (double)base;
    c->rope.scale = (double)factor;
    return 0;
}

static int read_experts(model_config *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "expert_count", &c->n_experts, 0);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "expert_used_count", &c->n_used, 0);
    if (rc < 0) return rc;
    if (c->n_experts > MODEL_MAX_EXPERTS || c->n_used > c->n_experts ||
        c->n_used > MODEL_MAX_USED || (c->n_experts > 0 && c->n_used == 0)) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.expert_used_count %u of expert_count %u makes no "
                       "sense or is over the limits of %d of %d",
                       k->arch, c->n_used, c->n_experts, MODEL_MAX_USED,
                       MODEL_MAX_EXPERTS);
    }
    return 0;
}

int model_read_common(model_config *c, const model_keys *k) {
    int rc = refuse_unsupported(k);
    if (rc < 0) return rc;
    rc = model_key_u32(k, "block_count", &c->n_layers);
    if (rc < 0) return rc;
    rc = model_key_u32(k, "embedding_length", &c->n_embd);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "context_length", &c->n_context, 2048);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, "feed_forward_length", &c->ffn_dim, 0);
    if (rc < 0) return rc;
    rc = model_key_f32(k, "attention.layer_norm_rms_epsilon", &c->rms_eps);
    if (rc < 0) return rc;
    if (c->n_layers == 0 || c->n_layers > MODEL_MAX_LAYERS || c->n_embd == 0 ||
        c->n_embd > MODEL_MAX_DIM || c->ffn_dim > MODEL_MAX_DIM ||
        c->n_context == 0 || !(c->rms_eps >= 0.0f) || !isfinite(c->rms_eps)) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s: block_count %u, embedding_length %u, "
                       "feed_forward_length %u or context_length %u is out of "
                       "range",
                       k->arch, c->n_layers, c->n_embd, c->ffn_dim,
                       c->n_context);
    }
    rc = read_heads(c, k);
    if (rc < 0) return rc;
    rc = read_rope(c, k);
    if (rc < 0) return rc;
    rc = read_experts(c, k);
    if (rc < 0) return rc;
    return model_key_f32_or(k, "attention.scale", &c->attention_scale, 0.0f);
}

/* Names travel in messages and logs: whole UTF-8 characters only, and no
 * control characters. */
static void copy_name(char *out, const char *data, size_t len) {
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)data;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t n = utf8proc_iterate(
            at + i, (utf8proc_ssize_t)(len - i), &character);
        bool bad = n <= 0 || character < 0x20 || character == 0x7f;
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

static int find_architecture(const gguf *g, const architecture **out,
                             char *why, size_t why_size) {
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
                   "general.architecture = '%.*s' is not supported",
                   (int)size_min(name.len, 60), name.data);
}

/* The vocabulary is as large as the embedding table. */
static int read_vocab(model_config *c, const gguf *g, char *why,
                      size_t why_size) {
    const gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    if (t == NULL) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor token_embd.weight is missing");
    }
    if (t->dims[0] != c->n_embd || t->dims[1] == 0 ||
        t->dims[1] > INT32_MAX || t->dims[2] != 1) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor token_embd.weight is [%" PRIu64 ", %" PRIu64
                       "], not [%u, vocabulary]",
                       t->dims[0], t->dims[1], c->n_embd);
    }
    c->n_vocab = (uint32_t)t->dims[1];
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
    if (rc < 0) return rc;
    rc = read_vocab(c, g, why, why_size);
    if (rc < 0) return rc;

    if (c->attention_scale == 0.0f) {
        c->attention_scale = 1.0f / sqrtf((float)c->key_dim);
    }
    bool has_dense = c->n_experts == 0 || c->first_moe_layer > 0;
    uint32_t width = has_dense ? c->ffn_dim : c->expert_dim;
    if (width == 0 || c->expert_dim > MODEL_MAX_DIM) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: a feed-forward length is missing or out of range",
                       c->arch);
    }
    return 0;
}

bool model_is_moe(const model_config *c, uint32_t layer) {
    return c->n_experts > 0 && layer >= c->first_moe_layer;
}

int model_tensor(const gguf *g, uint32_t layer, const char *name,
                 uint64_t cols, uint64_t rows, uint64_t slabs,
                 const gguf_tensor **out, char *why, size_t why_size) {
    char full[KEY_MAX];
    snprintf(full, sizeof(full), "blk.%u.%s.weight", layer, name);
    const gguf_tensor *t = gguf_find_tensor(g, full);
    if (t == NULL) {
        return err_why(why, why_size, ERR_FORMAT, "tensor %s is missing", full);
    }
    uint64_t want[3] = {cols, rows == 0 ? 1 : rows, slabs == 0 ? 1 : slabs};
    if (t->dims[0] != want[0] || t->dims[1] != want[1] ||
        t->dims[2] != want[2] || t->dims[3] != 1) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s is [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                       "], not [%" PRIu64 ", %" PRIu64 ", %" PRIu64 "]",
                       full, t->dims[0], t->dims[1], t->dims[2], want[0],
                       want[1], want[2]);
    }
    *out = t;
    return 0;
}

int model_experts(const model_config *c, const gguf *g, uint32_t layer,
                  expert_tensors *out, char *why, size_t why_size) {
    int rc = model_tensor(g, layer, "ffn_gate_exps", c->n_embd, c->expert_dim,
                          c->n_experts, &out->gate, why, why_size);
    if (rc < 0) return rc;
    rc = model_tensor(g, layer, "ffn_up_exps", c->n_embd, c->expert_dim,
                      c->n_experts, &out->up, why, why_size);
    if (rc < 0) return rc;
    return model_tensor(g, layer, "ffn_down_exps", c->expert_dim, c->n_embd,
                        c->n_experts, &out->down, why, why_size);
}

uint64_t model_expert_bytes(const expert_tensors *t, uint32_t n_experts) {
    return (t->gate->bytes + t->up->bytes + t->down->bytes) / n_experts;
}
