/* arch_hunyuan_moe.c - `hunyuan-moe`: Tencent's Hunyuan-A13B.
 *
 * q and k heads are RMS normed AFTER RoPE on halves; a shared expert; softmax,
 * top k, renormalized ("Hunyuan-A13B Technical Report", 2025). */
#include "engine/architecture.h"

static int read_hunyuan_moe(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SOFTMAX,
                                        .renormalize = true};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, true);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.qk_norm = QK_NORM_HEADS;
    c->attention.qk_norm_late = true;
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {"expert_shared_count",
                                    "expert_shared_feed_forward_length", NULL};
const architecture arch_hunyuan_moe = {"hunyuan-moe", read_hunyuan_moe, takes};
