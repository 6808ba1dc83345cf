/* arch_llama.c - `llama`: dense Llama and Mixtral.
 *
 * Grouped-query attention, RoPE on adjacent pairs (converters permute Q and K),
 * experts of feed_forward_length, softmax over all experts, top k, renormalized
 * (Jiang et al. 2024, "Mixtral of Experts").
 *
 * attention.sliding_window is not looked at: checkpoints of Mixtral carry it
 * although they attend to everything. */
#include "engine/architecture.h"
#include "engine/err.h"

static int read_llama(model_config *c, const model_keys *k) {
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_read_plain_routing(c, k);
    if (rc < 0) return rc;
    if (c->ffn_dim == 0) {
        return err_why(k->why, k->why_size, ERR_FORMAT,
                       "llama.feed_forward_length is missing or 0");
    }
    const model_setting width = {"expert_feed_forward_length", 0, c->ffn_dim};
    rc = model_refuse(k, &width, 1);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NORM;
    if (c->n_experts > 0) c->expert_dim = c->ffn_dim;
    return 0;
}

static const char *const takes[] = {"attention.sliding_window", NULL};
const architecture arch_llama = {"llama", read_llama, takes};
