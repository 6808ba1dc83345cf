/* cache_place.c - see cache_place.h. */
#include "expert_node/cache_place.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/log.h"

#define FOLDER "roster/units"
#define WHY_SIZE 512

/* Of this user; false: it has none. */
static bool users_place(char out[UNIT_CACHE_PATH]) {
    const char *base = getenv("XDG_CACHE_HOME"), *more = "";
    if (base == NULL || base[0] != '/') {
        base = getenv("HOME");
        more = "/.cache";
    }
    if (base == NULL || base[0] != '/') return false;
    int n = snprintf(out, UNIT_CACHE_PATH, "%s%s/" FOLDER, base, more);
    return n > 0 && n < UNIT_CACHE_PATH;
}

static unit_cache *open_at(const char *dir, uint64_t max_bytes, char *why,
                           size_t why_size) {
    unit_cache *cache;
    const unit_cache_config c = {.dir = dir, .max_bytes = max_bytes};
    if (unit_cache_open(&cache, &c, why, why_size) < 0) return NULL;
    unit_cache_stats s = unit_cache_look(cache);
    log_info("weights are kept in %s: %" PRIu64 " of at most %" PRIu64
             " MiB now",
             dir, s.bytes >> 20, s.max_bytes >> 20);
    return cache;
}

unit_cache *cache_place_open(const node_config *c, uint64_t memory_bytes) {
    char dir[UNIT_CACHE_PATH], why[WHY_SIZE] = "there is no place for one";
    unit_cache *cache = NULL;
    uint64_t most = c->cache_bytes != 0 ? c->cache_bytes : memory_bytes;
    bool named = c->cache != NULL;
    if (named ? strcmp(c->cache, "none") == 0 : !etcd_options_given(&c->etcd))
        return NULL;
    if (named) {
        cache = open_at(c->cache, most, why, sizeof(why));
    } else {
        if (users_place(dir)) cache = open_at(dir, most, why, sizeof(why));
        if (cache == NULL)
            cache = open_at("/var/cache/" FOLDER, most, why, sizeof(why));
    }
    if (cache == NULL) {
        log_warn("weights are not kept on disk: %s", why);
    }
    return cache;
}
