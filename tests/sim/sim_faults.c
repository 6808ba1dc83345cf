/* sim_faults.c - what goes wrong, and when.
 *
 * A seed belongs to one of four families:
 *   one at a time   every expert twice, one node at a time in trouble
 *   own file        one copy, but the coordinator can compute everything
 *   alone           one copy and nobody else
 *   anything        two copies, several troubles at once, coordinators too
 * In the first two no request may fail; in all, no request may hang, end twice
 * or get a wrong token. */
#include "tests/sim/sim.h"

#include "engine/err.h"

#define RECOVERY_US 400000 /* until everybody has seen that a node is back */

const char *sim_fault_name(sim_fault_kind kind) {
    static const char *const names[FAULT_KINDS] = {
        [FAULT_KILL] = "kill",
        [FAULT_FREEZE] = "freeze",
        [FAULT_SLOW] = "slow",
        [FAULT_STUCK] = "stuck",
        [FAULT_REFUSE] = "refuse",
        [FAULT_OVERLOAD] = "overload",
        [FAULT_CUT] = "cut",
        [FAULT_LOSE] = "lose",
        [FAULT_DELAY] = "delay",
        [FAULT_COORDINATOR_FREEZE] = "coordinator freeze",
        [FAULT_COORDINATOR_KILL] = "coordinator kill",
    };
    return names[kind];
}

static sim_fault any_fault(sim *s, uint32_t n_kinds) {
    return (sim_fault){
        .kind = (sim_fault_kind)sim_below(s, n_kinds),
        .node = (uint32_t)sim_below(s, s->n_nodes),
        .coordinator = (uint32_t)sim_below(s, SIM_COORDINATORS),
        .length_us = 1000 + sim_below(s, 1u << (8 + sim_below(s, 12))),
    };
}

/* A family that promises that nothing fails has only faults of nodes. */
void sim_faults_choose(sim *s) {
    uint32_t family = (uint32_t)(s->options.seed % 4);
    s->replicas = family == 0 || family == 3 ? 2 : 1;
    s->local = family == 1 || (family == 3 && sim_chance(s, 30));
    s->local_fails = family == 3;
    s->strict = family < 2;

    uint32_t n_kinds = s->strict ? FAULT_COORDINATOR_FREEZE : FAULT_KINDS;
    bool one_at_a_time = family == 0;
    bool long_ones = !s->strict; /* longer than a request's timeout */
    uint64_t at_us = 150000 + sim_below(s, 50000);
    s->n_faults = 3 + (uint32_t)sim_below(s, SIM_FAULTS - 2);
    for (uint32_t i = 0; i < s->n_faults; i++) {
        sim_fault *f = &s->faults[i];
        *f = any_fault(s, n_kinds);
        f->begin_us = at_us;
        if (long_ones && sim_chance(s, 10)) f->length_us += 5000000;
        uint64_t end_us = at_us + f->length_us;
        if (end_us > s->faults_end_us) s->faults_end_us = end_us;
        at_us =
            one_at_a_time ? end_us + RECOVERY_US : at_us + sim_below(s, 200000);
        sim_after(s, f->begin_us, EVENT_FAULT_BEGIN, -1, i);
        sim_after(s, f->begin_us + f->length_us, EVENT_FAULT_END, -1, i);
    }
}

/* Faults may overlap, also of one kind: what ends is made whole, whatever else
 * was wrong with it. */
void sim_fault_begin(sim *s, uint32_t fault) {
    const sim_fault *f = &s->faults[fault];
    uint32_t process = sim_node_process(f->node);
    sim_node *node = &s->nodes[f->node];
    sim_path *path = &s->paths[f->coordinator][f->node];

    sim_trace(s, "FAULT %s: node %u, coordinator %u, %llu us",
              sim_fault_name(f->kind), f->node, f->coordinator,
              (unsigned long long)f->length_us);
    switch (f->kind) {
    case FAULT_KILL:
        sim_kill(s, process);
        break;
    case FAULT_FREEZE:
        sim_freeze(s, process);
        break;
    case FAULT_SLOW:
        node->slow = true;
        break;
    case FAULT_STUCK:
        node->stuck = true;
        break;
    case FAULT_REFUSE:
        node->refuse = ERR_INTERNAL;
        break;
    case FAULT_OVERLOAD:
        node->refuse = ERR_OVERLOADED;
        break;
    case FAULT_CUT:
        path->cut = true;
        break;
    case FAULT_LOSE:
        path->lose_percent = 20;
        path->double_percent = 30;
        break;
    case FAULT_DELAY:
        path->delay_us = 5000;
        path->jitter_us = 20000;
        break;
    case FAULT_COORDINATOR_FREEZE:
        sim_freeze(s, f->coordinator);
        break;
    case FAULT_COORDINATOR_KILL:
        sim_kill(s, f->coordinator);
        break;
    case FAULT_KINDS:
        break;
    }
}

void sim_fault_end(sim *s, uint32_t fault) {
    const sim_fault *f = &s->faults[fault];
    uint32_t process = sim_node_process(f->node);
    sim_node *node = &s->nodes[f->node];
    sim_path *path = &s->paths[f->coordinator][f->node];

    sim_trace(s, "fault %s ends", sim_fault_name(f->kind));
    switch (f->kind) {
    case FAULT_KILL:
        sim_revive(s, process);
        break;
    case FAULT_FREEZE:
        sim_thaw(s, process);
        break;
    case FAULT_SLOW:
        node->slow = false;
        break;
    case FAULT_STUCK:
        sim_node_unstick(s, f->node);
        break;
    case FAULT_REFUSE:
    case FAULT_OVERLOAD:
        node->refuse = 0;
        break;
    case FAULT_CUT:
    case FAULT_LOSE:
    case FAULT_DELAY:
        *path = (sim_path){.double_percent = 1};
        break;
    case FAULT_COORDINATOR_FREEZE:
        sim_thaw(s, f->coordinator);
        break;
    case FAULT_COORDINATOR_KILL:
        sim_revive(s, f->coordinator);
        break;
    case FAULT_KINDS:
        break;
    }
}
