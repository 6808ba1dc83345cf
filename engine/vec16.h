/* vec16.h - sixteen floats at the level that the including file is built for.
 *
 * A kernel written over v16 is stated once and compiled twice: a file named
 * *_avx2.c defines VEC16_AVX2 and gets two 256-bit registers, one named
 * *_avx512.c defines VEC16_AVX512 and gets one of 512 bits.  Every operation
 * is the IEEE one in each lane, so both give the same bits.  Lane j of a load
 * is element j; `_n` forms touch only the first n lanes (0 to 16) and memory
 * beyond them is not read. */
#ifndef ENGINE_VEC16_H
#define ENGINE_VEC16_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "engine/vmath_internal.h"

#define V16_LANES ((size_t)16)
#define V16_INLINE static inline __attribute__((always_inline, unused))

#if defined(VEC16_AVX512)

typedef __m512 v16;

V16_INLINE __mmask16 v16_mask(size_t n) {
    return (__mmask16)((1u << n) - 1u);
}
V16_INLINE v16 v16_set(float x) {
    return _mm512_set1_ps(x);
}
V16_INLINE v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V16_INLINE v16 v16_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(v16_mask(n), p);
}
V16_INLINE v16 v16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
V16_INLINE v16 v16_load_f16_n(const uint16_t *p, size_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v16_mask(n), p));
}
V16_INLINE v16 v16_load_bf16(const uint16_t *p) {
    __m256i half = _mm256_loadu_si256((const __m256i *)p);
    __m512i wide = _mm512_cvtepu16_epi32(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
V16_INLINE v16 v16_load_i8(const int8_t *p) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
V16_INLINE void v16_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}
V16_INLINE void v16_store_n(float *p, size_t n, v16 a) {
    _mm512_mask_storeu_ps(p, v16_mask(n), a);
}
V16_INLINE v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
V16_INLINE v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
V16_INLINE v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
V16_INLINE v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
V16_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
V16_INLINE v16 v16_neg(v16 a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
/* x > best ? x : best, so that a NaN in x is passed over. */
V16_INLINE v16 v16_max(v16 x, v16 best) {
    return _mm512_max_ps(x, best);
}
/* Lanes p[0], p[0], p[1], p[1], ... p[7], p[7]. */
V16_INLINE v16 v16_load_twice(const float *p) {
    const __m512i from =
        _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    v16 eight = _mm512_castps256_ps512(_mm256_loadu_ps(p));
    return _mm512_permutexvar_ps(from, eight);
}
/* Lanes 1, 0, 3, 2, ... */
V16_INLINE v16 v16_swap_pairs(v16 a) {
    return _mm512_permute_ps(a, 0xb1);
}
V16_INLINE v16 v16_neg_even(v16 a) {
    const __m512i sign = _mm512_set1_epi64(0x80000000);
    return _mm512_xor_ps(a, _mm512_castsi512_ps(sign));
}
/* The first n lanes of a, then those of b. */
V16_INLINE v16 v16_first_n(size_t n, v16 a, v16 b) {
    return _mm512_mask_mov_ps(b, v16_mask(n), a);
}
V16_INLINE __m256 v16_low(v16 a) {
    return _mm512_castps512_ps256(a);
}
V16_INLINE __m256 v16_high(v16 a) {
    return _mm512_extractf32x8_ps(a, 1);
}

/* Bits of a plus those of n shifted into the exponent: a * 2^n, where the low
 * bits of n hold an integer. */
V16_INLINE v16 v16_add_exponent(v16 a, v16 n) {
    __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(a), shifted));
}
/* yes where a < b, else no; a NaN is never less. */
V16_INLINE v16 v16_if_less(v16 a, v16 b, v16 yes, v16 no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
V16_INLINE v16 v16_if_nan(v16 a, v16 yes, v16 no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), yes);
}

#elif defined(VEC16_AVX2)

typedef struct {
    __m256 low, high;
} v16;

/* Lane j of both masks is all ones where j < n. */
V16_INLINE __m256i v16_mask_from(size_t n, int first_lane) {
    __m256i lane = _mm256_add_epi32(_mm256_set1_epi32(first_lane),
                                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
V16_INLINE v16 v16_set(float x) {
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
V16_INLINE v16 v16_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
V16_INLINE v16 v16_load_n(const float *p, size_t n) {
    if (n <= 8) {
        return (v16){_mm256_maskload_ps(p, v16_mask_from(n, 0)),
                     _mm256_setzero_ps()};
    }
    return (v16){_mm256_loadu_ps(p),
                 _mm256_maskload_ps(p + 8, v16_mask_from(n, 8))};
}
V16_INLINE v16 v16_load_f16(const uint16_t *p) {
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
V16_INLINE v16 v16_load_f16_n(const uint16_t *p, size_t n) {
    uint16_t lanes[16] = {0};
    memcpy(lanes, p, n * sizeof(*p));
    return v16_load_f16(lanes);
}
V16_INLINE __m256 v16_load_bf16_half(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
V16_INLINE v16 v16_load_bf16(const uint16_t *p) {
    return (v16){v16_load_bf16_half(p), v16_load_bf16_half(p + 8)};
}
V16_INLINE v16 v16_load_i8(const int8_t *p) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    __m128i high = _mm_unpackhi_epi64(bytes, bytes);
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))};
}
V16_INLINE void v16_store(float *p, v16 a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}
V16_INLINE void v16_store_n(float *p, size_t n, v16 a) {
    _mm256_maskstore_ps(p, v16_mask_from(n, 0), a.low);
    if (n > 8) _mm256_maskstore_ps(p + 8, v16_mask_from(n, 8), a.high);
}
V16_INLINE v16 v16_add(v16 a, v16 b) {
    return (v16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
V16_INLINE v16 v16_sub(v16 a, v16 b) {
    return (v16){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
V16_INLINE v16 v16_mul(v16 a, v16 b) {
    return (v16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
V16_INLINE v16 v16_div(v16 a, v16 b) {
    return (v16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
V16_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low),
                 _mm256_fmadd_ps(a.high, b.high, c.high)};
}
V16_INLINE v16 v16_neg(v16 a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_xor_ps(a.low, sign), _mm256_xor_ps(a.high, sign)};
}
V16_INLINE v16 v16_max(v16 x, v16 best) {
    return (v16){_mm256_max_ps(x.low, best.low),
                 _mm256_max_ps(x.high, best.high)};
}
V16_INLINE v16 v16_load_twice(const float *p) {
    const __m256i first = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    const __m256i second = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    __m256 eight = _mm256_loadu_ps(p);
    return (v16){_mm256_permutevar8x32_ps(eight, first),
                 _mm256_permutevar8x32_ps(eight, second)};
}
V16_INLINE v16 v16_swap_pairs(v16 a) {
    return (v16){_mm256_permute_ps(a.low, 0xb1),
                 _mm256_permute_ps(a.high, 0xb1)};
}
V16_INLINE v16 v16_neg_even(v16 a) {
    const __m256 sign = _mm256_castsi256_ps(_mm256_set1_epi64x(0x80000000));
    return (v16){_mm256_xor_ps(a.low, sign), _mm256_xor_ps(a.high, sign)};
}
V16_INLINE v16 v16_first_n(size_t n, v16 a, v16 b) {
    __m256 low = _mm256_castsi256_ps(v16_mask_from(n, 0));
    __m256 high = _mm256_castsi256_ps(v16_mask_from(n, 8));
    return (v16){_mm256_blendv_ps(b.low, a.low, low),
                 _mm256_blendv_ps(b.high, a.high, high)};
}
V16_INLINE __m256 v16_low(v16 a) {
    return a.low;
}
V16_INLINE __m256 v16_high(v16 a) {
    return a.high;
}

V16_INLINE __m256 v16_add_exponent_half(__m256 a, __m256 n) {
    __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(a), shifted));
}
V16_INLINE v16 v16_add_exponent(v16 a, v16 n) {
    return (v16){v16_add_exponent_half(a.low, n.low),
                 v16_add_exponent_half(a.high, n.high)};
}
V16_INLINE v16 v16_if_less(v16 a, v16 b, v16 yes, v16 no) {
    __m256 low = _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ);
    __m256 high = _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ);
    return (v16){_mm256_blendv_ps(no.low, yes.low, low),
                 _mm256_blendv_ps(no.high, yes.high, high)};
}
V16_INLINE v16 v16_if_nan(v16 a, v16 yes, v16 no) {
    __m256 low = _mm256_cmp_ps(a.low, a.low, _CMP_UNORD_Q);
    __m256 high = _mm256_cmp_ps(a.high, a.high, _CMP_UNORD_Q);
    return (v16){_mm256_blendv_ps(no.low, yes.low, low),
                 _mm256_blendv_ps(no.high, yes.high, high)};
}

#else
#error "define VEC16_AVX2 or VEC16_AVX512 before including vec16.h"
#endif

/* vm_expf() in each lane. */
V16_INLINE v16 v16_exp(v16 x) {
    const v16 round = v16_set(VM_EXPF_ROUND);
    v16 rounded = v16_fma(x, v16_set(VM_EXPF_LOG2E), round);
    v16 n = v16_sub(rounded, round);
    v16 r = v16_fma(n, v16_set(-VM_EXPF_LN2_HI), x);
    r = v16_fma(n, v16_set(-VM_EXPF_LN2_LO), r);

    v16 p = v16_set(VM_EXPF_C6);
    p = v16_fma(p, r, v16_set(VM_EXPF_C5));
    p = v16_fma(p, r, v16_set(VM_EXPF_C4));
    p = v16_fma(p, r, v16_set(VM_EXPF_C3));
    p = v16_fma(p, r, v16_set(VM_EXPF_C2));
    p = v16_fma(p, r, v16_set(1.0f));
    p = v16_fma(p, r, v16_set(1.0f));
    p = v16_add_exponent(p, rounded);

    p = v16_if_less(x, v16_set(VM_EXPF_LOW), v16_set(0.0f), p);
    p = v16_if_less(v16_set(VM_EXPF_HIGH), x, v16_set(INFINITY), p);
    return v16_if_nan(x, v16_set(NAN), p);
}

/* vm_softcapf() in each lane. */
V16_INLINE v16 v16_softcap(v16 x, v16 cap) {
    const v16 one = v16_set(1.0f), two = v16_set(2.0f);
    v16 e = v16_exp(v16_mul(two, v16_div(x, cap)));
    return v16_mul(cap, v16_sub(one, v16_div(two, v16_add(e, one))));
}

/* Lane j += lane j + 8, then + 4, + 2, + 1: the order of vm_sum(). */
V16_INLINE float v16_fold_sum(v16 a) {
    __m256 eight = _mm256_add_ps(v16_low(a), v16_high(a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight),
                             _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The same folds with `x > best ? x : best`: the order of vm_max(). */
V16_INLINE float v16_fold_max(v16 a) {
    __m256 eight = _mm256_max_ps(v16_high(a), v16_low(a));
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1),
                             _mm256_castps256_ps128(eight));
    __m128 two = _mm_max_ps(_mm_movehl_ps(four, four), four);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(two), two));
}

#endif
