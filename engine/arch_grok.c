/* arch_grok.c - `grok`: xAI's Grok-1 and its successors.
 *
 * Attention's scores are soft-capped, each branch's output is normed before it
 * is added, and where there is a dense network beside the experts, the sum of
 * both is multiplied by sqrt(1/2).  Networks join by GELU.  Embeddings and
 * logits are scaled, logits then soft-capped if the file says so; files of the
 * first converters say nothing, and mean Grok-1's numbers.
 *
 * router_logit_softcapping stands in files and has no effect: the router is a
 * softmax, top k, renormalized. */
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"

static int read_scales(model_config *c, const model_keys *k) {
    const struct {
        const char *rest;
        float absent;
        float *out;
    } factors[] = {
        {"attention.output_scale", 0x1.6a09e6p-4f, &c->attention.scale},
        {"attn_logit_softcapping", 30.0f, &c->attention.softcap},
        {"embedding_scale", 78.38367f, &c->scale.embedding},
        {"logit_scale", 0.57735027f, &c->scale.logit},
        {"final_logit_softcapping", 0.0f, &c->scale.softcap},
    };
    for (size_t i = 0; i < ARRAY_LEN(factors); i++) {
        int rc = model_read_factor(k, factors[i].rest, factors[i].absent,
                                   factors[i].out);
        if (rc < 0) return rc;
    }
    return 0;
}

static int read_dense(model_config *c, const model_keys *k) {
    c->dense_beside_experts = model_has_tensor(k, "blk.0.ffn_up.weight");
    c->dense_beside_scale = 0.70710678f;
    if (!c->dense_beside_experts || c->ffn_dim > 0) return 0;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "grok.feed_forward_length is missing or 0, but there are "
                   "dense networks beside the experts");
}

static int read_grok(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX,
                                        .renormalize = true};
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_read_expert_dim(c, k, true);
    if (rc < 0) return rc;
    rc = model_read_routing(c, k, &silent);
    if (rc < 0) return rc;
    rc = read_scales(c, k);
    if (rc < 0) return rc;
    rc = read_dense(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->activation = FFN_GELU;
    c->norm.after_attention = "attn_output_norm";
    c->norm.after_ffn = model_has_tensor(k, "blk.0.layer_output_norm.weight")
                            ? "layer_output_norm"
                            : "post_ffw_norm";
    return 0;
}

static const char *const takes[] = {
    "attention.output_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "logit_scale",
    "final_logit_softcapping",
    "router_logit_softcapping",
    NULL,
};
const architecture arch_grok = {"grok", read_grok, takes};
