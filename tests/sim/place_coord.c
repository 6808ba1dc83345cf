/* place_coord.c - a coordinator: the real leader and planner, and a stand-in
 * for what sends batches: links to nodes, and the placement in use. */
#include "tests/sim/place_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PING_MS 1000
#define LINK_SILENT_MS 3000

/* ---- its life ---- */

static const record_profile profile = {
    .version = 1, .activation = "a8", .rows = "f32"};

static void publish(place_sim *s, uint32_t coord) {
    const place_member *m = &s->members[coord];
    coordinator_record r = {.boot = m->boot,
                            .version = "1",
                            .protocol = 1,
                            .has_model = true,
                            .profile = profile};
    leader_record l = {.boot = m->boot};
    snprintf(l.name, sizeof(l.name), "%s", m->name);
    snprintf(r.client, sizeof(r.client), "tcp://10.0.0.%u:1", coord + 1);
    snprintf(r.weights, sizeof(r.weights), "tcp://10.0.0.%u:2", coord + 1);
    memcpy(r.model, s->model.model, RECORD_MODEL);
    place_member_want(s, coord, SLOT_RECORD, coordinator_record_pack(&r));
    place_member_want(s, coord, SLOT_LEADER, leader_record_pack(&l));
}

void place_coord_start(place_sim *s, uint32_t coord) {
    place_coord *c = &s->coords[coord];
    *c = (place_coord){.lag_ms = c->lag_ms};
    const leader_config config = {.name = s->members[coord].name,
                                  .profile = profile};
    if (leader_new(&c->machine, &config) < 0) abort();
    publish(s, coord);
    place_after(s, place_below(s, PING_MS), PLACE_PINGS, (int)coord, 0);
}

void place_coord_stop(place_sim *s, uint32_t coord) {
    place_coord *c = &s->coords[coord];
    leader_free(c->machine);
    rack_placement_unref(c->used);
    c->machine = NULL;
    c->used = NULL;
}

/* ---- leading ---- */

static void add_put(place_kv *kv, const char *key, void *value, size_t bytes) {
    snprintf(kv->key, sizeof(kv->key), "%s", key);
    kv->value = value;
    kv->bytes = bytes;
}

/* What registry_write_placement() sends.  Now and then the process is stopped
 * just before, and the request leaves when it is continued. */
static void write_step(place_sim *s, uint32_t coord, const leader_action *a) {
    const planner_step *step = a->step;
    place_request *r = place_memory(s, sizeof(*r));
    *r = (place_request){.kind = PLACE_STEP,
                         .member = coord,
                         .life = s->members[coord].life,
                         .term = a->term,
                         .expected = a->expected_revision,
                         .n_puts = step->n_layers + 1};
    r->puts = place_memory(s, r->n_puts * sizeof(*r->puts));
    for (uint32_t i = 0; i < step->n_layers; i++) {
        char key[32];
        uint8_t *packed;
        size_t bytes;
        if (layer_map_pack(&step->layers[i], &packed, &bytes) < 0) abort();
        void *kept = place_memory(s, bytes);
        memcpy(kept, packed, bytes);
        free(packed);
        snprintf(key, sizeof(key), "placement/layer/%u", step->numbers[i]);
        add_put(&r->puts[i], key, kept, bytes);
    }
    char *text = epoch_record_pack(&step->head);
    if (text == NULL) abort();
    size_t n = strlen(text);
    void *kept = place_memory(s, n);
    memcpy(kept, text, n);
    free(text);
    add_put(&r->puts[step->n_layers], "placement/epoch", kept, n);

    uint64_t stopped_ms = 0;
    if (place_chance(s, 6) && s->now_ms < s->faults_end_ms) {
        stopped_ms = 2000 + place_below(s, 10000);
        place_freeze(s, coord);
        place_after(s, stopped_ms, PLACE_FAULT_END, -1, PLACE_FAULTS + coord);
    }
    place_after(s, stopped_ms + place_below(s, 4), PLACE_REQUEST, -1, 0)
        ->request = r;
    place_after(s, stopped_ms + PLACE_TIMEOUT_MS, PLACE_TIMEOUT, (int)coord, 0)
        ->request = r;
}

void place_coord_wrote(place_sim *s, uint32_t coord, const place_request *r) {
    leader_outcome o = LEADER_NOT;
    if (r->outcome == SESSION_DONE) o = LEADER_DONE;
    if (r->outcome == SESSION_MAYBE) o = LEADER_UNKNOWN;
    if (o == LEADER_UNKNOWN) s->result->unknown++;
    leader_wrote(s->coords[coord].machine, s->now_ms, o);
}

static uint64_t lead(place_sim *s, uint32_t coord) {
    place_member *m = &s->members[coord];
    place_coord *c = &s->coords[coord];
    leader_picture p = {.view = m->listed ? m->view : NULL,
                        .term = session_term(m->session, s->now_ms),
                        .live_since_ms = m->live_since_ms,
                        .model = &s->model};
    if (p.term != c->term) {
        place_trace(s, "%s: term %lld", m->name, (long long)p.term);
        if (p.term != 0) s->result->terms++;
    }
    c->term = p.term;
    if (leader_look(c->machine, s->now_ms, &p) < 0) abort();
    for (;;) {
        leader_action a;
        int rc = leader_next(c->machine, s->now_ms, &a);
        if (rc < 0) place_fail(s, "%s cannot plan: %d", m->name, rc);
        if (a.kind == LEADER_WAIT) return a.wake_ms;
        if (a.kind == LEADER_THINK) {
            leader_job_run(a.job);
            rc = leader_thought(c->machine, s->now_ms, a.job);
            if (rc < 0) place_fail(s, "%s cannot plan: %d", m->name, rc);
        }
        if (a.kind == LEADER_WRITE) write_step(s, coord, &a);
        if (a.kind != LEADER_COMPACT) continue;
        place_request *r = place_memory(s, sizeof(*r));
        r->kind = PLACE_COMPACT;
        r->expected = a.revision;
        place_member_send(s, coord, r);
    }
}

/* ---- the placement in use ---- */

void place_coord_switch(place_sim *s, uint32_t coord) {
    place_coord *c = &s->coords[coord];
    const rack_placement *newest = rack_view_placement(s->members[coord].view);
    c->switching = false;
    if (newest == c->used) return;
    rack_placement_unref(c->used);
    c->used = rack_placement_ref(newest);
}

static void plan_switch(place_sim *s, uint32_t coord) {
    place_coord *c = &s->coords[coord];
    const place_member *m = &s->members[coord];
    if (c->switching || rack_view_placement(m->view) == c->used) return;
    c->switching = true;
    uint64_t ms = 1 + place_below(s, 60) + place_below(s, c->lag_ms + 1);
    place_after(s, ms, PLACE_SWITCH, (int)coord, 0);
}

uint64_t place_coord_act(place_sim *s, uint32_t coord) {
    uint64_t wake = place_member_act(s, coord);
    uint64_t lead_ms = lead(s, coord);
    plan_switch(s, coord);
    return lead_ms < wake ? lead_ms : wake;
}

/* ---- nodes ---- */

static bool knows(const place_sim *s, uint32_t coord, uint32_t node) {
    const place_member *m = &s->members[coord];
    const char *name = s->members[place_node_member(node)].name;
    const rack_placement *p = rack_view_placement(m->view);
    if (rack_view_node(m->view, name) != NULL) return true;
    return p != NULL && rack_placement_node(p, name) >= 0;
}

void place_coord_ping(place_sim *s, uint32_t coord) {
    place_coord *c = &s->coords[coord];
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        place_link *l = &c->links[i];
        if (l->up && s->now_ms > l->pong_ms + LINK_SILENT_MS) l->up = false;
        if (!knows(s, coord, i)) continue;
        place_message m = {
            .kind = l->up ? MESSAGE_PING : MESSAGE_HELLO,
            .boot = s->members[coord].boot,
            .epoch = c->used != NULL ? rack_placement_epoch(c->used) : 0};
        place_say(s, coord, place_node_member(i), &m);
    }
    place_after(s, PING_MS, PLACE_PINGS, (int)coord, 0);
}

void place_coord_message(place_sim *s, uint32_t coord, uint32_t node,
                         const place_message *m) {
    place_link *l = &s->coords[coord].links[node];
    if (m->kind == MESSAGE_WELCOME) {
        *l = (place_link){true, m->boot, m->version, s->now_ms, m->holds};
        return;
    }
    if (!l->up || m->boot != l->boot) {
        l->up = false;
        return;
    }
    l->pong_ms = s->now_ms;
    if (m->version == l->version) return;
    place_say(s, coord, place_node_member(node),
              &(place_message){.kind = MESSAGE_HELLO,
                               .boot = s->members[coord].boot});
}
