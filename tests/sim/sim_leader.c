/* sim_leader.c - placements: the real leader, planner and balancer, what
 * conductor.c and the registry do for them, and an operator who recovers the
 * rack when etcd was wiped or restored. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/recovery.h"
#include "tests/sim/sim.h"

#define RECOVER_LOOK_MS 700

void sim_leader_start(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    const leader_config config = {
        .name = s->members[coord].name,
        .profile = {.version = 1, .activation = "a8", .rows = "f32"},
        .settle_ms = 400,
        .settle_max_ms = 2000,
        .replace_after_ms = s->replace_after_ms,
        .unknown_ms = 4000,
        .behind_ms = 2500,
        .compact_ms = 5000};
    if (leader_new(&c->leader, &config) < 0) abort();
}

/* ---- what nodes tell ---- */

/* As nodes_held.c says it. */
static uint64_t told_epoch(const sim *s, const sim_coord *c) {
    uint64_t newest = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *seen = &c->seen[i];
        bool up =
            seen->there && membership_state(c->members, seen->place) == NODE_UP;
        if (up && seen->told_epoch > newest) newest = seen->told_epoch;
    }
    return newest;
}

/* ---- writing ---- */

static void add_put(sim_kv *kv, const char *key, const void *value,
                    size_t bytes) {
    snprintf(kv->key, sizeof(kv->key), "%s", key);
    kv->value = sim_copy(value, bytes);
    kv->bytes = bytes;
}

static void add_layer(sim_kv *kv, uint32_t layer, const layer_map *map) {
    uint8_t *packed;
    size_t bytes;
    char key[32];
    if (layer_map_pack(map, &packed, &bytes) < 0) abort();
    snprintf(key, sizeof(key), "placement/layer/%u", layer);
    add_put(kv, key, packed, bytes);
    free(packed);
}

static void add_head(sim_kv *kv, const epoch_record *head) {
    char *text = epoch_record_pack(head);
    if (text == NULL) abort();
    add_put(kv, "placement/epoch", text, strlen(text));
    free(text);
}

static sim_request *step_new(const sim *s, uint32_t coord, int64_t term,
                             int64_t expected, uint32_t n_layers) {
    sim_request *r = sim_memory(sizeof(*r));
    *r = (sim_request){.kind = REQUEST_STEP,
                       .member = coord,
                       .life = s->members[coord].life,
                       .term = term,
                       .expected = expected,
                       .cluster = s->members[coord].cluster,
                       .seen = s->members[coord].seen,
                       .told = told_epoch(s, &s->coords[coord]),
                       .n_puts = n_layers + 1};
    r->puts = sim_memory(r->n_puts * sizeof(*r->puts));
    return r;
}

/* Now and then the process is stopped just before, and the request leaves when
 * it is continued. */
static void write_step(sim *s, uint32_t coord, const leader_action *a) {
    const planner_step *step = a->step;
    sim_request *r =
        step_new(s, coord, a->term, a->expected_revision, step->n_layers);
    for (uint32_t i = 0; i < step->n_layers; i++)
        add_layer(&r->puts[i], step->numbers[i], &step->layers[i]);
    add_head(&r->puts[step->n_layers], &step->head);
    sim_trace(
        s, "%s writes %llu.%llu: %llu more, %llu less", s->members[coord].name,
        (unsigned long long)step->head.incarnation,
        (unsigned long long)step->head.epoch, (unsigned long long)step->added,
        (unsigned long long)step->removed);

    uint64_t stopped_us = sim_fault_before_write(s, coord);
    sim_after(s, stopped_us + 100 + sim_below(s, 3000), EVENT_REQUEST, -1, 0)
        ->data = r;
    sim_after(s, stopped_us + SIM_TIMEOUT_MS * 1000, EVENT_TIMEOUT, (int)coord,
              0)
        ->data = r;
}

void sim_leader_wrote(sim *s, uint32_t coord, const sim_request *r) {
    leader_outcome o = LEADER_NOT;
    if (r->outcome == SESSION_DONE) o = LEADER_DONE;
    if (r->outcome == SESSION_MAYBE) o = LEADER_UNKNOWN;
    if (o == LEADER_UNKNOWN) sim_add(s, COUNT_UNKNOWN, 1);
    /* And so is that a leader remembers what it was told that it wrote. */
    if (s->options.plant == PLANT_NO_REVISION && o == LEADER_DONE) {
        o = LEADER_UNKNOWN;
    }
    if (r->recovers) return; /* not the leader machine's */
    leader_wrote(s->coords[coord].leader, sim_mono_ms(s, coord), o);
}

/* ---- leading ---- */

/* Two processes that run may not both believe that they lead, unless the store
 * that told one of them is no more, and it has not seen the new one yet.  (Its
 * lease may be in both: that it can be kept alive does not tell.) */
static void check_alone(sim *s, uint32_t coord) {
    if (s->members[coord].cluster != s->etcd.cluster) return;
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        if (i == coord || !m->alive || m->frozen) continue;
        if (m->cluster != s->etcd.cluster) continue;
        if (session_term(m->session, sim_boot_ms(s, i)) == 0) continue;
        sim_fail(s, "two lead: %s and %s", s->members[coord].name, m->name);
    }
}

static int64_t read_term(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    int64_t term =
        session_term(s->members[coord].session, sim_boot_ms(s, coord));
    if (term != c->term) {
        sim_trace(s, "%s: term %lld", s->members[coord].name, (long long)term);
        if (term != 0) sim_add(s, COUNT_TERMS, 1);
    }
    c->term = term;
    if (term != 0) check_alone(s, coord);
    return term;
}

static void look(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    const sim_member *m = &s->members[coord];
    leader_picture p = {.view = m->listed ? m->view : NULL,
                        .term = read_term(s, coord),
                        .live_since_ms = m->live_ms,
                        .model = &s->plan_model};
    p.heat = c->heat;
    /* What nodes tell is a net below that one, and would hide that it has a
     * hole. */
    bool deaf = s->options.plant == PLANT_NO_REVISION;
    p.told_epoch = deaf ? 0 : told_epoch(s, c);
    if (leader_look(c->leader, sim_mono_ms(s, coord), &p) < 0) abort();
}

/* A job takes a while, on another thread. */
static void think(sim *s, uint32_t coord, leader_job *j) {
    leader_job_run(j);
    s->jobs[coord] = j;
    sim_after(s, 500 + sim_below(s, 30000), EVENT_THOUGHT, (int)coord, 0);
}

void sim_leader_thought(sim *s, uint32_t coord) {
    leader_job *j = s->jobs[coord];
    s->jobs[coord] = NULL;
    if (leader_thought(s->coords[coord].leader, sim_mono_ms(s, coord), j) < 0) {
        sim_fail(s, "%s cannot plan", s->members[coord].name);
    }
}

void sim_leader_stop(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    leader_figures f;
    leader_look_at(c->leader, sim_mono_ms(s, coord), &f);
    sim_add(s, COUNT_BALANCED, f.started);
    leader_job_free(s->jobs[coord]);
    s->jobs[coord] = NULL;
    leader_free(c->leader);
}

void sim_leader_rebalance(sim *s, uint32_t coord) {
    char why[256];
    (void)leader_rebalance(s->coords[coord].leader, sim_chance(s, 30), why,
                           sizeof(why));
}

uint64_t sim_leader_act(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    look(s, coord);
    for (;;) {
        leader_action a;
        uint64_t now_ms = sim_mono_ms(s, coord);
        int rc = leader_next(c->leader, now_ms, &a);
        if (rc < 0) {
            sim_fail(s, "%s cannot plan: %d", s->members[coord].name, rc);
        }
        if (a.kind == LEADER_WAIT && a.wake_ms == UINT64_MAX) {
            return UINT64_MAX;
        }
        if (a.kind == LEADER_WAIT) {
            return a.wake_ms > now_ms ? (a.wake_ms - now_ms) * 1000 : 1000;
        }
        if (a.kind == LEADER_THINK) think(s, coord, a.job);
        if (a.kind == LEADER_WRITE) write_step(s, coord, &a);
        if (a.kind != LEADER_COMPACT) continue;
        sim_request *r = sim_memory(sizeof(*r));
        r->kind = REQUEST_COMPACT;
        r->expected = a.revision;
        sim_member_send(s, coord, r);
    }
}

/* ---- recovering ---- */

/* The live nodes that said what they hold, as nodes_held.c lists them. */
static uint32_t list_held(const sim *s, uint32_t coord,
                          recovery_node out[SIM_NODES],
                          holdings held[SIM_NODES]) {
    const sim_coord *c = &s->coords[coord];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *seen = &c->seen[i];
        bool up =
            seen->there && membership_state(c->members, seen->place) == NODE_UP;
        if (!up) continue;
        sim_rack_fill(s, &seen->held, &held[n]);
        out[n].held = unit_set_empty(&seen->held) ? NULL : &held[n];
        snprintf(out[n].name, sizeof(out[n].name), "%s",
                 s->members[sim_node_member(i)].name);
        n++;
    }
    return n;
}

static void write_recovery(sim *s, uint32_t coord, const recovery *plan) {
    epoch_record head = plan->head;
    uint32_t n = 0;
    if (s->options.plant == PLANT_SAME_INCARNATION) {
        head.incarnation = epoch_incarnation(plan->was);
    }
    head.term = s->coords[coord].term;
    snprintf(head.writer, sizeof(head.writer), "%s", s->members[coord].name);
    int64_t revision = rack_view_epoch_revision(s->members[coord].view);
    sim_request *r = step_new(s, coord, head.term, revision, plan->layers);
    r->recovers = true;
    for (uint32_t l = 0; l < head.n_layers; l++) {
        if (plan->maps[l] != NULL) add_layer(&r->puts[n++], l, plan->maps[l]);
    }
    add_head(&r->puts[n], &head);
    r->n_puts = n + 1;
    sim_trace(s, "%s recovers the rack: %s", s->members[coord].name, plan->why);
    sim_add(s, COUNT_RECOVERED, 1);
    sim_member_send(s, coord, r);
}

/* As conductor_recover.c does, in one transaction: the models are small. */
static void recover(sim *s, uint32_t coord) {
    const rack_view *view = s->members[coord].view;
    recovery_node nodes[SIM_NODES];
    holdings held[SIM_NODES] = {{0}};
    recovery plan;
    char why[256] = "";
    const recovery_input in = {
        .view = view,
        .nodes_epoch = leader_known_epoch(s->coords[coord].leader),
        .at_odds = leader_at_odds(s->coords[coord].leader),
        .model = &s->plan_model,
        .nodes = nodes,
        .n_nodes = list_held(s, coord, nodes, held)};
    int rc = recovery_plan(&plan, &in, why, sizeof(why));
    if (rc == 0 && plan.source != RECOVERY_NOTHING && !plan.begins_anew) {
        write_recovery(s, coord, &plan);
    } else {
        sim_trace(s, "%s does not recover: %d %s", s->members[coord].name, rc,
                  why);
    }
    recovery_fini(&plan);
    for (uint32_t i = 0; i < SIM_NODES; i++)
        holdings_fini(&held[i]);
}

/* Whoever leads and may write nothing is asked to recover. */
void sim_leader_recover(sim *s) {
    sim_after(s, RECOVER_LOOK_MS * 1000, EVENT_RECOVER, -1, 0);
    for (uint32_t i = 0; i < s->n_coords; i++) {
        const sim_member *m = &s->members[i];
        if (!m->alive || m->frozen || m->live_ms == 0) continue;
        const sim_coord *c = &s->coords[i];
        if (c->term == 0 || leader_why(c->leader)[0] == '\0') continue;
        recover(s, i);
        return;
    }
}
