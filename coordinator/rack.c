/* rack.c - see rack.h. */
#include "coordinator/rack.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct rack {
    atomic_uint refs;
    placement *where;
    uint32_t n_nodes;
    rack_node nodes[];
};

int rack_new(rack **out, placement *where, const rack_node *nodes,
             uint32_t n_nodes) {
    *out = NULL;
    rack *r = calloc(1, sizeof(*r) + n_nodes * sizeof(r->nodes[0]));
    if (r == NULL) return -ENOMEM;
    atomic_init(&r->refs, 1);
    r->where = where;
    r->n_nodes = n_nodes;
    if (n_nodes > 0) memcpy(r->nodes, nodes, n_nodes * sizeof(nodes[0]));
    *out = r;
    return 0;
}

rack *rack_ref(rack *r) {
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void rack_unref(rack *r) {
    if (r == NULL) return;
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    placement_unref(r->where);
    free(r);
}

placement *rack_where(const rack *r) {
    return r->where;
}

uint32_t rack_n_nodes(const rack *r) {
    return r->n_nodes;
}

const rack_node *rack_node_at(const rack *r, uint32_t node) {
    assert(node < r->n_nodes);
    return &r->nodes[node];
}
