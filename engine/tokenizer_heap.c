/* tokenizer_heap.c - the queue of merges that BPE and SPM take the best from.
 *
 * A binary heap on 64-bit keys.  Outdated entries are not searched for: they
 * are recognised by their stamp when they come up, which keeps a merge at two
 * pushes and a long word at n log n. */
#include <stdlib.h>
#include <errno.h>
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

bool grow_array(void **array, size_t *room, size_t need, size_t element) {
    if (need <= *room) return true;

    size_t want = size_max(need, size_max(*room * 2, 64));
    size_t bytes;
    if (!size_mul(want, element, &bytes)) return false;
    void *bigger = realloc(*array, bytes);
    if (bigger == NULL) return false;
    *array = bigger;
    *room = want;
    return true;
}

void heap_fini(merge_heap *h) {
    free(h->items);
    *h = (merge_heap){0};
}

int heap_push(merge_heap *h, merge_item item) {
    void *items = h->items;
    if (!grow_array(&items, &h->room, h->n + 1, sizeof(*h->items)))
        return -ENOMEM;
    h->items = items;

    size_t at = h->n++;
    while (at > 0 && item.key < h->items[(at - 1) / 2].key) {
        h->items[at] = h->items[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    h->items[at] = item;
    return 0;
}

bool heap_pop(merge_heap *h, merge_item *out) {
    if (h->n == 0) return false;
    *out = h->items[0];

    merge_item last = h->items[--h->n];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= h->n) break;
        if (child + 1 < h->n && h->items[child + 1].key < h->items[child].key)
            child++;
        if (last.key <= h->items[child].key) break;
        h->items[at] = h->items[child];
        at = child;
    }
    h->items[at] = last;
    return true;
}
