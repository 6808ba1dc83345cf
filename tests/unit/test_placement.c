/* test_placement.c - who holds what, from what the nodes said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include "coordinator/placement.h"
#include "engine/err.h"

#define LAYERS 3
#define EXPERTS 5

static holdings share(uint32_t index, uint32_t n_nodes, uint32_t replicas) {
    holdings h;
    assert_int_equal(holdings_init(&h, LAYERS, EXPERTS), 0);
    assert_int_equal(holdings_add_share(&h, index, n_nodes, replicas), 0);
    return h;
}

/* Of whole experts. */
static int make(placement **p, uint64_t epoch, const holdings *const *nodes,
                uint32_t n_nodes) {
    const placement_shape shape = {
        .epoch = epoch, .n_layers = LAYERS, .n_experts = EXPERTS};
    return placement_new(p, &shape, nodes, n_nodes);
}

static void lists_the_holders_of_an_expert_ascending(void **state) {
    holdings a = share(0, 3, 2), b = share(1, 3, 2), c = share(2, 3, 2);
    const holdings *nodes[] = {&a, &b, &c};
    placement *p;
    (void)state;

    assert_int_equal(make(&p, 7, nodes, 3), 0);
    assert_int_equal(placement_epoch(p), 7);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (uint32_t expert = 0; expert < EXPERTS; expert++) {
            uint32_t n;
            const uint16_t *held = placement_nodes(p, layer, expert, &n);
            assert_int_equal(n, 2);
            assert_true(held[0] < held[1]);
            assert_true(holdings_has(nodes[held[0]], layer, expert));
            assert_true(holdings_has(nodes[held[1]], layer, expert));
        }
    }
    placement_unref(p);
    holdings_fini(&a);
    holdings_fini(&b);
    holdings_fini(&c);
}

static void skips_nodes_that_hold_nothing_now(void **state) {
    holdings a = share(0, 1, 1);
    const holdings *nodes[] = {NULL, &a, NULL};
    placement *p;
    (void)state;

    assert_int_equal(make(&p, 1, nodes, 3), 0);
    uint32_t n;
    assert_int_equal(placement_nodes(p, 2, 4, &n)[0], 1);
    assert_int_equal(n, 1);
    placement_unref(p);
    holdings_fini(&a);
}

static void counts_what_nobody_and_what_one_node_holds(void **state) {
    holdings a, b;
    placement *p;
    (void)state;

    assert_int_equal(holdings_init(&a, LAYERS, EXPERTS), 0);
    assert_int_equal(holdings_init(&b, LAYERS, EXPERTS), 0);
    holdings_add(&a, 1, 0);
    holdings_add(&a, 1, 1);
    holdings_add(&b, 1, 1);
    holdings_add(&b, 2, 4);
    const holdings *nodes[] = {&a, &b};
    assert_int_equal(make(&p, 1, nodes, 2), 0);

    uint32_t unheld, single;
    placement_coverage(p, 1, &unheld, &single);
    assert_int_equal(single, 2);
    assert_int_equal(unheld, 2 * EXPERTS - 3);
    placement_coverage(p, LAYERS, &unheld, &single);
    assert_int_equal(unheld + single, 0);
    placement_unref(p);
    holdings_fini(&a);
    holdings_fini(&b);
}

static void holds_nothing_without_nodes(void **state) {
    placement *p;
    uint32_t n, unheld, single;
    (void)state;

    assert_int_equal(make(&p, 1, NULL, 0), 0);
    placement_nodes(p, 0, 0, &n);
    assert_int_equal(n, 0);
    placement_coverage(p, 0, &unheld, &single);
    assert_int_equal(unheld, LAYERS * EXPERTS);
    placement_unref(p);
}

static void refuses_a_node_of_another_shape(void **state) {
    holdings a;
    placement *p;
    (void)state;

    assert_int_equal(holdings_init(&a, LAYERS, EXPERTS + 1), 0);
    const holdings *nodes[] = {&a};
    assert_int_equal(make(&p, 1, nodes, 1), ERR_RANGE);
    assert_null(p);
    holdings_fini(&a);
}

static void refuses_more_nodes_than_the_limit(void **state) {
    static const holdings *nodes[PLACEMENT_MAX_NODES + 1];
    placement *p;
    (void)state;

    assert_int_equal(make(&p, 1, nodes, PLACEMENT_MAX_NODES + 1), ERR_RANGE);
    const placement_shape deep = {.n_layers = HOLDINGS_MAX_LAYERS + 1,
                                  .n_experts = 1};
    assert_int_equal(placement_new(&p, &deep, nodes, 0), ERR_RANGE);
    assert_null(p);
}

static void *drop_reference(void *p) {
    placement_unref(p);
    return NULL;
}

static void lives_until_the_last_reference_is_dropped(void **state) {
    holdings a = share(0, 1, 1);
    const holdings *nodes[] = {&a};
    placement *p;
    (void)state;

    assert_int_equal(make(&p, 9, nodes, 1), 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, drop_reference, placement_ref(p)),
            0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(placement_epoch(p), 9);
    placement_unref(p);
    placement_unref(NULL);
    holdings_fini(&a);
}

static void numbers_units_by_the_slices_of_their_layer(void **state) {
    (void)state;
    static const uint32_t cut[LAYERS] = {0, 4, 2};
    const placement_shape shape = {.epoch = 3,
                                   .n_layers = LAYERS,
                                   .n_experts = EXPERTS,
                                   .slices = 4,
                                   .layer_slices = cut};
    holdings a;
    placement *p;
    uint32_t n, unheld, single;
    assert_int_equal(holdings_init_slices(&a, LAYERS, EXPERTS, 4), 0);
    holdings_add(&a, 1, 19);
    holdings_add(&a, 2, 9);
    const holdings *nodes[] = {NULL, &a};
    assert_int_equal(placement_new(&p, &shape, nodes, 2), 0);
    assert_int_equal(placement_max_slices(p), 4);
    assert_int_equal(placement_slices(p, 0), 0);
    assert_int_equal(placement_slices(p, 1), 4);
    assert_int_equal(placement_slices(p, 2), 2);
    assert_int_equal(placement_nodes(p, 1, 19, &n)[0], 1);
    assert_int_equal(n, 1);
    placement_nodes(p, 1, 18, &n);
    assert_int_equal(n, 0);
    assert_int_equal(placement_nodes(p, 2, 9, &n)[0], 1);
    placement_coverage(p, 0, &unheld, &single);
    assert_int_equal(single, 2);
    assert_int_equal(unheld, 4 * EXPERTS + 2 * EXPERTS - 2);
    placement_unref(p);
    holdings_fini(&a);
}

static void refuses_slices_that_do_not_fit(void **state) {
    (void)state;
    static const uint32_t cut[LAYERS] = {1, 4, 2};
    placement_shape shape = {.n_layers = LAYERS,
                             .n_experts = EXPERTS,
                             .slices = 2,
                             .layer_slices = cut};
    placement *p;
    assert_int_equal(placement_new(&p, &shape, NULL, 0), ERR_RANGE);

    holdings whole = share(0, 1, 1);
    const holdings *nodes[] = {&whole};
    shape.layer_slices = NULL;
    assert_int_equal(placement_new(&p, &shape, nodes, 1), ERR_RANGE);
    assert_null(p);
    holdings_fini(&whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_the_holders_of_an_expert_ascending),
        cmocka_unit_test(skips_nodes_that_hold_nothing_now),
        cmocka_unit_test(counts_what_nobody_and_what_one_node_holds),
        cmocka_unit_test(holds_nothing_without_nodes),
        cmocka_unit_test(refuses_a_node_of_another_shape),
        cmocka_unit_test(refuses_more_nodes_than_the_limit),
        cmocka_unit_test(lives_until_the_last_reference_is_dropped),
        cmocka_unit_test(numbers_units_by_the_slices_of_their_layer),
        cmocka_unit_test(refuses_slices_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
