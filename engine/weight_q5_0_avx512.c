/* weight_q5_0_avx512.c - Q5_0 with AVX-512; see weight_fives_avx512.h. */
#include "engine/weight_fives_avx512.h"

FIVES_PRODUCTS_AVX512(q5_0, Q5_0_ZERO, TILE_END_PLAIN)
