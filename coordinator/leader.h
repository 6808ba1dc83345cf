/* leader.h - when a rack's placement is written, and by whom: a plain state
 * machine.
 *
 * Every coordinator runs one.  It is shown what etcd says whenever that changed
 * (leader_look) and says what to do (leader_next): think (make a plan or run
 * the balancer, which may take a while and is a job that any thread can do),
 * write a step of the planner, compact etcd's history, or wait.  It opens no
 * socket and reads no clock; the coordinator's loop owns it.  Only the
 * coordinator with a term gets anything but WAIT; the others keep one for
 * leader_input(), and to know for how long a node has been away, and who came
 * to hold what when, if their turn comes.
 *
 * Rules it keeps (each has a test):
 *   - nothing is written without a term, while the view is not up to date, when
 *     etcd's placement went back (an operator recovers), could not be read or
 *     was made for another model;
 *   - nor while this leader has written, or nodes or other coordinators know, a
 *     newer placement than the view shows: the view is late and will show it
 *     or, after behind_ms, etcd has lost it, which is for an operator too; and
 *     so is one that some know under the number of another;
 *   - one write at a time, fenced by the term and the revision that it was
 *     planned from; the next one is planned from a view that shows the last;
 *   - after a write whose outcome nobody knows: nothing until the view shows
 *     that the placement changed, was listed anew, or unknown_ms have passed (a
 *     second write with the same compare cannot do harm then or ever; waiting
 *     saves the noise);
 *   - a plan waits until the set of usable nodes has been still, and etcd has
 *     been there, for settle_ms, but not longer than settle_max_ms after either
 *     began to change;
 *   - a node of the placement that is not registered is `missing` for
 *     replace_after_ms, counted from when it was seen to be away, this term
 *     began or etcd came back, whichever was last; then it is gone;
 *   - a job whose question is not what is asked any more counts for nothing.
 *
 * Balancing.  While it leads, the rack is as planned and all nodes are ready,
 * it asks the balancer every balance_every_ms, with the heat it is shown, less
 * what may be noise.  A target that pays is what the planner works towards from
 * then on, until another one does, or the usable nodes, the model or the term
 * change: then the first thing is to ask the balancer anew, or, where heat says
 * nothing even after heat_wait_ms, to leave units where they are, or to share
 * them out by memory if a node has hardly any.  A holder that came
 * less than still_ms ago is not taken away by balancing, and one that was taken
 * away does not come back so soon. */
#ifndef COORDINATOR_LEADER_H
#define COORDINATOR_LEADER_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/heat.h"
#include "coordinator/planner.h"
#include "discovery/rack_view.h"

typedef struct {
    const char *name;       /* this coordinator's, into the epoch's `writer` */
    record_profile profile; /* nodes must have its version, activation, rows */
    bool no_balance;        /* shares by memory, whatever the heat */
    /* 0: the default */
    uint32_t settle_ms;        /* 1,000 */
    uint32_t settle_max_ms;    /* 5,000 */
    uint32_t replace_after_ms; /* 15,000 */
    uint32_t unknown_ms;       /* 10,000: longer than etcd keeps a request */
    uint32_t behind_ms;        /* 3,000 */
    uint32_t compact_ms;       /* 300,000 */
    uint32_t balance_every_ms; /* 2,000 */
    uint32_t heat_wait_ms; /* 4,000: a leader that is new may have none yet */
    uint32_t still_ms;     /* 60,000 */
} leader_config;

typedef struct leader leader;
int leader_new(leader **out, const leader_config *c);
void leader_free(leader *l); /* NULL is fine */

/* What a coordinator sees.  All is borrowed until the next look: whenever the
 * view has been fed, look before anything else is asked of the machine. */
typedef struct {
    const rack_view *view;      /* registry_view(); NULL: nothing listed yet */
    int64_t term;               /* registry_term(); 0: not the leader */
    uint64_t live_since_ms;     /* registry_live_since(); 0: not up to date */
    const planner_model *model; /* with the slices of the placement in force, if
                                   there is one; outlives the next look */
    const heat *heat;           /* of the model, cut like that; NULL: none.  May
                                   be added to between looks. */
    uint32_t n_groups;          /* of the model's experts; 0: none */
    uint64_t told_epoch; /* the newest placement (packed) that a live node
                            answered it knows; 0: none did */
} leader_picture;

/* -ENOMEM: this look was not taken; look again. */
int leader_look(leader *l, uint64_t now_ms, const leader_picture *p);

/* How fast a node was measured to be, 1 being usual; 0: not known.  To be told
 * every few seconds.  It counts in steps of a quarter, and changes step only
 * for a difference that is clearly one and lasts, so that equal machines are
 * equal.  Unknown names are kept for when they come; -ENOMEM. */
int leader_set_speed(leader *l, uint64_t now_ms, const char *name,
                     double speed);

/* ---- jobs: plans and runs of the balancer ---- */

/* A question with copies of all that it needs; belongs to whoever has it. */
typedef struct leader_job leader_job;
void leader_job_run(leader_job *j);  /* any thread, once */
void leader_job_free(leader_job *j); /* NULL is fine */

typedef enum {
    LEADER_THINK,   /* leader_job_run(), then leader_thought() */
    LEADER_WRITE,   /* registry_write_placement(), then leader_wrote() */
    LEADER_COMPACT, /* registry_compact(revision); its outcome is not asked */
    LEADER_WAIT     /* nothing before an event or wake_ms */
} leader_kind;

typedef struct {
    leader_kind kind;
    leader_job *job;          /* yours; one at a time */
    const planner_step *step; /* until leader_wrote(); writer, term are set */
    int64_t term, expected_revision;
    int64_t revision;
    uint64_t wake_ms; /* UINT64_MAX: an event only */
} leader_action;

/* The next thing to do; call until WAIT.  -ENOMEM: `out` is a WAIT after which
 * it is tried again. */
int leader_next(leader *l, uint64_t now_ms, leader_action *out);

/* The job is done; takes ownership.  0, or the planner's or balancer's error,
 * after which it is tried again in a while.  A job that nobody can run
 * (shutting down) is just freed. */
int leader_thought(leader *l, uint64_t now_ms, leader_job *j);

typedef enum {
    LEADER_DONE,
    LEADER_NOT,    /* certainly not written: compare, refusal, nobody there */
    LEADER_UNKNOWN /* may be or become written */
} leader_outcome;
/* The outcome of the one write under way. */
void leader_wrote(leader *l, uint64_t now_ms, leader_outcome o);

/* ---- for people ---- */

/* The rack as the planner is shown it, also on coordinators that do not lead:
 * for planner_look().  Borrowed until the next look.  NULL: nothing listed yet
 * or no model. */
const planner_input *leader_input(leader *l, uint64_t now_ms);

/* Why nothing may be written although this is the leader: a sentence for
 * `status`; "" if all is well. */
const char *leader_why(const leader *l);

/* The newest placement (packed) that nodes, other coordinators or our own
 * writes tell of, whatever etcd shows: for a recovery.  0: none. */
uint64_t leader_known_epoch(const leader *l);
/* Does somebody know another placement under the number of ours? */
bool leader_at_odds(const leader *l);

/* A holder that a target adds or takes away. */
typedef struct {
    uint32_t layer, unit; /* of the layer: expert * slices + slice */
    bool added;
    char node[RECORD_NAME];
} leader_move;

#define LEADER_MOVES_MAX 1000

typedef struct {
    bool dry_run,
        pays;     /* `pays`: it is worth its moves, by the usual measure */
    bool started; /* it was taken as the target */
    balance_figures before, after;
    uint64_t added, removed, moved_bytes; /* holders; to be loaded */
    leader_move *moves;                   /* the first of them */
    uint32_t n_moves;
    uint64_t at_ms;
} leader_report;

/* An operator asks for a run of the balancer: whatever it gains is done, unless
 * it is a dry run.  Then call leader_next(); the report is there some time
 * after a leader_thought().  Asking again replaces what was asked before.
 * ERR_NOT_LEADER with a sentence if this is not a leader that may write. */
int leader_rebalance(leader *l, bool dry_run, char *why, size_t why_size);
/* NULL: nothing was asked, or it is not there yet.  Borrowed until the next
 * call of any other function here.  Is given up (false from leader_is_asked)
 * when the term ends. */
const leader_report *leader_answer(const leader *l);
bool leader_is_asked(const leader *l);
/* Nobody waits for the answer any more, and nothing is done for it. */
void leader_unask(leader *l);

typedef struct {
    /* of the last run of the balancer in this term; at_ms 0: none was */
    uint64_t at_ms;
    bool pays;
    balance_figures before, after;
    /* what lies between the placement and the target */
    bool moving;
    uint64_t since_ms; /* when the target was taken */
    uint64_t to_load, to_drop, bytes_left;
    /* targets taken and reached in this term */
    uint64_t started, reached;
    balance_figures target_before, target_after; /* of the last one taken */
} leader_figures;
void leader_look_at(leader *l, uint64_t now_ms, leader_figures *out);

#endif
