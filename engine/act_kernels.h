/* act_kernels.h - encoders of A8 blocks, one for each CPU level.
 *
 * Private to act.c.  All give the same bits: for each block of 32 values
 *   amax  = max |x|, values that are NaN left out, at most FLT_MAX
 *   inv   = 127 / amax; if that is infinite, the block is all zero
 *   scale = amax / 127
 *   q     = x * inv, limited to [-127, 127] (NaN: 127), rounded half to even */
#ifndef ENGINE_ACT_KERNELS_H
#define ENGINE_ACT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef void (*act_encoder)(size_t n_blocks, const float *x, float *scales,
                            int8_t *values);

void act_encode_a8_avx2(size_t n_blocks, const float *x, float *scales,
                        int8_t *values);
void act_encode_a8_avx512(size_t n_blocks, const float *x, float *scales,
                          int8_t *values);

#endif
