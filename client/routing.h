/* routing.h - which experts an evaluation chose, collected from pieces of rows
 * and written as JSON:
 *
 *   [{"layer":0,"topk":[[2,1],...],"weights":[[0.6,0.4],...]},...]
 *
 * with a list per token, best expert first, and the weights that the experts'
 * outputs were multiplied by. */
#ifndef CLIENT_ROUTING_H
#define CLIENT_ROUTING_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "client/include/roster.h"

typedef struct {
    size_t n_tokens;
    uint32_t n_layers, k;
    uint32_t *layers;  /* [n_layers] */
    uint32_t *experts; /* [n_layers][n_tokens][k] */
    float *weights;    /* the same */
} routing;

/* Add a piece; the first one sets the shape, for `n_tokens` in all.
 * ERR_MALFORMED if a later one has another; -ENOMEM. */
int routing_add(routing *r, size_t n_tokens, const roster_rows *rows, char *why,
                size_t why_size);

/* ERR_RANGE for a weight that is not finite, which JSON cannot say. */
int routing_write(const routing *r, FILE *out, char *why, size_t why_size);

void routing_fini(routing *r);

#endif
