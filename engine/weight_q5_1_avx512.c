/* weight_q5_1_avx512.c - Q5_1 with AVX-512; see weight_fives_avx512.h. */
#include "engine/weight_fives_avx512.h"

FIVES_PRODUCTS_AVX512(q5_1, Q5_1_ZERO, TILE_END_MIN)
