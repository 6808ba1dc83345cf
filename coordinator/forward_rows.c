/* forward_rows.c - rows of a pass in the forms that products take, norms and
 * products of them. */
#include <errno.h>
#include <stdlib.h>
#include "coordinator/forward_internal.h"
#include "engine/util.h"
#include "engine/vmath.h"

/* ---- rows ---- */

size_t padded(size_t n) {
    return round_up(n, WEIGHT_GROUP);
}

float *new_floats(size_t rows, size_t stride) {
    size_t n;
    if (!size_mul(rows, stride, &n) || !size_mul(n, sizeof(float), &n)) {
        return NULL;
    }
    return aligned_alloc_zero(n);
}

int act_rows_init(act_rows *a, size_t rows, size_t width) {
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

void act_rows_fini(act_rows *a) {
    aligned_release(a->f32);
    aligned_release(a->a8);
    free(a->x[ACT_F32]);
    free(a->x[ACT_A8]);
}

float *act_row_f32(const act_rows *a, uint32_t r) {
    return a->f32 + r * padded(a->width);
}

void *act_row_a8(const act_rows *a, uint32_t r) {
    return a->a8 + r * act_row_bytes(ACT_A8, round_up(a->width, ACT_BLOCK));
}

/* Widths that no block divides belong to
 * float weights, which take the floats as they are. */
void act_rows_encode(const act_rows *a, uint32_t r) {
    if (a->width % ACT_BLOCK != 0) return;
    act_encode(ACT_A8, a->width, act_row_f32(a, r), act_row_a8(a, r));
}

void norm_row(const forward *f, const norm_weights *n, const float *x,
              float *out) {
    const norm_rule *rule = &f->model->norm;
    size_t width = f->model->n_embd;
    if (rule->kind == NORM_LAYER) {
        vm_layer_norm(width, x, n->w, rule->eps, out);
    } else {
        vm_rms_norm(width, x, n->w, rule->eps, out);
    }
    if (n->b != NULL) vm_add(width, out, n->b);
}

void add_branch(const forward *f, const float *bias, const norm_weights *after,
                uint32_t r) {
    size_t n = f->model->n_embd;
    float *branch = branch_row(f, r), factor = f->model->scale.residual;
    if (bias != NULL) vm_add(n, branch, bias);
    if (after->w != NULL) norm_row(f, after, branch, branch);
    if (factor != 1.0f) {
        vm_axpy(n, residual_row(f, r), factor, branch);
    } else {
        vm_add(n, residual_row(f, r), branch);
    }
}

/* ---- products ---- */

void point_at_live(forward *f, act_rows *a) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        a->x[ACT_F32][i] = act_row_f32(a, f->live[i]);
        a->x[ACT_A8][i] = act_row_a8(a, f->live[i]);
    }
}

void point_outputs(forward *f, int which, float *base, size_t stride) {
    for (uint32_t i = 0; i < f->n_live; i++) {
        f->y[which][i] = base + f->live[i] * stride;
    }
}

void multiply(forward *f, const act_rows *a, size_t n, const matrix *const *m) {
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
