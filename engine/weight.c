/* weight.c - the table of formats, their names, and 16-bit floats. */
#include "engine/weight.h"

#include <math.h>
#include <string.h>
#include "engine/util.h"
#include "engine/weight_kernels.h"

/* Every number that a GGUF file may store, whether we compute with it or not:
 * texts and sizes need the others too.  A hole in the numbering has no name. */
static const struct {
    const char *name;
    uint16_t block_len;
    uint16_t block_bytes;
    const weight_format *format;
} types[] = {
    /* clang-format off */
    [WEIGHT_F32]    = { "f32",       1,   4, &weight_f32  },
    [WEIGHT_F16]    = { "f16",       1,   2, &weight_f16  },
    [WEIGHT_Q4_0]   = { "q4_0",     32,  18, &weight_q4_0 },
    [WEIGHT_Q4_1]   = { "q4_1",     32,  20, &weight_q4_1 },
    [WEIGHT_Q5_0]   = { "q5_0",     32,  22, &weight_q5_0 },
    [WEIGHT_Q5_1]   = { "q5_1",     32,  24, &weight_q5_1 },
    [WEIGHT_Q8_0]   = { "q8_0",     32,  34, &weight_q8_0 },
    [9]             = { "q8_1",     32,  36, NULL },
    [WEIGHT_Q2_K]   = { "q2_k",    256,  84, &weight_q2_k },
    [WEIGHT_Q3_K]   = { "q3_k",    256, 110, &weight_q3_k },
    [WEIGHT_Q4_K]   = { "q4_k",    256, 144, &weight_q4_k },
    [WEIGHT_Q5_K]   = { "q5_k",    256, 176, &weight_q5_k },
    [WEIGHT_Q6_K]   = { "q6_k",    256, 210, &weight_q6_k },
    [15]            = { "q8_k",    256, 292, NULL },
    [16]            = { "iq2_xxs", 256,  66, NULL },
    [17]            = { "iq2_xs",  256,  74, NULL },
    [18]            = { "iq3_xxs", 256,  98, NULL },
    [19]            = { "iq1_s",   256,  50, NULL },
    [WEIGHT_IQ4_NL] = { "iq4_nl",   32,  18, &weight_iq4_nl },
    [21]            = { "iq3_s",   256, 110, NULL },
    [22]            = { "iq2_s",   256,  82, NULL },
    [WEIGHT_IQ4_XS] = { "iq4_xs",  256, 136, &weight_iq4_xs },
    [24]            = { "i8",        1,   1, NULL },
    [25]            = { "i16",       1,   2, NULL },
    [26]            = { "i32",       1,   4, NULL },
    [27]            = { "i64",       1,   8, NULL },
    [28]            = { "f64",       1,   8, NULL },
    [29]            = { "iq1_m",   256,  56, NULL },
    [WEIGHT_BF16]   = { "bf16",      1,   2, &weight_bf16 },
    [34]            = { "tq1_0",   256,  54, NULL },
    [35]            = { "tq2_0",   256,  66, NULL },
    [WEIGHT_MXFP4]  = { "mxfp4",    32,  17, &weight_mxfp4 },
    /* clang-format on */
};

const weight_format *weight_format_find(uint32_t type) {
    return type < ARRAY_LEN(types) ? types[type].format : NULL;
}

const char *weight_type_name(uint32_t type) {
    return type < ARRAY_LEN(types) ? types[type].name : NULL;
}

bool weight_type_size(uint32_t type, size_t *block_len, size_t *block_bytes) {
    *block_len = 0;
    *block_bytes = 0;
    if (weight_type_name(type) == NULL) return false;

    *block_len = types[type].block_len;
    *block_bytes = types[type].block_bytes;
    return true;
}

weight_mul weight_kernel(const weight_format *f, act_form form) {
    for (int level = (int)cpu_current(); level >= CPU_SCALAR; level--) {
        if (f->mul[form][level] != NULL) return f->mul[form][level];
    }
    return NULL;
}

static float f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static uint32_t bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = h & 0x7fffu;

    if (magnitude > 0x7c00u) { /* a NaN keeps its payload and becomes quiet */
        return f32_of_bits(sign | 0x7fc00000u | magnitude << 13);
    }
    if (magnitude == 0x7c00u) return f32_of_bits(sign | 0x7f800000u);
    if (magnitude >= 0x0400u) { /* rebias the exponent from 15 to 127 */
        return f32_of_bits(sign | (magnitude + (112u << 10)) << 13);
    }
    /* A denormal is its integer times 2^-24: exact. */
    float value = (float)magnitude * 0x1p-24f;
    return f32_of_bits(sign | bits_of_f32(value));
}

uint16_t f32_to_f16(float x) {
    uint32_t bits = bits_of_f32(x);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude >= 0x38800000u) { /* 2^-14 and above: normal */
        uint32_t half = (magnitude >> 13) - (112u << 10);
        uint32_t rest = magnitude & 0x1fffu;
        half += rest > 0x1000u || (rest == 0x1000u && (half & 1u));
        return (uint16_t)(sign | half);
    }
    /* A denormal: adding 0.5 leaves multiples of 2^-24 in the mantissa, rounded
     * half to even by the addition itself. */
    float shifted = f32_of_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (bits_of_f32(shifted) - bits_of_f32(0.5f)));
}

float bf16_to_f32(uint16_t b) {
    return f32_of_bits((uint32_t)b << 16);
}

static inline __attribute__((always_inline)) void
fma_rows(float *restrict acc, const float *restrict w, float x) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        acc[r] = fmaf(w[r], x, acc[r]);
    }
}

#if defined(__x86_64__)
__attribute__((target("fma"))) static void
fma_rows_in_hardware(float *restrict acc, const float *restrict w, float x) {
    fma_rows(acc, w, x);
}
#endif

void weight_fma_rows(float *restrict acc, const float *restrict w, float x) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("fma")) {
        fma_rows_in_hardware(acc, w, x);
        return;
    }
#endif
    fma_rows(acc, w, x);
}
