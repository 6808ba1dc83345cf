/* attention_avx512.c - attention_rows.h built for AVX-512. */
#define VEC16_AVX512
#define TILE_VECTORS 4 /* 4 lanes take 16 of 32 registers */
#define LATENT_KEYS 8  /* 16 lanes of queries alone hide the latency of fma */
#define ATTENTION_TILE attention_tile_avx512
#include "engine/attention_rows.h"
