/* weights.h - what a coordinator keeps in memory: everything but the experts.
 *
 * Matrices are packed for the kernels, vectors and router matrices are f32.
 * Embeddings are read from the mapped file, a row per token.  Immutable once
 * loaded. */
#ifndef COORDINATOR_WEIGHTS_H
#define COORDINATOR_WEIGHTS_H

#include "engine/ffn.h"
#include "engine/gguf.h"
#include "engine/matrix.h"
#include "engine/model.h"

typedef struct {
    float *attn_norm; /* [n_embd] */
    matrix q, k, v, o;
    float *q_norm, *k_norm; /* [key_dim], NULL if the model has none */
    float *ffn_norm;        /* [n_embd] */
    ffn_weights dense;      /* of a dense layer */
    float *router;          /* [n_experts, n_embd] of a MoE layer */
} layer_weights;

typedef struct {
    const gguf *g; /* borrowed */
    model_config config;
    layer_weights *layers; /* [n_layers] */
    float *output_norm;    /* [n_embd] */
    matrix output;         /* [n_embd, n_vocab] */
    float *rope_factors;   /* [n_dims / 2] or NULL */
    const gguf_tensor *embedding;
    const weight_format *embedding_format;
    uint64_t bytes; /* resident, experts not counted */
    uint64_t
        bytes_per_token; /* read to decode one token, experts not counted */
} weights;

/* Load all of it.  `g` is borrowed until weights_free(). */
int weights_load(weights **out, const gguf *g, const model_config *c, char *why,
                 size_t why_size);
void weights_free(weights *w); /* NULL and half-built are fine */

/* The embedding of a token, which is below n_vocab: n_embd floats. */
void weights_embed(const weights *w, uint32_t token, float *out);

#endif
