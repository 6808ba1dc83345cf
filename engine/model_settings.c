/* model_settings.c - every setting we know of that changes a result, with the
 * values that do not.
 *
 * A row of the table of architectures lists those that it computes with; in the
 * files of all others they are refused, by name and value. */
#include <string.h>
#include "engine/architecture.h"
#include "engine/util.h"

static const model_setting settings[] = {
    {"attention.causal", 1, 1},
    {"attention.clamp_kqv", 0, 0},
    {"attention.max_alibi_bias", 0, 0},
    {"attention.q_lora_rank", 0, 0},
    {"attention.kv_lora_rank", 0, 0},
    {"attention.key_length_mla", 0, 0},
    {"attention.value_length_mla", 0, 0},
    {"attention.output_scale", 0, 1},
    {"attention.sliding_window", 0, 0},
    {"attention.temperature_scale", 0, 0},
    {"attn_logit_softcapping", 0, 0},
    {"final_logit_softcapping", 0, 0},
    {"embedding_scale", 0, 1},
    {"residual_scale", 0, 1},
    {"logit_scale", 0, 1},
    {"use_parallel_residual", 0, 0},
    {"rope.scaling.yarn_attn_factor", 1, 1},
    {"rope.scaling.yarn_ext_factor", 1, 1},
    {"rope.scaling.yarn_log_multiplier", 0, 0},
    {"nextn_predict_layers", 0, 0},
    {"expert_group_count", 0, 1},
    {"expert_group_used_count", 0, 1},
    {"expert_shared_count", 0, 0},
    {"expert_shared_feed_forward_length", 0, 0},
    {"leading_dense_block_count", 0, 0},
    {"interleave_moe_layer_step", 0, 1},
    {"moe_every_n_layers", 0, 1},
    {"router_logit_softcapping", 0, 0},
};

static bool taken(const model_keys *k, const char *rest) {
    for (const char *const *t = k->takes; t != NULL && *t != NULL; t++) {
        if (strcmp(*t, rest) == 0) return true;
    }
    return false;
}

int model_refuse_settings(const model_keys *k) {
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        if (taken(k, settings[i].rest)) continue;
        int rc = model_refuse(k, &settings[i], 1);
        if (rc < 0) return rc;
    }
    return 0;
}
