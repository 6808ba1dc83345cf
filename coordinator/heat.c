/* heat.c - see heat.h.
 *
 * All counts of a rack decay together, so there is one time for the table.
 * Decay is exact (a power of a half for the milliseconds that passed), so it
 * does not matter how often it is called. */
#include "coordinator/heat.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include "engine/util.h"

/* What is left of a count after so long is nothing. */
#define HEAT_FORGET_MS ((uint64_t)64 * HEAT_HALF_MS)
/* Below this a count is noise of the arithmetic. */
#define HEAT_LEAST 1e-6

struct heat {
    uint32_t n_layers;
    uint32_t *first; /* [n_layers + 1]: a layer's first count */
    double *counts;
    double *totals; /* [n_layers] */
    uint64_t at_ms; /* the counts are of this time; 0: nothing decayed yet */
};

int heat_new(heat **out, uint32_t n_layers, const uint32_t *units) {
    size_t counts = 0;
    *out = NULL;
    for (uint32_t l = 0; l < n_layers; l++)
        counts += units[l];
    if (counts > UINT32_MAX) return -E2BIG;

    heat *h = calloc(1, sizeof(*h));
    if (h == NULL) return -ENOMEM;
    h->n_layers = n_layers;
    h->first = calloc((size_t)n_layers + 1, sizeof(*h->first));
    h->counts = calloc(counts + 1, sizeof(*h->counts));
    h->totals = calloc((size_t)n_layers + 1, sizeof(*h->totals));
    if (h->first == NULL || h->counts == NULL || h->totals == NULL) {
        heat_free(h);
        return -ENOMEM;
    }
    for (uint32_t l = 0; l < n_layers; l++)
        h->first[l + 1] = h->first[l] + units[l];
    *out = h;
    return 0;
}

void heat_free(heat *h) {
    if (h == NULL) return;
    free(h->first);
    free(h->counts);
    free(h->totals);
    free(h);
}

/* Totals are summed anew: differences would pile up otherwise. */
static void scale_layer(heat *h, uint32_t layer, double factor) {
    double total = 0;
    for (uint32_t i = h->first[layer]; i < h->first[layer + 1]; i++) {
        double count = h->counts[i] * factor;
        if (count < HEAT_LEAST) count = 0;
        h->counts[i] = count;
        total += count;
    }
    h->totals[layer] = total;
}

void heat_decay(heat *h, uint64_t now_ms) {
    uint64_t then_ms = h->at_ms;
    if (now_ms <= then_ms) return; /* a clock that stood still */
    h->at_ms = now_ms;
    if (then_ms == 0) return;

    uint64_t passed_ms = now_ms - then_ms;
    double factor = 0;
    if (passed_ms < HEAT_FORGET_MS) {
        factor = exp2(-(double)passed_ms / HEAT_HALF_MS);
    }
    for (uint32_t l = 0; l < h->n_layers; l++)
        scale_layer(h, l, factor);
}

void heat_add(heat *h, uint32_t layer, uint32_t unit, double pairs) {
    if (layer >= h->n_layers || unit >= heat_units(h, layer)) return;
    if (!isfinite(pairs) || pairs <= 0) return;
    h->counts[h->first[layer] + unit] += pairs;
    h->totals[layer] += pairs;
}

uint32_t heat_layers(const heat *h) {
    return h->n_layers;
}

uint32_t heat_units(const heat *h, uint32_t layer) {
    return h->first[layer + 1] - h->first[layer];
}

const double *heat_layer(const heat *h, uint32_t layer) {
    return heat_units(h, layer) > 0 ? h->counts + h->first[layer] : NULL;
}

double heat_total(const heat *h, uint32_t layer) {
    return h->totals[layer];
}
