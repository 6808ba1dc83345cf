/* scrub.h - reads resident weights again, slowly, and finds what memory has not
 * kept.
 *
 * Bits flip in memory, and weights lie there for months.  A unit's checksum was
 * taken when it was loaded (and verified, and packed); here it is taken again,
 * a small piece at a time, so that all that is resident is read once in
 * `pass_ms`.  A unit that differs is dropped at once: nobody is answered from
 * it any more, and its owner loads it anew.
 *
 * The computing thread turns it between two merges.  As that thread alone drops
 * units, none can vanish under it, and no lock is needed.  Others may read the
 * figures, and one of them takes what was found. */
#ifndef EXPERT_NODE_SCRUB_H
#define EXPERT_NODE_SCRUB_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/expert_store.h"

/* About 10 us; a batch that comes meanwhile waits for no more. */
#define SCRUB_PIECE ((size_t)64 << 10)
#define SCRUB_FOUND_MAX 64 /* not yet taken; the search rests at that */

typedef struct scrub scrub;

/* `pass_ms` 0: it does nothing.  -ENOMEM. */
int scrub_new(scrub **out, expert_store *store, uint64_t pass_ms);
void scrub_free(scrub *s); /* NULL is fine */

/* Read a piece, if one is due.  True: a damaged unit was dropped. */
bool scrub_turn(scrub *s, uint64_t now_us);
/* When the next one is due; UINT64_MAX: never. */
uint64_t scrub_due_us(const scrub *s);

typedef struct {
    uint32_t layer, unit;
} scrub_find;

/* The next unit that was dropped, oldest first; false: none.  One thread. */
bool scrub_take(scrub *s, scrub_find *out);

typedef struct {
    uint64_t units, bytes; /* read again, since the start */
    uint64_t passes;       /* over everything */
    uint64_t damaged;
} scrub_figures;
void scrub_look(const scrub *s, scrub_figures *out); /* any thread */

#endif
