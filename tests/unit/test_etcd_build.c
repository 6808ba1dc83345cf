/* test_etcd_build.c - what is sent to etcd, byte for byte.
 *
 * etcd ignores names that it does not know: a misspelt one is no error there,
 * so every request is compared as a whole. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_build.h"

static void assert_text(etcd_text *t, const char *expected) {
    assert_false(t->failed);
    assert_string_equal(t->data, expected);
    assert_int_equal(t->len, strlen(expected));
    etcd_text_fini(t);
}

static void writes_base64_that_reads_back(void **state) {
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"", "\"\""},
        {"f", "\"Zg==\""},
        {"fo", "\"Zm8=\""},
        {"foo", "\"Zm9v\""},
        {"foob", "\"Zm9vYg==\""},
        {"\xff\xfe", "\"//4=\""},
        {"\xfb\xef\xbe", "\"++++\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        etcd_text t = {0};
        etcd_text_base64(&t, cases[i].bytes, strlen(cases[i].bytes));
        assert_text(&t, cases[i].text);
    }
    for (size_t n = 0; n < 300; n++) {
        uint8_t bytes[300], back[300];
        size_t len;
        etcd_text t = {0};
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)(i * 37 + n);
        etcd_text_base64(&t, bytes, n);
        assert_int_equal(etcd_text_unbase64(t.data + 1, t.len - 2, back, &len),
                         0);
        assert_int_equal(len, n);
        assert_memory_equal(back, bytes, n);
        etcd_text_fini(&t);
    }
}

static void refuses_what_is_not_base64(void **state) {
    static const char *const cases[] = {
        "A",    "AA",   "AAA",  "A===",     "=AAA",  "AA=A", "A-__",
        "AA A", "AB==", "AAB=", "AA==AAAA", "AAA\n", "====", "AAAAA"};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t out[16];
        size_t len;
        if (etcd_text_unbase64(cases[i], strlen(cases[i]), out, &len) == 0)
            fail_msg("%s", cases[i]);
    }
}

static void asks_for_one_key(void **state) {
    etcd_text t = {0};
    etcd_page p = {.key = "foo", .key_len = 3};
    (void)state;
    etcd_build_page(&t, &p);
    assert_text(&t, "{\"key\":\"Zm9v\"}");
}

static void asks_for_a_page_of_a_prefix(void **state) {
    etcd_text t = {0};
    etcd_page p = {.key = "foo\0",
                   .key_len = 4,
                   .prefix = "fo",
                   .prefix_len = 2,
                   .revision = 9007199254740993,
                   .limit = 1000,
                   .serializable = true};
    (void)state;
    etcd_build_page(&t, &p);
    assert_text(&t, "{\"key\":\"Zm9vAA==\",\"range_end\":\"ZnA=\","
                    "\"limit\":\"1000\",\"revision\":\"9007199254740993\","
                    "\"serializable\":true}");
}

static void ends_a_prefix_behind_its_last_key(void **state) {
    static const struct {
        const char *prefix, *key, *end;
    } cases[] = {
        {"a", "YQ==", "Yg=="},         {"a\xff", "Yf8=", "Yg=="},
        {"a\xff\xff", "Yf//", "Yg=="}, {"", "AA==", "AA=="},
        {"\xff", "/w==", "AA=="},      {"a\xfe", "Yf4=", "Yf8="},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t n = strlen(cases[i].prefix);
        char expected[128];
        etcd_text t = {0};
        etcd_page p = {cases[i].prefix, n, cases[i].prefix, n, 0, 0, false};
        etcd_build_page(&t, &p);
        snprintf(expected, sizeof(expected),
                 "{\"key\":\"%s\",\"range_end\":\"%s\"}", cases[i].key,
                 cases[i].end);
        assert_text(&t, expected);
    }
}

static void asks_for_the_newest_key(void **state) {
    etcd_text t = {0};
    (void)state;
    etcd_build_newer(&t, "a", 1, 41);
    assert_text(&t, "{\"key\":\"YQ==\",\"range_end\":\"Yg==\","
                    "\"limit\":\"1\",\"sort_order\":\"DESCEND\","
                    "\"sort_target\":\"MOD\",\"keys_only\":true,"
                    "\"min_mod_revision\":\"42\"}");
}

static void compares_in_every_way(void **state) {
    static const struct {
        etcd_compare compare;
        const char *text;
    } cases[] = {
        {{"k", 1, ETCD_CREATE_REVISION, ETCD_EQUAL, 0, NULL, 0},
         "{\"result\":\"EQUAL\",\"target\":\"CREATE\",\"key\":\"aw==\","
         "\"create_revision\":\"0\"}"},
        {{"k", 1, ETCD_MOD_REVISION, ETCD_NOT_EQUAL, 5, NULL, 0},
         "{\"result\":\"NOT_EQUAL\",\"target\":\"MOD\",\"key\":\"aw==\","
         "\"mod_revision\":\"5\"}"},
        {{"k", 1, ETCD_VERSION, ETCD_GREATER, 6, NULL, 0},
         "{\"result\":\"GREATER\",\"target\":\"VERSION\",\"key\":\"aw==\","
         "\"version\":\"6\"}"},
        {{"k", 1, ETCD_LEASE, ETCD_LESS, -7, NULL, 0},
         "{\"result\":\"LESS\",\"target\":\"LEASE\",\"key\":\"aw==\","
         "\"lease\":\"-7\"}"},
        {{"k", 1, ETCD_VALUE, ETCD_EQUAL, 0, "v", 1},
         "{\"result\":\"EQUAL\",\"target\":\"VALUE\",\"key\":\"aw==\","
         "\"value\":\"dg==\"}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char expected[256];
        etcd_text t = {0};
        etcd_txn txn = {.compares = &cases[i].compare, .n_compares = 1};
        assert_int_equal(etcd_build_txn(&t, &txn), 0);
        snprintf(expected, sizeof(expected),
                 "{\"compare\":[%s],\"success\":[],\"failure\":[]}",
                 cases[i].text);
        assert_text(&t, expected);
    }
}

static void writes_every_operation_of_a_transaction(void **state) {
    etcd_text t = {0};
    etcd_compare c[] = {{.key = "a", .key_len = 1},
                        {.key = "b", .key_len = 1, .target = ETCD_VERSION}};
    etcd_op then[] = {
        {.kind = ETCD_PUT,
         .key = "a",
         .value = "1",
         .key_len = 1,
         .value_len = 1},
        {.kind = ETCD_PUT, .key = "b", .key_len = 1, .lease = 77},
        {.kind = ETCD_DELETE, .key = "c", .key_len = 1},
    };
    etcd_op otherwise[] = {
        {.kind = ETCD_READ, .key = "a", .key_len = 1},
        {.kind = ETCD_DELETE_PREFIX, .key = "d", .key_len = 1},
    };
    etcd_txn txn = {c, 2, then, otherwise, 3, 2};
    (void)state;
    assert_int_equal(etcd_build_txn(&t, &txn), 0);
    assert_text(
        &t,
        "{\"compare\":[{\"result\":\"EQUAL\",\"target\":\"CREATE\","
        "\"key\":\"YQ==\",\"create_revision\":\"0\"},"
        "{\"result\":\"EQUAL\",\"target\":\"VERSION\",\"key\":\"Yg==\","
        "\"version\":\"0\"}],"
        "\"success\":[{\"request_put\":{\"key\":\"YQ==\",\"value\":\"MQ==\"}},"
        "{\"request_put\":{\"key\":\"Yg==\",\"value\":\"\",\"lease\":\"77\"}},"
        "{\"request_delete_range\":{\"key\":\"Yw==\"}}],"
        "\"failure\":[{\"request_range\":{\"key\":\"YQ==\"}},"
        "{\"request_delete_range\":{\"key\":\"ZA==\","
        "\"range_end\":\"ZQ==\"}}]}");
}

static void refuses_a_transaction_without_a_compare(void **state) {
    etcd_text t = {0};
    etcd_op put = {.kind = ETCD_PUT, .key = "a", .key_len = 1};
    etcd_txn txn = {.then = &put, .n_then = 1};
    (void)state;
    assert_int_equal(etcd_build_txn(&t, &txn), -EINVAL);
    assert_null(t.data);
}

static void refuses_keys_and_kinds_that_do_not_exist(void **state) {
    etcd_text t = {0};
    etcd_compare good = {.key = "a", .key_len = 1}, bad[3] = {good, good, good};
    etcd_op put = {.kind = ETCD_PUT};
    (void)state;
    bad[0].key_len = 0;
    bad[1].target = (etcd_target)5;
    bad[2].relation = (etcd_relation)4;
    for (size_t i = 0; i < 3; i++) {
        etcd_txn txn = {.compares = &bad[i], .n_compares = 1};
        assert_int_equal(etcd_build_txn(&t, &txn), -EINVAL);
    }
    etcd_txn txn = {.compares = &good,
                    .n_compares = 1,
                    .otherwise = &put,
                    .n_otherwise = 1};
    assert_int_equal(etcd_build_txn(&t, &txn), -EINVAL);
    put = (etcd_op){.kind = (etcd_op_kind)4, .key = "a", .key_len = 1};
    assert_int_equal(etcd_build_txn(&t, &txn), -EINVAL);
    assert_null(t.data);
}

static void refuses_more_than_etcd_takes(void **state) {
    static char large[ETCD_REQUEST_BYTES_MAX + 1];
    static etcd_op ops[ETCD_TXN_OPS_MAX + 1];
    etcd_text t = {0};
    etcd_compare c = {.key = "a", .key_len = 1};
    etcd_op put = {.kind = ETCD_PUT, .key = "a", .key_len = 1, .value = large};
    etcd_txn txn = {.compares = &c, .n_compares = 1, .then = &put, .n_then = 1};
    (void)state;
    put.value_len = sizeof(large);
    assert_int_equal(etcd_build_txn(&t, &txn), -E2BIG);
    put.value_len = ETCD_REQUEST_BYTES_MAX - 1000;
    assert_int_equal(etcd_build_txn(&t, &txn), 0);
    etcd_text_fini(&t);

    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        ops[i] = (etcd_op){.kind = ETCD_DELETE, .key = "a", .key_len = 1};
    txn.then = ops;
    txn.n_then = ETCD_TXN_OPS_MAX + 1;
    assert_int_equal(etcd_build_txn(&t, &txn), -E2BIG);
    txn.n_then = ETCD_TXN_OPS_MAX;
    assert_int_equal(etcd_build_txn(&t, &txn), 0);
    etcd_text_fini(&t);
}

static void writes_the_small_requests(void **state) {
    etcd_text t = {0};
    (void)state;
    etcd_build_grant(&t, 5);
    assert_text(&t, "{\"TTL\":\"5\"}");
    etcd_build_lease(&t, 7587862094871462154);
    assert_text(&t, "{\"ID\":\"7587862094871462154\"}");
    etcd_build_compaction(&t, 12, false);
    assert_text(&t, "{\"revision\":\"12\"}");
    etcd_build_watch(&t, "a", 1, 7);
    assert_text(&t, "{\"create_request\":{\"key\":\"YQ==\",\"range_end\":"
                    "\"Yg==\",\"start_revision\":\"7\","
                    "\"progress_notify\":true}}");
    etcd_build_login(&t, "ro\"ot", "a\\b\n");
    assert_text(&t, "{\"name\":\"ro\\\"ot\",\"password\":\"a\\\\b\\u000a\"}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_base64_that_reads_back),
        cmocka_unit_test(refuses_what_is_not_base64),
        cmocka_unit_test(asks_for_one_key),
        cmocka_unit_test(asks_for_a_page_of_a_prefix),
        cmocka_unit_test(ends_a_prefix_behind_its_last_key),
        cmocka_unit_test(asks_for_the_newest_key),
        cmocka_unit_test(compares_in_every_way),
        cmocka_unit_test(writes_every_operation_of_a_transaction),
        cmocka_unit_test(refuses_a_transaction_without_a_compare),
        cmocka_unit_test(refuses_keys_and_kinds_that_do_not_exist),
        cmocka_unit_test(refuses_more_than_etcd_takes),
        cmocka_unit_test(writes_the_small_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
