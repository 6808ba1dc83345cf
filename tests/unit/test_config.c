/* test_config.c - the coordinator's options: what is taken and what is refused
 * before anything is loaded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/config.h"
#include "engine/err.h"
#include "engine/util.h"

#define MOST_ARGS 16

static char why[256];

/* The last option is NULL. */
static int parse(config *c, const char *const *given) {
    char text[MOST_ARGS][300], *argv[MOST_ARGS + 1];
    int argc = 0;
    const char *const first[] = {"roster-coordinator", "model.gguf"};
    for (size_t i = 0; i < ARRAY_LEN(first); i++) {
        strcpy(text[argc], first[i]);
        argv[argc] = text[argc];
        argc++;
    }
    for (; *given != NULL; given++) {
        assert_true(argc < MOST_ARGS);
        strcpy(text[argc], *given);
        argv[argc] = text[argc];
        argc++;
    }
    argv[argc] = NULL;
    why[0] = '\0';
    return config_parse(c, argc, argv, why, sizeof(why));
}

static void refused(const char *name, const char *value, const char *part) {
    const char *const given[] = {name, value, NULL};
    config c;
    assert_int_equal(parse(&c, given), ERR_USAGE);
    if (strstr(why, part) == NULL) {
        fail_msg("%s %s: '%s' does not say '%s'", name, value, why, part);
    }
    config_free(&c);
}

static void taken(const char *name, const char *value) {
    const char *const given[] = {name, value, NULL};
    config c;
    if (parse(&c, given) != OPTIONS_RUN) fail_msg("%s: %s", name, why);
    config_free(&c);
}

static void takes_what_is_sound(void **state) {
    (void)state;
    const char *const given[] = {"--node",    "tcp://127.0.0.1:7101",
                                 "--node",    "tcp://[::1]:7102",
                                 "--kv",      "f32",
                                 "--timeout", "2500ms",
                                 NULL};
    config c;
    assert_int_equal(parse(&c, given), OPTIONS_RUN);
    assert_string_equal(c.model, "model.gguf");
    assert_int_equal(c.nodes.count, 2);
    assert_string_equal(c.nodes.items[1], "tcp://[::1]:7102");
    assert_int_equal(c.kv_type, KV_F32);
    assert_int_equal(c.timeout_ms, 2500);
    assert_int_equal(c.batch_tokens, 256);
    config_free(&c);
}

static void needs_one_model(void **state) {
    (void)state;
    const char *const two[] = {"other.gguf", NULL};
    config c;
    assert_int_equal(parse(&c, two), ERR_USAGE);
    config_free(&c);
}

static void refuses_endpoints_that_cannot_be_read(void **state) {
    (void)state;
    refused("--listen", "http://127.0.0.1:80", "http://127.0.0.1:80");
    refused("--listen", "inproc://x", "inproc://x");
    refused("--node", "127.0.0.1", "127.0.0.1");
    refused("--node", "tcp://127.0.0.1:70000", "70000");
    taken("--listen", "tcp://127.0.0.1:*");
}

static void refuses_names_that_no_message_can_hold(void **state) {
    (void)state;
    char name[129];
    memset(name, 'n', sizeof(name));
    name[128] = '\0';
    refused("--cluster", "", "--cluster");
    refused("--cluster", "not \xff text", "--cluster");
    refused("--name", "two\nlines", "--name");
    refused("--name", name, "--name");
    name[127] = '\0';
    taken("--name", name);
    taken("--name", "rack 3, left");
}

static void refuses_numbers_that_cannot_work(void **state) {
    (void)state;
    refused("--timeout", "99ms", "--timeout");
    refused("--timeout", "4294967295ms", "--timeout");
    refused("--context", "4294967295", "--context");
    refused("--context", "1048577", "--context");
    refused("--max-running", "0", "--max-running");
    refused("--micro-batches", "3", "--micro-batches");
    taken("--micro-batches", "2");
    refused("--max-running", "1025", "--max-running");
    refused("--max-queued", "4097", "--max-queued");
    refused("--batch-tokens", "63", "--batch-tokens");
    refused("--batch-tokens", "4097", "--batch-tokens");
    refused("--kv", "f8", "f8");
    refused("--log-level", "loud", "loud");
    taken("--context", "1048576");
    taken("--batch-tokens", "64");
    taken("--max-queued", "0");
}

static void takes_an_etcd_in_the_place_of_nodes(void **state) {
    (void)state;
    const char *const given[] = {"--etcd",
                                 "http://a:1,https://b:2",
                                 "--slices",
                                 "4",
                                 "--min-replicas",
                                 "3",
                                 "--replace-after",
                                 "20s",
                                 "--balance",
                                 "off",
                                 "--balance-every",
                                 "5s",
                                 "--advertise",
                                 "rack-1.example",
                                 NULL};
    config c;
    assert_int_equal(parse(&c, given), OPTIONS_RUN);
    assert_true(etcd_options_given(&c.etcd));
    assert_int_equal(c.etcd.n_endpoints, 2);
    assert_int_equal(c.slices, 4);
    assert_int_equal(c.min_replicas, 3);
    assert_int_equal(c.replace_after_ms, 20000);
    assert_false(c.balance);
    assert_int_equal(c.balance_every_ms, 5000);
    config_free(&c);
    const char *const plain[] = {NULL};
    assert_int_equal(parse(&c, plain), OPTIONS_RUN);
    assert_false(etcd_options_given(&c.etcd));
    assert_int_equal(c.slices, 1);
    assert_int_equal(c.min_replicas, 2);
    assert_int_equal(c.replace_after_ms, 15000);
    assert_true(c.balance);
    assert_int_equal(c.balance_every_ms, 2000);
    config_free(&c);
}

static void refuses_nodes_and_an_etcd_at_once(void **state) {
    (void)state;
    const char *const given[] = {"--etcd", "http://a:1", "--node",
                                 "tcp://127.0.0.1:7101", NULL};
    config c;
    assert_int_equal(parse(&c, given), ERR_USAGE);
    assert_non_null(strstr(why, "--node and --etcd"));
    config_free(&c);
}

static void refuses_names_that_no_key_can_hold(void **state) {
    (void)state;
    const char *const given[] = {"--etcd", "http://a:1", "--name", "rack/3",
                                 NULL};
    config c;
    assert_int_equal(parse(&c, given), ERR_USAGE);
    assert_non_null(strstr(why, "'/'"));
    config_free(&c);
    taken("--name", "rack/3"); /* without etcd it is a name */
}

static void refuses_racks_that_cannot_be(void **state) {
    (void)state;
    refused("--slices", "3", "--slices");
    refused("--slices", "0", "--slices");
    refused("--slices", "16", "--slices");
    refused("--min-replicas", "0", "--min-replicas");
    refused("--min-replicas", "33", "--min-replicas");
    refused("--replace-after", "999ms", "--replace-after");
    refused("--balance", "maybe", "--balance");
    refused("--balance-every", "100ms", "--balance-every");
    refused("--weights-listen", "ipc://x", "ipc://x");
    refused("--advertise", "tcp://host", "--advertise");
    refused("--advertise", "host:80", "--advertise");
    refused("--advertise", "", "--advertise");
    refused("--etcd", "localhost:2379", "--etcd");
    refused("--etcd-user", "root", "--etcd");
    taken("--weights-listen", "tcp://127.0.0.1:*");
    taken("--advertise", "10.0.0.1");
    refused("--peer", "nonsense", "nonsense");
    refused("--peer", "tcp://127.0.0.1:*", "--peer");
    taken("--peer", "tcp://127.0.0.1:7101");
    taken("--slices", "8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_is_sound),
        cmocka_unit_test(needs_one_model),
        cmocka_unit_test(refuses_endpoints_that_cannot_be_read),
        cmocka_unit_test(refuses_names_that_no_message_can_hold),
        cmocka_unit_test(refuses_numbers_that_cannot_work),
        cmocka_unit_test(takes_an_etcd_in_the_place_of_nodes),
        cmocka_unit_test(refuses_nodes_and_an_etcd_at_once),
        cmocka_unit_test(refuses_names_that_no_key_can_hold),
        cmocka_unit_test(refuses_racks_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
