/* homeless.h - which units nobody can be asked for, and what becomes of them.
 *
 * A unit is homeless while no live node holds it: its holders died and memory
 * for another copy was not there, or they are still loading.  Requests that
 * need it wait, and fail after a while.  Here is found which units these are,
 * why, and when they will be there again, for whoever looks at the status.
 * Plain struct, no clock; one thread. */
#ifndef COORDINATOR_HOMELESS_H
#define COORDINATOR_HOMELESS_H

#include <jansson.h>
#include "coordinator/placement.h"
#include "coordinator/planner.h"

typedef struct {
    const planner_input *plan; /* leader_input() */
    const placement *where;    /* what can be asked for now */
    uint64_t resident_bytes;   /* over the live nodes */
    uint32_t replace_after_ms; /* until who is away counts as gone */
} homeless_picture;

/* Why a unit has no home, from the best case to the worst. */
typedef enum {
    HOMELESS_LOADING, /* a live node is to hold it, and is loading */
    HOMELESS_AWAY,    /* its holders are silent, not yet given up */
    HOMELESS_PLACING, /* it is going to be placed anew: there is room */
    HOMELESS_NO_ROOM, /* the live nodes' memory is not enough for all units */
    HOMELESS_KINDS
} homeless_kind;

typedef struct homeless homeless;
int homeless_new(homeless **out);
void homeless_free(homeless *h); /* NULL is fine */

/* Look again; the picture is borrowed for the call.  -ENOMEM: what is found is
 * not all. */
int homeless_look(homeless *h, uint64_t now_ms, const homeless_picture *p);

uint64_t homeless_units(const homeless *h);
uint64_t homeless_of_kind(const homeless *h, homeless_kind kind);
/* Seconds until all of them are there again; negative: not without more memory,
 * or nobody can tell. */
double homeless_estimate_s(const homeless *h);
/* "layer 3: experts 1-4,17; layer 5: ..." as far as there is room.  Returns
 * `out`. */
char *homeless_text(const homeless *h, char *out, size_t size);
/* What is to be waited for, or done; "" if nothing is homeless.  Until the next
 * look. */
const char *homeless_why(const homeless *h);

/* {"units", "since_s", "layers": [{"layer", "experts": "1-4,17"}], "loading",
 * "away", "placing", "no_room", "estimate_s" or null, "why"} */
json_t *homeless_json(const homeless *h, uint64_t now_ms);

#endif
