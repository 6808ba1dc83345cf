/* test_session.c - the lease and its keys: each rule by itself.  All together,
 * against an etcd that misbehaves: test_session_model.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/session.h"

#define TTL 6000
#define RETRY 200
#define BOOT 77

static session *made(bool campaign) {
    const session_config c = {
        .ttl_ms = TTL, .retry_ms = RETRY, .boot = BOOT, .campaign = campaign};
    session *s;
    assert_int_equal(session_new(&s, &c), 0);
    return s;
}

static session_action expect(session *s, uint64_t now, session_kind kind) {
    session_action a;
    session_next(s, now, &a);
    assert_int_equal(a.kind, kind);
    return a;
}

static session_action expect_slot(session *s, uint64_t now, session_kind kind,
                                  session_slot slot) {
    session_action a = expect(s, now, kind);
    assert_int_equal(a.slot, slot);
    return a;
}

/* From `now` to `then` it asks for nothing but that its lease is kept. */
static void wait_until(session *s, uint64_t now, uint64_t then) {
    while (now < then) {
        session_action a;
        session_next(s, now, &a);
        if (a.kind == SESSION_KEEP) {
            session_kept(s, now, SESSION_DONE);
            continue;
        }
        assert_int_equal(a.kind, SESSION_WAIT);
        assert_true(a.wake_ms > now);
        now = a.wake_ms;
    }
    assert_true(now == then);
}

static const session_found nothing = {.mod_revision = 1};

/* With lease 5, granted at `now`, and the record written at revision 10. */
static session *registered(uint64_t now, bool campaign) {
    session *s = made(campaign);
    session_want(s, SLOT_RECORD);
    expect(s, now, SESSION_GRANT);
    session_granted(s, now, SESSION_DONE, 5, TTL);
    expect_slot(s, now, SESSION_READ, SLOT_RECORD);
    session_read(s, now, SLOT_RECORD, SESSION_DONE, &nothing);
    session_action a = expect_slot(s, now, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 0);
    assert_int_equal(a.lease, 5);
    assert_false(session_registered(s));
    session_wrote(s, now, SLOT_RECORD, SESSION_DONE, 10);
    assert_true(session_registered(s));
    return s;
}

static session *leading(uint64_t now) {
    session *s = registered(now, true);
    expect_slot(s, now, SESSION_READ, SLOT_LEADER);
    session_read(s, now, SLOT_LEADER, SESSION_DONE, &nothing);
    session_action a = expect_slot(s, now, SESSION_WRITE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 0);
    session_wrote(s, now, SLOT_LEADER, SESSION_DONE, 12);
    assert_true(session_term(s, now) == 12);
    return s;
}

static void asks_for_nothing_before_there_is_something_to_say(void **state) {
    session *s = made(true);
    (void)state;
    assert_true(expect(s, 0, SESSION_WAIT).wake_ms == UINT64_MAX);
    session_free(s);
    session_free(NULL);
}

static void registers_and_keeps_the_lease_alive(void **state) {
    session *s = registered(1000, false);
    (void)state;
    assert_true(expect(s, 1000, SESSION_WAIT).wake_ms == 1000 + TTL / 3);
    assert_int_equal(expect(s, 1000 + TTL / 3, SESSION_KEEP).lease, 5);
    expect(s, 1000 + TTL / 3, SESSION_WAIT); /* one at a time */
    session_kept(s, 3400, SESSION_DONE);
    /* counted from when it was asked, not from when it was answered */
    assert_true(expect(s, 3400, SESSION_WAIT).wake_ms == 3000 + TTL / 3);
    session_free(s);
}

static void backs_off_while_nobody_answers(void **state) {
    session *s = made(false);
    uint64_t now = 0;
    (void)state;
    session_want(s, SLOT_RECORD);
    static const uint32_t waits[] = {1, 2, 4, 8, 8, 8};
    for (int i = 0; i < 6; i++) {
        expect(s, now, SESSION_GRANT);
        session_granted(s, now, SESSION_NOT, 0, 0);
        now += (uint64_t)waits[i] * RETRY;
        assert_true(expect(s, now - 1, SESSION_WAIT).wake_ms == now);
    }
    expect(s, now, SESSION_GRANT);
    session_granted(s, now, SESSION_DONE, 5, TTL);
    expect(s, now, SESSION_READ);
    session_free(s);
}

/* Who waits on then may still not be listed when etcd goes away again, and is
 * not known to a coordinator that begins in between. */
static void waits_no_longer_when_etcd_is_back(void **state) {
    session *s = made(false);
    (void)state;
    session_want(s, SLOT_RECORD);
    for (uint64_t now = 0; now < 7 * RETRY; now += RETRY) {
        session_reachable(s);
        expect(s, now, SESSION_GRANT);
        session_granted(s, now, SESSION_NOT, 0, 0);
        assert_true(expect(s, now, SESSION_WAIT).wake_ms == now + RETRY);
    }
    session_reachable(s);
    expect(s, 7 * RETRY, SESSION_GRANT);
    session_reachable(s); /* one that is under way is waited for */
    expect(s, 7 * RETRY, SESSION_WAIT);
    session_granted(s, 7 * RETRY, SESSION_DONE, 5, TTL);
    expect_slot(s, 7 * RETRY, SESSION_READ, SLOT_RECORD);
    session_free(s);
}

/* etcd is out of space, say: it reads well, and refuses every write. */
static void backs_off_while_its_writes_are_refused(void **state) {
    static const uint32_t waits[] = {1, 2, 4, 8, 8, 8};
    session *s = registered(0, false);
    const session_found gone = {.mod_revision = 30};
    uint64_t now = 0;
    (void)state;
    session_seen(s, SLOT_RECORD, &gone);
    expect_slot(s, now, SESSION_WRITE, SLOT_RECORD);
    for (int i = 0; i < 6; i++) {
        session_wrote(s, now, SLOT_RECORD, SESSION_NOT, 0);
        uint64_t next = now + (uint64_t)waits[i] * RETRY;
        wait_until(s, now, next);
        now = next;
        expect_slot(s, now, SESSION_READ, SLOT_RECORD);
        session_read(s, now, SLOT_RECORD, SESSION_DONE, &gone);
        expect_slot(s, now, SESSION_WRITE, SLOT_RECORD);
    }
    session_wrote(s, now, SLOT_RECORD, SESSION_DONE, 31);
    session_want(s, SLOT_RECORD);
    expect_slot(s, now, SESSION_WRITE, SLOT_RECORD);
    session_wrote(s, now, SLOT_RECORD, SESSION_NOT, 0);
    assert_true(expect(s, now, SESSION_WAIT).wake_ms == now + RETRY);
    session_free(s);
}

/* Two that live at one place, by mistake, must not write as fast as etcd can:
 * the lease of a dead one would have ended by then. */
static void takes_its_record_back_once_in_a_lease_at_most(void **state) {
    session *s = registered(0, false);
    session_found twin = {
        .boot = 9, .mod_revision = 20, .lease = 2, .same_place = true};
    (void)state;
    session_seen(s, SLOT_RECORD, &twin);
    session_action a = expect_slot(s, 1000, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 20);
    session_wrote(s, 1000, SLOT_RECORD, SESSION_DONE, 21);
    twin.mod_revision = 22;
    session_seen(s, SLOT_RECORD, &twin);
    assert_false(session_registered(s));
    wait_until(s, 1000, 1000 + TTL);
    expect_slot(s, 1000 + TTL, SESSION_WRITE, SLOT_RECORD);
    session_free(s);
}

static void takes_no_lease_whose_time_is_over(void **state) {
    session *s = made(false);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, TTL, SESSION_DONE, 5, TTL);
    expect(s, TTL, SESSION_WAIT);
    expect(s, TTL + RETRY, SESSION_GRANT);
    session_free(s);
}

static void leaves_anothers_record_alone_and_says_so(void **state) {
    session *s = made(true);
    const session_found other = {
        .boot = 9, .create_revision = 3, .mod_revision = 4, .lease = 8};
    (void)state;
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, 0, SESSION_DONE, 5, TTL);
    expect_slot(s, 0, SESSION_READ, SLOT_RECORD);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &other);
    assert_true(session_name_taken(s));
    assert_false(session_registered(s));
    assert_true(expect(s, 0, SESSION_WAIT).wake_ms == 8 * RETRY);
    expect_slot(s, 8 * RETRY, SESSION_READ, SLOT_RECORD); /* tries again */
    session_read(s, 8 * RETRY, SLOT_RECORD, SESSION_DONE, &other);

    /* The watch says that its lease ran out: at once. */
    const session_found gone = {.mod_revision = 20};
    session_seen(s, SLOT_RECORD, &gone);
    assert_false(session_name_taken(s));
    expect_slot(s, 8 * RETRY, SESSION_WRITE, SLOT_RECORD);
    session_free(s);
}

static void goes_over_a_dead_predecessor_with_its_endpoint(void **state) {
    session *s = made(false);
    const session_found dead = {.boot = 9,
                                .create_revision = 3,
                                .mod_revision = 4,
                                .lease = 8,
                                .same_place = true};
    (void)state;
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, 0, SESSION_DONE, 5, TTL);
    expect(s, 0, SESSION_READ);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &dead);
    assert_false(session_name_taken(s));
    session_action a = expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 4);
    session_wrote(s, 0, SLOT_RECORD, SESSION_DONE, 10);
    assert_true(session_registered(s));
    session_free(s);
}

static void never_goes_over_a_leader(void **state) {
    session *s = registered(0, true);
    const session_found dead = {.boot = 9,
                                .create_revision = 3,
                                .mod_revision = 4,
                                .lease = 8,
                                .same_place = true};
    (void)state;
    expect_slot(s, 0, SESSION_READ, SLOT_LEADER);
    session_read(s, 0, SLOT_LEADER, SESSION_DONE, &dead);
    expect(s, 0, SESSION_WAIT);
    const session_found gone = {.mod_revision = 20};
    session_seen(s, SLOT_LEADER, &gone);
    session_action a = expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 0);
    session_free(s);
}

static void reads_before_it_writes_after_an_unknown_outcome(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_RECORD);
    session_action a = expect_slot(s, 10, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 10);
    session_wrote(s, 10, SLOT_RECORD, SESSION_MAYBE, 0);
    expect(s, 10, SESSION_WAIT);
    expect_slot(s, 10 + RETRY, SESSION_READ, SLOT_RECORD);
    /* It was carried out, but with which contents nobody knows: again. */
    const session_found found = {
        .boot = BOOT, .create_revision = 10, .mod_revision = 15, .lease = 5};
    session_read(s, 300, SLOT_RECORD, SESSION_DONE, &found);
    a = expect_slot(s, 300, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 15);
    session_wrote(s, 300, SLOT_RECORD, SESSION_DONE, 16);
    expect(s, 300, SESSION_WAIT);
    session_free(s);
}

static void writes_what_changed_while_a_write_was_under_way(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_READY);
    expect_slot(s, 0, SESSION_READ, SLOT_READY);
    session_read(s, 0, SLOT_READY, SESSION_DONE, &nothing);
    expect_slot(s, 0, SESSION_WRITE, SLOT_READY);
    session_want(s, SLOT_READY);
    expect(s, 0, SESSION_WAIT);
    session_wrote(s, 5, SLOT_READY, SESSION_DONE, 11);
    assert_int_equal(expect_slot(s, 5, SESSION_WRITE, SLOT_READY).mod_revision,
                     11);
    session_free(s);
}

static void reports_nothing_under_a_name_that_is_not_its_own(void **state) {
    session *s = made(false);
    const session_found other = {.boot = 9, .mod_revision = 4, .lease = 8};
    (void)state;
    session_want(s, SLOT_RECORD);
    session_want(s, SLOT_READY);
    expect(s, 0, SESSION_GRANT);
    session_granted(s, 0, SESSION_DONE, 5, TTL);
    expect_slot(s, 0, SESSION_READ, SLOT_RECORD);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &other);
    expect(s, 0, SESSION_WAIT);
    session_free(s);
}

static void replaces_what_a_predecessor_reported(void **state) {
    session *s = registered(0, false);
    const session_found old = {.boot = 9, .mod_revision = 4, .lease = 8};
    (void)state;
    session_want(s, SLOT_READY);
    expect_slot(s, 0, SESSION_READ, SLOT_READY);
    session_read(s, 0, SLOT_READY, SESSION_DONE, &old);
    assert_int_equal(expect_slot(s, 0, SESSION_WRITE, SLOT_READY).mod_revision,
                     4);
    session_free(s);
}

static void registers_anew_when_the_lease_is_gone(void **state) {
    session *s = registered(0, false);
    (void)state;
    expect(s, TTL / 3, SESSION_KEEP);
    session_kept(s, TTL / 3, SESSION_LOST);
    assert_false(session_registered(s));
    expect(s, TTL / 3, SESSION_GRANT);
    session_granted(s, 2100, SESSION_DONE, 6, TTL);
    expect_slot(s, 2100, SESSION_READ, SLOT_RECORD);
    const session_found old = {
        .boot = BOOT, .create_revision = 10, .mod_revision = 10, .lease = 5};
    session_read(s, 2100, SLOT_RECORD, SESSION_DONE, &old);
    session_action a = expect_slot(s, 2100, SESSION_WRITE, SLOT_RECORD);
    assert_int_equal(a.mod_revision, 10);
    assert_int_equal(a.lease, 6);
    session_free(s);
}

static void counts_a_lease_as_lost_when_its_time_has_passed(void **state) {
    session *s = registered(0, false);
    (void)state;
    expect(s, TTL / 3, SESSION_KEEP); /* never answered in time */
    assert_true(expect(s, TTL - 1, SESSION_WAIT).wake_ms == TTL);
    assert_true(session_registered(s));
    expect(s, TTL, SESSION_WAIT);
    assert_false(session_registered(s));
    session_kept(s, TTL + 50, SESSION_DONE); /* of the lost one */
    assert_false(session_registered(s));
    expect(s, TTL + 50, SESSION_GRANT);
    session_free(s);
}

static void a_write_that_finds_no_lease_loses_it(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    session_wrote(s, 0, SLOT_RECORD, SESSION_LOST, 0);
    expect(s, 0, SESSION_GRANT);
    session_free(s);
}

static void puts_its_key_again_at_once_when_it_vanishes(void **state) {
    session *s = registered(0, false);
    const session_found gone = {.mod_revision = 30};
    (void)state;
    session_seen(s, SLOT_RECORD, &gone);
    assert_int_equal(expect_slot(s, 1, SESSION_WRITE, SLOT_RECORD).mod_revision,
                     0);
    session_free(s);
}

static void ignores_sightings_older_than_what_it_wrote(void **state) {
    session *s = registered(0, false);
    const session_found before = {.mod_revision = 9};
    const session_found other = {.boot = 9, .mod_revision = 8, .lease = 2};
    (void)state;
    session_seen(s, SLOT_RECORD, &before);
    session_seen(s, SLOT_RECORD, &other);
    assert_true(session_registered(s));
    expect(s, 0, SESSION_WAIT);
    session_free(s);
}

static void sees_its_write_before_the_answer_comes(void **state) {
    session *s = registered(0, true);
    const session_found mine = {
        .boot = BOOT, .create_revision = 12, .mod_revision = 12, .lease = 5};
    const session_found gone = {.mod_revision = 13};
    (void)state;
    expect_slot(s, 0, SESSION_READ, SLOT_LEADER);
    session_read(s, 0, SLOT_LEADER, SESSION_DONE, &nothing);
    expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    session_seen(s, SLOT_LEADER, &mine);
    assert_true(session_term(s, 0) == 12);
    session_seen(s, SLOT_LEADER, &gone);
    session_wrote(s, 0, SLOT_LEADER, SESSION_DONE, 12);
    assert_true(session_term(s, 0) == 0); /* it is gone already */
    expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    session_free(s);
}

static void leads_until_two_thirds_of_the_lease(void **state) {
    session *s = leading(0);
    (void)state;
    expect(s, TTL / 3, SESSION_KEEP);
    assert_true(expect(s, TTL / 3, SESSION_WAIT).wake_ms == TTL * 2 / 3);
    assert_true(session_term(s, TTL * 2 / 3 - 1) == 12);
    assert_true(session_term(s, TTL * 2 / 3) == 0);
    /* A late answer: the lease was ours all the time, and so was the key. */
    session_kept(s, TTL - 10, SESSION_DONE);
    assert_true(session_term(s, TTL - 10) == 12);
    session_free(s);
}

static void does_not_lead_after_it_was_stopped(void **state) {
    session *s = leading(0);
    (void)state;
    assert_true(session_term(s, TTL + 1) == 0); /* before anything else */
    expect(s, TTL + 1, SESSION_GRANT);
    session_free(s);
}

static void loses_the_lead_when_another_has_the_key(void **state) {
    session *s = leading(0);
    const session_found other = {
        .boot = 9, .create_revision = 40, .mod_revision = 40, .lease = 8};
    (void)state;
    session_seen(s, SLOT_LEADER, &other);
    assert_true(session_term(s, 0) == 0);
    session_free(s);
}

static void campaigns_only_while_it_wants(void **state) {
    session *s = registered(0, true);
    (void)state;
    session_campaign(s, false);
    /* It has not looked yet: the key may be ours. */
    expect_slot(s, 0, SESSION_READ, SLOT_LEADER);
    session_read(s, 0, SLOT_LEADER, SESSION_DONE, &nothing);
    expect(s, 0, SESSION_WAIT);
    session_campaign(s, true);
    expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    session_free(s);
}

static void gives_the_lead_up_when_it_wants_it_no_more(void **state) {
    session *s = leading(0);
    (void)state;
    session_campaign(s, false);
    assert_true(session_term(s, 0) == 0);
    session_action a = expect_slot(s, 0, SESSION_RELEASE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 12);
    expect(s, 0, SESSION_WAIT); /* once */
    session_released(s, 0, SLOT_LEADER, SESSION_DONE, 20);
    expect(s, 0, SESSION_WAIT);
    assert_true(session_registered(s)); /* that is another key */

    session_campaign(s, true);
    a = expect_slot(s, 0, SESSION_WRITE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 0);
    session_wrote(s, 0, SLOT_LEADER, SESSION_DONE, 21);
    assert_true(session_term(s, 0) == 21);
    session_free(s);
}

/* A release that nobody knows of may be carried out at any later time: only
 * writing the key again makes it harmless. */
static void does_not_lead_by_a_key_that_may_still_go(void **state) {
    session *s = leading(0);
    const session_found own = {
        .boot = BOOT, .create_revision = 12, .mod_revision = 12, .lease = 5};
    (void)state;
    session_campaign(s, false);
    expect_slot(s, 0, SESSION_RELEASE, SLOT_LEADER);
    session_campaign(s, true);
    assert_true(session_term(s, 0) == 0);
    session_released(s, 0, SLOT_LEADER, SESSION_MAYBE, 0);
    expect_slot(s, RETRY, SESSION_READ, SLOT_LEADER);
    session_read(s, RETRY, SLOT_LEADER, SESSION_DONE, &own);
    assert_true(session_term(s, RETRY) == 0);
    session_action a = expect_slot(s, RETRY, SESSION_WRITE, SLOT_LEADER);
    assert_int_equal(a.mod_revision, 12);
    session_wrote(s, RETRY, SLOT_LEADER, SESSION_DONE, 30);
    assert_true(session_term(s, RETRY) == 12);
    session_free(s);
}

static void gives_everything_up_at_the_end(void **state) {
    session *s = leading(0);
    (void)state;
    session_end(s);
    assert_true(session_term(s, 0) == 0);
    assert_int_equal(expect(s, 0, SESSION_REVOKE).lease, 5);
    assert_false(session_registered(s));
    assert_true(expect(s, 0, SESSION_WAIT).wake_ms == UINT64_MAX);
    session_free(s);

    s = made(false); /* while the lease is being granted */
    session_want(s, SLOT_RECORD);
    expect(s, 0, SESSION_GRANT);
    session_end(s);
    expect(s, 0, SESSION_WAIT);
    session_granted(s, 10, SESSION_DONE, 6, TTL);
    assert_int_equal(expect(s, 10, SESSION_REVOKE).lease, 6);
    expect(s, 10, SESSION_WAIT);
    session_free(s);
}

static void starts_over_in_a_store_that_was_replaced(void **state) {
    session *s = leading(0);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    session_forget(s);
    assert_false(session_registered(s));
    assert_true(session_term(s, 0) == 0);
    session_wrote(s, 0, SLOT_RECORD, SESSION_DONE, 500); /* in the old one */
    assert_false(session_registered(s));
    expect_slot(s, 0, SESSION_READ, SLOT_RECORD);
    session_read(s, 0, SLOT_RECORD, SESSION_DONE, &nothing);
    assert_int_equal(expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD).mod_revision,
                     0);
    session_wrote(s, 0, SLOT_RECORD, SESSION_DONE, 2); /* lower than before */
    assert_true(session_registered(s));
    session_free(s);
}

static void does_not_spin_when_revisions_went_back_unnoticed(void **state) {
    session *s = registered(0, false);
    (void)state;
    session_want(s, SLOT_RECORD);
    expect_slot(s, 0, SESSION_WRITE, SLOT_RECORD);
    session_wrote(s, 0, SLOT_RECORD, SESSION_NOT, 0);
    expect_slot(s, RETRY, SESSION_READ, SLOT_RECORD);
    session_read(s, RETRY, SLOT_RECORD, SESSION_DONE, &nothing);
    assert_true(expect(s, RETRY, SESSION_WAIT).wake_ms > RETRY);
    session_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_for_nothing_before_there_is_something_to_say),
        cmocka_unit_test(registers_and_keeps_the_lease_alive),
        cmocka_unit_test(backs_off_while_nobody_answers),
        cmocka_unit_test(waits_no_longer_when_etcd_is_back),
        cmocka_unit_test(backs_off_while_its_writes_are_refused),
        cmocka_unit_test(takes_its_record_back_once_in_a_lease_at_most),
        cmocka_unit_test(takes_no_lease_whose_time_is_over),
        cmocka_unit_test(leaves_anothers_record_alone_and_says_so),
        cmocka_unit_test(goes_over_a_dead_predecessor_with_its_endpoint),
        cmocka_unit_test(never_goes_over_a_leader),
        cmocka_unit_test(reads_before_it_writes_after_an_unknown_outcome),
        cmocka_unit_test(writes_what_changed_while_a_write_was_under_way),
        cmocka_unit_test(reports_nothing_under_a_name_that_is_not_its_own),
        cmocka_unit_test(replaces_what_a_predecessor_reported),
        cmocka_unit_test(registers_anew_when_the_lease_is_gone),
        cmocka_unit_test(counts_a_lease_as_lost_when_its_time_has_passed),
        cmocka_unit_test(a_write_that_finds_no_lease_loses_it),
        cmocka_unit_test(puts_its_key_again_at_once_when_it_vanishes),
        cmocka_unit_test(ignores_sightings_older_than_what_it_wrote),
        cmocka_unit_test(sees_its_write_before_the_answer_comes),
        cmocka_unit_test(leads_until_two_thirds_of_the_lease),
        cmocka_unit_test(does_not_lead_after_it_was_stopped),
        cmocka_unit_test(loses_the_lead_when_another_has_the_key),
        cmocka_unit_test(campaigns_only_while_it_wants),
        cmocka_unit_test(gives_the_lead_up_when_it_wants_it_no_more),
        cmocka_unit_test(does_not_lead_by_a_key_that_may_still_go),
        cmocka_unit_test(gives_everything_up_at_the_end),
        cmocka_unit_test(starts_over_in_a_store_that_was_replaced),
        cmocka_unit_test(does_not_spin_when_revisions_went_back_unnoticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
