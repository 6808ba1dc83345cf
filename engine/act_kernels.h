/* act_kernels.h - encoders of A8 blocks, one for each CPU level.
 *
 * Private to act.c.  All give the same bits: for each block of 32 values
 *   amax  = max |x|, values that are NaN left out, at most FLT_MAX
 *   inv   = 127 / amax; if that is infinite, the block is all zero
 *   scale = amax / 127, rounded to 11 significant bits, half to even
 *   q     = x * inv, limited to [-127, 127] (NaN: 127), rounded half to even */
#ifndef ENGINE_ACT_KERNELS_H
#define ENGINE_ACT_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* x with 11 significant bits, those of a half, but with a float's range: the
 * scale that other engines keep as a half, where a half has room for it. */
static inline float act_round_scale(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0xfffu + (bits >> 13 & 1u)) & ~(uint32_t)0x1fff;
    memcpy(&x, &bits, sizeof(bits));
    return x;
}

typedef void (*act_encoder)(size_t n_blocks, const float *x, float *scales,
                            int8_t *values);

void act_encode_a8_avx2(size_t n_blocks, const float *x, float *scales,
                        int8_t *values);
void act_encode_a8_avx512(size_t n_blocks, const float *x, float *scales,
                          int8_t *values);

#endif
