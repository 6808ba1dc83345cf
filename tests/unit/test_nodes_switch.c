/* test_nodes_switch.c - from one placement of the rack to the next: what is
 * waited for, for how long, and who is asked meanwhile. */
#include <stdio.h>
#include "tests/support/over_tcp.h"
#include "tests/unit/rack_rig.h"

static uint64_t single(const rack_rig *a) {
    nodes_health h;
    nodes_look(a->r->nodes, &h);
    return h.single;
}

static uint32_t all_on_second(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 2;
}

static uint32_t all_on_one_and_two(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 3;
}

static uint32_t all_on_one_and_three(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 5;
}

static void come_up_empty(rack_rig *a, scripted_node *n, const char *name,
                          uint64_t boot) {
    holdings all = a->r->held, none;
    assert_int_equal(holdings_init(&none, all.n_layers, all.n_experts), 0);
    a->r->held = none;
    come_up(a, n, name, boot);
    a->r->held = all;
    holdings_fini(&none);
}

/* Both nodes are there; the first layer moves from one to the other, which has
 * not told us yet that it has it. */
static void begin_move(rack_rig *a) {
    open_rack(a, 1);
    feed_one(a, "one", &a->r->one);
    feed_one(a, "two", &a->r->two);
    feed_placement(a, 1, all_on_first);
    take_up(a);
    come_up(a, &a->r->one, "one", BOOT);
    come_up_empty(a, &a->r->two, "two", BOOT + 1);
    feed_placement(a, 2, all_on_second);
    take_up(a);
}

static uint64_t epoch_in_use(const rack_rig *a) {
    exchange *x = memory_rack_exchange(a->r->rack);
    exchange_idle(x);
    return exchange_epoch(x);
}

static void switches_when_that_loses_nothing(void **state) {
    (void)state;
    rack_rig a;
    begin_move(&a);
    uint64_t n = a.r->model->config.n_experts;
    assert_true(epoch_in_use(&a) == epoch_pack(1, 1));
    assert_int_equal(unheld(&a), n); /* the first layer is still there */
    come_up(&a, &a.r->two, "two", BOOT + 1); /* it was asked */
    assert_true(epoch_in_use(&a) == epoch_pack(1, 2));
    assert_int_equal(unheld(&a), n);
    close_rack(&a);
}

static void switches_at_once_when_there_is_nothing_to_lose(void **state) {
    (void)state;
    rack_rig a;
    begin_move(&a);
    nodes_rig_pong(a.r, &a.r->one, BOOT + 9, 0); /* restarted: it has nothing */
    for (int i = 0; i < 3; i++)
        nodes_rig_pong(a.r, &a.r->two, BOOT + 1, 0);
    assert_true(epoch_in_use(&a) == epoch_pack(1, 2));
    close_rack(&a);
}

static void waits_for_nobody_for_long(void **state) {
    (void)state;
    rack_rig a;
    begin_move(&a);
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    while (epoch_in_use(&a) != epoch_pack(1, 2)) {
        assert_true(now_ms() < until);
        uv_run(&a.r->loop, UV_RUN_ONCE);
    }
    close_rack(&a);
}

/* Its answer says that it holds nothing yet: it is asked on, but not as fast as
 * answers come. */
static void asks_a_holder_again_at_times_alone(void **state) {
    (void)state;
    rack_rig a;
    begin_move(&a);
    holdings all = a.r->held, none;
    assert_int_equal(holdings_init(&none, all.n_layers, all.n_experts), 0);
    a.r->held = none;
    uint64_t begun = now_ms(), asked = 0;
    for (; now_ms() < begun + 500; asked++)
        answer_hello(&a, &a.r->two, "two", BOOT + 1);
    assert_true(asked <= (now_ms() - begun) / 50 + 1);
    a.r->held = all;
    holdings_fini(&none);
    come_up(&a, &a.r->two, "two", BOOT + 1);
    assert_true(epoch_in_use(&a) == epoch_pack(1, 2));
    close_rack(&a);
}

/* A greeting may go to a process that is no more, or be dropped on its way. */
static void asks_again_where_no_answer_comes(void **state) {
    (void)state;
    rack_rig a;
    begin_move(&a);
    a.r->nodes->switch_until_ms = now_ms() + 1000000;
    nodes_rig_take(a.r, &a.r->two, MESSAGE_HELLO);
    come_up(&a, &a.r->two, "two", BOOT + 1); /* a second one */
    assert_true(epoch_in_use(&a) == epoch_pack(1, 2));
    close_rack(&a);
}

/* Two nodes hold the first layer, and one hands its copies on to a third that
 * has not told us yet that it has them. */
static void begin_hand_over(rack_rig *a, uint32_t min_replicas) {
    open_rack(a, 1);
    a->n_named = 3;
    a->min_replicas = min_replicas;
    feed_one(a, "one", &a->r->one);
    feed_one(a, "two", &a->r->two);
    feed_one(a, "three", &a->r->three);
    feed_placement(a, 1, all_on_one_and_two);
    take_up(a);
    come_up(a, &a->r->one, "one", BOOT);
    come_up(a, &a->r->two, "two", BOOT + 1);
    come_up_empty(a, &a->r->three, "three", BOOT + 2);
    assert_int_equal(single(a), 0);
    feed_placement(a, 2, all_on_one_and_three);
    take_up(a);
}

static void keeps_as_many_copies_as_a_unit_is_to_have(void **state) {
    (void)state;
    rack_rig a;
    begin_hand_over(&a, 2);
    assert_true(epoch_in_use(&a) == epoch_pack(1, 1));
    assert_int_equal(single(&a), 0);
    come_up(&a, &a.r->three, "three", BOOT + 2);
    assert_true(epoch_in_use(&a) == epoch_pack(1, 2));
    assert_int_equal(single(&a), 0);
    close_rack(&a);
}

static void does_not_wait_for_copies_beyond_those(void **state) {
    (void)state;
    rack_rig a;
    begin_hand_over(&a, 1);
    assert_true(epoch_in_use(&a) == epoch_pack(1, 2));
    close_rack(&a);
}

/* That cannot be helped by waiting: who would have them is away. */
static void does_not_wait_for_who_is_away(void **state) {
    (void)state;
    rack_rig a;
    begin_hand_over(&a, 2);
    a.r->nodes->switch_until_ms = now_ms() + 1000000;
    nodes_rig_pong(a.r, &a.r->three, BOOT + 9, 0); /* it restarts */
    uint64_t until = now_ms() + NODES_RIG_WAIT_MS;
    while (epoch_in_use(&a) != epoch_pack(1, 2)) {
        assert_true(now_ms() < until);
        nodes_rig_pong(a.r, &a.r->one, BOOT, 0);
        nodes_rig_pong(a.r, &a.r->two, BOOT + 1, 0);
    }
    close_rack(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        over_tcp(switches_when_that_loses_nothing),
        over_tcp(switches_at_once_when_there_is_nothing_to_lose),
        over_tcp(waits_for_nobody_for_long),
        over_tcp(asks_a_holder_again_at_times_alone),
        over_tcp(asks_again_where_no_answer_comes),
        over_tcp(keeps_as_many_copies_as_a_unit_is_to_have),
        over_tcp(does_not_wait_for_copies_beyond_those),
        over_tcp(does_not_wait_for_who_is_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
