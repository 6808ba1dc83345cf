/* attention_avx2.c - attention_rows.h built for AVX2 with FMA and F16C. */
#define VEC16_AVX2
#define TILE_VECTORS 1 /* 4 lanes take 8 of 16 registers */
#define LATENT_KEYS 4
#define ATTENTION_TILE attention_tile_avx2
#include "engine/attention_rows.h"
