/* rope_avx512.c - rope_rows.h built for AVX-512. */
#define VEC16_AVX512
#define ROPE_TURN rope_turn_avx512
#include "engine/rope_rows.h"
