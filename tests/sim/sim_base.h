/* sim_base.h - what every part of the simulator stands on: the clock and its
 * queue of events, chance, sets of units, what is noted. */
#ifndef TESTS_SIM_SIM_BASE_H
#define TESTS_SIM_SIM_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tests/sim/sim_plants.h"

/* Processes are numbered: coordinators first, then nodes. */
#define SIM_COORDS 3
#define SIM_NODES 6
#define SIM_MEMBERS (SIM_COORDS + SIM_NODES)

#define SIM_LAYERS 3
#define SIM_UNITS 64 /* of a layer, at most */

typedef struct sim sim;

/* ---- sets of units ---- */

typedef struct {
    uint64_t of[SIM_LAYERS];
} unit_set;

static inline bool unit_set_has(const unit_set *s, uint32_t layer,
                                uint32_t unit) {
    return s->of[layer] >> unit & 1;
}
static inline void unit_set_add(unit_set *s, uint32_t layer, uint32_t unit) {
    s->of[layer] |= 1ull << unit;
}
static inline void unit_set_remove(unit_set *s, uint32_t layer, uint32_t unit) {
    s->of[layer] &= ~(1ull << unit);
}
bool unit_set_empty(const unit_set *s);
bool unit_set_equal(const unit_set *a, const unit_set *b);
unit_set unit_set_and(const unit_set *a, const unit_set *b);
unit_set unit_set_or(const unit_set *a, const unit_set *b);
unit_set unit_set_less(const unit_set *a, const unit_set *b);

/* ---- what comes of a run ---- */

typedef struct {
    uint64_t seed;
    sim_plant plant;
    bool trace; /* print what happens */
} sim_options;

typedef enum {
    COUNT_EVENTS,
    COUNT_REQUESTS,
    COUNT_FINISHED,
    COUNT_FAILED,
    COUNT_UNAVAILABLE, /* of those */
    COUNT_CANCELLED,
    COUNT_TOKENS,
    COUNT_MOVED, /* a client went on with another coordinator */
    COUNT_HEDGES,
    COUNT_TAKEOVERS,
    COUNT_LOCAL,
    COUNT_REFUSALS,
    COUNT_LATE,
    COUNT_LOST, /* pairs given up */
    COUNT_EPOCHS,
    COUNT_TERMS,
    COUNT_FENCED,
    COUNT_UNKNOWN,
    COUNT_BALANCED,
    COUNT_LOADS,
    COUNT_CACHED, /* of those, from the node's own cache */
    COUNT_DAMAGED,
    COUNT_UNLOADS,
    COUNT_STALE,
    COUNT_RELISTED,
    COUNT_RECOVERED,
    COUNT_FAULTS,
    SIM_COUNTS
} sim_count;

#define SIM_FAULT_KINDS_MAX 48

typedef struct {
    bool ok;
    char why[256];  /* the first thing that must not happen */
    uint64_t hash;  /* of all that happened */
    uint64_t at_us; /* when it ended */
    uint64_t count[SIM_COUNTS];
    uint64_t faults[SIM_FAULT_KINDS_MAX];
} sim_result;

void sim_run(const sim_options *options, sim_result *result);

/* ---- events ---- */

typedef enum {
    EVENT_WAKE, /* a process looks what its session, leader or keeper wants */
    EVENT_REQUEST, /* reaches etcd */
    EVENT_ANSWER,  /* reaches the process that asked */
    EVENT_TIMEOUT, /* it gives up waiting */
    EVENT_WATCHED, /* changes up to revision `number` reach it */
    EVENT_CUT_OFF, /* it notices that its watch is dead */
    EVENT_REWATCH,
    EVENT_RELIST,
    EVENT_EXPIRE,  /* leases */
    EVENT_MESSAGE, /* between coordinator and node */
    EVENT_BROKEN,  /* a coordinator's connections to node `number` */
    EVENT_LOOP,    /* a coordinator's membership */
    EVENT_POLL,    /* ... asks nodes what they computed */
    EVENT_THOUGHT, /* ... its leader's job is done */
    EVENT_RACK,    /* ... its step thread hears of nodes */
    EVENT_STEP,    /* ... begins a step, or a layer */
    EVENT_LAYER,   /* ... was told by dispatch to look again */
    EVENT_HERE,    /* ... computed experts itself */
    EVENT_ASKED,   /* a client's message reaches it */
    EVENT_TOLD,    /* its message reaches the client */
    EVENT_CLIENT,  /* a client does something: number is request * 8 + what */
    EVENT_LOADED,  /* a node's unit */
    EVENT_UNLOADED,
    EVENT_COMPUTED, /* a node's merge */
    EVENT_FAULT,    /* the next one */
    EVENT_FAULT_END,
    EVENT_RECOVER, /* an operator looks whether that is needed */
    EVENT_REST     /* is everything as it should be? */
} sim_event_kind;

typedef struct {
    uint64_t at_us, order;
    sim_event_kind kind;
    int member;    /* -1: nobody's */
    uint32_t life; /* of that process; an earlier life's event is void */
    uint32_t from;
    uint64_t number;
    void *data;
} sim_event;

typedef struct {
    uint64_t now_us, random, order;
    sim_event *events, *held; /* a heap; those of processes that stand still */
    uint32_t n_events, events_room, n_held, held_room;
} sim_clock;

uint64_t sim_random(sim *s);
uint64_t sim_below(sim *s, uint64_t n); /* 0 .. n-1 */
bool sim_chance(sim *s, uint32_t percent);

/* The event is made of what is given; its `from` and `data` may be filled in
 * until the next call. */
sim_event *sim_after(sim *s, uint64_t us, sim_event_kind kind, int member,
                     uint64_t number);
bool sim_next_event(sim *s, sim_event *out);
void sim_hold_event(sim *s, const sim_event *e);
/* What fell to a process that stood still happens now. */
void sim_release_held(sim *s, uint32_t member);
void sim_drop_events(sim *s);

/* ---- memory: zeroed, until the end of the run ---- */

void *sim_memory(size_t bytes);
void *sim_copy(const void *from, size_t bytes); /* and a zero byte */
void sim_memory_reset(void);

/* ---- notes ---- */

/* What must not happen; only the first is kept. */
void sim_fail(sim *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void sim_print(const sim *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* For people; costs nothing otherwise. */
#define sim_trace(s, ...)                                                      \
    do {                                                                       \
        if ((s)->options.trace) sim_print(s, __VA_ARGS__);                     \
    } while (0)
/* Into the hash by which two runs are compared. */
void sim_note(sim *s, uint64_t a, uint64_t b, uint64_t c);
void sim_add(sim *s, sim_count what, uint64_t n);

#endif
