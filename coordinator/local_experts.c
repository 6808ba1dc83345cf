/* local_experts.c - see local_experts.h. */
#include "coordinator/local_experts.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"

struct local_experts {
    local_config config;
    expert_store *store;
    ffn_scratch *scratch; /* made at the first run: most racks need none */
    ffn_job *jobs;        /* [max_pairs] */
    uint64_t *used_at;    /* [n_layers * n_experts], a tick */
    uint64_t tick;
    bool everything; /* all are loaded: nothing is ever dropped */
    atomic_uint_fast64_t bytes;
};

int local_experts_new(local_experts **out, const local_config *c, char *why,
                      size_t why_size) {
    *out = NULL;
    local_experts *l = calloc(1, sizeof(*l));
    if (l == NULL) return -ENOMEM;
    l->config = *c;

    const model_config *m = c->model;
    const expert_store_config store = {
        .g = c->g, .model = m, .checks = c->checks};
    int rc = expert_store_new(&l->store, &store, why, why_size);
    if (rc < 0) goto fail;
    l->jobs = calloc(c->max_pairs, sizeof(*l->jobs));
    l->used_at =
        calloc((size_t)m->n_layers * m->n_experts + 1, sizeof(*l->used_at));
    if (l->jobs == NULL || l->used_at == NULL) {
        rc = -ENOMEM;
        goto fail;
    }
    *out = l;
    return 0;

fail:
    local_experts_free(l);
    return rc;
}

void local_experts_free(local_experts *l) {
    if (l == NULL) return;
    expert_store_free(l->store);
    ffn_scratch_free(l->scratch);
    free(l->jobs);
    free(l->used_at);
    free(l);
}

static void count_bytes(local_experts *l) {
    atomic_store_explicit(&l->bytes, expert_store_bytes(l->store),
                          memory_order_relaxed);
}

int local_experts_load_all(local_experts *l, char *why, size_t why_size) {
    const model_config *m = l->config.model;
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        if (!model_is_moe(m, layer)) continue;
        for (uint32_t e = 0; e < m->n_experts; e++) {
            int rc = expert_store_load(l->store, layer, e, why, why_size);
            if (rc < 0) return rc;
        }
    }
    l->everything = true;
    count_bytes(l);
    return 0;
}

static uint64_t *used_at(local_experts *l, uint32_t layer, uint32_t expert) {
    return &l->used_at[(size_t)layer * l->config.model->n_experts + expert];
}

/* Drop the least recently used expert that this run does not need. */
static bool drop_one(local_experts *l) {
    const model_config *m = l->config.model;
    uint64_t oldest = l->tick;
    uint32_t drop_layer = 0, drop_expert = 0;
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        if (!model_is_moe(m, layer)) continue;
        for (uint32_t e = 0; e < m->n_experts; e++) {
            if (expert_store_get(l->store, layer, e) == NULL) continue;
            uint64_t at = *used_at(l, layer, e);
            if (at >= oldest) continue;
            oldest = at;
            drop_layer = layer;
            drop_expert = e;
        }
    }
    if (oldest == l->tick) return false;
    expert_store_drop(l->store, drop_layer, drop_expert);
    return true;
}

static int need(local_experts *l, uint32_t layer, uint32_t expert) {
    *used_at(l, layer, expert) = l->tick;
    if (expert_store_get(l->store, layer, expert) != NULL) return 0;

    uint64_t bytes = expert_store_unit_bytes(l->store, layer);
    while (expert_store_bytes(l->store) + bytes > l->config.budget_bytes) {
        if (!drop_one(l)) return ERR_OVERLOADED;
    }
    char why[256] = "";
    int rc = expert_store_load(l->store, layer, expert, why, sizeof(why));
    if (rc < 0) {
        log_error("cannot load layer %u expert %u here: %s (%s)", layer, expert,
                  why, err_text(rc));
    }
    count_bytes(l);
    return rc;
}

/* Put pairs [from, ...) into jobs, as many experts as the budget holds at once.
 * Returns where the next group begins, or a negative code. */
static int64_t gather(local_experts *l, uint32_t layer, uint32_t from,
                      uint32_t n, const uint32_t *experts, const void *const *x,
                      float *const *y, size_t *n_jobs) {
    *n_jobs = 0;
    l->tick++; /* what the last group needed may go now */
    for (uint32_t i = from; i < n; i++) {
        if (i > from && experts[i] == experts[i - 1]) {
            l->jobs[*n_jobs - 1].n_rows++;
            continue;
        }
        int rc = need(l, layer, experts[i]);
        if (rc == ERR_OVERLOADED && *n_jobs > 0) return i;
        if (rc < 0) return rc;
        l->jobs[(*n_jobs)++] = (ffn_job){
            .weights = expert_store_get(l->store, layer, experts[i]),
            .n_rows = 1,
            .x = x + i,
            .y = y + i,
        };
    }
    return n;
}

int local_experts_run(local_experts *l, uint32_t layer, uint32_t n,
                      const uint32_t *experts, const void *const *x,
                      float *const *y) {
    if (n > l->config.max_pairs) return ERR_RANGE;
    if (l->scratch == NULL) {
        int rc = ffn_scratch_new(
            &l->scratch, l->config.max_pairs, l->config.max_pairs,
            l->config.model->expert_dim, l->config.model->n_embd);
        if (rc < 0) return rc;
    }
    act_form form = local_experts_form(l, layer);
    for (uint32_t from = 0; from < n;) {
        size_t n_jobs;
        int64_t next = gather(l, layer, from, n, experts, x, y, &n_jobs);
        if (next < 0) return (int)next;
        int rc = ffn_run(l->config.threads, l->scratch, l->jobs, n_jobs, form,
                         l->config.exact);
        if (rc < 0) return rc;
        from = (uint32_t)next;
    }
    return 0;
}

act_form local_experts_form(const local_experts *l, uint32_t layer) {
    return expert_store_form(l->store, layer, l->config.exact);
}

uint64_t local_experts_bytes(const local_experts *l) {
    return atomic_load_explicit(&l->bytes, memory_order_relaxed);
}
