/* arch_minimax_m2.c - `minimax-m2`: MiniMax-M2.
 *
 * The whole q and the whole k are RMS normed as one vector each, before RoPE on
 * halves of the first rope.dimension_count values of a head; sigmoid scores, a
 * bias for choosing, top k, renormalized (the model's card, 2025). */
#include "engine/architecture.h"

static int read_minimax_m2(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SIGMOID,
                                        .renormalize = true};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, false);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.qk_norm = QK_NORM_WHOLE;
    c->selection_bias = true;
    return model_read_routing(c, k, &silent);
}

const architecture arch_minimax_m2 = {"minimax-m2", read_minimax_m2, NULL};
