/* unit_cache.h - units as they are stored, kept on disk by their content: so
 * that a node that starts again does not fetch them again.
 *
 * A whole unit is DIR/<key>.unit; what has arrived of one that is being fetched
 * is DIR/<key>.part, which says itself which pieces it has, so that whoever
 * comes next goes on there.  Nothing here is believed: readers check a unit
 * against the manifest before they use it, and drop it if it is damaged.
 *
 * Bounded: the longest unused goes first, what is pinned last, and nothing of
 * ours that is pinned goes for what is not.  Several processes may share a
 * folder: a part belongs to whoever locks it, whole units to everybody.  A disk
 * that is full or cannot be written is said once; then nothing is kept, and
 * everything goes on.  Any thread. */
#ifndef EXPERT_NODE_UNIT_CACHE_H
#define EXPERT_NODE_UNIT_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/unit_image.h"

#define UNIT_CACHE_PATH 1024

typedef struct {
    const char *dir;    /* made if it is not there */
    uint64_t max_bytes; /* never more than 90 % of what the disk has left */
    uint32_t rest_ms;   /* after trouble; 0: a minute.  Then folder and disk are
                           looked at anew */
} unit_cache_config;

typedef struct unit_cache unit_cache;

/* On failure `why` names the path: go on without a cache. */
int unit_cache_open(unit_cache **out, const unit_cache_config *c, char *why,
                    size_t why_size);
/* Waits for what is being written out.  NULL is fine. */
void unit_cache_close(unit_cache *c);

const char *unit_cache_dir(const unit_cache *c);

/* ---- whole units ---- */

/* A descriptor to read it with, the caller's to close; ERR_NOT_HERE. */
int unit_cache_find(unit_cache *c, const unit_key *key, uint64_t bytes,
                    int *fd);
/* Bytes of a whole unit; ERR_NOT_HERE, -errno. */
int unit_cache_read(unit_cache *c, const unit_key *key, uint64_t unit_bytes,
                    uint64_t offset, size_t bytes, void *out);
/* It is damaged: counted, logged and removed. */
void unit_cache_drop(unit_cache *c, const unit_key *key);
/* Is it assigned to this node?  Then it is kept longest.  -ENOMEM. */
int unit_cache_pin(unit_cache *c, const unit_key *key, bool pinned);

/* ---- units in the making; one thread at a time ---- */

typedef struct cache_part cache_part;

/* What there is of it already, or an empty one.  ERR_OVERLOADED: another
 * process is at it; else why nothing can be kept, which was logged if it is
 * news. */
int cache_part_open(cache_part **out, unit_cache *c, const unit_key *key,
                    uint64_t bytes, uint32_t piece_bytes);
bool cache_part_has(const cache_part *p, uint32_t piece);
/* A whole piece (the last one may be shorter); on failure the part is of no
 * more use, and says that it is not complete. */
int cache_part_put(cache_part *p, uint32_t piece, const void *data,
                   size_t bytes);
/* Of pieces that it has; may run beside _put(). */
int cache_part_read(const cache_part *p, uint64_t offset, size_t bytes,
                    void *out);
bool cache_part_complete(const cache_part *p);

/* One of these ends it; NULL is fine. */
void cache_part_keep(cache_part *p);  /* complete and checked: a whole unit */
void cache_part_drop(cache_part *p);  /* damaged: counted and removed */
void cache_part_close(cache_part *p); /* to be gone on with later */

/* ---- reports ---- */

typedef struct {
    uint64_t bytes, max_bytes; /* in the folder, all processes' */
    uint64_t hits, kept, evicted, damaged, skipped;
    int trouble; /* the code of what keeps it from writing now; 0: none */
} unit_cache_stats;
unit_cache_stats unit_cache_look(unit_cache *c);

#endif
