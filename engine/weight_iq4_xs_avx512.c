/* weight_iq4_xs_avx512.c - IQ4_XS with AVX-512; see weight_nibbles_avx512.h. */
#include "engine/weight_nibbles_avx512.h"

NIBBLES_PRODUCTS_AVX512(iq4_xs, TILE_END_SUB)
