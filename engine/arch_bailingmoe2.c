/* arch_bailingmoe2.c - `bailingmoe2`: Ling 2.0.
 *
 * q, k and v from one tensor; q and k heads are RMS normed before RoPE on
 * halves of the first rope.dimension_count values of a head; leading dense
 * layers, a shared expert; sigmoid scores, a bias for choosing, groups of
 * experts, renormalized and scaled ("Every Activation Boosted", 2025).  Layers
 * for next-token prediction at the end are not computed. */
#include "engine/architecture.h"

static int read_bailingmoe2(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SIGMOID};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_extra_layers(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, false);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = model_read_leading_dense(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.fused_qkv = true;
    c->attention.qk_norm = QK_NORM_HEADS;
    model_find_biases(c, k);
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {"expert_shared_count",
                                    "expert_shared_feed_forward_length",
                                    "leading_dense_block_count",
                                    "nextn_predict_layers",
                                    "expert_group_count",
                                    "expert_group_used_count",
                                    NULL};
const architecture arch_bailingmoe2 = {"bailingmoe2", read_bailingmoe2, takes};
