/* rack_rig.h - the nodes of a coordinator whose rack is described by etcd:
 * records, placements, and what nodes within the test answer. */
#ifndef TESTS_RACK_RIG_H
#define TESTS_RACK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "coordinator/nodes_internal.h"
#include "engine/util.h"
#include "tests/support/nodes_rig.h"
#include "tests/support/rack_feed.h"

#define BOOT NODES_RIG_BOOT

typedef struct {
    nodes_rig *r;
    rack_feed feed;
    uint32_t n_named;      /* nodes of placements: 2 */
    uint32_t min_replicas; /* of placements: 1 */
} rack_rig;

static inline void open_rack(rack_rig *a, uint32_t slices) {
    a->r = nodes_rig_open_registered(slices);
    rack_feed_open(&a->feed);
    a->n_named = 2;
    a->min_replicas = 1;
}

static inline void close_rack(rack_rig *a) {
    rack_feed_close(&a->feed);
    nodes_rig_close(a->r);
}

static inline void take_up(rack_rig *a) {
    rack_feed_settle(&a->feed);
    assert_int_equal(
        nodes_set(a->r->nodes, a->feed.view, rack_view_placement(a->feed.view)),
        0);
}

static inline void feed_one(rack_rig *a, const char *name,
                            const scripted_node *n) {
    rack_feed_node(&a->feed, name, BOOT, link_endpoint(n->link));
}

/* ---- placements ---- */

static inline uint32_t all_on_first(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 1;
}

static inline uint32_t even_on_first(uint32_t layer, uint32_t unit) {
    (void)layer;
    return unit % 2 == 0 ? 1 : 2;
}

static inline void feed_placement(rack_rig *a, uint64_t epoch,
                                  uint32_t (*on)(uint32_t layer,
                                                 uint32_t unit)) {
    static const char *const names[] = {"one", "two", "three"};
    const model_config *m = &a->r->model->config;
    rack_feed_plan p = {.epoch = epoch,
                        .n_layers = m->n_layers,
                        .n_experts = m->n_experts,
                        .max_slices = a->r->cut.max_slices,
                        .slices = a->r->cut.slices,
                        .nodes = names,
                        .n_nodes = a->n_named,
                        .min_replicas = a->min_replicas,
                        .on = on};
    rack_feed_placement(&a->feed, &p);
}

/* ---- a node's part ---- */

static inline void answer_hello(rack_rig *a, scripted_node *n, const char *name,
                                uint64_t boot) {
    nodes_rig_take(a->r, n, MESSAGE_HELLO);
    message m = nodes_rig_welcome(a->r);
    m.welcome.name = name;
    m.boot_id = boot;
    nodes_rig_send(n, &m);
}

static inline void come_up(rack_rig *a, scripted_node *n, const char *name,
                           uint64_t boot) {
    answer_hello(a, n, name, boot);
    for (int i = 0; i < 2; i++)
        nodes_rig_pong(a->r, n, boot, 0); /* it was taken in */
}

static inline uint64_t unheld(const rack_rig *a) {
    nodes_health h;
    nodes_look(a->r->nodes, &h);
    return h.unheld;
}

#endif
