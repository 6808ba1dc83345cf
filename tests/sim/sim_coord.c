/* sim_coord.c - a coordinator's life and its loop thread: what nodes.c and
 * conductor.c do with links and the registry. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define POLL_MS 1000

static const membership_config greeting = {
    .hello_ms = 150,
    .ping_ms = 250,
    .silent_ms = 900,
    .stuck_ms = 1500,
    .refused_ms = 1000,
    .crashes = 3,
    .crash_window_ms = 10000,
    .quarantine_ms = 3000,
    .quarantine_most_ms = 12000,
};

static const record_profile profile = {
    .version = 1, .activation = "a8", .rows = "f32"};

/* ---- membership ---- */

static void send_ping(sim *s, uint32_t coord, uint32_t node) {
    const sim_message m = {.kind = MESSAGE_PING,
                           .from = coord,
                           .to = sim_node_member(node),
                           .boot = s->members[coord].boot,
                           .epoch = s->coords[coord].epoch,
                           .placement = s->coords[coord].source};
    sim_send(s, &m);
}

static void obey(sim *s, uint32_t coord, const member_action *a) {
    uint32_t node = (uint32_t)s->coords[coord].node_at[a->node];
    switch (a->kind) {
    case MEMBER_HELLO:
        sim_rack_greet(s, coord, node);
        break;
    case MEMBER_PING:
        send_ping(s, coord, node);
        break;
    case MEMBER_UP:
    case MEMBER_GONE:
    case MEMBER_TRUST:
        sim_trace(s, "%s: node %u %s: %s", s->members[coord].name, node,
                  a->kind == MEMBER_UP     ? "up"
                  : a->kind == MEMBER_GONE ? "gone"
                                           : "trust",
                  a->reason != NULL ? a->reason : "");
        if (a->kind == MEMBER_GONE) {
            sim_rack_lost(s, coord);
        } else {
            sim_rack_changed(s, coord);
        }
        break;
    case MEMBER_WAIT:
        break;
    }
}

void sim_coord_loop(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint64_t now_ms = sim_mono_ms(s, coord);
    member_action a;
    for (;;) {
        membership_next(c->members, now_ms, &a);
        if (a.kind == MEMBER_WAIT) break;
        obey(s, coord, &a);
    }
    uint64_t wake_ms = a.wake_ms;
    if (sim_rack_let_go(s, coord)) sim_rack_lost(s, coord);
    bool impatient = c->next != NULL && now_ms >= c->switch_until_ms;
    if (impatient || c->unpublished) sim_rack_changed(s, coord);
    if (c->unpublished && c->rack_due_ms < wake_ms) wake_ms = c->rack_due_ms;
    if (c->next != NULL && c->switch_until_ms < wake_ms) {
        wake_ms = c->switch_until_ms;
    }
    if (wake_ms > now_ms + 1000) wake_ms = now_ms + 1000;
    uint64_t us = wake_ms > now_ms ? (wake_ms - now_ms) * 1000 : 1000;
    sim_after(s, us, EVENT_LOOP, (int)coord, ++c->loop_timer);
}

static void on_welcome(sim *s, uint32_t coord, uint32_t node,
                       const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    sim_seen *n = &c->seen[node];
    if (!n->greeted) return; /* one too many */
    n->greeted = false;
    n->told_epoch = m->epoch;
    sim_rack_welcome(s, coord, node, m);
    bool refresh = membership_state(c->members, n->place) == NODE_UP &&
                   membership_boot(c->members, n->place) == m->boot;
    membership_welcome(c->members, sim_mono_ms(s, coord), n->place, m->boot);
    if (refresh) sim_rack_changed(s, coord);
}

static void on_pong(sim *s, uint32_t coord, uint32_t node,
                    const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    sim_seen *n = &c->seen[node];
    if (m->progress != n->progress) {
        dispatch_node_works(c->machine, sim_mono_us(s, coord), n->place);
    }
    n->progress = m->progress;
    n->told_epoch = m->epoch;
    membership_pong(c->members, sim_mono_ms(s, coord), n->place, m->boot,
                    m->progress, m->queued);
    bool deaf = s->options.plant == PLANT_DEAF_PONG;
    if (membership_state(c->members, n->place) == NODE_UP &&
        m->version > n->version && !deaf) {
        sim_rack_greet(s, coord, node);
    }
}

/* What is new since the last poll; a node that was started again begins at
 * nothing. */
static void on_load(sim *s, uint32_t coord, uint32_t node,
                    const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    sim_seen *n = &c->seen[node];
    if (n->counted_boot != m->boot) {
        memset(n->counted, 0, sizeof(n->counted));
        n->counted_boot = m->boot;
    }
    heat_decay(c->heat, sim_mono_ms(s, coord));
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        for (uint32_t u = 0; u < sim_units(s, l); u++) {
            if (m->loads[l][u] <= n->counted[l][u]) continue; /* overtaken */
            heat_add(c->heat, l, u, m->loads[l][u] - n->counted[l][u]);
            n->counted[l][u] = m->loads[l][u];
        }
    }
}

void sim_coord_control(sim *s, uint32_t coord, const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    uint32_t node = m->from - SIM_COORDS;
    sim_seen *n = &c->seen[node];
    if (!n->there) return;
    if (m->to_boot != s->members[coord].boot) return;
    if (m->kind == MESSAGE_WELCOME) on_welcome(s, coord, node, m);
    if (m->kind == MESSAGE_PONG) on_pong(s, coord, node, m);
    if (m->kind == MESSAGE_LOAD) on_load(s, coord, node, m);
    if (m->kind == MESSAGE_TOO_OLD) {
        membership_heard(c->members, sim_mono_ms(s, coord), n->place, m->boot);
    }
    sim_coord_loop(s, coord);
}

/* Its process is gone: that shows long before it is silent. */
void sim_coord_broken(sim *s, uint32_t coord, uint32_t node) {
    sim_coord *c = &s->coords[coord];
    const sim_seen *n = &c->seen[node];
    if (n->there) {
        membership_broken(c->members, sim_mono_ms(s, coord), n->place);
    }
    sim_step_broken(s, coord, node);
    sim_coord_loop(s, coord);
}

void sim_coord_poll(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *n = &c->seen[i];
        if (!n->there || membership_state(c->members, n->place) != NODE_UP) {
            continue;
        }
        const sim_message m = {.kind = MESSAGE_LOAD_ASKED,
                               .from = coord,
                               .to = sim_node_member(i),
                               .boot = s->members[coord].boot};
        sim_send(s, &m);
    }
    sim_after(s, POLL_MS * 1000, EVENT_POLL, (int)coord, 0);
}

/* ---- etcd ---- */

/* Drained: no new requests, and no campaign. */
static void see_drain(sim *s, uint32_t coord) {
    sim_member *m = &s->members[coord];
    sim_coord *c = &s->coords[coord];
    bool drained = rack_view_drain(m->view, m->name) != NULL;
    if (drained == c->drained) return;
    c->drained = drained;
    session_campaign(m->session, !drained);
}

/* Its record, with the placement that it knows. */
static void publish(sim *s, uint32_t coord) {
    const sim_member *m = &s->members[coord];
    const rack_placement *p = rack_view_placement(m->view);
    uint64_t epoch = p != NULL ? rack_placement_epoch(p) : 0;
    coordinator_record r = {.boot = m->boot,
                            .version = "1",
                            .protocol = 1,
                            .has_model = true,
                            .profile = profile,
                            .incarnation = epoch_incarnation(epoch),
                            .epoch = epoch_number(epoch)};
    if (p != NULL) r.placement = rack_placement_sum(p);
    s->coords[coord].told_placement = r.placement;
    snprintf(r.client, sizeof(r.client), "tcp://10.0.0.%u:1", coord + 1);
    snprintf(r.weights, sizeof(r.weights), "tcp://10.0.0.%u:2", coord + 1);
    memcpy(r.model, s->plan_model.model, RECORD_MODEL);
    sim_member_want(s, coord, SLOT_RECORD, coordinator_record_pack(&r));
}

static void offer_to_lead(sim *s, uint32_t coord) {
    const sim_member *m = &s->members[coord];
    leader_record l = {.boot = m->boot};
    snprintf(l.name, sizeof(l.name), "%s", m->name);
    sim_member_want(s, coord, SLOT_LEADER, leader_record_pack(&l));
}

static void tell_known(sim *s, uint32_t coord) {
    const rack_placement *p = rack_view_placement(s->members[coord].view);
    if (p == NULL) return;
    if (rack_placement_sum(p) != s->coords[coord].told_placement)
        publish(s, coord);
}

uint64_t sim_coord_act(sim *s, uint32_t coord) {
    if (s->members[coord].listed) {
        see_drain(s, coord);
        tell_known(s, coord);
        sim_rack_set(s, coord);
    }
    uint64_t wake = sim_member_act(s, coord);
    uint64_t lead = sim_leader_act(s, coord);
    return lead < wake ? lead : wake;
}

/* ---- life ---- */

void sim_coord_start(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    membership_config m = greeting;
    uint32_t units[SIM_LAYERS];
    memset(c, 0, sizeof(*c));
    for (uint32_t i = 0; i < SIM_NODES; i++)
        c->node_at[i] = -1;
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        units[l] = sim_units(s, l);
    if (membership_new(&c->members, &m) < 0) abort();
    if (heat_new(&c->heat, SIM_LAYERS, units) < 0) abort();
    publish(s, coord);
    offer_to_lead(s, coord);
    sim_leader_start(s, coord);
    sim_step_start(s, coord);
    sim_rack_changed(s, coord);
    sim_coord_loop(s, coord);
    sim_after(s, sim_below(s, POLL_MS * 1000), EVENT_POLL, (int)coord, 0);
}

void sim_coord_stop(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    sim_step_stop(s, coord);
    sim_leader_stop(s, coord);
    membership_free(c->members);
    heat_free(c->heat);
    rack_placement_unref(c->assignment);
    rack_placement_unref(c->next);
    sim_rack_fini(&c->posted);
    memset(c, 0, sizeof(*c));
}
