/* forward_ffn.c - feed-forward networks that are computed here: dense layers,
 * dense networks beside experts, shared experts. */
#include <assert.h>
#include "coordinator/forward_internal.h"
#include "engine/util.h"
#include "engine/vmath.h"

/* The widest network that is computed here; 0: none. */
static size_t widest(const forward *f) {
    const model_config *m = f->model;
    size_t widest = m->n_experts > 0 ? m->shared_dim : 0;
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        if (model_is_dense(m, layer)) widest = size_max(widest, m->ffn_dim);
    }
    return widest;
}

int ffn_part_init(forward *f) {
    size_t width = widest(f);
    if (width == 0) return 0;
    return ffn_scratch_new(&f->dense, f->config.max_rows, 1, width,
                           f->model->n_embd);
}

/* Add attention's output, norm for the feed-forward part. */
static void task_ffn_input(void *ctx, uint32_t task, uint32_t worker) {
    forward *f = ctx;
    const layer_weights *lw = layer_of(f);
    uint32_t r = f->live[task];
    (void)worker;
    add_branch(f, lw->attention.o_bias, &lw->after_attention, r);
    norm_row(f, &lw->ffn_norm, residual_row(f, r), act_row_f32(&f->hidden, r));
    act_rows_encode(&f->hidden, r);
}

void forward_ffn_input(forward *f) {
    pool_run(f->config.threads, f->n_live, task_ffn_input, f);
}

void forward_network(forward *f, const ffn_weights *w, float *out) {
    /* Where gate and up want different forms, they get F32. */
    act_form gate = matrix_act(&w->gate, f->config.exact);
    act_form form =
        gate == matrix_act(&w->up, f->config.exact) ? gate : ACT_F32;
    point_at_live(f, &f->hidden);
    point_outputs(f, 0, out, padded(f->model->n_embd));
    ffn_job job = {w, f->n_live, f->hidden.x[form], f->y[0]};
    int rc =
        ffn_run(f->config.threads, f->dense, &job, 1, form, f->config.exact);
    assert(rc == 0); /* the scratch was made for this */
    (void)rc;
}
