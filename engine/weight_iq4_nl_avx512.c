/* weight_iq4_nl_avx512.c - IQ4_NL with AVX-512; see weight_nibbles_avx512.h. */
#include "engine/weight_nibbles_avx512.h"

NIBBLES_PRODUCTS_AVX512(iq4_nl, TILE_END_PLAIN)
