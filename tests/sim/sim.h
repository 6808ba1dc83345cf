/* sim.h - a whole rack in one thread: coordinators, nodes, clients and etcd,
 * over a seeded clock, network and disk, with faults.
 *
 *   test_sim.c      many seeds; the command line
 *   sim_faults.c    what goes wrong, and when
 *   sim_plants.c    mistakes made on purpose, all of which must be noticed
 *   sim_run.c       the rack is set up, events take their turn
 *   sim_rest.c      what must hold when the faults are over
 *   sim_client.c    clients, which go on with another coordinator
 *   sim_coord.c     a coordinator's loop thread: the real membership and heat
 *   sim_rack.c      ... which nodes it uses, by which placement
 *   sim_leader.c    ... the real leader, planner and balancer
 *   sim_step.c      ... its step thread: the real scheduler and dispatch
 *   sim_exchange.c  ... batches and answers
 *   sim_node.c      an expert node's data path: the real job queue; the network
 *   sim_store.c     ... what it holds: the real keeper, a disk with a cache
 *   sim_member.c    a process's side of etcd: the real session and view
 *   sim_etcd.c      a model of etcd
 *   sim_moves.c     ... moves that are undone
 *   sim_model.c     a model of four floats
 *   sim_clock.c     the clock, the queue of events
 *
 * What decides is the real code; around it stand thin shells that do what the
 * daemons' shells do with sockets and threads.  The placements that leaders
 * write are what nodes load and what coordinators send by.  Everything follows
 * from the seed, so a failing one can be replayed and read:
 *     build/tests/sim/test_sim --seed N --trace */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include "tests/sim/sim_base.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_coord.h"
#include "tests/sim/sim_etcd.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_model.h"
#include "tests/sim/sim_node.h"

#define SIM_TRAFFIC_US 60000000 /* no new request after that */

struct sim {
    sim_options options;
    sim_result *result;
    sim_clock clock;
    sim_message *messages; /* that are free */
    uint64_t boots;

    /* chosen by the seed */
    uint32_t n_coords, n_nodes, slices, min_replicas;
    bool local;       /* coordinators have their own file */
    bool local_fails; /* and it cannot always be read */
    bool strict;      /* no request may fail */
    bool zones;
    uint32_t ttl_ms, replace_after_ms, pair_weight;
    sim_model model;
    planner_model plan_model;
    uint32_t layer_slices[SIM_LAYERS];
    uint64_t unit_bytes[SIM_LAYERS], model_bytes;

    sim_etcd etcd;
    unit_set placed[SIM_NODES]; /* by the placement in etcd */
    uint64_t rack_changed_us;   /* nodes, drains, the leader */
    uint64_t came_us[SIM_NODES][SIM_LAYERS][SIM_UNITS];
    uint64_t went_us[SIM_NODES][SIM_LAYERS][SIM_UNITS];
    sim_member members[SIM_MEMBERS];
    sim_coord coords[SIM_COORDS];
    sim_node nodes[SIM_NODES];
    sim_path paths[SIM_COORDS][SIM_NODES];
    sim_client clients[SIM_REQUESTS];
    uint32_t n_clients;
    void *jobs[SIM_COORDS]; /* of leaders, under way */

    sim_fault faults[SIM_ACTIVE];
    uint32_t n_faults, faults_wanted;
    uint32_t lose_percent;   /* answers of etcd */
    uint64_t lag_until_us;   /* a coordinator may have been left behind */
    uint64_t costs_until_us; /* a copy may be out of reach */
    bool faults_over;
    uint64_t over_us, ended_us, quiet_us, quiet_epoch;
    bool done;
};

static inline uint32_t sim_node_member(uint32_t node) {
    return SIM_COORDS + node;
}
/* Of a layer; 0: it has no experts. */
static inline uint32_t sim_units(const sim *s, uint32_t layer) {
    return s->model.n_experts * s->layer_slices[layer];
}

/* ---- sim_run.c ---- */

/* A process ends and another begins; or stands still, with its machine asleep
 * or not, and goes on. */
void sim_kill(sim *s, uint32_t member);
void sim_revive(sim *s, uint32_t member);
void sim_freeze(sim *s, uint32_t member, bool asleep);
void sim_thaw(sim *s, uint32_t member);
void sim_wake(sim *s, uint32_t member); /* it looks what there is to do */
/* All that was wrong is made whole. */
void sim_faults_over(sim *s);

/* ---- sim_moves.c ---- */

#define SIM_STILL_US 60000000
/* Nodes, their wishes or the leader have changed: what was moved before may be
 * moved again. */
void sim_moves_restart(sim *s);
/* And etcd has another placement than the last that was looked at, or none. */
void sim_moves_reread(sim *s);
/* A layer of a new placement. */
void sim_moves_look(sim *s, const epoch_record *head, uint32_t layer,
                    const void *packed, size_t bytes);

/* ---- sim_rest.c ---- */

/* Is everything as it should be?  Looks again until it is, or time is up. */
void sim_rest_look(sim *s);

#endif
