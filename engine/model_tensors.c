/* model_tensors.c - the tensors that a model must have, may have, must not.
 *
 * What is needed is looked up by name and its shape checked.  What nobody looks
 * up (a bias, a norm of another architecture, a layer beyond the last) would
 * change the result if it were skipped, so the whole table is walked once and
 * every name in it has to be known for its layer. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME_MAX_BYTES 160

int model_tensor_named(const gguf *g, const char *name, uint64_t cols,
                       uint64_t rows, uint64_t slabs, const gguf_tensor **out,
                       char *why, size_t why_size) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    if (t == NULL) {
        return err_why(why, why_size, ERR_FORMAT, "tensor %s is missing", name);
    }
    uint64_t want[3] = {cols, rows == 0 ? 1 : rows, slabs == 0 ? 1 : slabs};
    if (t->dims[0] != want[0] || t->dims[1] != want[1] ||
        t->dims[2] != want[2] || t->dims[3] != 1) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s is [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                       ", %" PRIu64 "], not [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                       ", 1]",
                       name, t->dims[0], t->dims[1], t->dims[2], t->dims[3],
                       want[0], want[1], want[2]);
    }
    *out = t;
    return 0;
}

int model_tensor(const gguf *g, uint32_t layer, const char *name, uint64_t cols,
                 uint64_t rows, uint64_t slabs, const gguf_tensor **out,
                 char *why, size_t why_size) {
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof(full), "blk.%u.%s.weight", layer, name);
    return model_tensor_named(g, full, cols, rows, slabs, out, why, why_size);
}

/* ---- every name is known ----
 *
 * A tensor is known by its name and by the feature that uses it.  A new feature
 * brings its tensors as rows here. */

/* Has the layer a use for it?  `name` is the tensor's, without its suffix. */
typedef bool (*tensor_use)(const model_config *c, uint32_t layer,
                           const char *name);

static bool in_any(const model_config *c, uint32_t layer, const char *name) {
    (void)c, (void)layer, (void)name;
    return true;
}

static bool is_norm(const char *role, const char *name) {
    return role != NULL && strcmp(role, name) == 0;
}

/* A norm's name tells little: architectures use the same ones for different
 * places. */
static bool as_norm(const model_config *c, uint32_t layer, const char *name) {
    (void)layer;
    return is_norm(c->norm.ffn, name) ||
           is_norm(c->norm.after_attention, name) ||
           is_norm(c->norm.after_ffn, name);
}

static bool as_norm_bias(const model_config *c, uint32_t layer,
                         const char *name) {
    (void)layer;
    return c->norm.bias &&
           (is_norm(c->norm.ffn, name) || strcmp(name, "attn_norm") == 0);
}

static bool latent(const model_config *c, uint32_t layer, const char *name) {
    (void)layer, (void)name;
    return c->attention.kind == ATTENTION_LATENT;
}

static bool latent_low_q(const model_config *c, uint32_t layer,
                         const char *name) {
    return latent(c, layer, name) && c->latent.q_rank > 0;
}

static bool latent_split(const model_config *c, uint32_t layer,
                         const char *name) {
    return latent(c, layer, name) && !c->latent.unsplit;
}

/* attn_q, which both kinds of attention have. */
static bool plain_q(const model_config *c, uint32_t layer, const char *name) {
    (void)layer, (void)name;
    return c->attention.kind == ATTENTION_LATENT ? c->latent.q_rank == 0
                                                 : !c->attention.fused_qkv;
}

static bool split_qkv(const model_config *c, uint32_t layer, const char *name) {
    (void)layer, (void)name;
    return c->attention.kind == ATTENTION_GROUPED && !c->attention.fused_qkv;
}

static bool split_qkv_bias(const model_config *c, uint32_t layer,
                           const char *name) {
    return split_qkv(c, layer, name) && c->attention.qkv_bias;
}

static bool fused_qkv(const model_config *c, uint32_t layer, const char *name) {
    (void)layer, (void)name;
    return c->attention.kind == ATTENTION_GROUPED && c->attention.fused_qkv;
}

static bool fused_qkv_bias(const model_config *c, uint32_t layer,
                           const char *name) {
    return fused_qkv(c, layer, name) && c->attention.qkv_bias;
}

static bool output_bias(const model_config *c, uint32_t layer,
                        const char *name) {
    (void)layer, (void)name;
    return c->attention.output_bias;
}

static bool qk_norm(const model_config *c, uint32_t layer, const char *name) {
    (void)layer, (void)name;
    return c->attention.qk_norm != QK_NORM_NONE && !c->attention.qk_norm_plain;
}

static bool sinks(const model_config *c, uint32_t layer, const char *name) {
    (void)layer, (void)name;
    return c->attention.sinks;
}

static bool in_dense(const model_config *c, uint32_t layer, const char *name) {
    (void)name;
    return model_is_dense(c, layer);
}

static bool in_moe(const model_config *c, uint32_t layer, const char *name) {
    (void)name;
    return model_is_moe(c, layer);
}

static bool in_shared(const model_config *c, uint32_t layer, const char *name) {
    return in_moe(c, layer, name) && c->shared_dim > 0;
}

static bool in_gated_shared(const model_config *c, uint32_t layer,
                            const char *name) {
    return in_shared(c, layer, name) && c->shared_gated;
}

static bool router_bias(const model_config *c, uint32_t layer,
                        const char *name) {
    return in_moe(c, layer, name) && c->router_bias;
}

static bool selection_bias(const model_config *c, uint32_t layer,
                           const char *name) {
    return in_moe(c, layer, name) && c->selection_bias;
}

static bool expert_bias(const model_config *c, uint32_t layer,
                        const char *name) {
    return in_moe(c, layer, name) && c->expert_bias;
}

#define WEIGHT ".weight"
#define BIAS ".bias"

static const struct {
    const char *name, *suffix; /* after "blk.<layer>." */
    tensor_use used;
} layer_tensors[] = {
    {"attn_norm", WEIGHT, in_any},
    {"attn_norm", BIAS, as_norm_bias},
    {"attn_q", WEIGHT, plain_q},
    {"attn_k", WEIGHT, split_qkv},
    {"attn_v", WEIGHT, split_qkv},
    {"attn_q", BIAS, split_qkv_bias},
    {"attn_k", BIAS, split_qkv_bias},
    {"attn_v", BIAS, split_qkv_bias},
    {"attn_qkv", WEIGHT, fused_qkv},
    {"attn_qkv", BIAS, fused_qkv_bias},
    {"attn_q_norm", WEIGHT, qk_norm},
    {"attn_k_norm", WEIGHT, qk_norm},
    {"attn_sinks", WEIGHT, sinks},
    {"attn_q_a", WEIGHT, latent_low_q},
    {"attn_q_a_norm", WEIGHT, latent_low_q},
    {"attn_q_b", WEIGHT, latent_low_q},
    {"attn_kv_a_mqa", WEIGHT, latent},
    {"attn_kv_a_norm", WEIGHT, latent},
    {"attn_k_b", WEIGHT, latent_split},
    {"attn_v_b", WEIGHT, latent_split},
    {"attn_kv_b", WEIGHT, latent}, /* beside the split ones it adds nothing */
    {"attn_output", WEIGHT, in_any},
    {"attn_output", BIAS, output_bias},
    {"attn_output_norm", WEIGHT, as_norm},
    {"post_attention_norm", WEIGHT, as_norm},
    {"ffn_norm", WEIGHT, as_norm},
    {"ffn_norm", BIAS, as_norm_bias},
    {"post_ffw_norm", WEIGHT, as_norm},
    {"layer_output_norm", WEIGHT, as_norm},
    {"ffn_gate", WEIGHT, in_dense},
    {"ffn_up", WEIGHT, in_dense},
    {"ffn_down", WEIGHT, in_dense},
    {"ffn_gate_inp", WEIGHT, in_moe},
    {"ffn_gate_inp", BIAS, router_bias},
    {"exp_probs_b", BIAS, selection_bias},
    {"ffn_gate_exps", WEIGHT, in_moe},
    {"ffn_up_exps", WEIGHT, in_moe},
    {"ffn_down_exps", WEIGHT, in_moe},
    {"ffn_gate_up_exps", WEIGHT, in_moe},
    {"ffn_gate_exps", BIAS, expert_bias},
    {"ffn_up_exps", BIAS, expert_bias},
    {"ffn_down_exps", BIAS, expert_bias},
    {"ffn_gate_up_exps", BIAS, expert_bias},
    {"ffn_gate_shexp", WEIGHT, in_shared},
    {"ffn_up_shexp", WEIGHT, in_shared},
    {"ffn_down_shexp", WEIGHT, in_shared},
    {"ffn_gate_inp_shexp", WEIGHT, in_gated_shared},
    /* a table of angles that some old files carry and nobody needs */
    {"attn_rot_embd", "", in_any},
    {"attn_rot_embd", WEIGHT, in_any},
};

static const char *const model_wide[] = {
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
};

static bool same(gguf_string s, const char *text) {
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

/* Split "blk.<layer>.<rest>"; the number as a writer would print it.  false for
 * a name of another form. */
static bool split_name(gguf_string name, uint64_t *layer, gguf_string *rest) {
    if (name.len < 4 || memcmp(name.data, "blk.", 4) != 0) return false;
    size_t at = 4;
    *layer = 0;
    for (; at < name.len && name.data[at] >= '0' && name.data[at] <= '9';
         at++) {
        if (at - 4 >= 10) return false;
        *layer = *layer * 10 + (uint64_t)(name.data[at] - '0');
    }
    bool padded = at > 5 && name.data[4] == '0';
    if (at == 4 || padded || at == name.len || name.data[at] != '.') {
        return false;
    }
    *rest = (gguf_string){name.data + at + 1, name.len - at - 1};
    return true;
}

static int unknown(const model_config *c, gguf_string name, char *why,
                   size_t why_size) {
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "tensor %s is not supported by architecture %s",
                   gguf_quote(name).text, c->arch);
}

/* A tensor of a kind of layer that this one is not. */
static int wrong_layer(const model_config *c, gguf_string name, bool moe,
                       char *why, size_t why_size) {
    return err_why(why, why_size, ERR_FORMAT,
                   "tensor %s is in a layer that by %s.expert_count = %u has "
                   "%s experts",
                   gguf_quote(name).text, c->arch, c->n_experts,
                   moe ? "only" : "no");
}

/* "<name><suffix>" */
static bool matches(gguf_string s, const char *name, const char *suffix) {
    size_t n = strlen(name);
    return s.len >= n && memcmp(s.data, name, n) == 0 &&
           same((gguf_string){s.data + n, s.len - n}, suffix);
}

static int check_layer_tensor(const model_config *c, gguf_string name,
                              uint64_t layer, gguf_string rest, char *why,
                              size_t why_size) {
    uint64_t n_stored = (uint64_t)c->n_layers + c->n_extra_layers;
    /* Whatever is in layers that are never computed has no effect. */
    if (layer >= c->n_layers && layer < n_stored) return 0;

    size_t i = 0;
    while (i < ARRAY_LEN(layer_tensors) &&
           !matches(rest, layer_tensors[i].name, layer_tensors[i].suffix))
        i++;
    if (i == ARRAY_LEN(layer_tensors)) return unknown(c, name, why, why_size);
    if (layer >= n_stored) {
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s is of a layer that %s.block_count = %" PRIu64
                       " does not have",
                       gguf_quote(name).text, c->arch, n_stored);
    }
    tensor_use used = layer_tensors[i].used;
    if (used(c, (uint32_t)layer, layer_tensors[i].name)) return 0;
    if (used == in_dense || used == in_moe) {
        return wrong_layer(c, name, used == in_dense, why, why_size);
    }
    return unknown(c, name, why, why_size);
}

/* Of the sets of factors that a file may have, one is used; the others are for
 * contexts that we do not run (arch_phimoe.c). */
static bool is_rope_factors(const model_config *c, gguf_string name) {
    if (same(name, c->rope_factors)) return true;
    return strcmp(c->rope_factors, "rope_factors_short.weight") == 0 &&
           same(name, "rope_factors_long.weight");
}

/* Tensors that belong to no layer. */
static bool model_wide_use(const model_config *c, gguf_string name) {
    for (size_t i = 0; i < ARRAY_LEN(model_wide); i++) {
        if (same(name, model_wide[i])) return true;
    }
    if (c->norm.bias && same(name, "output_norm.bias")) return true;
    if (c->output_bias && same(name, "output.bias")) return true;
    return is_rope_factors(c, name);
}

int model_check_tensors(const model_config *c, const gguf *g, char *why,
                        size_t why_size) {
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        gguf_string name = gguf_tensor_at(g, i)->name, rest;
        uint64_t layer;
        int rc = 0;
        if (split_name(name, &layer, &rest)) {
            rc = check_layer_tensor(c, name, layer, rest, why, why_size);
        } else if (!model_wide_use(c, name)) {
            rc = unknown(c, name, why, why_size);
        }
        if (rc < 0) return rc;
    }
    return 0;
}
