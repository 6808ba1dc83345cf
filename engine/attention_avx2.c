/* attention_avx2.c - attention_rows.h built for AVX2 with FMA and F16C. */
#define VEC16_AVX2
#define TILE_VECTORS 1 /* 4 heads take 8 of 16 registers */
#define LATENT_KEYS 4  /* and so do 4 keys */
#define ATTENTION_GROUP attention_group_avx2
#include "engine/attention_rows.h"
