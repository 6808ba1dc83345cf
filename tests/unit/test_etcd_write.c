/* test_etcd_write.c - what libetcd knows of writes and leases that went wrong,
 * and how it logs in.  Servers misbehave on purpose. */
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

#define WRITTEN                                                                \
    "{" HEADER(6) ",\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}"

/* ---- writes ---- */

static void sends_a_write_elsewhere_if_it_was_not_sent(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_two);
    etcd_pair_end_first(&f);
    etcd_script_say(f.server[1], TXN, 200, WRITTEN);
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_OK);
    etcd_pair_close(&f);

    etcd_pair_open(
        &f, &etcd_pair_of_two); /* an etcd without a gateway answers 404 */
    etcd_script_say(f.server[0], TXN, 404, "404 page not found\n");
    etcd_script_say(f.server[1], TXN, 200, WRITTEN);
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_OK);
    etcd_pair_close(&f);

    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_pair_end_first(&f);
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_AWAY);
    etcd_pair_close(&f);
}

/* Of a write that may have arrived nothing is known, and nobody else is asked,
 * nor the same one twice. */
static void assert_unknown(etcd_pair *f) {
    etcd_script_say(f->server[1], TXN, 200, WRITTEN);
    etcd_sync_put(&f->sync, "k", "v");
    etcd_sync_expect(&f->sync, ETCD_UNKNOWN);
    assert_int_equal(etcd_script_asked(f->server[0], TXN), 1);
    assert_int_equal(etcd_script_asked(f->server[1], TXN), 0);
    etcd_pair_close(f);
}

static void does_not_know_what_became_of_a_broken_write(void **state) {
    static const char *const cut[] = {
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"header\"",
        "nonsense",
    };
    static const struct {
        int status;
        const char *body;
    } said[] = {
        {200, "nonsense"},
        {200, "{" HEADER(6) ",\"succeeded\":true}"},
        {200, "{" HEADER(6) ",\"succeeded\":true,\"responses\":["
                            "{\"response_range\":{}}]}"},
        {302, ""},
        {502, "<html>bad gateway</html>"},
        {503, "{\"error\":\"etcdserver: request timed out\",\"code\":14}"},
        {503, "{\"error\":\"etcdserver: leader changed\",\"code\":14}"},
        {408, "{\"error\":\"context deadline exceeded\",\"code\":4}"},
        {500, "{\"error\":\"internal\",\"code\":13}"},
        {500, "{\"error\":\"whatever\",\"code\":2}"},
        {429, "{\"error\":\"grpc: received message larger than max\","
              "\"code\":8}"},
    };
    etcd_pair f;
    (void)state;
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        etcd_pair_open(&f, &etcd_pair_of_two);
        etcd_script_cut_after(f.server[0], TXN, cut[i]);
        assert_unknown(&f);
    }
    for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        etcd_pair_open(&f, &etcd_pair_of_two);
        etcd_script_say(f.server[0], TXN, said[i].status, said[i].body);
        assert_unknown(&f);
    }
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 2, .request_ms = 200});
    etcd_script_stall(f.server[0], TXN);
    assert_unknown(&f);
}

static void knows_that_a_refused_write_was_not_done(void **state) {
    static const struct {
        int status;
        const char *body;
        etcd_code code;
    } cases[] = {
        {400, "{\"error\":\"unexpected EOF\",\"code\":3}", ETCD_REFUSED},
        {400, "{\"error\":\"etcdserver: request is too large\",\"code\":3}",
         ETCD_REFUSED},
        {403, "{\"error\":\"etcdserver: permission denied\",\"code\":7}",
         ETCD_REFUSED},
        {429,
         "{\"error\":\"etcdserver: mvcc: database space exceeded\","
         "\"code\":8}",
         ETCD_NO_SPACE},
        {412, "{\"error\":\"etcdserver: whatever\",\"code\":9}", ETCD_REFUSED},
        {501, "{\"error\":\"unknown method\",\"code\":12}", ETCD_REFUSED},
        {401, "{\"error\":\"etcdserver: invalid auth token\",\"code\":16}",
         ETCD_REFUSED},
        {404,
         "{\"error\":\"etcdserver: requested lease not found\","
         "\"code\":5}",
         ETCD_GONE},
        {200, "{" HEADER(6) "}", ETCD_FALSE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_pair f;
        etcd_pair_open(&f, &etcd_pair_of_two);
        etcd_script_say(f.server[0], TXN, cases[i].status, cases[i].body);
        etcd_sync_put(&f.sync, "k", "v");
        etcd_sync_expect(&f.sync, cases[i].code);
        assert_int_equal(etcd_script_asked(f.server[1], TXN), 0);
        etcd_pair_close(&f);
    }
}

/* curl repeats by itself what it sent on a kept connection that was closed. */
static void never_sends_a_write_on_a_kept_connection(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script *s = f.server[0];
    etcd_script_say(s, RANGE, 200, STORE_AT(5));
    etcd_script_cut_after(s, TXN, "");
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_get(&f.sync, "k", false);
    assert_int_equal(etcd_script_connections(s), 1);
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_UNKNOWN);
    assert_int_equal(etcd_script_connections(s), 2);
    assert_int_equal(etcd_script_asked(s, TXN), 1);
    etcd_pair_close(&f);
}

/* ---- leases and compaction ---- */

static void tells_an_expired_lease_from_a_kept_one(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &etcd_pair_of_one);
    etcd_script *s = f.server[0];
    etcd_script_say(s, GRANT, 200,
                    "{" HEADER(5) ",\"ID\":\"77\",\"TTL\":\"9\"}");
    etcd_script_say(s, GRANT, 200, "{" HEADER(5) ",\"ID\":\"77\"}");
    etcd_script_say(s, KEEP, 200,
                    "{\"result\":{" HEADER(5) ",\"ID\":\"77\",\"TTL\":\"9\"}}");
    etcd_script_say(s, KEEP, 200, "{\"result\":{" HEADER(5) ",\"ID\":\"77\"}}");
    etcd_script_say(s, KEEP, 200,
                    "{\"result\":{" HEADER(5) ",\"ID\":\"78\",\"TTL\":\"9\"}}");
    etcd_sync_grant(&f.sync, 9);
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_int_equal(f.sync.lease, 77);
    assert_int_equal(f.sync.ttl_s, 9);
    assert_int_equal(etcd_sync_keep_alive(&f.sync, 77), ETCD_OK);
    assert_int_equal(etcd_sync_keep_alive(&f.sync, 77), ETCD_GONE);
    etcd_sync_expect(&f.sync, ETCD_GONE);
    assert_int_equal(etcd_sync_keep_alive(&f.sync, 77), ETCD_BAD_ANSWER);
    assert_int_equal(etcd_sync_grant(&f.sync, 9), ETCD_UNKNOWN);
    etcd_pair_close(&f);
}

/* ---- passwords ---- */

static const etcd_config with_password = {
    .n_endpoints = 1, .user = "root", .password = "secret"};

static void logs_in_once_for_all_calls(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &with_password);
    etcd_script *s = f.server[0];
    etcd_script_say(s, LOGIN, 200, "{" HEADER(5) ",\"token\":\"abc.1\"}");
    etcd_script_say(s, RANGE, 200, STORE_AT(5));
    etcd_script_say(s, TXN, 200, WRITTEN);
    etcd_sync_get(&f.sync, "k", false);
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_non_null(
        strstr(etcd_script_head(s, RANGE), "Authorization: abc.1\r\n"));
    assert_null(strstr(etcd_script_head(s, LOGIN), "Authorization"));
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_int_equal(etcd_script_asked(s, LOGIN), 1);
    assert_string_equal(etcd_script_body(s, LOGIN),
                        "{\"name\":\"root\",\"password\":\"secret\"}");
    etcd_pair_close(&f);
}

static void logs_in_anew_once_when_its_token_is_refused(void **state) {
    static const char old_token[] =
        "{\"error\":\"etcdserver: invalid auth token\",\"code\":16}";
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &with_password);
    etcd_script *s = f.server[0];
    etcd_script_say(s, LOGIN, 200, "{" HEADER(5) ",\"token\":\"abc.1\"}");
    etcd_script_say(s, LOGIN, 200, "{" HEADER(5) ",\"token\":\"abc.2\"}");
    etcd_script_say(s, TXN, 401, old_token);
    etcd_script_say(s, TXN, 200, WRITTEN);
    etcd_script_say(s, TXN, 401, old_token);
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_OK);
    assert_int_equal(etcd_script_asked(s, LOGIN), 2);
    assert_non_null(
        strstr(etcd_script_head(s, TXN), "Authorization: abc.2\r\n"));

    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_REFUSED);
    assert_int_equal(etcd_script_asked(s, LOGIN), 3);
    assert_int_equal(etcd_script_asked(s, TXN), 4);
    etcd_pair_close(&f);
}

static void sends_nothing_when_it_cannot_log_in(void **state) {
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &with_password);
    etcd_script_say(f.server[0], LOGIN, 400,
                    "{\"error\":\"etcdserver: authentication failed, invalid "
                    "user ID or password\",\"code\":3}");
    etcd_script_say(f.server[0], LOGIN, 200, "{" HEADER(5) "}");
    etcd_sync_put(&f.sync, "k", "v");
    etcd_sync_expect(&f.sync, ETCD_REFUSED);
    etcd_sync_put(&f.sync, "k", "v"); /* no token in the answer */
    etcd_sync_expect(&f.sync, ETCD_AWAY);
    assert_int_equal(etcd_script_asked(f.server[0], TXN), 0);
    etcd_pair_close(&f);
}

typedef struct {
    etcd *e;
    unsigned n_back;
    etcd_code codes[2];
} again;

static void on_again(void *ctx, const etcd_answer *a, const etcd_kv *kvs,
                     size_t n, bool more) {
    const etcd_range r = {.key = "k", .key_len = 1};
    again *g = ctx;
    (void)kvs;
    (void)n;
    (void)more;
    g->codes[g->n_back++] = a->code;
    if (g->n_back == 1) assert_int_equal(etcd_get(g->e, &r, on_again, g), 0);
}

/* What begins when a login has failed waits for the next one. */
static void logs_in_anew_for_what_begins_after_a_failed_login(void **state) {
    const etcd_range r = {.key = "k", .key_len = 1};
    etcd_pair f;
    (void)state;
    etcd_pair_open(&f, &with_password);
    etcd_script_say(f.server[0], LOGIN, 400,
                    "{\"error\":\"etcdserver: authentication failed, invalid "
                    "user ID or password\",\"code\":3}");
    etcd_script_say(f.server[0], LOGIN, 200,
                    "{" HEADER(5) ",\"token\":\"abc.1\"}");
    etcd_script_say(f.server[0], RANGE, 200, STORE_AT(5));
    again g = {.e = f.sync.etcd};
    assert_int_equal(etcd_get(g.e, &r, on_again, &g), 0);
    etcd_sync_until_more(&f.sync, &g.n_back, 1);
    assert_int_equal(g.codes[0], ETCD_REFUSED);
    assert_int_equal(g.codes[1], ETCD_OK);
    assert_int_equal(etcd_script_asked(f.server[0], LOGIN), 2);
    etcd_pair_close(&f);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_a_write_elsewhere_if_it_was_not_sent),
        cmocka_unit_test(does_not_know_what_became_of_a_broken_write),
        cmocka_unit_test(knows_that_a_refused_write_was_not_done),
        cmocka_unit_test(never_sends_a_write_on_a_kept_connection),
        cmocka_unit_test(tells_an_expired_lease_from_a_kept_one),
        cmocka_unit_test(logs_in_once_for_all_calls),
        cmocka_unit_test(logs_in_anew_once_when_its_token_is_refused),
        cmocka_unit_test(sends_nothing_when_it_cannot_log_in),
        cmocka_unit_test(logs_in_anew_for_what_begins_after_a_failed_login),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
