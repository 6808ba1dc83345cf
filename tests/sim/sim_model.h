/* sim_model.h - a model of four floats a token: just large enough that a wrong
 * expert, a lost or doubled row, another order of additions or a wrong cache
 * entry changes the tokens.  Pure functions.
 *
 * Which experts are hot depends on the topic of a text, which its first token
 * tells: traffic of another topic makes other experts hot, and a run without
 * any fault still generates the same tokens. */
#ifndef TESTS_SIM_SIM_MODEL_H
#define TESTS_SIM_SIM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define SIM_USED 3 /* experts of a token; two rows would add up either way */
#define SIM_WIDTH 4
#define SIM_SEGMENTS 8   /* of an expert's output: the most slices */
#define SIM_POSITIONS 32 /* of a sequence */
#define SIM_TOPICS 4
#define SIM_MODEL_LAYERS 3

typedef struct {
    uint32_t n_experts;
    bool dense_first; /* layer 0 has no experts */
    bool skewed;      /* some experts are hot */
} sim_model;

typedef struct {
    uint32_t experts[SIM_USED];
    float weights[SIM_USED];
} sim_routing;

typedef float sim_cache[SIM_MODEL_LAYERS][SIM_POSITIONS][SIM_WIDTH];

uint32_t sim_topic(uint32_t first_token);
bool sim_is_dense(const sim_model *m, uint32_t layer);
void sim_embed(uint32_t token, uint32_t position, float *x);
/* `kv` is a layer's cache; position p is written, 0 .. p are read. */
void sim_attend(float (*kv)[SIM_WIDTH], uint32_t position, const float *x,
                float *h);
void sim_route(const sim_model *m, uint32_t topic, uint32_t layer,
               const float *h, sim_routing *out);
/* A slice of an expert: a subtree of the sum of its segments. */
void sim_expert(uint32_t layer, uint32_t unit, uint32_t slices, const float *h,
                float *y);
/* In the router's order; outputs[i * slices + s] is slice s of choice i.
 * `in_turn`: not as a tree, which is wrong. */
void sim_combine(const float *h, const sim_routing *r, uint32_t slices,
                 const float (*outputs)[SIM_WIDTH], bool in_turn, float *x);
/* x / (1 + |x|) */
void sim_squash(float *x);
uint32_t sim_token(const float *x);
/* What a run without any fault generates, after the prompt in `tokens`. */
void sim_reference(const sim_model *m, uint32_t *tokens, uint32_t n_prompt,
                   uint32_t n_new);

#endif
