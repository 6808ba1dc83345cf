/* arch_glm4moe.c - `glm4moe`: GLM-4.5 and 4.6.
 *
 * Biases on q, k and v; norms of the heads of q and k in some sizes; RoPE on
 * halves of the first rope.dimension_count values of a head;
 * post_attention_norm is the norm before the FFN.  Leading dense layers, a
 * shared expert, sigmoid scores with a bias for choosing (Zeng et al. 2025,
 * "GLM-4.5").  block_count counts the layers for next-token prediction at the
 * end, which are not computed. */
#include "engine/architecture.h"

static int read_glm4moe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SIGMOID};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_extra_layers(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, false);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = model_read_leading_dense(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->norm.ffn = "post_attention_norm";
    model_find_biases(c, k);
    if (model_has_tensor(k, "blk.0.attn_q_norm.weight")) {
        c->attention.qk_norm = QK_NORM_HEADS;
    }
    c->selection_bias = true;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {"expert_shared_count",
                                    "expert_shared_feed_forward_length",
                                    "leading_dense_block_count",
                                    "nextn_predict_layers",
                                    "expert_group_count",
                                    "expert_group_used_count",
                                    NULL};
const architecture arch_glm4moe = {"glm4moe", read_glm4moe, takes};
