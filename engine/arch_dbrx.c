/* arch_dbrx.c - `dbrx`: DBRX.
 *
 * LayerNorm without biases; q, k and v from one tensor, kept within
 * attention.clamp_kqv; RoPE on halves; attn_output_norm is the norm before the
 * FFN; experts of feed_forward_length, softmax, top k, renormalized
 * ("Introducing DBRX", 2024). */
#include "engine/architecture.h"

static int read_dbrx(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX,
                                        .renormalize = true};
    c->norm.kind = NORM_LAYER;
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, true);
    if (rc < 0) return rc;
    rc = model_read_factor(k, "attention.clamp_kqv", 0, &c->attention.clamp);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->norm.ffn = "attn_output_norm";
    c->attention.fused_qkv = true;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {"attention.clamp_kqv", NULL};
const architecture arch_dbrx = {"dbrx", read_dbrx, takes};
