/* forward.h - one pass of the model over the rows of a batch step.
 *
 * A row is one token of one sequence.  Attention, norms, router and dense
 * layers are computed here on the pool, experts through the exchange.  Rows do
 * not see each other but through the KV cache: a row's result does not depend
 * on what else is in the batch.  Step thread only.
 *
 * What is done to a row x, in this order; a model leaves out what its
 * model_config (engine/model.h) has not:
 *
 *   x = embedding * scale.embedding
 *   in every layer
 *     h = norm(x);  b = attention(h), in forward_attention.c or _latent.c
 *     b += output bias;  b = norm(b);  x += b * scale.residual
 *     h = norm(x);  b = the layer's network of h
 *     b = norm(b);  x += b * scale.residual
 *   logits = output * norm(x) + bias;  logits *= scale.logit;  soft cap
 *
 * The network of a dense layer is ffn(h).  That of a layer with experts:
 *
 *   b = 0, then in the router's order b += weight * (expert(h) + bias), or,
 *     where weights scale the input, b += expert(weight * h) + bias
 *   a shared expert s: b += s, or b += sigmoid(gate . h) * s
 *   or a dense network d beside the experts: b = (b + d) * dense_beside_scale
 *
 * Each += of a product is one fmaf a value, each other one an addition. */
#ifndef COORDINATOR_FORWARD_H
#define COORDINATOR_FORWARD_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/exchange.h"
#include "coordinator/stopwatch.h"
#include "coordinator/weights.h"
#include "engine/kv_cache.h"
#include "engine/pool.h"

/* Rows of one sequence, at ascending positions. */
typedef struct {
    const uint32_t *tokens; /* n_rows of them, each below n_vocab */
    uint32_t n_rows;
    uint32_t first; /* position of the first; all are reserved in kv */
    const kv_seq *kv;
    bool lost; /* out: an expert was missing; nothing of it counts */
    /* If not NULL, the router's choices are written here, both
     * [n_moe_layers][n_rows][n_used]. */
    uint32_t *routed_experts;
    float *routed_weights;
} forward_item;

typedef struct {
    const weights *weights; /* borrowed, like all of these */
    exchange *experts;
    local_experts *forms;
    pool *threads;
    kv_cache *kv;
    uint32_t max_rows; /* of one pass */
    uint32_t max_items;
    /* The rows of a pass in so many parts, computed in turn; 0: one or two, by
     * the predicted time.  No bit depends on it. */
    uint32_t micro_batches;
    bool exact;
    stopwatch *watch; /* NULL: none */
} forward_config;

/* The cache that a model needs, without pages. */
kv_config forward_kv(const model_config *m, kv_type type);

#define FORWARD_MICRO_BATCHES 2
#define FORWARD_LOGIT_ROWS 16 /* rows of logits computed at a time */

typedef struct forward forward;
int forward_new(forward **out, const forward_config *c);
void forward_free(forward *f);

/* The calling thread is the one that runs it from now on. */
void forward_lead(forward *f);

/* All layers.  deadline_us as in exchange_layer.  A negative code concerns the
 * whole step; then nothing of it counts. */
int forward_run(forward *f, forward_item *items, uint32_t n_items,
                uint64_t deadline_us);

/* Logits of some rows of the last run, numbered through its items in order:
 * rows[i] for i < n <= FORWARD_LOGIT_ROWS.  *out[i] is [n_vocab], valid until
 * the next call. */
void forward_logits(forward *f, const uint32_t *rows, uint32_t n,
                    const float **out);

/* What all passes have read since forward_new(): weights as they are stored,
 * and how many experts they had, one that several rows of a pass share once. */
typedef struct {
    uint64_t weight_bytes, experts;
} forward_work;
void forward_work_done(const forward *f, forward_work *out);

/* MoE layers of the model, ascending, and how many. */
const uint32_t *forward_moe_layers(const forward *f, uint32_t *n);

#endif
