/* leader_internal.h - what the leader machine's parts share.
 *
 *   leader.c           when to think, write, compact, wait
 *   leader_nodes.c     the nodes of a picture
 *   leader_peers.c     nodes by numbers that stay, and their speeds
 *   leader_history.c   what came and went a little while ago
 *   leader_balance.c   when to ask the balancer, and what it said
 *   leader_question.c  what the balancer is asked
 *   leader_job.c       questions with their answers
 */
#ifndef COORDINATOR_LEADER_INTERNAL_H
#define COORDINATOR_LEADER_INTERNAL_H

#include "coordinator/leader.h"
#include "coordinator/leader_history.h"
#include "coordinator/leader_job.h"
#include "coordinator/leader_nodes.h"
#include "coordinator/leader_peers.h"

/* What the balancer said, and how far it is. */
typedef struct {
    /* Who should hold what, in peers' numbers; n_units 0: there is none. */
    balance_map target;
    uint64_t number;  /* rises with every target */
    uint64_t members; /* a digest of the nodes that it is for */
    bool reached;
    bool done_without;        /* shares by memory: heat says nothing */
    uint64_t next_ms;         /* the next run */
    uint64_t failed_until_ms; /* nor one that is asked for before; 0: any */

    /* Since when runs say that a change, or only giving up copies, pays. */
    uint64_t pays_since_ms, spare_since_ms;

    bool asked, asked_dry_run, has_report;
    leader_report report;

    leader_figures figures; /* to_load and the like: of the epoch below */
    uint64_t counted_epoch, counted_number;
} leader_balance;

struct leader {
    leader_config config;
    char name[RECORD_NAME];
    leader_picture picture;
    const char *why;
    leader_nodes nodes;
    leader_peers peers;
    leader_history history;
    planner_input input;

    uint64_t term_since_ms;

    /* Usable nodes come and go. */
    uint64_t usable; /* a digest of their set */
    bool unsettled;
    uint64_t changing_since_ms, changed_ms;

    /* The write under way, and what is waited for after it. */
    bool writing;
    planner_step step;
    int64_t written_over; /* the revision that it replaces */
    bool held;
    uint64_t held_since_ms, held_until_ms;
    uint32_t retry_ms;
    uint64_t written_epoch; /* the newest that etcd said it has; 0: none */
    /* Since when the view is up to date and yet lacks a placement that is
     * known; 0: it does not. */
    uint64_t behind_since_ms;

    bool thinking;     /* a job is away */
    bool has_step;     /* l->step is a plan to be written */
    uint64_t step_for; /* a digest of what it depends on */
    bool planned;      /* the last plan said that there is nothing to do */
    uint64_t planned_for;
    uint64_t retry_at_ms; /* after a plan that failed; 0: it did not */

    leader_balance balance;

    /* What is compacted next, and when it was the newest. */
    int64_t mark_revision;
    uint64_t mark_ms;
};

/* From when on a node's absence counts: nobody knows what happened before. */
uint64_t leader_watching_since(const leader *l);

/* ---- leader_balance.c ---- */

typedef enum {
    LEADER_GO,  /* nothing to ask: plan */
    LEADER_ASK, /* *job is to be run */
    LEADER_HOLD /* nothing before *wake_ms: heat may tell something yet */
} leader_next_step;
/* Before anything is planned.  `in` is the picture, without a target.
 * -ENOMEM. */
int leader_balance_before(leader *l, uint64_t now_ms, const planner_input *in,
                          leader_next_step *out, leader_job **job,
                          uint64_t *wake_ms);
/* When a plan said that there is nothing to do: LEADER_GO or LEADER_ASK, and
 * when to come back. */
int leader_balance_after(leader *l, uint64_t now_ms, const planner_input *in,
                         leader_next_step *out, leader_job **job,
                         uint64_t *wake_ms);
/* The target for a planner_input, in its numbers.  An empty map: there is none.
 * -ENOMEM. */
int leader_balance_target(leader *l, const planner_input *in, balance_map *out);
/* The placement has changed (leader_history.fresh): a holder that came beside
 * the target takes the place of one that has not come. */
void leader_balance_adopt(leader *l);
/* A LEADER_JOB_BALANCE is done.  Its error, or -ENOMEM. */
int leader_balance_thought(leader *l, uint64_t now_ms, leader_job *j);
/* The term began or ended: nothing is known. */
void leader_balance_forget(leader *l);
void leader_balance_fini(leader *l);

/* ---- leader_question.c ---- */

/* Fill in what the balancer is asked: `forced` and `must` are the job's to
 * say. */
int leader_question(leader *l, uint64_t now_ms, leader_job *j);
/* Does the heat say anything? */
bool leader_has_heat(const leader *l);

#endif
