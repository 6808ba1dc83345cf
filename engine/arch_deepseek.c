/* arch_deepseek.c - `deepseek`: the first DeepSeekMoE.
 *
 * Plain attention with RoPE on adjacent pairs; leading dense layers; shared
 * experts, which are one network of expert_shared_count widths; softmax, top k,
 * not renormalized unless the file says so, scaled (Dai et al. 2024,
 * "DeepSeekMoE"). */
#include "engine/architecture.h"

static int read_deepseek(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, false);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = model_read_leading_dense(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NORM;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {"expert_shared_count",
                                    "expert_shared_feed_forward_length",
                                    "leading_dense_block_count", NULL};
const architecture arch_deepseek = {"deepseek", read_deepseek, takes};
