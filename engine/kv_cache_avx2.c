/* kv_cache_avx2.c - f32 to f16, eight values an instruction. */
#include "engine/kv_internal.h"

#include <immintrin.h>

void kv_to_f16_avx2(size_t n, const float *x, uint16_t *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i half =
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i),
                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(out + i), half);
    }
    for (; i < n; i++) {
        out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
}
