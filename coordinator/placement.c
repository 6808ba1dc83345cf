/* placement.c - an index from (layer, unit) to the nodes that hold it.
 *
 * Two arrays, as in a sparse matrix: the holders of all units one after the
 * other, and where each unit's begin.  Built in two passes over the nodes'
 * sets (count, then fill), read without a lock ever after; only the reference
 * count changes. */
#include "coordinator/placement.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

/* A layer's units are consecutive. */
typedef struct {
    uint32_t slices, n_units;
    size_t first; /* of its units, among all */
} layer_units;

struct placement {
    atomic_uint refs;
    uint64_t epoch;
    uint32_t n_layers, slices;
    layer_units *layers;
    uint32_t *first; /* [units of all layers + 1], into `holders` */
    uint16_t *holders;
};

static_assert(PLACEMENT_MAX_NODES <= UINT16_MAX, "a holder is 16 bits");

static int check_shape(const placement_shape *shape,
                       const holdings *const *nodes, uint32_t n_nodes) {
    uint32_t slices = shape->slices > 0 ? shape->slices : 1;
    if (n_nodes > PLACEMENT_MAX_NODES) return ERR_RANGE;
    if (shape->n_layers > HOLDINGS_MAX_LAYERS) return ERR_RANGE;
    if (shape->n_experts > HOLDINGS_MAX_EXPERTS) return ERR_RANGE;
    if (slices > HOLDINGS_MAX_SLICES) return ERR_RANGE;
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        if (shape->layer_slices == NULL) break;
        if (shape->layer_slices[l] > slices) return ERR_RANGE;
    }

    uint64_t total = 0;
    for (uint32_t i = 0; i < n_nodes; i++) {
        if (nodes[i] == NULL) continue;
        if (nodes[i]->n_layers != shape->n_layers) return ERR_RANGE;
        if (nodes[i]->n_experts != shape->n_experts) return ERR_RANGE;
        if (nodes[i]->slices != slices) return ERR_RANGE;
        total += holdings_count(nodes[i]);
    }
    return total <= UINT32_MAX ? 0 : ERR_RANGE;
}

/* Returns the number of units of all layers. */
static size_t lay_out(placement *p, const placement_shape *shape) {
    size_t n = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t slices =
            shape->layer_slices != NULL ? shape->layer_slices[l] : p->slices;
        p->layers[l] = (layer_units){slices, shape->n_experts * slices, n};
        n += p->layers[l].n_units;
    }
    return n;
}

/* first[u] becomes the sum of holders of all units before u. */
static void count_holders(placement *p, const holdings *const *nodes,
                          uint32_t n_nodes) {
    uint32_t sum = 0;
    size_t u = 0;

    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        for (uint32_t unit = 0; unit < p->layers[layer].n_units; unit++) {
            p->first[u++] = sum;
            for (uint32_t i = 0; i < n_nodes; i++) {
                if (nodes[i] == NULL) continue;
                if (holdings_has(nodes[i], layer, unit)) sum++;
            }
        }
    }
    p->first[u] = sum;
}

static void fill_holders(placement *p, const holdings *const *nodes,
                         uint32_t n_nodes) {
    uint16_t *out = p->holders;

    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        for (uint32_t unit = 0; unit < p->layers[layer].n_units; unit++) {
            for (uint32_t i = 0; i < n_nodes; i++) {
                if (nodes[i] == NULL) continue;
                if (!holdings_has(nodes[i], layer, unit)) continue;
                *out++ = (uint16_t)i;
            }
        }
    }
}

int placement_new(placement **out, const placement_shape *shape,
                  const holdings *const *nodes, uint32_t n_nodes) {
    *out = NULL;

    int rc = check_shape(shape, nodes, n_nodes);
    if (rc < 0) return rc;

    placement *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;
    atomic_init(&p->refs, 1);
    p->epoch = shape->epoch;
    p->n_layers = shape->n_layers;
    p->slices = shape->slices > 0 ? shape->slices : 1;

    p->layers = calloc((size_t)p->n_layers + 1, sizeof(*p->layers));
    if (p->layers == NULL) goto fail;
    size_t n_units = lay_out(p, shape);
    p->first = calloc(n_units + 1, sizeof(*p->first));
    if (p->first == NULL) goto fail;
    count_holders(p, nodes, n_nodes);

    /* One more, so that a placement of nothing is no special case. */
    p->holders = calloc((size_t)p->first[n_units] + 1, sizeof(*p->holders));
    if (p->holders == NULL) goto fail;
    fill_holders(p, nodes, n_nodes);

    *out = p;
    return 0;

fail:
    placement_unref(p);
    return -ENOMEM;
}

placement *placement_ref(placement *p) {
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    return p;
}

void placement_unref(placement *p) {
    if (p == NULL) return;
    /* Release: our reads are over; acquire: so are everybody else's. */
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    free(p->layers);
    free(p->first);
    free(p->holders);
    free(p);
}

uint64_t placement_epoch(const placement *p) {
    return p->epoch;
}

uint32_t placement_slices(const placement *p, uint32_t layer) {
    assert(layer < p->n_layers);
    return p->layers[layer].slices;
}

uint32_t placement_max_slices(const placement *p) {
    return p->slices;
}

const uint16_t *placement_nodes(const placement *p, uint32_t layer,
                                uint32_t unit, uint32_t *n) {
    assert(layer < p->n_layers && unit < p->layers[layer].n_units);

    size_t u = p->layers[layer].first + unit;
    *n = p->first[u + 1] - p->first[u];
    return p->holders + p->first[u];
}

void placement_coverage(const placement *p, uint32_t first_layer,
                        uint32_t *unheld, uint32_t *single) {
    *unheld = 0;
    *single = 0;
    for (uint32_t layer = first_layer; layer < p->n_layers; layer++) {
        for (uint32_t unit = 0; unit < p->layers[layer].n_units; unit++) {
            uint32_t n;
            placement_nodes(p, layer, unit, &n);
            if (n == 0) ++*unheld;
            if (n == 1) ++*single;
        }
    }
}
