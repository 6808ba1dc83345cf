/* rack_feed.c - see rack_feed.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/profile.h"
#include "tests/support/rack_feed.h"

void rack_feed_open(rack_feed *f) {
    *f = (rack_feed){.revision = 10};
    assert_int_equal(rack_view_new(&f->view), 0);
}

void rack_feed_close(rack_feed *f) {
    rack_view_free(f->view);
}

static void make_key(const char *folder, const char *name,
                     char key[2 * RECORD_NAME]) {
    snprintf(key, 2 * RECORD_NAME, "%s%s%s", folder, name[0] != '\0' ? "/" : "",
             name);
}

static void put(rack_feed *f, const char *folder, const char *name,
                const void *value, size_t bytes) {
    char key[2 * RECORD_NAME], why[200] = "";
    make_key(folder, name, key);
    f->revision++;
    int rc = rack_view_put(f->view, key, strlen(key), value, bytes, f->revision,
                           f->revision, why, sizeof(why));
    if (rc < 0) fail_msg("%s: %s", key, why);
}

/* Takes `text`. */
static void put_text(rack_feed *f, const char *folder, const char *name,
                     char *text) {
    assert_non_null(text);
    put(f, folder, name, text, strlen(text));
    free(text);
}

static const record_profile some_profile = {
    PROFILE_VERSION, "a8", "f32", "", "", ""};

void rack_feed_node(rack_feed *f, const char *name, uint64_t boot,
                    const char *control) {
    node_record r = {.boot = boot,
                     .memory_bytes = 1 << 30,
                     .protocol = 1,
                     .profile = some_profile};
    snprintf(r.control, sizeof(r.control), "%s", control);
    snprintf(r.zone, sizeof(r.zone), "left");
    put_text(f, "nodes", name, node_record_pack(&r));
}

static void gone(rack_feed *f, const char *folder, const char *name) {
    char key[2 * RECORD_NAME];
    make_key(folder, name, key);
    f->revision++;
    rack_view_delete(f->view, key, strlen(key));
}

void rack_feed_node_gone(rack_feed *f, const char *name) {
    gone(f, "nodes", name);
}

void rack_feed_ready(rack_feed *f, const char *name, uint64_t boot) {
    const rack_placement *p = rack_view_placement(f->view);
    const epoch_record *head = rack_placement_head(p);
    int32_t place = rack_placement_node(p, name);
    ready_record r = {.boot = boot,
                      .incarnation = head->incarnation,
                      .epoch = head->epoch,
                      .digest =
                          place >= 0 ? rack_placement_digest(p, place) : 0};
    put_text(f, "ready", name, ready_record_pack(&r));
}

void rack_feed_coordinator(rack_feed *f, const char *name, uint64_t boot) {
    coordinator_record r = {.boot = boot,
                            .client = "tcp://127.0.0.1:7100",
                            .weights = "tcp://127.0.0.1:7200",
                            .protocol = 1,
                            .profile = some_profile};
    put_text(f, "coordinators", name, coordinator_record_pack(&r));
}

void rack_feed_drain(rack_feed *f, const char *name) {
    drain_record r = {.by = "test", .at = "2026-01-01T00:00:00Z"};
    put_text(f, "drain", name, drain_record_pack(&r));
}

void rack_feed_drain_gone(rack_feed *f, const char *name) {
    gone(f, "drain", name);
}

void rack_feed_leader(rack_feed *f, const char *name, uint64_t boot) {
    leader_record r = {.boot = boot};
    snprintf(r.name, sizeof(r.name), "%s", name);
    put_text(f, "leader", "", leader_record_pack(&r));
}

static void put_layer(rack_feed *f, const rack_feed_plan *p, uint32_t layer) {
    uint32_t n_units = p->n_experts * p->slices[layer], n = 0;
    uint8_t *bytes;
    size_t size;
    char name[32];
    layer_map m;
    assert_int_equal(
        layer_map_init(&m, p->slices[layer], n_units, n_units * p->n_nodes), 0);
    for (uint32_t unit = 0; unit < n_units; unit++) {
        m.first[unit] = n;
        for (uint32_t i = 0; i < p->n_nodes; i++) {
            if ((p->on(layer, unit) >> i & 1) == 0) continue;
            m.holders[n++] = (uint16_t)i;
        }
    }
    m.first[n_units] = n;
    assert_int_equal(layer_map_pack(&m, &bytes, &size), 0);
    snprintf(name, sizeof(name), "%u", layer);
    put(f, "placement/layer", name, bytes, size);
    free(bytes);
    layer_map_fini(&m);
}

void rack_feed_placement(rack_feed *f, const rack_feed_plan *p) {
    char nodes[32][RECORD_NAME];
    assert_true(p->n_nodes <= 32);
    for (uint32_t i = 0; i < p->n_nodes; i++)
        snprintf(nodes[i], sizeof(nodes[i]), "%s", p->nodes[i]);
    epoch_record r = {.incarnation = p->incarnation > 0 ? p->incarnation : 1,
                      .epoch = p->epoch,
                      .n_layers = p->n_layers,
                      .n_experts = p->n_experts,
                      .slices = p->max_slices,
                      .min_replicas = p->min_replicas > 0 ? p->min_replicas : 1,
                      .nodes = nodes,
                      .n_nodes = p->n_nodes,
                      .writer = "test",
                      .term = 1};
    memcpy(r.model, p->model, sizeof(r.model));
    for (uint32_t l = 0; l < p->n_layers; l++) {
        if (p->slices[l] > 0) put_layer(f, p, l);
    }
    put_text(f, "placement", "epoch", epoch_record_pack(&r));
}

void rack_feed_step(rack_feed *f, const epoch_record *head,
                    const uint32_t *numbers, const layer_map *const *layers,
                    uint32_t n_layers) {
    for (uint32_t i = 0; i < n_layers; i++) {
        uint8_t *bytes;
        size_t size;
        char name[32];
        assert_int_equal(layer_map_pack(layers[i], &bytes, &size), 0);
        snprintf(name, sizeof(name), "%u", numbers[i]);
        put(f, "placement/layer", name, bytes, size);
        free(bytes);
    }
    put_text(f, "placement", "epoch", epoch_record_pack(head));
}

void rack_feed_settle(rack_feed *f) {
    char why[200] = "";
    if (rack_view_settle(f->view, why, sizeof(why)) < 0) fail_msg("%s", why);
}
