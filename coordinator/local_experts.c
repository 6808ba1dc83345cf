/* local_experts.c - see local_experts.h. */
#include "coordinator/local_experts.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/expert_bulk.h"
#include "engine/log.h"

#define CACHE_LINE 64

/* What depends on how experts are cut. */
typedef struct {
    uint32_t slices;
    uint32_t max_pairs; /* of one run */
    expert_store *store;
    ffn_scratch *scratch; /* made at the first run: most racks need none */
    ffn_job *jobs;        /* [max_pairs] */
    uint64_t *used_at;    /* [n_layers * n_experts * slices], a tick */
} cut_experts;

struct local_experts {
    local_config config;
    cut_experts now;
    uint64_t tick;
    atomic_uint_fast64_t bytes;
};

static void cut_fini(cut_experts *c) {
    expert_store_free(c->store);
    ffn_scratch_free(c->scratch);
    free(c->jobs);
    free(c->used_at);
    *c = (cut_experts){0};
}

static int cut_init(cut_experts *c, const local_config *config, uint32_t slices,
                    char *why, size_t why_size) {
    const model_config *m = config->model;
    *c = (cut_experts){.slices = slices,
                       .max_pairs = config->max_pairs * slices};
    const expert_store_config store = {
        .g = config->g, .model = m, .checks = config->checks, .slices = slices};
    int rc = expert_store_new(&c->store, &store, why, why_size);
    if (rc < 0) return rc;

    size_t units = (size_t)m->n_layers * m->n_experts * slices;
    c->jobs = calloc(c->max_pairs, sizeof(*c->jobs));
    c->used_at = calloc(units + 1, sizeof(*c->used_at));
    if (c->jobs != NULL && c->used_at != NULL) return 0;
    cut_fini(c);
    return err_why(why, why_size, -ENOMEM, "no memory for %zu units", units);
}

int local_experts_new(local_experts **out, const local_config *c, char *why,
                      size_t why_size) {
    *out = NULL;
    local_experts *l = calloc(1, sizeof(*l));
    if (l == NULL) return -ENOMEM;
    l->config = *c;
    int rc = cut_init(&l->now, c, 1, why, why_size);
    if (rc < 0) {
        local_experts_free(l);
        return rc;
    }
    *out = l;
    return 0;
}

void local_experts_free(local_experts *l) {
    if (l == NULL) return;
    cut_fini(&l->now);
    free(l);
}

static void count_bytes(local_experts *l) {
    atomic_store_explicit(&l->bytes, expert_store_bytes(l->now.store),
                          memory_order_relaxed);
}

int local_experts_set_slices(local_experts *l, uint32_t slices) {
    if (slices == l->now.slices) return 0;

    cut_experts next;
    char why[256] = "";
    int rc = cut_init(&next, &l->config, slices, why, sizeof(why));
    if (rc < 0) {
        log_error("cannot cut experts into %u slices here: %s", slices, why);
        return rc;
    }
    cut_fini(&l->now);
    l->now = next;
    count_bytes(l);
    return 0;
}

uint32_t local_experts_slices(const local_experts *l, uint32_t layer) {
    return expert_store_slices(l->now.store, layer);
}

/* Every unit there is; free() it.  NULL: no memory. */
static expert_unit *list_units(const expert_store *store, size_t *n) {
    size_t room = 0;
    for (uint32_t i = 0; i < expert_store_layers(store); i++)
        room += expert_store_units(store, i);
    expert_unit *units = calloc(room + 1, sizeof(*units));
    if (units == NULL) return NULL;

    *n = 0;
    for (uint32_t layer = 0; layer < expert_store_layers(store); layer++) {
        for (uint32_t u = 0; u < expert_store_units(store, layer); u++)
            units[(*n)++] = (expert_unit){layer, u};
    }
    return units;
}

int local_experts_load_all(local_experts *l, char *why, size_t why_size) {
    expert_bulk bulk = {.store = l->now.store, .threads = l->config.threads};
    expert_unit *units = list_units(bulk.store, &bulk.n_units);
    if (units == NULL)
        return err_why(why, why_size, -ENOMEM, "no memory for a list of units");
    bulk.units = units;
    int rc = expert_bulk_load(&bulk, why, why_size);
    free(units);
    count_bytes(l);
    return rc;
}

static uint64_t *used_at(local_experts *l, uint32_t layer, uint32_t unit) {
    size_t room = (size_t)l->config.model->n_experts * l->now.slices;
    return &l->now.used_at[layer * room + unit];
}

/* Drop the least recently used unit that this run does not need. */
static bool drop_one(local_experts *l) {
    expert_store *store = l->now.store;
    uint64_t oldest = l->tick;
    uint32_t drop_layer = 0, drop_unit = 0;
    for (uint32_t layer = 0; layer < l->config.model->n_layers; layer++) {
        uint32_t n_units = expert_store_units(store, layer);
        for (uint32_t unit = 0; unit < n_units; unit++) {
            if (expert_store_get(store, layer, unit) == NULL) continue;
            uint64_t at = *used_at(l, layer, unit);
            if (at >= oldest) continue;
            oldest = at;
            drop_layer = layer;
            drop_unit = unit;
        }
    }
    if (oldest == l->tick) return false;
    expert_store_drop(store, drop_layer, drop_unit);
    return true;
}

static int need(local_experts *l, uint32_t layer, uint32_t unit) {
    expert_store *store = l->now.store;
    if (unit >= expert_store_units(store, layer)) return ERR_RANGE;
    *used_at(l, layer, unit) = l->tick;
    if (expert_store_get(store, layer, unit) != NULL) return 0;

    uint64_t bytes = expert_store_unit_bytes(store, layer);
    while (expert_store_bytes(store) + bytes > l->config.budget_bytes) {
        if (!drop_one(l)) return ERR_OVERLOADED;
    }
    char why[256] = "";
    int rc = expert_store_load(store, layer, unit, why, sizeof(why));
    if (rc < 0) {
        log_error("cannot load layer %u expert %u here: %s (%s)", layer,
                  unit / expert_store_slices(store, layer), why, err_text(rc));
    }
    count_bytes(l);
    return rc;
}

/* Which experts a token takes is chance, so what is known of them lies in no
 * cache: ask memory for all of it at once, not for one after the other. */
static void prefetch_units(const local_experts *l, uint32_t layer, uint32_t n,
                           const uint32_t *units) {
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *w =
            (const uint8_t *)expert_store_get(l->now.store, layer, units[i]);
        if (w == NULL) continue; /* to be loaded, or out of range */
        for (size_t at = 0; at < sizeof(ffn_weights); at += CACHE_LINE) {
            __builtin_prefetch(w + at);
        }
    }
}

/* Put pairs [from, ...) into jobs, as many units as the budget holds at once.
 * Returns where the next group begins, or a negative code. */
static int64_t gather(local_experts *l, uint32_t layer, uint32_t from,
                      uint32_t n, const uint32_t *units, const void *const *x,
                      float *const *y, size_t *n_jobs) {
    *n_jobs = 0;
    l->tick++; /* what the last group needed may go now */
    for (uint32_t i = from; i < n; i++) {
        if (i > from && units[i] == units[i - 1]) {
            l->now.jobs[*n_jobs - 1].n_rows++;
            continue;
        }
        int rc = need(l, layer, units[i]);
        if (rc == ERR_OVERLOADED && *n_jobs > 0) return i;
        if (rc < 0) return rc;
        l->now.jobs[(*n_jobs)++] = (ffn_job){
            .weights = expert_store_get(l->now.store, layer, units[i]),
            .n_rows = 1,
            .x = x + i,
            .y = y + i,
        };
    }
    return n;
}

/* Wide enough for the layer that is cut the least. */
static int make_scratch(local_experts *l) {
    const model_config *m = l->config.model;
    uint32_t least = l->now.slices;
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        uint32_t slices = expert_store_slices(l->now.store, layer);
        if (slices > 0 && slices < least) least = slices;
    }
    return ffn_scratch_new(&l->now.scratch, l->now.max_pairs, l->now.max_pairs,
                           m->expert_dim / least, m->n_embd);
}

int local_experts_run(local_experts *l, uint32_t layer, uint32_t n,
                      const uint32_t *units, const void *const *x,
                      float *const *y) {
    if (n > l->now.max_pairs) return ERR_RANGE;
    if (l->now.scratch == NULL) {
        int rc = make_scratch(l);
        if (rc < 0) return rc;
    }
    prefetch_units(l, layer, n, units);
    act_form form = local_experts_form(l, layer);
    for (uint32_t from = 0; from < n;) {
        size_t n_jobs;
        int64_t next = gather(l, layer, from, n, units, x, y, &n_jobs);
        if (next < 0) return (int)next;
        int rc = ffn_run(l->config.threads, l->now.scratch, l->now.jobs, n_jobs,
                         form, l->config.exact);
        if (rc < 0) return rc;
        from = (uint32_t)next;
    }
    return 0;
}

act_form local_experts_form(const local_experts *l, uint32_t layer) {
    return expert_store_form(l->now.store, layer, l->config.exact);
}

uint64_t local_experts_bytes(const local_experts *l) {
    return atomic_load_explicit(&l->bytes, memory_order_relaxed);
}
