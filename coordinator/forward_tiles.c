/* forward_tiles.c - how attention of the live rows is cut into tasks.
 *
 * A kernel reads a block of keys once for all rows and heads that it is given,
 * so the rows of a prompt are given to it in tiles, as many as its lanes allow.
 * Rows of a tile end in the same block: where some do not see a block, the
 * others would have it to themselves.  Later rows of a prompt see more keys;
 * their tasks come first, so that the short ones fill what is left at the end.
 * No cut changes a bit. */
#include <errno.h>
#include <stdlib.h>
#include "coordinator/forward_internal.h"
#include "engine/util.h"

/* Tasks that threads end at about the same time with. */
#define TASKS_PER_THREAD 4

int attention_tiles_init(forward *f) {
    attention_part *a = &f->attention;
    uint32_t workers = pool_threads(f->config.threads);
    a->tiles = calloc(f->config.max_rows, sizeof(*a->tiles));
    a->scratch = calloc(workers, sizeof(attention_scratch *));
    if (a->tiles == NULL || a->scratch == NULL) return -ENOMEM;

    int rc = 0;
    for (uint32_t i = 0; i < workers && rc == 0; i++) {
        rc = attention_scratch_new(&a->scratch[i],
                                   kv_cache_config(f->config.kv));
    }
    return rc;
}

void attention_tiles_fini(forward *f) {
    attention_part *a = &f->attention;
    free(a->tiles);
    if (a->scratch == NULL) return;
    for (uint32_t i = 0; i < pool_threads(f->config.threads); i++) {
        attention_scratch_free(a->scratch[i]);
    }
    free(a->scratch);
}

static const row *live_row(const forward *f, uint32_t i) {
    return &f->rows[f->live[i]];
}

static bool same_tile(const row *a, const row *b) {
    return a->item == b->item && a->position / KV_PAGE == b->position / KV_PAGE;
}

/* Tiles of at most `most` rows; returns how many there are. */
static uint32_t list_tiles(forward *f, uint32_t first, uint32_t n,
                           uint32_t most) {
    row_tile *tiles = f->attention.tiles;
    uint32_t count = 0;
    for (uint32_t i = first; i < first + n; i++) {
        row_tile *last = &tiles[count - (count > 0)];
        if (count > 0 && last->n < most &&
            same_tile(live_row(f, last->first), live_row(f, i))) {
            last->n++;
        } else {
            tiles[count++] = (row_tile){.first = i, .n = 1};
        }
    }
    return count;
}

void attention_tiles_cut(forward *f, uint32_t first, uint32_t n,
                         uint32_t n_kv_heads, uint32_t group) {
    attention_cut *c = &f->attention.cut;
    const uint32_t threads = pool_threads(f->config.threads);
    const bool latent = f->model->attention.kind == ATTENTION_LATENT;
    const size_t heads = latent ? ATTENTION_LATENT_HEADS : ATTENTION_LANES;
    *c = (attention_cut){.n_kv_heads = n_kv_heads, .group = group};

    /* Smaller tiles, then fewer heads, while threads would go without. */
    c->heads = (uint32_t)size_min(group, heads);
    c->parts = (group + c->heads - 1) / c->heads;
    uint32_t most = ATTENTION_LANES / c->heads;
    c->n_tiles = list_tiles(f, first, n, most);
    while (most > 1 && attention_tasks(c) < threads * TASKS_PER_THREAD) {
        most = (most + 1) / 2;
        c->n_tiles = list_tiles(f, first, n, most);
    }
    while (c->heads > 1 && attention_tasks(c) < threads) {
        c->heads = (c->heads + 1) / 2;
        c->parts = (group + c->heads - 1) / c->heads;
    }
}

attention_task attention_task_of(const forward *f, uint32_t task) {
    const attention_part *a = &f->attention;
    const attention_cut *c = &a->cut;
    const uint32_t each = c->n_kv_heads * c->parts;
    attention_task t = {.rows = a->tiles[c->n_tiles - 1 - task / each]};
    t.kv_head = task % each / c->parts;
    t.head = task % c->parts * c->heads;
    t.n_heads = (uint32_t)size_min(c->heads, c->group - t.head);
    return t;
}

attention_query attention_task_query(const forward *f, const attention_task *t,
                                     attention_row *rows) {
    const model_config *m = f->model;
    for (uint32_t i = 0; i < t->rows.n; i++) {
        uint32_t position = live_row(f, t->rows.first + i)->position;
        rows[i].position = position;
        rows[i].first = model_first_key(m, f->layer, position);
    }
    return (attention_query){
        .seq = f->items[live_row(f, t->rows.first)->item].kv,
        .layer = f->layer,
        .kv_head = t->kv_head,
        .group = t->n_heads,
        .scale = m->attention.scale,
        .softcap = m->attention.softcap,
        .n_rows = t->rows.n,
        .rows = rows,
    };
}
