/* arch_olmoe.c - `olmoe`: OLMoE.
 *
 * The whole q and the whole k are RMS normed as one vector each, before RoPE on
 * halves; experts of feed_forward_length, softmax over all experts, top k, NOT
 * renormalized (Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts
 * Language Models"). */
#include "engine/architecture.h"

static int read_olmoe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX};
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_read_expert_dim(c, k, true);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.qk_norm = QK_NORM_WHOLE;
    return model_read_routing(c, k, &silent);
}

const architecture arch_olmoe = {"olmoe", read_olmoe, NULL};
