/* weight_iq4_xs_avx2.c - IQ4_XS with AVX2; see weight_nibbles_avx2.h. */
#include "engine/weight_nibbles_avx2.h"

NIBBLES_PRODUCTS_AVX2(iq4_xs)
