/* leader.h - when a rack's placement is written, and by whom: a plain state
 * machine.
 *
 * Every coordinator runs one.  It is shown what etcd says whenever that changed
 * (leader_look) and says what to do (leader_next): write a step of the planner,
 * compact etcd's history, or wait.  It opens no socket and reads no clock; the
 * coordinator's loop owns it.  Only the coordinator with a term gets anything
 * but WAIT; the others keep one for leader_input(), and to know for how long a
 * node has been away when their turn comes.
 *
 * Rules it keeps (each has a test):
 *   - nothing is written without a term, while the view is not up to date, when
 *     etcd's placement went back (an operator recovers), could not be read or
 *     was made for another model;
 *   - one write at a time, fenced by the term and the revision that it was
 *     planned from; the next one is planned from a view that shows the last;
 *   - after a write whose outcome nobody knows: nothing until the view shows
 *     that the placement changed, was listed anew, or unknown_ms have passed (a
 *     second write with the same compare cannot do harm then or ever; waiting
 *     saves the noise);
 *   - a plan waits until the set of usable nodes has been still for settle_ms,
 *     but not longer than settle_max_ms after it began to change;
 *   - a node of the placement that is not registered is `missing` for
 *     replace_after_ms, counted from when it was seen to be away, this term
 *     began or etcd came back, whichever was last; then it is gone. */
#ifndef COORDINATOR_LEADER_H
#define COORDINATOR_LEADER_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/planner.h"
#include "discovery/rack_view.h"

typedef struct {
    const char *name;       /* this coordinator's, into the epoch's `writer` */
    record_profile profile; /* nodes must have its version, activation, rows */
    /* 0: the default */
    uint32_t settle_ms;        /* 1,000 */
    uint32_t settle_max_ms;    /* 5,000 */
    uint32_t replace_after_ms; /* 15,000 */
    uint32_t unknown_ms;       /* 10,000: longer than etcd keeps a request */
    uint32_t compact_ms;       /* 300,000 */
} leader_config;

typedef struct leader leader;
int leader_new(leader **out, const leader_config *c);
void leader_free(leader *l); /* NULL is fine */

/* What a coordinator sees.  The view is borrowed until the next look: whenever
 * it has been fed, look before anything else is asked of the machine. */
typedef struct {
    const rack_view *view;      /* registry_view(); NULL: nothing listed yet */
    int64_t term;               /* registry_term(); 0: not the leader */
    uint64_t live_since_ms;     /* registry_live_since(); 0: not up to date */
    const planner_model *model; /* with the slices of the placement in force, if
                                   there is one; outlives the next look */
} leader_picture;

/* -ENOMEM: this look was not taken; look again. */
int leader_look(leader *l, uint64_t now_ms, const leader_picture *p);

typedef enum {
    LEADER_WRITE,   /* registry_write_placement(), then leader_wrote() */
    LEADER_COMPACT, /* registry_compact(revision); its outcome is not asked */
    LEADER_WAIT     /* nothing before an event or wake_ms */
} leader_kind;

typedef struct {
    leader_kind kind;
    const planner_step *step; /* until leader_wrote(); writer, term are set */
    int64_t term, expected_revision;
    int64_t revision;
    uint64_t wake_ms; /* UINT64_MAX: an event only */
} leader_action;

/* The next thing to do; call until WAIT.  -ENOMEM or the planner's error: `out`
 * is a WAIT after which it is tried again. */
int leader_next(leader *l, uint64_t now_ms, leader_action *out);

typedef enum {
    LEADER_DONE,
    LEADER_NOT,    /* certainly not written: compare, refusal, nobody there */
    LEADER_UNKNOWN /* may be or become written */
} leader_outcome;
/* The outcome of the one write under way. */
void leader_wrote(leader *l, uint64_t now_ms, leader_outcome o);

/* The rack as the planner is shown it, also on coordinators that do not lead:
 * for planner_look().  Borrowed until the next look.  NULL: nothing listed yet
 * or no model. */
const planner_input *leader_input(leader *l, uint64_t now_ms);

/* Why nothing may be written although this is the leader: a sentence for
 * `status`; "" if all is well. */
const char *leader_why(const leader *l);

#endif
