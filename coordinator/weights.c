/* weights.c - loads the coordinator's share of a model, layer by layer.
 *
 * Every tensor is found by name and has the shape that the metadata asks for;
 * that there are no others is model_read()'s promise. */
#include "coordinator/weights.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

typedef struct {
    weights *w;
    char *why;
    size_t why_size;
} loader;

/* All values of a tensor as f32, in stored order. */
static int load_floats(loader *l, const gguf_tensor *t, float **out) {
    const weight_format *f;
    int rc = matrix_format(t, &f, l->why, l->why_size);
    if (rc < 0) return rc;
    size_t n_rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
    size_t cols = (size_t)t->dims[0];
    size_t row_bytes = (size_t)t->bytes / n_rows;

    float *values = aligned_alloc_zero(n_rows * cols * sizeof(float));
    uint8_t *row = malloc(row_bytes);
    rc = values == NULL || row == NULL ? -ENOMEM : 0;
    for (size_t r = 0; r < n_rows && rc == 0; r++) {
        rc = gguf_read(l->w->g, t, r * row_bytes, row_bytes, row);
        if (rc == 0) f->dequantize(cols, row, values + r * cols);
    }
    free(row);
    if (rc < 0) {
        aligned_release(values);
        return err_why(l->why, l->why_size, rc, "tensor %s: %s",
                       gguf_quote(t->name).text, err_text(rc));
    }
    *out = values;
    l->w->bytes += n_rows * cols * sizeof(float);
    l->w->bytes_per_token += n_rows * cols * sizeof(float);
    return 0;
}

static int load_vector(loader *l, uint32_t layer, const char *name, uint64_t n,
                       uint64_t rows, float **out) {
    const gguf_tensor *t;
    int rc =
        model_tensor(l->w->g, layer, name, n, rows, 0, &t, l->why, l->why_size);
    if (rc < 0) return rc;
    return load_floats(l, t, out);
}

static int load_matrix(loader *l, uint32_t layer, const char *name,
                       uint64_t cols, uint64_t rows, matrix *out) {
    const gguf_tensor *t;
    int rc = model_tensor(l->w->g, layer, name, cols, rows, 0, &t, l->why,
                          l->why_size);
    if (rc < 0) return rc;
    rc = matrix_load(out, l->w->g, t, 0, l->why, l->why_size);
    if (rc < 0) return rc;
    l->w->bytes += out->bytes;
    l->w->bytes_per_token += out->bytes;
    return 0;
}

static int load_attention(loader *l, uint32_t layer, layer_weights *lw) {
    const model_config *c = &l->w->config;
    uint64_t q_dim = (uint64_t)c->n_heads * c->key_dim;
    uint64_t k_dim = (uint64_t)c->n_kv_heads * c->key_dim;
    uint64_t v_dim = (uint64_t)c->n_kv_heads * c->value_dim;
    uint64_t o_dim = (uint64_t)c->n_heads * c->value_dim;

    int rc = load_vector(l, layer, "attn_norm", c->n_embd, 0, &lw->attn_norm);
    if (rc == 0) rc = load_matrix(l, layer, "attn_q", c->n_embd, q_dim, &lw->q);
    if (rc == 0) rc = load_matrix(l, layer, "attn_k", c->n_embd, k_dim, &lw->k);
    if (rc == 0) rc = load_matrix(l, layer, "attn_v", c->n_embd, v_dim, &lw->v);
    if (rc == 0) {
        rc = load_matrix(l, layer, "attn_output", o_dim, c->n_embd, &lw->o);
    }
    if (rc < 0 || !c->qk_norm) return rc;
    rc = load_vector(l, layer, "attn_q_norm", c->key_dim, 0, &lw->q_norm);
    if (rc < 0) return rc;
    return load_vector(l, layer, "attn_k_norm", c->key_dim, 0, &lw->k_norm);
}

static int load_feed_forward(loader *l, uint32_t layer, layer_weights *lw) {
    const model_config *c = &l->w->config;
    int rc = load_vector(l, layer, "ffn_norm", c->n_embd, 0, &lw->ffn_norm);
    if (rc < 0) return rc;
    if (model_is_moe(c, layer)) {
        return load_vector(l, layer, "ffn_gate_inp", c->n_embd, c->n_experts,
                           &lw->router);
    }
    rc = load_matrix(l, layer, "ffn_gate", c->n_embd, c->ffn_dim,
                     &lw->dense.gate);
    if (rc < 0) return rc;
    rc = load_matrix(l, layer, "ffn_up", c->n_embd, c->ffn_dim, &lw->dense.up);
    if (rc < 0) return rc;
    return load_matrix(l, layer, "ffn_down", c->ffn_dim, c->n_embd,
                       &lw->dense.down);
}

static int load_output(loader *l) {
    weights *w = l->w;
    const model_config *c = &w->config;
    const gguf_tensor *t;
    int rc = model_tensor_named(w->g, "output_norm.weight", c->n_embd, 0, 0, &t,
                                l->why, l->why_size);
    if (rc < 0) return rc;
    rc = load_floats(l, t, &w->output_norm);
    if (rc < 0) return rc;

    /* Without an output matrix the embeddings are used ("tied"). */
    t = w->embedding;
    if (gguf_find_tensor(w->g, "output.weight") != NULL) {
        rc = model_tensor_named(w->g, "output.weight", c->n_embd, c->n_vocab, 0,
                                &t, l->why, l->why_size);
        if (rc < 0) return rc;
    }
    rc = matrix_load(&w->output, w->g, t, 0, l->why, l->why_size);
    if (rc < 0) return rc;
    w->bytes += w->output.bytes;
    w->bytes_per_token += w->output.bytes;
    return 0;
}

static int load_embedding(loader *l) {
    weights *w = l->w;
    int rc = model_tensor_named(w->g, "token_embd.weight", w->config.n_embd,
                                w->config.n_vocab, 0, &w->embedding, l->why,
                                l->why_size);
    if (rc < 0) return rc;
    rc = matrix_format(w->embedding, &w->embedding_format, l->why, l->why_size);
    if (rc < 0) return rc;
    w->bytes_per_token += w->embedding->bytes / w->config.n_vocab;
    return 0;
}

static int load_rope_factors(loader *l) {
    static const char *const name = "rope_freqs.weight";
    weights *w = l->w;
    const gguf_tensor *t;
    if (gguf_find_tensor(w->g, name) == NULL) return 0;
    uint32_t n = w->config.rope.n_dims / 2;
    int rc = model_tensor_named(w->g, name, n, 0, 0, &t, l->why, l->why_size);
    if (rc < 0) return rc;
    rc = load_floats(l, t, &w->rope_factors);
    if (rc < 0) return rc;

    for (uint32_t i = 0; i < n; i++) { /* angles are divided by them */
        float factor = w->rope_factors[i];
        if (factor > 0.0f && isfinite(factor)) continue;
        return err_why(l->why, l->why_size, ERR_FORMAT,
                       "tensor %s: value %u is %g, not a positive number", name,
                       i, (double)factor);
    }
    return 0;
}

int weights_load(weights **out, const gguf *g, const model_config *c, char *why,
                 size_t why_size) {
    *out = NULL;
    weights *w = calloc(1, sizeof(*w));
    if (w == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    w->g = g;
    w->config = *c;
    loader l = {w, why, why_size};

    int rc = 0;
    w->layers = calloc(c->n_layers, sizeof(*w->layers));
    if (w->layers == NULL) {
        rc = err_why(why, why_size, -ENOMEM, "no memory for %u layers",
                     c->n_layers);
    }
    if (rc == 0) rc = load_embedding(&l);
    if (rc == 0) rc = load_rope_factors(&l);
    for (uint32_t i = 0; i < c->n_layers && rc == 0; i++) {
        rc = load_attention(&l, i, &w->layers[i]);
        if (rc == 0) rc = load_feed_forward(&l, i, &w->layers[i]);
    }
    if (rc == 0) rc = load_output(&l);
    if (rc < 0) {
        weights_free(w);
        return rc;
    }
    w->config.rope.factors = w->rope_factors;
    *out = w;
    return 0;
}

static void free_layer(layer_weights *lw) {
    aligned_release(lw->attn_norm);
    aligned_release(lw->q_norm);
    aligned_release(lw->k_norm);
    aligned_release(lw->ffn_norm);
    aligned_release(lw->router);
    matrix_fini(&lw->q);
    matrix_fini(&lw->k);
    matrix_fini(&lw->v);
    matrix_fini(&lw->o);
    ffn_fini(&lw->dense);
}

void weights_free(weights *w) {
    if (w == NULL) return;
    for (uint32_t i = 0; w->layers != NULL && i < w->config.n_layers; i++) {
        free_layer(&w->layers[i]);
    }
    free(w->layers);
    aligned_release(w->output_norm);
    aligned_release(w->rope_factors);
    matrix_fini(&w->output);
    free(w);
}

void weights_embed(const weights *w, uint32_t token, float *out) {
    const weight_format *f = w->embedding_format;
    size_t cols = w->config.n_embd;
    size_t row_bytes = cols / f->block_len * f->block_bytes;
    const uint8_t *rows = gguf_data(w->g, w->embedding);
    f->dequantize(cols, rows + (size_t)token * row_bytes, out);
}
