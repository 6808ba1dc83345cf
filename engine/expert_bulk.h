/* expert_bulk.h - loads many units of a store as fast as the disk gives them.
 *
 * Every thread of the pool reads, checks and packs units of its own, in the
 * order given, while the disk brings the next ones.  The file is read once, and
 * where it does not fit into memory beside what is packed, what was read of it
 * is given up at once. */
#ifndef ENGINE_EXPERT_BULK_H
#define ENGINE_EXPERT_BULK_H

#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "engine/pool.h"

typedef struct {
    uint32_t layer, unit;
} expert_unit;

typedef struct {
    expert_store *store; /* of the loading thread, which is the pool's lead */
    pool *threads;
    const expert_unit *units; /* each once */
    size_t n_units;
    /* How far it is, after each unit that the lead loaded; NULL: nobody asks */
    void (*progress)(void *ctx, size_t n_loaded);
    void *ctx;
} expert_bulk;

/* Load them all.  expert_store_load()'s codes, with a sentence; what was loaded
 * until then stays. */
int expert_bulk_load(const expert_bulk *b, char *why, size_t why_size);

#endif
