/* arch_qwen2moe.c - `qwen2moe`: Qwen1.5-MoE and Qwen2's mixture of experts.
 *
 * Biases on q, k and v; RoPE on halves; softmax over all experts, top k, NOT
 * renormalized; a shared expert in every layer, whose output is multiplied by
 * sigmoid(gate . x) (Yang et al. 2024, "Qwen2 Technical Report").  Old files
 * have the widths of neither kind of expert: then the shared one has
 * feed_forward_length, which the used experts have together. */
#include "engine/architecture.h"

/* Widths from the dense one, where a file has no better. */
static int read_widths(model_config *c, const model_keys *k) {
    uint32_t dense = c->ffn_dim;
    if (c->n_used > 0) c->ffn_dim /= c->n_used;
    int rc = model_read_expert_dim(c, k, true);
    c->ffn_dim = dense;
    if (rc < 0) return rc;
    rc = model_read_shared_dim(c, k);
    if (c->shared_dim == 0) c->shared_dim = dense;
    if (rc < 0) return rc;
    return model_check_u32(k, "expert_shared_feed_forward_length",
                           c->shared_dim, 1, MODEL_MAX_DIM);
}

static int read_qwen2moe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX};
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = read_widths(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    model_find_biases(c, k);
    c->shared_gated = true;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {"expert_shared_count",
                                    "expert_shared_feed_forward_length", NULL};
const architecture arch_qwen2moe = {"qwen2moe", read_qwen2moe, takes};
