/* vmath_avx2.c - vmath_rows.h built for AVX2 with FMA. */
#define VEC16_AVX2
#define VMATH_ROWS vmath_rows_avx2
#include "engine/vmath_rows.h"
