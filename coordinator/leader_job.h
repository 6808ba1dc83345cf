/* leader_job.h - a question that takes a while, with copies of all that it
 * needs, and its answer: the planner's next step, or the balancer's target.
 *
 * Part of leader.h's machine, which makes jobs and reads the answers; running
 * one is all that others do. */
#ifndef COORDINATOR_LEADER_JOB_H
#define COORDINATOR_LEADER_JOB_H

#include "coordinator/leader.h"

typedef enum { LEADER_JOB_PLAN, LEADER_JOB_BALANCE } leader_job_kind;

struct leader_job {
    leader_job_kind kind;
    uint64_t digest; /* of what it depends on */
    planner_input input;
    /* What the input borrows. */
    planner_model model;
    planner_node *nodes;
    char (*names)[RECORD_NAME];
    rack_placement *now;
    balance_map target;

    /* ---- LEADER_JOB_BALANCE ---- */
    bool asked, dry_run; /* by an operator */
    bool must;           /* there is no target to go on with */
    balance_input question;
    balance_node *balance_nodes;
    balance_map holders; /* as they are now */
    bool *pinned;        /* [holders] */
    balance_holder *banned;
    double *load; /* [units]; NULL: nothing is known */

    /* ---- the answer ---- */
    int rc;
    planner_step step;
    balance_result result;
    leader_report report; /* of one that was asked for */
};

/* A copy of the input, with no target.  -ENOMEM. */
int leader_job_new(leader_job **out, leader_job_kind kind,
                   const planner_input *in);

/* Units of all layers; a layer's first one. */
uint32_t leader_units(const planner_model *m);

#endif
