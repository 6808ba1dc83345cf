/* arch_dots1.c - `dots1`: dots.llm1.
 *
 * q and k heads are RMS normed before RoPE on halves; leading dense layers,
 * shared experts; sigmoid scores, a bias for choosing, top k, renormalized and
 * scaled as the file says (Huo et al. 2025, "dots.llm1 Technical Report"). */
#include "engine/architecture.h"

static int read_dots1(model_config *c, const model_keys *k) {
    static const routing_rule silent = {.gating = GATING_SIGMOID};
    int rc = model_read_common(c, k);
    if (rc == 0) rc = model_read_expert_dim(c, k, false);
    if (rc == 0) rc = model_read_shared_dim(c, k);
    if (rc == 0) rc = model_read_leading_dense(c, k);
    if (rc < 0) return rc;

    c->rope.style = ROPE_NEOX;
    c->attention.qk_norm = QK_NORM_HEADS;
    model_find_biases(c, k);
    return model_read_routing(c, k, &silent);
}

static const char *const takes[] = {
    "expert_shared_count",       "expert_shared_feed_forward_length",
    "leading_dense_block_count", "expert_group_count",
    "expert_group_used_count",   NULL};
const architecture arch_dots1 = {"dots1", read_dots1, takes};
