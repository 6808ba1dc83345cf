/* test_balancer_eplb.c - the published balancing algorithm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "discovery/balancer.h"
#include "engine/err.h"
#include "engine/util.h"

static void expect_slots(const uint32_t *got, const uint32_t *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (got[i] != want[i]) {
            fail_msg("slot %zu: %u instead of %u", i, got[i], want[i]);
        }
    }
}

/* The example that the algorithm was published with. */
static void passes_the_published_check(void **state) {
    static const double loads[24] = {90, 132, 40,  61,  104, 165, 39,  4,
                                     73, 56,  183, 86,  20,  107, 104, 64,
                                     19, 197, 187, 157, 172, 86,  16,  27};
    static const uint32_t want[32] = {5, 6, 5, 7,  8, 4, 3,  4, 10, 9, 10,
                                      2, 0, 1, 11, 1, 7, 10, 6, 8,  6, 11,
                                      8, 9, 2, 4,  5, 1, 5,  0, 3,  1};
    uint32_t got[32];
    (void)state;
    assert_int_equal(balance_eplb(loads, 2, 12, 16, 4, 2, 8, got), 0);
    expect_slots(got, want, ARRAY_LEN(got));
}

/* Four experts, five slots: the hottest (1) twice.  By descending load the
 * slots are 1a 30, 1b 30, 3 25, 0 10, 2 5 (5 devices, one each: as they are).
 */
static void leaves_slots_in_order_with_one_for_each_device(void **state) {
    static const double loads[4] = {10, 60, 5, 25};
    static const uint32_t want[5] = {0, 1, 2, 3, 1};
    uint32_t got[5];
    (void)state;
    assert_int_equal(balance_eplb(loads, 1, 4, 5, 1, 1, 5, got), 0);
    expect_slots(got, want, ARRAY_LEN(got));
}

/* Three nodes do not divide two groups: the groups count for nothing.  Six
 * slots of 4 experts: 1 gets a second copy (30 each), then, 30 = 30 being the
 * largest, the lower of 1 and 3 a further one: 1 with 20 each.  Packed by
 * descending load: 3 (30) to A, 1 (20) to B, 1 to C, 1 to B, for 20 = 20 is
 * less than 30 and B comes first, 0 (10) to C, 2 (5) to A. */
static void
takes_the_global_policy_when_nodes_do_not_divide_groups(void **state) {
    static const double loads[4] = {10, 60, 5, 30};
    static const uint32_t want[6] = {3, 2, 1, 1, 1, 0};
    uint32_t got[6];
    (void)state;
    assert_int_equal(balance_eplb(loads, 1, 4, 6, 2, 3, 3, got), 0);
    expect_slots(got, want, ARRAY_LEN(got));
}

/* Groups {0,1} 30, {2,3} 7, {4,5} 11, {6,7} 12 on two nodes: 30 to A, 12 to B,
 * 11 to B, 7 to A.  There is no slot to spare.  A
 * has two devices with two slots each: 1 (20), 0 (10), 3 (6), 2 (1): 1 and 2, 0
 * and
 * 3.  B is 6, 7, 4, 5: 7 (8), 5 (7), 4 (4), 6 (4); equal ones in the order of
 * the node, so 6 before 4: 7 and 4, 5 and 6. */
static void keeps_groups_on_a_node(void **state) {
    static const double loads[8] = {10, 20, 1, 6, 4, 7, 4, 8};
    static const uint32_t want[8] = {1, 2, 0, 3, 7, 4, 5, 6};
    uint32_t got[8];
    (void)state;
    assert_int_equal(balance_eplb(loads, 1, 8, 8, 4, 2, 4, got), 0);
    expect_slots(got, want, ARRAY_LEN(got));
}

/* 0 and 1 get the spare slots: 3.5 each.  2 and 3 come first, to A and B, then
 * 0, 1 and their copies in turns. */
static void gives_equal_loads_to_the_lower_number(void **state) {
    static const double loads[4] = {7, 7, 7, 7};
    static const uint32_t want[6] = {2, 0, 0, 3, 1, 1};
    uint32_t got[6];
    (void)state;
    assert_int_equal(balance_eplb(loads, 1, 4, 6, 1, 1, 2, got), 0);
    expect_slots(got, want, ARRAY_LEN(got));
}

static void stands_loads_of_nothing(void **state) {
    static const double loads[4] = {0, 0, 0, 0};
    uint32_t got[4], seen = 0;
    (void)state;
    assert_int_equal(balance_eplb(loads, 1, 4, 4, 1, 1, 2, got), 0);
    for (size_t i = 0; i < 4; i++)
        seen |= 1u << got[i];
    assert_int_equal(seen, 15);
}

static void refuses_sizes_that_do_not_divide(void **state) {
    static const double loads[12] = {1};
    uint32_t got[32];
    (void)state;
    static const uint32_t wrong[][5] = {
        {12, 11, 1, 1, 1}, /* fewer slots than experts */
        {12, 16, 5, 1, 4}, /* groups of no size */
        {12, 16, 4, 2, 3}, /* devices that nodes do not share */
        {12, 14, 4, 2, 4}, /* slots that devices do not share */
        {0, 16, 1, 1, 4},  {12, 16, 0, 1, 4},
        {12, 16, 1, 0, 4}, {12, 16, 1, 1, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        const uint32_t *w = wrong[i];
        assert_int_equal(
            balance_eplb(loads, 1, w[0], w[1], w[2], w[3], w[4], got),
            ERR_RANGE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_the_published_check),
        cmocka_unit_test(leaves_slots_in_order_with_one_for_each_device),
        cmocka_unit_test(
            takes_the_global_policy_when_nodes_do_not_divide_groups),
        cmocka_unit_test(keeps_groups_on_a_node),
        cmocka_unit_test(gives_equal_loads_to_the_lower_number),
        cmocka_unit_test(stands_loads_of_nothing),
        cmocka_unit_test(refuses_sizes_that_do_not_divide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
