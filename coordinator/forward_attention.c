/* forward_attention.c - attention, and how the grouped kind makes its heads:
 * products, positions, the cache.
 *
 * Of q, k and v in this order: the product, its bias, the clamp; then of q and
 * k the norm, RoPE, or RoPE and the norm; then of q the temperature. */
#include <errno.h>
#include "coordinator/forward_internal.h"
#include "engine/attention.h"
#include "engine/util.h"
#include "engine/vmath.h"

int attention_part_init(forward *f) {
    attention_part *a = &f->attention;
    const model_config *m = f->model;
    if (m->attention.kind == ATTENTION_LATENT) return latent_part_init(f);

    size_t rows = f->config.max_rows;
    a->q_stride = padded((size_t)m->n_heads * m->key_dim);
    a->k_stride = padded((size_t)m->n_kv_heads * m->key_dim);
    a->v_stride = padded((size_t)m->n_kv_heads * m->value_dim);
    a->q = new_floats(rows, a->q_stride);
    a->k = new_floats(rows, a->k_stride);
    a->v = new_floats(rows, a->v_stride);
    if (a->q == NULL || a->k == NULL || a->v == NULL) return -ENOMEM;
    return act_rows_init(&a->heads, rows, (size_t)m->n_heads * m->value_dim);
}

void attention_part_fini(forward *f) {
    attention_part *a = &f->attention;
    aligned_release(a->q);
    aligned_release(a->k);
    aligned_release(a->v);
    act_rows_fini(&a->heads);
    latent_part_fini(f);
}

static void task_attention_input(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    uint32_t r = f->live[task];
    (void)worker;
    norm_row(f, &layer_of(f)->attn_norm, residual_row(f, r),
             act_row_f32(&f->hidden, r));
    act_rows_encode(&f->hidden, r);
}

/* ---- from products to what attention takes ---- */

/* The bias and the clamp of n values. */
static void finish_product(const forward *f, size_t n, const float *bias,
                           float *x) {
    float clamp = f->model->attention.clamp;
    if (bias != NULL) vm_add(n, x, bias);
    if (clamp > 0.0f) vm_clamp(n, x, clamp);
}

static void norm_heads(const forward *f, size_t n_heads, const float *w,
                       float *x) {
    const model_config *m = f->model;
    bool whole = m->attention.qk_norm == QK_NORM_WHOLE;
    size_t dim = whole ? n_heads * m->key_dim : m->key_dim;
    for (size_t i = 0; i < (whole ? 1 : n_heads); i++, x += dim) {
        vm_rms_norm(dim, x, w, m->norm.eps, x);
    }
}

static void norm_q_and_k(const forward *f, float *q, float *k) {
    const attention_weights *w = &layer_of(f)->attention;
    norm_heads(f, f->model->n_heads, w->q_norm, q);
    norm_heads(f, f->model->n_kv_heads, w->k_norm, k);
}

/* What q is multiplied by where there is no RoPE. */
static float temperature(const attention_rule *a, uint32_t position) {
    uint64_t step = ((uint64_t)position + 1) / a->temperature_length + 1;
    return (float)(1.0 + (double)a->temperature * vm_log((double)step));
}

static void place(forward *f, uint32_t r, float *q, float *k) {
    const model_config *m = f->model;
    const attention_rule *a = &m->attention;
    bool normed = a->qk_norm != QK_NORM_NONE;
    bool turned = model_has_rope(m, f->layer);

    if (normed && !a->qk_norm_late) norm_q_and_k(f, q, k);
    if (turned) {
        const float *angles = f->angles + (size_t)r * m->rope.n_dims;
        rope_apply(f->rope, angles, m->n_heads, m->key_dim, q);
        rope_apply(f->rope, angles, m->n_kv_heads, m->key_dim, k);
    }
    if (normed && a->qk_norm_late && turned) norm_q_and_k(f, q, k);
    if (!turned && a->temperature_length > 0) {
        vm_scale((size_t)m->n_heads * m->key_dim, q,
                 temperature(a, f->rows[r].position));
    }
}

static void task_positions(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    const attention_part *a = &f->attention;
    const attention_weights *w = &layer_of(f)->attention;
    uint32_t r = f->live[task];
    float *q = a->q + r * a->q_stride, *k = a->k + r * a->k_stride;
    float *v = a->v + r * a->v_stride;
    (void)worker;

    finish_product(f, (size_t)m->n_heads * m->key_dim, w->q_bias, q);
    finish_product(f, (size_t)m->n_kv_heads * m->key_dim, w->k_bias, k);
    finish_product(f, (size_t)m->n_kv_heads * m->value_dim, w->v_bias, v);
    place(f, r, q, k);
    kv_write(f->config.kv, f->items[f->rows[r].item].kv, f->layer,
             f->rows[r].position, k, v);
}

/* ---- attention ---- */

static void task_attention(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    const attention_part *a = &f->attention;
    uint32_t r = f->live[task / m->n_kv_heads];
    uint32_t kv_head = task % m->n_kv_heads;
    size_t group = m->n_heads / m->n_kv_heads;
    const float *sinks = layer_of(f)->attention.sinks;
    (void)worker;
    const attention_query query = {
        .seq = f->items[f->rows[r].item].kv,
        .layer = f->layer,
        .kv_head = kv_head,
        .position = f->rows[r].position,
        .first = model_first_key(m, f->layer, f->rows[r].position),
        .group = group,
        .q = a->q + r * a->q_stride + kv_head * group * m->key_dim,
        .scale = m->attention.scale,
        .softcap = m->attention.softcap,
        .sinks = sinks != NULL ? sinks + kv_head * group : NULL,
    };
    attention_group(f->config.kv, &query,
                    act_row_f32(&a->heads, r) +
                        (size_t)kv_head * group * m->value_dim);
}

static void task_encode_heads(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    (void)worker;
    act_rows_encode(&f->attention.heads, f->live[task]);
}

static void grouped_attention(forward *f) {
    attention_part *a = &f->attention;
    const attention_weights *w = &layer_of(f)->attention;
    pool *p = f->config.threads;

    const matrix *qkv[] = {&w->q, &w->k, &w->v};
    point_at_live(f, &f->hidden);
    point_outputs(f, 0, a->q, a->q_stride);
    point_outputs(f, 1, a->k, a->k_stride);
    point_outputs(f, 2, a->v, a->v_stride);
    multiply(f, &f->hidden, 3, qkv);

    pool_run(p, f->n_live, task_positions, f);
    pool_run(p, f->n_live * f->model->n_kv_heads, task_attention, f);
    pool_run(p, f->n_live, task_encode_heads, f);
}

void forward_attention(forward *f) {
    attention_part *a = &f->attention;
    pool_run(f->config.threads, f->n_live, task_attention_input, f);
    if (f->model->attention.kind == ATTENTION_LATENT) {
        latent_attention(f);
    } else {
        grouped_attention(f);
    }
    const matrix *o[] = {&layer_of(f)->attention.o};
    point_at_live(f, &a->heads);
    point_outputs(f, 0, f->branch, padded(f->model->n_embd));
    multiply(f, &a->heads, 1, o);
}
