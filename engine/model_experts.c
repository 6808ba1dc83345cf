/* model_experts.c - the keys that say how many experts there are, how wide, in
 * which layers. */
#include <stdio.h>
#include "engine/architecture.h"
#include "engine/err.h"

int model_read_experts(model_config *c, const model_keys *k) {
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

int model_read_expert_dim(model_config *c, const model_keys *k, bool or_dense) {
    static const char *const rest = "expert_feed_forward_length";
    if (c->n_experts == 0) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "%s.expert_count is missing or 0", k->arch);
    }
    int rc;
    if (or_dense) {
        rc = model_key_u32_or(k, rest, &c->expert_dim, c->ffn_dim);
    } else {
        rc = model_key_u32(k, rest, &c->expert_dim);
    }
    if (rc < 0) return rc;
    return model_check_u32(k, rest, c->expert_dim, 1, MODEL_MAX_DIM);
}

/* Writers do not agree on whether the key is the width of one shared expert or
 * of all in one: the tensors tell. */
static bool is_of_each(const model_keys *k, uint32_t n_layers, uint32_t width,
                       uint32_t count) {
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%u.ffn_gate_shexp.weight", layer);
        const gguf_tensor *t = gguf_find_tensor(k->g, name);
        if (t != NULL) return t->dims[1] == (uint64_t)width * count;
    }
    return false;
}

int model_read_shared_dim(model_config *c, const model_keys *k) {
    static const char *const rest = "expert_shared_feed_forward_length";
    uint32_t count, width;
    int rc = model_key_u32_or(k, "expert_shared_count", &count, 0);
    if (rc < 0) return rc;
    rc = model_key_u32_or(k, rest, &width, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, rest, width, 0, MODEL_MAX_DIM);
    if (rc < 0) return rc;

    bool each = width == 0;
    if (width == 0) width = c->expert_dim;
    if (!each && count > 1) each = is_of_each(k, c->n_layers, width, count);
    rc = model_check_u32(k, "expert_shared_count", count, 0,
                         MODEL_MAX_DIM / width);
    if (rc < 0) return rc;
    c->shared_dim = each ? count * width : width;
    return 0;
}

int model_read_leading_dense(model_config *c, const model_keys *k) {
    static const char *const rest = "leading_dense_block_count";
    int rc = model_key_u32_or(k, rest, &c->first_moe_layer, 0);
    if (rc < 0) return rc;
    rc = model_check_u32(k, rest, c->first_moe_layer, 0, c->n_layers);
    if (rc < 0 || c->first_moe_layer == 0 || c->ffn_dim > 0) return rc;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.feed_forward_length is missing or 0, but %s.%s = %u",
                   k->arch, k->arch, rest, c->first_moe_layer);
}

int model_read_moe_period(model_config *c, const model_keys *k) {
    static const char *const rest = "interleave_moe_layer_step";
    int rc = model_key_u32_or(k, rest, &c->moe_period, 1);
    if (rc < 0) return rc;
    rc = model_check_u32(k, rest, c->moe_period, 0, c->n_layers);
    if (rc < 0 || c->moe_period <= 1 || c->ffn_dim > 0) return rc;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "%s.feed_forward_length is missing or 0, but %s.%s = %u",
                   k->arch, k->arch, rest, c->moe_period);
}
