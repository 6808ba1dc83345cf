/* model.h - what a model's file says about its shape, by architecture.
 *
 * Coordinators and nodes read the same description; neither loads weights here.
 * An architecture is a row in the table of model.c and a file arch_<name>.c
 * that fills a model_config.  Everything is checked against sane limits and
 * against the tensors that the file holds, so that later code can trust it. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"
#include "engine/rope.h"

#define MODEL_NAME_MAX 127
#define MODEL_MAX_LAYERS 1024
#define MODEL_MAX_HEADS (1u << 14)
#define MODEL_MAX_EXPERTS 65536
#define MODEL_MAX_USED 1024 /* experts of one token in one layer */
#define MODEL_MAX_DIM (1u << 20)

/* How router scores become weights: GGUF's expert_gating_func. */
typedef enum { GATING_SOFTMAX = 1, GATING_SIGMOID = 2 } gating_func;

typedef struct {
    gating_func gating;
    bool renormalize; /* weights of the chosen are made to sum to 1 */
    float scale;      /* 0 or 1: none */
} routing_rule;

typedef struct {
    char arch[64];
    char name[MODEL_NAME_MAX + 1]; /* general.name, else the file's stem */
    uint32_t n_layers, n_embd, n_vocab, n_context;
    uint32_t n_heads, n_kv_heads, key_dim, value_dim;
    float attention_scale; /* multiplies q.k */
    float rms_eps;
    bool qk_norm;     /* RMS norm of every q and k head before RoPE */
    rope_config rope; /* factors are read by the coordinator, if present */
    uint32_t ffn_dim; /* of dense layers; 0 if there are none */
    uint32_t n_experts, n_used; /* 0: a dense model */
    uint32_t n_groups;          /* of equally many experts; 0, 1: none */
    uint32_t expert_dim;        /* hidden width of one expert */
    uint32_t first_moe_layer;   /* layers below it are dense */
    routing_rule routing;
} model_config;

/* Read and check.  ERR_UNSUPPORTED names an architecture, setting or tensor
 * that nobody here computes with (and that would change the result if it were
 * skipped), ERR_FORMAT the key or tensor that is missing or does not fit.  The
 * shapes of a layer's tensors are left to who loads them, see model_tensor().
 */
int model_read(model_config *c, const gguf *g, char *why, size_t why_size);

bool model_is_moe(const model_config *c, uint32_t layer);

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

/* The three stacked expert tensors of a MoE layer. */
typedef struct {
    const gguf_tensor *gate, *up, *down;
} expert_tensors;
int model_experts(const model_config *c, const gguf *g, uint32_t layer,
                  expert_tensors *out, char *why, size_t why_size);

/* Stored bytes of one expert (gate, up and down) of a layer. */
uint64_t model_expert_bytes(const expert_tensors *t, uint32_t n_experts);

/* ---- for the architecture files ---- */

/* Where keys "<arch>.<rest>" are read. */
typedef struct {
    const gguf *g;
    const char *arch;
    char *why;
    size_t why_size;
} model_keys;
int model_key_u32(const model_keys *k, const char *rest, uint32_t *out);
int model_key_u32_or(const model_keys *k, const char *rest, uint32_t *out,
                     uint32_t absent);
int model_key_f32(const model_keys *k, const char *rest, float *out);
int model_key_f32_or(const model_keys *k, const char *rest, float *out,
                     float absent);
/* A number, or one for each of the layers; these must be equal, since layers of
 * different shapes are not supported. */
int model_key_layers_or(const model_keys *k, const char *rest,
                        uint32_t n_layers, uint32_t *out, uint32_t absent);

/* ERR_FORMAT with a sentence unless the key's value is in [least, most]. */
int model_check_u32(const model_keys *k, const char *rest, uint32_t value,
                    uint32_t least, uint32_t most);

/* A setting that may stand in a file, but is not computed with: a number or a
 * flag that is one of two values which change nothing. */
typedef struct {
    const char *rest;
    double neutral, also_neutral;
} model_setting;
/* ERR_UNSUPPORTED with key and value for the first that is something else. */
int model_refuse(const model_keys *k, const model_setting *settings, size_t n);

/* What every decoder of the llama family has; the architecture then adds its
 * own. */
int model_read_common(model_config *c, const model_keys *k);

/* Softmax over all experts, top k, renormalized, nothing else: the router of
 * several architectures.  Keys that ask for another one are refused. */
int model_read_plain_routing(model_config *c, const model_keys *k);

/* Refuse tensors that the model, read up to here, has no use for. */
int model_check_tensors(const model_config *c, const gguf *g, char *why,
                        size_t why_size);

typedef struct {
    const char *name;
    int (*read)(model_config *c, const model_keys *k);
} architecture;
extern const architecture arch_llama;
extern const architecture arch_qwen3moe;

#endif
