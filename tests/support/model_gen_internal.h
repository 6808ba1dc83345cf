/* model_gen_internal.h - random values, as they are stored.  Only model_gen*.c
 * and family_gen.c include it. */
#ifndef TESTS_SUPPORT_MODEL_GEN_INTERNAL_H
#define TESTS_SUPPORT_MODEL_GEN_INTERNAL_H

#include "tests/support/gguf_writer.h"

typedef struct {
    uint64_t s[4];
    float mean;
    float deviation;
} source;

uint64_t next_u64(source *r);
float next_value(source *r);

/* The function that fills a tensor of this type from a source; NULL: none. */
gguf_fill find_fill(uint32_t type);

#endif
