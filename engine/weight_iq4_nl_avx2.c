/* weight_iq4_nl_avx2.c - IQ4_NL with AVX2; see weight_nibbles_avx2.h. */
#include "engine/weight_nibbles_avx2.h"

NIBBLES_PRODUCTS_AVX2(iq4_nl)
