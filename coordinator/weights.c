/* weights.c - loads the coordinator's share of a model, layer by layer. */
#include "coordinator/weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

typedef struct {
    weights *w;
    char *why;
    size_t why_size;
} loader;

/* All values of a tensor as f32, in stored order. */
static int load_floats(loader *l, const gguf_tensor *t, float **out) {
    const weight_format *f = weight_format_find(t->type);
    if (f == NULL) {
        return err_why(l->why, l->why_size, ERR_UNSUPPORTED,
                       "tensor %.*s has format %s, which is not supported",
                       (int)t->name.len, t->name.data,
                       weight_type_name(t->type));
    }
    size_t n_rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
    size_t cols = (size_t)t->dims[0];
    size_t row_bytes = (size_t)t->bytes / n_rows;

    float *values = aligned_alloc_zero(n_rows * cols * sizeof(float));
    uint8_t *row = malloc(row_bytes);
    int rc = values == NULL || row == NULL ? -ENOMEM : 0;
    for (size_t r = 0; r < n_rows && rc == 0; r++) {
        rc = gguf_read(l->w->g, t, r * row_bytes, row_bytes, row);
        if (rc == 0) f->dequantize(cols, row, values + r * cols);
    }
    free(row);
    if (rc < 0) {
        aligned_release(values);
        return err_why(l->why, l->why_size, rc, "tensor %.*s: %s",
                       (int)t->name.len, t->name.data, err_text(rc));
    }
    *out = values;
    l->w->bytes += n_rows * cols * sizeof(float);
    l->w->bytes_per_token += n_rows * cols * sizeof(float);
    return 0;
}

static int load_vector(loader *l, uint32_t layer, const char *name, uint64_t n,
                       uint64_t rows, float **out) {
    const gguf_tensor *t;
    int rc = model_tensor(l->w->g, layer, name, n, rows, 0, &t, l->why,
                          l->why_size);
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

/* What model_tensor() cannot see: biases and other tensors that would change
 * the result are refused, not skipped. */
static int refuse_unknown(loader *l) {
    static const char *const known[] = {
        "attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight",
        "attn_output.weight", "attn_q_norm.weight", "attn_k_norm.weight",
        "ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight",
        "ffn_down.weight", "ffn_gate_inp.weight", "ffn_gate_exps.weight",
        "ffn_up_exps.weight", "ffn_down_exps.weight",
        /* a pre-computed table that some old files carry */
        "attn_rot_embd", "attn.rot_embd", "attn_rot_embd.weight",
    };
    for (size_t i = 0; i < gguf_n_tensors(l->w->g); i++) {
        gguf_string name = gguf_tensor_at(l->w->g, i)->name;
        if (name.len < 4 || memcmp(name.data, "blk.", 4) != 0) continue;
        const char *rest = memchr(name.data + 4, '.', name.len - 4);
        if (rest == NULL) continue;
        rest++;
        size_t len = name.len - (size_t)(rest - name.data);
        bool found = false;
        for (size_t k = 0; k < ARRAY_LEN(known) && !found; k++) {
            found = strlen(known[k]) == len && memcmp(known[k], rest, len) == 0;
        }
        if (!found) {
            return err_why(l->why, l->why_size, ERR_UNSUPPORTED,
                           "tensor %.*s is not supported by architecture %s",
                           (int)name.len, name.data, l->w->config.arch);
        }
    }
    return 0;
}

static int load_output(loader *l) {
    weights *w = l->w;
    const model_config *c = &w->config;
    const gguf_tensor *norm = gguf_find_tensor(w->g, "output_norm.weight");
    if (norm == NULL || norm->dims[0] != c->n_embd || norm->dims[1] != 1) {
        return err_why(l->why, l->why_size, ERR_FORMAT,
                       "tensor output_norm.weight is missing or has the wrong "
                       "shape");
    }
    int rc = load_floats(l, norm, &w->output_norm);
    if (rc < 0) return rc;

    /* Without an output matrix the embeddings are used ("tied"). */
    const gguf_tensor *t = gguf_find_tensor(w->g, "output.weight");
    if (t == NULL) t = w->embedding;
    if (t->dims[0] != c->n_embd || t->dims[1] != c->n_vocab ||
        t->dims[2] != 1) {
        return err_why(l->why, l->why_size, ERR_FORMAT,
                       "tensor output.weight has the wrong shape");
    }
    rc = matrix_load(&w->output, w->g, t, 0, l->why, l->why_size);
    if (rc < 0) return rc;
    w->bytes += w->output.bytes;
    w->bytes_per_token += w->output.bytes;
    return 0;
}

static int load_embedding(loader *l) {
    weights *w = l->w;
    w->embedding = gguf_find_tensor(w->g, "token_embd.weight");
    w->embedding_format = weight_format_find(w->embedding->type);
    if (w->embedding_format == NULL) {
        return err_why(l->why, l->why_size, ERR_UNSUPPORTED,
                       "tensor token_embd.weight has format %s, which is not "
                       "supported",
                       weight_type_name(w->embedding->type));
    }
    w->bytes_per_token += w->embedding->bytes / w->config.n_vocab;
    return 0;
}

static int load_rope_factors(loader *l) {
    weights *w = l->w;
    const gguf_tensor *t = gguf_find_tensor(w->g, "rope_freqs.weight");
    if (t == NULL) return 0;
    if (t->dims[0] != w->config.rope.n_dims / 2 || t->dims[1] != 1) {
        return err_why(l->why, l->why_size, ERR_FORMAT,
                       "tensor rope_freqs.weight has the wrong shape");
    }
    return load_floats(l, t, &w->rope_factors);
}

int weights_load(weights **out, const gguf *g, const model_config *c, char *why,
                 size_t why_size) {
    *out = NULL;
    weights *w = calloc(1, sizeof(*w));
    if (w == NULL) return -ENOMEM;
    w->g = g;
    w->config = *c;
    w->layers = calloc(c->n_layers, sizeof(*w->layers));
    loader l = {w, why, why_size};

    int rc = w->layers == NULL ? -ENOMEM : refuse_unknown(&l);
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
