/* placement.c - an index from (layer, expert) to the nodes that hold it.
 *
 * Two arrays, as in a sparse matrix: the holders of all experts one after the
 * other, and where each expert's begin.  Built in two passes over the nodes'
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

struct placement {
    atomic_uint refs;
    uint64_t epoch;
    uint32_t n_layers, n_experts;
    uint32_t *first; /* [n_layers * n_experts + 1], into `holders` */
    uint16_t *holders;
};

static_assert(PLACEMENT_MAX_NODES <= UINT16_MAX, "a holder is 16 bits");

static int check_shape(uint32_t n_layers, uint32_t n_experts,
                       const holdings *const *nodes, uint32_t n_nodes) {
    if (n_nodes > PLACEMENT_MAX_NODES) return ERR_RANGE;
    if (n_layers > HOLDINGS_MAX_LAYERS) return ERR_RANGE;
    if (n_experts > HOLDINGS_MAX_EXPERTS) return ERR_RANGE;

    uint64_t total = 0;
    for (uint32_t i = 0; i < n_nodes; i++) {
        if (nodes[i] == NULL) continue;
        if (nodes[i]->n_layers != n_layers) return ERR_RANGE;
        if (nodes[i]->n_experts != n_experts) return ERR_RANGE;
        total += holdings_count(nodes[i]);
    }
    return total <= UINT32_MAX ? 0 : ERR_RANGE;
}

/* first[e] becomes the sum of holders of all experts before e. */
static void count_holders(placement *p, const holdings *const *nodes,
                          uint32_t n_nodes) {
    uint32_t sum = 0;
    size_t e = 0;

    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        for (uint32_t expert = 0; expert < p->n_experts; expert++) {
            p->first[e++] = sum;
            for (uint32_t i = 0; i < n_nodes; i++) {
                if (nodes[i] == NULL) continue;
                if (holdings_has(nodes[i], layer, expert)) sum++;
            }
        }
    }
    p->first[e] = sum;
}

static void fill_holders(placement *p, const holdings *const *nodes,
                         uint32_t n_nodes) {
    uint16_t *out = p->holders;

    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        for (uint32_t expert = 0; expert < p->n_experts; expert++) {
            for (uint32_t i = 0; i < n_nodes; i++) {
                if (nodes[i] == NULL) continue;
                if (!holdings_has(nodes[i], layer, expert)) continue;
                *out++ = (uint16_t)i;
            }
        }
    }
}

int placement_new(placement **out, uint64_t epoch, uint32_t n_layers,
                  uint32_t n_experts, const holdings *const *nodes,
                  uint32_t n_nodes) {
    *out = NULL;

    int rc = check_shape(n_layers, n_experts, nodes, n_nodes);
    if (rc < 0) return rc;

    placement *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;
    atomic_init(&p->refs, 1);
    p->epoch = epoch;
    p->n_layers = n_layers;
    p->n_experts = n_experts;

    size_t cells = (size_t)n_layers * n_experts;
    p->first = calloc(cells + 1, sizeof(*p->first));
    if (p->first == NULL) goto fail;
    count_holders(p, nodes, n_nodes);

    /* One more, so that a placement of nothing is no special case. */
    p->holders = calloc((size_t)p->first[cells] + 1, sizeof(*p->holders));
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
    free(p->first);
    free(p->holders);
    free(p);
}

uint64_t placement_epoch(const placement *p) {
    return p->epoch;
}

const uint16_t *placement_nodes(const placement *p, uint32_t layer,
                                uint32_t expert, uint32_t *n) {
    assert(layer < p->n_layers && expert < p->n_experts);

    size_t e = (size_t)layer * p->n_experts + expert;
    *n = p->first[e + 1] - p->first[e];
    return p->holders + p->first[e];
}

void placement_coverage(const placement *p, uint32_t first_layer,
                        uint32_t *unheld, uint32_t *single) {
    *unheld = 0;
    *single = 0;
    for (uint32_t layer = first_layer; layer < p->n_layers; layer++) {
        for (uint32_t expert = 0; expert < p->n_experts; expert++) {
            uint32_t n;
            placement_nodes(p, layer, expert, &n);
            if (n == 0) ++*unheld;
            if (n == 1) ++*single;
        }
    }
}
