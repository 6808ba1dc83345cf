/* rope_avx2.c - rope_rows.h built for AVX2. */
#define VEC16_AVX2
#define ROPE_TURN rope_turn_avx2
#include "engine/rope_rows.h"
