/* jinja_sort.c - see jinja_sort.h: merging runs of 1, 2, 4, ... items. */
#include "engine/jinja_sort.h"

#include <string.h>
#include "engine/util.h"

typedef struct {
    value key, item;
} keyed;

/* May `b` stand before `a`, which came first? */
static int goes_before(run *r, const keyed *b, const keyed *a, bool reverse,
                       bool *out) {
    int order;
    int rc = reverse ? value_order(r, a->key, b->key, "<", &order)
                     : value_order(r, b->key, a->key, "<", &order);
    *out = order == -1;
    return rc < 0 ? rc : run_steps(r, 1);
}

static int merge(run *r, const keyed *a, size_t n_a, const keyed *b, size_t n_b,
                 keyed *out, bool reverse) {
    while (n_a > 0 && n_b > 0) {
        bool second;
        int rc = goes_before(r, b, a, reverse, &second);
        if (rc < 0) return rc;
        *out++ = second ? *b : *a;
        b += second;
        n_b -= second;
        a += !second;
        n_a -= !second;
    }
    memcpy(out, a, n_a * sizeof(*a));
    memcpy(out + n_a, b, n_b * sizeof(*b));
    return 0;
}

int seq_sort(run *r, seq *s, value *keys, bool reverse) {
    size_t n = s->n;
    if (n < 2) return 0;
    keyed *from = run_alloc(r, n, sizeof(*from));
    keyed *to = run_alloc(r, n, sizeof(*to));
    if (from == NULL || to == NULL) return run_full(r);

    for (size_t i = 0; i < n; i++)
        from[i] = (keyed){keys[i], s->items[i]};
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t i = 0; i < n; i += 2 * width) {
            size_t n_a = size_min(width, n - i);
            size_t n_b = size_min(width, n - i - n_a);
            int rc =
                merge(r, from + i, n_a, from + i + n_a, n_b, to + i, reverse);
            if (rc < 0) return rc;
        }
        keyed *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < n; i++) {
        keys[i] = from[i].key;
        s->items[i] = from[i].item;
    }
    return 0;
}
