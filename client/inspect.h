/* inspect.h - what `roster inspect` says of a model file.
 *
 *   cmd_inspect.c    options, reading, JSON
 *   inspect_words.c  the same for people */
#ifndef CLIENT_INSPECT_H
#define CLIENT_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/census.h"
#include "engine/model.h"

typedef struct {
    census census;
    model_config model; /* its name in any case, the rest if `runs` */
    bool runs;          /* this program can compute with it, */
    char why_not[512];  /* or why not */
    size_t n_files;
    uint64_t cache_bytes; /* of the KV cache, per token */
    uint32_t n_nodes;     /* of the rack that is asked about; 0: none */
} inspection;

/* Of the parameters, how many a token uses: 0 to 1. */
double inspect_ratio(const census *c);

/* "46.7B" in the words of those who name models; two decimals below 10. */
void inspect_format_params(uint64_t params, char *out, size_t size);

/* "8x7B" somewhere in a name: how many times what, in parameters.  false if
 * there is none. */
typedef struct {
    char text[24]; /* as it stands there */
    uint64_t times, each;
} inspect_spec;
bool inspect_find_spec(const char *name, inspect_spec *out);

/* Print on stdout; -errno. */
int inspect_print(const inspection *i);

#endif
