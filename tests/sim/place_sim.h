/* place_sim.h - a rack that organizes itself, in one thread: etcd, coordinators
 * and nodes over a seeded clock, with faults.
 *
 *   test_placement_sim.c  the properties, over many seeds
 *   place_faults.c        what goes wrong, and when
 *   place_run.c           the clock, the turn of events, what must hold
 *   place_member.c        a process as etcd sees it: the real session and view
 *   place_coord.c         a coordinator: the real leader and planner
 *   place_node.c          an expert node: the real keeper
 *   place_etcd.c          a model of etcd: revisions, leases, transactions
 *
 * What decides is the real code; the shells here do what the daemons' shells do
 * with sockets.  A seed's run can be repeated and read:
 *     build/tests/sim/test_placement_sim --seed N */
#ifndef TESTS_SIM_PLACE_SIM_H
#define TESTS_SIM_PLACE_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/leader.h"
#include "discovery/session.h"
#include "expert_node/keeper.h"

#define PLACE_COORDS 3
#define PLACE_NODES 8
#define PLACE_MEMBERS (PLACE_COORDS + PLACE_NODES)
#define PLACE_LAYERS 3
#define PLACE_UNITS 16 /* of a layer, at most; sets of units are 64 bits */
#define PLACE_FAULTS 12
#define PLACE_TTL_MS 5000
#define PLACE_TIMEOUT_MS 3000 /* of a request to etcd */
#define PLACE_SILENT_MS 5000  /* as keepers have it */

/* Mistakes made on purpose, in the shells. */
typedef enum {
    PLACE_SOUND,
    PLACE_NO_FENCE,    /* placements are written without comparing the term */
    PLACE_NO_WAIT,     /* nodes take every coordinator for up to date */
    PLACE_EARLY_READY, /* nodes report before they have loaded */
    PLACE_PLANTS
} place_plant;

typedef struct {
    uint64_t seed;
    place_plant plant;
    bool trace;
} place_options;

typedef struct {
    bool ok;
    char why[256]; /* the first thing that must not happen */
    uint64_t hash; /* of the trace */
    uint64_t events, epochs, terms, fenced, unknown;
    uint64_t loads, unloads, stale, kills, freezes, outages;
} place_result;

void place_sim_run(const place_options *options, place_result *result);

/* ---- etcd ---- */

typedef struct {
    char key[64];      /* without the cluster's prefix */
    const void *value; /* NULL: deleted */
    size_t bytes;
    int64_t create_revision, mod_revision, lease;
} place_kv;

typedef enum {
    PLACE_GRANT,
    PLACE_KEEP,
    PLACE_READ,
    PLACE_WRITE, /* puts[0], if its mod_revision is `expected` */
    PLACE_LIST,
    PLACE_STEP, /* puts, if the leader's term and the epoch's revision fit */
    PLACE_COMPACT
} place_request_kind;

typedef struct {
    place_request_kind kind;
    uint32_t member, life;
    session_slot slot;
    int64_t lease, expected, term;
    place_kv *puts; /* WRITE, STEP; READ: the key */
    uint32_t n_puts;
    bool stuck; /* the answer is never sent */

    bool answered; /* or given up */
    session_outcome outcome;
    int64_t revision, granted;
    place_kv *found; /* READ, LIST */
    uint32_t n_found;
} place_request;

typedef struct {
    int64_t id;
    uint64_t ends_ms;
} place_lease;

#define PLACE_KEYS 64
#define PLACE_LEASES 64

typedef struct {
    bool away;
    int64_t revision, next_lease;
    place_kv keys[PLACE_KEYS];
    uint32_t n_keys;
    place_lease leases[PLACE_LEASES];
    uint32_t n_leases;
    place_kv *history; /* every change, ascending by mod_revision */
    uint32_t n_history, history_room;
    uint64_t last_epoch; /* packed, written */
} place_etcd;

typedef struct place_sim place_sim;

/* Carry out a request and fill in its answer. */
void place_etcd_do(place_sim *s, place_request *r);
void place_etcd_expire(place_sim *s);
/* As somebody with etcdctl would. */
void place_etcd_put(place_sim *s, const char *key, const char *text);
void place_etcd_delete(place_sim *s, const char *key);
const place_kv *place_etcd_find(const place_etcd *e, const char *key);

/* ---- processes ---- */

typedef struct {
    char name[16];
    bool started, alive, frozen, gone; /* gone: for good */
    uint32_t life;
    uint64_t boot;
    session *session;
    rack_view *view;
    bool listed, listing;
    uint64_t live_since_ms;
    uint32_t watch;    /* which; an earlier one's events are void */
    bool watching;     /* etcd sends to it */
    int64_t seen;      /* revision that the view covers */
    uint64_t watch_ms; /* its events come in order */
    uint64_t slow_ms;  /* by which they come late */
    char *texts[SESSION_SLOTS];
    uint32_t timer; /* the newest counts */
} place_member;

typedef struct {
    bool up;
    uint64_t boot, version, pong_ms;
    uint64_t holds; /* what its last welcome said */
} place_link;

typedef struct {
    leader *machine;
    place_link links[PLACE_NODES];
    rack_placement *used; /* that requests are sent by */
    bool switching;
    uint64_t lag_ms; /* until it switches */
    int64_t term;
} place_coord;

typedef struct {
    uint64_t boot, heard_ms;
    bool stale;
} place_peer;

typedef struct {
    keeper *machine;
    uint64_t memory;
    uint64_t busy;    /* units that are being loaded or unloaded */
    uint64_t lost_ms; /* when it last died */
    place_peer peers[PLACE_COORDS];
} place_node;

typedef enum {
    MESSAGE_HELLO,
    MESSAGE_WELCOME,
    MESSAGE_PING,
    MESSAGE_PONG
} place_message_kind;

typedef struct {
    place_message_kind kind;
    uint64_t boot, epoch, version, holds;
} place_message;

typedef enum {
    PLACE_WAKE,    /* a process looks what there is to do */
    PLACE_REQUEST, /* reaches etcd */
    PLACE_ANSWER,  /* reaches the process */
    PLACE_TIMEOUT, /* it gives up waiting */
    PLACE_WATCHED, /* changes up to `number` reach it */
    PLACE_CUT_OFF, /* it notices that etcd is away */
    PLACE_RELIST,
    PLACE_PINGS, /* a coordinator pings */
    PLACE_MESSAGE,
    PLACE_SWITCH, /* a coordinator takes up its newest placement */
    PLACE_LOADED, /* a node's unit */
    PLACE_UNLOADED,
    PLACE_EXPIRE, /* leases */
    PLACE_FAULT_BEGIN,
    PLACE_FAULT_END
} place_event_kind;

typedef struct {
    uint64_t at_ms, order;
    place_event_kind kind;
    int member; /* -1: nobody's */
    uint32_t life, from;
    uint64_t number;
    place_request *request;
    place_message message;
} place_event;

/* ---- place_member.c ---- */
void place_member_start(place_sim *s, uint32_t member);
void place_member_stop(place_sim *s, uint32_t member);
void place_member_want(place_sim *s, uint32_t member, session_slot slot,
                       char *text);
/* Do what its session asks for; when to come back. */
uint64_t place_member_act(place_sim *s, uint32_t member);
void place_member_send(place_sim *s, uint32_t member, place_request *r);
void place_member_answer(place_sim *s, uint32_t member, place_request *r);
void place_member_watched(place_sim *s, uint32_t member, const place_event *e);
void place_member_list(place_sim *s, uint32_t member);

/* ---- place_coord.c, place_node.c ---- */
void place_coord_start(place_sim *s, uint32_t coord);
void place_coord_stop(place_sim *s, uint32_t coord);
uint64_t place_coord_act(place_sim *s, uint32_t coord);
void place_coord_ping(place_sim *s, uint32_t coord);
void place_coord_message(place_sim *s, uint32_t coord, uint32_t node,
                         const place_message *m);
void place_coord_switch(place_sim *s, uint32_t coord);
void place_coord_wrote(place_sim *s, uint32_t coord, const place_request *r);

void place_node_start(place_sim *s, uint32_t node);
void place_node_stop(place_sim *s, uint32_t node);
uint64_t place_node_act(place_sim *s, uint32_t node);
void place_node_message(place_sim *s, uint32_t node, uint32_t coord,
                        const place_message *m);
void place_node_loaded(place_sim *s, uint32_t node, uint64_t bit);
void place_node_unloaded(place_sim *s, uint32_t node, uint64_t bit);
uint64_t place_node_holds(const place_sim *s, uint32_t node);

/* ---- place_faults.c ---- */

typedef enum {
    PLACE_FREEZE, /* stopped, and continued past its lease or before */
    PLACE_KILL,   /* and started again */
    PLACE_LEAVE,  /* a node ends for good */
    PLACE_OUTAGE, /* of etcd */
    PLACE_SLOW,   /* a watch */
    PLACE_LAG,    /* a coordinator takes long to switch */
    PLACE_DRAIN,  /* and its undoing */
    PLACE_JOIN,
    PLACE_FAULT_KINDS
} place_fault_kind;

typedef struct {
    place_fault_kind kind;
    uint32_t member;
    uint64_t begin_ms, length_ms;
} place_fault;

void place_faults_choose(place_sim *s);
void place_fault_begin(place_sim *s, uint32_t fault);
void place_fault_end(place_sim *s, uint32_t fault);

/* ---- place_run.c ---- */

struct place_sim {
    place_options options;
    place_result *result;
    uint64_t now_ms, random, order;
    place_event *events, *held; /* a heap; those of frozen processes */
    uint32_t n_events, events_room, n_held, held_room;
    void **memory; /* freed at the end */
    uint32_t n_memory, memory_room;

    uint32_t n_coords, n_nodes, boots;
    bool kills;            /* may happen in this run */
    uint32_t lose_percent; /* answers of etcd */
    planner_model model;
    uint32_t slices[PLACE_LAYERS];
    uint64_t unit_bytes[PLACE_LAYERS];
    uint64_t model_bytes;

    place_etcd etcd;
    place_member members[PLACE_MEMBERS];
    place_coord coords[PLACE_COORDS];
    place_node nodes[PLACE_NODES];
    place_fault faults[PLACE_FAULTS];
    uint32_t n_faults;
    uint64_t faults_end_ms;
};

static inline uint32_t place_node_member(uint32_t node) {
    return PLACE_COORDS + node;
}
static inline uint64_t place_bit(uint32_t layer, uint32_t unit) {
    return 1ull << (layer * PLACE_UNITS + unit);
}
/* What a placement (NULL: nothing) gives to a node. */
uint64_t place_assigned(const rack_placement *p, const char *name);
uint64_t place_bytes(const place_sim *s, uint64_t units);

uint64_t place_below(place_sim *s, uint64_t n);
bool place_chance(place_sim *s, uint32_t percent);
void *place_memory(place_sim *s, size_t bytes); /* until the end; zeroed */
place_event *place_after(place_sim *s, uint64_t ms, place_event_kind kind,
                         int member, uint64_t number);
void place_say(place_sim *s, uint32_t from, uint32_t to,
               const place_message *m);
void place_wake(place_sim *s, uint32_t member); /* at once */
void place_kill(place_sim *s, uint32_t member);
void place_revive(place_sim *s, uint32_t member);
void place_freeze(place_sim *s, uint32_t member);
void place_thaw(place_sim *s, uint32_t member);
void place_fail(place_sim *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void place_trace(place_sim *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
