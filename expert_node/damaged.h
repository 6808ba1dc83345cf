/* damaged.h - units whose weights in memory have changed are not shown as held
 * any more.  Loop thread only. */
#ifndef EXPERT_NODE_DAMAGED_H
#define EXPERT_NODE_DAMAGED_H

#include <jansson.h>
#include "expert_node/service.h"

/* The next unit that the worker found and dropped (scrub.h): it is withdrawn
 * from what the node holds, and named in the log with `next`, what becomes of
 * it.  false: none.  Before anything that the worker says of loads and other
 * drops: those came later. */
bool damaged_take(service *s, const char *next, scrub_find *out);

/* A new object: {"damaged", "units", "bytes", "passes"} of the re-reading. */
json_t *damaged_json(const service *s);

#endif
