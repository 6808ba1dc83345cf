/* test_planner.c - placements of small racks, step by step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/err.h"
#include "tests/support/planner_rack.h"

static void expect_holders(const planner_rack *r, uint32_t least,
                           uint32_t most) {
    uint32_t low, high;
    planner_rack_range(r, &low, &high);
    assert_int_equal(low, least);
    assert_int_equal(high, most);
}

/* ---- first placements ---- */

static void holds_every_unit_as_often_as_wanted(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 3, 8, 1, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);

    assert_int_equal(planner_rack_settle(&r), 1);
    expect_holders(&r, 2, 2);
    assert_int_equal(planner_rack_units(&r, "a"), 16);
    assert_int_equal(planner_rack_units(&r, "b"), 16);
    assert_int_equal(planner_rack_units(&r, "c"), 16);
    assert_int_equal(rack_placement_epoch(r.now), epoch_pack(1, 1));
    planner_rack_fini(&r);
}

static void leaves_dense_layers_alone(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 3, 8, 1, 1);
    r.slices[1] = 0;
    planner_rack_join(&r, "a", 100);
    planner_rack_settle(&r);
    assert_null(rack_placement_layer(r.now, 1));
    assert_int_equal(planner_rack_units(&r, "a"), 16);
    planner_rack_fini(&r);
}

static void does_nothing_without_nodes(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 3, 8, 1, 2);
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_join(&r, "a", 0);
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_fini(&r);
}

static void shares_out_by_memory(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 4, 30, 1, 1);
    planner_rack_join(&r, "big", 400);
    planner_rack_join(&r, "mid", 200);
    planner_rack_join(&r, "small", 100);
    planner_rack_settle(&r);
    assert_in_range(planner_rack_units(&r, "big"), 66, 71); /* of 120 */
    assert_in_range(planner_rack_units(&r, "mid"), 33, 36);
    assert_in_range(planner_rack_units(&r, "small"), 16, 19);
    planner_rack_fini(&r);
}

static void spreads_each_layer_over_the_nodes(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 5, 16, 1, 1);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);
    planner_rack_join(&r, "d", 100);
    planner_rack_settle(&r);
    for (uint32_t l = 0; l < 5; l++) {
        for (uint32_t i = 0; i < r.n_nodes; i++) {
            uint32_t n = 0;
            for (uint32_t u = 0; u < 16; u++)
                n += planner_rack_holds(&r, r.names[i], l, u);
            assert_in_range(n, 3, 5);
        }
    }
    planner_rack_fini(&r);
}

/* A node whose share of a layer is less than one unit gets some of some layers.
 */
static void gives_small_shares_too(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 20, 4, 1, 1);
    planner_rack_join(&r, "big", 900);
    planner_rack_join(&r, "small", 100);
    planner_rack_settle(&r);
    assert_in_range(planner_rack_units(&r, "small"), 6, 10); /* 8 of 80 */
    planner_rack_fini(&r);
}

static void spreads_the_slices_of_an_expert(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 8, 4, 1);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);
    planner_rack_join(&r, "d", 100);
    planner_rack_settle(&r);
    uint32_t together = 0;
    for (uint32_t l = 0; l < 2; l++) {
        for (uint32_t e = 0; e < 8; e++) {
            for (uint32_t i = 0; i < r.n_nodes; i++) {
                uint32_t n = 0;
                for (uint32_t s = 0; s < 4; s++)
                    n += planner_rack_holds(&r, r.names[i], l, e * 4 + s);
                if (n > 1) together += n - 1;
            }
        }
    }
    assert_in_range(together, 0, 6); /* of 64; by chance it would be 20 */
    planner_rack_fini(&r);
}

static void gives_everybody_one_before_anybody_gets_two(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 10, 1, 2);
    planner_rack_join(&r, "a", 15);
    planner_rack_join(&r, "b", 15);
    planner_rack_settle(&r);
    expect_holders(&r, 1, 2);
    /* each keeps room for one unit, so that something can move */
    assert_int_equal(planner_rack_units(&r, "a") + planner_rack_units(&r, "b"),
                     28);
    planner_rack_fini(&r);
}

static void fills_memory_that_is_just_enough(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 3, 6, 1, 2);
    planner_rack_join(&r, "a", 18);
    planner_rack_join(&r, "b", 18);
    planner_rack_settle(&r);
    expect_holders(&r, 2, 2);
    planner_rack_fini(&r);

    planner_rack_init(&r, 3, 3, 1, 1);
    planner_rack_join(&r, "a", 5);
    planner_rack_join(&r, "b", 4);
    planner_rack_settle(&r);
    expect_holders(&r, 1, 1);
    planner_rack_fini(&r);
}

static void places_what_fits_where_memory_is_short(void **state) {
    planner_rack r;
    planner_health h;
    (void)state;
    planner_rack_init(&r, 2, 10, 1, 2);
    planner_rack_join(&r, "a", 7);
    planner_rack_join(&r, "b", 5);
    planner_rack_settle(&r);
    planner_input in = planner_rack_input(&r);
    planner_look(&in, &h);
    assert_int_equal(h.units, 20);
    assert_int_equal(h.unplaced, 8);
    assert_int_equal(h.single, 12);
    planner_rack_fini(&r);
}

/* ---- changes ---- */

static void gives_a_joined_node_its_share(void **state) {
    planner_rack r;
    uint64_t added, removed;
    (void)state;
    planner_rack_init(&r, 4, 12, 1, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_settle(&r); /* 48 each */
    planner_rack_join(&r, "c", 100);

    assert_true(planner_rack_step(&r, &added, &removed));
    assert_in_range(added, 30, 33); /* 32, and nothing moves without need */
    assert_int_equal(removed, 0);
    assert_int_equal(planner_rack_units(&r, "c"), added);
    /* c has not loaded yet: what it will take over stays */
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_node(&r, "a")->ready_epoch = rack_placement_epoch(r.now);
    planner_rack_node(&r, "b")->ready_epoch = rack_placement_epoch(r.now);
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_ready(&r);
    uint64_t given = added;
    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, 0);
    assert_int_equal(removed, given);
    planner_rack_ready(&r);
    assert_false(planner_rack_step(&r, NULL, NULL));
    expect_holders(&r, 2, 2);
    assert_in_range(planner_rack_units(&r, "a"), 31, 33);
    assert_in_range(planner_rack_units(&r, "b"), 31, 33);
    planner_rack_fini(&r);
}

static void ignores_small_changes_of_memory(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 10, 64, 1, 2);
    planner_rack_join(&r, "a", 1000);
    planner_rack_join(&r, "b", 1000);
    planner_rack_join(&r, "c", 1000);
    planner_rack_join(&r, "d", 1000);
    planner_rack_settle(&r);
    planner_rack_node(&r, "b")->memory_bytes = 97000;
    planner_rack_node(&r, "c")->memory_bytes = 103000;
    planner_rack_ready(&r);
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_fini(&r);
}

static void waits_for_a_node_that_restarts(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 4, 12, 1, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);
    planner_rack_settle(&r);
    planner_node *b = planner_rack_node(&r, "b");
    b->live = false;
    b->missing = true;
    b->memory_bytes = 0;
    b->ready_epoch = 0;
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_join(&r, "b", 100); /* back, with nothing loaded */
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_ready(&r);
    assert_false(planner_rack_step(&r, NULL, NULL));
    planner_rack_fini(&r);
}

static void replaces_a_node_that_is_gone(void **state) {
    planner_rack r;
    uint64_t added, removed;
    (void)state;
    planner_rack_init(&r, 4, 12, 1, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);
    planner_rack_settle(&r);
    uint64_t lost = planner_rack_units(&r, "b");
    planner_rack_node(&r, "b")->live = false;

    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, lost);
    assert_int_equal(removed, lost); /* the others are ready */
    planner_rack_settle(&r);
    expect_holders(&r, 2, 2);
    assert_int_equal(planner_rack_units(&r, "b"), 0);
    assert_int_equal(planner_rack_units(&r, "a"), 48);
    planner_rack_fini(&r);
}

/* It may be alive and only cut off from etcd; then it still serves. */
static void names_a_gone_holder_until_another_is_ready(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 1, 6, 1, 1);
    planner_rack_join(&r, "a", 10);
    planner_rack_join(&r, "b", 10);
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "b"), 3);
    planner_rack_node(&r, "b")->live = false;

    assert_true(planner_rack_step(&r, NULL, NULL));
    assert_int_equal(planner_rack_units(&r, "b"), 3);
    assert_int_equal(planner_rack_units(&r, "a"), 6);
    planner_rack_ready(&r);
    assert_true(planner_rack_step(&r, NULL, NULL));
    assert_int_equal(planner_rack_units(&r, "b"), 0);
    planner_rack_fini(&r);
}

static void drains_a_node(void **state) {
    planner_rack r;
    uint64_t added, removed;
    (void)state;
    planner_rack_init(&r, 4, 12, 1, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);
    planner_rack_settle(&r);
    uint64_t held = planner_rack_units(&r, "c");
    planner_rack_node(&r, "c")->draining = true;

    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(added, held);
    assert_int_equal(removed, 0);
    assert_int_equal(planner_rack_units(&r, "c"), held);
    planner_rack_ready(&r);
    assert_true(planner_rack_step(&r, &added, &removed));
    assert_int_equal(removed, held);
    assert_int_equal(planner_rack_units(&r, "c"), 0);
    expect_holders(&r, 2, 2);
    planner_rack_ready(&r);
    assert_false(planner_rack_step(&r, NULL, NULL));

    planner_rack_node(&r, "c")->draining =
        false; /* undone: it gets its share again */
    planner_rack_settle(&r);
    assert_in_range(planner_rack_units(&r, "c"), 31, 33);
    planner_rack_fini(&r);
}

/* With two nodes and two replicas, one node has to be enough. */
static void drains_the_last_but_one(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 8, 1, 2);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_settle(&r);
    planner_rack_node(&r, "b")->draining = true;
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "a"), 16);
    assert_int_equal(planner_rack_units(&r, "b"), 0);
    planner_rack_node(&r, "a")->draining = true; /* nobody is left */
    assert_int_equal(planner_rack_settle(&r), 0);
    assert_int_equal(planner_rack_units(&r, "a"), 16);
    planner_rack_fini(&r);
}

static void drains_into_the_place_of_second_copies(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 8, 1, 2);
    planner_rack_join(&r, "a", 12);
    planner_rack_join(&r, "b", 12);
    planner_rack_join(&r, "c", 12);
    planner_rack_settle(&r);
    planner_rack_node(&r, "c")->draining = true;
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "c"), 0);
    expect_holders(&r, 1, 2);
    planner_rack_fini(&r);
}

static void does_not_drain_what_fits_nowhere_else(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 1, 10, 1, 1);
    planner_rack_join(&r, "a", 6);
    planner_rack_join(&r, "b", 6);
    planner_rack_settle(&r);
    planner_rack_node(&r, "b")->draining = true;
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "a"), 6);
    assert_int_equal(planner_rack_units(&r, "b"), 4);
    expect_holders(&r, 1, 1);
    planner_rack_fini(&r);
}

static void takes_second_copies_back_for_units_without_any(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 10, 1, 2);
    planner_rack_join(&r, "a", 14);
    planner_rack_join(&r, "b", 14);
    planner_rack_join(&r, "c", 14);
    planner_rack_settle(&r);
    planner_rack_node(&r, "a")->live = false;
    planner_rack_settle(&r);
    expect_holders(&r, 1, 2);
    assert_int_equal(planner_rack_units(&r, "a"), 0);
    planner_rack_fini(&r);
}

static void sheds_what_a_smaller_offer_does_not_hold(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 10, 1, 1);
    planner_rack_join(&r, "a", 20);
    planner_rack_join(&r, "b", 20);
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "a"), 10);
    planner_rack_node(&r, "a")->memory_bytes = 400;
    planner_rack_settle(&r);
    assert_int_equal(planner_rack_units(&r, "a"), 4);
    assert_int_equal(planner_rack_units(&r, "b"), 16);
    expect_holders(&r, 1, 1);
    planner_rack_fini(&r);
}

/* All live nodes have loaded what they should, as far as it fits: who was given
 * more never says that all of it is there. */
static void load_what_fits(planner_rack *r) {
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        planner_node *n = &r->nodes[i];
        bool fits = planner_rack_units(r, n->name) * 100 <= n->memory_bytes;
        n->ready_epoch = fits ? rack_placement_epoch(r->now) : 0;
    }
}

static void settle_what_fits(planner_rack *r) {
    load_what_fits(r);
    for (int i = 0; planner_rack_step(r, NULL, NULL); i++) {
        load_what_fits(r);
        assert_true(i < 300);
    }
}

/* Its memory is smaller after a restart, and smaller still after the next. */
static void expect_shed(uint32_t replicas, uint32_t n_nodes, uint64_t rest) {
    planner_rack r;
    planner_rack_init(&r, 2, 12, 1, replicas);
    planner_rack_join(&r, "a", 24);
    planner_rack_join(&r, "b", 24);
    if (n_nodes > 2) planner_rack_join(&r, "c", 24);
    planner_rack_settle(&r);
    planner_rack_node(&r, "a")->memory_bytes = 700;
    planner_rack_node(&r, "a")->ready_epoch = 0;
    settle_what_fits(&r);
    assert_true(planner_rack_units(&r, "a") <= 7);
    planner_rack_node(&r, "a")->memory_bytes = rest * 100;
    planner_rack_node(&r, "a")->ready_epoch = 0;
    settle_what_fits(&r);
    assert_true(planner_rack_units(&r, "a") <= rest);
    uint32_t least, most;
    planner_rack_range(&r, &least, &most);
    assert_true(least >= 1);
    planner_rack_fini(&r);
}

static void sheds_a_node_that_comes_back_smaller_and_smaller(void **state) {
    (void)state;
    expect_shed(1, 2, 2);
    expect_shed(2, 2, 2); /* b has all, and nobody else could */
    expect_shed(1, 3, 2);
    expect_shed(2, 3, 2);
    expect_shed(3, 3, 2);
    expect_shed(2, 3, 0);
}

/* Restarted a second time while the first change is still being made. */
static void sheds_a_node_that_shrinks_while_it_is_shed(void **state) {
    (void)state;
    planner_rack r;
    planner_rack_init(&r, 2, 12, 1, 2);
    planner_rack_join(&r, "a", 24);
    planner_rack_join(&r, "b", 24);
    planner_rack_join(&r, "c", 24);
    planner_rack_settle(&r);
    for (uint64_t memory = 1500; memory >= 300; memory -= 300) {
        planner_rack_node(&r, "a")->memory_bytes = memory;
        (void)planner_rack_step(&r, NULL, NULL);
        load_what_fits(&r);
    }
    settle_what_fits(&r);
    assert_true(planner_rack_units(&r, "a") <= 3);
    planner_rack_fini(&r);
}

static void gives_the_place_of_a_gone_node_to_another(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 8, 1, 1);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_settle(&r);
    int32_t place = rack_placement_node(r.now, "a");
    planner_rack_node(&r, "a")->live = false;
    planner_rack_settle(&r);
    planner_rack_join(&r, "c", 100);
    planner_rack_settle(&r);
    assert_int_equal(rack_placement_node(r.now, "a"), -1);
    assert_int_equal(rack_placement_node(r.now, "c"), place);
    assert_int_equal(rack_placement_head(r.now)->n_nodes, 2);
    planner_rack_fini(&r);
}

static void raises_the_number_of_replicas(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 2, 9, 1, 1);
    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_join(&r, "c", 100);
    planner_rack_settle(&r);
    r.model.min_replicas = 3;
    planner_rack_settle(&r);
    expect_holders(&r, 3, 3);
    r.model.min_replicas = 2;
    planner_rack_settle(&r);
    expect_holders(&r, 2, 2);
    assert_in_range(planner_rack_units(&r, "a"), 11, 13);
    planner_rack_fini(&r);
}

static void writes_large_models_in_several_steps(void **state) {
    planner_rack r;
    (void)state;
    planner_rack_init(&r, 120, 4, 1, 1);
    planner_rack_join(&r, "a", 1000);
    planner_rack_join(&r, "b", 1000);
    planner_input in = planner_rack_input(&r);
    planner_step step;
    assert_int_equal(planner_next(&in, &step), 0);
    assert_int_equal(step.n_layers, PLANNER_STEP_LAYERS);
    assert_true(step.more);
    planner_rack_apply(&r, &step);
    planner_step_fini(&step);

    /* the second does not wait for what the first one gave */
    in = planner_rack_input(&r);
    assert_int_equal(planner_next(&in, &step), 0);
    assert_int_equal(step.n_layers, 20);
    assert_false(step.more);
    planner_rack_apply(&r, &step);
    planner_step_fini(&step);
    assert_int_equal(planner_rack_settle(&r), 0);
    expect_holders(&r, 1, 1);
    planner_rack_fini(&r);
}

static void refuses_a_placement_of_another_model(void **state) {
    planner_rack r;
    planner_step step;
    (void)state;
    planner_rack_init(&r, 2, 8, 2, 1);
    planner_rack_join(&r, "a", 100);
    planner_rack_settle(&r);
    planner_input in = planner_rack_input(&r);
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
    planner_rack_fini(&r);
}

/* ---- health ---- */

static void says_whose_loss_would_be_felt(void **state) {
    planner_rack r;
    planner_health h;
    (void)state;
    planner_rack_init(&r, 2, 8, 1, 2);
    planner_input in = planner_rack_input(&r);
    planner_look(&in, &h);
    assert_int_equal(h.unplaced, 16);
    assert_false(h.survives_largest);

    planner_rack_join(&r, "a", 100);
    planner_rack_join(&r, "b", 100);
    planner_rack_settle(&r);
    in = planner_rack_input(&r);
    planner_look(&in, &h);
    assert_true(h.survives_largest);
    assert_int_equal(h.moving + h.unplaced + h.single + h.lost_units, 0);
    assert_string_equal(h.weakest, "");

    planner_rack_node(&r, "a")->ready_epoch = 0; /* restarted */
    planner_look(&in, &h);
    assert_false(h.survives_largest);
    assert_string_equal(h.weakest, "b");
    assert_int_equal(h.lost_units, 16);
    assert_int_equal(h.moving, 16);

    planner_rack_node(&r, "a")->live = false;
    planner_look(&in, &h);
    assert_int_equal(h.single, 16);
    assert_int_equal(h.moving, 0);
    planner_rack_fini(&r);
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
        cmocka_unit_test(sheds_a_node_that_comes_back_smaller_and_smaller),
        cmocka_unit_test(sheds_a_node_that_shrinks_while_it_is_shed),
        cmocka_unit_test(gives_the_place_of_a_gone_node_to_another),
        cmocka_unit_test(raises_the_number_of_replicas),
        cmocka_unit_test(writes_large_models_in_several_steps),
        cmocka_unit_test(refuses_a_placement_of_another_model),
        cmocka_unit_test(says_whose_loss_would_be_felt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
