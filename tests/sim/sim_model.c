/* sim_model.c - see sim_model.h. */
#include "tests/sim/sim_model.h"

#include <string.h>

#define VOCAB 1000

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* In (-1, 1), from a number. */
static float unit(uint64_t z) {
    return (float)(int32_t)(mix(z) >> 32) * 0x1p-31f;
}

static uint64_t hash_row(const float *x) {
    uint64_t hash = 1469598103934665603u;
    for (uint32_t i = 0; i < SIM_WIDTH; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        hash = mix(hash ^ bits);
    }
    return hash;
}

void sim_embed(uint32_t token, uint32_t position, float *x) {
    for (uint32_t i = 0; i < SIM_WIDTH; i++) {
        x[i] = unit(((uint64_t)token << 32 | position << 8 | i) + 1);
    }
}

void sim_squash(float *x) {
    for (uint32_t i = 0; i < SIM_WIDTH; i++) {
        float size = x[i] < 0 ? -x[i] : x[i];
        x[i] = x[i] / (1.0f + size);
    }
}

void sim_attend(float (*kv)[SIM_WIDTH], uint32_t position, const float *x,
                float *h) {
    memcpy(kv[position], x, SIM_WIDTH * sizeof(float));
    memcpy(h, x, SIM_WIDTH * sizeof(float));
    for (uint32_t p = 0; p <= position; p++) {
        for (uint32_t i = 0; i < SIM_WIDTH; i++) {
            h[i] = 0.75f * h[i] + 0.5f * kv[p][(i + 1) % SIM_WIDTH];
        }
    }
    sim_squash(h);
}

uint32_t sim_topic(uint32_t first_token) {
    return first_token % SIM_TOPICS;
}

bool sim_is_dense(const sim_model *m, uint32_t layer) {
    return m->dense_first && layer == 0;
}

/* Half of all choices fall on the topic's hottest expert of the layer, a
 * quarter on the next, and so on. */
static uint32_t skewed_choice(const sim_model *m, uint32_t topic,
                              uint32_t layer, uint64_t hash) {
    uint32_t rank = (uint32_t)__builtin_ctz((uint32_t)(hash >> 40) | 1u << 8);
    return (rank + topic * 3 + layer) % m->n_experts;
}

void sim_route(const sim_model *m, uint32_t topic, uint32_t layer,
               const float *h, sim_routing *out) {
    uint64_t hash = mix(hash_row(h) + layer);
    for (uint32_t i = 0; i < SIM_USED; i++) {
        bool taken;
        do {
            hash = mix(hash + 1);
            out->experts[i] = m->skewed ? skewed_choice(m, topic, layer, hash)
                                        : (uint32_t)(hash % m->n_experts);
            taken = false;
            for (uint32_t j = 0; j < i; j++) {
                taken |= out->experts[j] == out->experts[i];
            }
        } while (taken);
        out->weights[i] = 0.25f + unit(hash) * 0.2f;
    }
}

/* Factors of each segment, computed once. */
#define EXPERT_KEYS (SIM_MODEL_LAYERS * 16 * SIM_SEGMENTS)
static float factors[EXPERT_KEYS][SIM_WIDTH][2];

static void fill_factors(void) {
    for (uint64_t k = 0; k < EXPERT_KEYS; k++) {
        uint64_t key = 1000u * SIM_SEGMENTS + k;
        for (uint32_t i = 0; i < SIM_WIDTH; i++) {
            factors[k][i][0] = unit(key * 16 + i);
            factors[k][i][1] = unit(key * 16 + 8 + i);
        }
    }
}

/* Value i of an expert's segments [first, first + n), added as a tree. */
static float segments(uint32_t layer, uint32_t expert, uint32_t first,
                      uint32_t n, uint32_t i, const float *h) {
    if (n > 1) {
        return segments(layer, expert, first, n / 2, i, h) +
               segments(layer, expert, first + n / 2, n / 2, i, h);
    }
    uint32_t key = (layer * 16 + expert) * SIM_SEGMENTS + first;
    float a = factors[key][i][0], b = factors[key][i][1];
    return a * h[i] + b * h[(i + 1) % SIM_WIDTH] + 0.1f * b;
}

void sim_expert(uint32_t layer, uint32_t unit_number, uint32_t slices,
                const float *h, float *y) {
    uint32_t expert = unit_number / slices, slice = unit_number % slices;
    uint32_t n = SIM_SEGMENTS / slices;
    if (factors[0][0][0] == 0.0f) fill_factors();
    for (uint32_t i = 0; i < SIM_WIDTH; i++)
        y[i] = segments(layer, expert, slice * n, n, i, h);
}

/* Value i of an expert's slices, added as the rest of that tree. */
static float whole(const float (*slices)[SIM_WIDTH], uint32_t n, uint32_t i,
                   bool in_turn) {
    if (n == 1) return slices[0][i];
    uint32_t left = in_turn ? n - 1 : n / 2;
    return whole(slices, left, i, in_turn) +
           whole(slices + left, n - left, i, in_turn);
}

void sim_combine(const float *h, const sim_routing *r, uint32_t slices,
                 const float (*outputs)[SIM_WIDTH], bool in_turn, float *x) {
    for (uint32_t i = 0; i < SIM_WIDTH; i++) {
        float sum = h[i];
        for (uint32_t k = 0; k < SIM_USED; k++) {
            sum +=
                r->weights[k] * whole(outputs + k * slices, slices, i, in_turn);
        }
        x[i] = sum;
    }
    sim_squash(x);
}

uint32_t sim_token(const float *x) {
    return (uint32_t)(hash_row(x) % VOCAB);
}

void sim_reference(const sim_model *m, uint32_t *tokens, uint32_t n_prompt,
                   uint32_t n_new) {
    static sim_cache kv;
    uint32_t topic = sim_topic(tokens[0]);
    for (uint32_t p = 0; p + 1 < n_prompt + n_new; p++) {
        float x[SIM_WIDTH], h[SIM_WIDTH], y[SIM_USED][SIM_WIDTH];
        sim_embed(tokens[p], p, x);
        for (uint32_t layer = 0; layer < SIM_MODEL_LAYERS; layer++) {
            sim_routing r;
            sim_attend(kv[layer], p, x, h);
            if (sim_is_dense(m, layer)) {
                memcpy(x, h, sizeof(x));
                continue;
            }
            sim_route(m, topic, layer, h, &r);
            for (uint32_t k = 0; k < SIM_USED; k++) {
                sim_expert(layer, r.experts[k], 1, h, y[k]);
            }
            sim_combine(h, &r, 1, (const float(*)[SIM_WIDTH])y, false, x);
        }
        if (p + 1 >= n_prompt) tokens[p + 1] = sim_token(x);
    }
}
