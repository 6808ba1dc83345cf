/* arch_llama4.c - `llama4`: Meta's Llama 4 (2025).
 *
 * Every fourth layer has no RoPE and sees the whole context; its queries grow
 * with the position (a temperature).  The other layers see chunks, and norm
 * their q and k heads without weights after RoPE, but in the published model
 * with 128 experts, which no key tells apart.
 *
 * MoE layers alternate with dense ones.  A token goes to the expert with the
 * largest logit, whose sigmoid multiplies the expert's input, and to a shared
 * expert.  With more than one expert a token, each would need a row of its own:
 * no such model is known, and it is refused. */
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"

#define ROPE_PERIOD 4
#define CHUNK 8192 /* positions; also the step of the temperature */
#define TEMPERATURE 0.1f
#define EXPERTS_WITHOUT_QK_NORM 128

static int read_llama4_routing(model_config *c, const model_keys *k) {
    static const routing_rule silent = {
        .gating = GATING_SIGMOID, .by_logit = true, .scale_input = true};
    int rc = model_read_routing(c, k, &silent);
    if (rc < 0 || c->n_used <= 1) return rc;
    return err_why(k->why, k->why_size, ERR_UNSUPPORTED,
                   "llama4.expert_used_count = %u is not supported: a weight "
                   "multiplies its expert's input, which only one can have",
                   c->n_used);
}

/* Which layers have experts, and what the others have. */
static int read_layers(model_config *c, const model_keys *k) {
    static const char *const step = "interleave_moe_layer_step";
    int rc = model_key_u32(k, step, &c->moe_period);
    if (rc < 0) return rc;
    rc = model_check_u32(k, step, c->moe_period, 1, c->n_layers);
    if (rc < 0 || c->moe_period == 1 || c->ffn_dim > 0) return rc;
    return err_why(k->why, k->why_size, ERR_FORMAT,
                   "llama4.feed_forward_length is missing or 0, but llama4.%s "
                   "= %u",
                   step, c->moe_period);
}

static int read_llama4(model_config *c, const model_keys *k) {
    static const model_setting others[] = {
        {"attention.sliding_window", CHUNK, CHUNK},
        {"expert_shared_count", 0, 1},
    };
    int rc = model_read_common(c, k);
    if (rc < 0) return rc;
    rc = model_refuse(k, others, ARRAY_LEN(others));
    if (rc < 0) return rc;
    rc = model_read_expert_dim(c, k, false);
    if (rc < 0) return rc;
    rc = read_llama4_routing(c, k);
    if (rc < 0) return rc;
    rc = read_layers(c, k);
    if (rc < 0) return rc;

    attention_rule *a = &c->attention;
    c->shared_dim = c->expert_dim;
    c->rope.style = ROPE_NORM;
    a->no_rope_period = ROPE_PERIOD;
    a->chunk = a->temperature_length = CHUNK;
    a->temperature = TEMPERATURE;
    if (c->n_experts != EXPERTS_WITHOUT_QK_NORM) {
        a->qk_norm = QK_NORM_HEADS;
        a->qk_norm_plain = a->qk_norm_late = true;
    }
    return 0;
}

static const char *const takes[] = {
    "attention.sliding_window",
    "expert_shared_count",
    "interleave_moe_layer_step",
    NULL,
};
const architecture arch_llama4 = {"llama4", read_llama4, takes};
