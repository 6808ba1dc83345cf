/* weight_tile.h - cuts a product into tiles whose sums stay in registers.
 *
 * Private to the kernels of the fast CPU levels.  A tile is 1, 2 or 4 groups of
 * weight rows times 1 to 8 activation rows over a panel of columns.
 * Several activation rows share each load of weights; several groups share each
 * load of activations and, for a single row, keep enough independent sums in
 * flight to hide the FMA's latency.  A panel of two groups fits half the
 * first-level cache, where it meets one activation row after the other.
 *
 * With many activation rows a panel's weights are opened first: its values
 * become bytes and its factors floats, 26 KiB that stay in the first-level
 * cache while one activation row after the other meets them.  Opened panels
 * look alike in all formats, so the tiles that multiply them are shared.
 *
 * Which tiles there are changes no bit: a sum is one lane of one tile, and goes
 * from panel to panel through y. */
#ifndef ENGINE_WEIGHT_TILE_H
#define ENGINE_WEIGHT_TILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/weight_kernels.h"

#define TILE_GROUPS 4      /* of weights, at most */
#define TILE_ROWS 8        /* of activations, at most */
#define TILE_BATCH 128     /* activation rows that are prepared at a time */
#define TILE_BLOCKS 16     /* A8 blocks of a panel, at most, if prepared */
#define TILE_OPEN_ROWS 12  /* so many are worth opening the weights first */
#define TILE_OPEN_GROUPS 2 /* that are opened at a time */

/* Of the blocks of a row's panel, what a kernel would otherwise compute once
 * for each tile that they take part in. */
typedef struct {
    _Alignas(64) int32_t bias[TILE_BLOCKS]; /* what the format derives from the
                                               sum of a block's values, */
    int32_t bias_high[TILE_BLOCKS]; /* or, with sub-blocks of 16, its halves' */
    float min[TILE_BLOCKS]; /* scale * sum, for formats with a minimum */
    float scale[TILE_BLOCKS];
} tile_prep;

/* A8 blocks of some groups, opened.  A format leaves what its end of a block
 * (see the opened tiles of the level) does not use as it is. */
typedef struct {
    _Alignas(64) struct {
        uint8_t values[ACT_BLOCK / 4][WEIGHT_GROUP * 4]; /* unsigned */
        float scale[WEIGHT_GROUP];
        float sub_scale[WEIGHT_GROUP];
        float offset[WEIGHT_GROUP];     /* added to the scaled sum */
        float high_scale[WEIGHT_GROUP]; /* the second sub-scale of a block */
        float min[WEIGHT_GROUP];
    } block[TILE_BLOCKS][TILE_OPEN_GROUPS];
} tile_opened;

typedef struct {
    const uint8_t *weights; /* first group, whole */
    size_t group_bytes;
    size_t cols, col0, col1;   /* the matrix's width; the panel */
    const void *const *x;      /* whole rows */
    const tile_prep *prep;     /* of each row */
    const tile_opened *opened; /* instead of weights, for tiles of them */
    float *const *y;
    size_t lane0; /* of y, for the first group's first row */
    bool first;   /* sums start at zero, else at y */
} tile;

typedef void (*tile_mul)(const tile *t);

#define TILE_SIZES 4 /* different numbers of activation rows */

typedef struct tile_set tile_set;
struct tile_set {
    size_t rows[TILE_SIZES]; /* of a tile: 1, then ascending; 0 ends them */
    /* by log2 of the groups and by place in `rows`; a NULL means too many
     * registers.  If a tile exists, so do all smaller ones. */
    tile_mul mul[3][TILE_SIZES];
    size_t panel; /* columns, a multiple of the block */
    /* Prepare the blocks of columns [col0, col1) of one row; may be NULL. */
    void (*prepare)(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out);
    /* Open the first n_groups of the tile's panel, and what multiplies them;
     * NULL where that does not pay. */
    void (*open)(const tile *t, size_t n_groups, tile_opened *out);
    const tile_set *opened;
};

/* A prepare() for levels that have AVX2: `bias` is a pair of int16, the sums of
 * the block's halves times `factor`, which is at most 16. */
void tile_prepare_halves(int32_t factor, size_t cols, size_t col0, size_t col1,
                         const void *x, tile_prep *out);

/* The weight_mul of a level: the arguments of weight.h. */
void tile_run(const tile_set *set, size_t group_bytes, WEIGHT_MUL_ARGS);

#define TILE_INLINE static inline __attribute__((always_inline))

/* Unroll a loop over groups, rows or halves, so that arrays indexed by it live
 * in registers. */
#define TILE_UNROLL _Pragma("GCC unroll 16")

/* Ask for the chunks, a cache line each, that a single row, which is as fast as
 * memory, wants 32 chunks after these. */
TILE_INLINE void tile_prefetch(size_t n_x, const uint8_t *at, size_t chunks) {
    if (n_x != 1) return;
    TILE_UNROLL for (size_t c = 0; c < chunks; c++) {
        __builtin_prefetch(at + (32 + c) * 64);
    }
}

/* The tile's rows of activations; A8 ones from column `col` on. */
TILE_INLINE void tile_rows_a8(size_t n_x, const tile *t, size_t col,
                              const int8_t *x[TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = act_values(t->cols, t->x[i]) + col;
    }
}
TILE_INLINE void tile_rows_f32(size_t n_x, const tile *t,
                               const float *x[TILE_ROWS]) {
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        x[i] = t->x[i];
    }
}

/* ---- the end of an integer format's file ----
 *
 * The file has a tile of any size in mul_tile_a8() and mul_tile_f32(), always
 * inlined.  A tile_mul is one of them with its size fixed: g groups and n rows,
 * or n rows where the level or the format has tiles of one group only. */
#define TILE_OF_GROUPS(form, g, n)                                             \
    static void form##_##g##x##n(const tile *t) {                              \
        mul_tile_##form(g, n, t);                                              \
    }
#define TILE_OF_ONE(form, n)                                                   \
    static void form##_1x##n(const tile *t) {                                  \
        mul_tile_##form(n, t);                                                 \
    }

/* weight_<id>_mul_<form>_<level>(), with the rest of the set behind. */
#define TILE_PRODUCT(id, form, level, n_panel, ...)                            \
    void weight_##id##_mul_##form##_##level(WEIGHT_MUL_ARGS) {                 \
        static const tile_set set = {.panel = n_panel, __VA_ARGS__};           \
        tile_run(&set, id##_group_bytes(cols), packed, cols, group0, group1,   \
                 col0, col1, x, n_x, y);                                       \
    }

#endif
