/* test_nodes_set.c - nodes that register: who comes, who leaves, and which of
 * what they hold they are asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "coordinator/nodes_internal.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/over_tcp.h"
#include "tests/unit/rack_rig.h"

/* ---- coming and going ---- */

static void greets_who_registers(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    assert_int_equal(nodes_count(a.r->nodes), 0);
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_true(nodes_rig_says(a.r, 0, "state", "up"));
    assert_string_equal(nodes_name(a.r->nodes, 0), "one");
    feed_one(&a, "two", &a.r->two);
    take_up(&a);
    come_up(&a, &a.r->two, "two", BOOT + 1);
    assert_int_equal(nodes_count(a.r->nodes), 2);
    assert_string_equal(nodes_name(a.r->nodes, 1), "two");
    close_rack(&a);
}

static void a_place_is_taken_again_and_counted_anew(void **state) {
    (void)state;
    rack_rig a;
    uint64_t before, after;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    nodes_pairs(a.r->nodes, 0, &before);
    rack_feed_node_gone(&a.feed, "one");
    take_up(&a);
    assert_int_equal(nodes_count(a.r->nodes), 0);
    assert_null(nodes_name(a.r->nodes, 0));
    assert_int_equal(nodes_pairs(a.r->nodes, 0, &after), 0);
    assert_int_equal(after, 0);
    feed_one(&a, "two", &a.r->two);
    take_up(&a);
    assert_string_equal(nodes_name(a.r->nodes, 0), "two");
    assert_int_equal(nodes_pairs(a.r->nodes, 0, &after), 0);
    assert_true(after != before && after != 0);
    come_up(&a, &a.r->two, "two", BOOT + 1);
    close_rack(&a);
}

static void
greets_a_node_anew_whose_record_names_another_process(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    rack_feed_node(&a.feed, "one", BOOT + 5, link_endpoint(a.r->one.link));
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT + 5);
    assert_true(nodes_rig_says(a.r, 0, "boot_id", "1f9"));
    assert_int_equal(nodes_count(a.r->nodes), 1);
    close_rack(&a);
}

static void follows_a_node_to_another_endpoint(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    feed_one(&a, "one", &a.r->two);
    take_up(&a);
    come_up(&a, &a.r->two, "one", BOOT + 1);
    assert_int_equal(nodes_count(a.r->nodes), 1);
    assert_true(
        nodes_rig_says(a.r, 0, "endpoint", link_endpoint(a.r->two.link)));
    close_rack(&a);
}

static void refuses_another_node_at_the_address(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    nodes_rig_take(a.r, &a.r->one, MESSAGE_HELLO);
    message m = nodes_rig_welcome(a.r);
    m.welcome.name = "two";
    nodes_rig_send(&a.r->one, &m);
    nodes_rig_wait(a.r, 0, "state", "refused");
    assert_true(nodes_rig_says(a.r, 0, "why", "'two'"));
    close_rack(&a);
}

static void passes_over_addresses_that_cannot_be_used(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    rack_feed_node(&a.feed, "far", BOOT, "tcp://192.0.2.1:7000");
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_true(nodes_rig_says(a.r, 0, "state", "refused"));
    assert_true(nodes_rig_says(a.r, 0, "why", "192.0.2.1"));
    rack_feed_node_gone(&a.feed, "far");
    take_up(&a);
    assert_null(nodes_name(a.r->nodes, 0));
    close_rack(&a);
}

static void keeps_who_has_work_although_its_record_is_gone(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    uint64_t before = unheld(&a);
    rack_feed_node_gone(&a.feed, "one");
    take_up(&a);
    assert_int_equal(nodes_count(a.r->nodes), 1);
    assert_true(nodes_rig_says(a.r, 0, "state", "up"));
    assert_int_equal(unheld(&a), before);
    close_rack(&a);
}

static uint32_t all_on_second(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 2;
}

/* Cut off from etcd alone, it still answers the layer under way. */
static void keeps_who_leaves_until_no_layer_asks_it(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    exchange *x = memory_rack_exchange(a.r->rack);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    exchange_idle(x);
    rack_feed_node_gone(&a.feed, "one");
    feed_placement(&a, 2, all_on_second); /* who is not there */
    take_up(&a);
    assert_true(exchange_epoch(x) == epoch_pack(1, 1));
    assert_int_equal(nodes_count(a.r->nodes), 1);
    exchange_idle(x); /* the step thread goes by it */
    assert_true(exchange_epoch(x) == epoch_pack(1, 2));
    take_up(&a);
    assert_int_equal(nodes_count(a.r->nodes), 0);
    close_rack(&a);
}

/* By number and by contents: after etcd was restored the number may stand for
 * something else at the node. */
static void pings_with_the_placement_that_it_goes_by(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    exchange_idle(memory_rack_exchange(a.r->rack));
    const message *ping = &a.r->one.m;
    for (int i = 0; ping->epoch != epoch_pack(1, 1); i++) {
        assert_true(i < 10);
        nodes_rig_pong(a.r, &a.r->one, BOOT, 1);
    }
    assert_true(ping->ping.placement ==
                rack_placement_sum(rack_view_placement(a.feed.view)));
    close_rack(&a);
}

/* ---- what they are asked for ---- */

static void asks_for_what_is_assigned_and_held_alone(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    uint32_t n = a.r->model->config.n_experts;
    feed_one(&a, "one", &a.r->one);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(unheld(&a), 2 * n); /* it holds half, and has no orders */
    assert_false(nodes_all_covered(a.r->nodes));

    /* What it held without orders it may drop: it is asked again. */
    feed_placement(&a, 1, even_on_first);
    take_up(&a);
    assert_int_equal(unheld(&a), 2 * n);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(unheld(&a), 2 * n - n / 2);
    feed_placement(&a, 2, all_on_first);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(unheld(&a), n); /* all it holds: the first layer */

    /* Taken and given back: its old word counts no more. */
    feed_placement(&a, 3, even_on_first);
    take_up(&a);
    assert_int_equal(unheld(&a), 2 * n - n / 2);
    feed_placement(&a, 4, all_on_first);
    take_up(&a);
    assert_int_equal(unheld(&a), 2 * n - n / 2);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(unheld(&a), n);

    for (uint32_t e = 0; e < n; e++)
        holdings_add(&a.r->held, 1, e);
    nodes_rig_pong(a.r, &a.r->one, BOOT, 3);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(unheld(&a), 0);
    assert_true(nodes_all_covered(a.r->nodes));
    close_rack(&a);
}

/* A first placement that is too large for one transaction. */
static void counts_on_layers_that_are_not_placed_yet(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 2);
    uint32_t n = a.r->model->config.n_experts, both[2];
    memcpy(both, a.r->cut.slices, sizeof(both));
    assert_int_equal(both[1], 2);
    feed_one(&a, "one", &a.r->one);
    a.r->cut.slices[1] = 0; /* not in the placement */
    feed_placement(&a, 1, all_on_first);
    a.r->cut.slices[1] = both[1];
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    assert_int_equal(unheld(&a), n * both[1]);
    assert_false(nodes_all_covered(a.r->nodes));
    assert_int_equal(placement_slices(a.r->nodes->where, 1), both[1]);
    close_rack(&a);
}

/* Nodes that load report many times a second, and a rack takes a while to make:
 * so it is not made for every report, but for every loss. */
static void makes_racks_for_reports_at_times_alone(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    uint32_t n = a.r->model->config.n_experts;
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    come_up(&a, &a.r->one, "one", BOOT);
    a.r->nodes->rack_due_ms = now_ms() + 1000000;
    uint32_t racks = a.r->racks;
    for (uint32_t e = 0; e < n; e++) {
        holdings_add(&a.r->held, 1, e);
        nodes_rig_pong(a.r, &a.r->one, BOOT, 3 + e);
        come_up(&a, &a.r->one, "one", BOOT);
    }
    assert_int_equal(a.r->racks, racks);
    assert_int_equal(unheld(&a), n);
    a.r->nodes->rack_due_ms = 0;
    nodes_rig_pong(a.r, &a.r->one, BOOT, 0);
    nodes_rig_pong(a.r, &a.r->one, BOOT, 0);
    assert_int_equal(a.r->racks, racks + 1);
    assert_int_equal(unheld(&a), 0);
    a.r->nodes->rack_due_ms = now_ms() + 1000000;
    nodes_rig_pong(a.r, &a.r->one, BOOT + 1, 0); /* it was restarted */
    nodes_rig_take(a.r, &a.r->one, MESSAGE_HELLO);
    assert_int_equal(unheld(&a), 2 * n);
    close_rack(&a);
}

static void goes_by_the_placement_s_epoch(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    exchange *x = memory_rack_exchange(a.r->rack);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 7, all_on_first);
    take_up(&a);
    exchange_idle(x); /* the step thread's part */
    assert_true(exchange_epoch(x) == epoch_pack(1, 7));
    come_up(&a, &a.r->one, "one", BOOT);
    nodes_rig_take(a.r, &a.r->one, MESSAGE_PING);
    assert_true(a.r->one.m.epoch == epoch_pack(1, 7));
    feed_placement(&a, 8, all_on_first);
    take_up(&a);
    /* Known here, but the step thread has not switched yet. */
    for (int i = 0; i < 3; i++) {
        nodes_rig_take(a.r, &a.r->one, MESSAGE_PING);
        assert_true(a.r->one.m.epoch == epoch_pack(1, 7));
    }
    exchange_idle(x);
    for (int i = 0; i < 3; i++)
        nodes_rig_take(a.r, &a.r->one, MESSAGE_PING);
    assert_true(a.r->one.m.epoch == epoch_pack(1, 8));
    close_rack(&a);
}

static void makes_no_rack_for_what_changes_nothing(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    uint32_t before = a.r->racks;
    rack_feed_coordinator(&a.feed, "c", 9);
    rack_feed_drain(&a.feed, "one");
    take_up(&a);
    take_up(&a);
    assert_int_equal(a.r->racks, before);
    close_rack(&a);
}

static void takes_in_a_node_that_holds_nothing_however_it_cuts(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 2);
    holdings empty;
    const model_config *c = &a.r->model->config;
    assert_int_equal(holdings_init(&empty, c->n_layers, c->n_experts), 0);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    nodes_rig_take(a.r, &a.r->one, MESSAGE_HELLO);
    message m = nodes_rig_welcome(a.r);
    m.welcome.name = "one";
    m.welcome.slices = 1;
    m.welcome.holdings = empty.bits;
    m.welcome.holdings_bytes = holdings_bytes(&empty);
    nodes_rig_send(&a.r->one, &m);
    nodes_rig_wait(a.r, 0, "state", "up");
    holdings_add(&empty, 0, 1); /* whole experts, which we cannot use */
    nodes_rig_pong(a.r, &a.r->one, BOOT, 1);
    nodes_rig_take(a.r, &a.r->one, MESSAGE_HELLO);
    nodes_rig_send(&a.r->one, &m);
    nodes_rig_wait(a.r, 0, "state", "refused");
    assert_true(nodes_rig_says(a.r, 0, "why", "slices"));
    come_up(&a, &a.r->one, "one", BOOT + 1);
    assert_int_equal(nodes_rig_number(a.r, 0, "held"), 2 * c->n_experts);
    assert_int_equal(nodes_rig_number(a.r, 0, "experts"), c->n_experts);
    holdings_fini(&empty);
    close_rack(&a);
}

/* ---- what is not seen ---- */

static void misses_a_node_that_was_not_listed_when_it_began(void **state) {
    (void)state;
    rack_rig a;
    char why[128] = "";
    open_rack(&a, 1);
    exchange *x = memory_rack_exchange(a.r->rack);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, even_on_first);
    take_up(&a);
    exchange_idle(x);
    assert_false(nodes_see_all(a.r->nodes, why, sizeof(why)));
    assert_non_null(strstr(why, "node two"));
    /* It had the time to come back: then it is gone, for others as well. */
    uint64_t begun_ms = a.r->nodes->begun_ms;
    a.r->nodes->begun_ms -= 10000;
    assert_true(nodes_see_all(a.r->nodes, why, sizeof(why)));
    a.r->nodes->begun_ms = begun_ms;
    feed_one(&a, "two", &a.r->two);
    take_up(&a);
    assert_true(nodes_see_all(a.r->nodes, why, sizeof(why)));
    /* Down or not: nobody else has heard more of it. */
    rack_feed_node_gone(&a.feed, "two");
    take_up(&a);
    assert_true(nodes_see_all(a.r->nodes, why, sizeof(why)));
    close_rack(&a);
}

static void counts_on_no_node_without_work(void **state) {
    (void)state;
    rack_rig a;
    char why[128] = "";
    open_rack(&a, 1);
    exchange *x = memory_rack_exchange(a.r->rack);
    assert_true(nodes_see_all(a.r->nodes, why, sizeof(why)));
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first); /* it names another one, too */
    take_up(&a);
    exchange_idle(x);
    assert_true(nodes_see_all(a.r->nodes, why, sizeof(why)));
    close_rack(&a);
}

static void lags_until_its_layers_go_by_the_newest_placement(void **state) {
    (void)state;
    rack_rig a;
    char why[128] = "";
    open_rack(&a, 1);
    exchange *x = memory_rack_exchange(a.r->rack);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, all_on_first);
    take_up(&a);
    assert_false(nodes_see_all(a.r->nodes, why, sizeof(why)));
    assert_non_null(strstr(why, "newest placement"));
    exchange_idle(x);
    assert_true(nodes_see_all(a.r->nodes, why, sizeof(why)));
    close_rack(&a);
}

/* ---- what is reported ---- */

static void reports_what_etcd_says_of_each(void **state) {
    (void)state;
    rack_rig a;
    open_rack(&a, 1);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, even_on_first);
    rack_feed_drain(&a.feed, "one");
    take_up(&a);
    json_t *all = nodes_rig_status(a.r, a.feed.view);
    json_t *one = json_array_get(json_object_get(all, "nodes"), 0);
    json_t *two = json_array_get(json_object_get(all, "nodes"), 1);
    json_int_t n = a.r->model->config.n_experts;
    assert_true(json_is_true(json_object_get(one, "registered")));
    assert_true(json_is_true(json_object_get(one, "draining")));
    assert_false(json_is_true(json_object_get(one, "missing")));
    assert_false(json_is_true(json_object_get(one, "ready")));
    assert_string_equal(json_string_value(json_object_get(one, "zone")),
                        "left");
    assert_int_equal(json_integer_value(json_object_get(one, "assigned")), n);
    /* never seen, but the placement counts on it */
    assert_string_equal(json_string_value(json_object_get(two, "name")), "two");
    assert_string_equal(json_string_value(json_object_get(two, "state")),
                        "missing");
    assert_true(json_is_true(json_object_get(two, "missing")));
    assert_int_equal(json_integer_value(json_object_get(two, "assigned")), n);
    json_decref(all);
    close_rack(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        over_tcp(greets_who_registers),
        over_tcp(a_place_is_taken_again_and_counted_anew),
        over_tcp(greets_a_node_anew_whose_record_names_another_process),
        over_tcp(follows_a_node_to_another_endpoint),
        over_tcp(refuses_another_node_at_the_address),
        over_tcp(passes_over_addresses_that_cannot_be_used),
        over_tcp(keeps_who_has_work_although_its_record_is_gone),
        over_tcp(keeps_who_leaves_until_no_layer_asks_it),
        over_tcp(pings_with_the_placement_that_it_goes_by),
        over_tcp(asks_for_what_is_assigned_and_held_alone),
        over_tcp(counts_on_layers_that_are_not_placed_yet),
        over_tcp(makes_racks_for_reports_at_times_alone),
        over_tcp(goes_by_the_placement_s_epoch),
        over_tcp(makes_no_rack_for_what_changes_nothing),
        over_tcp(takes_in_a_node_that_holds_nothing_however_it_cuts),
        over_tcp(misses_a_node_that_was_not_listed_when_it_began),
        over_tcp(counts_on_no_node_without_work),
        over_tcp(lags_until_its_layers_go_by_the_newest_placement),
        over_tcp(reports_what_etcd_says_of_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
