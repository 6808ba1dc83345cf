/* weight_q4_0_avx512.c - Q4_0 with AVX-512; see weight_nibbles_avx512.h. */
#include "engine/weight_nibbles_avx512.h"

NIBBLES_PRODUCTS_AVX512(q4_0, TILE_END_PLAIN)
