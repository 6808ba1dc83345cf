/* sim_coord.h - a coordinator: the real membership, dispatch, scheduler,
 * leader, planner, balancer and heat; what stands between them is done as in
 * nodes*.c, exchange.c, step.c and conductor.c, as events instead of threads.
 */
#ifndef TESTS_SIM_SIM_COORD_H
#define TESTS_SIM_SIM_COORD_H

#include "coordinator/dispatch.h"
#include "coordinator/heat.h"
#include "coordinator/leader.h"
#include "coordinator/membership.h"
#include "coordinator/placement.h"
#include "coordinator/scheduler.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_etcd.h"
#include "tests/sim/sim_node.h"

#define SIM_BATCH 8 /* tokens of a step */
#define SIM_PAIRS (SIM_BATCH * SIM_USED * SIM_SEGMENTS)
#define SIM_CREDIT 12 /* rows outstanding at a node */
#define SIM_PAGE 4
#define SIM_PAGES 40
#define SIM_PATIENCE_US 600000
#define SIM_REQUEST_MS 6000 /* timeout of a request, without progress */
#define SIM_QUEUE_MS 9000

/* A node, as the loop thread knows it. */
typedef struct {
    bool there, registered;
    uint32_t place; /* in membership, dispatch and racks */
    uint64_t serial, record_boot;
    bool greeted, welcomed, doubted_since;
    uint64_t version, progress, told_epoch;
    unit_set held, doubted; /* of the last welcome; see coordinator/nodes */
    uint64_t counted_boot;
    uint32_t counted[SIM_LAYERS][SIM_UNITS]; /* pairs, at the last poll */
} sim_seen;

/* What the loop thread tells the step thread. */
typedef struct {
    placement *where; /* NULL: there is none */
    struct {
        bool up;
        uint32_t node;
        uint64_t boot, serial;
        node_trust trust;
    } at[SIM_NODES]; /* by place */
} sim_rack;

typedef struct {
    bool up;
    uint32_t node, connection;
    uint64_t boot, serial;
} sim_link;

/* A request that the step thread works on. */
typedef struct {
    bool used;
    uint64_t id;                        /* request * 256 + attempt */
    uint32_t n_prompt, n_new, n_tokens; /* so far, with the prompt */
    uint32_t first_index;               /* of the first token to be made */
    uint32_t tokens[SIM_POSITIONS];
    sim_cache kv;
} sim_sequence;

/* One token of a step. */
typedef struct {
    sim_sequence *sequence;
    uint32_t position;
    bool lost;
    float x[SIM_WIDTH], h[SIM_WIDTH];
    float arrived[SIM_WIDTH]; /* PLANT_ARRIVAL_ORDER */
    sim_routing routing;
} sim_row;

/* Rows of a step that go through the layers together. */
typedef struct {
    uint32_t first, n_rows;           /* of the step's */
    uint32_t live[SIM_BATCH], n_live; /* of this layer */
    bool in_layer;
    uint32_t layer, number; /* of all layers that were begun */
    placement *during;      /* lent to dispatch */
    float outputs[SIM_PAIRS][SIM_WIDTH];
    bool pinned[SIM_PAIRS]; /* PLANT_LATE_LAYER */
} sim_lane;

typedef struct {
    uint32_t place;
    uint64_t id, sent_us;
    uint32_t layer_number, n_pairs;
    bool answered;
    uint32_t pairs[SIM_PIECE];
} sim_asked;

#define SIM_ASKED 1024
#define SIM_INBOX 256
#define SIM_COMMANDS 64
#define SIM_SEQUENCES 32

typedef struct {
    /* the loop thread */
    membership *members;
    sim_seen seen[SIM_NODES];
    int32_t node_at[SIM_NODES]; /* by place; -1: nobody */
    uint64_t last_serial;
    rack_placement *assignment, *next; /* in use; to be */
    uint64_t begun_ms;                 /* etcd was heard first; 0: it was not */
    uint64_t switch_until_ms;
    bool unpublished;     /* the newest rack lacks something */
    uint64_t rack_due_ms; /* then the next one, if it is for that alone */
    sim_rack posted;      /* where NULL: nothing new */
    uint64_t lag_us;      /* until the step thread takes it */
    leader *leader;
    heat *heat;
    int64_t term;
    uint64_t told_placement; /* the digest in its record */
    bool drained;

    /* the step thread */
    dispatch *machine;
    scheduler *plan;
    sim_rack now;
    uint64_t epoch, source; /* that requests are sent by, as pings say */
    sim_link links[SIM_NODES];
    uint32_t connections;
    bool in_step, computing_here, rack_waits;
    scheduler_item items[SIM_BATCH];
    uint32_t n_items;
    sim_row rows[SIM_BATCH];
    uint32_t n_rows;
    sim_lane lanes[DISPATCH_LANES];
    sim_lane *lane; /* that is worked on */
    /* Whose turn it is, for which layer; is that being computed? */
    uint32_t n_lanes, turn_lane, turn_layer;
    bool in_turn;
    uint32_t layer_number; /* of the layer that was begun last */
    uint32_t here[SIM_PAIRS], n_here, here_lane;
    bool here_fails;
    sim_message *inbox[SIM_INBOX]; /* while it computes */
    uint32_t n_inbox;
    const sim_asking *commands[SIM_COMMANDS]; /* of clients */
    uint32_t n_commands;
    sim_sequence sequences[SIM_SEQUENCES];
    uint64_t step_timer, layer_timer, loop_timer; /* the newest counts */

    /* our own account of what is owed to us */
    sim_asked asked[SIM_ASKED];
    uint32_t n_asked;
} sim_coord;

/* ---- sim_coord.c: its life, its loop thread ---- */
void sim_coord_start(sim *s, uint32_t coord);
void sim_coord_stop(sim *s, uint32_t coord);
/* Something may have changed: the view, a term, a job.  When to come back. */
uint64_t sim_coord_act(sim *s, uint32_t coord);
/* Do what membership wants. */
void sim_coord_loop(sim *s, uint32_t coord);
void sim_coord_control(sim *s, uint32_t coord, const sim_message *m);
void sim_coord_broken(sim *s, uint32_t coord, uint32_t node);
void sim_coord_poll(sim *s, uint32_t coord);

/* ---- sim_rack.c: from what nodes and etcd say to what is used ---- */
void sim_rack_set(sim *s, uint32_t coord);
/* Who is not registered and has nothing to do any more leaves; true: somebody
 * did. */
bool sim_rack_let_go(sim *s, uint32_t coord);
bool sim_rack_sees_all(const sim *s, uint32_t coord);
void sim_rack_welcome(sim *s, uint32_t coord, uint32_t node,
                      const sim_message *m);
void sim_rack_greet(sim *s, uint32_t coord, uint32_t node);
/* Switch if that is due, and tell the step thread: soon, when a node is up or
 * holds other units; at once, when one is lost. */
void sim_rack_changed(sim *s, uint32_t coord);
void sim_rack_lost(sim *s, uint32_t coord);
void sim_rack_fini(sim_rack *r);
/* By its name; -1: there is no such. */
int32_t sim_node_named(const sim *s, const char *name);
/* Units as holdings, to be ended by the caller. */
void sim_rack_fill(const sim *s, const unit_set *units, holdings *h);
/* What a placement (NULL: nothing) gives to each node. */
void sim_rack_assigned(const sim *s, const rack_placement *p,
                       unit_set out[SIM_NODES]);
/* Does it send what needs this unit to the node, or may it, by a placement
 * older than that of `epoch` and `sum`, or by another one of its number? */
bool sim_coord_uses(const sim *s, uint32_t coord, uint32_t node, uint32_t layer,
                    uint32_t unit, uint64_t epoch, uint64_t sum);

/* ---- sim_leader.c: placements ---- */
void sim_leader_start(sim *s, uint32_t coord);
uint64_t sim_leader_act(sim *s, uint32_t coord);
void sim_leader_wrote(sim *s, uint32_t coord, const sim_request *r);
void sim_leader_stop(sim *s, uint32_t coord);
void sim_leader_thought(sim *s, uint32_t coord);
void sim_leader_rebalance(sim *s, uint32_t coord);
/* An operator looks whether the rack is to be recovered. */
void sim_leader_recover(sim *s);

/* ---- sim_step.c: steps and layers ---- */
void sim_step_choose(sim_coord *c, uint32_t lane);
/* The one with this layer open; NULL: it is over. */
sim_lane *sim_step_lane(sim_coord *c, uint32_t layer_number);
void sim_step_start(sim *s, uint32_t coord);
void sim_step_stop(sim *s, uint32_t coord);
void sim_step_event(sim *s, uint32_t coord, const sim_event *e);
void sim_step_message(sim *s, uint32_t coord, sim_message *m); /* owns m */
void sim_step_asked(sim *s, uint32_t coord, const sim_asking *a);
/* The connection to a node broke. */
void sim_step_broken(sim *s, uint32_t coord, uint32_t node);
bool sim_step_idle(const sim *s, uint32_t coord);
/* After everything: is nothing left behind? */
void sim_step_check_end(sim *s, uint32_t coord);

/* ---- sim_exchange.c: batches and answers ---- */
void sim_exchange_send(sim *s, uint32_t coord, const dispatch_action *a);
void sim_exchange_begin_here(sim *s, uint32_t coord, const dispatch_action *a);
void sim_exchange_end_here(sim *s, uint32_t coord);
void sim_exchange_answer(sim *s, uint32_t coord, const sim_message *m);
/* What a node owed is lost with its connection; what is over is forgotten. */
void sim_exchange_forget(sim_coord *c, uint32_t place);
void sim_exchange_sweep(sim_coord *c, uint64_t now_us);
/* No node owes more than its credit, or less than dispatch believes. */
void sim_exchange_check(sim *s, uint32_t coord);

#endif
