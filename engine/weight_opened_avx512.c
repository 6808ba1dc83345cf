/* weight_opened_avx512.c - the tiles that multiply opened panels, of any
 * format, with AVX-512 and VNNI.
 *
 * All that is left to do for an activation row and a group is 8 vpdpbusd a
 * block and its end, 3 to 5 float operations, which is what the speed of long
 * prompts comes down to: both run on the same two ports.  A tile is 6 rows of 1
 * or 2 groups, or 4 where a block has two sums; 12 chains of vpdpbusd keep both
 * ports busy, 8 do not. */
#include "engine/weight_tile_avx512.h"

TILE_INLINE __m512 load(const float *at) {
    return _mm512_load_ps(at);
}

/* The sum of block b, as a float, whatever scales it being multiplied in. */
TILE_INLINE __m512 scaled_sum(tile_end end, const tile_opened *w, size_t b,
                              size_t g, __m512i sum, __m512i high) {
    if (end == TILE_END_PLAIN || end == TILE_END_MIN) {
        return _mm512_cvtepi32_ps(sum);
    }
    __m512 scaled = _mm512_fmadd_ps(_mm512_castsi512_ps(sum),
                                    load(w->block[b][g].sub_scale),
                                    load(w->block[b][g].offset));
    if (end != TILE_END_HALVES) return scaled;
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high),
                           load(w->block[b][g].high_scale), scaled);
}

/* acc += block b, whose sums are given. */
TILE_INLINE void end_block(tile_end end, size_t n_groups, size_t n_x,
                           const tile *t, size_t b,
                           __m512i sum[TILE_GROUPS][TILE_ROWS],
                           __m512i high[TILE_GROUPS][TILE_ROWS],
                           __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    const tile_opened *w = t->opened;

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        const tile_prep *prep = &t->prep[i];
        __m512 x_scale = _mm512_set1_ps(prep->scale[b]);
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            __m512 scale = _mm512_mul_ps(x_scale, load(w->block[b][g].scale));
            __m512 product = scaled_sum(end, w, b, g, sum[g][i], high[g][i]);
            acc[g][i] = _mm512_fmadd_ps(scale, product, acc[g][i]);
        }
        if (end != TILE_END_MIN && end != TILE_END_SUB_MIN) continue;
        __m512 x_min = _mm512_set1_ps(prep->min[b]);
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            acc[g][i] =
                _mm512_fnmadd_ps(x_min, load(w->block[b][g].min), acc[g][i]);
        }
    }
}

/* sum += chunks [c0, c1) of block b. */
TILE_INLINE void add_chunks(size_t n_groups, size_t n_x, const tile *t,
                            size_t b, size_t c0, size_t c1,
                            const int8_t *const *x,
                            __m512i sum[TILE_GROUPS][TILE_ROWS]) {
    TILE_UNROLL for (size_t c = c0; c < c1; c++) {
        __m512i w[TILE_GROUPS];
        TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
            w[g] = _mm512_load_si512(t->opened->block[b][g].values[c]);
        }
        tile_add_products(n_groups, n_x, w, x, b * ACT_BLOCK + c * 4, sum);
    }
}

TILE_INLINE void mul_opened(tile_end end, size_t n_groups, size_t n_x,
                            const tile *t) {
    const size_t n_chunks = ACT_BLOCK / 4;
    const size_t first = end == TILE_END_HALVES ? n_chunks / 2 : n_chunks;
    const size_t n_blocks = (t->col1 - t->col0) / ACT_BLOCK;
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];

    tile_load_sums(n_groups, n_x, t, acc);
    tile_rows_a8(n_x, t, t->col0, x);
    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sum[TILE_GROUPS][TILE_ROWS], high[TILE_GROUPS][TILE_ROWS];
        tile_start_block(n_groups, n_x, t, b, sum);
        add_chunks(n_groups, n_x, t, b, 0, first, x, sum);
        if (end == TILE_END_HALVES) {
            tile_start_high(n_groups, n_x, t, b, high);
            add_chunks(n_groups, n_x, t, b, first, n_chunks, x, high);
        }
        end_block(end, n_groups, n_x, t, b, sum, high, acc);
    }
    tile_store_sums(n_groups, n_x, t, acc);
}

#define OPENED_TILE(end, id, g, n)                                             \
    static void id##_##g##x##n(const tile *t) {                                \
        mul_opened(end, g, n, t);                                              \
    }
#define OPENED_TILES(end, id)                                                  \
    OPENED_TILE(end, id, 1, 1)                                                 \
    OPENED_TILE(end, id, 1, 2)                                                 \
    OPENED_TILE(end, id, 1, 4)                                                 \
    OPENED_TILE(end, id, 2, 1)                                                 \
    OPENED_TILE(end, id, 2, 2)                                                 \
    OPENED_TILE(end, id, 2, 4)
#define OPENED_TILES_OF_6(end, id)                                             \
    OPENED_TILES(end, id)                                                      \
    OPENED_TILE(end, id, 1, 6)                                                 \
    OPENED_TILE(end, id, 2, 6)

OPENED_TILES_OF_6(TILE_END_PLAIN, plain)
OPENED_TILES_OF_6(TILE_END_MIN, min)
OPENED_TILES_OF_6(TILE_END_SUB, sub)
OPENED_TILES_OF_6(TILE_END_SUB_MIN, sub_min)
OPENED_TILES(TILE_END_HALVES, halves)

#define OPENED_SET_OF_6(id)                                                    \
    {                                                                          \
        .rows = {1, 2, 4, 6},                                                  \
        .mul = {{id##_1x1, id##_1x2, id##_1x4, id##_1x6},                      \
                {id##_2x1, id##_2x2, id##_2x4, id##_2x6}},                     \
    }

const tile_set tile_opened_avx512[TILE_ENDS] = {
    [TILE_END_PLAIN] = OPENED_SET_OF_6(plain),
    [TILE_END_MIN] = OPENED_SET_OF_6(min),
    [TILE_END_SUB] = OPENED_SET_OF_6(sub),
    [TILE_END_SUB_MIN] = OPENED_SET_OF_6(sub_min),
    [TILE_END_HALVES] =
        {
            .rows = {1, 2, 4},
            .mul = {{halves_1x1, halves_1x2, halves_1x4},
                    {halves_2x1, halves_2x2, halves_2x4}},
        },
};
