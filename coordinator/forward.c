/* forward.c - see forward.h.
 *
 * A pass walks the layers; each stage of a layer is one run of the pool over
 * the rows that are still alive.  Buffers are sized for the largest step when
 * the pass is made; a token costs no allocation. */
#include "coordinator/forward.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/router.h"
#include "engine/act.h"
#include "engine/attention.h"
#include "engine/blas.h"
#include "engine/err.h"
#include "engine/rope.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define SUM_COLUMNS 256 /* of an expert's output, whose slices are added */

typedef struct {
    uint32_t item;
    uint32_t position;
    uint32_t index; /* within its item */
} row;

/* n rows of floats, and the same rows encoded as A8. */
typedef struct {
    size_t width;
    float *f32;                /* [max_rows][padded width] */
    uint8_t *a8;               /* [max_rows][a8 row] */
    const void **x[ACT_FORMS]; /* the live rows in either form */
} act_rows;

struct forward {
    forward_config config;
    const model_config *model;
    rope *rope;
    uint32_t *moe_layers;
    uint32_t n_moe;

    forward_item *items;
    uint32_t n_items;
    row *rows; /* all rows of the pass, item after item */
    uint32_t n_rows;
    uint32_t *live; /* rows still alive */
    uint32_t n_live;

    float *residual;  /* [max_rows][n_embd] */
    float *branch;    /* [max_rows][padded n_embd]: output of o, of the ffn */
    act_rows hidden;  /* normed input of a sub-layer, n_embd */
    act_rows heads;   /* attention's output, n_heads * value_dim */
    float *q, *k, *v; /* [max_rows][padded] */
    size_t q_stride, k_stride, v_stride;
    float *angles;             /* [max_rows][rope dims] */
    float **y[MATRIX_MUL_MAX]; /* output row pointers */

    float *scores;    /* [padded max_rows][n_experts] */
    float *tile_in;   /* [padded max_rows][n_embd] */
    uint32_t *chosen; /* [max_rows][n_used], live rows in order */
    float *chosen_weights;
    exchange_outputs outputs;
    bool *lost; /* [max_rows] */
    ffn_scratch *dense;

    act_rows last;  /* normed rows for the output matrix */
    float *logits;  /* [FORWARD_LOGIT_ROWS][padded n_vocab] */
    uint32_t layer; /* that is being computed */
};

/* ---- making and freeing ---- */

static size_t padded(size_t n) {
    return round_up(n, WEIGHT_GROUP);
}

static float *new_floats(size_t rows, size_t stride) {
    size_t n;
    if (!size_mul(rows, stride, &n) || !size_mul(n, sizeof(float), &n)) {
        return NULL;
    }
    return aligned_alloc_zero(n);
}

static int act_rows_init(act_rows *a, size_t rows, size_t width) {
    a->width = width;
    a->f32 = new_floats(rows, padded(width));
    a->a8 = aligned_alloc_zero(
        rows * act_row_bytes(ACT_A8, round_up(width, ACT_BLOCK)));
    a->x[ACT_F32] = calloc(rows, sizeof(void *));
    a->x[ACT_A8] = calloc(rows, sizeof(void *));
    return a->f32 == NULL || a->a8 == NULL || a->x[0] == NULL || a->x[1] == NULL
               ? -ENOMEM
               : 0;
}

static void act_rows_fini(act_rows *a) {
    aligned_release(a->f32);
    aligned_release(a->a8);
    free(a->x[ACT_F32]);
    free(a->x[ACT_A8]);
}

static float *act_row_f32(const act_rows *a, uint32_t r) {
    return a->f32 + r * padded(a->width);
}

static void *act_row_a8(const act_rows *a, uint32_t r) {
    return a->a8 + r * act_row_bytes(ACT_A8, round_up(a->width, ACT_BLOCK));
}

/* Encode row r of `a` from its floats.  Widths that no block divides belong to
 * float weights, which take the floats as they are. */
static void act_rows_encode(const act_rows *a, uint32_t r) {
    if (a->width % ACT_BLOCK != 0) return;
    act_encode(ACT_A8, a->width, act_row_f32(a, r), act_row_a8(a, r));
}

static int new_buffers(forward *f) {
    const model_config *m = f->model;
    size_t rows = f->config.max_rows, tiles = round_up(rows, BLAS_TILE);
    f->q_stride = padded((size_t)m->n_heads * m->key_dim);
    f->k_stride = padded((size_t)m->n_kv_heads * m->key_dim);
    f->v_stride = padded((size_t)m->n_kv_heads * m->value_dim);

    f->rows = calloc(rows, sizeof(*f->rows));
    f->live = calloc(rows, sizeof(*f->live));
    f->lost = calloc(rows, sizeof(*f->lost));
    f->residual = new_floats(rows, m->n_embd);
    f->branch = new_floats(rows, padded(m->n_embd));
    f->q = new_floats(rows, f->q_stride);
    f->k = new_floats(rows, f->k_stride);
    f->v = new_floats(rows, f->v_stride);
    f->angles = new_floats(rows, size_max(m->rope.n_dims, 2));
    f->logits = new_floats(FORWARD_LOGIT_ROWS, padded(m->n_vocab));
    bool ok = f->rows != NULL && f->live != NULL && f->lost != NULL &&
              f->residual != NULL && f->branch != NULL && f->q != NULL &&
              f->k != NULL && f->v != NULL && f->angles != NULL &&
              f->logits != NULL;
    for (int i = 0; i < MATRIX_MUL_MAX; i++) {
        f->y[i] = calloc(rows, sizeof(float *));
        ok = ok && f->y[i] != NULL;
    }
    if (m->n_experts > 0) {
        f->scores = new_floats(tiles, m->n_experts);
        f->tile_in = new_floats(tiles, m->n_embd);
        f->chosen = calloc(rows * m->n_used, sizeof(*f->chosen));
        f->chosen_weights = new_floats(rows, m->n_used);
        ok = ok && f->scores != NULL && f->tile_in != NULL &&
             f->chosen != NULL && f->chosen_weights != NULL;
    }
    return ok ? 0 : -ENOMEM;
}

static int list_moe_layers(forward *f) {
    f->moe_layers = calloc(f->model->n_layers, sizeof(*f->moe_layers));
    if (f->moe_layers == NULL) return -ENOMEM;
    for (uint32_t l = 0; l < f->model->n_layers; l++) {
        if (model_is_moe(f->model, l)) f->moe_layers[f->n_moe++] = l;
    }
    return 0;
}

int forward_new(forward **out, const forward_config *c) {
    *out = NULL;
    forward *f = calloc(1, sizeof(*f));
    if (f == NULL) return -ENOMEM;
    f->config = *c;
    f->model = &c->weights->config;
    const model_config *m = f->model;

    int rc = rope_new(&f->rope, &m->rope);
    if (rc == 0) rc = list_moe_layers(f);
    if (rc == 0) rc = new_buffers(f);
    if (rc == 0) rc = act_rows_init(&f->hidden, c->max_rows, m->n_embd);
    if (rc == 0)
        rc = act_rows_init(&f->heads, c->max_rows,
                           (size_t)m->n_heads * m->value_dim);
    if (rc == 0) rc = act_rows_init(&f->last, FORWARD_LOGIT_ROWS, m->n_embd);
    if (rc == 0 && f->n_moe < m->n_layers) {
        rc = ffn_scratch_new(&f->dense, c->max_rows, 1, m->ffn_dim, m->n_embd);
    }
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
    free(f->moe_layers);
    free(f->rows);
    free(f->live);
    free(f->lost);
    aligned_release(f->residual);
    aligned_release(f->branch);
    aligned_release(f->q);
    aligned_release(f->k);
    aligned_release(f->v);
    aligned_release(f->angles);
    aligned_release(f->logits);
    for (int i = 0; i < MATRIX_MUL_MAX; i++) {
        free(f->y[i]);
    }
    aligned_release(f->scores);
    aligned_release(f->tile_in);
    free(f->chosen);
    aligned_release(f->chosen_weights);
    act_rows_fini(&f->hidden);
    act_rows_fini(&f->heads);
    act_rows_fini(&f->last);
    ffn_scratch_free(f->dense);
    free(f);
}

const uint32_t *forward_moe_layers(const forward *f, uint32_t *n) {
    *n = f->n_moe;
    return f->moe_layers;
}

/* ---- products ---- */

static void point_at_live(forward *f, act_rows *a) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        a->x[ACT_F32][i] = act_row_f32(a, f->live[i]);
        a->x[ACT_A8][i] = act_row_a8(a, f->live[i]);
    }
}

static void point_outputs(forward *f, int which, float *base, size_t stride) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        f->y[which][i] = base + f->live[i] * stride;
    }
}

/* Matrices over the same rows: one run of the pool for those that take the
 * rows in the same form. */
static void multiply(forward *f, const act_rows *a, size_t n,
                     const matrix *const *m) {
    for (int form = 0; form < ACT_FORMS; form++) {
        const matrix *of_form[MATRIX_MUL_MAX];
        float *const *y[MATRIX_MUL_MAX];
        size_t count = 0;
        for (size_t i = 0; i < n; i++) {
            if ((int)matrix_act(m[i], f->config.exact) != form) continue;
            of_form[count] = m[i];
            y[count++] = f->y[i];
        }
        if (count == 0) continue;
        matrix_mul_many(f->config.threads, count, of_form, (act_form)form,
                        a->x[form], f->n_live, y);
    }
}

/* ---- attention ---- */

static const layer_weights *layer_of(const forward *f) {
    return &f->config.weights->layers[f->layer];
}

static void task_attention_input(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    uint32_t r = f->live[task];
    size_t n = f->model->n_embd;
    (void)worker;
    vm_rms_norm(n, f->residual + r * n, layer_of(f)->attn_norm,
                f->model->rms_eps, act_row_f32(&f->hidden, r));
    act_rows_encode(&f->hidden, r);
}

static void norm_heads(const forward *f, float *x, size_t n_heads,
                       const float *w) {
    size_t dim = f->model->key_dim;
    for (size_t h = 0; h < n_heads; h++) {
        vm_rms_norm(dim, x + h * dim, w, f->model->rms_eps, x + h * dim);
    }
}

static void task_positions(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    const layer_weights *lw = layer_of(f);
    uint32_t r = f->live[task];
    float *q = f->q + r * f->q_stride, *k = f->k + r * f->k_stride;
    (void)worker;

    if (m->qk_norm) {
        norm_heads(f, q, m->n_heads, lw->q_norm);
        norm_heads(f, k, m->n_kv_heads, lw->k_norm);
    }
    const float *angles = f->angles + r * m->rope.n_dims;
    rope_apply(f->rope, angles, m->n_heads, m->key_dim, q);
    rope_apply(f->rope, angles, m->n_kv_heads, m->key_dim, k);
    kv_write(f->config.kv, f->items[f->rows[r].item].kv, f->layer,
             f->rows[r].position, k, f->v + r * f->v_stride);
}

static void task_attention(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    uint32_t r = f->live[task / m->n_kv_heads];
    uint32_t kv_head = task % m->n_kv_heads;
    size_t group = m->n_heads / m->n_kv_heads;
    (void)worker;
    attention_group(f->config.kv, f->items[f->rows[r].item].kv, f->layer,
                    kv_head, f->rows[r].position, group,
                    f->q + r * f->q_stride + kv_head * group * m->key_dim,
                    m->attention_scale,
                    act_row_f32(&f->heads, r) + kv_head * group * m->value_dim);
}

static void task_encode_heads(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    (void)worker;
    act_rows_encode(&f->heads, f->live[task]);
}

static void attention(forward *f) {
    const layer_weights *lw = layer_of(f);
    pool *p = f->config.threads;

    pool_run(p, f->n_live, task_attention_input, f);
    const matrix *qkv[] = {&lw->q, &lw->k, &lw->v};
    point_at_live(f, &f->hidden);
    point_outputs(f, 0, f->q, f->q_stride);
    point_outputs(f, 1, f->k, f->k_stride);
    point_outputs(f, 2, f->v, f->v_stride);
    multiply(f, &f->hidden, 3, qkv);

    pool_run(p, f->n_live, task_positions, f);
    pool_run(p, f->n_live * f->model->n_kv_heads, task_attention, f);
    pool_run(p, f->n_live, task_encode_heads, f);

    const matrix *o[] = {&lw->o};
    point_at_live(f, &f->heads);
    point_outputs(f, 0, f->branch, padded(f->model->n_embd));
    multiply(f, &f->heads, 1, o);
}

/* ---- feed-forward ---- */

/* Add attention's output, norm for the feed-forward part. */
static void task_ffn_input(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    uint32_t r = f->live[task];
    size_t n = f->model->n_embd;
    float *residual = f->residual + r * n;
    (void)worker;
    vm_add(n, residual, f->branch + r * padded(n));
    vm_rms_norm(n, residual, layer_of(f)->ffn_norm, f->model->rms_eps,
                act_row_f32(&f->hidden, r));
    act_rows_encode(&f->hidden, r);
    if (layer_of(f)->router != NULL) {
        memcpy(f->tile_in + task * n, act_row_f32(&f->hidden, r),
               n * sizeof(float));
    }
}

static void dense_layer(forward *f) {
    const ffn_weights *w = &layer_of(f)->dense;
    act_form form = matrix_act(&w->gate, f->config.exact);
    point_at_live(f, &f->hidden);
    point_outputs(f, 0, f->branch, padded(f->model->n_embd));
    ffn_job job = {w, f->n_live, f->hidden.x[form], f->y[0]};
    int rc =
        ffn_run(f->config.threads, f->dense, &job, 1, form, f->config.exact);
    assert(rc == 0); /* the scratch was made for this */
}

static void save_routing(forward *f, uint32_t moe_index, uint32_t i) {
    const row *r = &f->rows[f->live[i]];
    const forward_item *item = &f->items[r->item];
    if (item->routed_experts == NULL) return;
    size_t k = f->model->n_used;
    size_t at = ((size_t)moe_index * item->n_rows + r->index) * k;
    memcpy(item->routed_experts + at, f->chosen + i * k,
           k * sizeof(*f->chosen));
    memcpy(item->routed_weights + at, f->chosen_weights + i * k,
           k * sizeof(float));
}

/* Scores of one tile of rows, then each row's experts. */
static void task_route(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    uint32_t first = task * BLAS_TILE;
    uint32_t last = first + BLAS_TILE;
    (void)worker;
    if (last > f->n_live) {
        memset(f->tile_in + (size_t)f->n_live * m->n_embd, 0,
               (size_t)(last - f->n_live) * m->n_embd * sizeof(float));
        last = f->n_live;
    }
    blas_tile(m->n_experts, m->n_embd, layer_of(f)->router,
              f->tile_in + (size_t)first * m->n_embd,
              f->scores + (size_t)first * m->n_experts);
    for (uint32_t i = first; i < last; i++) {
        int rc = router_choose(&m->routing, m->n_experts, m->n_used,
                               f->scores + (size_t)i * m->n_experts,
                               f->chosen + (size_t)i * m->n_used,
                               f->chosen_weights + (size_t)i * m->n_used);
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

/* The outputs of a row's experts in the router's order, times their weights. */
static void task_sum_experts(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    size_t n = f->model->n_embd, k = f->model->n_used;
    size_t slices = f->outputs.slices;
    const float *const *rows = f->outputs.rows + task * k * slices;
    float *sum = f->branch + f->live[task] * padded(n);
    (void)worker;
    if (f->lost[task]) return;
    memset(sum, 0, n * sizeof(float));
    for (size_t i = 0; i < k; i++) {
        float weight = f->chosen_weights[task * k + i];
        if (slices == 1) {
            vm_axpy(n, sum, weight, rows[i]);
            continue;
        }
        for (size_t from = 0; from < n; from += SUM_COLUMNS) {
            float whole[SUM_COLUMNS];
            size_t width = size_min(n - from, SUM_COLUMNS);
            add_slices(rows + i * slices, slices, from, width, whole);
            vm_axpy(width, sum + from, weight, whole);
        }
    }
}

/* A row without its experts ends its whole item: later rows of the sequence
 * would look at keys that are wrong. */
static void bury_lost_rows(forward *f) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        if (f->lost[i]) f->items[f->rows[f->live[i]].item].lost = true;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->n_live; i++) {
        if (f->items[f->rows[f->live[i]].item].lost) continue;
        f->live[kept++] = f->live[i];
    }
    f->n_live = kept;
}

static int moe_layer(forward *f, uint32_t moe_index, uint64_t deadline_us) {
    pool *p = f->config.threads;
    pool_run(p, (f->n_live + BLAS_TILE - 1) / BLAS_TILE, task_route, f);
    for (uint32_t i = 0; i < f->n_live; i++) {
        save_routing(f, moe_index, i);
    }

    point_at_live(f, &f->hidden);
    act_form form = local_experts_form(f->config.forms, f->layer);
    exchange_layer l = {
        .layer = f->layer,
        .n_rows = f->n_live,
        .k = f->model->n_used,
        .rows = f->hidden.x[form],
        .experts = f->chosen,
        .deadline_us = deadline_us,
    };
    int lost = exchange_run(f->config.experts, &l, &f->outputs, f->lost);
    if (lost < 0) return lost;
    pool_run(p, f->n_live, task_sum_experts, f);
    if (lost > 0) bury_lost_rows(f);
    return 0;
}

static void task_add_branch(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    uint32_t r = f->live[task];
    size_t n = f->model->n_embd;
    (void)worker;
    vm_add(n, f->residual + r * n, f->branch + r * padded(n));
}

/* ---- the pass ---- */

static void task_embed(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const row *r = &f->rows[task];
    (void)worker;
    weights_embed(f->config.weights, f->items[r->item].tokens[r->index],
                  f->residual + (size_t)task * f->model->n_embd);
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
            f->live[f->n_rows] = f->n_rows;
            f->rows[f->n_rows++] = (row){i, items[i].first + t, t};
        }
    }
    f->n_live = f->n_rows;
}

int forward_run(forward *f, forward_item *items, uint32_t n_items,
                uint64_t deadline_us) {
    pool *p = f->config.threads;
    list_rows(f, items, n_items);
    pool_run(p, f->n_rows, task_embed, f);

    uint32_t moe_index = 0;
    for (f->layer = 0; f->layer < f->model->n_layers; f->layer++) {
        if (f->n_live == 0) break;
        attention(f);
        pool_run(p, f->n_live, task_ffn_input, f);
        if (model_is_moe(f->model, f->layer)) {
            int rc = moe_layer(f, moe_index++, deadline_us);
            if (rc < 0) return rc;
        } else {
            dense_layer(f);
        }
        pool_run(p, f->n_live, task_add_branch, f);
    }
    return 0;
}

void forward_logits(forward *f, const uint32_t *rows, uint32_t n,
                    const float **out) {
    const model_config *m = f->model;
    const matrix *output = &f->config.weights->output;
    assert(n <= FORWARD_LOGIT_ROWS);

    for (uint32_t i = 0; i < n; i++) {
        vm_rms_norm(m->n_embd, f->residual + (size_t)rows[i] * m->n_embd,
                    f->config.weights->output_norm, m->rms_eps,
                    act_row_f32(&f->last, i));
        act_rows_encode(&f->last, i);
        f->last.x[ACT_F32][i] = act_row_f32(&f->last, i);
        f->last.x[ACT_A8][i] = act_row_a8(&f->last, i);
        f->y[0][i] = f->logits + (size_t)i * padded(m->n_vocab);
        out[i] = f->y[0][i];
    }
    act_form form = matrix_act(output, f->config.exact);
    matrix_mul(f->config.threads, output, form, f->last.x[form], n, f->y[0]);
}
