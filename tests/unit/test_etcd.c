/* test_etcd.c - libetcd's calls against servers that misbehave on purpose. */
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

#define KEY(base64, revision)                                                  \
    "{\"key\":\"" base64 "\",\"mod_revision\":\"" #revision "\"}"

/* ---- opening ---- */

static void names_what_is_wrong_with_its_configuration(void **state) {
    static const char *const good[] = {"http://127.0.0.1:2379/"};
    static const char *const bad[] = {"127.0.0.1:2379",
                                      "ftp://127.0.0.1:2379",
                                      "http://",
                                      "http://a b:2379",
                                      "http://127.0.0.1:99999",
                                      "http://127.0.0.1:2379/v3",
                                      "http://127.0.0.1:2379?x=1",
                                      "unix:///tmp/etcd",
                                      "http://\xff\xe9:2379",
                                      ""};
    const etcd_config cases[] = {
        {.endpoints = good},
        {.endpoints = good, .n_endpoints = 1, .user = "root"},
        {.endpoints = good, .n_endpoints = 1, .password = "root"},
        {.endpoints = good, .n_endpoints = 1, .cert_file = "/etc/passwd"},
        {.endpoints = good, .n_endpoints = 1, .ca_file = "/no/such/file"},
        {.endpoints = good, .n_endpoints = 1, .request_ms = 0xFFFFFFFF},
    };
    uv_loop_t loop;
    etcd *e;
    char why[256];
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_config c = cases[i];
        c.loop = &loop;
        why[0] = '\0';
        assert_true(etcd_open(&e, &c, why, sizeof(why)) < 0);
        assert_null(e);
        assert_string_not_equal(why, "");
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        etcd_config c = {.loop = &loop, .endpoints = &bad[i], .n_endpoints = 1};
        why[0] = '\0';
        if (etcd_open(&e, &c, why, sizeof(why)) != -EINVAL)
            fail_msg("%s", bad[i]);
        assert_non_null(strstr(why, bad[i]));
    }
    assert_int_equal(uv_loop_close(&loop), 0);
    etcd_close(NULL, NULL, NULL);
    etcd_watch_close(NULL);
}

static void names_no_password_that_stands_in_an_endpoint(void **state) {
    static const char *const bad[] = {"http://root:secret@127.0.0.1:2379",
                                      "https://secret@a b",
                                      "root:secret@127.0.0.1:2379"};
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        etcd *e;
        char why[256] = "";
        etcd_config c = {.loop = &loop, .endpoints = &bad[i], .n_endpoints = 1};
        assert_int_equal(etcd_open(&e, &c, why, sizeof(why)), -EINVAL);
        assert_string_not_equal(why, "");
        assert_null(strstr(why, "secret"));
    }
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void refuses_calls_that_make_no_sense(void **state) {
    etcd_pair f;
    etcd_watch *w;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd *e = f.sync.etcd;
    etcd_op put = {.kind = ETCD_PUT, .key = "k", .key_len = 1};
    etcd_txn bare = {.then = &put, .n_then = 1};
    assert_int_equal(etcd_commit(e, &bare, NULL, NULL), -EINVAL);
    assert_int_equal(etcd_get(e, &(etcd_range){0}, NULL, NULL), -EINVAL);
    assert_int_equal(
        etcd_get(e, &(etcd_range){.prefix = true, .limit = -1}, NULL, NULL),
        -EINVAL);
    assert_int_equal(etcd_grant(e, 0, NULL, NULL), -EINVAL);
    assert_int_equal(etcd_keep_alive(e, 0, NULL, NULL), -EINVAL);
    assert_int_equal(etcd_revoke(e, 0, NULL, NULL), -EINVAL);
    assert_int_equal(etcd_compact(e, 0, NULL, NULL), -EINVAL);
    assert_int_equal(etcd_watch_open(&w, e, "k", 1, 0, 0, NULL, NULL), -EINVAL);
    assert_string_equal(etcd_endpoint(e), "");
    etcd_pair_close(&f);
}

/* ---- reads and other endpoints ---- */

static void asks_the_next_endpoint_and_stays_there(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_two);
    etcd_pair_end_first(&f);
    etcd_script_say(f.server[1], RANGE, 200, STORE_AT(5));
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_true(f.sync.cluster_id == 7);
    assert_int_equal(f.sync.revision, 5);
    assert_string_equal(etcd_endpoint(f.sync.etcd), f.endpoints[1]);
    etcd_sync_get(&f.sync, "k", false);
    assert_int_equal(etcd_script_asked(f.server[1], RANGE), 2);
    assert_int_equal(etcd_script_connections(f.server[1]), 1);
    etcd_pair_close(&f);
}

static void repeats_a_read_elsewhere_whatever_went_wrong(void **state) {
    static const char *const cut[] = {
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"header\"",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "SMTP ready\r\n\r\n",
    };
    static const struct {
        int status;
        const char *body;
    } said[] = {
        {200, "nonsense"},
        {200, "{}"},
        {302, STORE_AT(5)},
        {404, "404 page not found\n"},
        {502, "<html>bad gateway</html>"},
        {503, "{\"error\":\"etcdserver: no leader\",\"code\":14}"},
        {200, "{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}"},
        {408, "{\"error\":\"context deadline exceeded\",\"code\":4}"},
    };
    size_t n_cut = sizeof(cut) / sizeof(cut[0]);
    size_t n_said = sizeof(said) / sizeof(said[0]);
    (void)state;
    for (size_t i = 0; i <= n_cut + n_said; i++) {
        etcd_pair f;
        etcd_pair_open(&f, &(etcd_config){.n_endpoints = 2, .request_ms = 400});
        if (i < n_cut) {
            etcd_script_cut_after(f.server[0], RANGE, cut[i]);
        } else if (i < n_cut + n_said) {
            etcd_script_say(f.server[0], RANGE, said[i - n_cut].status,
                            said[i - n_cut].body);
        } else {
            etcd_script_stall(f.server[0], RANGE);
        }
        etcd_script_say(f.server[1], RANGE, 200, STORE_AT(5));
        etcd_sync_get(&f.sync, "k", false);
        etcd_sync_expect(&f.sync, ETCD_OK);
        assert_true(etcd_script_asked(f.server[0], RANGE) >= 1);
        assert_int_equal(etcd_script_asked(f.server[1], RANGE), 1);
        assert_string_equal(etcd_endpoint(f.sync.etcd), f.endpoints[1]);
        etcd_pair_close(&f);
    }
}

static void says_away_or_nonsense_when_nobody_helps(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_two);
    etcd_script_say(f.server[0], RANGE, 200, "nonsense");
    etcd_script_say(f.server[1], RANGE, 200, "{\"header\":3}");
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_BAD_ANSWER);
    assert_non_null(strstr(f.sync.why, f.endpoints[1]));

    etcd_script_close(f.server[1]);
    etcd_script_open(&f.server[1], &f.sync.loop); /* on another port */
    etcd_pair_end_first(&f);
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_AWAY);
    assert_int_equal(etcd_sync_keep_alive(&f.sync, 3), ETCD_AWAY);
    etcd_pair_close(&f);
}

static void does_not_repeat_a_read_that_was_refused(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_two);
    etcd_script_say(f.server[0], RANGE, 403,
                    "{\"error\":\"etcdserver: permission denied\",\"code\":7}");
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_REFUSED);
    assert_non_null(strstr(f.sync.why, "permission denied"));
    assert_int_equal(etcd_script_asked(f.server[1], RANGE), 0);
    etcd_pair_close(&f);
}

/* What a server says goes into logs and status documents. */
static void says_why_in_printable_characters(void **state) {
    static const char *const said[] = {
        "{\"error\":\"etcdserver: \u00e9\xc3\xa9\\u0007\",\"code\":3}",
        "\xc3\xa9\xff",
        "\x1b[31m",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        etcd_pair f;
        etcd_pair_open(&f, &etcd_pair_of_one);
        etcd_script_say(f.server[0], RANGE, i == 0 ? 400 : 200, said[i]);
        etcd_sync_get(&f.sync, "k", false);
        assert_string_not_equal(f.sync.why, "");
        for (const char *c = f.sync.why; *c != '\0'; c++)
            assert_in_range(*c, ' ', '~');
        etcd_pair_close(&f);
    }
}

static void reads_answers_that_come_byte_by_byte(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script_drip(f.server[0], RANGE,
                     "{" HEADER(5) ",\"kvs\":[" KEY("aw==", 3) "]}");
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_string_equal(f.sync.kvs[0].key, "k");
    etcd_pair_close(&f);
}

static void checks_that_it_got_what_it_asked_for(void **state) {
    static const char *const cases[] = {
        "{" HEADER(5) ",\"kvs\":[" KEY("eA==", 3) "]}",
        "{" HEADER(5) ",\"kvs\":[" KEY("bGw=", 3) "," KEY("bGE=", 3) "]}",
        "{" HEADER(5) ",\"kvs\":[" KEY("bGw=", 3) "," KEY("bGw=", 3) "]}",
        "{" HEADER(5) ",\"more\":true}",
        "{" HEADER(0) "}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_pair f;
        etcd_pair_open(&f, &etcd_pair_of_one);
        etcd_script_say(f.server[0], RANGE, 200, cases[i]);
        if (etcd_sync_get(&f.sync, "l", true) != ETCD_BAD_ANSWER)
            fail_msg("%s", cases[i]);
        etcd_pair_close(&f);
    }
}

static void bounds_what_an_answer_may_weigh(void **state) {
    etcd_pair f;
    char *body = malloc(100001);
    (void)state;
    assert_non_null(body);
    memset(body, ' ', 100000);
    body[100000] = '\0';
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 1, .max_body = 65536});
    etcd_script_say(f.server[0], RANGE, 200, body);
    etcd_script_say(f.server[0], TXN, 200, body);
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_BAD_ANSWER);
    assert_non_null(strstr(f.sync.why, "larger"));
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_UNKNOWN);
    etcd_pair_close(&f);
    free(body);
}

static void ignores_the_environments_proxies(void **state) {
    etcd_pair f;
    (void)state;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    etcd_sync_get(&f.sync, "k", false);
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
    etcd_sync_expect(&f.sync, ETCD_OK);
    etcd_pair_close(&f);
}

/* ---- pages ---- */

static void starts_over_when_its_revision_was_compacted(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script *s = f.server[0];
    etcd_script_say(
        s, RANGE, 200,
        "{" HEADER(5) ",\"more\":true,\"kvs\":[" KEY("bGE=", 3) "]}");
    etcd_script_say(s, RANGE, 400,
                    "{\"error\":\"etcdserver: mvcc: required revision has "
                    "been compacted\",\"code\":11}");
    etcd_script_say(
        s, RANGE, 200,
        "{" HEADER(9) ",\"more\":true,\"kvs\":[" KEY("bGI=", 8) "]}");
    etcd_script_say(s, RANGE, 200,
                    "{" HEADER(10) ",\"kvs\":[" KEY("bGM=", 7) "]}");
    etcd_sync_get(&f.sync, "l", true);
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_int_equal(f.sync.n, 2);
    assert_string_equal(f.sync.kvs[0].key, "lb");
    assert_string_equal(f.sync.kvs[1].key, "lc");
    assert_int_equal(f.sync.revision, 9); /* of the first page */
    assert_string_equal(etcd_script_body(s, RANGE),
                        "{\"key\":\"bGIA\",\"range_end\":\"bQ==\","
                        "\"limit\":\"1000\",\"revision\":\"9\"}");
    assert_int_equal(etcd_script_asked(s, RANGE), 4);
    etcd_pair_close(&f);
}

static void does_not_start_over_for_ever(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    for (int i = 0; i < 20; i++) {
        etcd_script_say(
            f.server[0], RANGE, 200,
            "{" HEADER(5) ",\"more\":true,\"kvs\":[" KEY("bGE=", 3) "]}");
        etcd_script_say(f.server[0], RANGE, 400,
                        "{\"error\":\"etcdserver: mvcc: required revision has "
                        "been compacted\",\"code\":11}");
    }
    etcd_sync_get(&f.sync, "l", true);
    etcd_sync_expect(&f.sync, ETCD_REFUSED);
    assert_int_equal(f.sync.n, 0);
    etcd_pair_close(&f);
}

/* ---- closing, and many at once ---- */

typedef struct {
    etcd *e;
    unsigned n_back, n_cancelled;
    bool closes, closed;
} tally;

static void on_tally_closed(void *ctx) {
    ((tally *)ctx)->closed = true;
}

static void on_tally(void *ctx, const etcd_answer *a, const etcd_kv *kvs,
                     size_t n, bool more) {
    tally *t = ctx;
    (void)kvs;
    (void)n;
    (void)more;
    t->n_back++;
    if (a->code == ETCD_CANCELLED) t->n_cancelled++;
    if (!t->closes) return;
    t->closes = false;
    etcd_close(t->e, on_tally_closed, t);
    assert_int_equal(etcd_grant(t->e, 5, NULL, NULL), -ECANCELED);
}

static void begin_many(etcd_pair *f, tally *t) {
    etcd_range r = {.key = "k", .key_len = 1};
    t->e = f->sync.etcd;
    for (int i = 0; i < ETCD_CALLS_MAX; i++)
        assert_int_equal(etcd_get(t->e, &r, on_tally, t), 0);
    assert_int_equal(etcd_get(t->e, &r, on_tally, t), -EAGAIN);
    assert_int_equal(t->n_back, 0);
}

static void takes_no_more_than_its_limit_at_once(void **state) {
    etcd_pair f;
    tally t = {0};
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    begin_many(&f, &t);
    etcd_sync_until_more(&f.sync, &t.n_back, ETCD_CALLS_MAX - 1);
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_int_equal(t.n_back, ETCD_CALLS_MAX);
    etcd_pair_close(&f);
}

static void cancels_every_call_once_when_it_is_closed(void **state) {
    etcd_pair f;
    tally t = {0};
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script_stall(f.server[0], RANGE);
    begin_many(&f, &t);
    etcd_sync_until_more(&f.sync, etcd_script_counter(f.server[0]), 0);
    etcd_close(t.e, on_tally_closed, &t);
    assert_int_equal(t.n_back, 0);
    etcd_sync_until(&f.sync, &t.closed);
    assert_int_equal(t.n_back, ETCD_CALLS_MAX);
    assert_int_equal(t.n_cancelled, ETCD_CALLS_MAX);
    f.sync.etcd = NULL;
    etcd_pair_close(&f);
}

static void can_be_closed_in_a_callback(void **state) {
    etcd_pair f;
    tally t = {.closes = true};
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    begin_many(&f, &t);
    etcd_sync_until(&f.sync, &t.closed);
    assert_int_equal(t.n_back, ETCD_CALLS_MAX);
    assert_true(t.n_cancelled < ETCD_CALLS_MAX);
    f.sync.etcd = NULL;
    etcd_pair_close(&f);
}

static void can_be_closed_while_it_logs_in(void **state) {
    etcd_pair f;
    tally t = {0};
    (void)state;
    etcd_pair_open(
        &f,
        &(etcd_config){.n_endpoints = 1, .user = "root", .password = "secret"});
    etcd_script_stall(f.server[0], LOGIN);
    begin_many(&f, &t);
    etcd_sync_until_more(&f.sync, etcd_script_counter(f.server[0]), 0);
    etcd_close(t.e, on_tally_closed, &t);
    etcd_sync_until(&f.sync, &t.closed);
    assert_int_equal(t.n_cancelled, ETCD_CALLS_MAX);
    f.sync.etcd = NULL;
    etcd_pair_close(&f);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_what_is_wrong_with_its_configuration),
        cmocka_unit_test(names_no_password_that_stands_in_an_endpoint),
        cmocka_unit_test(refuses_calls_that_make_no_sense),
        cmocka_unit_test(asks_the_next_endpoint_and_stays_there),
        cmocka_unit_test(repeats_a_read_elsewhere_whatever_went_wrong),
        cmocka_unit_test(says_away_or_nonsense_when_nobody_helps),
        cmocka_unit_test(does_not_repeat_a_read_that_was_refused),
        cmocka_unit_test(says_why_in_printable_characters),
        cmocka_unit_test(reads_answers_that_come_byte_by_byte),
        cmocka_unit_test(checks_that_it_got_what_it_asked_for),
        cmocka_unit_test(bounds_what_an_answer_may_weigh),
        cmocka_unit_test(ignores_the_environments_proxies),
        cmocka_unit_test(starts_over_when_its_revision_was_compacted),
        cmocka_unit_test(does_not_start_over_for_ever),
        cmocka_unit_test(takes_no_more_than_its_limit_at_once),
        cmocka_unit_test(cancels_every_call_once_when_it_is_closed),
        cmocka_unit_test(can_be_closed_in_a_callback),
        cmocka_unit_test(can_be_closed_while_it_logs_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
