/* model_gen.h - random-weight models for tests, the same bytes for a seed.
 *
 * Keys, names and shapes are those of real files.  A tensor's values depend on
 * the seed and its name alone, so two shapes that share a tensor share its
 * values, and experts whose gate and up are merged have those of two tensors.
 * Weights have a deviation of 1/sqrt(inputs); embeddings outweigh what
 * the layers add to the residual stream, so that routing follows the token
 * instead of collapsing onto the layers' common direction.
 *
 * With a skew S, an expert's popularity follows the law 1 / rank^S: every
 * embedding has one large, constant component, which the routers read as an
 * expert's log-popularity (the ranks are drawn anew for each layer; and for
 * each hot set, whose tokens have theirs in a place of its own).
 * Embeddings are F16 then, since no block has room for such a component. */
#ifndef TESTS_SUPPORT_MODEL_GEN_H
#define TESTS_SUPPORT_MODEL_GEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_GEN_MIN_VOCAB 259 /* <unk>, <s>, </s>, 256 bytes */

typedef struct {
    /* "llama", "qwen3moe", "gpt-oss", "llama4", "grok", "deepseek2" */
    const char *arch;
    uint32_t n_layers;
    uint32_t width;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    /* Even.  In deepseek2, of a head's value and of its key without the rotated
     * part, which is half as long; latents are twice as long. */
    uint32_t head_dim;
    bool unsplit;          /* attn_kv_b in the place of attn_k_b and attn_v_b */
    uint32_t expert_width; /* hidden width of an expert, or of the dense FFN */
    uint32_t n_experts;    /* 0: dense (llama only) */
    bool merged;           /* gate and up of the experts in one tensor */
    uint32_t n_used;       /* experts per token */
    uint32_t n_vocab;      /* at least MODEL_GEN_MIN_VOCAB */
    uint32_t n_context;
    uint32_t type; /* any that weight.h lists; norms, biases, router: F32 */
    uint32_t down_type; /* of the experts' down matrices; 0: `type` */
    uint32_t odd_type;  /* of all the experts' in odd layers; 0: as in even */
    double skew;        /* of the routers' preference; 0: even traffic */
    /* The vocabulary is cut into so many parts, each with an order of
     * popularity of its own; 1 to 16. */
    uint32_t hot_sets;
    uint64_t seed;
} model_shape;

/* A small Mixtral: 2 layers of width 64, 4 experts of 128, 2 used, Q8_0. */
model_shape model_shape_small(void);

/* Write the model to `path`: complete or absent.  ERR_RANGE with a sentence for
 * a shape that is none. */
int model_gen(const model_shape *shape, const char *path, char *why,
              size_t why_size);

#endif
