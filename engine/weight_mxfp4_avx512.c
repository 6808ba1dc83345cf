/* weight_mxfp4_avx512.c - MXFP4 with AVX-512; see weight_nibbles_avx512.h. */
#include "engine/weight_nibbles_avx512.h"

NIBBLES_PRODUCTS_AVX512(mxfp4, TILE_END_PLAIN)
