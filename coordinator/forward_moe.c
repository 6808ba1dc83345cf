/* forward_moe.c - a layer's experts: the router's choice, the exchange, the sum
 * of what comes back. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/forward_internal.h"
#include "coordinator/router.h"
#include "engine/blas.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define SUM_COLUMNS 256 /* of an expert's output, whose slices are added */

static int list_moe_layers(forward *f) {
    f->moe_layers = calloc(f->model->n_layers, sizeof(*f->moe_layers));
    if (f->moe_layers == NULL) return -ENOMEM;
    for (uint32_t l = 0; l < f->model->n_layers; l++) {
        if (model_is_moe(f->model, l)) f->moe_layers[f->n_moe++] = l;
    }
    return 0;
}

static int new_routing(forward *f) {
    uint32_t n = pool_threads(f->config.threads);
    f->moe.routing = calloc(n, sizeof(*f->moe.routing));
    int rc = f->moe.routing == NULL ? -ENOMEM : 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        rc = router_scratch_init(&f->moe.routing[i], &f->model->routing,
                                 f->model->n_experts);
    }
    return rc;
}

static void free_routing(forward *f) {
    if (f->moe.routing == NULL) return;
    for (uint32_t i = 0; i < pool_threads(f->config.threads); i++) {
        router_scratch_fini(&f->moe.routing[i]);
    }
    free(f->moe.routing);
}

int moe_part_init(forward *f) {
    moe_part *p = &f->moe;
    const model_config *m = f->model;
    size_t rows = f->config.max_rows, tiles = round_up(rows, BLAS_TILE);
    int rc = list_moe_layers(f);
    if (rc < 0 || m->n_experts == 0) return rc;
    rc = new_routing(f);
    if (rc < 0) return rc;
    p->scores = new_floats(tiles, m->n_experts);
    p->tile_in = new_floats(tiles, m->n_embd);
    p->chosen = calloc(rows * m->n_used, sizeof(*p->chosen));
    p->chosen_weights = new_floats(rows, m->n_used);
    p->lost = calloc(rows, sizeof(*p->lost));
    bool ok = p->scores != NULL && p->tile_in != NULL && p->chosen != NULL &&
              p->chosen_weights != NULL && p->lost != NULL;
    if (ok && m->routing.scale_input) {
        assert(m->n_used == 1); /* a row's experts would need one each */
        ok = act_rows_init(&p->scaled, rows, m->n_embd) == 0;
    }
    if (ok && (m->shared_dim > 0 || m->dense_beside_experts)) {
        p->beside = new_floats(rows, padded(m->n_embd));
        ok = p->beside != NULL;
    }
    return ok ? 0 : -ENOMEM;
}

void moe_part_fini(forward *f) {
    moe_part *p = &f->moe;
    free(f->moe_layers);
    free_routing(f);
    aligned_release(p->scores);
    aligned_release(p->tile_in);
    free(p->chosen);
    aligned_release(p->chosen_weights);
    act_rows_fini(&p->scaled);
    free(p->lost);
    aligned_release(p->beside);
}

static void save_routing(forward *f, uint32_t moe_index, uint32_t i) {
    const row *r = &f->rows[f->live[i]];
    const forward_item *item = &f->items[r->item];
    if (item->routed_experts == NULL) return;
    size_t k = f->model->n_used;
    size_t at = ((size_t)moe_index * item->n_rows + r->index) * k;
    memcpy(item->routed_experts + at, f->moe.chosen + i * k,
           k * sizeof(*f->moe.chosen));
    memcpy(item->routed_weights + at, f->moe.chosen_weights + i * k,
           k * sizeof(float));
}

/* Scores of one tile of rows, then each row's experts. */
static void task_route(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    uint32_t first = task * BLAS_TILE;
    uint32_t last = first + BLAS_TILE;
    const router r = {.rule = &m->routing,
                      .n_experts = m->n_experts,
                      .n_used = m->n_used,
                      .bias = layer_of(f)->moe.router_bias,
                      .selection_bias = layer_of(f)->moe.selection_bias};
    if (last > f->n_live) {
        memset(f->moe.tile_in + (size_t)f->n_live * m->n_embd, 0,
               (size_t)(last - f->n_live) * m->n_embd * sizeof(float));
        last = f->n_live;
    }
    blas_tile(m->n_experts, m->n_embd, layer_of(f)->moe.router,
              f->moe.tile_in + (size_t)first * m->n_embd,
              f->moe.scores + (size_t)first * m->n_experts);
    for (uint32_t i = first; i < last; i++) {
        int rc = router_choose(&r, &f->moe.routing[worker],
                               f->moe.scores + (size_t)i * m->n_experts,
                               f->moe.chosen + (size_t)i * m->n_used,
                               f->moe.chosen_weights + (size_t)i * m->n_used);
        assert(rc == 0);
    }
}

/* Columns [from, from + n) of an expert's output, from those of its slices:
 * added as the binary tree that ffn.h adds segments in, of which each slice is
 * a subtree. */
static void add_slices(const float *const *slices, size_t count, size_t from,
                       size_t n, float *out) {
    if (count == 1) {
        memcpy(out, slices[0] + from, n * sizeof(float));
        return;
    }
    float right[SUM_COLUMNS];
    add_slices(slices, count / 2, from, n, out);
    add_slices(slices + count / 2, count / 2, from, n, right);
    vm_add(n, out, right);
}

/* Columns [from, from + n) of an expert's whole output: its slices' sum, then
 * its bias of down. */
static void whole_output(const float *const *slices, size_t count,
                         const float *bias, size_t from, size_t n, float *out) {
    add_slices(slices, count, from, n, out);
    if (bias != NULL) vm_add(n, out, bias + from);
}

/* The outputs of a row's experts in the router's order, times their weights. */
static void sum_experts(const forward *f, uint32_t task, float *sum) {
    const moe_part *p = &f->moe;
    size_t n = f->model->n_embd, k = f->model->n_used;
    size_t slices = p->outputs.slices;
    const float *const *rows = p->outputs.rows + task * k * slices;
    const float *biases = layer_of(f)->moe.down_bias;
    memset(sum, 0, n * sizeof(float));
    for (size_t i = 0; i < k; i++) {
        size_t expert = p->chosen[task * k + i];
        const float *bias = biases != NULL ? biases + expert * n : NULL;
        float weight = p->chosen_weights[task * k + i];
        if (f->model->routing.scale_input) weight = 1.0f; /* it has been used */
        if (slices == 1 && bias == NULL) {
            vm_axpy(n, sum, weight, rows[i]);
            continue;
        }
        for (size_t from = 0; from < n; from += SUM_COLUMNS) {
            float whole[SUM_COLUMNS];
            size_t width = size_min(n - from, SUM_COLUMNS);
            whole_output(rows + i * slices, slices, bias, from, width, whole);
            vm_axpy(width, sum + from, weight, whole);
        }
    }
}

/* Then what was computed here: the shared expert, or a dense network. */
static void add_beside(const forward *f, uint32_t r, float *sum) {
    const model_config *m = f->model;
    const float *beside = f->moe.beside + r * padded(m->n_embd);
    const float *gate = layer_of(f)->moe.shared_gate;
    if (gate != NULL) {
        float z = vm_dot(m->n_embd, gate, act_row_f32(&f->hidden, r));
        vm_axpy(m->n_embd, sum, vm_sigmoidf(z), beside);
        return;
    }
    vm_add(m->n_embd, sum, beside);
    if (m->dense_beside_experts) {
        vm_scale(m->n_embd, sum, m->dense_beside_scale);
    }
}

static void task_sum(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    uint32_t r = f->live[task];
    (void)worker;
    if (f->moe.lost[task]) return;
    sum_experts(f, task, branch_row(f, r));
    if (f->moe.beside != NULL) add_beside(f, r, branch_row(f, r));
}

/* A row without its experts ends its whole item: later rows of the sequence
 * would look at keys that are wrong. */
static void bury_lost_rows(forward *f) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        if (f->moe.lost[i]) f->items[f->rows[f->live[i]].item].lost = true;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->n_live; i++) {
        if (f->items[f->rows[f->live[i]].item].lost) continue;
        f->live[kept++] = f->live[i];
    }
    f->n_live = kept;
}

/* A live row times the weight of its one expert. */
static void task_scale_input(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    uint32_t r = f->live[task];
    size_t n = f->model->n_embd;
    float *scaled = act_row_f32(&f->moe.scaled, r);
    (void)worker;
    memcpy(scaled, act_row_f32(&f->hidden, r), n * sizeof(float));
    vm_scale(n, scaled, f->moe.chosen_weights[task]);
    act_rows_encode(&f->moe.scaled, r);
}

/* The live rows that the experts take. */
static act_rows *expert_input(forward *f) {
    if (!f->model->routing.scale_input) return &f->hidden;
    pool_run(f->config.threads, f->n_live, task_scale_input, f);
    return &f->moe.scaled;
}

int forward_moe(forward *f, uint32_t moe_index, uint64_t deadline_us) {
    const model_config *m = f->model;
    pool *p = f->config.threads;
    pool_run(p, (f->n_live + BLAS_TILE - 1) / BLAS_TILE, task_route, f);
    for (uint32_t i = 0; i < f->n_live; i++) {
        save_routing(f, moe_index, i);
    }

    const layer_weights *lw = layer_of(f);
    if (f->moe.beside != NULL) {
        forward_network(f,
                        m->dense_beside_experts ? &lw->dense : &lw->moe.shared,
                        f->moe.beside);
    }

    act_rows *input = expert_input(f);
    point_at_live(f, input);
    act_form form = local_experts_form(f->config.forms, f->layer);
    exchange_layer l = {
        .layer = f->layer,
        .n_rows = f->n_live,
        .k = m->n_used,
        .rows = input->x[form],
        .experts = f->moe.chosen,
        .deadline_us = deadline_us,
    };
    int lost =
        exchange_run(f->config.experts, &l, &f->moe.outputs, f->moe.lost);
    if (lost < 0) return lost;
    pool_run(p, f->n_live, task_sum, f);
    if (lost > 0) bury_lost_rows(f);
    return 0;
}
