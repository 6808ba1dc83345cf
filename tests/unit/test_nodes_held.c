/* test_nodes_held.c - what live nodes say by themselves, whatever etcd has:
 * which placement they know, what they hold. */
#include <stdlib.h>
#include <string.h>
#include "coordinator/nodes_held.h"
#include "tests/support/over_tcp.h"
#include "tests/unit/rack_rig.h"

/* Pings are answered with this epoch until it is known. */
static void tell_epoch(rack_rig *a, scripted_node *n, uint64_t boot,
                       uint64_t epoch, uint64_t expected) {
    for (int i = 0; nodes_told_epoch(a->r->nodes) != expected; i++) {
        assert_true(i < 100);
        nodes_rig_take(a->r, n, MESSAGE_PING);
        message m = {.kind = MESSAGE_PONG,
                     .cluster = "test",
                     .boot_id = boot,
                     .epoch = epoch};
        nodes_rig_send(n, &m);
    }
}

/* One of them knows what etcd does not have (any more). */
static void begin(rack_rig *a) {
    open_rack(a, 1);
    feed_one(a, "one", &a->r->one);
    feed_one(a, "two", &a->r->two);
    feed_placement(a, 1, all_on_first);
    take_up(a);
    come_up(a, &a->r->one, "one", BOOT);
    come_up(a, &a->r->two, "two", BOOT + 1);
    assert_int_equal(nodes_told_epoch(a->r->nodes), 0);
}

static void knows_the_newest_placement_that_a_node_tells_of(void **state) {
    rack_rig a;
    uint64_t newer = epoch_pack(1, 3), older = epoch_pack(1, 1);
    (void)state;
    begin(&a);
    tell_epoch(&a, &a.r->one, BOOT, older, older);
    tell_epoch(&a, &a.r->two, BOOT + 1, newer, newer);
    /* Its process began anew, and knows no more than etcd. */
    tell_epoch(&a, &a.r->two, BOOT + 1, older, older);
    close_rack(&a);
}

/* After a wipe nobody is registered for a while.  Whoever recovers the rack
 * then, and was cut off from etcd before, would begin an incarnation that the
 * nodes have had already: two placements under one number. */
static void listens_to_those_who_are_not_registered(void **state) {
    rack_rig a;
    uint64_t newer = epoch_pack(1, 3);
    (void)state;
    begin(&a);
    tell_epoch(&a, &a.r->one, BOOT, newer, newer);
    rack_feed_node_gone(&a.feed, "one"); /* it stays: it has work */
    take_up(&a);
    assert_true(nodes_told_epoch(a.r->nodes) == newer);
    close_rack(&a);
}

static void lists_what_live_nodes_hold(void **state) {
    rack_rig a;
    recovery_node *held;
    uint32_t n;
    (void)state;
    begin(&a);
    assert_int_equal(nodes_held(a.r->nodes, &held, &n), 0);
    assert_int_equal(n, 2);
    assert_string_equal(held[0].name, "one");
    assert_string_equal(held[1].name, "two");
    assert_true(holdings_count(held[0].held) > 0);
    free(held);

    /* Etcd was wiped, and it has not registered again yet. */
    rack_feed_node_gone(&a.feed, "one");
    take_up(&a);
    assert_int_equal(nodes_held(a.r->nodes, &held, &n), 0);
    assert_int_equal(n, 2);
    assert_string_equal(held[0].name, "one");
    assert_true(holdings_count(held[0].held) > 0);
    free(held);
    close_rack(&a);
}

/* Nothing is an answer as well: a recovery need not wait for another one. */
static void lists_who_holds_nothing(void **state) {
    rack_rig a;
    recovery_node *held;
    uint32_t n;
    (void)state;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    assert_int_equal(nodes_held(a.r->nodes, &held, &n), 0);
    assert_int_equal(n, 0); /* it has not said anything yet */
    free(held);

    memset(a.r->held.bits, 0, holdings_bytes(&a.r->held));
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(nodes_held(a.r->nodes, &held, &n), 0);
    assert_int_equal(n, 1);
    assert_string_equal(held[0].name, "one");
    assert_null(held[0].held);
    free(held);
    close_rack(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        over_tcp(knows_the_newest_placement_that_a_node_tells_of),
        over_tcp(listens_to_those_who_are_not_registered),
        over_tcp(lists_what_live_nodes_hold),
        over_tcp(lists_who_holds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
