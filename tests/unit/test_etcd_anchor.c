/* test_etcd_anchor.c - a watch that keeps an eye on one key: checks are cheap,
 * and a store that was replaced unseen shows by that key's history.
 *
 * Before it connects, and every two seconds after, the watch asks for the
 * anchor; before it connects also for newer keys.  Tests script both. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "tests/support/etcd_pair.h"
#include "tests/support/etcd_words.h"

/* The key /w/, made at revision `made`, changed at `mod`, of a store at `now`.
 */
#define KEY(now, made, mod)                                                    \
    "{" HEADER(now) ",\"kvs\":[{\"key\":\"L3cv\",\"create_revision\":\"" #made \
                    "\",\"mod_revision\":\"" #mod "\"}]}"
#define PUT(made, mod)                                                         \
    "{\"kv\":{\"key\":\"L3cv\",\"create_revision\":\"" #made                   \
    "\",\"mod_revision\":\"" #mod "\"}}"
#define GONE(mod)                                                              \
    "{\"type\":\"DELETE\",\"kv\":{\"key\":\"L3cv\",\"mod_revision\":\"" #mod   \
    "\"}}"

static bool is_for_the_anchor(const etcd_pair *f) {
    return strstr(etcd_script_body(f->server[0], RANGE), "range_end") == NULL;
}

/* A watch from revision 6 of a store at 5, whose anchor was made at 2 and
 * changed at 4; connected. */
static void open_live(etcd_pair *f) {
    static const char key[] = "/w/";
    etcd_pair_open(f, &(etcd_config){.n_endpoints = 1});
    etcd_script_say(f->server[0], RANGE, 200, KEY(5, 2, 4)); /* the anchor */
    etcd_script_say(f->server[0], RANGE, 200, STORE_AT(5));  /* newer: none */
    etcd_script_stream(f->server[0], WATCH, CREATED(5));
    etcd_sync_watch(&f->sync, key, 6, 7);
    const etcd_kv anchor = {
        .key = key, .key_len = 3, .create_revision = 2, .mod_revision = 4};
    assert_int_equal(etcd_watch_anchor(f->sync.watch, &anchor), 0);
    etcd_sync_until_more(&f->sync, &f->sync.n_live, 0);
    assert_int_equal(etcd_script_asked(f->server[0], RANGE), 2);
    assert_false(is_for_the_anchor(f));
}

static void until_lost(etcd_pair *f, const char *why) {
    etcd_sync_until_more(&f->sync, &f->sync.n_lost, 0);
    if (strstr(f->sync.watch_why, why) == NULL)
        fail_msg("%s, not: %s", f->sync.watch_why, why);
}

static void asks_for_one_key_while_it_is_connected(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, KEY(5, 2, 4));
    etcd_sync_until_more(&f.sync, &f.sync.n_live, 1);
    assert_int_equal(etcd_script_asked(f.server[0], RANGE), 3);
    assert_string_equal(etcd_script_body(f.server[0], RANGE),
                        "{\"key\":\"L3cv\",\"keys_only\":true}");
    etcd_pair_close(&f);
}

/* Others write into the same etcd; that alone is no reason to look at all keys,
 * or to be worried. */
static void takes_no_notice_of_a_store_that_others_write_to(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, KEY(90, 2, 4));
    etcd_sync_until_more(&f.sync, &f.sync.n_live, 2);
    assert_true(is_for_the_anchor(&f));
    assert_int_equal(f.sync.n_away + f.sync.n_lost, 0);
    etcd_pair_close(&f);
}

static void notices_a_stream_that_keeps_the_anchors_change_back(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, KEY(9, 2, 8));
    etcd_sync_until_more(&f.sync, &f.sync.n_away, 0);
    assert_non_null(strstr(f.sync.watch_why, "events do not come"));
    etcd_pair_close(&f);
}

static void follows_the_anchor_by_its_events(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, KEY(8, 8, 8));
    etcd_script_more(f.server[0],
                     LINE(6, ",\"events\":[" PUT(2, 6) "]")
                         LINE(7, ",\"events\":[" GONE(7) "]")
                             LINE(8, ",\"events\":[" PUT(8, 8) "]"));
    etcd_sync_until_more(&f.sync, &f.sync.n_lines, 2);
    etcd_sync_until_more(&f.sync, &f.sync.n_live, f.sync.n_live + 1);
    assert_int_equal(f.sync.n_lost, 0);
    etcd_pair_close(&f);
}

/* What may stand there after a break, and is not what was there: changed or
 * made at a revision that was covered, changed less, or made by somebody else.
 */
static void is_lost_when_the_anchor_has_another_history(void **state) {
    static const char *const answers[] = {
        KEY(90, 2, 5),  /* changed at 5: we would have seen it */
        KEY(90, 2, 3),  /* an older state, of a store that has gone on */
        KEY(90, 3, 4),  /* changed when it was, but made later */
        KEY(90, 3, 80), /* another one, which has changed since */
        STORE_AT(90),   /* none */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        etcd_pair f;
        open_live(&f);
        etcd_script_say(f.server[0], RANGE, 200, answers[i]);
        etcd_script_say(f.server[0], RANGE, 200, answers[i]);
        etcd_script_cut(f.server[0]);
        until_lost(&f, "another one");
        assert_int_equal(etcd_script_asked(f.server[0], WATCH), 1);
        etcd_pair_close(&f);
    }
}

static void goes_on_after_a_break_with_the_same_history(void **state) {
    static const char *const answers[] = {
        KEY(90, 2, 4),   /* as it was */
        KEY(90, 2, 80),  /* changed since */
        KEY(90, 70, 80), /* deleted and made again since */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        etcd_pair f;
        open_live(&f);
        etcd_script_say(f.server[0], RANGE, 200, answers[i]);
        etcd_script_stream(f.server[0], WATCH,
                           CREATED(90)
                               LINE(90, ",\"events\":[" PUT(2, 90) "]"));
        etcd_script_cut(f.server[0]);
        etcd_sync_until_more(&f.sync, &f.sync.n_lines, 0);
        assert_int_equal(f.sync.n_lost, 0);
        assert_int_equal(etcd_script_asked(f.server[0], WATCH), 2);
        etcd_pair_close(&f);
    }
}

/* Deleted just now: the event has until the next look. */
static void gives_a_deletion_time_to_arrive(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(8));
    while (etcd_script_asked(f.server[0], RANGE) < 3)
        etcd_sync_for(&f.sync, 50);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(8));
    etcd_script_more(f.server[0], LINE(8, ",\"events\":[" GONE(8) "]"));
    etcd_sync_until_more(&f.sync, &f.sync.n_live, f.sync.n_live);
    assert_int_equal(f.sync.n_lost, 0);
    etcd_pair_close(&f);

    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(8));
    until_lost(&f, "another one");
    etcd_pair_close(&f);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_for_one_key_while_it_is_connected),
        cmocka_unit_test(takes_no_notice_of_a_store_that_others_write_to),
        cmocka_unit_test(notices_a_stream_that_keeps_the_anchors_change_back),
        cmocka_unit_test(follows_the_anchor_by_its_events),
        cmocka_unit_test(is_lost_when_the_anchor_has_another_history),
        cmocka_unit_test(goes_on_after_a_break_with_the_same_history),
        cmocka_unit_test(gives_a_deletion_time_to_arrive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
