/* executor.c - see executor.h. */
#include "expert_node/executor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/ffn.h"
#include "engine/pool.h"
#include "engine/util.h"

/* Pairs in one run of the pool.  The most is also limited by the scratch they
 * need; within that, the number follows the time that a piece takes. */
#define PIECE_MOST 1024u
#define PIECE_LEAST 16u
#define PIECE_FIRST 128u
#define PIECE_US 10000
#define SCRATCH_BYTES ((size_t)16 << 20)
#define GROUPS_FIRST 1024 /* the list grows when a merge has more */

/* Some pairs of one batch that go to one unit. */
typedef struct {
    uint32_t unit;
    uint32_t batch;
    uint32_t pair; /* the first */
    uint32_t count;
} group;

struct executor {
    const expert_store *store;
    size_t width, padded;
    bool exact;
    tally *tally;
    pool *pool;
    ffn_scratch *scratch;
    uint32_t piece_most, piece_pairs;

    group *groups;
    size_t groups_room;

    /* The piece in hand. */
    ffn_job *jobs;
    uint32_t *job_units;
    const void **x;
    float **y;
    float **reply_rows; /* where y belongs */
    float *spill;       /* [piece_most, padded]: only for widths with padding */
};

/* What one pair may take in memory while it is computed: its hidden row, its
 * row in another form, its output with padding. */
static size_t scratch_per_pair(const executor_config *c) {
    return act_row_bytes(ACT_F32, c->expert_dim) +
           2 * act_row_bytes(ACT_F32, c->width);
}

int executor_new(executor **out, const executor_config *c) {
    *out = NULL;
    executor *e = calloc(1, sizeof(*e));
    if (e == NULL) return -ENOMEM;
    e->store = c->store;
    e->exact = c->exact;
    e->tally = c->tally;
    e->width = c->width;
    e->padded = round_up(c->width, WEIGHT_GROUP);
    size_t fitting = SCRATCH_BYTES / scratch_per_pair(c);
    e->piece_most =
        (uint32_t)size_max(size_min(fitting, PIECE_MOST), PIECE_LEAST);
    e->piece_pairs = (uint32_t)size_min(e->piece_most, PIECE_FIRST);

    int rc = -ENOMEM;
    e->groups_room = GROUPS_FIRST;
    e->groups = calloc(e->groups_room, sizeof(*e->groups));
    e->jobs = calloc(e->piece_most, sizeof(*e->jobs));
    e->job_units = calloc(e->piece_most, sizeof(*e->job_units));
    e->x = calloc(e->piece_most, sizeof(*e->x));
    e->y = calloc(e->piece_most, sizeof(*e->y));
    e->reply_rows = calloc(e->piece_most, sizeof(*e->reply_rows));
    if (e->groups == NULL || e->jobs == NULL || e->job_units == NULL ||
        e->x == NULL || e->y == NULL || e->reply_rows == NULL) {
        goto fail;
    }
    if (e->padded != e->width) {
        e->spill =
            aligned_alloc_zero(e->piece_most * e->padded * sizeof(float));
        if (e->spill == NULL) goto fail;
    }
    rc = ffn_scratch_new(&e->scratch, e->piece_most, e->piece_most,
                         c->expert_dim, c->width);
    if (rc < 0) goto fail;
    rc = pool_new(&e->pool, c->threads);
    if (rc < 0) goto fail;
    if (c->pin > 0) pool_pin(e->pool, c->pin - 1);

    *out = e;
    return 0;

fail:
    executor_free(e);
    return rc;
}

void executor_free(executor *e) {
    if (e == NULL) return;
    pool_free(e->pool);
    ffn_scratch_free(e->scratch);
    aligned_release(e->spill);
    free(e->reply_rows);
    free(e->y);
    free(e->x);
    free(e->job_units);
    free(e->jobs);
    free(e->groups);
    free(e);
}

static int by_unit(const void *a, const void *b) {
    uint32_t left = ((const group *)a)->unit;
    uint32_t right = ((const group *)b)->unit;
    return (left > right) - (left < right);
}

static int reserve_groups(executor *e, size_t n) {
    if (n <= e->groups_room) return 0;
    group *grown = realloc(e->groups, n * sizeof(*grown));
    if (grown == NULL) return -ENOMEM;
    e->groups = grown;
    e->groups_room = n;
    return 0;
}

/* All groups of all batches, a unit's together. */
static int list_groups(executor *e, batch *const *batches, size_t n,
                       size_t *n_groups) {
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += batches[i]->n_groups;
    int rc = reserve_groups(e, total);
    if (rc < 0) return rc;

    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t pair = 0;
        for (uint32_t g = 0; g < batches[i]->n_groups; g++) {
            uint32_t count = batches[i]->counts[g];
            e->groups[at++] =
                (group){batches[i]->units[g], (uint32_t)i, pair, count};
            pair += count;
        }
    }
    qsort(e->groups, total, sizeof(*e->groups), by_unit);
    *n_groups = total;
    return 0;
}

/* Add the next `count` pairs of a group to the piece, from `at` on. */
static void add_pairs(executor *e, const batch *b, const group *g, size_t at,
                      size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t pair = g->pair + (uint32_t)i;
        e->x[at + i] = b->rows + b->pair_rows[pair] * b->row_bytes;
        float *row = b->outputs + (size_t)pair * e->width;
        e->reply_rows[at + i] = row;
        e->y[at + i] = e->spill != NULL ? e->spill + (at + i) * e->padded : row;
    }
}

/* What is left of the unit of groups[at]. */
static size_t unit_pairs(const executor *e, size_t at, size_t n_groups) {
    uint32_t unit = e->groups[at].unit;
    size_t pairs = 0;
    for (; at < n_groups && e->groups[at].unit == unit; at++)
        pairs += e->groups[at].count;
    return pairs;
}

/* Does the unit of groups[at] go into the next piece?  Rows that share a pass
 * over its weights cost much less than in two: so a unit is taken whole, and
 * one too large for a piece alone. */
static bool fits(const executor *e, size_t at, size_t n_groups, size_t pairs) {
    bool begun = at > 0 && e->groups[at - 1].unit == e->groups[at].unit;
    if (pairs == 0 || begun) return pairs < e->piece_most;
    return pairs + unit_pairs(e, at, n_groups) <= e->piece_pairs;
}

/* Fill the piece from groups [*next, n_groups), shortening one that is beyond
 * the scratch; *n_jobs counts the units.  Returns its pairs, or ERR_NOT_HERE.
 */
static int64_t fill_piece(executor *e, batch *const *batches, size_t n_groups,
                          size_t *next, size_t *n_jobs) {
    size_t pairs = 0;
    *n_jobs = 0;
    while (*next < n_groups && fits(e, *next, n_groups, pairs)) {
        group *g = &e->groups[*next];
        const batch *b = batches[g->batch];
        const ffn_weights *w = expert_store_get(e->store, b->layer, g->unit);
        if (w == NULL) return ERR_NOT_HERE;
        size_t count = size_min(g->count, e->piece_most - pairs);
        add_pairs(e, b, g, pairs, count);
        ffn_job *last = *n_jobs > 0 ? &e->jobs[*n_jobs - 1] : NULL;
        if (last != NULL && last->weights == w) {
            last->n_rows += count;
        } else {
            e->job_units[*n_jobs] = g->unit;
            e->jobs[(*n_jobs)++] =
                (ffn_job){w, count, e->x + pairs, e->y + pairs};
        }
        pairs += count;
        g->pair += (uint32_t)count;
        g->count -= (uint32_t)count;
        if (g->count == 0) ++*next;
    }
    return (int64_t)pairs;
}

/* Rows of a width with padding were computed aside, since their padding would
 * fall into the next row of the reply. */
static void copy_spill(executor *e, size_t pairs) {
    for (size_t i = 0; i < pairs; i++)
        memcpy(e->reply_rows[i], e->y[i], e->width * sizeof(float));
}

/* Longer pieces use the pool better, shorter ones answer sooner. */
static void adapt(executor *e, size_t pairs, uint64_t us) {
    if (us > 2 * PIECE_US && e->piece_pairs / 2 >= PIECE_LEAST) {
        e->piece_pairs /= 2;
    } else if (us < PIECE_US / 2 && pairs > e->piece_pairs / 2) {
        e->piece_pairs = (uint32_t)size_min(2 * e->piece_pairs, e->piece_most);
    }
}

/* Each job has read its unit's weights once. */
static void count_piece(const executor *e, uint32_t layer, size_t n_jobs,
                        uint64_t us) {
    if (e->tally == NULL) return;
    uint64_t bytes = expert_store_unit_bytes(e->store, layer);
    for (size_t i = 0; i < n_jobs; i++) {
        tally_add_run(e->tally, layer, e->job_units[i],
                      (uint32_t)e->jobs[i].n_rows, bytes);
    }
    tally_add_busy(e->tally, us);
}

int executor_run(executor *e, batch *const *batches, size_t n,
                 void (*between)(void *ctx), void *ctx) {
    size_t n_groups = 0;
    int rc = list_groups(e, batches, n, &n_groups);
    if (rc < 0) return rc;
    if (failpoint("node.compute")) return ERR_INTERNAL;

    const act_form form = batches[0]->form;
    for (size_t next = 0; next < n_groups;) {
        size_t n_jobs;
        int64_t filled = fill_piece(e, batches, n_groups, &next, &n_jobs);
        if (filled < 0) return (int)filled;
        size_t pairs = (size_t)filled;
        uint64_t began_us = now_us();
        rc = ffn_run(e->pool, e->scratch, e->jobs, n_jobs, form, e->exact);
        if (rc < 0) return rc;
        if (e->spill != NULL) copy_spill(e, pairs);
        uint64_t us = now_us() - began_us;
        adapt(e, pairs, us);
        count_piece(e, batches[0]->layer, n_jobs, us);
        if (next < n_groups) between(ctx);
    }
    return 0;
}

void executor_lead(executor *e) {
    pool_lead(e->pool);
}

uint32_t executor_threads(const executor *e) {
    return pool_threads(e->pool);
}

uint64_t executor_progress(const executor *e) {
    return pool_progress(e->pool);
}
