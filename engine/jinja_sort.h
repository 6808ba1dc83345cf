/* jinja_sort.h - a stable sort whose comparisons may fail. */
#ifndef ENGINE_JINJA_SORT_H
#define ENGINE_JINJA_SORT_H

#include "engine/jinja_run.h"

/* Sort s by keys[i], the key of s->items[i]; both are rearranged (they may be
 * the same array).  `reverse` keeps the order of equals, as sorted() does. */
int seq_sort(run *r, seq *s, value *keys, bool reverse);

#endif
