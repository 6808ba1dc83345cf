/* test_planner_target.c - steps towards what the balancer wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "tests/support/planner_rack.h"

#define MOST 256

/* A target that is written down unit by unit, as sets of bits. */
typedef struct {
    balance_map map;
    uint32_t first[MOST + 1];
    uint16_t nodes[8 * MOST];
} wish;

static void wish_init(wish *w) {
    memset(w, 0, sizeof(*w));
    w->map = (balance_map){0, w->first, w->nodes};
}

static void want(wish *w, uint32_t nodes) {
    uint32_t at = w->first[w->map.n_units];
    for (uint32_t i = 0; i < 16; i++) {
        if ((nodes >> i & 1) != 0) w->nodes[at++] = (uint16_t)i;
    }
    w->first[++w->map.n_units] = at;
}

static uint32_t wanted(const wish *w, uint32_t unit) {
    uint32_t nodes = 0;
    for (uint32_t i = w->first[unit]; i < w->first[unit + 1]; i++)
        nodes |= 1u << w->nodes[i];
    return nodes;
}

static uint32_t held(const planner_rack *r, uint32_t layer, uint32_t unit) {
    uint32_t nodes = 0;
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (planner_rack_holds(r, r->names[i], layer, unit)) nodes |= 1u << i;
    }
    return nodes;
}

static void moves_and_copies_as_it_is_told(void **state) {
    planner_rack r;
    wish w;
    uint64_t added, removed;
    (void)state;
    planner_rack_init(&r, 1, 6, 1, 1);
    planner_rack_join(&r, "a", 20);
    planner_rack_join(&r, "b", 20);
    planner_rack_settle(&r);
    wish_init(&w);
    uint32_t moved = 0;
    for (uint32_t u = 0; u < 6; u++) {
        uint32_t now = held(&r, 0, u);
        if (u == 0) want(&w, 3);
        if (u == 1) want(&w, 3 - now);
        if (u > 1) want(&w, now);
        moved += u == 1;
    }
    r.target = &w.map;
    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, 1 + moved);
    assert_int_equal(removed, 0);
    assert_false(planner_rack_step(&r, NULL, NULL)); /* nobody is ready */
    planner_rack_ready(&r);
    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, 0);
    assert_int_equal(removed, moved);
    planner_rack_ready(&r);
    assert_false(planner_rack_step(&r, NULL, NULL));
    for (uint32_t u = 0; u < 6; u++)
        assert_int_equal(held(&r, 0, u), wanted(&w, u));
    planner_rack_fini(&r);
}

static void keeps_as_many_holders_as_there_must_be(void **state) {
    planner_rack r;
    wish w;
    (void)state;
    planner_rack_init(&r, 1, 4, 1, 2);
    planner_rack_join(&r, "a", 20);
    planner_rack_join(&r, "b", 20);
    planner_rack_join(&r, "c", 20);
    planner_rack_settle(&r);
    wish_init(&w);
    for (uint32_t u = 0; u < 4; u++)
        want(&w, u == 0 ? 0 : 1);
    r.target = &w.map;
    planner_rack_settle(&r);
    for (uint32_t u = 0; u < 4; u++) {
        assert_int_equal(planner_rack_holders(&r, 0, u), 2);
        if (u > 0) assert_true((held(&r, 0, u) & 1) != 0);
    }
    planner_rack_fini(&r);
}

/* Everything changes places, and there is room for one unit at a time. */
static void moves_in_waves_where_memory_is_short(void **state) {
    planner_rack r;
    wish w;
    (void)state;
    planner_rack_init(&r, 1, 8, 1, 1);
    planner_rack_join(&r, "a", 5);
    planner_rack_join(&r, "b", 5);
    planner_rack_settle(&r);
    wish_init(&w);
    for (uint32_t u = 0; u < 8; u++)
        want(&w, 3 - held(&r, 0, u));
    r.target = &w.map;
    uint32_t steps = 0;
    while (planner_rack_step(&r, NULL, NULL)) {
        assert_true(planner_rack_units(&r, "a") <= 5);
        assert_true(planner_rack_units(&r, "b") <= 5);
        planner_rack_ready(&r);
        assert_true(++steps < 40);
    }
    assert_true(steps >= 6);
    for (uint32_t u = 0; u < 8; u++)
        assert_int_equal(held(&r, 0, u), wanted(&w, u));
    planner_rack_fini(&r);
}

static void passes_over_nodes_that_are_away(void **state) {
    planner_rack r;
    wish w;
    (void)state;
    planner_rack_init(&r, 1, 4, 1, 1);
    planner_rack_join(&r, "a", 20);
    planner_rack_join(&r, "b", 20);
    planner_rack_settle(&r);
    wish_init(&w);
    for (uint32_t u = 0; u < 4; u++)
        want(&w, 2);
    r.target = &w.map;
    planner_rack_node(&r, "b")->live = false; /* gone */
    planner_rack_node(&r, "b")->ready_epoch = 0;
    planner_rack_settle(&r);
    for (uint32_t u = 0; u < 4; u++)
        assert_int_equal(held(&r, 0, u), 1);
    planner_rack_fini(&r);
}

/* A unit has one holder left, and those that could be its second are full, one
 * of them with a copy that another unit can spare. */
static void puts_enough_of_all_before_more_of_one(void **state) {
    static const uint32_t goal[] = {7, 12, 3};
    planner_rack r;
    wish w;
    (void)state;
    planner_rack_init(&r, 1, 3, 1, 2);
    planner_rack_join(&r, "a", 2);
    planner_rack_join(&r, "b", 2);
    planner_rack_join(&r, "c", 4);
    planner_rack_join(&r, "d", 4);
    wish_init(&w);
    for (uint32_t u = 0; u < 3; u++)
        want(&w, goal[u]);
    planner_rack_settle(&r);
    r.target = &w.map;
    planner_rack_settle(&r);
    for (uint32_t u = 0; u < 3; u++)
        assert_int_equal(held(&r, 0, u), goal[u]);
    planner_rack_node(&r, "d")->live = false; /* gone */
    planner_rack_node(&r, "d")->ready_epoch = 0;
    assert_true(planner_rack_settle(&r) <= 3);
    for (uint32_t u = 0; u < 3; u++)
        assert_int_equal(planner_rack_holders(&r, 0, u), 2);
    planner_rack_fini(&r);
}

/* What was on its way to a node that comes back with less memory stays where it
 * is; what only that node has cannot go elsewhere before. */
static void gives_up_moves_to_a_node_that_lost_memory(void **state) {
    planner_rack r;
    wish before, after;
    uint64_t added, removed;
    (void)state;
    planner_rack_init(&r, 1, 7, 1, 1);
    planner_rack_join(&r, "a", 4);
    planner_rack_join(&r, "b", 6);
    wish_init(&before);
    wish_init(&after);
    for (uint32_t u = 0; u < 7; u++) {
        want(&before, u == 0 ? 1 : 2);
        want(&after, u <= 3 ? 1 : 2);
    }
    planner_rack_settle(&r);
    r.target = &before.map;
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "b"), 6);
    r.target = &after.map;
    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, 3);
    planner_rack_ready(&r);
    planner_rack_join(&r, "a", 3); /* started anew */
    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, 0);
    assert_int_equal(removed, 1);
    assert_true(planner_rack_holds(&r, "a", 0, 0));
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "a"), 3);
    assert_int_equal(planner_rack_units(&r, "b"), 4);
    for (uint32_t u = 0; u < 7; u++)
        assert_int_equal(planner_rack_holders(&r, 0, u), 1);
    planner_rack_fini(&r);
}

static void refuses_a_target_of_another_model(void **state) {
    planner_rack r;
    wish w;
    planner_step step;
    (void)state;
    planner_rack_init(&r, 1, 4, 1, 1);
    planner_rack_join(&r, "a", 20);
    wish_init(&w);
    for (uint32_t u = 0; u < 3; u++)
        want(&w, 1);
    r.target = &w.map;
    planner_input in = planner_rack_input(&r);
    assert_int_equal(planner_next(&in, &step), ERR_RANGE);
    want(&w, 2); /* there is no second node */
    assert_int_equal(planner_next(&in, &step), ERR_RANGE);
    planner_rack_fini(&r);
}

/* ---- at random ---- */

static uint64_t seed;

static uint32_t below(uint32_t n) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

static void wish_at_random(wish *w, uint32_t units, uint32_t nodes) {
    wish_init(w);
    for (uint32_t u = 0; u < units; u++) {
        uint32_t set = 0, n = 1 + below(3);
        while (n-- > 0)
            set |= 1u << below(nodes);
        want(w, set);
    }
}

static void some_get_ready(planner_rack *r) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (below(2) == 0 || r->now == NULL) continue;
        r->nodes[i].ready_epoch = rack_placement_epoch(r->now);
    }
}

/* Whoever is ready for the newest epoch holds what that gives it; there is
 * always somebody like that for every unit that had one. */
static void reaches_any_target_that_fits(void **state) {
    (void)state;
    for (uint64_t run = 1; run <= 60; run++) {
        planner_rack r;
        wish w;
        seed = run;
        uint32_t layers = 1 + below(3), experts = 1 + below(12);
        uint32_t nodes = 1 + below(5), replicas = 1 + below(2);
        planner_rack_init(&r, layers, experts, 1, replicas);
        for (uint32_t i = 0; i < nodes; i++) {
            char name[16];
            snprintf(name, sizeof(name), "n%u", i);
            planner_rack_join(&r, name, (uint64_t)layers * experts + 4);
        }
        planner_rack_settle(&r);
        for (uint32_t turn = 0; turn < 4; turn++) {
            wish_at_random(&w, layers * experts, nodes);
            r.target = &w.map;
            for (uint32_t i = 0; i < 8; i++) { /* may be cut short */
                planner_rack_step(&r, NULL, NULL);
                some_get_ready(&r);
            }
        }
        planner_rack_settle(&r);
        for (uint32_t u = 0; u < layers * experts; u++) {
            uint32_t is = held(&r, u / experts, u % experts);
            assert_int_equal(is & wanted(&w, u), wanted(&w, u));
            if (__builtin_popcount(wanted(&w, u)) >= (int)replicas) {
                assert_int_equal(is, wanted(&w, u));
            }
        }
        planner_rack_fini(&r);
    }
}

/* Is there memory for as many copies of everything as there must be? */
static bool is_roomy(const planner_rack *r, uint32_t units) {
    uint64_t room = 0, stay = 0, replicas = r->model.min_replicas;
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        uint64_t fits = r->nodes[i].memory_bytes / 100;
        if (!r->nodes[i].live) continue;
        room += fits < units ? fits : units;
        stay++;
    }
    return stay >= replicas && room >= replicas * units;
}

/* Could a unit that lacks a holder have the place of a copy to spare? */
static bool could_make_way(const planner_rack *r, uint32_t experts,
                           uint32_t lacking) {
    uint32_t few = planner_rack_holders(r, 0, lacking);
    if (few >= r->model.min_replicas) return false;
    for (uint32_t u = 0; u < experts; u++) {
        uint32_t there = held(r, 0, u) & ~held(r, 0, lacking);
        if (planner_rack_holders(r, 0, u) >= few + 2 && there != 0) return true;
    }
    return false;
}

/* Whatever it is told, and whatever memory nodes come back with. */
static void comes_to_rest_with_nobody_short_beside_plenty(void **state) {
    uint32_t roomy = 0;
    (void)state;
    for (uint64_t run = 1; run <= 200; run++) {
        planner_rack r;
        wish w;
        seed = 1000 + run;
        uint32_t experts = 2 + below(12), nodes = 2 + below(4);
        planner_rack_init(&r, 1, experts, 1, 1 + below(2));
        for (uint32_t i = 0; i < nodes; i++) {
            char name[16];
            snprintf(name, sizeof(name), "n%u", i);
            planner_rack_join(&r, name, experts / 2 + below(experts) + 1);
        }
        planner_rack_settle(&r);
        for (uint32_t turn = 0; turn < 4; turn++) {
            planner_node *n = &r.nodes[below(nodes)];
            wish_at_random(&w, experts, nodes);
            r.target = &w.map;
            planner_rack_step(&r, NULL, NULL);
            planner_rack_join(&r, n->name, experts / 2 + below(experts) + 1);
            some_get_ready(&r);
            planner_rack_step(&r, NULL, NULL);
            planner_rack_settle(&r);
            if (!is_roomy(&r, experts)) continue;
            roomy++;
            for (uint32_t u = 0; u < experts; u++)
                assert_false(could_make_way(&r, experts, u));
        }
        planner_rack_fini(&r);
    }
    assert_true(roomy > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_and_copies_as_it_is_told),
        cmocka_unit_test(keeps_as_many_holders_as_there_must_be),
        cmocka_unit_test(moves_in_waves_where_memory_is_short),
        cmocka_unit_test(passes_over_nodes_that_are_away),
        cmocka_unit_test(puts_enough_of_all_before_more_of_one),
        cmocka_unit_test(gives_up_moves_to_a_node_that_lost_memory),
        cmocka_unit_test(refuses_a_target_of_another_model),
        cmocka_unit_test(reaches_any_target_that_fits),
        cmocka_unit_test(comes_to_rest_with_nobody_short_beside_plenty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
