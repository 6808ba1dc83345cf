/* test_exchange_faults.c - nodes that hang up, and nodes whose bits differ,
 * over links in memory and with real threads. */
#include "tests/unit/exchange_rig.h"

/* ---- connections that break ---- */

static void asks_the_other_node_when_one_hangs_up(void **state) {
    (void)state;
    rig *r = open_rig(HANGING_UP, GOOD, PATIENT);
    post(r, BOTH, 0);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(run(r, i % 2), 0);
        assert_all_right(r);
    }
    dispatch_stats s = totals(r);
    assert_int_equal(s.broken, 1);
    assert_true(s.retries > 0);
    assert_true(s.takeover_pairs > 0);
    assert_int_equal(s.lost_pairs, 0);
    dispatch_node_stats n;
    exchange_node(r->x, 0, &n);
    assert_true(n.suspect);
    assert_int_equal(n.outstanding_bytes, 0);
    close_rig(r);
}

static void notices_between_steps_that_a_node_hung_up(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    post(r, BOTH, 0);
    assert_int_equal(run(r, 0), 0);
    atomic_store(&r->nodes[0].stop, true);
    pthread_join(r->nodes[0].thread, NULL);
    link_close(r->nodes[0].server);
    r->nodes[0].server = NULL;
    exchange_idle(r->x);
    assert_int_equal(totals(r).broken, 1);
    uint64_t before = totals(r).retries;
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    assert_int_equal(totals(r).retries, before); /* it was not even asked */
    r->nodes[0].joined = true;
    close_rig(r);
}

/* ---- answers that are compared ---- */

static cross_check_stats checks(rig *r) {
    cross_check_stats s;
    exchange_checks(r->x, &s);
    return s;
}

/* Layers until so many answers were compared, or a verdict is there. */
static bool run_until(rig *r, uint64_t n_asked, cross_check_verdict *v) {
    uint64_t end = now_ms() + 20000;
    while (now_ms() < end) {
        assert_int_equal(run(r, 0), 0);
        exchange_idle(r->x);
        if (exchange_verdict(r->x, v)) return true;
        cross_check_stats s = checks(r);
        if (s.agreed >= n_asked) return false;
    }
    fail_msg("nothing was compared");
    return false;
}

static void finds_the_same_bits_in_replicas(void **state) {
    (void)state;
    cross_check_verdict v;
    rig *r = open_checked_rig(GOOD, GOOD, PATIENT, 3, false);
    post(r, BOTH, 0);
    assert_false(run_until(r, 10, &v));
    assert_int_equal(checks(r).differed, 0);
    assert_true(checks(r).asked >= 10);
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    close_rig(r);
}

static void names_both_of_two_that_differ(void **state) {
    (void)state;
    cross_check_verdict v;
    rig *r = open_checked_rig(GOOD, FLIPPED, PATIENT, 3, false);
    post(r, BOTH, 0);
    assert_true(run_until(r, 1000, &v));
    assert_int_equal(v.wrong, -1);
    assert_int_equal(v.layer, 0);
    assert_in_range(v.expert, 0, 3);
    uint64_t boots = v.parties[0].boot_id + v.parties[1].boot_id;
    assert_int_equal(boots, 1000 + 1001);
    close_rig(r);
}

/* Its rows are made up here, so the coordinator's own are different ones: three
 * that differ convict nobody. */
static void computes_a_third_opinion_from_its_own_file(void **state) {
    (void)state;
    cross_check_verdict v;
    rig *r = open_checked_rig(GOOD, FLIPPED, PATIENT, 3, true);
    post(r, BOTH, 0);
    assert_true(run_until(r, 1000, &v));
    assert_true(v.parties[2].here);
    assert_int_equal(v.wrong, -1);
    close_rig(r);
}

static void compares_nothing_if_it_is_off(void **state) {
    (void)state;
    cross_check_verdict v;
    rig *r = open_checked_rig(GOOD, FLIPPED, PATIENT, 0, false);
    post(r, BOTH, 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(run(r, 0), 0);
        exchange_idle(r->x);
    }
    assert_int_equal(checks(r).asked, 0);
    assert_false(exchange_verdict(r->x, &v));
    close_rig(r);
}

static void compares_nothing_that_only_one_node_holds(void **state) {
    (void)state;
    rig *r = open_checked_rig(GOOD, GOOD, PATIENT, 1, false);
    post(r, 1, 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(run(r, 0), 0);
        exchange_idle(r->x);
    }
    assert_int_equal(checks(r).asked, 0);
    close_rig(r);
}

static void does_not_wait_for_who_is_compared(void **state) {
    (void)state;
    rig *r = open_checked_rig(GOOD, GOOD, PATIENT, 1, false);
    post(r, BOTH, 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(run(r, 0), 0);
        exchange_idle(r->x);
    }
    atomic_store(&r->nodes[1].manner, SILENT);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(run(r, 0), 0);
        assert_all_right(r);
        exchange_idle(r->x);
    }
    close_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_the_other_node_when_one_hangs_up),
        cmocka_unit_test(notices_between_steps_that_a_node_hung_up),
        cmocka_unit_test(finds_the_same_bits_in_replicas),
        cmocka_unit_test(names_both_of_two_that_differ),
        cmocka_unit_test(computes_a_third_opinion_from_its_own_file),
        cmocka_unit_test(compares_nothing_if_it_is_off),
        cmocka_unit_test(compares_nothing_that_only_one_node_holds),
        cmocka_unit_test(does_not_wait_for_who_is_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
