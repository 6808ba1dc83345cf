/* weight_tile.c - the loops around the tiles; see weight_tile.h.
 *
 * From the outside in: panels of columns, batches of activation rows, groups of
 * weights, activation rows.  A panel of all the groups of a pool task is small
 * enough for the second-level cache, where the batches find it again.
 *
 * Where a level opens the weights of many rows first, that is done for two
 * groups and one batch at a time.
 *
 * A single activation row, a token that is decoded, reads each weight once and
 * is as fast as memory.  It takes the groups of a tile from panel to panel
 * before the next ones, so that memory is read in the order it lies in. */
#include "engine/weight_tile.h"

#include <assert.h>
#include "engine/util.h"

#define LINE 64 /* bytes that memory gives at once */

/* The place in `rows` of the most rows that are not more than n. */
static size_t pick_rows(const tile_set *set, size_t n) {
    size_t i = 0;
    while (i + 1 < TILE_SIZES && set->rows[i + 1] != 0 &&
           set->rows[i + 1] <= n) {
        i++;
    }
    return i;
}

/* log2 of the most groups, not more than n, for tiles of that many rows. */
static size_t pick_groups(const tile_set *set, size_t n, size_t rows) {
    size_t log = 0;
    while ((size_t)1 << log < TILE_GROUPS && (size_t)2 << log <= n &&
           set->mul[log + 1][rows] != NULL) {
        log++;
    }
    return log;
}

/* Rows [row0, row1) of n_rows ask for their share of the panel of the `n_next`
 * groups that come after the tile's n_groups.  Spread like this the weights
 * arrive while these are multiplied; all at once they would wait for memory,
 * whose own prefetching ends with each group's part of the panel. */
static void ask_ahead(const tile *t, size_t n_groups, size_t n_next,
                      size_t row0, size_t row1, size_t n_rows) {
    size_t at = t->group_bytes * t->col0 / t->cols;
    size_t bytes = t->group_bytes * (t->col1 - t->col0) / t->cols;
    for (size_t g = n_groups; g < n_groups + n_next; g++) {
        const uint8_t *panel = t->weights + g * t->group_bytes + at;
        for (size_t i = bytes * row0 / n_rows; i < bytes * row1 / n_rows;
             i += LINE) {
            __builtin_prefetch(panel + i, 0, 2);
        }
    }
}

/* All rows of a batch over some groups, before n_next others: wide tiles first,
 * then what is left. */
static void run_rows(const tile_set *set, tile t, size_t group_log,
                     size_t n_next, size_t n_x) {
    for (size_t row = 0; row < n_x;) {
        size_t rows = pick_rows(set, n_x - row);
        size_t n = set->rows[rows];
        ask_ahead(&t, (size_t)1 << group_log, n_next, row, row + n, n_x);
        set->mul[group_log][rows](&t);
        t.x += n;
        t.y += n;
        if (t.prep != NULL) t.prep += n;
        row += n;
    }
}

static void run_opened(const tile_set *set, tile t, size_t n_groups,
                       size_t n_x) {
    tile_opened opened;
    t.opened = &opened;
    while (n_groups > 0) {
        size_t n = size_min(n_groups, TILE_OPEN_GROUPS);
        n_groups -= n;
        set->open(&t, n, &opened);
        run_rows(set->opened, t, n - 1, size_min(n, n_groups), n_x);
        t.weights += n * t.group_bytes;
        t.lane0 += n * WEIGHT_GROUP;
    }
}

static void run_groups(const tile_set *set, tile t, size_t n_groups,
                       size_t n_x) {
    size_t rows = pick_rows(set, n_x);
    while (n_groups > 0) {
        size_t group_log = pick_groups(set, n_groups, rows);
        size_t n = (size_t)1 << group_log;
        n_groups -= n;
        run_rows(set, t, group_log, size_min(n, n_groups), n_x);
        t.weights += n * t.group_bytes;
        t.lane0 += n * WEIGHT_GROUP;
    }
}

static void run_batch(const tile_set *set, tile t, size_t n_groups,
                      size_t n_x) {
    tile_prep prep[TILE_BATCH];
    if (set->prepare != NULL) {
        for (size_t i = 0; i < n_x; i++) {
            set->prepare(t.cols, t.col0, t.col1, t.x[i], &prep[i]);
        }
        t.prep = prep;
    }
    if (set->open != NULL && n_x >= TILE_OPEN_ROWS) {
        run_opened(set, t, n_groups, n_x);
    } else {
        run_groups(set, t, n_groups, n_x);
    }
}

/* The tile of the panel that begins at column `col` of [col0, col1). */
static tile at_panel(const tile_set *set, tile t, size_t col0, size_t col1,
                     size_t col) {
    t.col0 = col;
    t.col1 = size_min(col + set->panel, col1);
    t.first = col == col0;
    return t;
}

/* The tile's one row over all panels; at most TILE_BATCH of them. */
static void run_single(const tile_set *set, tile t, size_t n_groups,
                       size_t col0, size_t col1) {
    tile_prep prep[TILE_BATCH]; /* of each panel */
    tile panels[TILE_BATCH];
    size_t n_panels = 0;
    for (size_t col = col0; col < col1; col += set->panel) {
        tile *p = &panels[n_panels];
        *p = at_panel(set, t, col0, col1, col);
        if (set->prepare != NULL) {
            set->prepare(p->cols, p->col0, p->col1, p->x[0], &prep[n_panels]);
            p->prep = &prep[n_panels];
        }
        n_panels++;
    }

    for (size_t g = 0; g < n_groups;) {
        size_t group_log = pick_groups(set, n_groups - g, 0);
        for (size_t i = 0; i < n_panels; i++) {
            tile p = panels[i];
            p.weights += g * t.group_bytes;
            p.lane0 += g * WEIGHT_GROUP;
            set->mul[group_log][0](&p);
        }
        g += (size_t)1 << group_log;
    }
}

void tile_run(const tile_set *set, size_t group_bytes, WEIGHT_MUL_ARGS) {
    assert(col0 < col1 && col1 <= cols && group0 <= group1);

    tile t = {
        .weights = (const uint8_t *)packed + group0 * group_bytes,
        .group_bytes = group_bytes,
        .cols = cols,
        .x = x,
        .y = y,
    };
    if (n_x == 1 && col1 - col0 <= TILE_BATCH * set->panel) {
        run_single(set, t, group1 - group0, col0, col1);
        return;
    }
    /* batches about as large: few rows are slower than their share */
    size_t n_batches = (n_x + TILE_BATCH - 1) / TILE_BATCH;
    size_t batch = n_x > 0 ? (n_x + n_batches - 1) / n_batches : 0;
    for (size_t col = col0; col < col1; col += set->panel) {
        tile panel = at_panel(set, t, col0, col1, col);
        for (size_t i = 0; i < n_x; i += batch) {
            panel.x = x + i;
            panel.y = y + i;
            run_batch(set, panel, group1 - group0, size_min(n_x - i, batch));
        }
    }
}
