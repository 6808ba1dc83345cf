/* forward_latent.c - latent attention ("MLA"), in the absorbed form.
 *
 * Of a token only c, a normed vector of `rank` values, and one rotated key that
 * all heads share are cached.  A head's key would be [K c | rotated] and its
 * value V c.  Instead of making them for every token of the context, the query
 * is taken to where c is, and the result back:
 *   q' = K^T q;  score = q'.c + q_rotated.rotated;  out = V (sum of p c)
 * (DeepSeek-AI 2024, "DeepSeek-V2").  To attention this is one KV head with
 * keys [c | rotated] whose values are their first `rank` elements.
 *
 * q' and the sums are `rank` values for each of many heads, so they are made
 * for a few rows at a time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/forward_internal.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define PIECE_ROWS 32

static size_t absorbed_stride(const model_config *m) {
    return padded(m->key_dim); /* a product pads `rank` alone by no more */
}

/* Room for the A8 form of a head's part of a query, and of a sum. */
static size_t encoded_bytes(const model_config *m) {
    size_t width = size_max(m->latent.nope_dim, m->latent.rank);
    return act_row_bytes(ACT_A8, round_up(width, ACT_BLOCK));
}

static int new_piece(latent_part *a, const model_config *m) {
    size_t n = (size_t)PIECE_ROWS * m->n_heads;
    a->absorbed = new_floats(n, absorbed_stride(m));
    a->sums = new_floats(n, m->latent.rank);
    a->values = new_floats(n, padded(m->latent.value_dim));
    a->a8 = aligned_alloc_zero(n * encoded_bytes(m));
    a->x = calloc(n, sizeof(*a->x));
    a->y = calloc(n, sizeof(*a->y));
    bool ok = a->absorbed != NULL && a->sums != NULL && a->values != NULL &&
              a->a8 != NULL && a->x != NULL && a->y != NULL;
    return ok ? 0 : -ENOMEM;
}

int latent_part_init(forward *f) {
    latent_part *a = &f->latent;
    const model_config *m = f->model;
    size_t rows = f->config.max_rows;
    a->q_stride = padded((size_t)m->n_heads * model_latent_head_dim(m));
    a->kv_stride = padded(m->key_dim);
    a->q = new_floats(rows, a->q_stride);
    a->kv = new_floats(rows, a->kv_stride);
    if (a->q == NULL || a->kv == NULL) return -ENOMEM;

    int rc = act_rows_init(&a->q_low, rows, size_max(m->latent.q_rank, 1));
    if (rc == 0) {
        rc = act_rows_init(&f->attention.heads, rows,
                           (size_t)m->n_heads * m->latent.value_dim);
    }
    return rc < 0 ? rc : new_piece(a, m);
}

void latent_part_fini(forward *f) {
    latent_part *a = &f->latent;
    act_rows_fini(&a->q_low);
    aligned_release(a->q);
    aligned_release(a->kv);
    aligned_release(a->absorbed);
    aligned_release(a->sums);
    aligned_release(a->values);
    aligned_release(a->a8);
    free(a->x);
    free(a->y);
}

/* ---- queries, and what is cached ---- */

static void task_norm_queries(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    uint32_t r = f->live[task];
    float *q = act_row_f32(&f->latent.q_low, r);
    (void)worker;
    vm_rms_norm(m->latent.q_rank, q, layer_of(f)->latent.q_a_norm, m->norm.eps,
                q);
    act_rows_encode(&f->latent.q_low, r);
}

/* Queries and latents, in one run as far as both come from the hidden rows. */
static void project(forward *f) {
    latent_part *a = &f->latent;
    const latent_weights *w = &layer_of(f)->latent;
    bool low = f->model->latent.q_rank > 0;

    point_at_live(f, &f->hidden);
    point_outputs(f, 0, a->kv, a->kv_stride);
    if (low) {
        point_outputs(f, 1, a->q_low.f32, padded(a->q_low.width));
    } else {
        point_outputs(f, 1, a->q, a->q_stride);
    }
    const matrix *first[] = {&w->kv_a, low ? &w->q_a : &w->q};
    multiply(f, &f->hidden, 2, first);
    if (!low) return;

    pool_run(f->config.threads, f->n_live, task_norm_queries, f);
    point_at_live(f, &a->q_low);
    point_outputs(f, 0, a->q, a->q_stride);
    const matrix *second[] = {&w->q};
    multiply(f, &a->q_low, 1, second);
}

/* Norm c, turn what turns, cache the token. */
static void task_place(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const model_config *m = f->model;
    const latent_part *a = &f->latent;
    uint32_t r = f->live[task];
    float *kv = a->kv + r * a->kv_stride, *q = a->q + r * a->q_stride;
    const float *angles = f->angles + (size_t)r * m->rope.n_dims;
    (void)worker;

    vm_rms_norm(m->latent.rank, kv, layer_of(f)->latent.kv_a_norm, m->norm.eps,
                kv);
    rope_apply(f->rope, angles, 1, m->rope.n_dims, kv + m->latent.rank);
    rope_apply(f->rope, angles, m->n_heads, model_latent_head_dim(m),
               q + m->latent.nope_dim);
    kv_write(f->config.kv, f->items[f->rows[r].item].kv, f->layer,
             f->rows[r].position, kv, NULL);
}

/* ---- a piece: to the latents, attention, and back ---- */

/* Rows live[first], ... and their buffers, numbered from 0. */
typedef struct {
    forward *f;
    uint32_t first, n;
    act_form form; /* of the product that is prepared */
} piece;

static float *absorbed_of(const piece *p, uint32_t i, uint32_t head) {
    const model_config *m = p->f->model;
    return p->f->latent.absorbed +
           ((size_t)i * m->n_heads + head) * absorbed_stride(m);
}

static float *sum_of(const piece *p, uint32_t i, uint32_t head) {
    const model_config *m = p->f->model;
    return p->f->latent.sums + ((size_t)i * m->n_heads + head) * m->latent.rank;
}

static float *value_of(const piece *p, uint32_t i, uint32_t head) {
    const model_config *m = p->f->model;
    return p->f->latent.values +
           ((size_t)i * m->n_heads + head) * padded(m->latent.value_dim);
}

/* Head h's input of a product, for row i: encoded if its matrix wants that. */
static void put_input(const piece *p, uint32_t i, uint32_t head, size_t width,
                      const float *x) {
    latent_part *a = &p->f->latent;
    const model_config *m = p->f->model;
    const void **at = &a->x[(size_t)head * p->n + i];
    *at = x;
    if (p->form != ACT_A8) return;
    uint8_t *encoded =
        a->a8 + ((size_t)i * m->n_heads + head) * encoded_bytes(m);
    act_encode(ACT_A8, width, x, encoded);
    *at = encoded;
}

static void task_give_queries(void *ctx, uint32_t i, uint32_t worker) {
    const piece *p = ctx;
    const forward *f = p->f;
    const model_config *m = f->model;
    const float *q = f->latent.q + f->live[p->first + i] * f->latent.q_stride;
    (void)worker;
    for (uint32_t h = 0; h < m->n_heads; h++) {
        put_input(p, i, h, m->latent.nope_dim,
                  q + (size_t)h * model_latent_head_dim(m));
        f->latent.y[(size_t)h * p->n + i] = absorbed_of(p, i, h);
    }
}

/* The query of a head in the latent space gets its rotated part. */
static void join_rotated(const piece *p, uint32_t i, uint32_t head) {
    const forward *f = p->f;
    const model_config *m = f->model;
    const float *q = f->latent.q + f->live[p->first + i] * f->latent.q_stride;
    memcpy(absorbed_of(p, i, head) + m->latent.rank,
           q + (size_t)head * model_latent_head_dim(m) + m->latent.nope_dim,
           m->rope.n_dims * sizeof(*q));
}

/* Attention of some heads of a tile of rows, and the input of the product after
 * it. */
static void task_attend(void *ctx, uint32_t task, uint32_t worker) {
    const piece *p = ctx;
    const forward *f = p->f;
    const model_config *m = f->model;
    const attention_task t = attention_task_of(f, task);
    const uint32_t first = t.rows.first - p->first, end = t.head + t.n_heads;

    attention_row rows[ATTENTION_LANES];
    attention_query query = attention_task_query(f, &t, rows);
    query.q_stride = absorbed_stride(m);
    for (uint32_t i = 0; i < t.rows.n; i++) {
        for (uint32_t h = t.head; h < end; h++) {
            join_rotated(p, first + i, h);
        }
        rows[i].q = absorbed_of(p, first + i, t.head);
        rows[i].out = sum_of(p, first + i, t.head);
    }
    attention_run(f->config.kv, &query, f->attention.scratch[worker]);
    for (uint32_t i = first; i < first + t.rows.n; i++) {
        for (uint32_t h = t.head; h < end; h++) {
            put_input(p, i, h, m->latent.rank, sum_of(p, i, h));
            f->latent.y[(size_t)h * p->n + i] = value_of(p, i, h);
        }
    }
}

static void task_gather_values(void *ctx, uint32_t i, uint32_t worker) {
    const piece *p = ctx;
    const forward *f = p->f;
    const model_config *m = f->model;
    uint32_t r = f->live[p->first + i];
    size_t width = m->latent.value_dim;
    (void)worker;
    for (uint32_t h = 0; h < m->n_heads; h++) {
        memcpy(act_row_f32(&f->attention.heads, r) + h * width,
               value_of(p, i, h), width * sizeof(float));
    }
    act_rows_encode(&f->attention.heads, r);
}

static void multiply_heads(const piece *p, const matrix *of_heads) {
    const latent_part *a = &p->f->latent;
    matrix_mul_each(p->f->config.threads, p->f->model->n_heads, of_heads,
                    p->form, a->x, p->n, a->y);
}

static void attend_piece(piece *p) {
    const latent_weights *w = &layer_of(p->f)->latent;
    pool *threads = p->f->config.threads;

    p->form = matrix_act(&w->k_b[0], p->f->config.exact);
    pool_run(threads, p->n, task_give_queries, p);
    multiply_heads(p, w->k_b);

    p->form = matrix_act(&w->v_b[0], p->f->config.exact);
    attention_tiles_cut(p->f, p->first, p->n, 1, p->f->model->n_heads);
    pool_run(threads, attention_tasks(&p->f->attention.cut), task_attend, p);
    multiply_heads(p, w->v_b);
    pool_run(threads, p->n, task_gather_values, p);
}

void latent_attention(forward *f) {
    project(f);
    pool_run(f->config.threads, f->n_live, task_place, f);
    for (uint32_t first = 0; first < f->n_live; first += PIECE_ROWS) {
        uint32_t n = (uint32_t)size_min(PIECE_ROWS, f->n_live - first);
        piece p = {.f = f, .first = first, .n = n};
        attend_piece(&p);
    }
}
