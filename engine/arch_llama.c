/* arch_llama.c - `llama`: dense Llama and Mixtral.
 *
 * Grouped-query attention, RoPE on adjacent pairs (converters permute Q and K),
 * experts of feed_forward_length, softmax over all experts, top k, renormalized
 * (Jiang et al. 2024, "Mixtral of Experts"). */
#include "engine/model.h"

static int read_llama(model_config *c, const model_keys *k) {
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NORM;
    c->routing = (routing_rule){GATING_SOFTMAX, true, 0.0f};
    if (c->n_experts > 0) c->expert_dim = c->ffn_dim;
    return 0;
}

const architecture arch_llama = {"llama", read_llama};
