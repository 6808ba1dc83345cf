/* weight_q0_avx512.h - the heads of weight_q0.h with AVX-512.
 *
 * Private to weight_*_avx512.c. */
#ifndef ENGINE_WEIGHT_Q0_AVX512_H
#define ENGINE_WEIGHT_Q0_AVX512_H

#include "engine/weight_q0.h"
#include "engine/weight_tile_avx512.h"

/* What the head at `head` has for 16 rows; `sub` picks its sub-scales, which
 * come with tile_magic_offset(). */
typedef struct {
    __m512 scale, sub_scale, offset, min;
} q0_factors;

/* weight_e8m0_half() of 16 bytes: (e - 1) << 23, or for 0 and 1 a larger
 * denormal number. */
TILE_INLINE __m512 q0_e8m0(const uint8_t *at) {
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
    __m512i normal =
        _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i denormal =
        _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000),
                          _mm512_min_epi32(e, _mm512_set1_epi32(1)));
    return _mm512_castsi512_ps(_mm512_max_epi32(normal, denormal));
}

TILE_INLINE q0_factors q0_load(q0_head kind, const uint8_t *head, size_t sub) {
    q0_factors f = {0};
    const uint8_t *second = head + Q0_SECOND;
    f.scale = kind == Q0_E8M0 ? q0_e8m0(head) : tile_f16(head);
    if (kind == Q0_F16_MIN) f.min = tile_f16(second);
    if (kind == Q0_F16_SUBS) {
        const void *subs = second + sub * WEIGHT_GROUP;
        f.sub_scale =
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(subs)));
        f.offset = tile_magic_offset(f.sub_scale);
    }
    return f;
}

/* acc += the sums of A8 block b of the panel. */
TILE_INLINE void q0_end_block(const q0_layout *l, size_t n_groups, size_t n_x,
                              const tile *t, size_t b,
                              __m512i sum[TILE_GROUPS][TILE_ROWS],
                              __m512 acc[TILE_GROUPS][TILE_ROWS]) {
    const size_t col = t->col0 + b * Q0_LEN;
    const uint8_t *head = q0_head_at(l, t->weights, col);

    TILE_UNROLL for (size_t g = 0; g < n_groups; g++) {
        q0_factors f = q0_load(l->head, head + g * t->group_bytes, q0_sub(col));
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            const tile_prep *prep = &t->prep[i];
            __m512 x_scale = _mm512_set1_ps(prep->scale[b]);
            __m512 product =
                l->head == Q0_F16_SUBS
                    ? _mm512_fmadd_ps(f.sub_scale,
                                      _mm512_castsi512_ps(sum[g][i]), f.offset)
                    : _mm512_cvtepi32_ps(sum[g][i]);
            acc[g][i] = _mm512_fmadd_ps(_mm512_mul_ps(f.scale, x_scale),
                                        product, acc[g][i]);
            if (l->head == Q0_F16_MIN) {
                acc[g][i] = _mm512_fnmadd_ps(
                    f.min, _mm512_set1_ps(prep->min[b]), acc[g][i]);
            }
        }
    }
}

/* ---- the prepare() and open_panel() of the set ---- */

/* How an opened block ends. */
#define Q0_END(layout)                                                         \
    ((layout).head == Q0_F16_MIN    ? TILE_END_MIN                             \
     : (layout).head == Q0_F16_SUBS ? TILE_END_SUB                             \
                                    : TILE_END_PLAIN)

/* Bytes are `zero` too high. */
TILE_INLINE void q0_prepare(const q0_layout *l, int32_t zero, size_t cols,
                            size_t col0, size_t col1, const void *x,
                            tile_prep *out) {
    int32_t start = l->head == Q0_F16_SUBS ? TILE_MAGIC_BITS : 0;
    tile_prepare_avx512(start, -zero, cols, col0, col1, x, out);
}

/* Open the factors of block b of the panel; its values are to be written to
 * what is returned. */
TILE_INLINE __m512i *q0_open_block(const q0_layout *l, const tile *t, size_t b,
                                   size_t g, tile_opened *out) {
    const size_t col = t->col0 + b * Q0_LEN;
    const uint8_t *group = t->weights + g * t->group_bytes;
    q0_factors f = q0_load(l->head, q0_head_at(l, group, col), q0_sub(col));

    _mm512_store_ps(out->block[b][g].scale, f.scale);
    if (l->head == Q0_F16_MIN) _mm512_store_ps(out->block[b][g].min, f.min);
    if (l->head == Q0_F16_SUBS) {
        _mm512_store_ps(out->block[b][g].sub_scale, f.sub_scale);
        _mm512_store_ps(out->block[b][g].offset, f.offset);
    }
    return (__m512i *)(void *)out->block[b][g].values;
}

/* ---- F32 ---- */

/* The factors of the 32 columns from `col` on of the tile's group g, the
 * sub-scale multiplied into the scale: for F32, exactly. */
TILE_INLINE q0_factors q0_load_f32(const q0_layout *l, const tile *t, size_t g,
                                   size_t col) {
    const uint8_t *group = t->weights + g * t->group_bytes;
    q0_factors f = q0_load(l->head, q0_head_at(l, group, col), q0_sub(col));
    if (l->head == Q0_F16_SUBS) f.scale = _mm512_mul_ps(f.scale, f.sub_scale);
    return f;
}

/* A column's weights.  With a minimum, scale * value is exact (16 bits at
 * most), so the fused subtraction is dequantize()'s. */
TILE_INLINE __m512 q0_weights(const q0_layout *l, const q0_factors *f,
                              __m512 value) {
    if (l->head == Q0_F16_MIN) return _mm512_fmsub_ps(f->scale, value, f->min);
    return _mm512_mul_ps(f->scale, value);
}

#endif
