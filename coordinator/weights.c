/* weights.c - loads the coordinator's share of a model, layer by layer.
 *
 * Every tensor is found by name and has the shape that the metadata asks for;
 * that there are no others is model_read()'s promise.  What belongs to a layer
 * is in weights_attention.c and weights_ffn.c. */
#include "coordinator/weights.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/weights_internal.h"
#include "engine/err.h"
#include "engine/first_failure.h"
#include "engine/util.h"

#define NAME_MAX_BYTES 160

/* ---- parts ---- */

void load_count(loader *l, uint64_t bytes) {
    l->bytes += bytes;
    l->bytes_per_token += bytes;
}

/* All values of a tensor as f32, in stored order; the caller's to release. */
static int read_floats(loader *l, const gguf_tensor *t, float **out) {
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
    return 0;
}

int load_floats(loader *l, const gguf_tensor *t, float **out) {
    int rc = read_floats(l, t, out);
    if (rc < 0) return rc;
    load_count(l, t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3] *
                      sizeof(float));
    return 0;
}

int load_vector(loader *l, uint32_t layer, const char *name, uint64_t n,
                uint64_t rows, float **out) {
    const gguf_tensor *t;
    int rc =
        model_tensor(l->w->g, layer, name, n, rows, 0, &t, l->why, l->why_size);
    if (rc < 0) return rc;
    return load_floats(l, t, out);
}

static int find_bias(loader *l, uint32_t layer, const char *name, uint64_t n,
                     const gguf_tensor **out) {
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof(full), "blk.%u.%s.bias", layer, name);
    return model_tensor_named(l->w->g, full, n, 0, 0, out, l->why, l->why_size);
}

int load_bias(loader *l, uint32_t layer, const char *name, uint64_t n,
              float **out) {
    const gguf_tensor *t;
    int rc = find_bias(l, layer, name, n, &t);
    if (rc < 0) return rc;
    return load_floats(l, t, out);
}

int load_bias_part(loader *l, uint32_t layer, const char *name, uint64_t all,
                   uint64_t from, uint64_t n, float **out) {
    const gguf_tensor *t;
    float *whole;
    int rc = find_bias(l, layer, name, all, &t);
    if (rc == 0) rc = read_floats(l, t, &whole);
    if (rc < 0) return rc;
    *out = aligned_alloc_zero(n * sizeof(float));
    if (*out != NULL) memcpy(*out, whole + from, n * sizeof(float));
    aligned_release(whole);
    if (*out == NULL) {
        return err_why(l->why, l->why_size, -ENOMEM, "tensor %s: no memory",
                       gguf_quote(t->name).text);
    }
    load_count(l, n * sizeof(float));
    return 0;
}

int load_norm(loader *l, uint32_t layer, const char *name, bool bias,
              norm_weights *out) {
    uint64_t n = l->w->config.n_embd;
    int rc = load_vector(l, layer, name, n, 0, &out->w);
    if (rc < 0 || !bias) return rc;
    return load_bias(l, layer, name, n, &out->b);
}

void norm_fini(norm_weights *n) {
    aligned_release(n->w);
    aligned_release(n->b);
}

int load_matrix_rows(loader *l, uint32_t layer, const char *name, uint64_t cols,
                     uint64_t all, uint64_t row0, uint64_t rows, matrix *out) {
    const gguf_tensor *t;
    int rc = model_tensor(l->w->g, layer, name, cols, all, 0, &t, l->why,
                          l->why_size);
    if (rc < 0) return rc;
    rc = matrix_load_rows(out, l->w->g, t, row0, rows, l->why, l->why_size);
    if (rc < 0) return rc;
    load_count(l, out->bytes);
    return 0;
}

int load_matrix(loader *l, uint32_t layer, const char *name, uint64_t cols,
                uint64_t rows, matrix *out) {
    return load_matrix_rows(l, layer, name, cols, rows, 0, rows, out);
}

/* A tensor whose rows become f32. */
typedef struct {
    const gguf *g;
    const gguf_tensor *tensor;
    const weight_format *format;
    size_t row_bytes;
    uint8_t *row; /* as stored */
} float_rows;

static int read_float_rows(void *ctx, size_t row0, size_t n, void *out) {
    const float_rows *s = ctx;
    size_t cols = (size_t)s->tensor->dims[0];
    for (size_t i = 0; i < n; i++) {
        int rc = gguf_read(s->g, s->tensor, (row0 + i) * s->row_bytes,
                           s->row_bytes, s->row);
        if (rc < 0) return rc;
        s->format->dequantize(cols, s->row, (float *)out + i * cols);
    }
    return 0;
}

int load_float_matrix(loader *l, uint32_t layer, const char *name,
                      uint64_t cols, uint64_t rows, matrix *out) {
    const gguf_tensor *t;
    const weight_format *f;
    int rc = model_tensor(l->w->g, layer, name, cols, rows, 0, &t, l->why,
                          l->why_size);
    if (rc == 0) rc = matrix_format(t, &f, l->why, l->why_size);
    if (rc < 0) return rc;
    if (f->act == ACT_F32) return load_matrix(l, layer, name, cols, rows, out);

    float_rows source = {l->w->g, t, f, (size_t)(t->bytes / rows), NULL};
    source.row = malloc(source.row_bytes);
    rc = source.row == NULL
             ? -ENOMEM
             : matrix_build(out, weight_format_find(WEIGHT_F32), rows, cols,
                            read_float_rows, &source);
    free(source.row);
    if (rc < 0) {
        return err_why(l->why, l->why_size, rc, "tensor %s: %s",
                       gguf_quote(t->name).text, err_text(rc));
    }
    load_count(l, out->bytes);
    return 0;
}

/* ---- what belongs to no layer ---- */

/* A vector of n values under its full name. */
static int load_named(loader *l, const char *name, uint64_t n, float **out) {
    const gguf_tensor *t;
    int rc =
        model_tensor_named(l->w->g, name, n, 0, 0, &t, l->why, l->why_size);
    if (rc < 0) return rc;
    return load_floats(l, t, out);
}

static int load_output_norm(loader *l) {
    weights *w = l->w;
    uint64_t n = w->config.n_embd;
    int rc = load_named(l, "output_norm.weight", n, &w->output_norm.w);
    if (rc < 0 || !w->config.norm.bias) return rc;
    return load_named(l, "output_norm.bias", n, &w->output_norm.b);
}

static int load_output(loader *l) {
    weights *w = l->w;
    const model_config *c = &w->config;
    int rc = load_output_norm(l);
    if (rc < 0) return rc;

    /* Without an output matrix the embeddings are used ("tied"). */
    const gguf_tensor *t = w->embedding;
    if (gguf_find_tensor(w->g, "output.weight") != NULL) {
        rc = model_tensor_named(w->g, "output.weight", c->n_embd, c->n_vocab, 0,
                                &t, l->why, l->why_size);
        if (rc < 0) return rc;
    }
    rc = matrix_load(&w->output, w->g, t, 0, l->why, l->why_size);
    if (rc < 0) return rc;
    load_count(l, w->output.bytes);
    if (!c->output_bias) return 0;
    return load_named(l, "output.bias", c->n_vocab, &w->output_bias);
}

static int load_embedding(loader *l) {
    weights *w = l->w;
    int rc = model_tensor_named(w->g, "token_embd.weight", w->config.n_embd,
                                w->config.n_vocab, 0, &w->embedding, l->why,
                                l->why_size);
    if (rc < 0) return rc;
    rc = matrix_format(w->embedding, &w->embedding_format, l->why, l->why_size);
    if (rc < 0) return rc;
    l->bytes_per_token += w->embedding->bytes / w->config.n_vocab;
    /* A new token should not have to wait for the disk. */
    gguf_ahead(w->g, w->embedding, 0, w->embedding->bytes);
    return 0;
}

static int load_rope_factors(loader *l) {
    weights *w = l->w;
    const char *name = w->config.rope_factors;
    if (gguf_find_tensor(w->g, name) == NULL) return 0;
    uint32_t n = w->config.rope.n_dims / 2;
    int rc = load_named(l, name, n, &w->rope_factors);
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

/* ---- the whole ---- */

/* The tasks of a load: what belongs to no layer, which is the largest, first.
 */
typedef struct {
    weights *w;
    atomic_uint_fast64_t bytes, bytes_per_token;
    first_failure failure;
} load;

static int load_rest(loader *l) {
    int rc = load_embedding(l);
    if (rc == 0) rc = load_rope_factors(l);
    return rc == 0 ? load_output(l) : rc;
}

static int load_layer(loader *l, uint32_t layer) {
    layer_weights *to = &l->w->layers[layer];
    int rc = load_attention(l, layer, to);
    return rc == 0 ? load_feed_forward(l, layer, to) : rc;
}

static void load_task(void *ctx, uint32_t task, uint32_t worker) {
    load *all = ctx;
    char why[FIRST_FAILURE_WHY] = "";
    loader l = {.w = all->w, .why = why, .why_size = sizeof(why)};
    (void)worker;
    if (first_failure_any(&all->failure)) return;

    int rc = task == 0 ? load_rest(&l) : load_layer(&l, task - 1);
    if (rc < 0) first_failure_set(&all->failure, rc, why);
    atomic_fetch_add(&all->bytes, l.bytes);
    atomic_fetch_add(&all->bytes_per_token, l.bytes_per_token);
}

static int load_tasks(weights *w, pool *threads, char *why, size_t why_size) {
    uint32_t n_tasks = 1 + w->config.n_layers;
    load all = {.w = w};
    first_failure_init(&all.failure);
    if (threads != NULL) {
        pool_run(threads, n_tasks, load_task, &all);
    } else {
        for (uint32_t task = 0; task < n_tasks; task++)
            load_task(&all, task, 0);
    }
    w->bytes = all.bytes;
    w->bytes_per_token = all.bytes_per_token;
    return first_failure_fini(&all.failure, why, why_size);
}

int weights_load(weights **out, const gguf *g, const model_config *c,
                 pool *threads, char *why, size_t why_size) {
    *out = NULL;
    weights *w = calloc(1, sizeof(*w));
    if (w == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    w->g = g;
    w->config = *c;
    w->layers = calloc(c->n_layers, sizeof(*w->layers));
    int rc = w->layers != NULL
                 ? load_tasks(w, threads, why, why_size)
                 : err_why(why, why_size, -ENOMEM, "no memory for %u layers",
                           c->n_layers);
    if (rc < 0) {
        weights_free(w);
        return rc;
    }
    w->config.rope.factors = w->rope_factors;
    *out = w;
    return 0;
}

static void layer_fini(layer_weights *lw) {
    norm_fini(&lw->attn_norm);
    norm_fini(&lw->ffn_norm);
    norm_fini(&lw->after_attention);
    norm_fini(&lw->after_ffn);
    attention_weights_fini(&lw->attention);
    latent_weights_fini(&lw->latent);
    ffn_fini(&lw->dense);
    moe_weights_fini(&lw->moe);
}

void weights_free(weights *w) {
    if (w == NULL) return;
    for (uint32_t i = 0; w->layers != NULL && i < w->config.n_layers; i++) {
        layer_fini(&w->layers[i]);
    }
    free(w->layers);
    norm_fini(&w->output_norm);
    aligned_release(w->output_bias);
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
