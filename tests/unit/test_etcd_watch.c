/* test_etcd_watch.c - libetcd's watches, line by line.
 *
 * Before a watch connects, and every two seconds after, it asks the same
 * endpoint for newer keys (a range): tests script both. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/support/etcd_pair.h"
#include "tests/support/etcd_words.h"

#define NEWER(revision)                                                        \
    "{" HEADER(                                                                \
        revision) ",\"kvs\":[{\"key\":\"L3cv\",\"mod_revision\":\"" #revision  \
                  "\"}]}"
/* Of the key /w/ */
#define PUT(revision)                                                          \
    "{\"kv\":{\"key\":\"L3cv\",\"mod_revision\":\"" #revision "\"}}"
#define EVENT(revision) LINE(revision, ",\"events\":[" PUT(revision) "]")

static void open_one(etcd_pair *f) {
    etcd_pair_open(f, &(etcd_config){.n_endpoints = 1});
}

/* A watch from revision 6 of a store at 5, connected. */
static void open_live(etcd_pair *f) {
    open_one(f);
    etcd_script_say(f->server[0], RANGE, 200, STORE_AT(5));
    etcd_script_stream(f->server[0], WATCH, CREATED(5));
    etcd_sync_watch(&f->sync, "/w/", 6, 7);
    etcd_sync_until_more(&f->sync, &f->sync.n_live, 0);
    assert_int_equal(f->sync.covered, 5);
}

static void until_events(etcd_pair *f, size_t n) {
    etcd_sync *s = &f->sync;
    while (s->n_events < n)
        etcd_sync_until_more(s, &s->n_lines, s->n_lines);
}

static void until_away(etcd_pair *f, const char *why) {
    etcd_sync_until_more(&f->sync, &f->sync.n_away, 0);
    if (strstr(f->sync.watch_why, why) == NULL)
        fail_msg("%s, not: %s", f->sync.watch_why, why);
}

static void until_lost(etcd_pair *f, const char *why) {
    etcd_sync_until_more(&f->sync, &f->sync.n_lost, 0);
    if (strstr(f->sync.watch_why, why) == NULL)
        fail_msg("%s, not: %s", f->sync.watch_why, why);
}

/* ---- what is asked ---- */

static void asks_for_what_comes_after_the_range(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    assert_string_equal(etcd_script_body(f.server[0], WATCH),
                        "{\"create_request\":{\"key\":\"L3cv\","
                        "\"range_end\":\"L3cw\",\"start_revision\":\"6\","
                        "\"progress_notify\":true}}");
    assert_non_null(strstr(etcd_script_head(f.server[0], WATCH),
                           "Grpc-Metadata-hasleader: true\r\n"));
    assert_string_equal(etcd_script_body(f.server[0], RANGE),
                        "{\"key\":\"L3cv\",\"range_end\":\"L3cw\","
                        "\"limit\":\"1\",\"sort_order\":\"DESCEND\","
                        "\"sort_target\":\"MOD\",\"keys_only\":true,"
                        "\"min_mod_revision\":\"6\"}");
    etcd_pair_close(&f);
}

static void goes_on_from_the_last_event_after_a_break(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script *s = f.server[0];
    etcd_script_stream(s, WATCH, CREATED(9) EVENT(9));
    etcd_script_say(s, RANGE, 200, NEWER(9));
    /* The header is newer than the event: more may be on its way. */
    etcd_script_more(s, LINE(8, ",\"events\":[" PUT(7) "]"));
    until_events(&f, 1);
    assert_int_equal(f.sync.covered, 7);
    etcd_script_cut(s);
    until_away(&f, "watch at http://");
    unsigned live = f.sync.n_live;
    until_events(&f, 2);
    assert_non_null(
        strstr(etcd_script_body(s, WATCH), "\"start_revision\":\"8\""));
    assert_int_equal(f.sync.events[1].mod_revision, 9);
    etcd_sync_until_more(&f.sync, &f.sync.n_live, live);
    assert_int_equal(f.sync.n_away, 1);
    etcd_pair_close(&f);
}

static void progress_moves_what_is_covered(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script *s = f.server[0];
    etcd_script_more(s, LINE(40, "") EVENT(41) LINE(30, ""));
    until_events(&f, 1);
    etcd_script_cut(s);
    etcd_script_say(s, RANGE, 200, STORE_AT(41));
    etcd_sync_until_more(&f.sync, &f.sync.n_live, f.sync.n_live);
    assert_non_null(
        strstr(etcd_script_body(s, WATCH), "\"start_revision\":\"42\""));
    assert_int_equal(f.sync.n_lost, 0);
    etcd_pair_close(&f);
}

static void is_live_only_when_it_has_caught_up(void **state) {
    etcd_pair f;
    (void)state;
    open_one(&f);
    etcd_script_say(f.server[0], RANGE, 200, NEWER(9));
    etcd_script_stream(f.server[0], WATCH, CREATED(9) EVENT(7));
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    until_events(&f, 1);
    assert_int_equal(f.sync.n_live, 0);
    etcd_script_more(f.server[0], EVENT(9));
    etcd_sync_until_more(&f.sync, &f.sync.n_live, 0);
    assert_int_equal(f.sync.n_events, 2);
    assert_int_equal(f.sync.covered, 9);
    etcd_pair_close(&f);
}

static void keeps_the_events_of_a_revision_together(void **state) {
    static const char line[] = LINE(6, ",\"events\":[" PUT(6) "," PUT(6) "]");
    etcd_pair f;
    (void)state;
    open_live(&f);
    for (size_t i = 0; i + 1 < sizeof(line); i++) { /* byte by byte */
        char byte[2] = {line[i], '\0'};
        assert_int_equal(f.sync.n_events, 0);
        etcd_script_more(f.server[0], byte);
        etcd_sync_for(&f.sync, 1);
    }
    until_events(&f, 2);
    assert_int_equal(f.sync.n_lines, 1);
    etcd_pair_close(&f);
}

/* ---- away ---- */

static void is_away_until_an_endpoint_answers(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 2});
    etcd_script_say(f.server[0], RANGE, 503,
                    "{\"error\":\"etcdserver: no leader\",\"code\":14}");
    etcd_script_say(f.server[1], RANGE, 200, STORE_AT(5));
    etcd_script_stream(f.server[1], WATCH, CREATED(5));
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    until_away(&f, "no leader");
    etcd_sync_until_more(&f.sync, &f.sync.n_live, 0);
    assert_int_equal(f.sync.n_away, 1);
    etcd_pair_close(&f);
}

static void breaks_off_at_what_it_cannot_use(void **state) {
    static const struct {
        const char *line, *why;
    } cases[] = {
        {"{\"error\":{\"grpc_code\":14,\"message\":\"etcdserver: no "
         "leader\"}}\n",
         "no leader"},
        {LINE(5, ",\"canceled\":true,\"cancel_reason\":\"just so\""),
         "just so"},
        {"nonsense\n", "no JSON"},
        {LINE(6, ",\"fragment\":true,\"events\":[" PUT(6) "]"), "piece"},
        {LINE(6, ",\"events\":[{\"kv\":{\"key\":\"eA==\",\"mod_revision\":"
                 "\"6\"}}]"),
         "not watched"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_pair f;
        open_live(&f);
        unsigned live = f.sync.n_live;
        etcd_script_more(f.server[0], cases[i].line);
        until_away(&f, cases[i].why);
        etcd_sync_until_more(&f.sync, &f.sync.n_live, live);
        assert_int_equal(f.sync.n_events, 0);
        assert_int_equal(etcd_script_asked(f.server[0], WATCH), 2);
        etcd_pair_close(&f);
    }
}

static void bounds_the_length_of_a_line(void **state) {
    etcd_pair f;
    char *line = malloc(100001);
    (void)state;
    assert_non_null(line);
    memset(line, ' ', 100000);
    line[100000] = '\0';
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 1, .max_line = 65536});
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    etcd_script_stream(f.server[0], WATCH, CREATED(5));
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    etcd_sync_until_more(&f.sync, &f.sync.n_live, 0);
    etcd_script_more(f.server[0], line);
    /* It would come again and again: what is now must be read instead. */
    until_lost(&f, "larger");
    etcd_sync_for(&f.sync, 300);
    assert_int_equal(etcd_script_asked(f.server[0], WATCH), 1);
    etcd_pair_close(&f);
    free(line);
}

static void does_not_hurry_to_a_stream_that_ends_at_once(void **state) {
    etcd_pair f;
    (void)state;
    open_one(&f);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    etcd_script_cut_after(f.server[0], WATCH,
                          "HTTP/1.1 200 OK\r\n\r\n" CREATED(5));
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    etcd_sync_for(&f.sync, 2500);
    assert_in_range(etcd_script_asked(f.server[0], WATCH), 1, 8);
    etcd_pair_close(&f);
}

static void notices_a_stream_that_does_not_begin(void **state) {
    etcd_pair f;
    (void)state;
    open_one(&f);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    etcd_script_stall(f.server[0], WATCH);
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    until_away(&f, "does not begin");
    etcd_pair_close(&f);
}

static void notices_a_stalled_stream_of_a_healthy_member(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, NEWER(6));
    until_away(&f, "events do not come");
    assert_int_equal(etcd_script_asked(f.server[0], RANGE), 3);
    etcd_pair_close(&f);
}

static void waits_for_a_line_that_comes_slowly(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, NEWER(6));
    while (etcd_script_asked(f.server[0], RANGE) < 4) {
        etcd_script_more(f.server[0], " ");
        etcd_sync_for(&f.sync, 100);
    }
    etcd_script_more(f.server[0], EVENT(6));
    until_events(&f, 1);
    assert_int_equal(f.sync.n_away, 0);
    etcd_pair_close(&f);
}

static void notices_a_member_that_stops_answering(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 1, .request_ms = 1000});
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    etcd_script_stall(f.server[0], RANGE);
    etcd_script_stream(f.server[0], WATCH, CREATED(5));
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    until_away(&f, "timed out");
    assert_int_equal(f.sync.n_live, 1);
    etcd_pair_close(&f);
}

/* ---- lost ---- */

static void is_lost_when_its_revision_is_compacted(void **state) {
    etcd_pair f;
    (void)state;
    open_one(&f);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(90));
    /* etcd leaves the revision out of this header. */
    etcd_script_stream(f.server[0], WATCH,
                       CREATED(90) "{\"result\":{\"header\":{" IDS
                                   "},\"canceled\":true,\"compact_revision\":"
                                   "\"80\"}}\n");
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    until_lost(&f, "compacted");
    etcd_sync_for(&f.sync, 300); /* it has ended */
    assert_int_equal(f.sync.n_lost, 1);
    assert_int_equal(etcd_script_asked(f.server[0], WATCH), 1);
    etcd_pair_close(&f);
}

static void is_lost_when_the_store_went_back(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(4));
    etcd_script_cut(f.server[0]);
    until_lost(&f, "went back");
    assert_int_equal(etcd_script_asked(f.server[0], WATCH), 1);
    etcd_pair_close(&f);
}

static void is_lost_in_another_cluster(void **state) {
    static const char other[] =
        "\"header\":{\"cluster_id\":\"9\",\"member_id\":\"8\","
        "\"revision\":\"5\"}";
    char text[256];
    etcd_pair f;
    (void)state;
    open_one(&f);
    snprintf(text, sizeof(text), "{%s}", other);
    etcd_script_say(f.server[0], RANGE, 200, text);
    etcd_sync_watch(&f.sync, "/w/", 6, 7);
    until_lost(&f, "another cluster");
    etcd_pair_close(&f);

    open_live(&f);
    snprintf(text, sizeof(text), "{\"result\":{%s}}\n", other);
    etcd_script_more(f.server[0], text);
    until_lost(&f, "another cluster");
    etcd_pair_close(&f);
}

static void is_lost_when_a_revision_comes_in_two_pieces(void **state) {
    etcd_pair f;
    (void)state;
    open_live(&f);
    etcd_script_more(f.server[0], EVENT(6) EVENT(6));
    until_lost(&f, "handed over already");
    assert_int_equal(f.sync.n_events, 1);
    etcd_pair_close(&f);
}

/* ---- closing ---- */

typedef struct {
    etcd *e;
    etcd_watch *w;
    bool closes_etcd, done;
    unsigned n_calls, close_at;
} closer;

static void on_closed(void *ctx) {
    ((closer *)ctx)->done = true;
}

static void on_close_in_callback(void *ctx, etcd_watch_what what,
                                 const etcd_answer *a, const etcd_event *events,
                                 size_t n) {
    closer *c = ctx;
    (void)what;
    (void)a;
    (void)events;
    (void)n;
    if (++c->n_calls != c->close_at) return;
    if (c->closes_etcd) {
        etcd_close(c->e, on_closed, c);
    } else {
        etcd_watch_close(c->w);
        etcd_watch_close(c->w);
        c->done = true;
    }
}

/* In LIVE, in the first of two EVENTS, in the second, in AWAY. */
static void can_be_closed_in_any_callback(void **state) {
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        etcd_pair f;
        closer c = {.close_at = 1 + i / 2, .closes_etcd = i % 2 != 0};
        open_one(&f);
        etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
        etcd_script_stream(f.server[0], WATCH,
                           CREATED(5) EVENT(6) EVENT(7) "nonsense\n" EVENT(8));
        c.e = f.sync.etcd;
        assert_int_equal(etcd_watch_open(&c.w, c.e, "/w/", 3, 6, 0,
                                         on_close_in_callback, &c),
                         0);
        etcd_sync_until(&f.sync, &c.done);
        etcd_sync_for(&f.sync, 20);
        assert_int_equal(c.n_calls, c.close_at);
        if (c.closes_etcd) f.sync.etcd = NULL;
        etcd_pair_close(&f);
    }
}

static void on_nothing(void *ctx, etcd_watch_what what, const etcd_answer *a,
                       const etcd_event *events, size_t n) {
    (void)ctx;
    (void)what;
    (void)a;
    (void)events;
    (void)n;
    fail_msg("a callback after closing");
}

static void says_nothing_after_it_was_closed(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        etcd_pair f;
        etcd_watch *w;
        bool done = false;
        closer c = {0};
        open_one(&f);
        etcd_script_stall(f.server[0], RANGE);
        assert_int_equal(
            etcd_watch_open(&w, f.sync.etcd, "/w/", 3, 6, 0, on_nothing, &done),
            0);
        if (i > 0)
            etcd_sync_until_more(&f.sync, etcd_script_counter(f.server[0]), 0);
        if (i == 2) {
            etcd_close(f.sync.etcd, on_closed, &c);
            etcd_watch_close(w);
            etcd_sync_until(&f.sync, &c.done);
            f.sync.etcd = NULL;
        } else {
            etcd_watch_close(w);
        }
        etcd_pair_close(&f);
    }
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_for_what_comes_after_the_range),
        cmocka_unit_test(goes_on_from_the_last_event_after_a_break),
        cmocka_unit_test(progress_moves_what_is_covered),
        cmocka_unit_test(is_live_only_when_it_has_caught_up),
        cmocka_unit_test(keeps_the_events_of_a_revision_together),
        cmocka_unit_test(is_away_until_an_endpoint_answers),
        cmocka_unit_test(breaks_off_at_what_it_cannot_use),
        cmocka_unit_test(bounds_the_length_of_a_line),
        cmocka_unit_test(does_not_hurry_to_a_stream_that_ends_at_once),
        cmocka_unit_test(notices_a_stream_that_does_not_begin),
        cmocka_unit_test(notices_a_stalled_stream_of_a_healthy_member),
        cmocka_unit_test(waits_for_a_line_that_comes_slowly),
        cmocka_unit_test(notices_a_member_that_stops_answering),
        cmocka_unit_test(is_lost_when_its_revision_is_compacted),
        cmocka_unit_test(is_lost_when_the_store_went_back),
        cmocka_unit_test(is_lost_in_another_cluster),
        cmocka_unit_test(is_lost_when_a_revision_comes_in_two_pieces),
        cmocka_unit_test(can_be_closed_in_any_callback),
        cmocka_unit_test(says_nothing_after_it_was_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
