/* forward_work.c - counts what a pass reads: the weights that decoding is
 * bounded by.
 *
 * Rows that go through a layer together read its weights once.  Of the experts
 * they read those that some row chose, wherever these are computed.  The output
 * matrix is read once for each block of logits. */
#include <errno.h>
#include <stdlib.h>
#include "coordinator/forward_internal.h"
#include "engine/model.h"

int work_part_init(forward *f) {
    const model_config *m = f->model;
    const weights *w = f->config.weights;
    work_part *p = &f->work;

    p->shared_bytes = w->bytes_per_token - w->output.bytes;
    p->expert_bytes = calloc(m->n_layers, sizeof(*p->expert_bytes));
    p->seen = calloc((size_t)m->n_experts + 1, sizeof(*p->seen));
    if (p->expert_bytes == NULL || p->seen == NULL) return -ENOMEM;
    for (uint32_t l = 0; l < m->n_layers; l++) {
        expert_tensors t;
        if (!model_is_moe(m, l)) continue;
        int rc = model_experts(m, w->g, l, &t, NULL, 0);
        if (rc < 0) return rc;
        p->expert_bytes[l] = model_expert_bytes(&t, m->n_experts);
    }
    return 0;
}

void work_part_fini(forward *f) {
    free(f->work.expert_bytes);
    free(f->work.seen);
}

void work_count_rows(forward *f) {
    f->work.done.weight_bytes += f->work.shared_bytes;
}

/* (what was seen in an earlier layer has a smaller mark) */
void work_count_experts(forward *f, const uint32_t *chosen, size_t n) {
    work_part *p = &f->work;
    uint64_t distinct = 0;

    p->mark++;
    for (size_t i = 0; i < n; i++) {
        distinct += p->seen[chosen[i]] != p->mark;
        p->seen[chosen[i]] = p->mark;
    }
    p->done.experts += distinct;
    p->done.weight_bytes += distinct * p->expert_bytes[f->layer];
}

void forward_work_done(const forward *f, forward_work *out) {
    *out = f->work.done;
}
