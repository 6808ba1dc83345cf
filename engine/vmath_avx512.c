/* vmath_avx512.c - vmath_rows.h built for AVX-512. */
#define VEC16_AVX512
#define VMATH_ROWS vmath_rows_avx512
#include "engine/vmath_rows.h"
