/* architecture.h - what the files arch_<name>.c are written with: a row of the
 * table of architectures, its keys, and readers of what several have.
 *
 * Reading an architecture turns keys into a model_config (model.h).  A key that
 * asks for arithmetic which the row does not do is refused by name and value:
 * text that looks right and is not would be worse. */
#ifndef ENGINE_ARCHITECTURE_H
#define ENGINE_ARCHITECTURE_H

#include "engine/model.h"

typedef struct model_keys model_keys;

typedef struct {
    const char *name; /* as general.architecture has it */
    int (*read)(model_config *c, const model_keys *k);
    /* Keys of model_settings.c that the row computes with, or that are known to
     * have no effect in it; NULL ends them.  The others are refused. */
    const char *const *takes;
} architecture;

/* Where keys "<arch>.<rest>" are read. */
struct model_keys {
    const gguf *g;
    const char *arch;
    const char *const *takes; /* of the row; or NULL */
    char *why;
    size_t why_size;
};

/* ---- keys ---- */

int model_key_u32(const model_keys *k, const char *rest, uint32_t *out);
int model_key_u32_or(const model_keys *k, const char *rest, uint32_t *out,
                     uint32_t absent);
int model_key_f32(const model_keys *k, const char *rest, float *out);
int model_key_f32_or(const model_keys *k, const char *rest, float *out,
                     float absent);
int model_key_bool_or(const model_keys *k, const char *rest, bool *out,
                      bool absent);
/* A number, or one for each of the layers; these must be equal, since layers of
 * different shapes are not supported. */
int model_key_layers_or(const model_keys *k, const char *rest,
                        uint32_t n_layers, uint32_t *out, uint32_t absent);
/* Is there a tensor of this name?  For what is optional in an architecture. */
bool model_has_tensor(const model_keys *k, const char *name);

/* ERR_FORMAT with a sentence unless the key's value is in [least, most]. */
int model_check_u32(const model_keys *k, const char *rest, uint32_t value,
                    uint32_t least, uint32_t most);
/* The same unless it is a finite number above 0. */
int model_check_positive(const model_keys *k, const char *rest, float value);

/* A setting that may stand in a file, but is not computed with: a number or a
 * flag that is one of two values which change nothing. */
typedef struct {
    const char *rest;
    double neutral, also_neutral;
} model_setting;
/* ERR_UNSUPPORTED with key and value for the first that is something else. */
int model_refuse(const model_keys *k, const model_setting *settings, size_t n);
/* The same for all of model_settings.c that the row does not take. */
int model_refuse_settings(const model_keys *k);

/* ---- readers, in the order in which a row calls them ---- */

/* What every decoder has: sizes, norms, heads, RoPE, counts of experts.  What
 * the row then leaves alone is a plain decoder: grouped attention without
 * biases, ffn_norm before the FFN, no scales, and experts in every layer if
 * there are any.  norm.kind is set before: RMS norms, or others. */
int model_read_common(model_config *c, const model_keys *k);
/* Its parts in files of their own. */
int model_read_rope(model_config *c, const model_keys *k);
int model_read_experts(model_config *c, const model_keys *k);

/* Into a float that multiplies or caps: `absent` without the key, else a
 * finite number above 0. */
int model_read_factor(const model_keys *k, const char *rest, float absent,
                      float *out);
/* For rows that always have experts: expert_count must be there, and the width
 * of one is expert_feed_forward_length (or, with `or_dense`, without that key
 * feed_forward_length). */
int model_read_expert_dim(model_config *c, const model_keys *k, bool or_dense);
/* expert_shared_feed_forward_length, of all shared experts or of each, else
 * expert_shared_count widths of an expert. */
int model_read_shared_dim(model_config *c, const model_keys *k);
/* leading_dense_block_count, and the feed_forward_length that it needs. */
int model_read_leading_dense(model_config *c, const model_keys *k);
/* interleave_moe_layer_step: experts in every so many layers. */
int model_read_moe_period(model_config *c, const model_keys *k);
/* Biases of q, k, v and of attention's output, of the scores that experts are
 * chosen by: used where the first layer that may have one has it. */
void model_find_biases(model_config *c, const model_keys *k);
/* nextn_predict_layers: so many of block_count are never computed. */
int model_read_extra_layers(model_config *c, const model_keys *k);

/* The routing rule, once the experts are read: what `silent` says, unless the
 * file has a key for it.  A norm that `silent` asks for stays. */
int model_read_routing(model_config *c, const model_keys *k,
                       const routing_rule *silent);
/* Softmax over all experts, top k, renormalized, nothing else: the router of
 * several architectures.  Keys that ask for another one are refused. */
int model_read_plain_routing(model_config *c, const model_keys *k);

/* Refuse tensors that the model, read up to here, has no use for. */
int model_check_tensors(const model_config *c, const gguf *g, char *why,
                        size_t why_size);

extern const architecture arch_bailingmoe2;
extern const architecture arch_dbrx;
extern const architecture arch_deepseek;
extern const architecture arch_deepseek2;
extern const architecture arch_dots1;
extern const architecture arch_ernie4_5_moe;
extern const architecture arch_glm4moe;
extern const architecture arch_gpt_oss;
extern const architecture arch_granitemoe;
extern const architecture arch_grok;
extern const architecture arch_hunyuan_moe;
extern const architecture arch_llama;
extern const architecture arch_llama4;
extern const architecture arch_minimax_m2;
extern const architecture arch_olmoe;
extern const architecture arch_phimoe;
extern const architecture arch_qwen2moe;
extern const architecture arch_qwen3moe;

#endif
