/* conductor_internal.h - what conductor.c, which acts, and conductor_status.c,
 * which reports, share. */
#ifndef COORDINATOR_CONDUCTOR_INTERNAL_H
#define COORDINATOR_CONDUCTOR_INTERNAL_H

#include "coordinator/conductor.h"
#include "coordinator/homeless.h"
#include "coordinator/conductor_balance.h"
#include "coordinator/leader.h"
#include "coordinator/model_cut.h"
#include "discovery/registry.h"

/* What the planner knows of the model, for one way of cutting experts. */
typedef struct {
    planner_model plan; /* borrows from `cut` */
    model_cut cut;
} rack_model;

typedef struct recover_job recover_job;

struct conductor {
    conductor_config config;
    registry *registry;
    leader *leader;
    rack_model *model;            /* NULL until it is needed */
    uv_timer_t timer, idle_timer; /* the latter while drained */
    bool closing;
    bool listed;
    bool drained;
    coordinator_record own; /* as it is registered */
    char conflict[400];     /* why the rack's placement is not for us; "" */
    char told[400];         /* the refusal that the owner knows of */
    int told_code;
    uint64_t epoch;    /* the last that was logged */
    int64_t term;      /* likewise */
    char why_not[200]; /* the leader machine's reason, likewise */
    conductor_balance balance;
    recover_job *recovering; /* conductor_recover.c; NULL: none */
    uv_timer_t recover_timer;
    homeless *homeless; /* units that nobody can be asked for */
    uv_timer_t homeless_timer;
    bool saw_homeless, said_homeless;
    uint64_t stale_since_ms; /* every node refuses us; 0: not so */
    bool stranded;           /* ... for too long */
    uv_timer_t stranded_timer;
};

#define CONDUCTOR_STRANDED                                                     \
    "every node has a newer placement than etcd has told this coordinator"

/* Tell the owner whether requests are welcome, when that has changed. */
void conductor_tell_refusal(conductor *c);

/* The placement that is ours to use.  NULL: there is none, or it was made for
 * another model; then c->conflict says so. */
const rack_placement *conductor_placement(conductor *c, const rack_view *view);

/* Look at everything anew and do what the leader machine wants: with the next
 * turn of the loop. */
void conductor_think_again(conductor *c);

/* Show the leader machine how things stand.  -ENOMEM, or what keeps the experts
 * from being measured; it is logged. */
int conductor_show(conductor *c, const rack_view *view,
                   const rack_placement *p);

#endif
