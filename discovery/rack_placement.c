/* rack_placement.c - see rack_placement.h and rack_view.h.
 *
 * Everything that can be wrong between a head and its layers is found when the
 * placement is made, so that who holds one need not check it again.  What every
 * node is asked for (its number, how much it holds, the digest) is worked out
 * at the same time, in one pass over all holders. */
#include "discovery/rack_placement.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"

typedef struct {
    uint64_t digest, units;
} node_share;

struct rack_placement {
    atomic_uint refs;
    epoch_record head;
    shared_layer **layers; /* [head.n_layers] */
    uint32_t *by_name;     /* [head.n_nodes], places in order of their names */
    node_share *shares;    /* [head.n_nodes] */
    uint64_t sum;          /* rack_placement_sum() */
};

/* ---- layers ---- */

int shared_layer_unpack(shared_layer **out, const void *data, size_t bytes,
                        char *why, size_t why_size) {
    *out = NULL;
    shared_layer *l = calloc(1, sizeof(*l));
    if (l == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");

    int rc =
        layer_map_unpack(&l->map, data, bytes, RECORD_NODES_MAX, why, why_size);
    if (rc < 0) {
        free(l);
        return rc;
    }
    atomic_init(&l->refs, 1);
    *out = l;
    return 0;
}

static shared_layer *layer_ref(shared_layer *l) {
    if (l != NULL) atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    return l;
}

void shared_layer_unref(shared_layer *l) {
    if (l == NULL) return;
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    layer_map_fini(&l->map);
    free(l);
}

/* ---- making ---- */

static void placement_free(rack_placement *p) {
    if (p->layers != NULL) {
        for (uint32_t i = 0; i < p->head.n_layers; i++) {
            shared_layer_unref(p->layers[i]);
        }
    }
    free(p->layers);
    free(p->by_name);
    free(p->shares);
    epoch_record_fini(&p->head);
    free(p);
}

static int copy_head(epoch_record *to, const epoch_record *from) {
    size_t n = (size_t)from->n_nodes;
    *to = *from;
    to->nodes = calloc(n + 1, sizeof(*to->nodes));
    if (to->nodes == NULL) return -ENOMEM;
    if (n > 0) memcpy(to->nodes, from->nodes, n * sizeof(*to->nodes));
    return 0;
}

static int compare_places(const void *a, const void *b, void *nodes) {
    char(*names)[RECORD_NAME] = nodes;
    return strcmp(names[*(const uint32_t *)a], names[*(const uint32_t *)b]);
}

static void sort_names(rack_placement *p) {
    for (uint32_t i = 0; i < p->head.n_nodes; i++)
        p->by_name[i] = i;
    qsort_r(p->by_name, p->head.n_nodes, sizeof(*p->by_name), compare_places,
            p->head.nodes);
}

/* Each unit is chained to those before it, in ascending order. */
static void add_unit(node_share *share, uint32_t layer, uint32_t unit) {
    const uint32_t pair[2] = {htole32(layer), htole32(unit)};
    share->digest = XXH3_64bits_withSeed(pair, sizeof(pair), share->digest);
    share->units++;
}

static int take_layer(rack_placement *p, uint32_t layer, char *why,
                      size_t why_size) {
    const epoch_record *head = &p->head;
    const layer_map *m = &p->layers[layer]->map;

    if (m->slices > head->slices || m->n_units != head->n_experts * m->slices) {
        return err_why(why, why_size, ERR_FORMAT,
                       "layer %u has %u units of %u slices, the epoch %u "
                       "experts of at most %u",
                       layer, m->n_units, m->slices, head->n_experts,
                       head->slices);
    }
    for (uint32_t unit = 0; unit < m->n_units; unit++) {
        uint32_t n;
        const uint16_t *holders = layer_map_holders(m, unit, &n);
        for (uint32_t i = 0; i < n; i++) {
            if (holders[i] >= head->n_nodes ||
                head->nodes[holders[i]][0] == '\0') {
                return err_why(why, why_size, ERR_FORMAT,
                               "layer %u, unit %u: node %u is not one of the "
                               "epoch's",
                               layer, unit, holders[i]);
            }
            add_unit(&p->shares[holders[i]], layer, unit);
        }
    }
    return 0;
}

/* As rack_placement_same() compares them: what each node is given stands for
 * the layers. */
static uint64_t sum_up(const rack_placement *p) {
    const epoch_record *head = &p->head;
    const uint64_t shape[] = {
        htole64(head->incarnation), htole64(head->epoch),
        htole64(head->n_layers),    htole64(head->n_experts),
        htole64(head->slices),      htole64(head->min_replicas)};
    uint64_t sum = XXH3_64bits(shape, sizeof(shape));
    sum = XXH3_64bits_withSeed(head->model, sizeof(head->model), sum);
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        const uint64_t share = htole64(p->shares[i].digest);
        const char *name = head->nodes[i];
        sum = XXH3_64bits_withSeed(name, strlen(name), sum);
        sum = XXH3_64bits_withSeed(&share, sizeof(share), sum);
    }
    return sum != 0 ? sum : 1;
}

int rack_placement_new(rack_placement **out, const epoch_record *head,
                       shared_layer *const *layers, char *why,
                       size_t why_size) {
    *out = NULL;
    rack_placement *p = calloc(1, sizeof(*p));
    if (p == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");

    int rc = copy_head(&p->head, head);
    size_t n = (size_t)head->n_nodes + 1;
    p->layers = calloc(head->n_layers, sizeof(shared_layer *));
    p->by_name = calloc(n, sizeof(*p->by_name));
    p->shares = calloc(n, sizeof(*p->shares));
    if (rc < 0 || p->layers == NULL || p->by_name == NULL ||
        p->shares == NULL) {
        rc = err_why(why, why_size, -ENOMEM, "out of memory");
        goto fail;
    }
    sort_names(p);
    for (uint32_t i = 0; i < head->n_layers; i++) {
        if (layers[i] == NULL) continue;
        p->layers[i] = layer_ref(layers[i]);
        rc = take_layer(p, i, why, why_size);
        if (rc < 0) goto fail;
    }
    p->sum = sum_up(p);
    atomic_init(&p->refs, 1);
    *out = p;
    return 0;

fail:
    placement_free(p);
    return rc;
}

static bool heads_same(const epoch_record *a, const epoch_record *b) {
    if (a->incarnation != b->incarnation || a->epoch != b->epoch ||
        a->n_layers != b->n_layers || a->n_experts != b->n_experts ||
        a->slices != b->slices || a->min_replicas != b->min_replicas ||
        a->n_nodes != b->n_nodes ||
        memcmp(a->model, b->model, sizeof(a->model)) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < a->n_nodes; i++) {
        if (strcmp(a->nodes[i], b->nodes[i]) != 0) return false;
    }
    return true;
}

bool rack_placement_same(const rack_placement *a, const rack_placement *b) {
    if (!heads_same(&a->head, &b->head)) return false;

    for (uint32_t i = 0; i < a->head.n_layers; i++) {
        const shared_layer *x = a->layers[i], *y = b->layers[i];
        if (x == y) continue;
        if (x == NULL || y == NULL) return false;
        if (!layer_map_equal(&x->map, &y->map)) return false;
    }
    return true;
}

/* ---- counting ---- */

rack_placement *rack_placement_ref(const rack_placement *p) {
    /* Immutable for everybody but for the count. */
    rack_placement *own = (rack_placement *)p;
    if (own != NULL) {
        atomic_fetch_add_explicit(&own->refs, 1, memory_order_relaxed);
    }
    return own;
}

void rack_placement_unref(rack_placement *p) {
    if (p == NULL) return;
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    placement_free(p);
}

/* ---- reading ---- */

const epoch_record *rack_placement_head(const rack_placement *p) {
    return &p->head;
}

uint64_t rack_placement_epoch(const rack_placement *p) {
    return epoch_pack(p->head.incarnation, p->head.epoch);
}

const layer_map *rack_placement_layer(const rack_placement *p, uint32_t layer) {
    if (layer >= p->head.n_layers || p->layers[layer] == NULL) return NULL;
    return &p->layers[layer]->map;
}

int32_t rack_placement_node(const rack_placement *p, const char *name) {
    uint32_t low = 0, high = p->head.n_nodes;
    if (*name == '\0') return -1; /* a free place is nobody's */

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint32_t place = p->by_name[middle];
        int order = strcmp(name, p->head.nodes[place]);
        if (order == 0) return (int32_t)place;
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return -1;
}

bool rack_placement_assigns(const rack_placement *p, int32_t node,
                            uint32_t layer, uint32_t unit) {
    const layer_map *m = rack_placement_layer(p, layer);
    if (m == NULL || unit >= m->n_units || node < 0) return false;

    uint32_t n;
    const uint16_t *holders = layer_map_holders(m, unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (holders[i] == node) return true;
    }
    return false;
}

static const node_share *share_of(const rack_placement *p, int32_t node) {
    static const node_share nothing;
    if (node < 0 || (uint32_t)node >= p->head.n_nodes) return &nothing;
    return &p->shares[node];
}

uint64_t rack_placement_digest(const rack_placement *p, int32_t node) {
    return share_of(p, node)->digest;
}

uint64_t rack_placement_sum(const rack_placement *p) {
    return p->sum;
}

uint64_t rack_placement_units(const rack_placement *p, int32_t node) {
    return share_of(p, node)->units;
}
