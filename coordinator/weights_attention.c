/* weights_attention.c - loads what attention of a layer needs: here what both
 * kinds have, and grouped attention. */
#include "coordinator/weights_internal.h"
#include "engine/util.h"

typedef struct {
    uint64_t q, k, v; /* values of all heads */
} head_sizes;

static head_sizes sizes_of(const model_config *c) {
    return (head_sizes){
        .q = (uint64_t)c->n_heads * c->key_dim,
        .k = (uint64_t)c->n_kv_heads * c->key_dim,
        .v = (uint64_t)c->n_kv_heads * c->value_dim,
    };
}

static int load_split_qkv(loader *l, uint32_t layer, attention_weights *a) {
    const model_config *c = &l->w->config;
    const head_sizes n = sizes_of(c);
    int rc = load_matrix(l, layer, "attn_q", c->n_embd, n.q, &a->q);
    if (rc == 0) rc = load_matrix(l, layer, "attn_k", c->n_embd, n.k, &a->k);
    if (rc == 0) rc = load_matrix(l, layer, "attn_v", c->n_embd, n.v, &a->v);
    if (rc < 0 || !c->attention.qkv_bias) return rc;

    rc = load_bias(l, layer, "attn_q", n.q, &a->q_bias);
    if (rc == 0) rc = load_bias(l, layer, "attn_k", n.k, &a->k_bias);
    if (rc == 0) rc = load_bias(l, layer, "attn_v", n.v, &a->v_bias);
    return rc;
}

/* Rows of q, then of k, then of v in one tensor. */
static int load_fused_qkv(loader *l, uint32_t layer, attention_weights *a) {
    static const char *const name = "attn_qkv";
    const model_config *c = &l->w->config;
    const head_sizes n = sizes_of(c);
    const uint64_t all = n.q + n.k + n.v;
    const struct {
        uint64_t row0, rows;
        matrix *m;
        float **bias;
    } parts[] = {
        {0, n.q, &a->q, &a->q_bias},
        {n.q, n.k, &a->k, &a->k_bias},
        {n.q + n.k, n.v, &a->v, &a->v_bias},
    };
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        int rc = load_matrix_rows(l, layer, name, c->n_embd, all, parts[i].row0,
                                  parts[i].rows, parts[i].m);
        if (rc < 0) return rc;
        if (!c->attention.qkv_bias) continue;
        rc = load_bias_part(l, layer, name, all, parts[i].row0, parts[i].rows,
                            parts[i].bias);
        if (rc < 0) return rc;
    }
    return 0;
}

static int load_qk_norm(loader *l, uint32_t layer, attention_weights *a) {
    const model_config *c = &l->w->config;
    if (c->attention.qk_norm == QK_NORM_NONE || c->attention.qk_norm_plain) {
        return 0;
    }
    bool heads = c->attention.qk_norm == QK_NORM_HEADS;
    uint64_t n_q = heads ? c->key_dim : sizes_of(c).q;
    uint64_t n_k = heads ? c->key_dim : sizes_of(c).k;
    int rc = load_vector(l, layer, "attn_q_norm", n_q, 0, &a->q_norm);
    if (rc < 0) return rc;
    return load_vector(l, layer, "attn_k_norm", n_k, 0, &a->k_norm);
}

static int load_grouped(loader *l, uint32_t layer, attention_weights *a) {
    const model_config *c = &l->w->config;
    int rc = c->attention.fused_qkv ? load_fused_qkv(l, layer, a)
                                    : load_split_qkv(l, layer, a);
    if (rc == 0) rc = load_qk_norm(l, layer, a);
    if (rc == 0 && c->attention.sinks) {
        rc = load_vector(l, layer, "attn_sinks", c->n_heads, 0, &a->sinks);
    }
    return rc;
}

static int load_heads_output(loader *l, uint32_t layer, attention_weights *a) {
    const model_config *c = &l->w->config;
    bool latent = c->attention.kind == ATTENTION_LATENT;
    uint64_t of_head = latent ? c->latent.value_dim : c->value_dim;
    int rc = load_matrix(l, layer, "attn_output", c->n_heads * of_head,
                         c->n_embd, &a->o);
    if (rc < 0 || !c->attention.output_bias) return rc;
    return load_bias(l, layer, "attn_output", c->n_embd, &a->o_bias);
}

int load_attention(loader *l, uint32_t layer, layer_weights *lw) {
    const model_config *c = &l->w->config;
    attention_weights *a = &lw->attention;
    int rc = load_norm(l, layer, "attn_norm", c->norm.bias, &lw->attn_norm);
    if (rc < 0) return rc;
    rc = c->attention.kind == ATTENTION_LATENT
             ? load_latent(l, layer, &lw->latent)
             : load_grouped(l, layer, a);
    if (rc == 0) rc = load_heads_output(l, layer, a);
    if (rc < 0 || c->norm.after_attention == NULL) return rc;
    return load_norm(l, layer, c->norm.after_attention, false,
                     &lw->after_attention);
}

void attention_weights_fini(attention_weights *a) {
    matrix_fini(&a->q);
    matrix_fini(&a->k);
    matrix_fini(&a->v);
    matrix_fini(&a->o);
    aligned_release(a->q_bias);
    aligned_release(a->k_bias);
    aligned_release(a->v_bias);
    aligned_release(a->o_bias);
    aligned_release(a->q_norm);
    aligned_release(a->k_norm);
    aligned_release(a->sinks);
}
