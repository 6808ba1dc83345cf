/* attention_avx512.c - attention_rows.h built for AVX-512. */
#define VEC16_AVX512
#define TILE_VECTORS 4 /* 4 heads take 16 of 32 registers */
#define LATENT_KEYS 8  /* enough to hide the latency of fma */
#define ATTENTION_GROUP attention_group_avx512
#include "engine/attention_rows.h"
