/* test_planner.c - placements of small racks, step by step, and of random ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/planner.h"
#include "discovery/rack_placement.h"
#include "engine/err.h"
#include "engine/util.h"

#define NODES 24
#define LAYERS 128

/* A rack whose nodes load at once when the test says so. */
typedef struct {
    planner_model model;
    uint32_t slices[LAYERS];
    uint64_t unit_bytes[LAYERS];
    rack_placement *now;
    char names[NODES][RECORD_NAME];
    planner_node nodes[NODES]; /* kept in the order of their names */
    uint32_t n_nodes;
} rack;

static void rack_init(rack *r, uint32_t n_layers, uint32_t n_experts,
                      uint32_t slices, uint32_t min_replicas) {
    memset(r, 0, sizeof(*r));
    for (uint32_t l = 0; l < n_layers; l++) {
        r->slices[l] = slices;
        r->unit_bytes[l] = 100;
    }
    r->model = (planner_model){.n_layers = n_layers,
                               .n_experts = n_experts,
                               .slices = r->slices,
                               .unit_bytes = r->unit_bytes,
                               .max_slices = slices,
                               .min_replicas = min_replicas};
    r->model.model[0] = 7;
}

static void rack_fini(rack *r) {
    rack_placement_unref(r->now);
    r->now = NULL;
}

static planner_node *node_named(rack *r, const char *name) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (strcmp(r->nodes[i].name, name) == 0) return &r->nodes[i];
    }
    return NULL;
}

/* A live node with room for `units` units of 100 bytes. */
static planner_node *join(rack *r, const char *name, uint64_t units) {
    planner_node *n = node_named(r, name);
    if (n == NULL) {
        assert_true(r->n_nodes < NODES);
        uint32_t at = r->n_nodes++;
        while (at > 0 && strcmp(r->names[at - 1], name) > 0) {
            memcpy(r->names[at], r->names[at - 1], RECORD_NAME);
            r->nodes[at] = r->nodes[at - 1];
            r->nodes[at].name = r->names[at];
            at--;
        }
        snprintf(r->names[at], RECORD_NAME, "%s", name);
        n = &r->nodes[at];
        *n = (planner_node){.name = r->names[at]};
    }
    n->live = true;
    n->missing = n->draining = false;
    n->memory_bytes = units * 100;
    n->ready_epoch = 0;
    return n;
}

static planner_input input_of(const rack *r) {
    return (planner_input){.model = &r->model,
                           .now = r->now,
                           .nodes = r->nodes,
                           .n_nodes = r->n_nodes,
                           .incarnation = 1};
}

static shared_layer *share_layer(const layer_map *m) {
    uint8_t *packed;
    size_t bytes;
    shared_layer *l;
    char why[256] = "";
    assert_int_equal(layer_map_pack(m, &packed, &bytes), 0);
    int rc = shared_layer_unpack(&l, packed, bytes, why, sizeof(why));
    if (rc < 0) fail_msg("%s", why);
    free(packed);
    return l;
}

/* As etcd and a view would do it. */
static void apply(rack *r, const planner_step *step) {
    shared_layer *layers[LAYERS] = {0};
    rack_placement *next;
    char why[256] = "";

    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        const layer_map *old =
            r->now != NULL ? rack_placement_layer(r->now, l) : NULL;
        for (uint32_t i = 0; i < step->n_layers; i++) {
            if (step->numbers[i] == l) old = &step->layers[i];
        }
        if (old != NULL) layers[l] = share_layer(old);
    }
    int rc = rack_placement_new(&next, &step->head, layers, why, sizeof(why));
    if (rc < 0) fail_msg("%s", why);
    for (uint32_t l = 0; l < LAYERS; l++)
        shared_layer_unref(layers[l]);
    rack_placement_unref(r->now);
    r->now = next;
}

/* Take one step; how many holders came and went.  false: there was none. */
static bool take_step(rack *r, uint64_t *added, uint64_t *removed) {
    planner_input in = input_of(r);
    planner_step step;
    assert_int_equal(planner_next(&in, &step), 0);
    bool any = step.n_layers > 0;
    if (added != NULL) *added = step.added;
    if (removed != NULL) *removed = step.removed;
    if (any) apply(r, &step);
    planner_step_fini(&step);
    return any;
}

static void all_ready(rack *r) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (r->nodes[i].live && r->now != NULL) {
            r->nodes[i].ready_epoch = rack_placement_epoch(r->now);
        }
    }
}

/* Until nothing is left to do, with nodes that are quick. */
static uint32_t settle(rack *r) {
    uint32_t steps = 0;
    all_ready(r);
    while (take_step(r, NULL, NULL)) {
        all_ready(r);
        if (++steps > 200) fail_msg("it does not come to rest");
    }
    return steps;
}

static uint64_t units_of(const rack *r, const char *name) {
    int32_t at = r->now != NULL ? rack_placement_node(r->now, name) : -1;
    return at < 0 ? 0 : rack_placement_units(r->now, at);
}

static uint32_t holders_of(const rack *r, uint32_t layer, uint32_t unit) {
    uint32_t n;
    layer_map_holders(rack_placement_layer(r->now, layer), unit, &n);
    return n;
}

static bool holds(const rack *r, const char *name, uint32_t layer,
                  uint32_t unit) {
    int32_t at = rack_placement_node(r->now, name);
    return at >= 0 && rack_placement_assigns(r->now, at, layer, unit);
}

static void count_holders(const rack *r, uint32_t *least, uint32_t *most) {
    *least = UINT32_MAX;
    *most = 0;
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(r->now, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            uint32_t n = holders_of(r, l, u);
            if (n < *least) *least = n;
            if (n > *most) *most = n;
        }
    }
}

static void expect_holders(const rack *r, uint32_t least, uint32_t most) {
    uint32_t low, high;
    count_holders(r, &low, &high);
    assert_int_equal(low, least);
    assert_int_equal(high, most);
}

/* ---- first placements ---- */

static void holds_every_unit_as_often_as_wanted(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 3, 8, 1, 2);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);

    assert_int_equal(settle(&r), 1);
    expect_holders(&r, 2, 2);
    assert_int_equal(units_of(&r, "a"), 16);
    assert_int_equal(units_of(&r, "b"), 16);
    assert_int_equal(units_of(&r, "c"), 16);
    assert_int_equal(rack_placement_epoch(r.now), epoch_pack(1, 1));
    rack_fini(&r);
}

static void leaves_dense_layers_alone(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 3, 8, 1, 1);
    r.slices[1] = 0;
    join(&r, "a", 100);
    settle(&r);
    assert_null(rack_placement_layer(r.now, 1));
    assert_int_equal(units_of(&r, "a"), 16);
    rack_fini(&r);
}

static void does_nothing_without_nodes(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 3, 8, 1, 2);
    assert_false(take_step(&r, NULL, NULL));
    join(&r, "a", 0);
    assert_false(take_step(&r, NULL, NULL));
    rack_fini(&r);
}

static void shares_out_by_memory(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 4, 30, 1, 1);
    join(&r, "big", 400);
    join(&r, "mid", 200);
    join(&r, "small", 100);
    settle(&r);
    assert_in_range(units_of(&r, "big"), 66, 71); /* of 120 */
    assert_in_range(units_of(&r, "mid"), 33, 36);
    assert_in_range(units_of(&r, "small"), 16, 19);
    rack_fini(&r);
}

static void spreads_each_layer_over_the_nodes(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 5, 16, 1, 1);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);
    join(&r, "d", 100);
    settle(&r);
    for (uint32_t l = 0; l < 5; l++) {
        for (uint32_t i = 0; i < r.n_nodes; i++) {
            uint32_t n = 0;
            for (uint32_t u = 0; u < 16; u++)
                n += holds(&r, r.names[i], l, u);
            assert_in_range(n, 3, 5);
        }
    }
    rack_fini(&r);
}

/* A node whose share of a layer is less than one unit gets some of some layers.
 */
static void gives_small_shares_too(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 20, 4, 1, 1);
    join(&r, "big", 900);
    join(&r, "small", 100);
    settle(&r);
    assert_in_range(units_of(&r, "small"), 6, 10); /* 8 of 80 */
    rack_fini(&r);
}

static void spreads_the_slices_of_an_expert(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 8, 4, 1);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);
    join(&r, "d", 100);
    settle(&r);
    uint32_t together = 0;
    for (uint32_t l = 0; l < 2; l++) {
        for (uint32_t e = 0; e < 8; e++) {
            for (uint32_t i = 0; i < r.n_nodes; i++) {
                uint32_t n = 0;
                for (uint32_t s = 0; s < 4; s++)
                    n += holds(&r, r.names[i], l, e * 4 + s);
                if (n > 1) together += n - 1;
            }
        }
    }
    assert_in_range(together, 0, 6); /* of 64; by chance it would be 20 */
    rack_fini(&r);
}

static void gives_everybody_one_before_anybody_gets_two(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 10, 1, 2);
    join(&r, "a", 15);
    join(&r, "b", 15);
    settle(&r);
    expect_holders(&r, 1, 2);
    /* each keeps room for one unit, so that something can move */
    assert_int_equal(units_of(&r, "a") + units_of(&r, "b"), 28);
    rack_fini(&r);
}

static void fills_memory_that_is_just_enough(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 3, 6, 1, 2);
    join(&r, "a", 18);
    join(&r, "b", 18);
    settle(&r);
    expect_holders(&r, 2, 2);
    rack_fini(&r);

    rack_init(&r, 3, 3, 1, 1);
    join(&r, "a", 5);
    join(&r, "b", 4);
    settle(&r);
    expect_holders(&r, 1, 1);
    rack_fini(&r);
}

static void places_what_fits_where_memory_is_short(void **state) {
    rack r;
    planner_health h;
    (void)state;
    rack_init(&r, 2, 10, 1, 2);
    join(&r, "a", 7);
    join(&r, "b", 5);
    settle(&r);
    planner_input in = input_of(&r);
    planner_look(&in, &h);
    assert_int_equal(h.units, 20);
    assert_int_equal(h.unplaced, 8);
    assert_int_equal(h.single, 12);
    rack_fini(&r);
}

/* ---- changes ---- */

static void gives_a_joined_node_its_share(void **state) {
    rack r;
    uint64_t added, removed;
    (void)state;
    rack_init(&r, 4, 12, 1, 2);
    join(&r, "a", 100);
    join(&r, "b", 100);
    settle(&r); /* 48 each */
    join(&r, "c", 100);

    assert_true(take_step(&r, &added, &removed));
    assert_in_range(added, 30, 33); /* 32, and nothing moves without need */
    assert_int_equal(removed, 0);
    assert_int_equal(units_of(&r, "c"), added);
    /* c has not loaded yet: what it will take over stays */
    assert_false(take_step(&r, NULL, NULL));
    node_named(&r, "a")->ready_epoch = rack_placement_epoch(r.now);
    node_named(&r, "b")->ready_epoch = rack_placement_epoch(r.now);
    assert_false(take_step(&r, NULL, NULL));
    all_ready(&r);
    uint64_t given = added;
    assert_true(take_step(&r, &added, &removed));
    assert_int_equal(added, 0);
    assert_int_equal(removed, given);
    all_ready(&r);
    assert_false(take_step(&r, NULL, NULL));
    expect_holders(&r, 2, 2);
    assert_in_range(units_of(&r, "a"), 31, 33);
    assert_in_range(units_of(&r, "b"), 31, 33);
    rack_fini(&r);
}

static void ignores_small_changes_of_memory(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 10, 64, 1, 2);
    join(&r, "a", 1000);
    join(&r, "b", 1000);
    join(&r, "c", 1000);
    join(&r, "d", 1000);
    settle(&r);
    node_named(&r, "b")->memory_bytes = 97000;
    node_named(&r, "c")->memory_bytes = 103000;
    all_ready(&r);
    assert_false(take_step(&r, NULL, NULL));
    rack_fini(&r);
}

static void waits_for_a_node_that_restarts(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 4, 12, 1, 2);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);
    settle(&r);
    planner_node *b = node_named(&r, "b");
    b->live = false;
    b->missing = true;
    b->memory_bytes = 0;
    b->ready_epoch = 0;
    assert_false(take_step(&r, NULL, NULL));
    join(&r, "b", 100); /* back, with nothing loaded */
    assert_false(take_step(&r, NULL, NULL));
    all_ready(&r);
    assert_false(take_step(&r, NULL, NULL));
    rack_fini(&r);
}

static void replaces_a_node_that_is_gone(void **state) {
    rack r;
    uint64_t added, removed;
    (void)state;
    rack_init(&r, 4, 12, 1, 2);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);
    settle(&r);
    uint64_t lost = units_of(&r, "b");
    node_named(&r, "b")->live = false;

    assert_true(take_step(&r, &added, &removed));
    assert_int_equal(added, lost);
    assert_int_equal(removed, lost); /* the others are ready */
    settle(&r);
    expect_holders(&r, 2, 2);
    assert_int_equal(units_of(&r, "b"), 0);
    assert_int_equal(units_of(&r, "a"), 48);
    rack_fini(&r);
}

/* It may be alive and only cut off from etcd; then it still serves. */
static void names_a_gone_holder_until_another_is_ready(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 1, 6, 1, 1);
    join(&r, "a", 10);
    join(&r, "b", 10);
    settle(&r);
    assert_int_equal(units_of(&r, "b"), 3);
    node_named(&r, "b")->live = false;

    assert_true(take_step(&r, NULL, NULL));
    assert_int_equal(units_of(&r, "b"), 3);
    assert_int_equal(units_of(&r, "a"), 6);
    all_ready(&r);
    assert_true(take_step(&r, NULL, NULL));
    assert_int_equal(units_of(&r, "b"), 0);
    rack_fini(&r);
}

static void drains_a_node(void **state) {
    rack r;
    uint64_t added, removed;
    (void)state;
    rack_init(&r, 4, 12, 1, 2);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);
    settle(&r);
    uint64_t held = units_of(&r, "c");
    node_named(&r, "c")->draining = true;

    assert_true(take_step(&r, &added, &removed));
    assert_int_equal(added, held);
    assert_int_equal(removed, 0);
    assert_int_equal(units_of(&r, "c"), held);
    all_ready(&r);
    assert_true(take_step(&r, &added, &removed));
    assert_int_equal(removed, held);
    assert_int_equal(units_of(&r, "c"), 0);
    expect_holders(&r, 2, 2);
    all_ready(&r);
    assert_false(take_step(&r, NULL, NULL));

    node_named(&r, "c")->draining = false; /* undone: it gets its share again */
    settle(&r);
    assert_in_range(units_of(&r, "c"), 31, 33);
    rack_fini(&r);
}

/* With two nodes and two replicas, one node has to be enough. */
static void drains_the_last_but_one(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 8, 1, 2);
    join(&r, "a", 100);
    join(&r, "b", 100);
    settle(&r);
    node_named(&r, "b")->draining = true;
    settle(&r);
    assert_int_equal(units_of(&r, "a"), 16);
    assert_int_equal(units_of(&r, "b"), 0);
    node_named(&r, "a")->draining = true; /* nobody is left */
    assert_int_equal(settle(&r), 0);
    assert_int_equal(units_of(&r, "a"), 16);
    rack_fini(&r);
}

static void drains_into_the_place_of_second_copies(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 8, 1, 2);
    join(&r, "a", 12);
    join(&r, "b", 12);
    join(&r, "c", 12);
    settle(&r);
    node_named(&r, "c")->draining = true;
    settle(&r);
    assert_int_equal(units_of(&r, "c"), 0);
    expect_holders(&r, 1, 2);
    rack_fini(&r);
}

static void does_not_drain_what_fits_nowhere_else(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 1, 10, 1, 1);
    join(&r, "a", 6);
    join(&r, "b", 6);
    settle(&r);
    node_named(&r, "b")->draining = true;
    settle(&r);
    assert_int_equal(units_of(&r, "a"), 6);
    assert_int_equal(units_of(&r, "b"), 4);
    expect_holders(&r, 1, 1);
    rack_fini(&r);
}

static void takes_second_copies_back_for_units_without_any(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 10, 1, 2);
    join(&r, "a", 14);
    join(&r, "b", 14);
    join(&r, "c", 14);
    settle(&r);
    node_named(&r, "a")->live = false;
    settle(&r);
    expect_holders(&r, 1, 2);
    assert_int_equal(units_of(&r, "a"), 0);
    rack_fini(&r);
}

static void sheds_what_a_smaller_offer_does_not_hold(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 10, 1, 1);
    join(&r, "a", 20);
    join(&r, "b", 20);
    settle(&r);
    assert_int_equal(units_of(&r, "a"), 10);
    node_named(&r, "a")->memory_bytes = 400;
    settle(&r);
    assert_int_equal(units_of(&r, "a"), 4);
    assert_int_equal(units_of(&r, "b"), 16);
    expect_holders(&r, 1, 1);
    rack_fini(&r);
}

static void gives_the_place_of_a_gone_node_to_another(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 8, 1, 1);
    join(&r, "a", 100);
    join(&r, "b", 100);
    settle(&r);
    int32_t place = rack_placement_node(r.now, "a");
    node_named(&r, "a")->live = false;
    settle(&r);
    join(&r, "c", 100);
    settle(&r);
    assert_int_equal(rack_placement_node(r.now, "a"), -1);
    assert_int_equal(rack_placement_node(r.now, "c"), place);
    assert_int_equal(rack_placement_head(r.now)->n_nodes, 2);
    rack_fini(&r);
}

static void raises_the_number_of_replicas(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 2, 9, 1, 1);
    join(&r, "a", 100);
    join(&r, "b", 100);
    join(&r, "c", 100);
    settle(&r);
    r.model.min_replicas = 3;
    settle(&r);
    expect_holders(&r, 3, 3);
    r.model.min_replicas = 2;
    settle(&r);
    expect_holders(&r, 2, 2);
    assert_in_range(units_of(&r, "a"), 11, 13);
    rack_fini(&r);
}

static void writes_large_models_in_several_steps(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 120, 4, 1, 1);
    join(&r, "a", 1000);
    join(&r, "b", 1000);
    planner_input in = input_of(&r);
    planner_step step;
    assert_int_equal(planner_next(&in, &step), 0);
    assert_int_equal(step.n_layers, PLANNER_STEP_LAYERS);
    assert_true(step.more);
    apply(&r, &step);
    planner_step_fini(&step);

    /* the second does not wait for what the first one gave */
    in = input_of(&r);
    assert_int_equal(planner_next(&in, &step), 0);
    assert_int_equal(step.n_layers, 20);
    assert_false(step.more);
    apply(&r, &step);
    planner_step_fini(&step);
    assert_int_equal(settle(&r), 0);
    expect_holders(&r, 1, 1);
    rack_fini(&r);
}

static void refuses_a_placement_of_another_model(void **state) {
    rack r;
    planner_step step;
    (void)state;
    rack_init(&r, 2, 8, 2, 1);
    join(&r, "a", 100);
    settle(&r);
    planner_input in = input_of(&r);
    r.model.model[0]++;
    assert_int_equal(planner_next(&in, &step), ERR_WRONG_MODEL);
    r.model.model[0]--;
    r.slices[1] = 4;
    assert_int_equal(planner_next(&in, &step), ERR_WRONG_MODEL);
    r.slices[1] = 2;
    r.model.n_experts = 9;
    assert_int_equal(planner_next(&in, &step), ERR_WRONG_MODEL);
    r.model.n_experts = 8;
    r.model.min_replicas = PLANNER_MAX_REPLICAS + 1;
    assert_int_equal(planner_next(&in, &step), ERR_RANGE);
    rack_fini(&r);
}

/* ---- health ---- */

static void says_whose_loss_would_be_felt(void **state) {
    rack r;
    planner_health h;
    (void)state;
    rack_init(&r, 2, 8, 1, 2);
    planner_input in = input_of(&r);
    planner_look(&in, &h);
    assert_int_equal(h.unplaced, 16);
    assert_false(h.survives_largest);

    join(&r, "a", 100);
    join(&r, "b", 100);
    settle(&r);
    in = input_of(&r);
    planner_look(&in, &h);
    assert_true(h.survives_largest);
    assert_int_equal(h.moving + h.unplaced + h.single + h.lost_units, 0);
    assert_string_equal(h.weakest, "");

    node_named(&r, "a")->ready_epoch = 0; /* restarted */
    planner_look(&in, &h);
    assert_false(h.survives_largest);
    assert_string_equal(h.weakest, "b");
    assert_int_equal(h.lost_units, 16);
    assert_int_equal(h.moving, 16);

    node_named(&r, "a")->live = false;
    planner_look(&in, &h);
    assert_int_equal(h.single, 16);
    assert_int_equal(h.moving, 0);
    rack_fini(&r);
}

/* ---- random racks ---- */

static uint64_t seed;

static uint64_t below(uint64_t n) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
}

static uint64_t assigned_bytes(const rack *r, const char *name) {
    int32_t at = rack_placement_node(r->now, name);
    uint64_t bytes = 0;
    for (uint32_t l = 0; at >= 0 && l < r->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(r->now, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            if (rack_placement_assigns(r->now, at, l, u)) {
                bytes += r->unit_bytes[l];
            }
        }
    }
    return bytes;
}

/* Holders that could serve a unit. */
static uint32_t servers(rack *r, const rack_placement *p, uint32_t layer,
                        uint32_t unit, uint64_t epoch) {
    const layer_map *m = rack_placement_layer(p, layer);
    uint32_t n, ready = 0;
    if (m == NULL) return 0;
    const uint16_t *holders = layer_map_holders(m, unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        const char *name = rack_placement_head(p)->nodes[holders[i]];
        const planner_node *node = node_named(r, name);
        if (node->live && node->ready_epoch >= epoch) ready++;
    }
    return ready;
}

/* One step, and what must hold of any. */
static bool checked_step(rack *r) {
    uint64_t before[NODES] = {0};
    rack_placement *old = r->now != NULL ? rack_placement_ref(r->now) : NULL;
    uint64_t epoch = old != NULL ? rack_placement_epoch(old) : 0;
    for (uint32_t i = 0; old != NULL && i < r->n_nodes; i++)
        before[i] = assigned_bytes(r, r->names[i]);
    if (!take_step(r, NULL, NULL)) {
        rack_placement_unref(old);
        return false;
    }
    assert_int_equal(rack_placement_epoch(r->now) & 0xffffffff,
                     (epoch & 0xffffffff) + 1);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        uint64_t bytes = assigned_bytes(r, r->names[i]);
        if (bytes <= before[i]) continue;
        assert_true(r->nodes[i].live && !r->nodes[i].draining);
        assert_true(bytes <= r->nodes[i].memory_bytes);
    }
    for (uint32_t l = 0; old != NULL && l < r->model.n_layers; l++) {
        const layer_map *m = rack_placement_layer(old, l);
        for (uint32_t u = 0; m != NULL && u < m->n_units; u++) {
            uint32_t could = servers(r, old, l, u, epoch);
            uint32_t can = servers(r, r->now, l, u, epoch);
            if (could > 0) assert_true(can > 0);
        }
    }
    rack_placement_unref(old);
    return true;
}

static void random_event(rack *r) {
    char name[8];
    snprintf(name, sizeof(name), "n%u", (unsigned)below(8));
    planner_node *n = node_named(r, name);
    uint64_t total = 0;
    for (uint32_t l = 0; l < r->model.n_layers; l++)
        total += r->model.n_experts * r->slices[l] * r->unit_bytes[l] / 100;

    switch (below(7)) {
    case 0:
    case 1:
    case 2: /* comes, or starts anew */
        join(r, name, 1 + below(total + 1));
        break;
    case 3: /* ends */
        if (n == NULL) break;
        n->live = n->draining = false;
        n->missing = below(2) == 0;
        n->ready_epoch = 0;
        break;
    case 4:
        if (n != NULL && n->live) n->draining = !n->draining;
        break;
    case 5: /* is given up */
        if (n != NULL) n->missing = false;
        break;
    default: /* offers a little more or less */
        if (n != NULL && n->live) n->memory_bytes += n->memory_bytes / 50;
    }
}

static void some_get_ready(rack *r) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        planner_node *n = &r->nodes[i];
        if (n->live && below(3) > 0 && r->now != NULL) {
            n->ready_epoch = rack_placement_epoch(r->now);
        }
    }
}

static void converge(rack *r) {
    uint32_t steps = 0;
    for (uint32_t i = 0; i < r->n_nodes; i++)
        r->nodes[i].missing = false;
    all_ready(r);
    while (checked_step(r)) {
        all_ready(r);
        if (++steps > 300) fail_msg("it does not come to rest");
    }
}

/* What a rack at rest must be, as far as memory allows. */
static void check_rest(rack *r) {
    uint64_t need = 0, room = 0, largest = 0;
    for (uint32_t l = 0; l < r->model.n_layers; l++) {
        need += r->model.n_experts * r->slices[l] * r->unit_bytes[l];
        if (r->unit_bytes[l] > largest) largest = r->unit_bytes[l];
    }
    uint32_t stay = 0;
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        const planner_node *n = &r->nodes[i];
        if (!n->live || n->draining) continue;
        stay++;
        uint64_t whole = n->memory_bytes / largest * largest;
        room += whole < need ? whole : need;
    }
    if (stay == 0) return;
    /* Where all fit with ease, all are placed, and drained nodes are empty. */
    uint32_t least, most;
    count_holders(r, &least, &most);
    uint32_t want = r->model.min_replicas;
    if (want > stay) want = stay;
    if (room < (uint64_t)(want + 1) * need && want < stay) return;
    if (room < (uint64_t)want * need) return;
    assert_true(least >= 1);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        const planner_node *n = &r->nodes[i];
        if (!n->live || n->draining) {
            assert_int_equal(units_of(r, n->name), 0);
        }
    }
    assert_int_equal(least, want);
    assert_int_equal(most, want);
}

static void comes_to_rest_from_anything(void **state) {
    static const uint32_t cuts[] = {1, 1, 2, 4};
    (void)state;
    for (uint64_t run = 1; run <= 150; run++) {
        rack r;
        seed = run;
        rack_init(&r, 1 + (uint32_t)below(5), 1 + (uint32_t)below(12),
                  cuts[below(4)], 1 + (uint32_t)below(3));
        for (uint32_t l = 0; l < r.model.n_layers; l++)
            r.unit_bytes[l] = 50 + below(3) * 50;
        if (below(4) == 0) r.slices[0] = r.model.n_layers > 1 ? 0 : 1;
        for (uint32_t i = 0; i < 40; i++) {
            if (below(3) > 0) random_event(&r);
            checked_step(&r);
            some_get_ready(&r);
        }
        converge(&r);
        if (r.now != NULL) check_rest(&r);
        rack_fini(&r);
    }
}

static void says_the_same_twice(void **state) {
    rack r;
    (void)state;
    rack_init(&r, 6, 16, 2, 2);
    join(&r, "a", 100);
    join(&r, "b", 70);
    join(&r, "c", 130);
    planner_input in = input_of(&r);
    planner_step a, b;
    assert_int_equal(planner_next(&in, &a), 0);
    assert_int_equal(planner_next(&in, &b), 0);
    assert_int_equal(a.n_layers, b.n_layers);
    for (uint32_t i = 0; i < a.n_layers; i++) {
        assert_true(layer_map_equal(&a.layers[i], &b.layers[i]));
    }
    planner_step_fini(&a);
    planner_step_fini(&b);
    rack_fini(&r);
}

/* ---- a large one ---- */

static void plans_deepseek_v3(void **state) {
    static const uint32_t cuts[] = {1, 8};
    (void)state;
    for (uint32_t i = 0; i < ARRAY_LEN(cuts); i++) {
        rack r;
        rack_init(&r, 61, 256, cuts[i], 2);
        r.slices[0] = r.slices[1] = r.slices[2] = 0;
        for (uint32_t n = 0; n < 16; n++) {
            char name[8];
            snprintf(name, sizeof(name), "n%02u", n);
            join(&r, name, 4000 * cuts[i]);
        }
        uint64_t begin = now_us();
        uint32_t steps = settle(&r);
        uint64_t first = now_us();
        assert_in_range(steps, 1, 4);
        expect_holders(&r, 2, 2);
        join(&r, "n16", 4000 * cuts[i]);
        settle(&r);
        uint64_t second = now_us();
        assert_in_range(units_of(&r, "n16"), 1600 * cuts[i], 1850 * cuts[i]);
        settle(&r);
        printf("58 x 256 experts in %u slices on 16 nodes: first %.0f ms, "
               "a node joins %.0f ms, nothing to do %.0f ms\n",
               cuts[i], (double)(first - begin) / 1000,
               (double)(second - first) / 1000,
               (double)(now_us() - second) / 1000);
        rack_fini(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_every_unit_as_often_as_wanted),
        cmocka_unit_test(leaves_dense_layers_alone),
        cmocka_unit_test(does_nothing_without_nodes),
        cmocka_unit_test(shares_out_by_memory),
        cmocka_unit_test(spreads_each_layer_over_the_nodes),
        cmocka_unit_test(gives_small_shares_too),
        cmocka_unit_test(spreads_the_slices_of_an_expert),
        cmocka_unit_test(gives_everybody_one_before_anybody_gets_two),
        cmocka_unit_test(fills_memory_that_is_just_enough),
        cmocka_unit_test(places_what_fits_where_memory_is_short),
        cmocka_unit_test(gives_a_joined_node_its_share),
        cmocka_unit_test(ignores_small_changes_of_memory),
        cmocka_unit_test(waits_for_a_node_that_restarts),
        cmocka_unit_test(replaces_a_node_that_is_gone),
        cmocka_unit_test(names_a_gone_holder_until_another_is_ready),
        cmocka_unit_test(drains_a_node),
        cmocka_unit_test(drains_the_last_but_one),
        cmocka_unit_test(drains_into_the_place_of_second_copies),
        cmocka_unit_test(does_not_drain_what_fits_nowhere_else),
        cmocka_unit_test(takes_second_copies_back_for_units_without_any),
        cmocka_unit_test(sheds_what_a_smaller_offer_does_not_hold),
        cmocka_unit_test(gives_the_place_of_a_gone_node_to_another),
        cmocka_unit_test(raises_the_number_of_replicas),
        cmocka_unit_test(writes_large_models_in_several_steps),
        cmocka_unit_test(refuses_a_placement_of_another_model),
        cmocka_unit_test(says_whose_loss_would_be_felt),
        cmocka_unit_test(comes_to_rest_from_anything),
        cmocka_unit_test(says_the_same_twice),
        cmocka_unit_test(plans_deepseek_v3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
