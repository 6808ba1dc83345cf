/* weight_q5_k_avx512.c - Q5_K with AVX-512 and VNNI.
 *
 * A tile is one group: opening the weights takes far longer than an addition's
 * latency, so one row needs no more chains. */
#include "engine/weight_fives_avx512.h"
#include "engine/weight_k_avx512.h"
#include "engine/weight_q5_k.h"

TILE_INLINE const q5_k_packed *block_of(const tile *t, size_t b) {
    return (const q5_k_packed *)(const void *)t->weights + b;
}

/* ---- A8 ---- */

/* acc += A8 block j of stored block b. */
TILE_INLINE void add_part(size_t n_x, const tile *t, size_t b, size_t j,
                          const int8_t *const *x,
                          __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    const q5_k_packed *block = block_of(t, b);
    const size_t at = b * K_LEN + j * ACT_BLOCK;
    __m512i w[FIVES_OPENED], sum[TILE_GROUPS][TILE_ROWS];

    tile_prefetch(n_x, block->values[j][0], FIVES_CHUNKS);
    fives_open(block->values[j][0], w);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        sum[0][i] = _mm512_set1_epi32(TILE_MAGIC_BITS);
        TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
            sum[0][i] = _mm512_dpbusd_epi32(
                sum[0][i], w[c], tile_broadcast_4(x[i] + at + c * 4));
        }
    }
    k_add_block(1, n_x, t, &block->head, j, (at - t->col0) / ACT_BLOCK, 1.0f,
                sum, acc);
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const int8_t *x[TILE_ROWS];

    tile_load_sums(1, n_x, t, acc);
    tile_rows_a8(n_x, t, 0, x);
    for (size_t b = t->col0 / K_LEN; b < t->col1 / K_LEN; b++) {
        for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
            add_part(n_x, t, b, j, x, acc);
        }
    }
    tile_store_sums(1, n_x, t, acc);
}

static void open_panel(const tile *t, size_t n_groups, tile_opened *out) {
    for (size_t b = 0; b < (t->col1 - t->col0) / ACT_BLOCK; b++) {
        const size_t col = t->col0 + b * ACT_BLOCK;
        const size_t j = col % K_LEN / ACT_BLOCK;
        for (size_t g = 0; g < n_groups; g++) {
            const q5_k_packed *block =
                (const void *)((const uint8_t *)block_of(t, col / K_LEN) +
                               g * t->group_bytes);
            fives_open(block->values[j][0],
                       k_open_block(&block->head, j, b, g, out));
        }
    }
}

/* ---- F32 ---- */

/* acc += A8 block j of stored block b.  scale * value is exact (22 bits at
 * most), so the fused subtraction is dequantize()'s. */
TILE_INLINE void add_columns(size_t n_x, const tile *t, size_t b, size_t j,
                             const float *const *x, __m512 *acc) {
    const q5_k_packed *block = block_of(t, b);
    const k_packed_head *head = &block->head;
    __m512i w[FIVES_OPENED];
    fives_open(block->values[j][0], w);
    __m512 scale =
        _mm512_mul_ps(tile_f16(head->scales), tile_bytes(head->subs[j].scales));
    __m512 min =
        _mm512_mul_ps(tile_f16(head->mins), tile_bytes(head->subs[j].mins));

    TILE_UNROLL for (size_t c = 0; c < FIVES_OPENED; c++) {
        TILE_UNROLL for (unsigned k = 0; k < 4; k++) {
            __m512i top = _mm512_slli_epi32(w[c], 24 - 8 * k);
            __m512 value = _mm512_cvtepi32_ps(_mm512_srli_epi32(top, 24));
            __m512 column = _mm512_fmsub_ps(scale, value, min);
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                size_t at = b * K_LEN + j * ACT_BLOCK + c * 4 + k;
                acc[i] =
                    _mm512_fmadd_ps(column, _mm512_set1_ps(x[i][at]), acc[i]);
            }
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const float *x[TILE_ROWS];

    tile_load_sums(1, n_x, t, acc);
    tile_rows_f32(n_x, t, x);
    for (size_t b = t->col0 / K_LEN; b < t->col1 / K_LEN; b++) {
        for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
            add_columns(n_x, t, b, j, x, acc[0]);
        }
    }
    tile_store_sums(1, n_x, t, acc);
}

TILE_PRODUCTS_AVX512_ONE(q5_k, K_PANEL, TILE_OPENED_AVX512(TILE_END_SUB_MIN))
