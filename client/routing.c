/* routing.c - see routing.h. */
#include "client/routing.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

static int take_shape(routing *r, size_t n_tokens, const roster_rows *rows) {
    size_t count;
    if (!size_mul(n_tokens, rows->n_moe_layers, &count)) return -ENOMEM;
    if (!size_mul(count, rows->k, &count)) return -ENOMEM;

    r->layers = calloc((size_t)rows->n_moe_layers + 1, sizeof(*r->layers));
    r->experts = calloc(count + 1, sizeof(*r->experts));
    r->weights = calloc(count + 1, sizeof(*r->weights));
    if (r->layers == NULL || r->experts == NULL || r->weights == NULL)
        return -ENOMEM;
    r->n_tokens = n_tokens;
    r->n_layers = rows->n_moe_layers;
    r->k = rows->k;
    for (uint32_t i = 0; i < r->n_layers; i++)
        r->layers[i] = rows->moe_layers[i];
    return 0;
}

static bool same_shape(const routing *r, const roster_rows *rows) {
    if (rows->n_moe_layers != r->n_layers || rows->k != r->k) return false;
    for (uint32_t i = 0; i < r->n_layers; i++) {
        if (rows->moe_layers[i] != r->layers[i]) return false;
    }
    return true;
}

int routing_add(routing *r, size_t n_tokens, const roster_rows *rows, char *why,
                size_t why_size) {
    if (r->layers == NULL && take_shape(r, n_tokens, rows) < 0)
        return err_why(why, why_size, -ENOMEM, "no memory for the routing");
    if (!same_shape(r, rows)) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the routing of position %u has another shape than "
                       "before",
                       rows->first);
    }
    size_t piece = (size_t)rows->n_rows * r->k;
    for (uint32_t i = 0; i < r->n_layers && piece > 0; i++) {
        size_t to = ((size_t)i * r->n_tokens + rows->first) * r->k;
        memcpy(r->experts + to, rows->experts + i * piece,
               piece * sizeof(*r->experts));
        memcpy(r->weights + to, rows->weights + i * piece,
               piece * sizeof(*r->weights));
    }
    return 0;
}

static void write_experts(const routing *r, size_t layer, FILE *out) {
    for (size_t t = 0; t < r->n_tokens; t++) {
        const uint32_t *chosen = r->experts + (layer * r->n_tokens + t) * r->k;
        fputs(t > 0 ? ",[" : "[", out);
        for (uint32_t j = 0; j < r->k; j++)
            fprintf(out, "%s%" PRIu32, j > 0 ? "," : "", chosen[j]);
        fputc(']', out);
    }
}

/* Nine digits are enough to read back the same float. */
static bool write_weights(const routing *r, size_t layer, FILE *out) {
    bool finite = true;

    for (size_t t = 0; t < r->n_tokens; t++) {
        const float *weight = r->weights + (layer * r->n_tokens + t) * r->k;
        fputs(t > 0 ? ",[" : "[", out);
        for (uint32_t j = 0; j < r->k; j++) {
            finite = finite && isfinite(weight[j]);
            fprintf(out, "%s%.9g", j > 0 ? "," : "", (double)weight[j]);
        }
        fputc(']', out);
    }
    return finite;
}

int routing_write(const routing *r, FILE *out, char *why, size_t why_size) {
    fputc('[', out);
    for (size_t i = 0; i < r->n_layers; i++) {
        fprintf(out, "%s{\"layer\":%" PRIu32 ",\"topk\":[", i > 0 ? ",\n" : "",
                r->layers[i]);
        write_experts(r, i, out);
        fputs("],\"weights\":[", out);
        if (!write_weights(r, i, out)) {
            return err_why(why, why_size, ERR_RANGE,
                           "layer %u: a router weight is not a finite number",
                           r->layers[i]);
        }
        fputs("]}", out);
    }
    fputs("]\n", out);
    return 0;
}

void routing_fini(routing *r) {
    free(r->layers);
    free(r->experts);
    free(r->weights);
    *r = (routing){0};
}
