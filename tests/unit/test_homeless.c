/* test_homeless.c - which units nobody can be asked for, why, and for how long.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/homeless.h"
#include "tests/support/rack_feed.h"

#define N_LAYERS 3 /* the first one is dense */
#define N_EXPERTS 20
#define MB ((uint64_t)1000000)

static const uint32_t slices[N_LAYERS] = {0, 1, 2};
static const uint64_t unit_bytes[N_LAYERS] = {0, 2 * MB, MB};

typedef struct {
    rack_feed feed;
    planner_model model;
    planner_node nodes[2];
    planner_input in;
    holdings held[2];
    placement *where;
    uint64_t epoch, resident, now;
    homeless *h;
} rig;

/* Even experts are "one"'s, odd ones "two"'s. */
static uint32_t planned(uint32_t layer, uint32_t unit) {
    uint32_t expert = unit / slices[layer];
    return expert % 2 == 0 ? 1u : 2u;
}

static void rig_open(rig *g) {
    const char *const names[] = {"one", "two"};
    const rack_feed_plan p = {.epoch = 1,
                              .model = {1, 2, 3},
                              .n_layers = N_LAYERS,
                              .n_experts = N_EXPERTS,
                              .max_slices = 2,
                              .slices = slices,
                              .nodes = names,
                              .n_nodes = 2,
                              .on = planned};
    *g = (rig){.model = {.n_layers = N_LAYERS,
                         .n_experts = N_EXPERTS,
                         .slices = slices,
                         .unit_bytes = unit_bytes,
                         .max_slices = 2,
                         .min_replicas = 1},
               .now = 100000};
    rack_feed_open(&g->feed);
    rack_feed_placement(&g->feed, &p);
    rack_feed_settle(&g->feed);
    for (int i = 0; i < 2; i++) {
        g->nodes[i] = (planner_node){.name = names[i],
                                     .memory_bytes = 100 * MB,
                                     .live = true,
                                     .ready_epoch = epoch_pack(1, 1)};
        assert_int_equal(
            holdings_init_slices(&g->held[i], N_LAYERS, N_EXPERTS, 2), 0);
        for (uint32_t l = 1; l < N_LAYERS; l++) {
            for (uint32_t u = 0; u < N_EXPERTS * slices[l]; u++)
                if (planned(l, u) == 1u << i) holdings_add(&g->held[i], l, u);
        }
    }
    g->in = (planner_input){.model = &g->model,
                            .now = rack_view_placement(g->feed.view),
                            .nodes = g->nodes,
                            .n_nodes = 2};
    assert_int_equal(homeless_new(&g->h), 0);
}

static void rig_close(rig *g) {
    homeless_free(g->h);
    placement_unref(g->where);
    for (int i = 0; i < 2; i++)
        holdings_fini(&g->held[i]);
    rack_feed_close(&g->feed);
}

/* With what these nodes (NULL: not up) hold. */
static void look(rig *g, const holdings *one, const holdings *two) {
    const holdings *nodes[2] = {one, two};
    const placement_shape shape = {.epoch = ++g->epoch,
                                   .n_layers = N_LAYERS,
                                   .n_experts = N_EXPERTS,
                                   .slices = 2,
                                   .layer_slices = slices};
    placement_unref(g->where);
    assert_int_equal(placement_new(&g->where, &shape, nodes, 2), 0);
    const homeless_picture p = {.plan = &g->in,
                                .where = g->where,
                                .resident_bytes = g->resident,
                                .replace_after_ms = 15000};
    assert_int_equal(homeless_look(g->h, g->now, &p), 0);
}

static const char *text(const rig *g) {
    static char out[400];
    return homeless_text(g->h, out, sizeof(out));
}

static void says_nothing_where_all_have_a_home(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    look(&g, &g.held[0], &g.held[1]);
    assert_true(homeless_units(g.h) == 0);
    assert_string_equal(homeless_why(g.h), "");
    assert_string_equal(text(&g), "");
    assert_true(homeless_estimate_s(g.h) == 0.0);
    rig_close(&g);
}

static void names_experts_by_ranges(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    for (uint32_t e = 4; e < 9; e++) {
        holdings_remove(&g.held[e % 2], 1, e);
    }
    holdings_remove(&g.held[1], 1, 17);
    holdings_remove(&g.held[1], 2, 2 * 19 + 1); /* one slice is enough */
    look(&g, &g.held[0], &g.held[1]);
    assert_true(homeless_units(g.h) == 7);
    assert_string_equal(text(&g),
                        "layer 1: experts 4-8,17; layer 2: experts 19");
    rig_close(&g);
}

static void waits_for_those_who_load(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    g.nodes[1].ready_epoch = 0;
    look(&g, &g.held[0], NULL);
    assert_true(homeless_of_kind(g.h, HOMELESS_LOADING) == 30);
    assert_non_null(strstr(homeless_why(g.h), "loaded"));
    /* 40 MB at the usual rate */
    assert_true(homeless_estimate_s(g.h) > 0.0);
    assert_true(homeless_estimate_s(g.h) < 1.0);
    rig_close(&g);
}

static void measures_how_fast_loading_is(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    g.nodes[1].ready_epoch = 0;
    look(&g, &g.held[0], NULL);
    for (int i = 0; i < 20; i++) { /* 4 MB/s */
        g.now += 500;
        g.resident += 2 * MB;
        look(&g, &g.held[0], NULL);
    }
    assert_true(homeless_estimate_s(g.h) > 9.0);
    assert_true(homeless_estimate_s(g.h) < 11.0);
    rig_close(&g);
}

static void waits_for_a_node_that_is_away_then_for_others(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    g.nodes[1].live = false;
    g.nodes[1].missing = true;
    look(&g, &g.held[0], NULL);
    assert_true(homeless_of_kind(g.h, HOMELESS_AWAY) == 30);
    assert_non_null(strstr(homeless_why(g.h), "'two'"));
    double first = homeless_estimate_s(g.h);
    assert_true(first > 15.0 && first < 30.0);
    g.now += 10000;
    look(&g, &g.held[0], NULL);
    double later = homeless_estimate_s(g.h);
    assert_true(later > first - 11.0 && later < first - 9.0);

    g.nodes[1].missing = false; /* given up */
    look(&g, &g.held[0], NULL);
    assert_true(homeless_of_kind(g.h, HOMELESS_PLACING) == 30);
    assert_true(homeless_estimate_s(g.h) < 5.0);
    rig_close(&g);
}

/* Its record is there for as long as its lease. */
static void takes_a_node_that_has_all_and_is_silent_for_away(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    look(&g, &g.held[0], NULL);
    assert_true(homeless_of_kind(g.h, HOMELESS_AWAY) == 30);
    rig_close(&g);
}

static void says_when_memory_is_not_enough(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    g.nodes[0].memory_bytes = 60 * MB; /* of 80 */
    g.nodes[1].live = false;
    g.nodes[1].missing = true;
    look(&g, &g.held[0], NULL);
    assert_non_null(strstr(homeless_why(g.h), "not enough"));
    assert_true(homeless_estimate_s(g.h) < 0.0);
    g.nodes[1].missing = false;
    look(&g, &g.held[0], NULL);
    assert_true(homeless_of_kind(g.h, HOMELESS_NO_ROOM) == 30);
    assert_true(homeless_estimate_s(g.h) < 0.0);
    g.nodes[0].memory_bytes = 81 * MB;
    look(&g, &g.held[0], NULL);
    assert_true(homeless_of_kind(g.h, HOMELESS_NO_ROOM) == 0);
    rig_close(&g);
}

static void all_is_homeless_before_a_first_placement(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    g.in.now = NULL;
    look(&g, NULL, NULL);
    assert_true(homeless_units(g.h) == 60);
    assert_true(homeless_of_kind(g.h, HOMELESS_PLACING) == 60);
    rig_close(&g);
}

static void reports_it_as_json(void **state) {
    rig g;
    (void)state;
    rig_open(&g);
    look(&g, &g.held[0], NULL);
    g.now += 2500;
    json_t *o = homeless_json(g.h, g.now);
    assert_non_null(o);
    assert_int_equal(json_integer_value(json_object_get(o, "units")), 30);
    assert_true(json_real_value(json_object_get(o, "since_s")) == 2.5);
    const json_t *layers = json_object_get(o, "layers");
    assert_int_equal(json_array_size(layers), 2);
    assert_string_equal(json_string_value(json_object_get(
                            json_array_get(layers, 0), "experts")),
                        "1,3,5,7,9,11,13,15,17,19");
    assert_true(json_is_number(json_object_get(o, "estimate_s")));
    json_decref(o);
    g.nodes[0].memory_bytes = MB;
    look(&g, &g.held[0], NULL);
    o = homeless_json(g.h, g.now);
    assert_true(json_is_null(json_object_get(o, "estimate_s")) ||
                homeless_of_kind(g.h, HOMELESS_NO_ROOM) == 0);
    json_decref(o);
    rig_close(&g);
}

/* Every second expert of a wide layer: the text is cut, not overrun. */
static void cuts_a_list_that_is_too_long(void **state) {
    enum { WIDE = 2000 };
    static const uint32_t one_layer[1] = {1};
    static const uint64_t bytes[1] = {1};
    char out[2000], small[20];
    holdings held;
    rig g;
    (void)state;
    rig_open(&g);
    assert_int_equal(holdings_init(&held, 1, WIDE), 0);
    for (uint32_t e = 0; e < WIDE; e += 2)
        holdings_add(&held, 0, e);
    const placement_shape shape = {
        .epoch = 1, .n_layers = 1, .n_experts = WIDE};
    const holdings *nodes[1] = {&held};
    assert_int_equal(placement_new(&g.where, &shape, nodes, 1), 0);
    g.model = (planner_model){.n_layers = 1,
                              .n_experts = WIDE,
                              .slices = one_layer,
                              .unit_bytes = bytes};
    g.in.now = NULL;
    const homeless_picture p = {.plan = &g.in, .where = g.where};
    assert_int_equal(homeless_look(g.h, g.now, &p), 0);
    assert_true(homeless_units(g.h) == WIDE / 2);
    homeless_text(g.h, out, sizeof(out));
    assert_true(strlen(out) < 500);
    assert_string_equal(out + strlen(out) - 3, "...");
    homeless_text(g.h, small, sizeof(small));
    assert_true(strlen(small) < sizeof(small));
    holdings_fini(&held);
    rig_close(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_nothing_where_all_have_a_home),
        cmocka_unit_test(names_experts_by_ranges),
        cmocka_unit_test(waits_for_those_who_load),
        cmocka_unit_test(measures_how_fast_loading_is),
        cmocka_unit_test(waits_for_a_node_that_is_away_then_for_others),
        cmocka_unit_test(takes_a_node_that_has_all_and_is_silent_for_away),
        cmocka_unit_test(says_when_memory_is_not_enough),
        cmocka_unit_test(all_is_homeless_before_a_first_placement),
        cmocka_unit_test(reports_it_as_json),
        cmocka_unit_test(cuts_a_list_that_is_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
