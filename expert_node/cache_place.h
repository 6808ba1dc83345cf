/* cache_place.h - where a node that has no model file keeps units. */
#ifndef EXPERT_NODE_CACHE_PLACE_H
#define EXPERT_NODE_CACHE_PLACE_H

#include "expert_node/config.h"
#include "expert_node/unit_cache.h"

/* Open the cache that the options ask for: in --cache, or in a rack in
 * ${XDG_CACHE_HOME:-~/.cache}/roster/units or else /var/cache/roster/units.
 * NULL: there is to be none, or none can be had, which is logged: the node goes
 * on without.  `memory_bytes` bounds what is kept, unless --cache-bytes does.
 */
unit_cache *cache_place_open(const node_config *c, uint64_t memory_bytes);

#endif
