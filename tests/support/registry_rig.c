/* registry_rig.c - see registry_rig.h. */
#include "tests/support/registry_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include "engine/util.h"

static void on_change(void *ctx) {
    registry_rig *g = ctx;
    g->changes++;
}

void registry_rig_open(registry_rig *g, const char *const *endpoints, size_t n,
                       registry_role role, const char *name, uint32_t ttl_s) {
    char why[512] = "";
    memset(g, 0, sizeof(*g));
    assert_int_equal(uv_loop_init(&g->loop), 0);
    g->boot = random_boot_id();
    g->role = role;
    snprintf(g->name, sizeof(g->name), "%s", name);
    const registry_config c = {
        .loop = &g->loop,
        .etcd = {.endpoints = endpoints, .n_endpoints = n},
        .cluster = "test",
        .name = g->name,
        .role = role,
        .boot = g->boot,
        .ttl_s = ttl_s,
        .on_change = on_change,
        .ctx = g,
    };
    if (registry_open(&g->registry, &c, why, sizeof(why)) < 0) {
        fail_msg("registry_open: %s", why);
    }
}

static const record_profile rig_profile = {
    .version = 1, .activation = "a8", .rows = "f32"};

void registry_rig_publish(registry_rig *g, int port) {
    node_record n = {.boot = g->boot, .protocol = 1, .profile = rig_profile};
    coordinator_record c = {
        .boot = g->boot, .protocol = 1, .profile = rig_profile};
    snprintf(n.control, sizeof(n.control), "tcp://127.0.0.1:%d", port);
    strcpy(c.client, n.control);
    int rc = g->role == REGISTRY_NODE
                 ? registry_set_node(g->registry, &n)
                 : registry_set_coordinator(g->registry, &c);
    assert_int_equal(rc, 0);
}

void registry_rig_until(registry_rig *const *rigs, size_t n,
                        bool (*holds)(void *ctx), void *ctx) {
    uint64_t end = now_ms() + REGISTRY_RIG_PATIENCE_S * 1000;
    while (!holds(ctx)) {
        for (size_t i = 0; i < n; i++)
            uv_run(&rigs[i]->loop, UV_RUN_NOWAIT);
        if (now_ms() > end) fail_msg("waited %d s", REGISTRY_RIG_PATIENCE_S);
        poll(NULL, 0, 1);
    }
}

static void on_closed(void *ctx) {
    registry_rig *g = ctx;
    g->closed = true;
    g->registry = NULL;
}

static bool is_closed(void *ctx) {
    return ((registry_rig *)ctx)->closed;
}

void registry_rig_close(registry_rig *g) {
    if (g->registry == NULL) return;
    registry_close(g->registry, on_closed, g);
    registry_rig_until(&g, 1, is_closed, g);
    assert_int_equal(uv_loop_close(&g->loop), 0); /* nothing is left in it */
}

/* ---- conditions ---- */

bool registry_rig_says(const registry_rig *g, const char *member) {
    json_t *status = registry_status(g->registry);
    assert_non_null(status);
    json_t *value = json_object_get(status, member);
    assert_non_null(value);
    bool says = json_is_true(value);
    json_decref(status);
    return says;
}

bool registry_rig_live(void *rig) {
    const registry_rig *g = rig;
    return registry_live_since(g->registry) != 0;
}

bool registry_rig_away(void *rig) {
    return !registry_rig_live(rig);
}

bool registry_rig_registered(void *rig) {
    return registry_rig_says(rig, "registered");
}

bool registry_rig_leads(void *rig) {
    const registry_rig *g = rig;
    return registry_term(g->registry) != 0;
}

bool registry_rig_name_taken(void *rig) {
    return registry_rig_says(rig, "name_taken");
}

bool registry_rig_done(void *rig) {
    return ((registry_rig *)rig)->done;
}

void registry_rig_on_done(void *rig, etcd_code code, const char *why,
                          int64_t revision) {
    registry_rig *g = rig;
    (void)why;
    g->done = true;
    g->code = code;
    g->revision = revision;
}
