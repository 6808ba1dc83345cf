/* test_etcd_real.c - libetcd against real members of etcd on the loopback.
 *
 * Each test starts its own; without /usr/bin/etcd they are skipped. */
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
#include "tests/support/etcd_child.h"
#include "tests/support/etcd_sync.h"

#define TRIES_MAX 4000

/* Of the test that runs; its teardown ends what it left. */
static etcd_child r;
static etcd_sync s;

static void run_command(const char *command) {
    int status = system(command);
    if (status != 0) fail_msg("%s: status %d", command, status);
}

/* Until etcd answers a linearizable read. */
static void wait_for_etcd(void) {
    for (int i = 0; etcd_sync_get(&s, "k", false) != ETCD_OK; i++) {
        if (i == TRIES_MAX) fail_msg("etcd does not start: %s", s.why);
        etcd_sync_for(&s, 50);
    }
}

static void open_rack(size_t n) {
    etcd_child_need();
    etcd_child_init_members(&r, n);
    etcd_child_start(&r);
    etcd_sync_open_at(&s, r.endpoints, n);
    wait_for_etcd();
}

static int tear_down(void **state) {
    (void)state;
    etcd_sync_close(&s);
    etcd_child_fini(&r);
    return 0;
}

/* ---- keys ---- */

/* 2,500 keys /k/0000 to /k/2499, a hundred in each transaction. */
static void write_many(void) {
    static char keys[100][16];
    static etcd_op ops[100];
    for (int t = 0; t < 25; t++) {
        for (int i = 0; i < 100; i++) {
            snprintf(keys[i], sizeof(keys[i]), "/k/%04d", t * 100 + i);
            ops[i] = (etcd_op){.kind = ETCD_PUT,
                               .key = keys[i],
                               .key_len = strlen(keys[i]),
                               .value = keys[i] + 3,
                               .value_len = 4};
        }
        etcd_compare c = {.key = keys[0],
                          .key_len = strlen(keys[0]),
                          .target = ETCD_CREATE_REVISION};
        etcd_txn txn = {
            .compares = &c, .n_compares = 1, .then = ops, .n_then = 100};
        etcd_sync_commit(&s, &txn);
        etcd_sync_expect(&s, ETCD_OK);
    }
}

static void reads_many_keys_in_order_over_several_pages(void **state) {
    (void)state;
    open_rack(1);
    write_many();
    etcd_sync_put(&s, "/l", "not these");
    etcd_sync_put(&s, "/j", "nor these");

    etcd_sync_get(&s, "/k/", true);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.n, 2500);
    assert_false(s.more);
    for (int i = 0; i < 2500; i++) {
        char key[16];
        snprintf(key, sizeof(key), "/k/%04d", i);
        assert_string_equal(s.kvs[i].key, key);
        assert_string_equal(s.kvs[i].value, key + 3);
    }

    etcd_range some = {
        .key = "/k/", .key_len = 3, .prefix = true, .limit = 1700};
    etcd_sync_range(&s, &some);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.n, 1700);
    assert_true(s.more);

    etcd_range all = {.prefix = true};
    etcd_sync_range(&s, &all);
    assert_int_equal(s.n, 2502);

    etcd_sync_get(&s, "/k/0007", false);
    assert_int_equal(s.n, 1);
    assert_string_equal(s.kvs[0].value, "0007");
    etcd_sync_get(&s, "/nothing", false);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.n, 0);
    assert_true(s.revision >= 28 && s.cluster_id != 0);
    assert_string_equal(etcd_endpoint(s.etcd), r.endpoints[0]);
}

static void reads_an_old_revision_until_it_is_compacted(void **state) {
    (void)state;
    open_rack(1);
    etcd_sync_put(&s, "k", "old");
    int64_t old = s.revision;
    etcd_sync_put(&s, "k", "new");

    etcd_range then = {.key = "k", .key_len = 1, .revision = old};
    etcd_sync_range(&s, &then);
    assert_string_equal(s.kvs[0].value, "old");
    etcd_sync_compact(&s, old + 1);
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_compact(&s, old + 1); /* once more is no failure */
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_compact(&s, old + 1000);
    etcd_sync_expect(&s, ETCD_REFUSED);
    etcd_sync_range(&s, &then);
    etcd_sync_expect(&s, ETCD_REFUSED);
    assert_non_null(strstr(s.why, "compacted"));
}

/* ---- transactions ---- */

static void writes_only_if_every_compare_holds(void **state) {
    (void)state;
    open_rack(1);
    assert_int_equal(etcd_sync_create(&s, "k", "first"), ETCD_OK);
    assert_int_equal(etcd_sync_create(&s, "k", "second"), ETCD_FALSE);
    etcd_sync_get(&s, "k", false);
    assert_string_equal(s.kvs[0].value, "first");
    int64_t created = s.kvs[0].create_revision;

    struct {
        etcd_compare compare;
        etcd_code code;
    } cases[] = {
        {{.target = ETCD_CREATE_REVISION, .number = created}, ETCD_OK},
        {{.target = ETCD_CREATE_REVISION, .number = created + 1}, ETCD_FALSE},
        {{.target = ETCD_CREATE_REVISION}, ETCD_FALSE},
        {{.target = ETCD_MOD_REVISION,
          .relation = ETCD_LESS,
          .number = created},
         ETCD_FALSE},
        {{.target = ETCD_MOD_REVISION,
          .relation = ETCD_GREATER,
          .number = created - 1},
         ETCD_OK},
        {{.target = ETCD_VERSION, .relation = ETCD_NOT_EQUAL, .number = 1},
         ETCD_FALSE},
        {{.target = ETCD_VERSION, .number = 1}, ETCD_OK},
        {{.target = ETCD_LEASE, .number = 7}, ETCD_FALSE},
        {{.target = ETCD_LEASE}, ETCD_OK},
        {{.target = ETCD_VALUE, .value = "first", .value_len = 5}, ETCD_OK},
        {{.target = ETCD_VALUE, .value = "firs", .value_len = 4}, ETCD_FALSE},
        {{.target = ETCD_VALUE,
          .relation = ETCD_LESS,
          .value = "g",
          .value_len = 1},
         ETCD_OK},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cases[i].compare.key = "k";
        cases[i].compare.key_len = 1;
        etcd_op note = {.kind = ETCD_PUT, .key = "note", .key_len = 4};
        etcd_txn t = {.compares = &cases[i].compare,
                      .n_compares = 1,
                      .then = &note,
                      .n_then = 1};
        if (etcd_sync_commit(&s, &t) != cases[i].code)
            fail_msg("case %zu: %s %s", i, etcd_code_text(s.code), s.why);
    }
}

static void gives_the_reads_of_the_branch_it_took(void **state) {
    (void)state;
    open_rack(1);
    etcd_sync_put(&s, "/a/1", "one");
    etcd_sync_put(&s, "/a/2", "two");

    etcd_compare c = {
        .key = "/a/1", .key_len = 4, .target = ETCD_VERSION, .number = 1};
    etcd_op then[] = {
        {.kind = ETCD_READ, .key = "/a/2", .key_len = 4},
        {.kind = ETCD_DELETE_PREFIX, .key = "/a/", .key_len = 3},
        {.kind = ETCD_READ, .key = "/a/2", .key_len = 4},
        {.kind = ETCD_PUT, .key = "b", .key_len = 1},
    };
    etcd_op otherwise[] = {{.kind = ETCD_READ, .key = "b", .key_len = 1}};
    etcd_txn t = {&c, 1, then, otherwise, 4, 1};
    etcd_sync_commit(&s, &t);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.n, 2);
    assert_string_equal(s.kvs[0].value, "two");
    assert_string_equal(s.kvs[1].key, "");

    etcd_sync_commit(&s, &t);
    etcd_sync_expect(&s, ETCD_FALSE);
    assert_int_equal(s.n, 1);
    assert_string_equal(s.kvs[0].key, "b");
    etcd_sync_get(&s, "/a/", true);
    assert_int_equal(s.n, 0);
}

/* ---- leases ---- */

static void keys_go_with_their_lease(void **state) {
    (void)state;
    open_rack(1);
    etcd_sync_grant(&s, 60);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.ttl_s, 60);
    int64_t long_lease = s.lease;
    etcd_sync_put_leased(&s, "long", long_lease);
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_keep_alive(&s, long_lease);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.ttl_s, 60);
    etcd_sync_revoke(&s, long_lease);
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_get(&s, "long", false);
    assert_int_equal(s.n, 0);

    assert_int_equal(etcd_sync_revoke(&s, long_lease), ETCD_GONE);
    assert_int_equal(etcd_sync_keep_alive(&s, long_lease), ETCD_GONE);
    assert_int_equal(etcd_sync_put_leased(&s, "long", long_lease), ETCD_GONE);

    int64_t short_lease;
    do { /* it may be over before it is used */
        etcd_sync_grant(&s, 1);
        assert_true(s.ttl_s >= 1); /* etcd's smallest follows its election */
        short_lease = s.lease;
    } while (etcd_sync_put_leased(&s, "short", short_lease) == ETCD_GONE);
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_watch(&s, "short", s.revision + 1, 0);
    etcd_sync_until_more(&s, &s.n_lines, 0);
    assert_true(s.events[0].deleted);
    assert_string_equal(s.events[0].key, "short");
    assert_int_equal(etcd_sync_keep_alive(&s, short_lease), ETCD_GONE);
}

/* ---- watches ---- */

static void assert_each_once(size_t n) {
    assert_int_equal(s.n_events, n);
    for (size_t i = 0; i < n; i++) {
        char value[24];
        snprintf(value, sizeof(value), "%zu", i);
        assert_string_equal(s.events[i].value, value);
    }
}

static void put_number(int number) {
    char value[16];
    snprintf(value, sizeof(value), "%d", number);
    while (etcd_sync_put(&s, "/w/x", value) != ETCD_OK) {
        if (s.code == ETCD_UNKNOWN) fail_msg("%s", s.why);
        etcd_sync_for(&s, 50);
    }
}

static void until_events(size_t n) {
    while (s.n_events < n)
        etcd_sync_until_more(&s, &s.n_lines, s.n_lines);
}

static void watches_on_after_its_member_restarted(void **state) {
    (void)state;
    open_rack(1);
    etcd_sync_get(&s, "/w/", true);
    etcd_sync_watch(&s, "/w/", s.revision + 1, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_live, 0);
    put_number(0);
    until_events(1);

    etcd_child_kill_member(&r, 0);
    etcd_sync_until_more(&s, &s.n_away, 0);
    assert_int_equal(etcd_sync_get(&s, "/w/", true), ETCD_AWAY);
    assert_int_equal(etcd_sync_put(&s, "/w/x", "refused"), ETCD_AWAY);
    etcd_child_start_member(&r, 0);
    put_number(1);
    put_number(2);
    until_events(3);
    etcd_sync_until_more(&s, &s.n_live, s.n_live);
    assert_each_once(3);
    assert_int_equal(s.n_lost, 0);
    assert_true(s.covered >= s.events[2].mod_revision);
}

static void gets_a_long_history_whole(void **state) {
    (void)state;
    open_rack(1);
    int64_t first = s.revision + 1;
    for (int i = 0; i < 1500; i++)
        put_number(i);
    etcd_sync_watch(&s, "/w/", first, s.cluster_id);
    until_events(1500);
    assert_each_once(1500);
    etcd_sync_until_more(&s, &s.n_live, 0);
    assert_int_equal(s.n_lost, 0);
}

static void is_lost_when_its_revision_was_compacted(void **state) {
    (void)state;
    open_rack(1);
    int64_t first = s.revision + 1;
    for (int i = 0; i < 5; i++)
        put_number(i);
    etcd_sync_compact(&s, first + 3);
    etcd_sync_watch(&s, "/w/", first, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_lost, 0);
    assert_non_null(strstr(s.watch_why, "compacted"));
    assert_int_equal(s.n_events, 0);

    etcd_sync_watch(&s, "/w/", first + 3, s.cluster_id);
    until_events(2);
    assert_string_equal(s.events[0].value, "3");
}

/* Twenty values of a megabyte are more than a line may have, and etcd sends
 * them as one line to a watch that was away. */
static void is_lost_in_a_history_too_large_for_a_line(void **state) {
    char *value = calloc(1, 1000001);
    (void)state;
    assert_non_null(value);
    memset(value, 'x', 1000000);
    open_rack(1);
    etcd_sync_get(&s, "/w/", true);
    int64_t first = s.revision + 1;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(etcd_sync_put(&s, "/w/x", value), ETCD_OK);
    }
    free(value);
    etcd_sync_watch(&s, "/w/", first, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_lost, 0);
    assert_non_null(strstr(s.watch_why, "larger"));
    assert_int_equal(etcd_sync_get(&s, "/w/", true), ETCD_OK);
    etcd_sync_watch(&s, "/w/", s.revision + 1, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_live, 0);
    assert_int_equal(s.n_lost, 0);
}

static void is_lost_when_the_store_was_wiped(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        open_rack(1);
        for (int k = 0; k < 5; k++)
            put_number(k);
        etcd_sync_watch(&s, "/w/", s.revision + 1, s.cluster_id);
        etcd_sync_until_more(&s, &s.n_live, 0);

        etcd_child_wipe(&r);
        if (i == 0) strcpy(r.token, "0"); /* the same cluster id */
        etcd_child_start(&r);
        etcd_sync_until_more(&s, &s.n_lost, 0);
        assert_non_null(
            strstr(s.watch_why, i == 0 ? "went back" : "another cluster"));
        tear_down(NULL);
    }
}

static void notices_a_member_that_hangs(void **state) {
    (void)state;
    open_rack(1);
    etcd_sync_watch(&s, "/w/", s.revision + 1, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_live, 0);

    kill(r.pid[0], SIGSTOP);
    etcd_sync_until_more(&s, &s.n_away, 0);
    kill(r.pid[0], SIGCONT);
    etcd_sync_until_more(&s, &s.n_live, s.n_live);
    wait_for_etcd();
    put_number(0);
    until_events(1);
    assert_int_equal(s.n_lost, 0);
}

/* ---- three members ---- */

static void goes_on_when_one_of_three_members_dies(void **state) {
    (void)state;
    open_rack(3);
    etcd_sync_watch(&s, "/w/", s.revision + 1, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_live, 0);
    put_number(0);
    until_events(1);

    etcd_child_kill_member(&r, 0); /* the one that is asked first */
    wait_for_etcd();
    put_number(1);
    until_events(2);
    assert_each_once(2);
    assert_int_equal(s.n_lost, 0);
}

static void tells_away_and_unknown_without_quorum(void **state) {
    (void)state;
    open_rack(3);
    put_number(0);
    etcd_sync_watch(&s, "/w/", s.revision + 1, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_live, 0);

    etcd_child_kill_member(&r, 0);
    etcd_child_kill_member(&r, 1);
    etcd_sync_until_more(&s, &s.n_away, 0);
    assert_int_equal(etcd_sync_get(&s, "/w/", true), ETCD_AWAY);
    etcd_range old = {
        .key = "/w/", .key_len = 3, .prefix = true, .serializable = true};
    etcd_sync_range(&s, &old);
    etcd_sync_expect(&s, ETCD_OK);
    assert_int_equal(s.n, 1);
    assert_int_equal(etcd_sync_put(&s, "/w/y", "perhaps"), ETCD_UNKNOWN);

    etcd_child_start_member(&r, 0);
    unsigned before = s.n_live;
    wait_for_etcd();
    put_number(1);
    etcd_sync_until_more(&s, &s.n_live, before);
    etcd_sync_get(&s, "/w/y", false); /* whichever it was, it is told once */
    size_t perhaps = s.n;
    until_events(1 + perhaps);
    assert_int_equal(s.n_events, 1 + perhaps);
    assert_int_equal(s.n_lost, 0);
}

/* ---- passwords and TLS ---- */

static void etcdctl(const char *words) {
    char command[512];
    snprintf(command, sizeof(command),
             "ETCDCTL_API=3 etcdctl --endpoints=%s %s >>%s/etcdctl.log 2>&1",
             r.endpoints[0], words, r.folder);
    run_command(command);
}

static void logs_in_and_again_after_a_restart(void **state) {
    (void)state;
    open_rack(1);
    etcd_sync_close(&s);

    /* A password that nobody asks for is no failure. */
    etcd_config c = {.endpoints = r.endpoints,
                     .n_endpoints = 1,
                     .user = "root",
                     .password = "se\"cret"};
    etcd_sync_open(&s, &c);
    etcd_sync_put(&s, "k", "open");
    etcd_sync_expect(&s, ETCD_OK);
    etcdctl("user add 'root:se\"cret'");
    etcdctl("user grant-role root root");
    etcdctl("auth enable");
    etcd_sync_put(&s, "k", "closed");
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_watch(&s, "k", s.revision + 1, s.cluster_id);
    etcd_sync_until_more(&s, &s.n_live, 0);

    etcd_child_kill_member(&r, 0); /* and with it its tokens */
    etcd_child_start_member(&r, 0);
    wait_for_etcd();
    etcd_sync_put(&s, "k", "after");
    etcd_sync_expect(&s, ETCD_OK);
    until_events(1);
    assert_int_equal(etcd_sync_grant(&s, 5), ETCD_OK);
    assert_int_equal(etcd_sync_keep_alive(&s, s.lease), ETCD_OK);
    etcd_sync_close(&s);

    c.password = "wrong";
    etcd_sync_open(&s, &c);
    assert_int_equal(etcd_sync_put(&s, "k", "never"), ETCD_REFUSED);
    assert_int_equal(etcd_sync_get(&s, "k", false), ETCD_REFUSED);
    etcd_sync_close(&s);
    etcd_sync_open_at(&s, r.endpoints, 1);
    assert_int_equal(etcd_sync_put(&s, "k", "never"), ETCD_REFUSED);
}

static void make_certificates(void) {
    char command[2048];
    snprintf(command, sizeof(command),
             "cd %s && exec >openssl.log 2>&1 && "
             "new='openssl req -newkey rsa:2048 -nodes' && "
             "$new -x509 -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem "
             "&& $new -x509 -days 2 -subj /CN=other -keyout other.key "
             "-out other.pem && echo subjectAltName=IP:127.0.0.1 >san && "
             "$new -subj /O=server -keyout server.key -out server.csr && "
             "openssl x509 -req -days 2 -in server.csr -CA ca.pem -CAkey "
             "ca.key -CAcreateserial -extfile san -out server.pem && "
             "$new -subj /O=client -keyout client.key -out client.csr && "
             "openssl x509 -req -days 2 -in client.csr -CA ca.pem -CAkey "
             "ca.key -CAcreateserial -out client.pem",
             r.folder);
    run_command(command);
}

static void speaks_tls_with_certificates_on_both_sides(void **state) {
    char ca[128], other[128], cert[128], key[128];
    (void)state;
    etcd_child_need();
    etcd_child_init(&r);
    make_certificates();
    etcd_child_use_tls(&r);
    etcd_child_start(&r);
    snprintf(ca, sizeof(ca), "%s/ca.pem", r.folder);
    snprintf(other, sizeof(other), "%s/other.pem", r.folder);
    snprintf(cert, sizeof(cert), "%s/client.pem", r.folder);
    snprintf(key, sizeof(key), "%s/client.key", r.folder);

    etcd_config c = {.endpoints = r.endpoints,
                     .n_endpoints = 1,
                     .ca_file = ca,
                     .cert_file = cert,
                     .key_file = key};
    etcd_sync_open(&s, &c);
    wait_for_etcd();
    etcd_sync_put(&s, "k", "secret");
    etcd_sync_expect(&s, ETCD_OK);
    etcd_sync_watch(&s, "k", s.revision, s.cluster_id);
    until_events(1);
    etcd_sync_close(&s);

    c.ca_file = other; /* a server that we do not trust */
    etcd_sync_open(&s, &c);
    assert_int_equal(etcd_sync_put(&s, "k", "never"), ETCD_AWAY);
    etcd_sync_close(&s);

    c = (etcd_config){
        .endpoints = r.endpoints, .n_endpoints = 1, .ca_file = ca};
    etcd_sync_open(&s, &c); /* a client that it does not trust */
    assert_int_not_equal(etcd_sync_get(&s, "k", false), ETCD_OK);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(reads_many_keys_in_order_over_several_pages,
                                  tear_down),
        cmocka_unit_test_teardown(reads_an_old_revision_until_it_is_compacted,
                                  tear_down),
        cmocka_unit_test_teardown(writes_only_if_every_compare_holds,
                                  tear_down),
        cmocka_unit_test_teardown(gives_the_reads_of_the_branch_it_took,
                                  tear_down),
        cmocka_unit_test_teardown(keys_go_with_their_lease, tear_down),
        cmocka_unit_test_teardown(watches_on_after_its_member_restarted,
                                  tear_down),
        cmocka_unit_test_teardown(gets_a_long_history_whole, tear_down),
        cmocka_unit_test_teardown(is_lost_when_its_revision_was_compacted,
                                  tear_down),
        cmocka_unit_test_teardown(is_lost_in_a_history_too_large_for_a_line,
                                  tear_down),
        cmocka_unit_test_teardown(is_lost_when_the_store_was_wiped, tear_down),
        cmocka_unit_test_teardown(notices_a_member_that_hangs, tear_down),
        cmocka_unit_test_teardown(goes_on_when_one_of_three_members_dies,
                                  tear_down),
        cmocka_unit_test_teardown(tells_away_and_unknown_without_quorum,
                                  tear_down),
        cmocka_unit_test_teardown(logs_in_and_again_after_a_restart, tear_down),
        cmocka_unit_test_teardown(speaks_tls_with_certificates_on_both_sides,
                                  tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
