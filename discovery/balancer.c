/* balancer.c - see balancer.h: the question and the answer.
 *
 * First what has to change is changed, then what is worth it.  Both stages are
 * measured; if the second does not pay, the answer is the first. */
#include "discovery/balancer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/balancer_internal.h"
#include "engine/err.h"

/* ---- maps ---- */

int balance_map_init(balance_map *m, uint32_t n_units, uint32_t n_holders) {
    *m = (balance_map){.n_units = n_units};
    m->first = calloc((size_t)n_units + 1, sizeof(*m->first));
    m->nodes = calloc((size_t)n_holders + 1, sizeof(*m->nodes));
    if (m->first != NULL && m->nodes != NULL) return 0;
    balance_map_fini(m);
    return -ENOMEM;
}

void balance_map_fini(balance_map *m) {
    free(m->first);
    free(m->nodes);
    *m = (balance_map){0};
}

static int compare_nodes(const void *a, const void *b) {
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

static int make_map(const balance_work *w, balance_map *m) {
    uint32_t n = 0, at = 0;
    for (uint32_t u = 0; u < w->n_units; u++)
        n += w->n[u];
    int rc = balance_map_init(m, w->n_units, n);
    if (rc < 0) return rc;
    for (uint32_t u = 0; u < w->n_units; u++) {
        m->first[u] = at;
        memcpy(m->nodes + at, w->holders + (size_t)u * w->stride,
               w->n[u] * sizeof(*m->nodes));
        qsort(m->nodes + at, w->n[u], sizeof(*m->nodes), compare_nodes);
        at += w->n[u];
    }
    m->first[w->n_units] = at;
    return 0;
}

/* ---- measuring ---- */

static balance_figures measure(const balance_work *w) {
    balance_figures f = {.rack = 1, .worst = 1};
    double most = 0, mean = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        uint32_t slowest = balance_slowest(w, l);
        double layer_mean = balance_mean(w, l);
        if (slowest == BALANCE_NONE || layer_mean <= 0) continue;
        double time = w->time[(size_t)l * w->n_nodes + slowest];
        most += time;
        mean += layer_mean;
        if (time <= f.worst * layer_mean) continue;
        f.worst = time / layer_mean;
        f.worst_layer = l;
    }
    if (mean > 0) f.rack = most / mean;
    return f;
}

int balance_measure(const balance_input *in, const balance_map *m,
                    balance_figures *out) {
    balance_input question = *in;
    balance_work w;
    question.now = m;
    question.pinned = NULL;
    *out = (balance_figures){.rack = 1, .worst = 1};
    int rc = balance_work_init(&w, &question);
    if (rc < 0) return rc;
    *out = measure(&w);
    balance_work_fini(&w);
    return 0;
}

/* ---- what it takes ---- */

typedef struct {
    uint64_t added, removed, bytes;
} difference;

/* From `now` to the work's holders. */
static difference compare(const balance_work *w) {
    const balance_map *now = w->in->now;
    difference d = {0};
    for (uint32_t u = 0; u < w->n_units; u++) {
        const uint16_t *holders = w->holders + (size_t)u * w->stride;
        for (uint32_t i = 0; i < w->n[u]; i++) {
            if (balance_had(w, u, holders[i])) continue;
            d.added++;
            d.bytes += balance_unit_bytes(w, u);
        }
        uint32_t had = now != NULL ? now->first[u + 1] - now->first[u] : 0;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < had; i++) {
            if (balance_has(w, u, now->nodes[now->first[u] + i])) kept++;
        }
        d.removed += had - kept;
    }
    return d;
}

/* Is it worth loading so many bytes more? */
static bool pays(const balance_work *w, double before, double after,
                 const difference *must, const difference *all) {
    uint64_t bytes = all->bytes > must->bytes ? all->bytes - must->bytes : 0;
    double gain = before > 0 ? (before - after) / before : 0;
    double percent = w->bytes > 0 ? 100 * (double)bytes / (double)w->bytes : 0;
    /* Copies that nobody needs go for nothing. */
    if (bytes == 0 && all->removed > must->removed) return true;
    return gain >= BALANCE_LEAST_GAIN && gain >= w->in->price * percent &&
           gain >= BALANCE_SURE * w->in->noise;
}

/* ---- the answer ---- */

/* What the tables say now is the answer. */
static int take(const balance_work *w, balance_result *out) {
    difference d = compare(w);
    balance_map_fini(&out->target);
    out->after = measure(w);
    out->added = d.added;
    out->removed = d.removed;
    out->moved_bytes = d.bytes;
    return make_map(w, &out->target);
}

/* First what must be, then what costs nothing, then what has to pay. */
static int answer(balance_work *w, balance_result *out) {
    out->before = measure(w);
    balance_fill(w);
    double filled = measure(w).rack;
    difference must = compare(w);
    int rc = take(w, out);
    if (rc < 0) return rc;

    balance_trim_cold(w);
    difference trimmed = compare(w);
    if (trimmed.removed > must.removed) {
        out->pays = true;
        rc = take(w, out);
        if (rc < 0) return rc;
    }

    rc = balance_search(w);
    if (rc < 0) return rc;
    difference all = compare(w);
    bool worth = pays(w, filled, measure(w).rack, &must, &all);
    if (!worth && !w->in->forced) return 0;
    out->pays = worth;
    return take(w, out);
}

int balance(const balance_input *in, balance_result *out) {
    balance_work w;
    *out = (balance_result){0};
    int rc = balance_work_init(&w, in);
    if (rc < 0) return rc;
    rc = answer(&w, out);
    balance_work_fini(&w);
    if (rc < 0) balance_result_fini(out);
    return rc;
}

void balance_result_fini(balance_result *r) {
    balance_map_fini(&r->target);
    *r = (balance_result){0};
}
