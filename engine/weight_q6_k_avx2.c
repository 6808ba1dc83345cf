/* weight_q6_k_avx2.c - Q6_K with AVX2.
 *
 * Packed weights are value + 32, at most 63, so two pairs of products are at
 * most 4 * 63 * 127 = 32004 and nothing saturates 16 bits: a sub-block's chunks
 * are added two by two before they are widened.  Widening multiplies by the
 * sub-scale.  Minus 32 * (sum of the activations), too large for 16 bits, is
 * added as two halves, which widening adds up. */
#include "engine/weight_q6_k.h"
#include "engine/weight_tile_avx2.h"

#define CHUNKS 4 /* of an opened sub-block */
#define HALF_CHUNK (Q6_K_CHUNK / 2)

/* Half the chunks of a sub-block, 8 rows: values 0 to 63. */
TILE_INLINE void open_sub(const uint8_t at[Q6_K_SUB_CHUNKS][Q6_K_CHUNK],
                          size_t half, __m256i w[CHUNKS]) {
    const __m256i six_bits = _mm256_set1_epi8(63);
    __m256i top[Q6_K_SUB_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < Q6_K_SUB_CHUNKS; c++) {
        __m256i packed =
            _mm256_loadu_si256((const __m256i *)(at[c] + half * HALF_CHUNK));
        w[c] = _mm256_and_si256(packed, six_bits);
        top[c] = _mm256_andnot_si256(six_bits, packed);
    }
    w[3] = _mm256_or_si256(_mm256_srli_epi16(top[0], 6),
                           _mm256_or_si256(_mm256_srli_epi16(top[1], 4),
                                           _mm256_srli_epi16(top[2], 2)));
}

/* 8 sub-scales, each in both 16-bit parts of its lane. */
TILE_INLINE __m256i load_sub_scales(const int8_t *at) {
    const __m256i twice =
        _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0,
                         1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
    __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at));
    return _mm256_shuffle_epi8(wide, twice);
}

/* ---- A8 ---- */

/* sub_scale * (sum of a sub-block's products); `bias` is two 16-bit numbers
 * that correct the sum. */
TILE_INLINE __m256i dot(int32_t bias, __m256i sub_scale,
                        const __m256i w[CHUNKS], const int8_t *x) {
    __m256i sum = _mm256_madd_epi16(sub_scale, _mm256_set1_epi32(bias));
    TILE_UNROLL for (size_t c = 0; c < CHUNKS; c += 2) {
        __m256i pairs = _mm256_add_epi16(
            _mm256_maddubs_epi16(w[c], tile_broadcast_4(x + c * 4)),
            _mm256_maddubs_epi16(w[c + 1], tile_broadcast_4(x + c * 4 + 4)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, sub_scale));
    }
    return sum;
}

/* acc[half][i] += half the rows of A8 block `j` of a block times n_x rows; `at`
 * is its place in the panel. */
TILE_INLINE void add_half(size_t n_x, const tile *t, const q6_k_packed *w,
                          size_t j, size_t at, size_t half,
                          __m256 acc[TILE_ROWS]) {
    __m256i sum[TILE_ROWS];
    TILE_UNROLL for (size_t k = 0; k < 2; k++) {
        const size_t sub = 2 * j + k;
        __m256i chunks[CHUNKS];
        open_sub(w->values[sub], half, chunks);
        __m256i sub_scale = load_sub_scales(w->sub_scales[sub] + half * 8);
        TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
            const tile_prep *prep = &t->prep[i];
            const int8_t *x = act_values(t->cols, t->x[i]) + t->col0 +
                              at * ACT_BLOCK + k * Q6_K_SUB;
            int32_t bias = k == 0 ? prep->bias[at] : prep->bias_high[at];
            __m256i part = dot(bias, sub_scale, chunks, x);
            sum[i] = k == 0 ? part : _mm256_add_epi32(sum[i], part);
        }
    }
    __m256 scale = tile_f16(w->scales + half * 8);
    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        __m256 x_scale = _mm256_set1_ps(t->prep[i].scale[at]);
        acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(scale, x_scale),
                                 _mm256_cvtepi32_ps(sum[i]), acc[i]);
    }
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];
    const q6_k_packed *w = (const q6_k_packed *)t->weights + t->col0 / K_LEN;
    const size_t n_blocks = (t->col1 - t->col0) / K_LEN;

    tile_load_sums(n_x, t, acc);
    for (size_t b = 0; b < n_blocks; b++, w++) {
        for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
            tile_prefetch(n_x, w->values[2 * j][0], 2 * Q6_K_SUB_CHUNKS);
            TILE_UNROLL for (size_t half = 0; half < 2; half++) {
                add_half(n_x, t, w, j, b * K_ACT_BLOCKS + j, half, acc[half]);
            }
        }
    }
    tile_store_sums(n_x, t, acc);
}

/* -16 * sum, twice: at most 16 * 16 * 127 = 32512. */
static int32_t bias_pair(int32_t sum) {
    uint16_t half = (uint16_t)(-(Q6_K_OFFSET / 2) * sum);
    return (int32_t)((uint32_t)half << 16 | half);
}

static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / ACT_BLOCK;

    for (size_t b = 0; b < (col1 - col0) / ACT_BLOCK; b++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(values + b * 32));
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), v);
        __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        sum = _mm256_hadd_epi32(sum, sum);
        sum = _mm256_hadd_epi32(sum, sum);
        out->bias[b] = bias_pair(_mm256_extract_epi32(sum, 0));
        out->bias_high[b] = bias_pair(_mm256_extract_epi32(sum, 4));
        out->scale[b] = scales[b];
    }
}

/* ---- F32 ---- */

/* The weights of 8 rows at one of a chunk's four columns. */
TILE_INLINE __m256 column_of(__m256i chunk, int j, __m256 scale) {
    __m256i top = _mm256_slli_epi32(chunk, 24 - 8 * j);
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24)));
}

/* acc[i] += 8 rows of a sub-block times n_x rows. */
TILE_INLINE void add_sub(size_t n_x, const tile *t, size_t col, size_t half,
                         __m256 acc[TILE_ROWS]) {
    const q6_k_packed *at = (const q6_k_packed *)t->weights + col / K_LEN;
    const size_t sub = col % K_LEN / Q6_K_SUB;
    __m256i w[CHUNKS];
    open_sub(at->values[sub], half, w);
    __m256 sub_scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
        _mm_loadl_epi64((const __m128i *)(at->sub_scales[sub] + half * 8))));
    __m256 scale = _mm256_mul_ps(tile_f16(at->scales + half * 8), sub_scale);

    TILE_UNROLL for (size_t c = 0; c < CHUNKS; c++) {
        __m256i signed_w = _mm256_sub_epi8(w[c], _mm256_set1_epi8(Q6_K_OFFSET));
        TILE_UNROLL for (int j = 0; j < 4; j++) {
            __m256 column = column_of(signed_w, j, scale);
            TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                const float *x = t->x[i];
                __m256 value = _mm256_set1_ps(x[col + c * 4 + (size_t)j]);
                acc[i] = _mm256_fmadd_ps(column, value, acc[i]);
            }
        }
    }
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m256 acc[2][TILE_ROWS];

    tile_load_sums(n_x, t, acc);
    for (size_t col = t->col0; col < t->col1; col += Q6_K_SUB) {
        TILE_UNROLL for (size_t half = 0; half < 2; half++) {
            add_sub(n_x, t, col, half, acc[half]);
        }
    }
    tile_store_sums(n_x, t, acc);
}

TILE_PRODUCTS_AVX2(q6_k, K_PANEL, prepare)
