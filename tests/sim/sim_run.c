/* sim_run.c - one run: the rack is set up, events take their turn. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define FAULTS_FROM_US 4000000
#define AT_ONCE_MOST 20000 /* events without time passing */
#define LOOK_US 50000      /* between looks for requests that hang */

/* ---- processes ---- */

void sim_kill(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    if (!m->alive) return;
    sim_trace(s, "%s dies", m->name);
    sim_thaw(s, member); /* what it did not read is gone with it */
    if (member < SIM_COORDS) {
        sim_coord_stop(s, member);
    } else {
        sim_node_stop(s, member - SIM_COORDS);
    }
    sim_member_stop(s, member);
    if (member < SIM_COORDS) return;
    for (uint32_t i = 0; i < s->n_coords; i++) {
        sim_after(s, 500 + sim_below(s, 4000), EVENT_BROKEN, (int)i,
                  member - SIM_COORDS);
    }
}

void sim_revive(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    if (m->alive || m->gone) return;
    sim_member_start(s, member);
    sim_trace(s, "%s begins", m->name);
    if (member < SIM_COORDS) {
        sim_coord_start(s, member);
    } else {
        sim_node_start(s, member - SIM_COORDS);
    }
    sim_wake(s, member);
}

void sim_freeze(sim *s, uint32_t member, bool asleep) {
    sim_member *m = &s->members[member];
    if (!m->alive || m->frozen) return;
    m->frozen = true;
    m->asleep = asleep;
    m->frozen_us = s->clock.now_us;
    sim_trace(s, "%s stands still%s", m->name, asleep ? ", asleep" : "");
}

void sim_thaw(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    if (!m->frozen) return;
    uint64_t us = s->clock.now_us - m->frozen_us;
    m->frozen = false;
    if (m->asleep) m->asleep_us += us;
    sim_trace(s, "%s goes on", m->name);
    if (member >= SIM_COORDS && !m->asleep) {
        sim_store_paused(s, member - SIM_COORDS, us);
    }
    m->asleep = false;
    sim_release_held(s, member);
}

void sim_wake(sim *s, uint32_t member) {
    sim_after(s, 0, EVENT_WAKE, (int)member, ++s->members[member].timer);
}

/* After whatever happened to it, a process does what there is to do. */
static void act(sim *s, uint32_t member) {
    sim_member *m = &s->members[member];
    if (!m->alive || m->frozen || !s->result->ok) return;
    uint64_t us = UINT64_MAX;
    if (member < SIM_COORDS) {
        us = sim_coord_act(s, member);
    } else {
        us = sim_store_act(s, member - SIM_COORDS);
        uint64_t session_us = sim_member_act(s, member);
        if (session_us < us) us = session_us;
    }
    m->timer++;
    if (us == UINT64_MAX || m->frozen) return;
    sim_after(s, us, EVENT_WAKE, (int)member, m->timer);
}

/* ---- the turn of events ---- */

static void on_message(sim *s, sim_event *e) {
    uint32_t member = (uint32_t)e->member;
    sim_message *m = e->data;
    if (member >= SIM_COORDS) {
        bool control = m->kind <= MESSAGE_PING;
        sim_node_message(s, member - SIM_COORDS, m);
        sim_message_done(s, m);
        if (control) act(s, member);
    } else if (m->kind == MESSAGE_ROWS || m->kind == MESSAGE_ERROR) {
        sim_step_message(s, member, m);
    } else {
        sim_coord_control(s, member, m);
        sim_message_done(s, m);
    }
}

/* What its registry, keeper or leader has to do with. */
static void on_member(sim *s, const sim_event *e) {
    uint32_t member = (uint32_t)e->member, node = member - SIM_COORDS;
    switch (e->kind) {
    case EVENT_ANSWER:
        sim_member_answer(s, member, e->data);
        break;
    case EVENT_TIMEOUT:
        sim_member_timeout(s, member, e->data);
        break;
    case EVENT_WATCHED:
        sim_member_watched(s, member, e);
        break;
    case EVENT_CUT_OFF:
        sim_member_cut_off(s, member, e);
        break;
    case EVENT_REWATCH:
        sim_member_rewatch(s, member);
        break;
    case EVENT_RELIST:
        sim_member_list(s, member);
        break;
    case EVENT_THOUGHT:
        sim_leader_thought(s, member);
        break;
    case EVENT_LOADED:
        sim_store_loaded(s, node, e->number);
        break;
    case EVENT_UNLOADED:
        sim_store_unloaded(s, node, e->number);
        break;
    default:
        break;
    }
    act(s, member);
}

static void on_process(sim *s, sim_event *e) {
    uint32_t member = (uint32_t)e->member;
    switch (e->kind) {
    case EVENT_MESSAGE:
        on_message(s, e);
        break;
    case EVENT_LOOP:
        if (e->number == s->coords[member].loop_timer) {
            sim_coord_loop(s, member);
        }
        break;
    case EVENT_POLL:
        sim_coord_poll(s, member);
        break;
    case EVENT_BROKEN:
        sim_coord_broken(s, member, (uint32_t)e->number);
        break;
    case EVENT_ASKED:
        sim_step_asked(s, member, e->data);
        break;
    case EVENT_RACK:
    case EVENT_STEP:
    case EVENT_LAYER:
    case EVENT_HERE:
        sim_step_event(s, member, e);
        break;
    case EVENT_COMPUTED:
        sim_node_computed(s, member - SIM_COORDS);
        break;
    case EVENT_WAKE:
        if (e->number == s->members[member].timer) act(s, member);
        break;
    default:
        on_member(s, e);
    }
}

static void on_nobody(sim *s, const sim_event *e) {
    switch (e->kind) {
    case EVENT_REQUEST:
        sim_member_request(s, e->data);
        break;
    case EVENT_EXPIRE:
        sim_etcd_expire(s);
        break;
    case EVENT_TOLD:
        sim_client_told(s, e->data);
        break;
    case EVENT_CLIENT:
        sim_client_event(s, e->number);
        break;
    case EVENT_FAULT:
        sim_fault_next(s);
        break;
    case EVENT_FAULT_END:
        sim_fault_end(s, (uint32_t)e->number);
        break;
    case EVENT_RECOVER:
        sim_leader_recover(s);
        break;
    case EVENT_REST:
        sim_rest_look(s);
        break;
    default:
        assert(!"an event of nobody's");
    }
}

/* A message finds whoever lives there now; other events die with the process
 * that they belong to. */
static bool is_void(const sim *s, const sim_event *e) {
    const sim_member *m = &s->members[e->member];
    return !m->alive || (e->kind != EVENT_MESSAGE && e->life != m->life);
}

static void run_event(sim *s, sim_event *e) {
    if (e->member < 0) {
        on_nobody(s, e);
    } else if (is_void(s, e)) {
        if (e->kind == EVENT_MESSAGE) sim_message_done(s, e->data);
    } else if (s->members[e->member].frozen) {
        sim_hold_event(s, e);
    } else {
        on_process(s, e);
    }
}

static void run_events(sim *s) {
    uint64_t look_us = 0, last_us = 0;
    uint32_t at_once = 0;
    sim_event e;
    while (s->result->ok && !s->done && sim_next_event(s, &e)) {
        sim_add(s, COUNT_EVENTS, 1);
        sim_note(s, e.at_us, e.kind, (uint64_t)(int64_t)e.member);
        run_event(s, &e);
        at_once = s->clock.now_us == last_us ? at_once + 1 : 0;
        last_us = s->clock.now_us;
        if (at_once > AT_ONCE_MOST) sim_fail(s, "time stands still");
        if (s->clock.now_us < look_us) continue;
        look_us = s->clock.now_us + LOOK_US;
        sim_clients_check(s);
    }
}

/* ---- a run ---- */

void sim_faults_over(sim *s) {
    if (s->etcd.state != STORE_UP) sim_etcd_start(s, true);
    s->etcd.full = false;
    s->lose_percent = 0;
    for (uint32_t i = 0; i < SIM_MEMBERS; i++) {
        sim_thaw(s, i);
        s->members[i].cut = false;
        s->members[i].slow_us = 0;
        if (s->members[i].started) sim_revive(s, i);
    }
    s->faults_over = true;
    s->over_us = s->clock.now_us;
    sim_trace(s, "the faults are over");
    sim_after(s, 500000, EVENT_REST, -1, 0);
}

static void make_model(sim *s) {
    static const uint32_t cuts[] = {1, 1, 1, 2, 2, 4, 4, 8};
    s->slices = cuts[sim_below(s, 8)];
    s->model.n_experts = 4 + (uint32_t)sim_below(s, 5);
    if (s->slices == 8) s->model.n_experts = 4;
    s->model.skewed = sim_chance(s, 70);
    s->model.dense_first = sim_chance(s, 20);
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        if (sim_is_dense(&s->model, l)) continue;
        s->layer_slices[l] = s->slices;
        s->unit_bytes[l] = 100 + 50 * sim_below(s, 3);
        s->model_bytes += sim_units(s, l) * s->unit_bytes[l];
    }
    s->plan_model = (planner_model){.n_layers = SIM_LAYERS,
                                    .n_experts = s->model.n_experts,
                                    .slices = s->layer_slices,
                                    .unit_bytes = s->unit_bytes,
                                    .max_slices = s->slices,
                                    .min_replicas = s->min_replicas};
    s->plan_model.model[0] = 42;
}

static void choose_family(sim *s) {
    uint32_t family = (uint32_t)(s->options.seed % 4);
    s->min_replicas = family == 0 || family == 3 ? 2 : 1;
    s->local = family == 1 || (family == 3 && sim_chance(s, 30));
    s->local_fails = family == 3;
    s->strict = family < 2;
    s->faults_wanted = SIM_FAULTS_LEAST + (uint32_t)sim_below(s, 5);
}

static void make_nodes(sim *s) {
    s->n_nodes = 4 + (uint32_t)sim_below(s, SIM_NODES - 3);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        sim_node *n = &s->nodes[i];
        snprintf(s->members[sim_node_member(i)].name,
                 sizeof(s->members[0].name), "n%u", i);
        n->memory = 400 + s->min_replicas * s->model_bytes / 3 +
                    sim_below(s, s->model_bytes);
        n->has_file = sim_chance(s, 25);
        n->us_per_pair = (2000 + (uint32_t)sim_below(s, 5000)) / s->slices;
        for (uint32_t c = 0; c < SIM_COORDS; c++)
            s->paths[c][i].double_percent = 1;
    }
}

static void set_up(sim *s) {
    static const uint32_t ttls[] = {2000, 3000, 5000};
    choose_family(s);
    make_model(s);
    s->ttl_ms = ttls[sim_below(s, 3)];
    s->replace_after_ms = 2000 + (uint32_t)sim_below(s, 4000);
    s->pair_weight = 1 + (uint32_t)sim_below(s, 40);
    s->zones = sim_chance(s, 30);
    s->n_coords = 2 + (uint32_t)sim_below(s, SIM_COORDS - 1);
    s->etcd.cluster = 1;
    for (uint32_t i = 0; i < s->n_coords; i++)
        snprintf(s->members[i].name, sizeof(s->members[i].name), "c%u", i);
    make_nodes(s);
    for (uint32_t i = 0; i < s->n_coords; i++)
        sim_revive(s, i);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (i < 4 || sim_chance(s, 50)) sim_revive(s, sim_node_member(i));
    }
    sim_clients_make(s);
    sim_after(s, FAULTS_FROM_US, EVENT_FAULT, -1, 0);
    sim_after(s, FAULTS_FROM_US, EVENT_RECOVER, -1, 0);
}

void sim_run(const sim_options *options, sim_result *result) {
    static sim s; /* large, and one at a time */
    memset(&s, 0, sizeof(s));
    *result = (sim_result){.ok = true, .hash = options->seed};
    s.options = *options;
    s.result = result;
    s.clock.random = options->seed * 0x2545F4914F6CDD1Du;
    s.clock.now_us = 1000000;

    set_up(&s);
    run_events(&s);
    result->at_us = s.clock.now_us;
    for (uint32_t i = 0; i < SIM_MEMBERS; i++)
        sim_kill(&s, i);
    sim_drop_events(&s);
    free(s.etcd.history);
    sim_memory_reset();
}
