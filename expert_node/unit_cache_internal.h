/* unit_cache_internal.h - what the cache's files share: unit_cache.c knows the
 * folder and its bounds, cache_part.c one unit in the making. */
#ifndef EXPERT_NODE_UNIT_CACHE_INTERNAL_H
#define EXPERT_NODE_UNIT_CACHE_INTERNAL_H

#include <pthread.h>
#include "expert_node/unit_cache.h"

#define UNIT_CACHE_WHOLE ".unit"
#define UNIT_CACHE_PART ".part"
#define UNIT_CACHE_NAME (UNIT_KEY_HEX + 8)

struct cache_part {
    unit_cache *cache;
    unit_key key;
    int fd; /* locked; -1: of no more use */
    uint64_t bytes;
    uint32_t piece_bytes, n_pieces, n_have;
    uint8_t *have; /* a bit for each piece, as it stands after the image */
    struct cache_part *next; /* to be written out */
};

/* "<key>.unit" or "<key>.part". */
void unit_cache_name(const unit_key *key, const char *suffix,
                     char out[UNIT_CACHE_NAME]);
int unit_cache_fd(const unit_cache *c); /* of the folder */

/* Make room for `bytes` more and count them; 0, or ERR_TOO_LARGE if there is no
 * room that may be made.  _release() gives back what is not used. */
int unit_cache_reserve(unit_cache *c, uint64_t bytes);
void unit_cache_release(unit_cache *c, uint64_t bytes);

/* Writing does not work, or (0) does: what is news is logged.  Returns rc. */
int unit_cache_trouble(unit_cache *c, int rc, const char *name);
/* Is it this file alone that cannot be written: another user's, or no file? */
bool unit_cache_is_alone(const unit_cache *c, int rc, const char *name);
/* Then that unit is not kept, and all others are; logged once.  Returns rc. */
int unit_cache_skip(unit_cache *c, int rc, const char *name);
/* Not 0 for a while after trouble: do not try. */
int unit_cache_resting(unit_cache *c);
/* And logged; `rc`: 0, or why it cannot be removed. */
void unit_cache_count_damaged(unit_cache *c, const char *name, int rc);
/* A whole unit that can be read again: it is new. */
void unit_cache_replaced(unit_cache *c, const unit_key *key);

/* Hand over a complete part to be synced and renamed. */
void unit_cache_finish(unit_cache *c, cache_part *p);
/* Do it here: on the cache's thread, or, with too many waiting, unsynced. */
void cache_part_finish(cache_part *p, bool sync);
void cache_part_free(cache_part *p);

#endif
