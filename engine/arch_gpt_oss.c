/* arch_gpt_oss.c - `gpt-oss`: OpenAI's open-weight mixtures of experts (2025).
 *
 * Everything has a bias: q, k, v and o, the router, and the experts.  Heads
 * have sinks, a logit each without a value.  The last layer of every two sees
 * the whole context, the others a window.  Experts are chosen by the router's
 * logits and weighted by the softmax over those of the chosen; their SwiGLU is
 * clamped.  The norm before the experts is called post_attention_norm. */
#include "engine/architecture.h"

/* The published models have windows in every other layer. */
#define PERIOD 2

static int read_window(model_config *c, const model_keys *k) {
    static const char *const window = "attention.sliding_window";
    attention_rule *a = &c->attention;
    int rc = model_key_u32(k, window, &a->window);
    if (rc < 0) return rc;
    rc = model_check_u32(k, window, a->window, 1, UINT32_MAX);
    if (rc < 0) return rc;
    return model_key_u32_or(k, "attention.sliding_window_pattern",
                            &a->window_period, PERIOD);
}

static int read_gpt_oss(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_CHOSEN_SOFTMAX};
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_read_expert_dim(c, k, false);
    if (rc < 0) return rc;
    rc = model_read_routing(c, k, &silent);
    if (rc < 0) return rc;
    rc = read_window(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.qkv_bias = true;
    c->attention.output_bias = true;
    c->attention.sinks = true;
    c->norm.ffn = "post_attention_norm";
    c->router_bias = true;
    c->expert_bias = true;
    c->activation = FFN_SWIGLU_CLAMPED;
    return 0;
}

static const char *const takes[] = {"attention.sliding_window", NULL};
const architecture arch_gpt_oss = {"gpt-oss", read_gpt_oss, takes};
