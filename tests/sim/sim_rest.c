/* sim_rest.c - what must hold when the faults are over: soon everybody agrees,
 * everything is where it should be, and nothing is left behind. */
#include <stdio.h>
#include <string.h>
#include "tests/sim/sim.h"

#define LOOK_US 250000
#define QUIET_US 2500000 /* without a new epoch */
#define REST_US 90000000 /* after the faults; it must have come by then */

/* ---- what there is room for ---- */

static bool is_drained(const sim *s, uint32_t node) {
    char key[40];
    snprintf(key, sizeof(key), "drain/%s",
             s->members[sim_node_member(node)].name);
    return sim_etcd_find(&s->etcd, key) != NULL;
}

/* How often the units must be held, by what the nodes that stay can hold. */
static void find_wanted(const sim *s, uint32_t *least, uint32_t *stay) {
    uint64_t largest = 0, room = 0;
    *stay = *least = 0;
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        if (s->unit_bytes[l] > largest) largest = s->unit_bytes[l];
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (!s->members[sim_node_member(i)].alive || is_drained(s, i)) continue;
        uint64_t usable = s->nodes[i].memory - largest;
        room += usable < s->model_bytes ? usable : s->model_bytes;
        ++*stay;
    }
    while (*least < s->min_replicas && *least < *stay &&
           room >= (*least + 1) * s->model_bytes) {
        ++*least;
    }
}

/* ---- a process ---- */

static bool is_registered(const sim *s, uint32_t member) {
    const sim_member *m = &s->members[member];
    char key[40];
    snprintf(key, sizeof(key), "%s/%s",
             member < SIM_COORDS ? "coordinators" : "nodes", m->name);
    const sim_kv *kv = sim_etcd_find(&s->etcd, key);
    return kv != NULL && kv->lease != 0 && session_registered(m->session);
}

/* What it is given is there, and nothing else.  Only where memory was lost
 * beyond the spare, so that there is nowhere else to put it, may a node be
 * given more than it has room for. */
static bool holds_its_part(const sim *s, uint32_t node,
                           const unit_set *assigned) {
    const sim_node *n = &s->nodes[node];
    unit_set lacks = unit_set_less(assigned, &n->resident);
    unit_set excess = unit_set_less(&n->resident, assigned);
    uint32_t least, stay;
    if (!unit_set_empty(&excess) || !unit_set_empty(&n->busy)) return false;
    if (unit_set_empty(&lacks)) return true;
    find_wanted(s, &least, &stay);
    return least == 0 && sim_store_bytes(s, assigned) > n->memory;
}

static bool node_at_rest(const sim *s, uint32_t node, const unit_set *assigned,
                         const char **what) {
    uint32_t member = sim_node_member(node);
    const sim_member *m = &s->members[member];
    const sim_node *n = &s->nodes[node];
    if (!m->alive) return true;
    *what = "a node is not registered";
    if (!is_registered(s, member)) return false;
    *what = "a node knows another placement";
    if (m->epoch != s->etcd.newest_epoch) return false;
    *what = "a node holds other units than it is given";
    if (!holds_its_part(s, node, assigned)) return false;
    *what = "a node has work left";
    return job_queue_waiting(n->queue) == 0 &&
           job_queue_reply_bytes(n->queue) == 0;
}

static bool tells_what_it_knows(const sim *s, uint32_t coord) {
    const sim_member *m = &s->members[coord];
    size_t n;
    const coordinator_record *all = rack_view_coordinators(m->view, &n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(all[i].name, m->name) != 0) continue;
        return epoch_pack(all[i].incarnation, all[i].epoch) == m->epoch;
    }
    return false;
}

/* Does it send by the newest placement, to all who hold something? */
static bool coord_at_rest(const sim *s, uint32_t coord,
                          const unit_set assigned[SIM_NODES],
                          const char **what) {
    const sim_coord *c = &s->coords[coord];
    *what = "a coordinator is not registered";
    if (!is_registered(s, coord)) return false;
    *what = "coordinators know different placements";
    if (s->members[coord].epoch != s->etcd.newest_epoch) return false;
    *what = "a coordinator does not say which placement it knows";
    if (!tells_what_it_knows(s, coord)) return false;
    *what = "a coordinator uses another placement than it knows";
    if (c->next != NULL || c->epoch != s->etcd.newest_epoch) return false;
    *what = leader_why(c->leader);
    if (*what[0] != '\0') return false;
    *what = "a coordinator is not idle";
    if (!sim_step_idle(s, coord)) return false;
    *what = "a coordinator does not use what a node holds";
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (!s->members[sim_node_member(i)].alive) continue;
        for (uint32_t l = 0; l < SIM_LAYERS; l++) {
            uint64_t left = assigned[i].of[l] & s->nodes[i].resident.of[l];
            for (; left != 0; left &= left - 1) {
                uint32_t unit = (uint32_t)__builtin_ctzll(left);
                if (sim_coord_uses(s, coord, i, l, unit, UINT64_MAX, 0))
                    continue;
                const sim_seen *n = &c->seen[i];
                sim_trace(s,
                          "%s does not ask node %u for unit %u of layer %u: "
                          "%s, %s, %s",
                          s->members[coord].name, i, unit, l,
                          n->there ? "there" : "not there",
                          unit_set_has(&n->held, l, unit) ? "held" : "not held",
                          unit_set_has(&n->doubted, l, unit) ? "doubted"
                                                             : "not doubted");
                return false;
            }
        }
    }
    return true;
}

/* ---- the placement ---- */

static bool is_covered(const sim *s, const unit_set assigned[SIM_NODES],
                       const char **what) {
    uint32_t least, stay;
    find_wanted(s, &least, &stay);
    *what = "a unit has too few holders";
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        for (uint32_t u = 0; u < sim_units(s, l); u++) {
            uint32_t n = 0;
            for (uint32_t i = 0; i < s->n_nodes; i++)
                n += unit_set_has(&assigned[i], l, u);
            if (n < (least > 0 ? 1 : 0)) return false;
            if (least == s->min_replicas && n < least) return false;
        }
    }
    *what = "a node that is to be drained still holds something";
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        bool empty = unit_set_empty(&assigned[i]);
        if (least > 0 && is_drained(s, i) && !empty) return false;
    }
    return true;
}

/* Everybody agrees, and everything is where it should be; else what is not. */
static bool is_at_rest(const sim *s, const char **what) {
    const rack_placement *p = rack_view_placement(s->members[0].view);
    unit_set assigned[SIM_NODES];
    sim_rack_assigned(s, p, assigned);
    for (uint32_t i = 0; i < s->n_coords; i++) {
        if (!coord_at_rest(s, i, assigned, what)) return false;
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (!node_at_rest(s, i, &assigned[i], what)) return false;
    }
    return is_covered(s, assigned, what);
}

/* For whoever replays a run that found no rest. */
static void trace_state(const sim *s) {
    unit_set assigned[SIM_NODES];
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        sim_trace(s, "%s knows %llx, term %lld, uses %llx: %s", m->name,
                  (unsigned long long)m->epoch, (long long)s->coords[i].term,
                  (unsigned long long)s->coords[i].epoch,
                  leader_why(s->coords[i].leader));
    }
    sim_rack_assigned(s, rack_view_placement(s->members[0].view), assigned);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_member *m = &s->members[sim_node_member(i)];
        const sim_node *n = &s->nodes[i];
        if (!m->alive) continue;
        sim_trace(s,
                  "%s knows %llx, offers %llu bytes, is given %llu, has %llu%s",
                  m->name, (unsigned long long)m->epoch,
                  (unsigned long long)n->memory,
                  (unsigned long long)sim_store_bytes(s, &assigned[i]),
                  (unsigned long long)sim_store_bytes(s, &n->resident),
                  is_drained(s, i) ? ", is drained" : "");
    }
}

void sim_rest_look(sim *s) {
    const char *what = "";
    if (s->quiet_epoch != s->etcd.newest_epoch) {
        s->quiet_epoch = s->etcd.newest_epoch;
        s->quiet_us = s->clock.now_us;
    }
    bool quiet = s->clock.now_us > s->quiet_us + QUIET_US &&
                 s->clock.now_us > s->ended_us + QUIET_US;
    bool rest = sim_clients_done(s) && is_at_rest(s, &what) && quiet;
    if (rest) {
        for (uint32_t i = 0; i < s->n_coords; i++)
            sim_step_check_end(s, i);
        s->done = true;
        return;
    }
    if (s->clock.now_us > s->over_us + REST_US) {
        if (!sim_clients_done(s)) what = "requests go on";
        trace_state(s);
        sim_fail(s, "no rest: %s", quiet ? what : "epochs go on");
    }
    sim_after(s, LOOK_US, EVENT_REST, -1, 0);
}
