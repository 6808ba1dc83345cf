/* model.h - what a model's file says about its shape, by architecture.
 *
 * Coordinators and nodes read the same description; neither loads weights here.
 * An architecture is a row in the table of model.c and a file arch_<name>.c
 * that fills a model_config (architecture.h).  Everything is checked against
 * sane limits and against the tensors that the file holds, so that later code
 * can trust it. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/ffn.h"
#include "engine/gguf.h"
#include "engine/rope.h"

#define MODEL_NAME_MAX 127
#define MODEL_MAX_LAYERS 1024
#define MODEL_MAX_HEADS (1u << 14)
#define MODEL_MAX_EXPERTS 65536
#define MODEL_MAX_USED 4096 /* experts of one token in one layer */
#define MODEL_MAX_DIM (1u << 20)

/* How the router's logits z become scores p: GGUF's expert_gating_func. */
typedef enum {
    GATING_SOFTMAX = 1,        /* over all experts */
    GATING_SIGMOID = 2,        /* of each */
    GATING_CHOSEN_SOFTMAX = 3, /* p = z; softmax over the chosen at the end */
    GATING_SQRT_SOFTPLUS = 4,  /* sqrt(log(1 + exp z)) of each */
    GATING_LAST = GATING_SQRT_SOFTPLUS
} gating_func;

/* From logits to experts and weights; coordinator/router.h has the steps. */
typedef struct {
    gating_func gating;
    bool renormalize; /* weights of the chosen are made to sum to 1 */
    float scale;      /* of the weights; 0 or 1: none */
    uint32_t n_groups, n_groups_used; /* of equally many experts, of which a
                                       * token uses some; 0, 1: none */
    bool by_logit;                    /* chosen by z, although weighted by p */
    bool scale_input; /* weights multiply an expert's input, not its output */
} routing_rule;

/* ---- what a decoder layer is made of ----
 *
 * Everything that architectures differ in is data here; 0, false and NULL mean
 * "has none" unless said otherwise.  coordinator/forward.h gives the order of
 * operations, coordinator/weights.h the tensors that each feature needs, and
 * model_tensors.c refuses tensors of features that a model has not. */

/* x / sqrt(mean(x^2) + eps) * w, or the same of x - mean(x) (LayerNorm). */
typedef enum { NORM_RMS, NORM_LAYER } norm_kind;

typedef struct {
    norm_kind kind;
    float eps;
    bool bias; /* attn_norm, the one before the FFN and output_norm add one */
    const char *ffn;             /* tensor of the norm before the FFN; set */
    const char *after_attention; /* tensors of norms of a branch's output, */
    const char *after_ffn;       /* before it is added to the residual */
} norm_rule;

/* GROUPED: keys and values of n_kv_heads heads are cached, query heads share
 * them.  LATENT: a compressed vector is cached that all heads share (MLA). */
typedef enum { ATTENTION_GROUPED, ATTENTION_LATENT } attention_kind;

/* RMS norm of q and k: each head by itself with one weight vector of a head's
 * size, or all heads as one vector. */
typedef enum { QK_NORM_NONE, QK_NORM_HEADS, QK_NORM_WHOLE } qk_norm_kind;

typedef struct {
    attention_kind kind;
    float scale;      /* multiplies q.k */
    bool fused_qkv;   /* one tensor attn_qkv: rows of q, then k, then v */
    bool qkv_bias;    /* of attn_q, attn_k, attn_v (or attn_qkv) */
    bool output_bias; /* of attn_output */
    float clamp;      /* q, k and v are kept in -clamp to clamp */
    qk_norm_kind qk_norm;
    bool qk_norm_plain; /* without weights */
    bool qk_norm_late;  /* after RoPE, and only where RoPE is */
    bool sinks;         /* attn_sinks: a logit per head without a value */
    float softcap;      /* scores become cap * tanh(score / cap) */
    /* Query i sees key j if i - j < window; but the last layer of every
     * `window_period` sees all (period 0: no layer does). */
    uint32_t window, window_period;
    /* Query i sees only keys from the last multiple of `chunk` on, in the
     * layers that have RoPE. */
    uint32_t chunk;
    /* The last layer of every `no_rope_period` has no RoPE (0: all have); there
     * q is multiplied by
     * 1 + temperature * ln(floor((position + 1) / temperature_length) + 1). */
    uint32_t no_rope_period, temperature_length;
    float temperature;
} attention_rule;

/* Latent attention: keys and values of all heads come from one cached vector.
 * A head's query and key have nope_dim values, then the rope.n_dims that are
 * rotated. */
typedef struct {
    uint32_t rank;   /* of the cached vector */
    uint32_t q_rank; /* of what queries are made from; 0: the hidden row */
    uint32_t nope_dim, value_dim;
    bool unsplit; /* attn_kv_b instead of attn_k_b and attn_v_b */
} latent_rule;

typedef struct {
    float embedding; /* these multiply: embeddings, */
    float residual;  /* what a branch adds to the residual, */
    float logit;     /* and logits; 1 has no effect */
    float softcap;   /* then logits become cap * tanh(logit / cap) */
} scale_rule;

typedef struct {
    char arch[64];
    char name[MODEL_NAME_MAX + 1]; /* general.name, else the file's stem */
    uint32_t n_layers, n_embd, n_vocab, n_context;
    /* Positions that are computed right at all; 0: all are. */
    uint32_t most_context;
    /* Layers of the file beyond n_layers, which a plain pass does not compute
     * (next-token prediction). */
    uint32_t n_extra_layers;

    /* ---- attention ---- */
    /* As cached: a latent model has one KV head. */
    uint32_t n_heads, n_kv_heads, key_dim, value_dim;
    attention_rule attention;
    latent_rule latent;
    rope_config rope; /* factors are read by the coordinator, if present */
    const char *rope_factors; /* the tensor to read them from; may be absent */

    /* ---- norms, scales ---- */
    norm_rule norm;
    scale_rule scale;
    bool output_bias; /* of the output matrix */

    ffn_activation activation; /* of experts and of dense networks */

    /* ---- dense layers and shared experts ---- */
    uint32_t ffn_dim;          /* of dense layers; 0 if there are none */
    uint32_t shared_dim;       /* of the shared expert in a MoE layer */
    bool shared_gated;         /* its output times sigmoid(gate . x) */
    bool dense_beside_experts; /* MoE layers have a dense network too, and */
    float dense_beside_scale;  /* (experts + dense) are multiplied by this */

    /* ---- experts ---- */
    uint32_t n_experts, n_used; /* 0: a dense model */
    uint32_t expert_dim;        /* hidden width of one expert */
    bool expert_bias;           /* gate, up and down of experts have one */
    uint32_t first_moe_layer;   /* layers below it are dense; */
    uint32_t moe_period; /* from there the last of so many has experts (0: all)
                          */
    routing_rule routing;
    bool router_bias;    /* ffn_gate_inp has one */
    bool selection_bias; /* exp_probs_b: of the scores experts are chosen by */
} model_config;

/* Read and check.  ERR_UNSUPPORTED names an architecture, setting or tensor
 * that nobody here computes with (and that would change the result if it were
 * skipped), ERR_FORMAT the key or tensor that is missing or does not fit.  The
 * shapes of a layer's tensors are left to who loads them, see model_tensor().
 * The name is there in any case. */
int model_read(model_config *c, const gguf *g, char *why, size_t why_size);

/* May sequences be `context` long?  ERR_UNSUPPORTED where the model would need
 * other arithmetic for their last positions. */
int model_check_context(const model_config *c, uint32_t context, char *why,
                        size_t why_size);

/* Of latent attention: the size of a head's query. */
static inline uint32_t model_latent_head_dim(const model_config *c) {
    return c->latent.nope_dim + c->rope.n_dims;
}

bool model_is_moe(const model_config *c, uint32_t layer);
uint32_t model_n_moe(const model_config *c); /* layers */
/* Does the layer have a dense network, alone or beside its experts? */
bool model_is_dense(const model_config *c, uint32_t layer);
bool model_has_rope(const model_config *c, uint32_t layer);
/* The first position that a query at `position` sees in the layer. */
uint32_t model_first_key(const model_config *c, uint32_t layer,
                         uint32_t position);

/* A tensor by its full name; checks its shape: dims [cols, rows] (rows 0: a
 * vector of cols; slabs > 0: a third dimension).  ERR_FORMAT if it is missing
 * or has another shape. */
int model_tensor_named(const gguf *g, const char *name, uint64_t cols,
                       uint64_t rows, uint64_t slabs, const gguf_tensor **out,
                       char *why, size_t why_size);

/* The same for a layer's tensor "blk.<layer>.<name>.weight". */
int model_tensor(const gguf *g, uint32_t layer, const char *name, uint64_t cols,
                 uint64_t rows, uint64_t slabs, const gguf_tensor **out,
                 char *why, size_t why_size);

/* The stacked expert tensors of a MoE layer.  Gate and up may be one tensor,
 * whose matrices have gate's rows and then up's: both point at it then.  The
 * same holds for their biases. */
typedef struct {
    const gguf_tensor *gate, *up, *down;
    const gguf_tensor *gate_bias, *up_bias, *down_bias; /* NULL: none */
} expert_tensors;
int model_experts(const model_config *c, const gguf *g, uint32_t layer,
                  expert_tensors *out, char *why, size_t why_size);

/* Stored bytes of one expert of a layer: its matrices and the biases of gate
 * and up, which are where it is computed. */
uint64_t model_expert_bytes(const expert_tensors *t, uint32_t n_experts);

#endif
