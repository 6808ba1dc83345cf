/* leader_desk.h - a leader machine, and the etcd that it looks at: for the
 * tests that include it. */
#ifndef TESTS_UNIT_LEADER_DESK_H
#define TESTS_UNIT_LEADER_DESK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/leader.h"
#include "engine/err.h"

#ifndef LAYERS
#define LAYERS 2
#endif
#ifndef EXPERTS
#define EXPERTS 6
#endif
#define TERM 5

/* A leader, and the etcd that it looks at. */
typedef struct {
    rack_view *view;
    leader *machine;
    planner_model model;
    uint32_t slices[LAYERS];
    uint64_t unit_bytes[LAYERS];
    int64_t revision, term;
    uint64_t now_ms, live_since_ms;
    uint64_t told_epoch;
    leader_action action;
    heat *heat; /* NULL: none is shown */
    uint32_t n_groups;
    bool no_balance;
} desk;

/* ---- etcd ---- */

static inline void put(desk *d, const char *key, const void *value,
                       size_t bytes) {
    char why[256] = "";
    d->revision++;
    int rc = rack_view_put(d->view, key, strlen(key), value, bytes, d->revision,
                           d->revision, why, sizeof(why));
    if (rc < 0) fail_msg("%s: %s", key, why);
}

static inline void put_text(desk *d, const char *key, char *text) {
    assert_non_null(text);
    put(d, key, text, strlen(text));
    free(text);
}

static inline node_record node_of(desk *d, const char *name) {
    node_record r = {
        .boot = 1000,
        .control = "tcp://127.0.0.1:9000",
        .memory_bytes = 100000,
        .cpu = "avx2",
        .version = "1",
        .threads = 2,
        .protocol = 1,
        .has_model = true,
        .profile = {.version = 1, .activation = "a8", .rows = "f32"}};
    snprintf(r.name, sizeof(r.name), "%s", name);
    memcpy(r.model, d->model.model, RECORD_MODEL);
    return r;
}

static inline void put_node(desk *d, const node_record *r) {
    char key[RECORD_KEY];
    snprintf(key, sizeof(key), "nodes/%s", r->name);
    put_text(d, key, node_record_pack(r));
}

static inline void join(desk *d, const char *name) {
    node_record r = node_of(d, name);
    put_node(d, &r);
}

static inline void leave(desk *d, const char *name) {
    char key[RECORD_KEY];
    d->revision++;
    snprintf(key, sizeof(key), "nodes/%s", name);
    rack_view_delete(d->view, key, strlen(key));
    snprintf(key, sizeof(key), "ready/%s", name);
    rack_view_delete(d->view, key, strlen(key));
}

static inline void settle_view(desk *d) {
    char why[256] = "";
    int rc = rack_view_settle(d->view, why, sizeof(why));
    if (rc < 0 && rc != ERR_FORMAT) fail_msg("%s", why);
}

/* A node says that it holds all that the placement gives it. */
static inline void report(desk *d, const char *name, uint64_t boot,
                          uint64_t digest) {
    const rack_placement *p = rack_view_placement(d->view);
    int32_t at = rack_placement_node(p, name);
    char key[RECORD_KEY];
    ready_record r = {.boot = boot,
                      .incarnation = rack_placement_head(p)->incarnation,
                      .epoch = rack_placement_head(p)->epoch,
                      .digest = digest ^
                                (at >= 0 ? rack_placement_digest(p, at) : 0)};
    snprintf(key, sizeof(key), "ready/%.127s", name);
    put_text(d, key, ready_record_pack(&r));
}

static inline void report_all(desk *d) {
    const epoch_record *head =
        rack_placement_head(rack_view_placement(d->view));
    char names[8][RECORD_NAME];
    uint32_t n = head->n_nodes;
    assert_in_range(n, 0, 8);
    for (uint32_t i = 0; i < n; i++)
        memcpy(names[i], head->nodes[i], RECORD_NAME);
    for (uint32_t i = 0; i < n; i++) {
        if (rack_view_node(d->view, names[i]) != NULL) {
            report(d, names[i], 1000, 0);
        }
    }
}

static inline void commit(desk *d, const planner_step *s) {
    char key[RECORD_KEY];
    for (uint32_t i = 0; i < s->n_layers; i++) {
        uint8_t *packed;
        size_t bytes;
        assert_int_equal(layer_map_pack(&s->layers[i], &packed, &bytes), 0);
        snprintf(key, sizeof(key), "placement/layer/%u", s->numbers[i]);
        put(d, key, packed, bytes);
        free(packed);
    }
    put_text(d, "placement/epoch", epoch_record_pack(&s->head));
    settle_view(d);
}

/* ---- the machine ---- */

static inline void look(desk *d) {
    leader_picture p = {.view = d->view,
                        .term = d->term,
                        .live_since_ms = d->live_since_ms,
                        .model = &d->model,
                        .heat = d->heat,
                        .n_groups = d->n_groups,
                        .told_epoch = d->told_epoch};
    assert_int_equal(leader_look(d->machine, d->now_ms, &p), 0);
}

/* Thoughts take no time here. */
static inline leader_kind next(desk *d) {
    for (;;) {
        assert_int_equal(leader_next(d->machine, d->now_ms, &d->action), 0);
        if (d->action.kind != LEADER_THINK) return d->action.kind;
        leader_job_run(d->action.job);
        assert_int_equal(leader_thought(d->machine, d->now_ms, d->action.job),
                         0);
    }
}

static inline void desk_init(desk *d, uint32_t min_replicas) {
    *d = (desk){.term = TERM, .now_ms = 100000, .live_since_ms = 100000};
    for (uint32_t l = 0; l < LAYERS; l++) {
        d->slices[l] = 1;
        d->unit_bytes[l] = 100;
    }
    d->model = (planner_model){.n_layers = LAYERS,
                               .n_experts = EXPERTS,
                               .slices = d->slices,
                               .unit_bytes = d->unit_bytes,
                               .max_slices = 1,
                               .min_replicas = min_replicas};
    d->model.model[3] = 9;
    assert_int_equal(rack_view_new(&d->view), 0);
    leader_config c = {
        .name = "first",
        .profile = {
            .version = 1, .activation = "a8", .rows = "f32", .kv = "f16"}};
    assert_int_equal(leader_new(&d->machine, &c), 0);
}

static inline void desk_fini(desk *d) {
    leader_free(d->machine);
    heat_free(d->heat);
    rack_view_free(d->view);
}

/* The write that is asked for works. */
static inline void write_it(desk *d) {
    assert_int_equal(next(d), LEADER_WRITE);
    commit(d, d->action.step);
    leader_wrote(d->machine, d->now_ms, LEADER_DONE);
    look(d);
}

/* Two nodes, all placed and reported. */
static inline void begin(desk *d, uint32_t min_replicas) {
    desk_init(d, min_replicas);
    join(d, "a");
    join(d, "b");
    look(d);
    d->now_ms += 1000;
    write_it(d);
    report_all(d);
    look(d);
    assert_int_equal(next(d), LEADER_WAIT);
}

static inline uint64_t units_of(const desk *d, const char *name) {
    const rack_placement *p = rack_view_placement(d->view);
    int32_t at = rack_placement_node(p, name);
    return at < 0 ? 0 : rack_placement_units(p, at);
}

#endif
