/* arch_granitemoe.c - `granitemoe`: IBM's Granite with experts.
 *
 * Embeddings are multiplied by embedding_scale, what each branch adds to the
 * residual by residual_scale, scores by attention.scale, and logits are divided
 * by logit_scale (maximal update parametrization, Yang et al. 2022, as used by
 * "Granite 3.0 Language Models").  RoPE on adjacent pairs; experts of
 * feed_forward_length, softmax, top k, renormalized; some have a shared expert.
 */
#include "engine/architecture.h"

static int read_scales(model_config *c, const model_keys *k) {
    float divisor;
    int rc = model_read_factor(k, "embedding_scale", 1, &c->scale.embedding);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "residual_scale", 1, &c->scale.residual);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "logit_scale", 1, &divisor);
    if (rc < 0) return rc;
    c->scale.logit = 1.0f / divisor;
    return 0;
}

static int read_granitemoe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX,
                                        .renormalize = true};
    /* false: a Granite without positions */
    static const model_setting with_rope = {"rope.scaling.finetuned", 1, 1};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_refuse(k, &with_rope, 1);
    if (rc == 0) rc = model_read_expert_dim(c, k, true);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = read_scales(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NORM;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {
    "embedding_scale",     "residual_scale",
    "logit_scale",         "expert_shared_feed_forward_length",
    "expert_shared_count", NULL};
const architecture arch_granitemoe = {"granitemoe", read_granitemoe, takes};
