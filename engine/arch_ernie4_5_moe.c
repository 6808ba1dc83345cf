/* arch_ernie4_5_moe.c - `ernie4_5-moe`: Baidu's ERNIE 4.5.
 *
 * RoPE on adjacent pairs; leading dense layers, and from there experts in every
 * interleave_moe_layer_step-th layer; a shared expert; softmax, a bias for
 * choosing, top k, renormalized ("ERNIE 4.5 Technical Report", 2025). */
#include "engine/architecture.h"

static int read_ernie4_5_moe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX,
                                        .renormalize = true};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, false);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = model_read_leading_dense(c, k);
    if (rc == 0) rc = model_read_moe_period(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NORM;
    model_find_biases(c, k);
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {
    "expert_shared_count", "expert_shared_feed_forward_length",
    "leading_dense_block_count", "interleave_moe_layer_step", NULL};
const architecture arch_ernie4_5_moe = {"ernie4_5-moe", read_ernie4_5_moe,
                                        takes};
