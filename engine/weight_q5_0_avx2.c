/* weight_q5_0_avx2.c - Q5_0 with AVX2; see weight_fives_avx2.h. */
#include "engine/weight_fives_avx2.h"

FIVES_PRODUCTS_AVX2(q5_0, Q5_0_ZERO)
