/* weight_mxfp4_avx2.c - MXFP4 with AVX2; see weight_nibbles_avx2.h. */
#include "engine/weight_nibbles_avx2.h"

NIBBLES_PRODUCTS_AVX2(mxfp4)
