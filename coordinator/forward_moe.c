/* forward_moe.c - a layer's experts: the router's choice, the exchange, the sum
 * of what comes back. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/forward_internal.h"
#include "coordinator/router.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define CHOICE_ROWS 4   /* whose experts one task chooses */
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

static bool new_choices(const forward *f, micro_batch *b) {
    size_t rows = f->config.max_rows, k = f->model->n_used;
    b->chosen = calloc(rows * k, sizeof(*b->chosen));
    b->chosen_weights = new_floats(rows, k);
    b->rows = calloc(rows, sizeof(*b->rows));
    b->lost = calloc(rows, sizeof(*b->lost));
    return b->chosen != NULL && b->chosen_weights != NULL && b->rows != NULL &&
           b->lost != NULL;
}

static void free_choices(micro_batch *b) {
    free(b->chosen);
    aligned_release(b->chosen_weights);
    free(b->rows);
    free(b->lost);
}

int moe_part_init(forward *f) {
    moe_part *p = &f->moe;
    const model_config *m = f->model;
    size_t rows = f->config.max_rows;
    int rc = list_moe_layers(f);
    if (rc < 0 || m->n_experts == 0) return rc;
    rc = new_routing(f);
    if (rc < 0) return rc;
    p->scores = new_floats(rows, padded(m->n_experts));
    bool ok = p->scores != NULL;
    for (uint32_t i = 0; i < FORWARD_MICRO_BATCHES && ok; i++)
        ok = new_choices(f, &f->batches[i]);
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
    for (uint32_t i = 0; i < FORWARD_MICRO_BATCHES; i++)
        free_choices(&f->batches[i]);
    act_rows_fini(&p->scaled);
    aligned_release(p->beside);
}

static float *scores_row(const forward *f, uint32_t r) {
    return f->moe.scores + r * padded(f->model->n_experts);
}

static void save_routing(forward *f, uint32_t i) {
    const row *r = &f->rows[f->live[i]];
    const forward_item *item = &f->items[r->item];
    if (item->routed_experts == NULL) return;
    size_t k = f->model->n_used;
    size_t at = ((size_t)f->moe_index * item->n_rows + r->index) * k;
    memcpy(item->routed_experts + at, f->batch->chosen + i * k,
           k * sizeof(*f->batch->chosen));
    memcpy(item->routed_weights + at, f->batch->chosen_weights + i * k,
           k * sizeof(float));
}

/* ---- the router ---- */

/* The experts of some rows, from their scores. */
static void task_choose(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    const router r = {.rule = &m->routing,
                      .n_experts = m->n_experts,
                      .n_used = m->n_used,
                      .bias = layer_of(f)->moe.router_bias,
                      .selection_bias = layer_of(f)->moe.selection_bias};
    uint32_t first = task * CHOICE_ROWS;
    uint32_t last = (uint32_t)size_min(first + CHOICE_ROWS, f->n_live);
    for (uint32_t i = first; i < last; i++) {
        int rc = router_choose(
            &r, &f->moe.routing[worker], scores_row(f, f->live[i]),
            f->batch->chosen + (size_t)i * m->n_used,
            f->batch->chosen_weights + (size_t)i * m->n_used);
        assert(rc == 0);
    }
}

/* The router's matrix has floats: the hidden rows as they are. */
static void route(forward *f) {
    const matrix *router_matrix[] = {&layer_of(f)->moe.router};
    point_at_live(f, &f->hidden);
    point_outputs(f, 0, f->moe.scores, padded(f->model->n_experts));
    multiply(f, &f->hidden, 1, router_matrix);
    uint32_t n_tasks = (f->n_live + CHOICE_ROWS - 1) / CHOICE_ROWS;
    pool_run(f->config.threads, n_tasks, task_choose, f);
    for (uint32_t i = 0; i < f->n_live; i++) {
        save_routing(f, i);
    }
}

/* ---- the experts' sum ---- */

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
    const micro_batch *b = f->batch;
    size_t n = f->model->n_embd, k = f->model->n_used;
    size_t slices = b->outputs.slices;
    const float *const *rows = b->outputs.rows + task * k * slices;
    const float *biases = layer_of(f)->moe.down_bias;
    memset(sum, 0, n * sizeof(float));
    for (size_t i = 0; i < k; i++) {
        size_t expert = b->chosen[task * k + i];
        const float *bias = biases != NULL ? biases + expert * n : NULL;
        float weight = b->chosen_weights[task * k + i];
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
    if (f->batch->lost[task]) return;
    sum_experts(f, task, branch_row(f, r));
    if (f->moe.beside != NULL) add_beside(f, r, branch_row(f, r));
}

/* A row without its experts ends its whole item: later rows of the sequence
 * would look at keys that are wrong. */
static void note_lost_rows(forward *f) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        if (f->batch->lost[i]) f->items[f->rows[f->live[i]].item].lost = true;
    }
    f->any_lost = true;
}

void drop_lost_rows(forward *f) {
    if (!f->any_lost) return;
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
    vm_scale(n, scaled, f->batch->chosen_weights[task]);
    act_rows_encode(&f->moe.scaled, r);
}

/* The live rows that the experts take. */
static act_rows *expert_input(forward *f) {
    if (!f->model->routing.scale_input) return &f->hidden;
    pool_run(f->config.threads, f->n_live, task_scale_input, f);
    return &f->moe.scaled;
}

/* What is computed here beside the experts. */
static void compute_beside(forward *f) {
    const layer_weights *lw = layer_of(f);
    if (f->moe.beside == NULL) return;
    bool dense = f->model->dense_beside_experts;
    forward_network(f, dense ? &lw->dense : &lw->moe.shared, f->moe.beside);
}

static uint32_t lane_of(const forward *f) {
    return (uint32_t)(f->batch - f->batches);
}

int forward_moe_begin(forward *f, uint64_t deadline_us) {
    micro_batch *b = f->batch;
    stopwatch *w = f->config.watch;
    stopwatch_enter(w, STAGE_ROUTER);
    route(f);
    work_count_experts(f, b->chosen, (size_t)f->n_live * f->model->n_used);

    stopwatch_enter(w, STAGE_PACK);
    act_rows *input = expert_input(f);
    point_at_live(f, input);
    act_form form = local_experts_form(f->config.forms, f->layer);
    memcpy(b->rows, input->x[form], f->n_live * sizeof(*b->rows));
    const exchange_layer l = {
        .layer = f->layer,
        .n_rows = f->n_live,
        .k = f->model->n_used,
        .rows = b->rows,
        .experts = b->chosen,
        .deadline_us = deadline_us,
    };
    int rc = exchange_begin(f->config.experts, lane_of(f), &l);
    if (rc < 0) return rc;
    b->away = true;
    stopwatch_enter(w, STAGE_DENSE);
    compute_beside(f);
    return 0;
}

int forward_moe_end(forward *f) {
    micro_batch *b = f->batch;
    if (!b->away) return 0; /* none of its rows was alive */
    b->away = false;
    stopwatch_enter(f->config.watch, STAGE_PACK);
    int lost =
        exchange_finish(f->config.experts, lane_of(f), &b->outputs, b->lost);
    if (lost < 0) return lost;
    stopwatch_enter(f->config.watch, STAGE_ADD);
    pool_run(f->config.threads, f->n_live, task_sum, f);
    if (lost > 0) note_lost_rows(f);
    drop_lost_rows(f);
    return 0;
}
