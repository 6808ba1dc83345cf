/* test_failover.c - which coordinator a client turns to, and when nobody is
 * left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "client/lib/failover.h"
#include "engine/err.h"
#include "engine/util.h"

#define A "tcp://127.0.0.1:1"
#define B "tcp://127.0.0.1:2"
#define C "tcp://127.0.0.1:3"

static failover *given(failover *f, const char *list) {
    failover_init(f);
    assert_int_equal(failover_give(f, list, NULL, 0), 0);
    return f;
}

/* Connected to the first of `list`, with no episode under way. */
static failover *serving(failover *f, const char *list) {
    given(f, list);
    failover_begin(f, 0, 0, 0, "");
    assert_int_equal(failover_next(f, 0).step, FAILOVER_TRY);
    failover_took(f);
    failover_settle(f);
    return f;
}

static void lose(failover *f, uint64_t now) {
    failover_begin(f, now, 0, ERR_CLOSED, "it has gone");
}

/* Who is tried now: the last digit of its endpoint. */
static char tried(failover *f, uint64_t now) {
    failover_choice c = failover_next(f, now);
    assert_int_equal(c.step, FAILOVER_TRY);
    const char *text = f->members[c.member].endpoint;
    return text[strlen(text) - 1];
}

static void miss(failover *f, int code) {
    char why[100];
    snprintf(why, sizeof(why), "%s: %s", f->members[f->trying].endpoint,
             err_text(code));
    failover_failed(f, code, why);
}

static message_member member(const char *endpoint_text, bool leaving) {
    return (message_member){
        .name = "", .endpoint = endpoint_text, .http = "", .leaving = leaving};
}

/* ---- lists ---- */

static void reads_endpoints_between_commas(void **state) {
    failover f;
    (void)state;

    given(&f, " 127.0.0.1:1 , " B ",tcp://[::1]:3");
    assert_int_equal(failover_count(&f), 3);
    assert_string_equal(f.members[0].endpoint, A);
    assert_string_equal(f.members[1].endpoint, B);
    assert_string_equal(f.members[2].endpoint, "tcp://[::1]:3");
}

static void refuses_a_list_with_a_hole(void **state) {
    static const char *const lists[] = {"",       ",",     A ",",
                                        A ",," B, A ";" B, "udp://127.0.0.1:1"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        failover f;
        char why[200] = "";
        failover_init(&f);
        assert_int_equal(failover_give(&f, lists[i], why, sizeof(why)),
                         ERR_USAGE);
        assert_string_not_equal(why, "");
    }
}

static void lists_nobody_twice(void **state) {
    failover f;
    (void)state;

    given(&f, A ",127.0.0.1:1," A);
    const message_member same = member("127.0.0.1:1", false);
    failover_learn(&f, &same, 1);
    assert_int_equal(failover_count(&f), 1);
}

static void refuses_more_than_there_is_room_for(void **state) {
    failover f;
    char text[60], why[200] = "";
    (void)state;

    failover_init(&f);
    for (int i = 1; i <= FAILOVER_MEMBERS + 1; i++) {
        snprintf(text, sizeof(text), "tcp://127.0.0.1:%d", i);
        assert_int_equal(failover_give(&f, text, why, sizeof(why)),
                         i <= FAILOVER_MEMBERS ? 0 : ERR_USAGE);
    }
    const message_member more = member("tcp://127.0.0.1:9999", false);
    failover_learn(&f, &more, 1); /* passed over */
    assert_int_equal(failover_count(&f), FAILOVER_MEMBERS);
}

static void forgets_who_is_not_listed_any_more(void **state) {
    failover f;
    (void)state;

    serving(&f, A);
    const message_member first[] = {member(B, false), member(C, true)};
    failover_learn(&f, first, 2);
    assert_int_equal(failover_count(&f), 3);
    const message_member then[] = {member(C, false)};
    failover_learn(&f, then, 1);
    assert_int_equal(failover_count(&f), 2); /* A was given */
    assert_true(failover_has_others(&f));
    failover_learn(&f, NULL, 0);
    assert_int_equal(failover_count(&f), 1);
    assert_false(failover_has_others(&f));
}

static void passes_over_what_is_no_endpoint(void **state) {
    failover f;
    (void)state;

    serving(&f, A);
    const message_member odd[] = {member("", false), member("nonsense", false),
                                  member(B, false)};
    failover_learn(&f, odd, 3);
    assert_int_equal(failover_count(&f), 2);
}

/* ---- whose turn it is ---- */

static void tries_those_given_in_their_order(void **state) {
    failover f;
    (void)state;

    given(&f, C "," A "," B);
    failover_begin(&f, 0, 0, 0, "");
    assert_int_equal(tried(&f, 0), '3');
    miss(&f, ERR_DEADLINE);
    assert_int_equal(tried(&f, 0), '1');
    miss(&f, ERR_DEADLINE);
    assert_int_equal(tried(&f, 0), '2');
}

static void tries_the_lost_one_last(void **state) {
    failover f;
    (void)state;

    serving(&f, A "," B "," C);
    lose(&f, 0);
    assert_int_equal(tried(&f, 0), '2');
    miss(&f, ERR_DEADLINE);
    assert_int_equal(tried(&f, 0), '3');
    miss(&f, ERR_DEADLINE);
    assert_int_equal(failover_next(&f, 0).step, FAILOVER_WAIT);
    for (const char *order = "231"; *order != '\0'; order++) {
        assert_int_equal(tried(&f, FAILOVER_PAUSE_MS), *order);
        miss(&f, ERR_DEADLINE);
    }
}

static void begins_where_it_is_told_so_that_clients_spread(void **state) {
    failover f;
    (void)state;

    serving(&f, A "," B "," C);
    failover_begin(&f, 0, 2 + 5 * FAILOVER_MEMBERS, ERR_CLOSED, "");
    assert_int_equal(tried(&f, 0), '3');
}

static void prefers_who_is_not_leaving(void **state) {
    failover f;
    (void)state;

    serving(&f, A "," B "," C);
    const message_member list[] = {member(B, true), member(C, false)};
    failover_learn(&f, list, 2);
    lose(&f, 0);
    assert_int_equal(tried(&f, 0), '3');
    miss(&f, ERR_DEADLINE);
    assert_int_equal(tried(&f, 0), '2'); /* better than to wait */
}

static void waits_longer_before_each_round(void **state) {
    failover f;
    uint64_t now = 1000, last = 0;
    uint32_t limit = 0;
    (void)state;

    serving(&f, A "," B);
    lose(&f, now);
    for (int round = 0; round < 12; round++) {
        failover_choice c = failover_next(&f, now);
        uint64_t pause = 0;
        if (c.step == FAILOVER_WAIT) {
            pause = c.at_ms - now;
            now = c.at_ms;
            c = failover_next(&f, now);
        }
        assert_int_equal(c.step, FAILOVER_TRY);
        assert_true(c.limit_ms >= limit);
        assert_true(c.limit_ms <= FAILOVER_LIMIT_MOST_MS);
        assert_true(pause == 0 || pause >= last);
        assert_true(pause <= FAILOVER_PAUSE_MOST_MS);
        if (pause > 0) last = pause;
        limit = c.limit_ms;
        miss(&f, ERR_DEADLINE);
    }
    assert_int_equal(last, FAILOVER_PAUSE_MOST_MS);
    assert_int_equal(limit, FAILOVER_LIMIT_MOST_MS);
}

static void gives_the_only_one_a_second_chance(void **state) {
    failover f;
    (void)state;

    serving(&f, A);
    lose(&f, 0);
    assert_int_equal(failover_next(&f, 0).step, FAILOVER_WAIT);
    assert_int_equal(tried(&f, 1000), '1'); /* it may have been restarted */
    miss(&f, ERR_DEADLINE);
    assert_int_equal(failover_next(&f, 9999).step, FAILOVER_OVER);
    assert_int_equal(failover_code(&f), ERR_CLOSED);
}

/* ---- episodes ---- */

static void two_who_refuse_in_turn_are_one_episode(void **state) {
    failover f;
    uint64_t now = 0;
    int waits = 0;
    (void)state;

    serving(&f, A "," B);
    for (int i = 0; i < 6; i++) {
        lose(&f, now); /* the one that was just taken */
        failover_choice c = failover_next(&f, now);
        if (c.step == FAILOVER_WAIT) {
            waits++;
            now = c.at_ms;
            c = failover_next(&f, now);
        }
        assert_int_equal(c.step, FAILOVER_TRY);
        assert_int_not_equal(c.member, f.current);
        failover_took(&f);
    }
    assert_int_equal(waits, 3); /* before each round but the first */
    assert_true(now >= FAILOVER_PAUSE_MS * (1 + 2 + 4));
    failover_settle(&f); /* it works: the next loss is a new one */
    lose(&f, now);
    assert_int_equal(failover_next(&f, now).step, FAILOVER_TRY);
}

static void does_not_ask_the_unfit_again_in_an_episode(void **state) {
    failover f;
    char text[300];
    (void)state;

    serving(&f, A "," B "," C);
    lose(&f, 0);
    tried(&f, 0);
    miss(&f, ERR_WRONG_MODEL);
    tried(&f, 0);
    miss(&f, ERR_WRONG_PROFILE);
    assert_false(failover_has_others(&f));
    assert_int_equal(failover_code(&f), ERR_WRONG_MODEL);
    assert_int_equal(failover_next(&f, 0).step, FAILOVER_WAIT);
    assert_int_equal(tried(&f, 1000), '1');
    miss(&f, ERR_DEADLINE);
    assert_int_equal(failover_next(&f, 9999).step, FAILOVER_OVER);
    failover_explain(&f, text, sizeof(text));
    assert_non_null(strstr(text, "2 tried: " B));
    assert_non_null(strstr(text, "; " C));

    failover_settle(&f);
    lose(&f, 10000); /* they may have been replaced meanwhile */
    assert_int_equal(tried(&f, 10000), '2');
}

static void a_deadline_among_the_failures_is_a_loss(void **state) {
    failover f;
    (void)state;

    serving(&f, A "," B "," C);
    lose(&f, 0);
    tried(&f, 0);
    miss(&f, ERR_WRONG_MODEL);
    tried(&f, 0);
    miss(&f, ERR_DEADLINE);
    assert_int_equal(failover_code(&f), ERR_CLOSED);
}

static void an_attempt_that_was_dropped_is_no_failure(void **state) {
    failover f;
    char text[100];
    (void)state;

    serving(&f, A "," B);
    lose(&f, 0);
    assert_int_equal(tried(&f, 0), '2');
    failover_dropped(&f);
    assert_int_equal(tried(&f, 0), '2');
    failover_dropped(&f);
    failover_explain(&f, text, sizeof(text));
    assert_string_equal(text, "nobody else is known");
}

static void an_explanation_is_cut_to_the_room_there_is(void **state) {
    failover f;
    char text[24], none[1];
    (void)state;

    serving(&f, A "," B "," C);
    lose(&f, 0);
    tried(&f, 0);
    miss(&f, ERR_DEADLINE);
    tried(&f, 0);
    miss(&f, ERR_DEADLINE);
    failover_explain(&f, text, sizeof(text));
    assert_int_equal(strlen(text), sizeof(text) - 1);
    failover_explain(&f, none, sizeof(none));
    assert_string_equal(none, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_endpoints_between_commas),
        cmocka_unit_test(refuses_a_list_with_a_hole),
        cmocka_unit_test(lists_nobody_twice),
        cmocka_unit_test(refuses_more_than_there_is_room_for),
        cmocka_unit_test(forgets_who_is_not_listed_any_more),
        cmocka_unit_test(passes_over_what_is_no_endpoint),
        cmocka_unit_test(tries_those_given_in_their_order),
        cmocka_unit_test(tries_the_lost_one_last),
        cmocka_unit_test(begins_where_it_is_told_so_that_clients_spread),
        cmocka_unit_test(prefers_who_is_not_leaving),
        cmocka_unit_test(waits_longer_before_each_round),
        cmocka_unit_test(gives_the_only_one_a_second_chance),
        cmocka_unit_test(two_who_refuse_in_turn_are_one_episode),
        cmocka_unit_test(does_not_ask_the_unfit_again_in_an_episode),
        cmocka_unit_test(a_deadline_among_the_failures_is_a_loss),
        cmocka_unit_test(an_attempt_that_was_dropped_is_no_failure),
        cmocka_unit_test(an_explanation_is_cut_to_the_room_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
