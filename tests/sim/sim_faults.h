/* sim_faults.h - what goes wrong: one fault after the other, drawn as the run
 * goes, at least SIM_FAULTS_LEAST of them.
 *
 * A seed belongs to one of four families:
 *   survivable  two copies of each unit; faults that cost a node only when
 *               every unit has another copy, and a coordinator only when
 *               another one serves: no request may fail
 *   own file    one copy, but coordinators can compute everything: no request
 *               may fail
 *   alone       one copy and nobody else; anything may happen
 *   anything    two copies, and anything may happen
 * In all, no request may hang, end twice, fail with an odd code or get a wrong
 * token, and the rack must be whole again when the faults are over. */
#ifndef TESTS_SIM_SIM_FAULTS_H
#define TESTS_SIM_SIM_FAULTS_H

#include "tests/sim/sim_base.h"

#define SIM_FAULTS_LEAST 20
#define SIM_ACTIVE 32

typedef enum {
    FAULT_KILL,   /* a node, and a new process after a while */
    FAULT_FREEZE, /* as with SIGSTOP and SIGCONT */
    FAULT_SLEEP,  /* its machine is suspended: clocks stop */
    FAULT_SLOW,   /* it computes slowly */
    FAULT_STUCK,  /* its pool stands still */
    FAULT_REFUSE, /* it refuses everything */
    FAULT_FULL,   /* it says that it is overloaded */
    FAULT_CUT,    /* nothing passes between a coordinator and a node */
    FAULT_LOSE,   /* much is lost and doubled */
    FAULT_DELAY,  /* messages take long and overtake each other */
    FAULT_LEAVE,  /* it ends for good */
    FAULT_SHRINK, /* it is started again with less memory */
    FAULT_COORD_KILL,
    FAULT_COORD_FREEZE,
    FAULT_COORD_SLEEP,
    FAULT_COORD_LAG, /* its step thread is slow to switch */
    FAULT_COORD_DRAIN,
    FAULT_ETCD_DEAD,
    FAULT_ETCD_HUNG, /* no quorum */
    FAULT_ETCD_RESTART,
    FAULT_ETCD_COMPACT, /* all history, while somebody is cut off */
    FAULT_ETCD_RESTORE, /* from an older snapshot */
    FAULT_ETCD_WIPE,
    FAULT_ETCD_FULL, /* out of space */
    FAULT_ETCD_CUT,  /* one process from it */
    FAULT_WATCH_SLOW,
    FAULT_ANSWERS_LOST,
    FAULT_DISK_FULL,
    FAULT_DISK_ERRORS,
    FAULT_CACHE_FLIP,
    FAULT_WIRE_FLIP,
    FAULT_JOIN,
    FAULT_DRAIN, /* and its undoing */
    FAULT_REBALANCE,
    FAULT_POWER, /* everything at once, and started again */
    FAULT_KINDS
} sim_fault_kind;

typedef struct {
    bool active;
    sim_fault_kind kind;
    uint32_t node, coord, member;
    uint64_t ends_us;
} sim_fault;

const char *sim_fault_name(sim_fault_kind kind);
/* The next one begins; number `fault` ends. */
void sim_fault_next(sim *s);
void sim_fault_end(sim *s, uint32_t fault);
/* A leader is about to write: for how long it is stopped just before. */
uint64_t sim_fault_before_write(sim *s, uint32_t coord);

#endif
