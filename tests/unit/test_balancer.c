/* test_balancer.c - better placements of racks that are easy to see through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "discovery/balancer.h"
#include "engine/err.h"
#include "engine/util.h"

#define MOST_UNITS 64
#define MOST_NODES 8

/* A question about one layer of up to 64 units, of 10 bytes each. */
typedef struct {
    balance_input in;
    uint32_t slices[2];
    uint64_t bytes[2];
    balance_node nodes[MOST_NODES];
    double load[MOST_UNITS];
    uint32_t first[MOST_UNITS + 1];
    uint16_t holders[4 * MOST_UNITS];
    bool pinned[4 * MOST_UNITS];
    balance_map now;
    balance_result out;
} desk;

static void desk_init(desk *d, uint32_t n_experts, uint32_t n_nodes,
                      uint32_t units_each) {
    memset(d, 0, sizeof(*d));
    d->slices[0] = 1;
    d->bytes[0] = 10;
    for (uint32_t i = 0; i < n_nodes; i++) {
        d->nodes[i] = (balance_node){
            .memory_bytes = 10 * units_each, .speed = 1, .stays = true};
    }
    d->now = (balance_map){n_experts, d->first, d->holders};
    d->in = (balance_input){.n_layers = 1,
                            .n_experts = n_experts,
                            .slices = d->slices,
                            .unit_bytes = d->bytes,
                            .min_replicas = 1,
                            .max_replicas = 8,
                            .nodes = d->nodes,
                            .n_nodes = n_nodes,
                            .load = d->load,
                            .now = &d->now};
}

/* The next unit: its load, and its holders as a set of bits. */
static void hold(desk *d, double load, uint32_t nodes) {
    uint32_t unit = 0;
    while (d->first[unit + 1] > 0)
        unit++;
    uint32_t at = d->first[unit];
    for (uint32_t i = 0; i < MOST_NODES; i++) {
        if ((nodes >> i & 1) != 0) d->holders[at++] = (uint16_t)i;
    }
    d->load[unit] = load;
    d->first[unit + 1] = at;
}

static void run(desk *d) {
    balance_result_fini(&d->out);
    assert_int_equal(balance(&d->in, &d->out), 0);
}

/* A unit's holders in the answer, as a set of bits. */
static uint32_t held(const desk *d, uint32_t unit) {
    const balance_map *m = &d->out.target;
    uint32_t nodes = 0;
    for (uint32_t i = m->first[unit]; i < m->first[unit + 1]; i++)
        nodes |= 1u << m->nodes[i];
    return nodes;
}

static void expect(double a, double b) {
    if (fabs(a - b) > 1e-6) fail_msg("%g instead of %g", a, b);
}

/* ---- what pays ---- */

static void moves_one_unit_away_from_a_hot_node(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 2);
    run(&d);
    assert_true(d.out.pays);
    expect(d.out.before.rack, 1.5);
    expect(d.out.after.rack, 1);
    assert_true(d.out.added == 1 && d.out.removed == 1);
    assert_int_equal(d.out.moved_bytes, 10);
    assert_int_equal(held(&d, 3), 2);
    balance_result_fini(&d.out);
}

/* What gains a third may be chance if the loads are off by a sixth. */
static void a_gain_must_be_more_than_chance(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 2);
    d.in.noise = 0.17;
    run(&d);
    assert_false(d.out.pays);
    assert_int_equal(d.out.added, 0);
    d.in.noise = 0.16;
    run(&d);
    assert_true(d.out.pays);
    /* Who is asked to does it all the same. */
    d.in.noise = 1;
    d.in.forced = true;
    run(&d);
    assert_false(d.out.pays);
    assert_int_equal(d.out.added, 1);
    balance_result_fini(&d.out);
}

static void exchanges_units_where_nothing_else_fits(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 3); /* no room for more than one at a time */
    d.in.reserve = 0.01;    /* which is to stay free */
    hold(&d, 50, 1);
    hold(&d, 30, 1);
    hold(&d, 20, 2);
    hold(&d, 0, 2);
    run(&d);
    expect(d.out.before.rack, 1.6);
    expect(d.out.after.rack, 1);
    assert_true(held(&d, 0) != held(&d, 1));
    assert_int_equal(held(&d, 1), held(&d, 2));
    balance_result_fini(&d.out);
}

static void copies_a_unit_that_is_too_hot_for_one_node(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 5, 2, 6);
    hold(&d, 60, 1);
    hold(&d, 10, 2);
    hold(&d, 10, 2);
    hold(&d, 10, 2);
    hold(&d, 10, 1);
    run(&d);
    assert_int_equal(held(&d, 0), 3);
    assert_true(d.out.after.rack < 1.06);
    for (uint32_t u = 1; u < 5; u++)
        assert_true(held(&d, u) == 1 || held(&d, u) == 2);
    balance_result_fini(&d.out);
}

/* Both copies of the hottest go beside a load that has to move. */
static void makes_room_for_a_copy_by_a_detour(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 7, 4, 4);
    hold(&d, 40, 1); /* more than a node's whole share */
    hold(&d, 12, 2);
    hold(&d, 12, 2);
    hold(&d, 12, 4);
    hold(&d, 8, 4);
    hold(&d, 8, 8);
    hold(&d, 8, 8);
    run(&d);
    expect(d.out.before.rack, 1.6);
    assert_true(d.out.after.rack < 1.25);
    balance_result_fini(&d.out);
}

static void gives_a_fast_node_more(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 8, 2, 8);
    d.nodes[1].speed = 3;
    for (uint32_t u = 0; u < 8; u++)
        hold(&d, 10, u < 4 ? 1 : 2);
    run(&d);
    expect(d.out.before.rack, 2); /* 40 on a quarter of the speed */
    expect(d.out.after.rack, 1);
    uint32_t fast = 0;
    for (uint32_t u = 0; u < 8; u++)
        fast += held(&d, u) == 2;
    assert_int_equal(fast, 6);
    balance_result_fini(&d.out);
}

static void gives_up_cold_copies(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 30, 2);
    hold(&d, 1, 3);
    hold(&d, 1, 2);
    d.in.noise = 0.1; /* who knows? */
    run(&d);
    assert_false(d.out.pays);
    d.in.noise = 0.01;
    run(&d);
    assert_true(d.out.pays);
    assert_true(d.out.added == 0 && d.out.removed == 1);
    assert_int_equal(held(&d, 2), 1);
    balance_result_fini(&d.out);
}

/* Somewhere else a move would help, but costs too much. */
static void gives_up_cold_copies_though_nothing_else_pays(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 9, 3, 8);
    for (uint32_t u = 0; u < 6; u++)
        hold(&d, 10, 1);
    hold(&d, 40, 2);
    hold(&d, 40, 4);
    hold(&d, 1, 6);
    d.in.price = 10;
    run(&d);
    assert_true(d.out.pays);
    assert_true(d.out.added == 0 && d.out.removed == 1);
    assert_true(held(&d, 8) == 2 || held(&d, 8) == 4);
    for (uint32_t u = 0; u < 6; u++)
        assert_int_equal(held(&d, u), 1);
    expect(d.out.after.rack, d.out.before.rack);
    /* If it does pay, all of it is done. */
    d.in.price = 0;
    run(&d);
    assert_true(d.out.pays);
    assert_true(d.out.added > 0 && d.out.after.rack < 1.1);
    balance_result_fini(&d.out);
}

static void keeps_copies_that_are_hot_or_of_use(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 3, 2, 4);
    hold(&d, 60, 3);
    hold(&d, 10, 1);
    hold(&d, 10, 2);
    run(&d);
    assert_false(d.out.pays);
    assert_int_equal(held(&d, 0), 3);
    balance_result_fini(&d.out);
}

/* ---- what does not ---- */

static void leaves_even_loads_alone(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 7, 3, 4); /* 3, 2, 2: no better way to share 7 */
    for (uint32_t u = 0; u < 7; u++)
        hold(&d, 10, 1u << u % 3);
    run(&d);
    assert_false(d.out.pays);
    assert_true(d.out.added == 0 && d.out.removed == 0);
    d.in.forced = true;
    run(&d);
    assert_true(d.out.added == 0 && d.out.removed == 0);
    balance_result_fini(&d.out);
}

static void leaves_small_differences_alone(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 26, 1);
    hold(&d, 26, 1);
    hold(&d, 24, 2);
    hold(&d, 25, 2);
    run(&d);
    assert_int_equal(d.out.added + d.out.removed, 0);
    assert_false(d.out.pays);
    balance_result_fini(&d.out);
}

static void leaves_alone_what_costs_too_much(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 2);
    d.in.price = 0.02; /* a third gained, a quarter of all bytes moved */
    run(&d);
    assert_false(d.out.pays);
    assert_int_equal(d.out.added, 0);
    expect(d.out.after.rack, 1.5);
    d.in.forced = true;
    run(&d);
    assert_false(d.out.pays);
    assert_int_equal(d.out.added, 1);
    expect(d.out.after.rack, 1);
    balance_result_fini(&d.out);
}

static void does_nothing_without_loads(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 0, 3);
    hold(&d, 0, 1);
    hold(&d, 0, 2);
    hold(&d, 0, 3);
    d.in.load = NULL;
    run(&d);
    assert_int_equal(d.out.removed, 0); /* nobody knows that it is cold */
    d.in.load = d.load;
    run(&d);
    assert_int_equal(d.out.added, 0);
    balance_result_fini(&d.out);
}

/* ---- what must be ---- */

static void leaves_pinned_holders(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 2);
    d.in.pinned = d.pinned;
    d.pinned[0] = d.pinned[2] = true;
    run(&d);
    assert_true((held(&d, 0) & 1) != 0 && (held(&d, 2) & 1) != 0);
    assert_int_equal(held(&d, 1), 2);
    balance_result_fini(&d.out);
}

static void does_not_bring_back_what_is_banned(void **state) {
    static const balance_holder banned[2] = {{0, 1}, {2, 1}};
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 1);
    hold(&d, 30, 2);
    d.in.banned = banned;
    d.in.n_banned = 2;
    run(&d);
    assert_int_equal(held(&d, 1), 2);
    balance_result_fini(&d.out);
}

static void gives_units_of_a_node_that_leaves_to_others(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 3, 3);
    hold(&d, 20, 1);
    hold(&d, 20, 2);
    hold(&d, 20, 4);
    hold(&d, 20, 4);
    d.nodes[2].stays = false;
    run(&d);
    assert_int_equal(held(&d, 0), 1);
    assert_int_equal(held(&d, 1), 2);
    assert_int_equal(held(&d, 2) | held(&d, 3), 3);
    assert_int_equal(d.out.added, 2);
    expect(d.out.after.rack, 1);
    balance_result_fini(&d.out);
}

static void holds_every_unit_once_before_any_twice(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 6, 2, 4);
    d.in.min_replicas = 2;
    d.in.now = NULL;
    for (uint32_t u = 0; u < 6; u++)
        d.load[u] = u + 1;
    run(&d);
    uint32_t twice = 0;
    for (uint32_t u = 0; u < 6; u++) {
        assert_true(held(&d, u) != 0);
        twice += held(&d, u) == 3;
    }
    assert_int_equal(twice, 2);
    assert_true(held(&d, 5) == 3 && held(&d, 4) == 3); /* the hottest */
    balance_result_fini(&d.out);
}

static void takes_second_copies_for_units_without_any(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 3);
    d.in.min_replicas = 2;
    hold(&d, 10, 3);
    hold(&d, 5, 3);
    hold(&d, 10, 3);
    hold(&d, 1, 0); /* nobody has room */
    run(&d);
    assert_true(held(&d, 3) == 1 || held(&d, 3) == 2);
    assert_true(held(&d, 0) == 3 && held(&d, 2) == 3);
    assert_true(held(&d, 1) == 1 || held(&d, 1) == 2); /* the coldest */
    balance_result_fini(&d.out);
}

static void sheds_what_a_smaller_offer_does_not_hold(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 4, 2, 4);
    d.in.min_replicas = 2;
    for (uint32_t u = 0; u < 4; u++)
        hold(&d, 10 - u, 3);
    d.nodes[1].memory_bytes = 20;
    run(&d);
    assert_true(held(&d, 0) == 3 && held(&d, 1) == 3);
    assert_true(held(&d, 2) == 1 && held(&d, 3) == 1);
    balance_result_fini(&d.out);
}

static void spreads_copies_over_zones(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 6, 4, 6);
    d.nodes[2].zone = d.nodes[3].zone = 1;
    d.in.min_replicas = 2;
    d.in.now = NULL;
    for (uint32_t u = 0; u < 6; u++)
        d.load[u] = 7;
    run(&d);
    for (uint32_t u = 0; u < 6; u++) {
        assert_true((held(&d, u) & 3) != 0);
        assert_true((held(&d, u) & 12) != 0);
    }
    balance_result_fini(&d.out);
}

static void keeps_groups_together(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 16, 4, 16);
    d.in.n_groups = 4;
    d.in.now = NULL;
    for (uint32_t u = 0; u < 16; u++)
        d.load[u] = 10;
    run(&d);
    expect(d.out.after.rack, 1);
    for (uint32_t u = 0; u < 16; u++)
        assert_int_equal(held(&d, u), held(&d, u - u % 4));
    balance_result_fini(&d.out);
}

static void spreads_the_slices_of_an_expert(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 16, 4, 16);
    d.in.n_experts = 4;
    d.slices[0] = 4;
    d.in.now = NULL;
    for (uint32_t u = 0; u < 16; u++)
        d.load[u] = 1 + u / 4;
    run(&d);
    for (uint32_t e = 0; e < 4; e++) {
        uint32_t nodes = 0;
        for (uint32_t s = 0; s < 4; s++)
            nodes |= held(&d, 4 * e + s);
        assert_int_equal(nodes, 15);
    }
    balance_result_fini(&d.out);
}

/* ---- measuring, and questions that are none ---- */

static void measures_a_map(void **state) {
    desk d;
    balance_figures f;
    (void)state;
    desk_init(&d, 3, 2, 4);
    hold(&d, 30, 1);
    hold(&d, 20, 3);
    hold(&d, 10, 2);
    assert_int_equal(balance_measure(&d.in, &d.now, &f), 0);
    expect(f.rack, 40.0 / 30);
    expect(f.worst, 40.0 / 30);
    assert_int_equal(f.worst_layer, 0);
}

static void stands_a_rack_without_nodes_or_units(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 2, 1, 4);
    hold(&d, 1, 1);
    hold(&d, 1, 1);
    d.nodes[0].stays = false;
    run(&d);
    assert_int_equal(held(&d, 0), 0);
    d.in.n_nodes = 0;
    d.in.now = NULL;
    run(&d);
    d.slices[0] = 0;
    run(&d);
    assert_int_equal(d.out.target.n_units, 0);
    balance_result_fini(&d.out);
}

static void refuses_what_is_no_question(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 2, 2, 4);
    hold(&d, 1, 1);
    hold(&d, 1, 1);
    desk good = d;
    for (uint32_t i = 0; i < 11; i++) {
        d = good;
        d.in.slices = d.slices;
        d.in.unit_bytes = d.bytes;
        d.in.nodes = d.nodes;
        d.in.load = d.load;
        d.in.now = &d.now;
        d.now = (balance_map){2, d.first, d.holders};
        int want = ERR_RANGE;
        if (i == 0) d.in.min_replicas = 0;
        if (i == 1) d.in.max_replicas = 0;
        if (i == 2) d.nodes[1].speed = 0;
        if (i == 3) d.nodes[1].speed = NAN;
        if (i == 4) d.load[1] = -1;
        if (i == 5) d.load[1] = INFINITY;
        if (i == 6) d.holders[0] = 2; /* nobody */
        if (i == 7) d.now.n_units = 1;
        if (i == 8) d.bytes[0] = 0;
        if (i == 9) d.in.reserve = 1.5;
        if (i == 10) want = 0;
        assert_int_equal(balance(&d.in, &d.out), want);
        balance_result_fini(&d.out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_one_unit_away_from_a_hot_node),
        cmocka_unit_test(a_gain_must_be_more_than_chance),
        cmocka_unit_test(exchanges_units_where_nothing_else_fits),
        cmocka_unit_test(copies_a_unit_that_is_too_hot_for_one_node),
        cmocka_unit_test(makes_room_for_a_copy_by_a_detour),
        cmocka_unit_test(gives_a_fast_node_more),
        cmocka_unit_test(gives_up_cold_copies),
        cmocka_unit_test(gives_up_cold_copies_though_nothing_else_pays),
        cmocka_unit_test(keeps_copies_that_are_hot_or_of_use),
        cmocka_unit_test(leaves_even_loads_alone),
        cmocka_unit_test(leaves_small_differences_alone),
        cmocka_unit_test(leaves_alone_what_costs_too_much),
        cmocka_unit_test(does_nothing_without_loads),
        cmocka_unit_test(leaves_pinned_holders),
        cmocka_unit_test(does_not_bring_back_what_is_banned),
        cmocka_unit_test(gives_units_of_a_node_that_leaves_to_others),
        cmocka_unit_test(holds_every_unit_once_before_any_twice),
        cmocka_unit_test(takes_second_copies_for_units_without_any),
        cmocka_unit_test(sheds_what_a_smaller_offer_does_not_hold),
        cmocka_unit_test(spreads_copies_over_zones),
        cmocka_unit_test(keeps_groups_together),
        cmocka_unit_test(spreads_the_slices_of_an_expert),
        cmocka_unit_test(measures_a_map),
        cmocka_unit_test(stands_a_rack_without_nodes_or_units),
        cmocka_unit_test(refuses_what_is_no_question),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
