/* balancer_eplb.c - the published balancing algorithm (DeepSeek, EPLB), as
 * published: equal devices, equal numbers of slots, no placement to start from.
 *
 * Three steps for each layer: pack the groups of experts to nodes, give each
 * node's spare slots to its hottest experts, pack the slots of a node to its
 * devices.  Where nodes do not divide groups, all is one group on one node (the
 * global policy).  Arithmetic is in single precision and ties go to the lower
 * number, as in the published program, so that results can be compared. */
#include "discovery/balancer.h"

#include <errno.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

/* Sizes, after the policy was chosen. */
typedef struct {
    uint32_t n_experts, n_replicas, n_groups, n_nodes, n_devices;
    uint32_t group_size, node_experts, node_slots, node_devices;
} shape;

/* An item's pack, and its place there. */
typedef struct {
    uint32_t pack, rank;
} packed;

typedef struct {
    float weight;
    uint32_t item;
} weighed;

/* What one layer needs; [n] as in make_tables(). */
typedef struct {
    float *load;      /* [n_experts] */
    float *group;     /* [n_groups] */
    float *slot_load; /* [node_slots] */
    uint32_t *sorted; /* [n_experts]: experts, group by group, node by node */
    uint32_t *expert; /* [node_slots]: of a slot, within the node */
    uint32_t *copies; /* [node_experts] */
    packed *place;    /* [n_replicas or more] */
    weighed *order;   /* [n_replicas or more] */
    float *pack_load; /* [n_devices or n_nodes] */
    uint32_t *pack_n;
} tables;

static void free_tables(tables *t) {
    free(t->load);
    free(t->group);
    free(t->slot_load);
    free(t->sorted);
    free(t->expert);
    free(t->copies);
    free(t->place);
    free(t->order);
    free(t->pack_load);
    free(t->pack_n);
}

static int make_tables(tables *t, const shape *s) {
    size_t packs = size_max(s->n_devices, s->n_nodes);
    size_t items = size_max(s->n_replicas, s->n_groups);
    t->load = calloc(s->n_experts, sizeof(*t->load));
    t->group = calloc(s->n_groups, sizeof(*t->group));
    t->slot_load = calloc(s->node_slots, sizeof(*t->slot_load));
    t->sorted = calloc(s->n_experts, sizeof(*t->sorted));
    t->expert = calloc(s->node_slots, sizeof(*t->expert));
    t->copies = calloc(s->node_experts, sizeof(*t->copies));
    t->place = calloc(items, sizeof(*t->place));
    t->order = calloc(items, sizeof(*t->order));
    t->pack_load = calloc(packs, sizeof(*t->pack_load));
    t->pack_n = calloc(packs, sizeof(*t->pack_n));
    if (t->load == NULL || t->group == NULL || t->slot_load == NULL ||
        t->sorted == NULL || t->expert == NULL || t->copies == NULL ||
        t->place == NULL || t->order == NULL || t->pack_load == NULL ||
        t->pack_n == NULL) {
        return -ENOMEM;
    }
    return 0;
}

/* ---- the published functions ---- */

static int by_descending_weight(const void *a, const void *b) {
    const weighed *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    return x->item < y->item ? -1 : 1;
}

/* Items by descending weight, each into the lightest pack that is not full. */
static void balanced_packing(tables *t, const float *weights, uint32_t n_items,
                             uint32_t n_packs) {
    uint32_t capacity = n_items / n_packs;
    if (capacity == 1) {
        for (uint32_t i = 0; i < n_items; i++)
            t->place[i] = (packed){i, 0};
        return;
    }
    for (uint32_t i = 0; i < n_items; i++)
        t->order[i] = (weighed){weights[i], i};
    qsort(t->order, n_items, sizeof(*t->order), by_descending_weight);
    for (uint32_t i = 0; i < n_packs; i++) {
        t->pack_load[i] = 0;
        t->pack_n[i] = 0;
    }
    for (uint32_t i = 0; i < n_items; i++) {
        uint32_t best = n_packs;
        for (uint32_t k = 0; k < n_packs; k++) {
            if (t->pack_n[k] == capacity) continue;
            if (best == n_packs || t->pack_load[k] < t->pack_load[best]) {
                best = k;
            }
        }
        t->place[t->order[i].item] = (packed){best, t->pack_n[best]++};
        t->pack_load[best] += t->order[i].weight;
    }
}

/* One copy each, then every spare slot copies the expert with the largest load
 * by copy. */
static void replicate_experts(tables *t, const shape *s, const float *load) {
    for (uint32_t i = 0; i < s->node_experts; i++) {
        t->expert[i] = i;
        t->copies[i] = 1;
    }
    for (uint32_t slot = s->node_experts; slot < s->node_slots; slot++) {
        uint32_t hottest = 0;
        for (uint32_t i = 1; i < s->node_experts; i++) {
            if (load[i] / (float)t->copies[i] >
                load[hottest] / (float)t->copies[hottest]) {
                hottest = i;
            }
        }
        t->expert[slot] = hottest;
        t->copies[hottest]++;
    }
}

/* ---- the three steps ---- */

/* t->sorted: experts in the order of the nodes that their groups go to. */
static void pack_groups(tables *t, const shape *s, const double *weights) {
    uint32_t groups_per_node = s->n_groups / s->n_nodes;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        t->group[g] = 0;
        for (uint32_t i = 0; i < s->group_size; i++)
            t->group[g] += (float)weights[g * s->group_size + i];
    }
    balanced_packing(t, t->group, s->n_groups, s->n_nodes);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        packed at = t->place[e / s->group_size];
        uint32_t group = at.pack * groups_per_node + at.rank;
        t->sorted[group * s->group_size + e % s->group_size] = e;
    }
    for (uint32_t i = 0; i < s->n_experts; i++)
        t->load[i] = (float)weights[t->sorted[i]];
}

static void fill_node(tables *t, const shape *s, uint32_t node,
                      uint32_t *slots) {
    uint32_t first = node * s->node_experts;
    uint32_t per_device = s->node_slots / s->node_devices;
    const float *load = t->load + first;

    replicate_experts(t, s, load);
    for (uint32_t i = 0; i < s->node_slots; i++) {
        uint32_t e = t->expert[i];
        t->slot_load[i] = load[e] / (float)t->copies[e];
    }
    balanced_packing(t, t->slot_load, s->node_slots, s->node_devices);
    for (uint32_t i = 0; i < s->node_slots; i++) {
        packed at = t->place[i];
        slots[node * s->node_slots + at.pack * per_device + at.rank] =
            t->sorted[first + t->expert[i]];
    }
}

/* ---- sizes ---- */

static int choose_shape(shape *s, uint32_t n_experts, uint32_t n_replicas,
                        uint32_t n_groups, uint32_t n_nodes,
                        uint32_t n_devices) {
    if (n_experts == 0 || n_replicas < n_experts || n_groups == 0 ||
        n_nodes == 0 || n_devices == 0 || n_experts % n_groups != 0 ||
        n_devices % n_nodes != 0 || n_replicas % n_devices != 0) {
        return ERR_RANGE;
    }
    if (n_groups % n_nodes != 0) n_groups = n_nodes = 1;
    *s = (shape){.n_experts = n_experts,
                 .n_replicas = n_replicas,
                 .n_groups = n_groups,
                 .n_nodes = n_nodes,
                 .n_devices = n_devices,
                 .group_size = n_experts / n_groups,
                 .node_experts = n_experts / n_nodes,
                 .node_slots = n_replicas / n_nodes,
                 .node_devices = n_devices / n_nodes};
    return 0;
}

int balance_eplb(const double *weights, uint32_t n_layers, uint32_t n_experts,
                 uint32_t n_replicas, uint32_t n_groups, uint32_t n_nodes,
                 uint32_t n_devices, uint32_t *slots) {
    shape s;
    tables t = {0};
    int rc =
        choose_shape(&s, n_experts, n_replicas, n_groups, n_nodes, n_devices);
    if (rc < 0) return rc;

    rc = make_tables(&t, &s);
    for (uint32_t l = 0; rc == 0 && l < n_layers; l++) {
        pack_groups(&t, &s, weights + (size_t)l * n_experts);
        for (uint32_t node = 0; node < s.n_nodes; node++)
            fill_node(&t, &s, node, slots + (size_t)l * n_replicas);
    }
    free_tables(&t);
    return rc;
}
