/* arch_qwen3moe.c - `qwen3moe`: Qwen3's mixture of experts.
 *
 * The head size is key_length, not width / heads; every q and k head is RMS
 * normed before RoPE on halves; experts of expert_feed_forward_length, softmax
 * over all experts, top k, renormalized (Yang et al. 2025, "Qwen3").
 * feed_forward_length is that of dense layers, which there are none of. */
#include "engine/err.h"
#include "engine/model.h"

static int read_qwen3moe(model_config *c, const model_keys *k) {
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_read_plain_routing(c, k);
    if (rc < 0) return rc;
    const model_setting window = {"attention.sliding_window", 0, 0};
    rc = model_refuse(k, &window, 1);
    if (rc < 0) return rc;

    if (c->n_experts == 0) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "qwen3moe.expert_count is missing or 0");
    }
    rc = model_key_u32(k, "expert_feed_forward_length", &c->expert_dim);
    if (rc < 0) return rc;
    rc = model_check_u32(k, "expert_feed_forward_length", c->expert_dim, 1,
                         MODEL_MAX_DIM);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->qk_norm = true;
    return 0;
}

const architecture arch_qwen3moe = {"qwen3moe", read_qwen3moe};
