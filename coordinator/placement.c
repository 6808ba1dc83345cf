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
    uint64_t epoch, source;
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

/* Call `visit` for each (unit, node) that holds it, node by node: a node of a
 * large rack holds few of the units, so its set is walked, not asked. */
static void
each_held(const placement *p, const holdings *const *nodes, uint32_t n_nodes,
          void (*visit)(const placement *p, size_t unit, uint32_t node)) {
    for (uint32_t i = 0; i < n_nodes; i++) {
        if (nodes[i] == NULL) continue;
        for (uint32_t layer = 0; layer < p->n_layers; layer++) {
            const layer_units *l = &p->layers[layer];
            uint32_t unit = holdings_next(nodes[i], layer, 0, l->n_units);
            while (unit < l->n_units) {
                visit(p, l->first + unit, i);
                unit = holdings_next(nodes[i], layer, unit + 1, l->n_units);
            }
        }
    }
}

static void count_one(const placement *p, size_t unit, uint32_t node) {
    (void)node;
    p->first[unit + 1]++;
}

/* Nodes come in ascending order, so each unit's holders do. */
static void fill_one(const placement *p, size_t unit, uint32_t node) {
    p->holders[p->first[unit + 1]++] = (uint16_t)node;
}

/* first[u + 1] counts unit u's holders; it becomes where they begin, and
 * filling moves it to where they end, which is where the next one's begin. */
static uint32_t begin_holders(placement *p, size_t n_units) {
    uint32_t sum = 0;
    for (size_t u = 1; u <= n_units; u++) {
        uint32_t count = p->first[u];
        p->first[u] = sum;
        sum += count;
    }
    return sum;
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
    p->source = shape->source;
    p->n_layers = shape->n_layers;
    p->slices = shape->slices > 0 ? shape->slices : 1;

    p->layers = calloc((size_t)p->n_layers + 1, sizeof(*p->layers));
    if (p->layers == NULL) goto fail;
    size_t n_units = lay_out(p, shape);
    p->first = calloc(n_units + 1, sizeof(*p->first));
    if (p->first == NULL) goto fail;
    each_held(p, nodes, n_nodes, count_one);

    /* One more, so that a placement of nothing is no special case. */
    size_t n_holders = begin_holders(p, n_units);
    p->holders = calloc(n_holders + 1, sizeof(*p->holders));
    if (p->holders == NULL) goto fail;
    each_held(p, nodes, n_nodes, fill_one);

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

uint64_t placement_source(const placement *p) {
    return p->source;
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
