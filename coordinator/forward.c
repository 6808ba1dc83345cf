/* forward.c - see forward.h.
 *
 * A pass walks the layers; each stage of a layer is one run of the pool over
 * the rows that are still alive.  Between its tasks the step thread looks at
 * the nodes' answers.  Of two micro-batches the second follows the first by
 * half a layer, so its rows see the keys of the first's.
 *
 * Buffers are sized for the largest step when the pass is made; a token costs
 * no allocation. */
#include "coordinator/forward.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "coordinator/forward_internal.h"
#include "engine/blas.h"
#include "engine/err.h"
#include "engine/util.h"
#include "engine/vmath.h"

kv_config forward_kv(const model_config *m, kv_type type) {
    return (kv_config){.type = type,
                       .n_layers = m->n_layers,
                       .n_kv_heads = m->n_kv_heads,
                       .key_dim = m->key_dim,
                       .value_dim = m->value_dim,
                       .latent = m->attention.kind == ATTENTION_LATENT};
}

/* ---- making and freeing ---- */

static int new_buffers(forward *f) {
    const model_config *m = f->model;
    size_t rows = f->config.max_rows;
    f->rows = calloc(rows, sizeof(*f->rows));
    f->residual = new_floats(rows, m->n_embd);
    f->branch = new_floats(rows, padded(m->n_embd));
    f->angles = new_floats(rows, size_max(m->rope.n_dims, 2));
    f->logits = new_floats(FORWARD_LOGIT_ROWS, padded(m->n_vocab));
    bool ok = f->rows != NULL && f->residual != NULL && f->branch != NULL &&
              f->angles != NULL && f->logits != NULL;
    for (int i = 0; i < FORWARD_MICRO_BATCHES; i++) {
        f->batches[i].live = calloc(rows, sizeof(*f->live));
        ok = ok && f->batches[i].live != NULL;
    }
    for (int i = 0; i < MATRIX_MUL_MAX; i++) {
        f->y[i] = calloc(rows, sizeof(float *));
        ok = ok && f->y[i] != NULL;
    }
    if (!ok) return -ENOMEM;
    int rc = act_rows_init(&f->hidden, rows, m->n_embd);
    if (rc < 0) return rc;
    return act_rows_init(&f->last, FORWARD_LOGIT_ROWS, m->n_embd);
}

int forward_new(forward **out, const forward_config *c) {
    *out = NULL;
    forward *f = calloc(1, sizeof(*f));
    if (f == NULL) return -ENOMEM;
    f->config = *c;
    f->model = &c->weights->config;
    micro_costs_init(&f->costs, f->model->n_experts, f->model->n_used);

    int rc = rope_new(&f->rope, &f->model->rope);
    if (rc == 0) rc = new_buffers(f);
    if (rc == 0) rc = attention_part_init(f);
    if (rc == 0) rc = ffn_part_init(f);
    if (rc == 0) rc = moe_part_init(f);
    if (rc == 0) rc = work_part_init(f);
    if (rc < 0) {
        forward_free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void forward_free(forward *f) {
    if (f == NULL) return;
    rope_free(f->rope);
    free(f->rows);
    for (int i = 0; i < FORWARD_MICRO_BATCHES; i++)
        free(f->batches[i].live);
    aligned_release(f->residual);
    aligned_release(f->branch);
    aligned_release(f->angles);
    aligned_release(f->logits);
    for (int i = 0; i < MATRIX_MUL_MAX; i++) {
        free(f->y[i]);
    }
    act_rows_fini(&f->hidden);
    act_rows_fini(&f->last);
    ffn_scratch_free(f->dense);
    attention_part_fini(f);
    moe_part_fini(f);
    work_part_fini(f);
    free(f);
}

void forward_lead(forward *f) {
    pool_lead(f->config.threads);
}

const uint32_t *forward_moe_layers(const forward *f, uint32_t *n) {
    *n = f->n_moe;
    return f->moe_layers;
}

/* ---- the pass ---- */

static void task_embed(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const row *r = &f->rows[task];
    float factor = f->model->scale.embedding;
    (void)worker;
    weights_embed(f->config.weights, f->items[r->item].tokens[r->index],
                  residual_row(f, task));
    if (factor != 1.0f) {
        vm_scale(f->model->n_embd, residual_row(f, task), factor);
    }
    rope_table(f->rope, r->position,
               f->angles + (size_t)task * f->model->rope.n_dims);
}

static void list_rows(forward *f, forward_item *items, uint32_t n_items) {
    f->items = items;
    f->n_items = n_items;
    f->n_rows = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        items[i].lost = false;
        for (uint32_t t = 0; t < items[i].n_rows; t++) {
            assert(f->n_rows < f->config.max_rows);
            f->rows[f->n_rows++] = (row){i, items[i].first + t, t};
        }
    }
    f->any_lost = false;
}

static void task_add_ffn(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    (void)worker;
    add_branch(f, NULL, &layer_of(f)->after_ffn, f->live[task]);
}

/* ---- micro-batches ---- */

static void take_up(forward *f, micro_batch *b) {
    f->batch = b;
    f->live = b->live;
    f->n_live = b->n_live;
}

static void put_down(forward *f) {
    f->batch->n_live = f->n_live;
}

/* Consecutive rows for each; whole tiles for all but the last. */
static void deal_rows(forward *f, uint32_t n_batches) {
    uint32_t part = f->n_rows;
    if (n_batches > 1) part = (uint32_t)round_up(part / n_batches, BLAS_TILE);
    uint32_t next = 0;
    for (uint32_t i = 0; i < n_batches; i++) {
        micro_batch *b = &f->batches[i];
        uint32_t left = f->n_rows - next;
        b->n_live = i + 1 < n_batches ? (uint32_t)size_min(part, left) : left;
        b->away = false;
        for (uint32_t r = 0; r < b->n_live; r++)
            b->live[r] = next++;
    }
}

/* To where the experts are under way. */
static int begin_layer(forward *f, uint64_t deadline_us) {
    drop_lost_rows(f); /* the other micro-batch may have some of their items */
    if (f->n_live == 0) return 0;
    stopwatch_enter(f->config.watch, STAGE_ATTENTION);
    forward_attention(f);
    forward_ffn_input(f);
    if (model_is_moe(f->model, f->layer)) {
        return forward_moe_begin(f, deadline_us);
    }
    stopwatch_enter(f->config.watch, STAGE_DENSE);
    forward_network(f, &layer_of(f)->dense, f->branch);
    return 0;
}

static int end_layer(forward *f) {
    int rc = 0;
    if (model_is_moe(f->model, f->layer)) rc = forward_moe_end(f);
    if (rc < 0) return rc;
    stopwatch_enter(f->config.watch, STAGE_ADD);
    pool_run(f->config.threads, f->n_live, task_add_ffn, f);
    return 0;
}

/* Before it begins a layer, a micro-batch ends the one before. */
static int run_layers(forward *f, uint32_t n_batches, uint64_t deadline_us) {
    f->moe_index = 0;
    for (uint32_t l = 0; l <= f->model->n_layers; l++) {
        for (uint32_t i = 0; i < n_batches; i++) {
            int rc = 0;
            take_up(f, &f->batches[i]);
            if (l == 0) {
                work_count_rows(f);
            } else {
                f->layer = l - 1;
                rc = end_layer(f);
            }
            f->layer = l;
            if (rc == 0 && l < f->model->n_layers)
                rc = begin_layer(f, deadline_us);
            if (rc < 0) return rc;
            put_down(f);
        }
        if (l < f->model->n_layers && model_is_moe(f->model, l)) f->moe_index++;
    }
    return 0;
}

/* Between tasks: what has come must not wait for the end of a long stage. */
static void look_at_nodes(void *ctx) {
    exchange_turn(ctx);
}

int forward_run(forward *f, forward_item *items, uint32_t n_items,
                uint64_t deadline_us) {
    list_rows(f, items, n_items);
    uint32_t n_batches = f->config.micro_batches;
    if (n_batches == 0) n_batches = micro_costs_choose(&f->costs, f->n_rows);
    if (f->n_rows < n_batches) n_batches = 1;
    deal_rows(f, n_batches);
    pool_run(f->config.threads, f->n_rows, task_embed, f);

    uint64_t waited_us = exchange_waited_us(f->config.experts);
    uint64_t begun_us = now_us();
    pool_on_look(f->config.threads, look_at_nodes, f->config.experts);
    int rc = run_layers(f, n_batches, deadline_us);
    pool_on_look(f->config.threads, NULL, NULL);
    if (rc < 0) {
        exchange_abandon(f->config.experts);
        return rc;
    }
    waited_us = exchange_waited_us(f->config.experts) - waited_us;
    micro_costs_note(&f->costs, f->n_rows, n_batches, now_us() - begun_us,
                     waited_us);
    return 0;
}

/* ---- logits ---- */

static void finish_logits(const forward *f, float *logits) {
    const model_config *m = f->model;
    const float *bias = f->config.weights->output_bias;
    if (bias != NULL) vm_add(m->n_vocab, logits, bias);
    if (m->scale.logit != 1.0f) vm_scale(m->n_vocab, logits, m->scale.logit);
    if (m->scale.softcap > 0) vm_softcap(m->n_vocab, logits, m->scale.softcap);
}

void forward_logits(forward *f, const uint32_t *rows, uint32_t n,
                    const float **out) {
    const matrix *output = &f->config.weights->output;
    assert(n <= FORWARD_LOGIT_ROWS);

    stage before = stopwatch_enter(f->config.watch, STAGE_LOGITS);
    f->work.done.weight_bytes += output->bytes;
    for (uint32_t i = 0; i < n; i++) {
        norm_row(f, &f->config.weights->output_norm, residual_row(f, rows[i]),
                 act_row_f32(&f->last, i));
        act_rows_encode(&f->last, i);
        f->last.x[ACT_F32][i] = act_row_f32(&f->last, i);
        f->last.x[ACT_A8][i] = act_row_a8(&f->last, i);
        f->y[0][i] = f->logits + (size_t)i * padded(f->model->n_vocab);
        out[i] = f->y[0][i];
    }
    act_form form = matrix_act(output, f->config.exact);
    matrix_mul(f->config.threads, output, form, f->last.x[form], n, f->y[0]);
    for (uint32_t i = 0; i < n; i++) {
        finish_logits(f, f->y[0][i]);
    }
    stopwatch_enter(f->config.watch, before);
}
