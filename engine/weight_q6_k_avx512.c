/* weight_q6_k_avx512.c - Q6_K with AVX-512 and VNNI.
 *
 * vpdpbusd wants unsigned weights, which are packed as value + 32: the sum of a
 * sub-block starts at minus 32 * (sum of its activations), prepared once per
 * panel.  The two sums of a block are then scaled and added as floats: every
 * step stays an integer below 2^24, so this is the exact integer sum, and
 * cheaper than 32-bit integer products.  The first sum starts at
 * TILE_MAGIC_BITS, too.
 *
 * A tile is one group: opening the weights takes far longer than an addition's
 * latency, so one row needs no more chains. */
#include "engine/weight_q6_k.h"
#include "engine/weight_tile_avx512.h"

#define CHUNKS 4 /* of an opened sub-block */

/* The chunks of a sub-block, values 0 to 63. */
TILE_INLINE void open_sub(const uint8_t at[Q6_K_SUB_CHUNKS][Q6_K_CHUNK],
                          __m512i w[CHUNKS]) {
    const __m512i six_bits = _mm512_set1_epi8(63);
    __m512i packed[Q6_K_SUB_CHUNKS];
    TILE_UNROLL for (size_t c = 0; c < Q6_K_SUB_CHUNKS; c++) {
        packed[c] = _mm512_loadu_si512(at[c]);
        w[c] = _mm512_and_si512(packed[c], six_bits);
    }
    __m512i low = _mm512_srli_epi16(packed[0], 6);
    __m512i middle = _mm512_srli_epi16(packed[1], 4);
    __m512i high = _mm512_srli_epi16(packed[2], 2);
    __m512i last =
        tile_select_bits(0x0f, tile_select_bits(0x03, low, middle), high);
    w[3] = _mm512_and_si512(last, six_bits);
}

TILE_INLINE __m512 load_sub_scales(const int8_t *at) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

/* ---- A8 ---- */

TILE_INLINE __m512i dot(int32_t bias, const __m512i w[CHUNKS],
                        const int8_t *x) {
    __m512i sum = _mm512_set1_epi32(bias);
    TILE_UNROLL for (size_t c = 0; c < CHUNKS; c++) {
        sum = _mm512_dpbusd_epi32(sum, w[c], tile_broadcast_4(x + c * 4));
    }
    return sum;
}

/* acc[i] += A8 block `j` of a block times n_x rows; `at` is its place in the
 * panel. */
TILE_INLINE void add_block(size_t n_x, const tile *t, const q6_k_packed *w,
                           size_t j, size_t at, __m512 acc[TILE_ROWS]) {
    __m512i low[CHUNKS], high[CHUNKS];

    tile_prefetch(n_x, w->values[2 * j][0], 2 * Q6_K_SUB_CHUNKS);
    open_sub(w->values[2 * j], low);
    open_sub(w->values[2 * j + 1], high);
    __m512 scale = tile_f16(w->scales);
    __m512 low_scale = load_sub_scales(w->sub_scales[2 * j]);
    __m512 high_scale = load_sub_scales(w->sub_scales[2 * j + 1]);
    __m512 offset = tile_magic_offset(low_scale);

    TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
        const tile_prep *prep = &t->prep[i];
        const int8_t *x =
            act_values(t->cols, t->x[i]) + t->col0 + at * ACT_BLOCK;
        __m512i low_sum = dot(prep->bias[at], low, x);
        __m512i high_sum = dot(prep->bias_high[at], high, x + Q6_K_SUB);
        __m512 sum =
            _mm512_fmadd_ps(low_scale, _mm512_castsi512_ps(low_sum), offset);
        sum = _mm512_fmadd_ps(high_scale, _mm512_cvtepi32_ps(high_sum), sum);
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(prep->scale[at]));
        acc[i] = _mm512_fmadd_ps(both, sum, acc[i]);
    }
}

TILE_INLINE void mul_tile_a8(size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];
    const q6_k_packed *w = (const q6_k_packed *)t->weights + t->col0 / K_LEN;
    const size_t n_blocks = (t->col1 - t->col0) / K_LEN;

    tile_load_sums(1, n_x, t, acc);
    for (size_t b = 0; b < n_blocks; b++, w++) {
        for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
            add_block(n_x, t, w, j, b * K_ACT_BLOCKS + j, acc[0]);
        }
    }
    tile_store_sums(1, n_x, t, acc);
}

/* The sums of a block's two halves. */
static void prepare(size_t cols, size_t col0, size_t col1, const void *x,
                    tile_prep *out) {
    const int8_t *values = act_values(cols, x) + col0;
    const float *scales = act_scales(x) + col0 / ACT_BLOCK;

    for (size_t b = 0; b < (col1 - col0) / ACT_BLOCK; b++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(values + b * 32));
        __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(),
                                          _mm256_set1_epi8(Q6_K_OFFSET), v);
        sum = _mm256_hadd_epi32(sum, sum);
        sum = _mm256_hadd_epi32(sum, sum);
        out->bias[b] = TILE_MAGIC_BITS - _mm256_extract_epi32(sum, 0);
        out->bias_high[b] = -_mm256_extract_epi32(sum, 4);
        out->scale[b] = scales[b];
    }
}

static void open_panel(const tile *t, size_t n_groups, tile_opened *out) {
    for (size_t b = 0; b < (t->col1 - t->col0) / ACT_BLOCK; b++) {
        const size_t col = t->col0 + b * ACT_BLOCK;
        const size_t sub = col % K_LEN / Q6_K_SUB;
        for (size_t g = 0; g < n_groups; g++) {
            const void *group = t->weights + g * t->group_bytes;
            const q6_k_packed *from = (const q6_k_packed *)group + col / K_LEN;
            __m512i *w = (void *)out->block[b][g].values;
            __m512 low_scale = load_sub_scales(from->sub_scales[sub]);
            open_sub(from->values[sub], w);
            open_sub(from->values[sub + 1], w + CHUNKS);
            _mm512_store_ps(out->block[b][g].scale, tile_f16(from->scales));
            _mm512_store_ps(out->block[b][g].sub_scale, low_scale);
            _mm512_store_ps(out->block[b][g].offset,
                            tile_magic_offset(low_scale));
            _mm512_store_ps(out->block[b][g].high_scale,
                            load_sub_scales(from->sub_scales[sub + 1]));
        }
    }
}

/* ---- F32 ---- */

/* The weights of 16 rows at one of a chunk's four columns. */
TILE_INLINE __m512 column_of(__m512i chunk, unsigned j, __m512 scale) {
    __m512i top = _mm512_slli_epi32(chunk, 24 - 8 * j);
    return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24)));
}

TILE_INLINE void mul_tile_f32(size_t n_x, const tile *t) {
    __m512 acc[TILE_GROUPS][TILE_ROWS];

    tile_load_sums(1, n_x, t, acc);
    for (size_t col = t->col0; col < t->col1; col += Q6_K_SUB) {
        const q6_k_packed *at = (const q6_k_packed *)t->weights + col / K_LEN;
        const size_t sub = col % K_LEN / Q6_K_SUB;
        __m512i w[CHUNKS];
        open_sub(at->values[sub], w);
        __m512 scale = _mm512_mul_ps(tile_f16(at->scales),
                                     load_sub_scales(at->sub_scales[sub]));
        TILE_UNROLL for (size_t c = 0; c < CHUNKS; c++) {
            __m512i signed_w =
                _mm512_sub_epi8(w[c], _mm512_set1_epi8(Q6_K_OFFSET));
            TILE_UNROLL for (unsigned j = 0; j < 4; j++) {
                __m512 column = column_of(signed_w, j, scale);
                TILE_UNROLL for (size_t i = 0; i < n_x; i++) {
                    const float *x = t->x[i];
                    __m512 value = _mm512_set1_ps(x[col + c * 4 + j]);
                    acc[0][i] = _mm512_fmadd_ps(column, value, acc[0][i]);
                }
            }
        }
    }
    tile_store_sums(1, n_x, t, acc);
}

TILE_PRODUCTS_AVX512_ONE(q6_k, K_PANEL, TILE_OPENED_AVX512(TILE_END_HALVES))
