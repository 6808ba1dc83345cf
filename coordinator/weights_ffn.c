/* weights_ffn.c - loads what the feed-forward part of a layer has here: dense
 * networks, the router, the shared expert. */
#include "coordinator/weights_internal.h"
#include "engine/util.h"

/* The tensors of a network of hidden width n. */
static int load_ffn(loader *l, uint32_t layer, const char *const names[3],
                    uint64_t n, ffn_weights *out) {
    uint64_t n_embd = l->w->config.n_embd;
    int rc = load_matrix(l, layer, names[0], n_embd, n, &out->gate);
    if (rc == 0) rc = load_matrix(l, layer, names[1], n_embd, n, &out->up);
    if (rc == 0) rc = load_matrix(l, layer, names[2], n, n_embd, &out->down);
    out->activation = l->w->config.activation;
    return rc;
}

static int load_shared(loader *l, uint32_t layer, moe_weights *m) {
    static const char *const names[] = {"ffn_gate_shexp", "ffn_up_shexp",
                                        "ffn_down_shexp"};
    const model_config *c = &l->w->config;
    if (c->shared_dim == 0) return 0;
    int rc = load_ffn(l, layer, names, c->shared_dim, &m->shared);
    if (rc < 0 || !c->shared_gated) return rc;
    return load_vector(l, layer, "ffn_gate_inp_shexp", c->n_embd, 0,
                       &m->shared_gate);
}

/* All rows are resident; a token reads those of the experts it uses. */
static int load_down_bias(loader *l, uint32_t layer, moe_weights *m) {
    const model_config *c = &l->w->config;
    expert_tensors t;
    if (!c->expert_bias) return 0;
    int rc = model_experts(c, l->w->g, layer, &t, l->why, l->why_size);
    if (rc < 0) return rc;
    uint64_t before = l->bytes_per_token;
    rc = load_floats(l, t.down_bias, &m->down_bias);
    uint64_t used = (uint64_t)c->n_used * c->n_embd * sizeof(float);
    l->bytes_per_token = before + used;
    return rc;
}

static int load_moe(loader *l, uint32_t layer, moe_weights *m) {
    const model_config *c = &l->w->config;
    int rc = load_float_matrix(l, layer, "ffn_gate_inp", c->n_embd,
                               c->n_experts, &m->router);
    if (rc == 0 && c->router_bias) {
        rc = load_bias(l, layer, "ffn_gate_inp", c->n_experts, &m->router_bias);
    }
    if (rc == 0 && c->selection_bias) {
        rc = load_bias(l, layer, "exp_probs_b", c->n_experts,
                       &m->selection_bias);
    }
    if (rc == 0) rc = load_down_bias(l, layer, m);
    if (rc < 0) return rc;
    return load_shared(l, layer, m);
}

int load_feed_forward(loader *l, uint32_t layer, layer_weights *lw) {
    static const char *const names[] = {"ffn_gate", "ffn_up", "ffn_down"};
    const model_config *c = &l->w->config;
    int rc = load_norm(l, layer, c->norm.ffn, c->norm.bias, &lw->ffn_norm);
    if (rc == 0 && model_is_moe(c, layer)) rc = load_moe(l, layer, &lw->moe);
    if (rc == 0 && model_is_dense(c, layer)) {
        rc = load_ffn(l, layer, names, c->ffn_dim, &lw->dense);
    }
    if (rc < 0 || c->norm.after_ffn == NULL) return rc;
    return load_norm(l, layer, c->norm.after_ffn, false, &lw->after_ffn);
}

void moe_weights_fini(moe_weights *m) {
    matrix_fini(&m->router);
    aligned_release(m->router_bias);
    aligned_release(m->selection_bias);
    aligned_release(m->down_bias);
    ffn_fini(&m->shared);
    aligned_release(m->shared_gate);
}
