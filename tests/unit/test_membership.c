/* test_membership.c - which nodes can be used, and what is said to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/membership.h"
#include "engine/err.h"

static const membership_config config = {
    .n_nodes = 2,
    .hello_ms = 100,
    .ping_ms = 50,
    .silent_ms = 200,
    .stuck_ms = 300,
    .refused_ms = 1000,
};

static membership *open_members(uint32_t n_nodes) {
    membership_config c = config;
    membership *m;
    c.n_nodes = n_nodes;
    assert_int_equal(membership_new(&m, &c), 0);
    return m;
}

/* The next action must be this one. */
static member_action expect(membership *m, uint64_t now_ms, member_kind kind,
                            uint32_t node) {
    member_action a;
    membership_next(m, now_ms, &a);
    assert_int_equal(a.kind, kind);
    if (kind != MEMBER_WAIT) assert_int_equal(a.node, node);
    return a;
}

static uint64_t wait_until(membership *m, uint64_t now_ms) {
    return expect(m, now_ms, MEMBER_WAIT, 0).wake_ms;
}

/* One node that is up at `now_ms`. */
static membership *open_up(uint64_t now_ms, uint64_t boot_id) {
    membership *m = open_members(1);
    expect(m, now_ms, MEMBER_HELLO, 0);
    membership_welcome(m, now_ms, 0, boot_id);
    expect(m, now_ms, MEMBER_UP, 0);
    return m;
}

/* So many pings from `from_ms` on, without an answer: as many as it takes. */
static void ping_in_vain(membership *m, uint64_t from_ms) {
    for (uint32_t i = 0; i < 3; i++) {
        expect(m, from_ms + i * 50, MEMBER_PING, 0);
        wait_until(m, from_ms + i * 50);
    }
}

static void greets_every_node_until_it_answers(void **state) {
    membership *m = open_members(2);
    (void)state;

    expect(m, 0, MEMBER_HELLO, 0);
    expect(m, 0, MEMBER_HELLO, 1);
    assert_int_equal(wait_until(m, 0), 100);
    assert_int_equal(wait_until(m, 99), 100);
    membership_welcome(m, 99, 1, 7);
    expect(m, 99, MEMBER_UP, 1);
    expect(m, 100, MEMBER_HELLO, 0);
    assert_int_equal(membership_state(m, 0), NODE_GREETING);
    assert_int_equal(membership_state(m, 1), NODE_UP);
    assert_int_equal(membership_boot(m, 1), 7);
    membership_free(m);
}

static void pings_a_node_that_is_up(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    assert_int_equal(wait_until(m, 0), 50);
    expect(m, 50, MEMBER_PING, 0);
    membership_pong(m, 51, 0, 7, 0, 0);
    assert_int_equal(wait_until(m, 51), 100);
    membership_free(m);
}

static void takes_a_silent_node_down_and_greets_it(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    ping_in_vain(m, 50);
    member_action a = expect(m, 200, MEMBER_GONE, 0);
    assert_non_null(strstr(a.reason, "no answer"));
    assert_int_equal(membership_state(m, 0), NODE_DOWN);
    expect(m, 200, MEMBER_HELLO, 0);
    assert_int_equal(wait_until(m, 200), 300);
    membership_free(m);
}

/* After a pause of our own the answers are there, but not read yet. */
static void takes_a_pause_of_our_own_for_no_silence(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    expect(m, 50, MEMBER_PING, 0);
    expect(m, 5000, MEMBER_PING, 0);
    assert_int_equal(wait_until(m, 5000), 5050);
    expect(m, 5050, MEMBER_PING, 0);
    assert_int_equal(membership_state(m, 0), NODE_UP);
    expect(m, 5100, MEMBER_GONE, 0); /* three pings: it is silent indeed */
    membership_free(m);
}

static void wakes_up_to_notice_silence(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    ping_in_vain(m, 90);
    assert_int_equal(wait_until(m, 190), 200);
    membership_free(m);
}

static void brings_a_node_up_again_that_answers_again(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    ping_in_vain(m, 50);
    expect(m, 200, MEMBER_GONE, 0);
    expect(m, 200, MEMBER_HELLO, 0);
    membership_pong(m, 220, 0, 7, 5, 0);
    expect(m, 220, MEMBER_UP, 0);

    ping_in_vain(m, 300);
    expect(m, 500, MEMBER_GONE, 0);
    membership_welcome(m, 510, 0, 7);
    expect(m, 510, MEMBER_UP, 0);
    membership_free(m);
}

static void reports_a_restarted_node_as_gone_then_up(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    membership_welcome(m, 10, 0, 8);
    member_action a = expect(m, 10, MEMBER_GONE, 0);
    assert_non_null(strstr(a.reason, "restarted"));
    expect(m, 10, MEMBER_UP, 0);
    assert_int_equal(membership_boot(m, 0), 8);
    membership_free(m);
}

static void greets_a_node_whose_pong_is_of_another_process(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    membership_pong(m, 10, 0, 8, 0, 0);
    expect(m, 10, MEMBER_GONE, 0);
    expect(m, 10, MEMBER_HELLO, 0);
    membership_welcome(m, 11, 0, 8);
    expect(m, 11, MEMBER_UP, 0);
    membership_free(m);
}

static void takes_a_node_down_whose_pool_stands_still(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    uint64_t now = 0;
    for (now = 50; now < 300; now += 50) {
        membership_pong(m, now, 0, 7, 42, 3);
        expect(m, now, MEMBER_PING, 0);
        wait_until(m, now);
    }
    membership_pong(m, 350, 0, 7, 42, 3);
    member_action a = expect(m, 350, MEMBER_GONE, 0);
    assert_non_null(strstr(a.reason, "stands still"));
    membership_free(m);
}

static void lets_an_idle_pool_stand_still(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    for (uint64_t now = 50; now < 2000; now += 50) {
        membership_pong(m, now, 0, 7, 42, 0);
        expect(m, now, MEMBER_PING, 0);
        wait_until(m, now);
    }
    /* The clock starts when work waits, not when progress was last seen. */
    membership_pong(m, 2000, 0, 7, 42, 1);
    expect(m, 2000, MEMBER_PING, 0);
    wait_until(m, 2000);
    membership_free(m);
}

static membership *open_stuck(void) {
    membership *m = open_up(0, 7);
    membership_pong(m, 100, 0, 7, 42, 3);
    membership_pong(m, 250, 0, 7, 42, 3);
    membership_pong(m, 400, 0, 7, 42, 3);
    expect(m, 400, MEMBER_GONE, 0);
    return m;
}

static void keeps_a_stuck_node_down_until_it_moves(void **state) {
    membership *m = open_stuck();
    (void)state;

    expect(m, 450, MEMBER_PING, 0);
    membership_pong(m, 450, 0, 7, 42, 3);
    wait_until(m, 450);
    membership_welcome(m, 460, 0, 7); /* its loop answers, its pool does not */
    assert_int_equal(membership_state(m, 0), NODE_DOWN);
    membership_pong(m, 470, 0, 7, 43, 3);
    expect(m, 470, MEMBER_UP, 0);
    membership_free(m);
}

static void greets_a_stuck_node_that_falls_silent(void **state) {
    membership *m = open_stuck();
    (void)state;

    ping_in_vain(m, 450);
    expect(m, 600, MEMBER_HELLO, 0);
    membership_welcome(m, 610, 0, 8);
    expect(m, 610, MEMBER_UP, 0);
    membership_free(m);
}

static void keeps_the_reason_of_a_refusal_and_asks_rarely(void **state) {
    membership *m = open_members(1);
    (void)state;

    expect(m, 0, MEMBER_HELLO, 0);
    membership_refused(m, 5, 0, ERR_WRONG_MODEL);
    assert_int_equal(membership_state(m, 0), NODE_REFUSED);
    assert_int_equal(membership_refusal(m, 0), ERR_WRONG_MODEL);
    assert_int_equal(wait_until(m, 5), 1005);
    expect(m, 1005, MEMBER_HELLO, 0);
    assert_int_equal(wait_until(m, 1005), 2005);
    membership_welcome(m, 1010, 0, 7);
    expect(m, 1010, MEMBER_UP, 0);
    assert_int_equal(membership_refusal(m, 0), 0);
    membership_free(m);
}

static void takes_a_node_down_that_refuses_later(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    membership_refused(m, 10, 0, ERR_WRONG_PROFILE);
    member_action a = expect(m, 10, MEMBER_GONE, 0);
    assert_string_equal(a.reason, err_text(ERR_WRONG_PROFILE));
    membership_pong(m, 11, 0, 7, 1, 0);
    assert_int_equal(membership_state(m, 0), NODE_REFUSED);
    membership_free(m);
}

static void ignores_a_pong_of_a_node_that_was_not_welcomed(void **state) {
    membership *m = open_members(1);
    (void)state;

    expect(m, 0, MEMBER_HELLO, 0);
    membership_pong(m, 1, 0, 0, 1, 0);
    assert_int_equal(membership_state(m, 0), NODE_GREETING);
    wait_until(m, 1);
    membership_free(m);
}

static void says_nothing_of_a_node_that_came_and_went_unseen(void **state) {
    membership *m = open_members(1);
    (void)state;

    expect(m, 0, MEMBER_HELLO, 0);
    membership_welcome(m, 1, 0, 7);
    membership_refused(m, 2, 0, ERR_WRONG_MODEL);
    wait_until(m, 2);
    membership_free(m);
}

static void ignores_a_doubled_welcome(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    membership_welcome(m, 10, 0, 7);
    assert_int_equal(wait_until(m, 10), 50);
    membership_free(m);
}

static void waits_forever_without_nodes(void **state) {
    membership *m = open_members(0);
    (void)state;

    assert_true(wait_until(m, 5) == UINT64_MAX);
    membership_free(m);
    membership_free(NULL);
}

static void refuses_intervals_that_cannot_work(void **state) {
    membership *m;
    membership_config c = config;
    (void)state;

    c.hello_ms = 0;
    assert_int_equal(membership_new(&m, &c), ERR_RANGE);
    c = config;
    c.silent_ms = c.ping_ms;
    assert_int_equal(membership_new(&m, &c), ERR_RANGE);
    c = config;
    c.n_nodes = UINT32_MAX;
    assert_int_equal(membership_new(&m, &c), ERR_RANGE);
    assert_null(m);
}

static void names_every_state(void **state) {
    (void)state;
    assert_string_equal(node_state_name(NODE_GREETING), "greeting");
    assert_string_equal(node_state_name(NODE_UP), "up");
    assert_string_equal(node_state_name(NODE_DOWN), "down");
    assert_string_equal(node_state_name(NODE_REFUSED), "refused");
    assert_string_equal(node_state_name((node_state)99), "unknown");
}

/* ---- coming and going ---- */

static void gives_who_joins_the_lowest_free_place(void **state) {
    membership *m = open_members(3);
    uint32_t node;
    (void)state;

    membership_remove(m, 2);
    membership_remove(m, 0);
    assert_int_equal(membership_add(m, &node), 0);
    assert_int_equal(node, 0);
    assert_int_equal(membership_add(m, &node), 0);
    assert_int_equal(node, 2);
    assert_int_equal(membership_add(m, &node), 0);
    assert_int_equal(node, 3);
    membership_free(m);
}

static void says_nothing_of_who_has_left(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    membership_remove(m, 0);
    assert_true(wait_until(m, 0) == UINT64_MAX);
    assert_true(wait_until(m, 100000) == UINT64_MAX);
    membership_free(m);
}

static void knows_nothing_of_who_had_the_place_before(void **state) {
    membership *m = open_up(0, 7);
    uint32_t node;
    (void)state;

    membership_refused(m, 1, 0, ERR_WRONG_MODEL);
    membership_remove(m, 0);
    assert_int_equal(membership_add(m, &node), 0);
    assert_int_equal(node, 0);
    assert_int_equal(membership_state(m, 0), NODE_GREETING);
    assert_int_equal(membership_refusal(m, 0), 0);
    assert_int_equal(membership_boot(m, 0), 0);
    expect(m, 1, MEMBER_HELLO, 0);
    membership_pong(m, 2, 0, 7, 1, 0); /* the earlier one's */
    assert_int_equal(membership_state(m, 0), NODE_GREETING);
    membership_welcome(m, 3, 0, 8);
    expect(m, 3, MEMBER_UP, 0);
    membership_free(m);
}

static void takes_no_more_nodes_than_there_are_places(void **state) {
    membership *m = open_members(0);
    uint32_t node;
    (void)state;

    for (uint32_t i = 0; i < MEMBERSHIP_MAX_NODES; i++) {
        assert_int_equal(membership_add(m, &node), 0);
        assert_int_equal(node, i);
    }
    assert_int_equal(membership_add(m, &node), ERR_OVERLOADED);
    membership_remove(m, 5);
    assert_int_equal(membership_add(m, &node), 0);
    assert_int_equal(node, 5);
    membership_free(m);
}

static void takes_any_answer_for_a_sign_of_life(void **state) {
    membership *m = open_up(0, 7);
    (void)state;

    expect(m, 150, MEMBER_PING, 0);
    membership_heard(m, 150, 0, 7);
    expect(m, 201, MEMBER_PING, 0);
    assert_int_equal(membership_state(m, 0), NODE_UP);
    membership_heard(m, 300, 0, 8); /* of another process */
    expect(m, 300, MEMBER_PING, 0);
    expect(m, 350, MEMBER_PING, 0);
    expect(m, 400, MEMBER_GONE, 0);
    membership_free(m);
}

/* ---- quarantine ---- */

static membership *open_strict(void) {
    membership_config c = config;
    membership *m;
    c.n_nodes = 1;
    c.crashes = 3;
    c.crash_window_ms = 10000;
    c.quarantine_ms = 1000;
    c.quarantine_most_ms = 3000;
    assert_int_equal(membership_new(&m, &c), 0);
    return m;
}

/* What the machine says until it waits; the trust that was told, or -1. */
static int tell_all(membership *m, uint64_t now_ms) {
    member_action a;
    int trust = -1;
    for (membership_next(m, now_ms, &a); a.kind != MEMBER_WAIT;
         membership_next(m, now_ms, &a)) {
        if (a.kind != MEMBER_TRUST) continue;
        trust = (int)membership_trust(m, a.node, NULL, NULL);
    }
    return trust;
}

/* It comes up and crashes, and its connection breaks; what is told of it. */
static int crash(membership *m, uint64_t now_ms, uint64_t boot_id) {
    membership_welcome(m, now_ms, 0, boot_id);
    tell_all(m, now_ms);
    membership_broken(m, now_ms, 0);
    return tell_all(m, now_ms);
}

static void takes_a_node_down_whose_connection_broke(void **state) {
    (void)state;
    membership *m = open_up(0, 7);
    membership_broken(m, 10, 0);
    member_action a = expect(m, 10, MEMBER_GONE, 0);
    assert_non_null(strstr(a.reason, "connection"));
    expect(m, 10, MEMBER_HELLO, 0); /* at once */
    assert_int_equal(membership_state(m, 0), NODE_DOWN);
    membership_broken(m, 11, 0); /* no news */
    assert_int_equal(wait_until(m, 11), 110);
    membership_welcome(m, 12, 0, 7);
    expect(m, 12, MEMBER_UP, 0);
    membership_free(m);
}

static void quarantines_a_node_that_keeps_crashing(void **state) {
    (void)state;
    const char *reason;
    uint64_t until;
    membership *m = open_strict();
    assert_int_equal(crash(m, 1000, 1), -1);
    assert_int_equal(crash(m, 2000, 2), -1);
    assert_int_equal(crash(m, 3000, 3), NODE_LAST);
    assert_int_equal(membership_trust(m, 0, &reason, &until), NODE_LAST);
    assert_non_null(strstr(reason, "3 times within 10 s"));
    assert_int_equal(until, 4000);

    /* It is greeted and used as ever. */
    membership_welcome(m, 3100, 0, 4);
    expect(m, 3100, MEMBER_UP, 0);
    assert_int_equal(membership_state(m, 0), NODE_UP);
    membership_free(m);
}

static void lets_it_out_of_quarantine_in_time(void **state) {
    (void)state;
    membership *m = open_strict();
    for (uint64_t i = 1; i <= 3; i++)
        crash(m, 1000 * i, i);
    membership_welcome(m, 3100, 0, 4);
    for (uint64_t now = 3100; now < 4000; now += 50) {
        membership_pong(m, now, 0, 4, now, 0);
        assert_int_equal(tell_all(m, now), -1);
        assert_true(wait_until(m, now) <= 4000);
    }
    assert_int_equal(tell_all(m, 4000), NODE_TRUSTED);
    assert_int_equal(membership_trust(m, 0, NULL, NULL), NODE_TRUSTED);
    membership_free(m);
}

static void doubles_the_quarantine_up_to_the_longest(void **state) {
    (void)state;
    static const uint64_t lengths[] = {1000, 2000, 3000, 3000};
    membership *m = open_strict();
    uint64_t now = 1000, until, boot = 1;
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 3; j++)
            crash(m, now, boot++);
        membership_trust(m, 0, NULL, &until);
        assert_int_equal(until - now, lengths[i]);
        now = until;
        assert_int_equal(tell_all(m, now), NODE_TRUSTED);
    }
    now += 3001; /* well behaved for long: it begins anew */
    for (int j = 0; j < 3; j++)
        crash(m, now, boot++);
    membership_trust(m, 0, NULL, &until);
    assert_int_equal(until - now, 1000);
    membership_free(m);
}

static void forgives_crashes_that_are_far_apart(void **state) {
    (void)state;
    membership *m = open_strict();
    for (uint64_t i = 1; i < 20; i++)
        assert_int_equal(crash(m, 5001 * i, i), -1);
    membership_free(m);
}

static void counts_restarts_that_nobody_saw(void **state) {
    (void)state;
    membership *m = open_strict();
    for (uint64_t boot = 1; boot <= 4; boot++) {
        assert_int_equal(tell_all(m, 100 * boot), -1);
        membership_welcome(m, 100 * boot, 0, boot);
    }
    assert_int_equal(tell_all(m, 400), NODE_LAST);
    membership_free(m);
}

static void condemns_a_process_until_it_is_restarted(void **state) {
    (void)state;
    const char *reason;
    uint64_t until;
    membership *m = open_strict();
    membership_welcome(m, 0, 0, 7);
    tell_all(m, 0);
    assert_int_equal(membership_condemn(m, 0, 6, "differs"), ERR_NOT_HERE);
    assert_int_equal(membership_condemn(m, 5, 7, "differs"), ERR_NOT_HERE);
    assert_int_equal(membership_condemn(m, 0, 7, "differs"), 0);
    assert_int_equal(tell_all(m, 10), NODE_WRONG);
    assert_int_equal(membership_trust(m, 0, &reason, &until), NODE_WRONG);
    assert_string_equal(reason, "differs");
    assert_true(until == UINT64_MAX);

    membership_broken(m, 20, 0);
    membership_welcome(m, 1000, 0, 7); /* the same process again */
    assert_int_equal(tell_all(m, 1000), -1);
    membership_welcome(m, 1010, 0, 8);
    assert_int_equal(tell_all(m, 1010), NODE_TRUSTED);
    membership_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greets_every_node_until_it_answers),
        cmocka_unit_test(pings_a_node_that_is_up),
        cmocka_unit_test(takes_a_silent_node_down_and_greets_it),
        cmocka_unit_test(takes_a_pause_of_our_own_for_no_silence),
        cmocka_unit_test(wakes_up_to_notice_silence),
        cmocka_unit_test(brings_a_node_up_again_that_answers_again),
        cmocka_unit_test(reports_a_restarted_node_as_gone_then_up),
        cmocka_unit_test(greets_a_node_whose_pong_is_of_another_process),
        cmocka_unit_test(takes_a_node_down_whose_pool_stands_still),
        cmocka_unit_test(lets_an_idle_pool_stand_still),
        cmocka_unit_test(keeps_a_stuck_node_down_until_it_moves),
        cmocka_unit_test(greets_a_stuck_node_that_falls_silent),
        cmocka_unit_test(keeps_the_reason_of_a_refusal_and_asks_rarely),
        cmocka_unit_test(takes_a_node_down_that_refuses_later),
        cmocka_unit_test(ignores_a_pong_of_a_node_that_was_not_welcomed),
        cmocka_unit_test(says_nothing_of_a_node_that_came_and_went_unseen),
        cmocka_unit_test(ignores_a_doubled_welcome),
        cmocka_unit_test(waits_forever_without_nodes),
        cmocka_unit_test(refuses_intervals_that_cannot_work),
        cmocka_unit_test(names_every_state),
        cmocka_unit_test(gives_who_joins_the_lowest_free_place),
        cmocka_unit_test(says_nothing_of_who_has_left),
        cmocka_unit_test(knows_nothing_of_who_had_the_place_before),
        cmocka_unit_test(takes_no_more_nodes_than_there_are_places),
        cmocka_unit_test(takes_any_answer_for_a_sign_of_life),
        cmocka_unit_test(takes_a_node_down_whose_connection_broke),
        cmocka_unit_test(quarantines_a_node_that_keeps_crashing),
        cmocka_unit_test(lets_it_out_of_quarantine_in_time),
        cmocka_unit_test(doubles_the_quarantine_up_to_the_longest),
        cmocka_unit_test(forgives_crashes_that_are_far_apart),
        cmocka_unit_test(counts_restarts_that_nobody_saw),
        cmocka_unit_test(condemns_a_process_until_it_is_restarted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
