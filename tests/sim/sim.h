/* sim.h - a whole cluster in one thread, over a seeded clock, network and
 * faults.
 *
 *   test_sim.c    the properties, over many seeds
 *   sim_faults.c  what goes wrong, and when
 *   sim_cluster.c one run: clients, the turn of events, what must hold
 *   sim_coord.c   a coordinator: the real dispatch, membership and scheduler
 *   sim_exchange.c  what it sends and receives
 *   sim_node.c    an expert node: the real job queue
 *   sim_model.c   a small model: pure functions
 *   sim_net.c     the clock, the queue of events, the network
 *
 * The decision code is the real one; around it stand thin shells that do what
 * the real shells do with sockets and threads.  Everything that happens follows
 * from the seed, so a failing seed can be replayed and read:
 *     build/tests/sim/test_sim --seed N */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/dispatch.h"
#include "coordinator/membership.h"
#include "coordinator/placement.h"
#include "coordinator/scheduler.h"
#include "expert_node/job_queue.h"

#define SIM_COORDINATORS 2
#define SIM_NODES 4 /* at most */
#define SIM_PROCESSES (SIM_COORDINATORS + SIM_NODES)
#define SIM_REQUESTS 24
#define SIM_FAULTS 8

#define SIM_LAYERS 3
#define SIM_EXPERTS 8
#define SIM_USED 3 /* experts of a token; two rows would add up either way */
#define SIM_WIDTH 4
#define SIM_POSITIONS 40 /* of a sequence */
#define SIM_BATCH 8      /* tokens of a step */
#define SIM_SEGMENTS 8   /* of an expert's output: the most slices */
#define SIM_PAIRS (SIM_BATCH * SIM_USED * SIM_SEGMENTS)
#define SIM_ROW_BYTES (SIM_WIDTH * (uint32_t)sizeof(float))
#define SIM_PIECE 5   /* pairs of a request */
#define SIM_CREDIT 12 /* rows outstanding at a node */
#define SIM_PAGE 4
#define SIM_PAGES 40

#define SIM_HEDGE_US 3000
#define SIM_PATIENCE_US 300000
#define SIM_TIMEOUT_MS 4000 /* of a request, without progress */
#define SIM_QUEUE_MS 8000
#define SIM_END_US 60000000 /* nothing may take that long */

/* Mistakes that a shell around the machines could make, made on purpose. */
typedef enum {
    PLANT_NONE,
    PLANT_ARRIVAL_ORDER, /* rows are added as they arrive */
    PLANT_DOUBLE_COUNT,  /* an answer that comes twice is added twice */
    PLANT_LATE_LAYER,    /* an answer to an earlier layer is used in this one */
    PLANT_KEEP_CREDIT,   /* an answer that came too late is just dropped */
    PLANT_SLICE_ORDER,   /* slices are added one after the other */
    PLANT_COUNT
} sim_plant;

typedef struct {
    uint64_t seed;
    sim_plant plant;
    bool trace; /* print what happens */
} sim_options;

/* What became of the requests, and what the machines went through. */
typedef struct {
    bool ok;
    char why[256]; /* the first thing that must not happen */
    uint64_t hash; /* of the whole trace */
    uint32_t finished, failed, cancelled;
    uint32_t unavailable; /* of those that failed */
    uint64_t hedges, takeovers, local, refusals, late_rows, lost_pairs;
    uint64_t events;
} sim_result;

void sim_run(const sim_options *options, sim_result *result);

/* ---- messages and events (sim_net.c) ---- */

typedef struct sim sim;

typedef enum {
    SIM_HELLO,
    SIM_WELCOME,
    SIM_PING,
    SIM_PONG,
    SIM_BATCH_ASKED,
    SIM_ROWS,
    SIM_ERROR
} sim_message_kind;

typedef struct {
    sim_message_kind kind;
    uint32_t from, to; /* processes */
    uint64_t boot_id, to_boot_id;
    uint32_t connection; /* of the data link; 0: control */
    uint64_t request_id;
    uint32_t layer, n_pairs;
    uint32_t units[SIM_PIECE];
    float rows[SIM_PIECE][SIM_WIDTH]; /* activations or outputs */
    uint64_t remaining_us;
    int code;
    uint64_t progress;
    uint32_t queued_jobs;
} sim_message;

typedef enum {
    EVENT_MESSAGE,  /* arrives */
    EVENT_LOOP,     /* a coordinator's membership */
    EVENT_RACK,     /* ... its step thread hears of nodes */
    EVENT_STEP,     /* ... begins a step, or a layer */
    EVENT_WAKE,     /* ... was told by dispatch to look again */
    EVENT_LOCAL,    /* ... computed experts itself */
    EVENT_COMPUTED, /* a node's merge */
    EVENT_ASSIGN,   /* a node is to hold more, or less: number is the step */
    EVENT_SUBMIT,   /* a client's request */
    EVENT_CANCEL,
    EVENT_HOLD,
    EVENT_RELEASE,
    EVENT_FAULT_BEGIN,
    EVENT_FAULT_END
} sim_event_kind;

typedef struct {
    uint64_t at_us, order;
    sim_event_kind kind;
    int process;          /* -1: nobody's */
    uint32_t life;        /* of that process; an earlier life's event is void */
    uint64_t number;      /* which timer, request or fault */
    sim_message *message; /* owned */
} sim_event;

uint64_t sim_now(const sim *s);
uint64_t sim_random(sim *s);
uint64_t sim_below(sim *s, uint64_t n); /* 0 .. n-1 */
bool sim_chance(sim *s, uint32_t percent);
void sim_after(sim *s, uint64_t us, sim_event_kind kind, int process,
               uint64_t number);
/* Into the network, which copies it. */
void sim_send(sim *s, const sim_message *m);
/* What must not happen; only the first is kept. */
void sim_fail(sim *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void sim_trace(sim *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- the model (sim_model.c) ---- */

typedef struct {
    uint32_t experts[SIM_USED];
    float weights[SIM_USED];
} sim_routing;

void sim_embed(uint32_t token, uint32_t position, float *x);
/* `kv` is a layer's cache; position p is written, 0 .. p are read. */
void sim_attend(float (*kv)[SIM_WIDTH], uint32_t position, const float *x,
                float *h);
void sim_route(uint32_t layer, const float *h, sim_routing *out);
/* A slice of an expert: a subtree of the sum of its segments. */
void sim_expert(uint32_t layer, uint32_t unit, uint32_t slices, const float *h,
                float *y);
/* In the router's order; outputs[i * slices + s] is slice s of choice i.
 * `in_turn`: not as a tree, which is wrong. */
void sim_combine(const float *h, const sim_routing *r, uint32_t slices,
                 const float (*outputs)[SIM_WIDTH], bool in_turn, float *x);
/* x / (1 + |x|) */
void sim_squash(float *x);
uint32_t sim_token(const float *x);
/* What a run without any fault generates. */
void sim_reference(const uint32_t *prompt, uint32_t n_prompt, uint32_t n_new,
                   uint32_t *out);

/* ---- processes ---- */

typedef struct {
    bool alive, frozen;
    uint32_t life; /* rises when it is killed */
    uint64_t boot_id;
    uint64_t died_us;
} sim_process;

/* An expert node. */
typedef struct sim_batch {
    struct sim_batch *next;
    sim_message asked;
} sim_batch;

typedef struct {
    holdings held;     /* loaded */
    holdings shown;    /* what coordinators are told that it holds */
    uint32_t replicas; /* its share of so many */
    job_queue *queue;
    sim_batch *batches; /* accepted and not answered */
    job computing[8];
    size_t n_computing;
    uint64_t progress;
    uint32_t us_per_pair;
    bool slow;  /* fifty times */
    bool stuck; /* its pool stands still, its loop answers */
    int refuse; /* every batch, with this code */
} sim_node;

/* Choose what it holds: its share, and now and then a share more. */
void sim_node_hold(sim *s, uint32_t node);
/* While it serves, it loads a share more, and later drops it: step after step,
 * from 0 on. */
void sim_node_assign(sim *s, uint32_t node, uint64_t step);
void sim_node_start(sim *s, uint32_t node);
void sim_node_stop(sim *s, uint32_t node);
void sim_node_unstick(sim *s, uint32_t node);
void sim_node_message(sim *s, uint32_t node, const sim_message *m);
void sim_node_computed(sim *s, uint32_t node);

/* A client's request. */
typedef struct {
    uint64_t id;
    uint32_t coordinator;
    uint32_t n_prompt, n_new, n_tokens; /* so far, with the prompt */
    uint32_t tokens[SIM_POSITIONS], expected[SIM_POSITIONS];
    float kv[SIM_LAYERS][SIM_POSITIONS][SIM_WIDTH];
    bool submitted, held;
    uint32_t outcomes; /* must become 1 */
    int code;          /* 0: finished */
    uint64_t moved_us; /* submitted, or a token */
} sim_request;

/* One token of a step. */
typedef struct {
    sim_request *request;
    uint32_t position;
    bool lost;
    float x[SIM_WIDTH], h[SIM_WIDTH];
    float arrived[SIM_WIDTH]; /* PLANT_ARRIVAL_ORDER */
    sim_routing routing;
} sim_row;

typedef struct {
    uint32_t node;
    uint64_t id, sent_us;
    uint32_t layer_number, n_pairs;
    bool answered;
    uint32_t pairs[SIM_PIECE];
} sim_asked;

#define SIM_ASKED 2048
#define SIM_INBOX 256
#define SIM_COMMANDS 64

typedef struct {
    dispatch *machine;
    membership *members;
    scheduler *plan;
    placement *where, *during; /* newest; lent to dispatch */
    uint64_t epoch;

    struct {
        bool up;
        uint64_t boot_id;
        uint32_t connection;
    } links[SIM_NODES];
    uint32_t connections;

    /* the step thread */
    bool in_step, in_layer, computing_here, rack_waits;
    scheduler_item items[SIM_BATCH];
    uint32_t n_items;
    sim_row rows[SIM_BATCH];
    uint32_t n_rows;
    uint32_t live[SIM_BATCH], n_live; /* rows of this layer */
    uint32_t layer, layer_number;
    float outputs[SIM_PAIRS][SIM_WIDTH];
    bool pinned[SIM_PAIRS]; /* PLANT_LATE_LAYER */
    uint32_t here[SIM_PAIRS], n_here;
    bool here_fails;
    sim_message *inbox[SIM_INBOX]; /* while it computes */
    uint32_t n_inbox;
    uint64_t step_timer, wake_timer, loop_timer; /* the newest counts */
    uint64_t commands[SIM_COMMANDS];             /* of clients: id * 4 + what */
    uint32_t n_commands;

    /* our own account of what is owed to us */
    sim_asked asked[SIM_ASKED];
    uint32_t n_asked;
} sim_coord;

typedef enum {
    COMMAND_SUBMIT,
    COMMAND_CANCEL,
    COMMAND_HOLD,
    COMMAND_RELEASE
} sim_command;

void sim_coord_start(sim *s, uint32_t coord);
void sim_coord_stop(sim *s, uint32_t coord);
void sim_coord_message(sim *s, uint32_t coord, sim_message *m); /* owns m */
void sim_coord_event(sim *s, uint32_t coord, const sim_event *e);
void sim_coord_command(sim *s, uint32_t coord, uint64_t request,
                       sim_command what);
/* Does it send, or may it send, requests for units that the node holds but no
 * longer shows? */
bool sim_coord_uses(const sim *s, uint32_t coord, uint32_t node);
/* After everything: is nothing left behind? */
void sim_coord_check_end(sim *s, uint32_t coord);

/* ---- a coordinator's exchange (sim_exchange.c) ---- */

/* Do what dispatch said. */
void sim_exchange_send(sim *s, uint32_t coord, const dispatch_action *a);
void sim_exchange_begin_here(sim *s, uint32_t coord, const dispatch_action *a);
void sim_exchange_end_here(sim *s, uint32_t coord);
/* A node's rows or refusal. */
void sim_exchange_answer(sim *s, uint32_t coord, const sim_message *m);
/* What a node owed is lost with its connection; what is over is forgotten. */
void sim_exchange_forget(sim_coord *c, uint32_t node);
void sim_exchange_sweep(const sim *s, sim_coord *c);
/* No node owes more than its credit, or less than dispatch believes. */
void sim_exchange_check(sim *s, uint32_t coord);

/* ---- faults (sim_faults.c) ---- */

typedef enum {
    FAULT_KILL,     /* and a new process after a while */
    FAULT_FREEZE,   /* as with SIGSTOP and SIGCONT */
    FAULT_SLOW,     /* a node computes slowly */
    FAULT_STUCK,    /* its pool stands still */
    FAULT_REFUSE,   /* it refuses everything */
    FAULT_OVERLOAD, /* it says that it is full */
    FAULT_CUT,      /* nothing passes between a coordinator and a node */
    FAULT_LOSE,     /* much is lost and doubled */
    FAULT_DELAY,    /* messages take long and overtake each other */
    FAULT_COORDINATOR_FREEZE,
    FAULT_COORDINATOR_KILL,
    FAULT_KINDS
} sim_fault_kind;

typedef struct {
    sim_fault_kind kind;
    uint32_t node, coordinator;
    uint64_t begin_us, length_us;
} sim_fault;

typedef struct {
    bool cut;
    uint32_t lose_percent, double_percent;
    uint64_t delay_us, jitter_us;
} sim_path;

void sim_faults_choose(sim *s);
void sim_fault_begin(sim *s, uint32_t fault);
void sim_fault_end(sim *s, uint32_t fault);
const char *sim_fault_name(sim_fault_kind kind);

/* ---- the run ---- */

struct sim {
    sim_options options;
    sim_result *result;
    uint64_t now_us, random, order;
    sim_event *events; /* a heap */
    uint32_t n_events, events_capacity;
    sim_event *held; /* of frozen processes */
    uint32_t n_held, held_capacity;

    uint32_t n_nodes, replicas, slices;
    bool local;       /* coordinators have their own file */
    bool local_fails; /* and it cannot always be read */
    bool strict;      /* by the faults chosen, no request may fail */
    sim_process processes[SIM_PROCESSES];
    sim_path paths[SIM_COORDINATORS][SIM_NODES];
    sim_coord coords[SIM_COORDINATORS];
    sim_node nodes[SIM_NODES];
    sim_request requests[SIM_REQUESTS];
    uint32_t n_requests;
    sim_fault faults[SIM_FAULTS];
    uint32_t n_faults;
    uint64_t faults_end_us;
};

static inline uint32_t sim_node_process(uint32_t node) {
    return SIM_COORDINATORS + node;
}

/* A process ends and another begins; or stands still and goes on. */
void sim_kill(sim *s, uint32_t process);
void sim_revive(sim *s, uint32_t process);
void sim_freeze(sim *s, uint32_t process);
void sim_thaw(sim *s, uint32_t process);
/* The events that fell to a process that stood still happen now. */
void sim_release_held(sim *s, uint32_t process);
bool sim_next_event(sim *s, sim_event *out);
void sim_hold_event(sim *s, const sim_event *e);
void sim_drop_events(sim *s);
/* A request has ended: 0, or why. */
void sim_outcome(sim *s, sim_request *r, int code);
sim_request *sim_find_request(sim *s, uint64_t id);

#endif
