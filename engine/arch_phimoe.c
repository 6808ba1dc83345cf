/* arch_phimoe.c - `phimoe`: Phi-3.5-MoE.
 *
 * Norms and all products of attention have biases, the output matrix too; RoPE
 * on halves, whose angles are divided by factors of their own (LongRoPE, Ding
 * et al. 2024) and whose sines and cosines are multiplied by
 * rope.scaling.attn_factor; experts of feed_forward_length, softmax, top k,
 * renormalized (Abdin et al. 2024, "Phi-3 Technical Report").
 *
 * Files have two sets of factors, for contexts up to the original length and
 * beyond it.  Which one is right for a token depends on how long its sequence
 * will become, so the context is limited to the original length and the short
 * ones are used.  The norms are RMS norms, as in the files' reference, although
 * the published model uses LayerNorm. */
#include "engine/architecture.h"

static const char *const original = "rope.scaling.original_context_length";

static int read_factors(model_config *c, const model_keys *k) {
    uint32_t trained;
    int rc = model_key_u32_or(k, original, &trained, c->n_context);
    if (rc < 0) return rc;
    rc = model_check_u32(k, original, trained, 1, UINT32_MAX);
    if (rc < 0) return rc;
    c->rope_factors = "rope_factors_short.weight";
    if (trained < c->n_context) c->n_context = trained;
    c->most_context = trained;
    return 0;
}

static int read_phimoe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX,
                                        .renormalize = true};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, true);
    if (rc == 0) rc = read_factors(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->norm.bias = true;
    c->attention.qkv_bias = true;
    c->attention.output_bias = true;
    c->output_bias = true;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {
    "attention.sliding_window", /* as wide as the context of such files */
    NULL};
const architecture arch_phimoe = {"phimoe", read_phimoe, takes};
