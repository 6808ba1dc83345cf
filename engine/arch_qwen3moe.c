/* arch_qwen3moe.c - `qwen3moe`: Qwen3's mixture of experts.
 *
 * The head size is key_length, not width / heads; every q and k head is RMS
 * normed before RoPE on halves; experts of expert_feed_forward_length, softmax
 * over all experts, top k, renormalized (Yang et al. 2025, "Qwen3").
 * feed_forward_length is that of dense layers, which there are none of. */
#include "engine/architecture.h"

static int read_qwen3moe(model_config *c, const model_keys *k) {
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_read_expert_dim(c, k, false);
    if (rc < 0) return rc;
    rc = model_read_plain_routing(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.qk_norm = QK_NORM_HEADS;
    return 0;
}

const architecture arch_qwen3moe = {"qwen3moe", read_qwen3moe, NULL};
