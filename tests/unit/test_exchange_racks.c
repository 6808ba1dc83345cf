/* test_exchange_racks.c - an exchange whose rack changes: slices of experts,
 * epochs, places for nodes that come and go. */
#include "tests/unit/exchange_rig.h"

static void asks_for_every_slice_of_an_expert(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    for (uint32_t slices = 4; slices > 0; slices /= 2) {
        post_rack(r, 1, slices, NODES, BOTH);
        for (uint32_t layer = 0; layer < 2; layer++) {
            assert_int_equal(run(r, layer), 0);
            assert_all_slices_right(r, slices);
        }
    }
    close_rig(r);
}

static void loses_a_row_with_any_of_its_slices(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    post_rack(r, 1, 4, NODES, 0);
    uint32_t layer = 9, expert = 9;
    assert_int_equal(run(r, 1), ROWS);
    exchange_missing(r->x, &layer, &expert);
    assert_int_equal(layer, 1);
    assert_int_equal(expert, experts[0]); /* the expert, not its unit */
    close_rig(r);
}

/* A node may drop what an older epoch gave it as soon as it reads this. */
static void says_the_epoch_that_requests_are_made_from(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    assert_int_equal(exchange_epoch(r->x), 0);
    post_rack(r, (uint64_t)1 << 40 | 7, 1, NODES, BOTH);
    assert_int_equal(exchange_epoch(r->x), 0);
    assert_int_equal(run(r, 0), 0);
    assert_true(exchange_epoch(r->x) == ((uint64_t)1 << 40 | 7));

    post_rack(r, (uint64_t)1 << 40 | 8, 1, NODES, BOTH);
    assert_true(exchange_epoch(r->x) == ((uint64_t)1 << 40 | 7));
    exchange_idle(r->x); /* no layer runs */
    assert_true(exchange_epoch(r->x) == ((uint64_t)1 << 40 | 8));
    close_rig(r);
}

static rig *looking;

/* In the middle of a layer: the new rack is taken up, but not for this layer.
 */
static bool look_at_epoch(void *ctx) {
    uint32_t *looks = ctx;
    assert_true(exchange_epoch(looking->x) == 1);
    if (++*looks == 1) post_rack(looking, 2, 2, NODES, BOTH);
    if (*looks == 3) atomic_store(&looking->nodes[0].manner, GOOD);
    return *looks < 1000;
}

static void keeps_its_epoch_and_slices_while_a_layer_runs(void **state) {
    (void)state;
    uint32_t looks = 0;
    rig *r = open_rig(LATE, LATE, PATIENT);
    looking = r;
    exchange_on_wait(r->x, look_at_epoch, &looks);
    post_rack(r, 1, 1, NODES, 1);
    assert_int_equal(run(r, 0), 0);
    assert_true(looks >= 3);
    assert_all_slices_right(r, 1);
    atomic_store(&r->nodes[1].manner, GOOD);
    assert_int_equal(run(r, 1), 0);
    assert_all_slices_right(r, 2);
    assert_true(exchange_epoch(r->x) == 2);
    close_rig(r);
}

static void goes_on_when_places_for_nodes_vanish(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    dispatch_node_stats s;
    post_rack(r, 1, 1, NODES, BOTH);
    assert_int_equal(run(r, 0), 0);
    post_rack(r, 2, 1, 1, 1);
    assert_int_equal(run(r, 0), 0);
    exchange_node(r->x, 1, &s);
    assert_false(s.up);
    post_rack(r, 3, 1, 0, 0);
    assert_int_equal(run(r, 0), ROWS);
    exchange_node(r->x, 0, &s);
    assert_false(s.up);
    post_rack(r, 4, 1, NODES, BOTH);
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    close_rig(r);
}

/* Whoever takes a place does not inherit what was computed there before. */
static void counts_anew_for_another_at_the_same_place(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    dispatch_node_stats s;
    for (r->serial = 5; r->serial < 8; r->serial++) {
        post_rack(r, r->serial, 1, 1, 1);
        for (uint64_t i = 1; i < r->serial; i++) {
            assert_int_equal(run(r, 0), 0);
            exchange_node(r->x, 0, &s);
            assert_int_equal(s.serial, r->serial);
            assert_int_equal(s.pairs, i * PAIRS);
        }
    }
    close_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_for_every_slice_of_an_expert),
        cmocka_unit_test(loses_a_row_with_any_of_its_slices),
        cmocka_unit_test(says_the_epoch_that_requests_are_made_from),
        cmocka_unit_test(keeps_its_epoch_and_slices_while_a_layer_runs),
        cmocka_unit_test(goes_on_when_places_for_nodes_vanish),
        cmocka_unit_test(counts_anew_for_another_at_the_same_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
