/* test_recovery.c - what a recovery of a rack's etcd would write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/recovery.h"
#include "engine/err.h"
#include "engine/util.h"

#define N_LAYERS 3 /* the first one is dense */
#define N_EXPERTS 4

static const uint32_t slices[N_LAYERS] = {0, 2, 1};
static const uint64_t unit_bytes[N_LAYERS] = {0, 10, 20};

typedef struct {
    rack_view *view;
    int64_t revision;
    planner_model model;
    recovery_node nodes[2];
    holdings held[2];
    recovery_input in;
    recovery r;
    char why[300];
} rig;

static void rig_open(rig *g) {
    *g = (rig){.model = {.n_layers = N_LAYERS,
                         .n_experts = N_EXPERTS,
                         .slices = slices,
                         .unit_bytes = unit_bytes,
                         .max_slices = 2,
                         .min_replicas = 2}};
    memset(g->model.model, 7, sizeof(g->model.model));
    assert_int_equal(rack_view_new(&g->view), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            holdings_init_slices(&g->held[i], N_LAYERS, N_EXPERTS, 2), 0);
        snprintf(g->nodes[i].name, RECORD_NAME, "%s", i == 0 ? "one" : "two");
        g->nodes[i].held = &g->held[i];
    }
    g->in = (recovery_input){
        .view = g->view, .model = &g->model, .nodes = g->nodes};
}

static void rig_close(rig *g) {
    recovery_fini(&g->r);
    holdings_fini(&g->held[0]);
    holdings_fini(&g->held[1]);
    rack_view_free(g->view);
}

static void put(rig *g, const char *key, const void *value, size_t bytes) {
    char why[200] = "";
    g->revision++;
    rack_view_put(g->view, key, strlen(key), value, bytes, g->revision,
                  g->revision, why, sizeof(why));
}

/* A layer whose units are all held by node 0. */
static void put_layer(rig *g, uint32_t layer) {
    uint32_t units = N_EXPERTS * slices[layer];
    layer_map m;
    uint8_t *packed;
    size_t bytes;
    char key[40];
    assert_int_equal(layer_map_init(&m, slices[layer], units, units), 0);
    for (uint32_t u = 0; u <= units; u++)
        m.first[u] = u;
    memset(m.holders, 0, units * sizeof(*m.holders));
    assert_int_equal(layer_map_pack(&m, &packed, &bytes), 0);
    snprintf(key, sizeof(key), "placement/layer/%u", layer);
    put(g, key, packed, bytes);
    free(packed);
    layer_map_fini(&m);
}

static void put_placement(rig *g, uint64_t incarnation, uint64_t epoch) {
    char names[1][RECORD_NAME] = {"one"}, why[200] = "";
    epoch_record head = {.incarnation = incarnation,
                         .epoch = epoch,
                         .n_layers = N_LAYERS,
                         .n_experts = N_EXPERTS,
                         .slices = 2,
                         .min_replicas = 2,
                         .nodes = names,
                         .n_nodes = 1,
                         .writer = "c1"};
    memset(head.model, 7, sizeof(head.model));
    char *text = epoch_record_pack(&head);
    assert_non_null(text);
    put_layer(g, 1);
    put_layer(g, 2);
    put(g, "placement/epoch", text, strlen(text));
    free(text);
    assert_int_equal(rack_view_settle(g->view, why, sizeof(why)), 0);
}

static void wipe(rig *g) {
    rack_view_clear(g->view);
    assert_int_equal(rack_view_settle(g->view, NULL, 0), 0);
}

static int plan(rig *g) {
    recovery_fini(&g->r);
    return recovery_plan(&g->r, &g->in, g->why, sizeof(g->why));
}

/* ---- */

static void finds_nothing_to_do_in_a_rack_that_is_well(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    assert_int_equal(plan(&g), 0);
    assert_string_equal(g.r.why, "");
    assert_int_equal(g.r.n_steps, 0);
    put_placement(&g, 1, 5);
    g.in.nodes_epoch = epoch_pack(1, 5);
    assert_int_equal(plan(&g), 0);
    assert_string_equal(g.r.why, "");
    assert_int_equal(g.r.source, RECOVERY_NOTHING);
    assert_true(g.r.was == epoch_pack(1, 5) && g.r.becomes == g.r.was);
    rig_close(&g);
}

static void writes_what_it_remembers_after_a_wipe(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_placement(&g, 1, 5);
    wipe(&g);
    assert_int_equal(plan(&g), 0);
    assert_non_null(strstr(g.r.why, "lost"));
    assert_int_equal(g.r.source, RECOVERY_MEMORY);
    assert_true(g.r.becomes == epoch_pack(2, 1));
    assert_true(g.r.head.incarnation == 2 && g.r.head.epoch == 1);
    assert_string_equal(g.r.head.nodes[0], "one");
    assert_int_equal(g.r.layers, 2);
    assert_int_equal(g.r.units, 12);
    assert_int_equal(g.r.holders, 12);
    assert_null(g.r.maps[0]);
    assert_int_equal(g.r.maps[1]->n_units, 8);
    assert_int_equal(g.r.n_steps, 1);
    assert_int_equal(g.r.steps[0].end, N_LAYERS);
    rig_close(&g);
}

static void goes_beyond_every_incarnation_that_is_known(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_placement(&g, 3, 5);
    put_placement(&g, 2, 9); /* an older snapshot: not taken up */
    assert_int_equal(plan(&g), 0);
    assert_non_null(strstr(g.r.why, "older"));
    assert_true(g.r.becomes == epoch_pack(4, 1));
    rig_close(&g);
}

static void replaces_a_placement_that_cannot_be_read(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_placement(&g, 1, 5);
    put(&g, "placement/epoch", "nonsense", 8);
    (void)rack_view_settle(g.view, NULL, 0);
    assert_int_equal(plan(&g), 0);
    assert_non_null(strstr(g.r.why, "cannot be used"));
    assert_true(g.r.becomes == epoch_pack(2, 1));
    rig_close(&g);
}

static void begins_anew_where_nobody_knows_a_placement(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put(&g, "placement/epoch", "nonsense", 8);
    (void)rack_view_settle(g.view, NULL, 0);
    assert_int_equal(plan(&g), 0);
    assert_true(g.r.begins_anew);
    assert_int_equal(g.r.n_steps, 0);
    rig_close(&g);
}

static void takes_what_the_nodes_hold_if_they_know_more(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_placement(&g, 1, 5);
    g.in.nodes_epoch = epoch_pack(1, 9);
    g.in.n_nodes = 2;
    holdings_add(&g.held[0], 1, 0);
    holdings_add(&g.held[0], 1, 7);
    holdings_add(&g.held[1], 1, 7);
    holdings_add(&g.held[1], 2, 3);
    assert_int_equal(plan(&g), 0);
    assert_non_null(strstr(g.r.why, "the rack knows"));
    assert_int_equal(g.r.source, RECOVERY_NODES);
    assert_true(g.r.was == epoch_pack(1, 9));
    assert_true(g.r.becomes == epoch_pack(2, 1));
    assert_int_equal(g.r.head.n_nodes, 2);
    assert_string_equal(g.r.head.nodes[1], "two");
    assert_int_equal(g.r.holders, 4);
    uint32_t n;
    const uint16_t *who = layer_map_holders(g.r.maps[1], 7, &n);
    assert_int_equal(n, 2);
    assert_true(who[0] == 0 && who[1] == 1);
    layer_map_holders(g.r.maps[1], 1, &n);
    assert_int_equal(n, 0);
    who = layer_map_holders(g.r.maps[2], 3, &n);
    assert_true(n == 1 && who[0] == 1);
    rig_close(&g);
}

static void does_not_guess_what_silent_nodes_hold(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    g.in.nodes_epoch = epoch_pack(1, 9);
    assert_int_equal(plan(&g), ERR_UNAVAILABLE);
    assert_non_null(strstr(g.why, "1.9"));
    rig_close(&g);
}

/* Registered, and by an old report of its own it has nine units. */
static void put_node(rig *g, const char *name) {
    char key[2 * RECORD_NAME];
    node_record n = {.boot = 5,
                     .memory_bytes = 1000,
                     .control = "tcp://10.0.0.2:1",
                     .protocol = 1,
                     .profile = {1, "a8", "f32", "", "", ""}};
    ready_record r = {.boot = 5, .incarnation = 1, .epoch = 3, .units = 9};
    char *text = node_record_pack(&n);
    assert_non_null(text);
    snprintf(key, sizeof(key), "nodes/%s", name);
    put(g, key, text, strlen(text));
    free(text);
    text = ready_record_pack(&r);
    assert_non_null(text);
    snprintf(key, sizeof(key), "ready/%s", name);
    put(g, key, text, strlen(text));
    free(text);
}

static void waits_for_a_nodes_word_even_that_it_holds_nothing(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_node(&g, "two");
    assert_non_null(rack_view_node(g.view, "two"));
    g.in.nodes_epoch = epoch_pack(1, 9);
    g.in.n_nodes = 1;
    holdings_add(&g.held[0], 1, 0);
    assert_int_equal(plan(&g), ERR_UNAVAILABLE);
    assert_non_null(strstr(g.why, "'two'"));
    g.in.n_nodes = 2;
    g.nodes[1].held = NULL; /* nothing: it has given all of it up since */
    assert_int_equal(plan(&g), 0);
    assert_int_equal(g.r.source, RECOVERY_NODES);
    assert_int_equal(g.r.holders, 1);
    assert_int_equal(g.r.n_away, 0);
    rig_close(&g);
}

/* All were started since, and so was who knew: nothing is to be kept. */
static void
begins_an_incarnation_without_holders_if_nobody_holds_anything(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_node(&g, "one");
    put_node(&g, "two");
    g.in.nodes_epoch = epoch_pack(1, 9);
    g.in.n_nodes = 1; /* the other one has not said so yet */
    assert_int_equal(plan(&g), ERR_UNAVAILABLE);
    assert_non_null(strstr(g.why, "'two'"));
    g.in.n_nodes = 2;
    assert_int_equal(plan(&g), 0);
    assert_int_equal(g.r.source, RECOVERY_NODES);
    assert_true(g.r.becomes == epoch_pack(2, 1));
    assert_int_equal(g.r.holders, 0);
    assert_int_equal(g.r.unheld, 12);
    rig_close(&g);
}

static void ends_two_placements_of_one_number(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_placement(&g, 1, 5);
    g.in.nodes_epoch = epoch_pack(1, 5);
    g.in.at_odds = true;
    assert_int_equal(plan(&g), 0);
    assert_non_null(strstr(g.r.why, "another placement under the number"));
    assert_int_equal(g.r.source, RECOVERY_MEMORY);
    assert_true(g.r.becomes == epoch_pack(2, 1));
    rig_close(&g);
}

static void does_not_write_another_models_placement(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    put_placement(&g, 1, 5);
    wipe(&g);
    g.model.model[0] ^= 1;
    assert_int_equal(plan(&g), ERR_WRONG_MODEL);
    assert_true(g.why[0] != '\0');
    rig_close(&g);
}

static void cuts_many_layers_into_transactions(void **state) {
    enum { MANY = 250 };
    static uint32_t cut[MANY];
    static uint64_t bytes[MANY];
    holdings held;
    rig g;
    (void)state;
    rig_open(&g);
    for (int i = 0; i < MANY; i++)
        cut[i] = 1, bytes[i] = 10;
    g.model.n_layers = MANY;
    g.model.slices = cut;
    g.model.unit_bytes = bytes;
    g.model.max_slices = 1;
    assert_int_equal(holdings_init(&held, MANY, N_EXPERTS), 0);
    holdings_add(&held, 249, 3);
    g.nodes[0].held = &held;
    g.in.n_nodes = 1;
    g.in.nodes_epoch = epoch_pack(1, 9);
    assert_int_equal(plan(&g), 0);
    assert_int_equal(g.r.n_steps, 3);
    uint32_t next = 0;
    for (uint32_t i = 0; i < g.r.n_steps; i++) {
        assert_int_equal(g.r.steps[i].first, next);
        next = g.r.steps[i].end;
        assert_true(next - g.r.steps[i].first <= PLANNER_STEP_LAYERS);
    }
    assert_int_equal(next, MANY);
    recovery_fini(&g.r);
    holdings_fini(&held);
    rig_close(&g);
}

static void put_text(rig *g, const char *key, char *text) {
    assert_non_null(text);
    put(g, key, text, strlen(text));
    free(text);
}

/* A registered node that reports so many units. */
static void register_node(rig *g, const char *name, uint32_t units) {
    char key[80];
    const node_record n = {.boot = 5,
                           .control = "tcp://127.0.0.1:7101",
                           .weights = "tcp://127.0.0.1:7103",
                           .protocol = 1,
                           .memory_bytes = 1000,
                           .profile = {.version = 1,
                                       .activation = "a8",
                                       .rows = "f32",
                                       .kv = "f16",
                                       .mla = "absorbed",
                                       .blas = "Haswell"}};
    const ready_record r = {
        .boot = 5, .incarnation = 1, .epoch = 7, .units = units};
    snprintf(key, sizeof(key), "nodes/%s", name);
    put_text(g, key, node_record_pack(&n));
    snprintf(key, sizeof(key), "ready/%s", name);
    put_text(g, key, ready_record_pack(&r));
    assert_int_equal(rack_view_settle(g->view, g->why, sizeof(g->why)), 0);
    assert_non_null(rack_view_node(g->view, name));
    assert_non_null(rack_view_ready(g->view, name));
}

/* A rack that starts as a whole: this one is greeted a moment later. */
static void waits_for_a_live_node_that_has_not_said_what_it_holds(void **s) {
    rig g;
    (void)s;
    rig_open(&g);
    register_node(&g, "one", 1);
    register_node(&g, "two", 3);
    register_node(&g, "new", 0);
    g.in.nodes_epoch = epoch_pack(1, 7);
    holdings_add(&g.held[0], 1, 0);
    g.in.n_nodes = 1;
    assert_int_equal(plan(&g), ERR_UNAVAILABLE);
    assert_non_null(strstr(g.why, "'two'"));
    g.in.n_nodes = 2;
    assert_int_equal(plan(&g), 0);
    assert_int_equal(g.r.source, RECOVERY_NODES);
    rig_close(&g);
}

/* Dead, or late: who is asked for a yes is told. */
static void tells_of_units_of_nodes_that_are_not_there(void **s) {
    rig g;
    (void)s;
    rig_open(&g);
    put_placement(&g, 1, 5); /* all on "one", which is away */
    g.in.nodes_epoch = epoch_pack(1, 7);
    g.in.nodes = g.nodes + 1;
    g.in.n_nodes = 1;
    holdings_add(&g.held[1], 1, 0);
    assert_int_equal(plan(&g), 0);
    assert_int_equal(g.r.source, RECOVERY_NODES);
    assert_int_equal(g.r.unheld, g.r.units - 1);
    assert_int_equal(g.r.n_away, 1);
    assert_string_equal(g.r.away, "one");
    rig_close(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_for_a_live_node_that_has_not_said_what_it_holds),
        cmocka_unit_test(tells_of_units_of_nodes_that_are_not_there),
        cmocka_unit_test(finds_nothing_to_do_in_a_rack_that_is_well),
        cmocka_unit_test(writes_what_it_remembers_after_a_wipe),
        cmocka_unit_test(goes_beyond_every_incarnation_that_is_known),
        cmocka_unit_test(replaces_a_placement_that_cannot_be_read),
        cmocka_unit_test(begins_anew_where_nobody_knows_a_placement),
        cmocka_unit_test(takes_what_the_nodes_hold_if_they_know_more),
        cmocka_unit_test(does_not_guess_what_silent_nodes_hold),
        cmocka_unit_test(waits_for_a_nodes_word_even_that_it_holds_nothing),
        cmocka_unit_test(
            begins_an_incarnation_without_holders_if_nobody_holds_anything),
        cmocka_unit_test(ends_two_placements_of_one_number),
        cmocka_unit_test(does_not_write_another_models_placement),
        cmocka_unit_test(cuts_many_layers_into_transactions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
