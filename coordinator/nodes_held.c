/* nodes_held.c - see nodes_held.h. */
#include "coordinator/nodes_held.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/nodes_internal.h"

static bool holds_nothing(const node *p) {
    return holdings_count(&p->held) == 0;
}

static bool counts(const nodes *n, const node *p) {
    return p != NULL && p->welcomed && node_is_up(n, p) &&
           (holds_nothing(p) || p->held.slices == nodes_slices(n));
}

static int compare_names(const void *a, const void *b) {
    const recovery_node *x = a, *y = b;
    return strcmp(x->name, y->name);
}

int nodes_held(const nodes *n, recovery_node **out, uint32_t *count) {
    recovery_node *list = calloc((size_t)n->n_all + 1, sizeof(*list));
    uint32_t found = 0;
    *out = list;
    *count = 0;
    if (list == NULL) return -ENOMEM;

    for (uint32_t i = 0; i < n->n_all && found < RECORD_NODES_MAX; i++) {
        const node *p = n->all[i];
        if (!counts(n, p)) continue;
        memcpy(list[found].name, p->listed, RECORD_NAME);
        list[found++].held = holds_nothing(p) ? NULL : &p->held;
    }
    qsort(list, found, sizeof(*list), compare_names);
    *count = found;
    return 0;
}

uint64_t nodes_told_epoch(const nodes *n) {
    uint64_t newest = 0;
    for (uint32_t i = 0; i < n->n_all; i++) {
        const node *p = n->all[i];
        if (p == NULL || !node_is_up(n, p)) continue;
        if (p->told_epoch > newest) newest = p->told_epoch;
    }
    return newest;
}

const placement *nodes_where(const nodes *n) {
    return n->where;
}
