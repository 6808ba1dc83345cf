/* weights.h - what a coordinator keeps in memory: everything but the experts.
 *
 * Matrices are packed for the kernels; vectors and biases are f32, a router's
 * matrix has floats whatever the file has.  Embeddings are read from the mapped
 * file, a row per token.  What a model has not (engine/model.h) is NULL, or a
 * matrix without data.  Immutable once loaded. */
#ifndef COORDINATOR_WEIGHTS_H
#define COORDINATOR_WEIGHTS_H

#include "engine/ffn.h"
#include "engine/gguf.h"
#include "engine/matrix.h"
#include "engine/model.h"

typedef struct {
    float *w, *b; /* [n]; b is NULL in a norm without a bias */
} norm_weights;

/* Grouped attention.  A fused qkv tensor is loaded as its three parts, which
 * changes no bit: a row of a product depends on no other. */
typedef struct {
    matrix q, k, v, o;
    float *q_bias, *k_bias, *v_bias, *o_bias;
    float *q_norm, *k_norm; /* of a head, or of all as one vector */
    float *sinks;           /* [n_heads] */
} attention_weights;

/* Latent attention; the output matrix is attention_weights.o. */
typedef struct {
    matrix q_a, q; /* q_a: the hidden row to q_rank, which q then takes */
    float *q_a_norm;
    matrix kv_a; /* to the cached vector and the shared rotated key */
    float *kv_a_norm;
    matrix *k_b, *v_b; /* [n_heads]: nope_dim to rank, rank to value_dim */
    uint32_t n_heads;
} latent_weights;

/* What a MoE layer has beside its experts. */
typedef struct {
    matrix router;         /* [n_embd, n_experts], of a float format */
    float *router_bias;    /* [n_experts]: of its products, */
    float *selection_bias; /* and of scores that experts are chosen by */
    /* [n_experts, n_embd]: the experts' biases of down, added here, once, to
     * the sum of an expert's slices */
    float *down_bias;
    ffn_weights shared; /* the shared expert */
    float *shared_gate; /* [n_embd]: its output times sigmoid(gate . x) */
} moe_weights;

typedef struct {
    norm_weights attn_norm, ffn_norm;
    norm_weights after_attention, after_ffn;
    attention_weights attention;
    latent_weights latent;
    ffn_weights dense; /* of a dense layer, or beside the experts */
    moe_weights moe;
} layer_weights;

typedef struct {
    const gguf *g; /* borrowed */
    model_config config;
    layer_weights *layers; /* [n_layers] */
    norm_weights output_norm;
    matrix output;       /* [n_embd, n_vocab] */
    float *output_bias;  /* [n_vocab] */
    float *rope_factors; /* [n_dims / 2] or NULL */
    const gguf_tensor *embedding;
    const weight_format *embedding_format;
    uint64_t bytes; /* resident, experts not counted */
    uint64_t
        bytes_per_token; /* read to decode one token, experts not counted */
} weights;

/* Load all of it with the pool, whose lead the caller is; NULL: alone.  `g` is
 * borrowed until weights_free(). */
int weights_load(weights **out, const gguf *g, const model_config *c,
                 pool *threads, char *why, size_t why_size);
void weights_free(weights *w); /* NULL and half-built are fine */

/* The embedding of a token, which is below n_vocab: n_embd floats. */
void weights_embed(const weights *w, uint32_t token, float *out);

#endif
