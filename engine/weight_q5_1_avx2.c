/* weight_q5_1_avx2.c - Q5_1 with AVX2; see weight_fives_avx2.h. */
#include "engine/weight_fives_avx2.h"

FIVES_PRODUCTS_AVX2(q5_1, Q5_1_ZERO)
