/* test_etcd_parse.c - what etcd answers, and what only pretends to be that. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_parse.h"

#define HEADER                                                                 \
    "\"header\":{\"cluster_id\":\"14841639068965178418\","                     \
    "\"member_id\":\"10276657743932975437\",\"revision\":\"42\","              \
    "\"raft_term\":\"2\"}"
#define KV                                                                     \
    "{\"key\":\"Zm9v\",\"create_revision\":\"2\",\"mod_revision\":\"5\","      \
    "\"version\":\"3\",\"value\":\"YmFy\",\"lease\":\"77\"}"

static etcd_why why;

/* ---- ranges ---- */

static int parse_range(const char *text, etcd_parse_range_out *out) {
    why.text[0] = '\0';
    return etcd_parse_range(text, strlen(text), out, &why);
}

static void reads_a_range(void **state) {
    etcd_parse_range_out out;
    (void)state;
    assert_int_equal(parse_range("{" HEADER ",\"kvs\":[" KV ",{\"key\":\"AAH/"
                                 "\",\"mod_revision\":\"6\"}],\"more\":true,"
                                 "\"count\":\"9\",\"later\":{\"x\":[1]}}",
                                 &out),
                     0);
    assert_true(out.header.cluster_id == 14841639068965178418u);
    assert_true(out.header.member_id == 10276657743932975437u);
    assert_int_equal(out.header.revision, 42);
    assert_int_equal(out.n, 2);
    assert_true(out.more);
    assert_string_equal(out.kvs[0].key, "foo");
    assert_string_equal(out.kvs[0].value, "bar");
    assert_int_equal(out.kvs[0].create_revision, 2);
    assert_int_equal(out.kvs[0].mod_revision, 5);
    assert_int_equal(out.kvs[0].version, 3);
    assert_int_equal(out.kvs[0].lease, 77);
    assert_int_equal(out.kvs[1].key_len, 3);
    assert_memory_equal(out.kvs[1].key, "\x00\x01\xff\x00", 4);
    assert_int_equal(out.kvs[1].value_len, 0);
    assert_string_equal(out.kvs[1].value, "");
    etcd_parse_range_fini(&out);
}

static void takes_what_is_absent_for_zero(void **state) {
    etcd_parse_range_out out;
    (void)state;
    static const char *const cases[] = {
        "{" HEADER "}",
        "{" HEADER ",\"kvs\":null,\"more\":false,\"count\":\"0\"}",
    };
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(parse_range(cases[i], &out), 0);
        assert_int_equal(out.n, 0);
        assert_false(out.more);
        etcd_parse_range_fini(&out);
    }
}

static void refuses_ranges_that_are_nonsense(void **state) {
    static const char *const cases[] = {
        "",
        "{",
        "null",
        "[]",
        "404 page not found",
        "{}",
        "{\"header\":3}",
        "{\"header\":{}}",
        "{\"header\":{\"cluster_id\":\"0\",\"member_id\":\"1\"}}",
        "{\"header\":{\"cluster_id\":\"x\",\"member_id\":\"1\"}}",
        "{\"header\":{\"cluster_id\":\"1\",\"member_id\":\"1\","
        "\"revision\":\"-4\"}}",
        "{\"header\":{\"cluster_id\":\"1\",\"member_id\":\"1\","
        "\"revision\":\"99999999999999999999\"}}",
        "{" HEADER "," HEADER "}",
        "{" HEADER "}x",
        "{" HEADER ",\"kvs\":{}}",
        "{" HEADER ",\"kvs\":[3]}",
        "{" HEADER ",\"more\":\"true\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9v\"}]}",
        "{" HEADER ",\"kvs\":[{\"mod_revision\":\"5\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9\",\"mod_revision\":\"5\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":7,\"mod_revision\":\"5\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9v\",\"mod_revision\":\"5 \"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9v\",\"mod_revision\":\" 5\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9v\",\"mod_revision\":5.5}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9v\",\"mod_revision\":\"5\","
        "\"create_revision\":\"6\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"Zm9v\",\"mod_revision\":\"5\","
        "\"version\":\"-1\"}]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_parse_range_out out;
        if (parse_range(cases[i], &out) != -EINVAL) fail_msg("%s", cases[i]);
        assert_string_not_equal(why.text, "");
    }
}

static void bounds_nesting_and_the_number_of_values(void **state) {
    size_t n = (size_t)4 << 20;
    char *text = malloc(n + 1);
    etcd_parse_range_out out;
    (void)state;
    assert_non_null(text);
    memset(text, '[', n);
    assert_int_equal(etcd_parse_range(text, n, &out, &why), -EINVAL);
    assert_non_null(strstr(why.text, "nested"));
    for (size_t i = 0; i + 1 < n; i += 2)
        memcpy(text + i, ",1", 2);
    memcpy(text, "{\"a\":[1", 7);
    memcpy(text + n - 2, "]}", 2);
    assert_int_equal(etcd_parse_range(text, n, &out, &why), -EINVAL);
    assert_non_null(strstr(why.text, "values"));
    free(text);
}

/* ---- transactions ---- */

static const etcd_parse_asked asked = {
    .then = {ETCD_PUT, ETCD_READ, ETCD_DELETE, ETCD_READ},
    .n_then = 4,
    .otherwise = {ETCD_READ},
    .n_otherwise = 1,
};

static int parse_txn(const char *text, etcd_parse_txn_out *out) {
    why.text[0] = '\0';
    return etcd_parse_txn(text, strlen(text), &asked, out, &why);
}

static void reads_both_branches_of_a_transaction(void **state) {
    etcd_parse_txn_out out;
    (void)state;
    assert_int_equal(
        parse_txn("{" HEADER
                  ",\"succeeded\":true,\"responses\":[{\"response_put\":"
                  "{\"header\":{\"revision\":\"2\"}}},{\"response_range\":"
                  "{\"kvs\":[" KV "],\"count\":\"1\"}},"
                  "{\"response_delete_range\":{}},{\"response_range\":{}}]}",
                  &out),
        0);
    assert_true(out.succeeded);
    assert_int_equal(out.n_reads, 2);
    assert_string_equal(out.reads[0].value, "bar");
    assert_int_equal(out.reads[1].key_len, 0);
    assert_string_equal(out.reads[1].key, "");
    etcd_parse_txn_fini(&out);

    assert_int_equal(
        parse_txn("{" HEADER ",\"responses\":[{\"response_range\":{}}]}", &out),
        0);
    assert_false(out.succeeded);
    assert_int_equal(out.n_reads, 1);
    etcd_parse_txn_fini(&out);
}

static void refuses_responses_that_were_not_asked_for(void **state) {
    static const char *const cases[] = {
        "{" HEADER "}",
        "{" HEADER ",\"succeeded\":true}",
        "{" HEADER ",\"responses\":[{\"response_put\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{}},"
        "{\"response_range\":{}}]}",
        "{" HEADER ",\"responses\":[{}]}",
        "{" HEADER ",\"responses\":[3]}",
        "{" HEADER ",\"responses\":[{\"response_range\":3}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{},"
        "\"response_put\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":[" KV "," KV
        "]}}]}",
        "{" HEADER ",\"succeeded\":1,\"responses\":[{\"response_range\":{}}]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_parse_txn_out out;
        if (parse_txn(cases[i], &out) != -EINVAL) fail_msg("%s", cases[i]);
        assert_string_not_equal(why.text, "");
    }
}

/* ---- leases and others ---- */

static int parse_lease(const char *text, etcd_parse_lease_out *out) {
    return etcd_parse_lease(text, strlen(text), out, &why);
}

static void reads_leases_granted_kept_and_expired(void **state) {
    etcd_parse_lease_out out;
    (void)state;
    assert_int_equal(
        parse_lease("{" HEADER ",\"ID\":\"77\",\"TTL\":\"5\"}", &out), 0);
    assert_int_equal(out.id, 77);
    assert_int_equal(out.ttl_s, 5);
    assert_int_equal(parse_lease("{\"result\":{" HEADER
                                 ",\"ID\":\"77\",\"TTL\":\"4\"}}\n",
                                 &out),
                     0);
    assert_int_equal(out.ttl_s, 4);
    assert_int_equal(
        parse_lease("{\"result\":{" HEADER ",\"ID\":\"77\"}}", &out), 0);
    assert_int_equal(out.ttl_s, 0);
    assert_int_equal(parse_lease("{" HEADER ",\"TTL\":\"5\"}", &out), -EINVAL);
    assert_int_equal(parse_lease("{\"result\":3}", &out), -EINVAL);
    assert_int_equal(parse_lease("{" HEADER ",\"ID\":\"77\",\"TTL\":{}}", &out),
                     -EINVAL);
}

static void reads_answers_that_are_only_a_header(void **state) {
    static const char good[] = "{" HEADER "}";
    etcd_header header;
    (void)state;
    assert_int_equal(etcd_parse_plain(good, strlen(good), &header, &why), 0);
    assert_int_equal(header.revision, 42);
    assert_int_equal(etcd_parse_plain("{}", 2, &header, &why), -EINVAL);
}

static int parse_login(const char *text, etcd_parse_login_out *out) {
    return etcd_parse_login(text, strlen(text), out, &why);
}

static void takes_only_tokens_that_fit_a_header(void **state) {
    etcd_parse_login_out out;
    char longer[1200];
    (void)state;
    assert_int_equal(parse_login("{\"token\":\"abc.12\"}", &out), 0);
    assert_string_equal(out.token, "abc.12");
    assert_int_equal(parse_login("{}", &out), -EINVAL);
    assert_int_equal(parse_login("{\"token\":\"a\\r\\nHost: x\"}", &out),
                     -EINVAL);
    assert_int_equal(parse_login("{\"token\":\"a b\"}", &out), -EINVAL);
    assert_int_equal(parse_login("{\"token\":\"\\u00e4\"}", &out), -EINVAL);
    memset(longer, 'a', sizeof(longer));
    memcpy(longer, "{\"token\":\"", 10);
    memcpy(longer + sizeof(longer) - 3, "\"}", 3);
    assert_int_equal(parse_login(longer, &out), -EINVAL);
}

static int parse_error(const char *text, etcd_parse_error_out *out) {
    return etcd_parse_error(text, strlen(text), out, &why);
}

static void reads_errors_of_calls_and_of_streams(void **state) {
    etcd_parse_error_out out;
    (void)state;
    assert_int_equal(parse_error("{\"error\":\"no\\nleader\",\"message\":"
                                 "\"no\\nleader\",\"code\":14}",
                                 &out),
                     0);
    assert_int_equal(out.code, 14);
    assert_string_equal(out.message, "no leader");
    assert_int_equal(parse_error("{\"error\":\"alone\",\"code\":3}", &out), 0);
    assert_string_equal(out.message, "alone");
    assert_int_equal(
        parse_error("{\"error\":{\"grpc_code\":13,\"http_code\":500,"
                    "\"message\":\"broken\"}}",
                    &out),
        0);
    assert_int_equal(out.code, 13);
    assert_string_equal(out.message, "broken");
    assert_int_equal(parse_error("{\"error\":{\"code\":14}}", &out), 0);
    assert_int_equal(out.code, 14);
    assert_int_equal(parse_error("{\"message\":\"x\",\"code\":5}", &out), 0);
    assert_int_equal(out.code, 5);
    assert_string_equal(out.message, "x");
    assert_int_equal(parse_error("{\"message\":\"x\"}", &out), -EINVAL);
    assert_int_equal(parse_error("{\"error\":\"x\",\"code\":[]}", &out),
                     -EINVAL);
    assert_int_equal(parse_error("<html>", &out), -EINVAL);
}

/* ---- watches ---- */

static int parse_watch(const char *text, etcd_parse_watch_out *out) {
    why.text[0] = '\0';
    return etcd_parse_watch(text, strlen(text), out, &why);
}

static void reads_the_lines_of_a_watch(void **state) {
    etcd_parse_watch_out out;
    (void)state;
    assert_int_equal(
        parse_watch("{\"result\":{" HEADER ",\"created\":true}}", &out), 0);
    assert_true(out.created && !out.canceled && !out.is_error);
    etcd_parse_watch_fini(&out);

    assert_int_equal(
        parse_watch("{\"result\":{" HEADER ",\"events\":[{\"kv\":" KV
                    "},{\"type\":\"DELETE\",\"kv\":{\"key\":\"Zm9v\","
                    "\"mod_revision\":\"6\"}},{\"type\":\"PUT\",\"kv\":{"
                    "\"key\":\"Zg==\",\"mod_revision\":\"6\"}}]}}",
                    &out),
        0);
    assert_int_equal(out.n, 3);
    assert_false(out.events[0].deleted);
    assert_string_equal(out.events[0].kv.value, "bar");
    assert_true(out.events[1].deleted);
    assert_int_equal(out.events[1].kv.mod_revision, 6);
    assert_false(out.events[2].deleted);
    etcd_parse_watch_fini(&out);

    assert_int_equal(parse_watch("{\"result\":{" HEADER ",\"canceled\":true,"
                                 "\"compact_revision\":\"9\","
                                 "\"cancel_reason\":\"why\\u0007\"}}",
                                 &out),
                     0);
    assert_true(out.canceled);
    assert_int_equal(out.compact_revision, 9);
    assert_string_equal(out.reason, "why ");
    etcd_parse_watch_fini(&out);

    assert_int_equal(parse_watch("{\"error\":{\"grpc_code\":14,\"message\":"
                                 "\"etcdserver: no leader\"}}",
                                 &out),
                     0);
    assert_true(out.is_error);
    assert_int_equal(out.error.code, 14);
    etcd_parse_watch_fini(&out);
}

static void refuses_lines_that_are_nonsense(void **state) {
    static const char *const cases[] = {
        "{}",
        "{\"result\":[]}",
        "{\"result\":{}}",
        "{\"result\":{" HEADER ",\"events\":{}}}",
        "{\"result\":{" HEADER ",\"events\":[3]}}",
        "{\"result\":{" HEADER ",\"events\":[{}]}}",
        "{\"result\":{" HEADER ",\"events\":[{\"type\":\"MOVE\",\"kv\":" KV
        "}]}}",
        "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"Zm9v\","
        "\"mod_revision\":\"43\"}}]}}",
        "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"Zm9v\","
        "\"mod_revision\":\"6\"}},{\"kv\":" KV "}]}}",
        "{\"result\":{" HEADER ",\"fragment\":true,\"events\":[{\"kv\":" KV
        "}]}}",
        "{\"result\":{" HEADER ",\"created\":\"yes\"}}",
        "{\"result\":{" HEADER ",\"compact_revision\":true}}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_parse_watch_out out;
        if (parse_watch(cases[i], &out) != -EINVAL) fail_msg("%s", cases[i]);
        assert_string_not_equal(why.text, "");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_range),
        cmocka_unit_test(takes_what_is_absent_for_zero),
        cmocka_unit_test(refuses_ranges_that_are_nonsense),
        cmocka_unit_test(bounds_nesting_and_the_number_of_values),
        cmocka_unit_test(reads_both_branches_of_a_transaction),
        cmocka_unit_test(refuses_responses_that_were_not_asked_for),
        cmocka_unit_test(reads_leases_granted_kept_and_expired),
        cmocka_unit_test(reads_answers_that_are_only_a_header),
        cmocka_unit_test(takes_only_tokens_that_fit_a_header),
        cmocka_unit_test(reads_errors_of_calls_and_of_streams),
        cmocka_unit_test(reads_the_lines_of_a_watch),
        cmocka_unit_test(refuses_lines_that_are_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
