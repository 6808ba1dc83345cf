/* forward_attention.c - attention, and how the grouped kind makes its heads:
 * products, positions, the cache.
 *
 * Of q, k and v in this order: the product, its bias, the clamp; then of q and
 * k the norm, RoPE, or RoPE and the norm; then of q the temperature. */
#include <errno.h>
#include "coordinator/forward_internal.h"
#include "engine/util.h"
#include "engine/vmath.h"

int attention_part_init(forward *f) {
    attention_part *a = &f->attention;
    const model_config *m = f->model;
    int rc = attention_tiles_init(f);
    if (rc < 0) return rc;
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
    attention_tiles_fini(f);
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
    if (a->writes_late) return;
    kv_write(f->config.kv, f->items[f->rows[r].item].kv, f->layer,
             f->rows[r].position, k, v);
}

/* ---- attention ---- */

/* Keys lie across the cache's lines: one position's touch as many as there are
 * elements, which a single thread waits for.  Where no task reads what another
 * one would write, each writes its own: every row is of another sequence, and a
 * head's queries are all in one task. */
static bool can_write_late(const forward *f) {
    if (f->attention.cut.parts > 1) return false;
    for (uint32_t i = 1; i < f->n_live; i++) {
        const row *r = &f->rows[f->live[i]], *former = &f->rows[f->live[i - 1]];
        if (r->item == former->item) return false;
    }
    return true;
}

static void write_head(const forward *f, uint32_t r, uint32_t kv_head) {
    const attention_part *a = &f->attention;
    const model_config *m = f->model;
    kv_write_head(f->config.kv, f->items[f->rows[r].item].kv, f->layer, kv_head,
                  f->rows[r].position,
                  a->k + r * a->k_stride + (size_t)kv_head * m->key_dim,
                  a->v + r * a->v_stride + (size_t)kv_head * m->value_dim);
}

/* Some heads of a tile of rows; encoded, if no block is another task's too. */
static void task_attention(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    const attention_part *a = &f->attention;
    const attention_task t = attention_task_of(f, task);
    const float *sinks = layer_of(f)->attention.sinks;
    const size_t head = (size_t)t.kv_head * a->cut.group + t.head;
    const size_t from = head * m->value_dim;
    const size_t to = from + t.n_heads * m->value_dim;

    attention_row rows[ATTENTION_LANES];
    attention_query query = attention_task_query(f, &t, rows);
    if (sinks != NULL) query.sinks = sinks + head;
    for (uint32_t i = 0; i < t.rows.n; i++) {
        uint32_t r = f->live[t.rows.first + i];
        rows[i].q = a->q + r * a->q_stride + head * m->key_dim;
        rows[i].out = act_row_f32(&a->heads, r) + from;
        if (a->writes_late) write_head(f, r, t.kv_head);
    }
    attention_run(f->config.kv, &query, a->scratch[worker]);

    if (!a->whole_blocks) return;
    for (uint32_t i = 0; i < t.rows.n; i++) {
        uint32_t r = f->live[t.rows.first + i];
        act_encode_part(ACT_A8, a->heads.width, from, to, rows[i].out,
                        act_row_a8(&a->heads, r));
    }
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

    const model_config *m = f->model;
    attention_tiles_cut(f, 0, f->n_live, m->n_kv_heads,
                        m->n_heads / m->n_kv_heads);
    a->writes_late = can_write_late(f);
    pool_run(p, f->n_live, task_positions, f);

    size_t width = (size_t)m->value_dim;
    a->whole_blocks = a->cut.heads * width % ACT_BLOCK == 0 &&
                      a->cut.group * width % ACT_BLOCK == 0;
    pool_run(p, attention_tasks(&a->cut), task_attention, f);
    if (!a->whole_blocks) pool_run(p, f->n_live, task_encode_heads, f);
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
