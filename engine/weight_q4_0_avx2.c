/* weight_q4_0_avx2.c - Q4_0 with AVX2; see weight_nibbles_avx2.h. */
#include "engine/weight_nibbles_avx2.h"

NIBBLES_PRODUCTS_AVX2(q4_0)
