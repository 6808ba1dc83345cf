/* test_endpoint.c - reading and writing endpoints, and what loopback is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "proto/endpoint.h"

static void reads_hosts_and_ports(void **state) {
    const struct {
        const char *text, *host;
        uint16_t port;
    } cases[] = {
        {"tcp://127.0.0.1:7000", "127.0.0.1", 7000},
        {"127.0.0.1:7000", "127.0.0.1", 7000},
        {"node-3.rack_1.example:65535", "node-3.rack_1.example", 65535},
        {"tcp://[::1]:7000", "::1", 7000},
        {"[fe80::1%eth0]:1", "fe80::1%eth0", 1},
        {"tcp://*:*", "*", 0},
        {"*:0", "*", 0},
        {"localhost:*", "localhost", 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        endpoint e;
        char why[256];
        assert_int_equal(endpoint_parse(&e, cases[i].text, why, sizeof(why)),
                         0);
        assert_string_equal(e.host, cases[i].host);
        assert_int_equal(e.port, cases[i].port);
    }
}

static void refuses_what_is_no_endpoint_and_says_why(void **state) {
    const struct {
        const char *text, *word;
    } cases[] = {
        {"", "HOST:PORT"},
        {"7000", "HOST:PORT"},
        {"127.0.0.1", "HOST:PORT"},
        {"tcp://", "HOST:PORT"},
        {"udp://127.0.0.1:1", "tcp://"},
        {"ipc:///tmp/socket", "tcp://"},
        {":7000", "host"},
        {"a b:7000", "host"},
        {"a/b:7000", "host"},
        {"[127.0.0.1]:7000", "host"},
        {"[]:7000", "host"},
        {"[*]:7000", "host"},
        {"::1:7000", "brackets"},
        {"[::1:7000", "HOST:PORT"},
        {"[::1]7000", "HOST:PORT"},
        {"host:", "port"},
        {"host:65536", "port"},
        {"host:99999999999", "port"},
        {"host:-1", "port"},
        {"host:1x", "port"},
        {"host: 1", "port"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        endpoint e;
        char why[256] = "";
        assert_int_equal(endpoint_parse(&e, cases[i].text, why, sizeof(why)),
                         ERR_USAGE);
        if (strstr(why, cases[i].word) == NULL) fail_msg("%s", why);
    }
}

static void refuses_a_host_that_does_not_fit(void **state) {
    char text[2 * ENDPOINT_MAX];
    endpoint e;
    (void)state;
    memset(text, 'h', sizeof(text));
    strcpy(text + ENDPOINT_MAX, ":1");
    assert_int_equal(endpoint_parse(&e, text, NULL, 0), ERR_USAGE);
    strcpy(text + ENDPOINT_MAX - 1, ":1");
    assert_int_equal(endpoint_parse(&e, text, NULL, 0), 0);
}

static void writes_what_it_read(void **state) {
    const char *texts[] = {"tcp://127.0.0.1:7000", "tcp://[::1]:7000",
                           "tcp://*:*", "tcp://node:1"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        endpoint e;
        char out[ENDPOINT_MAX + 16];
        assert_int_equal(endpoint_parse(&e, texts[i], NULL, 0), 0);
        endpoint_format(&e, out, sizeof(out));
        assert_string_equal(out, texts[i]);
    }
}

static void knows_loopback_from_other_hosts(void **state) {
    const struct {
        const char *text;
        bool loopback;
    } cases[] = {
        {"127.0.0.1:1", true},
        {"127.255.255.254:1", true},
        {"[::1]:1", true},
        {"localhost:1", true},
        {"LocalHost:1", true},
        {"[::ffff:127.0.0.1]:1", true},
        {"128.0.0.1:1", false},
        {"0.0.0.0:1", false},
        {"[::]:1", false},
        {"*:1", false},
        {"10.127.0.1:1", false},
        {"127.0.0.1.example:1", false},
        {"localhost.example:1", false},
        {"[::ffff:10.0.0.1]:1", false},
        {"[fe80::1%lo]:1", false},
        {"127.1:1", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        endpoint e;
        assert_int_equal(endpoint_parse(&e, cases[i].text, NULL, 0), 0);
        if (endpoint_is_loopback(&e) != cases[i].loopback) {
            fail_msg("%s", cases[i].text);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_hosts_and_ports),
        cmocka_unit_test(refuses_what_is_no_endpoint_and_says_why),
        cmocka_unit_test(refuses_a_host_that_does_not_fit),
        cmocka_unit_test(writes_what_it_read),
        cmocka_unit_test(knows_loopback_from_other_hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
