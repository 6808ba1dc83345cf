/* test_node_config.c - the expert node's options: what is taken and what is
 * refused before anything is loaded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "expert_node/config.h"

#define MOST_ARGS 12

static char why[256];

/* The last option is NULL. */
static int parse_all(node_config *c, const char *const *given) {
    char *argv[MOST_ARGS + 1] = {"roster-expert-node"};
    int argc = 1;
    for (; *given != NULL; given++) {
        assert_true(argc < MOST_ARGS);
        argv[argc++] = (char *)*given; /* which nobody writes to */
    }
    why[0] = '\0';
    return node_config_parse(c, argc, argv, why, sizeof(why));
}

/* With a model. */
static int parse(node_config *c, const char *const *given) {
    const char *all[MOST_ARGS + 1] = {"model.gguf"};
    for (size_t i = 0; given[i] != NULL; i++) {
        assert_true(i + 1 < MOST_ARGS);
        all[i + 1] = given[i];
    }
    return parse_all(c, all);
}

static void refused(const char *name, const char *value, const char *part) {
    const char *const given[] = {name, value, NULL};
    node_config c;
    assert_int_equal(parse(&c, given), ERR_USAGE);
    if (strstr(why, part) == NULL) {
        fail_msg("%s %s: '%s' does not say '%s'", name, value, why, part);
    }
    node_config_fini(&c);
}

static void taken(const char *name, const char *value) {
    const char *const given[] = {name, value, NULL};
    node_config c;
    if (parse(&c, given) != OPTIONS_RUN) fail_msg("%s: %s", name, why);
    node_config_fini(&c);
}

static void takes_what_is_sound(void **state) {
    (void)state;
    const char *const given[] = {
        "--listen",  "tcp://[::1]:*", "--data-port", "7000", "--experts",
        "0-2,5:1,3", "--exact",       "--max-queue", "1M",   NULL};
    node_config c;
    assert_int_equal(parse(&c, given), OPTIONS_RUN);
    assert_string_equal(c.model, "model.gguf");
    assert_string_equal(c.control.host, "::1");
    assert_int_equal(c.control.port, 0);
    assert_int_equal(c.data_port, 7000);
    assert_int_equal(c.experts.count, 1);
    assert_string_equal(c.experts.items[0], "0-2,5:1,3");
    assert_true(c.exact);
    assert_int_equal(c.max_queue, 1 << 20);
    assert_string_equal(c.cluster, "roster");
    assert_string_not_equal(c.name, "");
    node_config_fini(&c);
}

static void refuses_endpoints_it_may_not_use(void **state) {
    (void)state;
    refused("--listen", "http://127.0.0.1:80", "http://127.0.0.1:80");
    refused("--listen", "tcp://192.0.2.1:7101", "--insecure");
    refused("--listen", "tcp://127.0.0.1:65535", "--data-port");
    refused("--data-port", "65536", "65535");
    refused("--data-port", "7101", "control port");
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

static void refuses_what_cannot_work(void **state) {
    (void)state;
    const char *const both[] = {"--share", "0/2", "--experts", "*:0", NULL};
    node_config c;
    assert_int_equal(parse(&c, both), ERR_USAGE);
    assert_non_null(strstr(why, "exclude"));
    node_config_fini(&c);
    refused("--threads", "257", "--threads");
    refused("--max-queue", "65535", "--max-queue");
    refused("--scrub", "-1", "--scrub");
    refused("--scrub", "9000", "--scrub");
    refused("--scrub", "nan", "--scrub");
    refused("--log-level", "loud", "loud");
}

#define ETCD "--etcd", "http://127.0.0.1:2379,http://127.0.0.1:22379"

static void expect_whole(int code, const char *const *given, const char *part) {
    node_config c;
    int rc = parse_all(&c, given);
    if (rc != code || strstr(why, part) == NULL)
        fail_msg("%d, '%s', not %d and '%s'", rc, why, code, part);
    node_config_fini(&c);
}

static void needs_no_model_in_a_rack_that_has_one(void **state) {
    (void)state;
    const char *const rack[] = {ETCD, "--memory", "2G", "--zone", "left", NULL};
    node_config c;
    assert_int_equal(parse_all(&c, rack), OPTIONS_RUN);
    assert_null(c.model);
    assert_int_equal(c.memory_bytes, (uint64_t)2 << 30);
    assert_string_equal(c.zone, "left");
    assert_true(etcd_options_given(&c.etcd));
    assert_int_equal(c.etcd.n_endpoints, 2);
    node_config_fini(&c);
    assert_int_equal(parse(&c, rack), OPTIONS_RUN);
    assert_string_equal(c.model, "model.gguf");
    node_config_fini(&c);

    const char *const from[] = {"--weights-from",
                                "127.0.0.1:7103",
                                "--share",
                                "0/2",
                                "--slices",
                                "4",
                                NULL};
    assert_int_equal(parse_all(&c, from), OPTIONS_RUN);
    assert_int_equal(c.slices, 4);
    assert_false(etcd_options_given(&c.etcd));
    node_config_fini(&c);
}

static void needs_a_model_otherwise_and_one_only(void **state) {
    (void)state;
    expect_whole(ERR_USAGE, (const char *[]){"--exact", NULL}, "MODEL");
    expect_whole(ERR_USAGE, (const char *[]){"a", "b", NULL}, "one MODEL");
    expect_whole(ERR_USAGE,
                 (const char *[]){"a", "--weights-from", "127.0.0.1:1", NULL},
                 "exclude");
}

static void keeps_a_static_list_and_a_rack_apart(void **state) {
    (void)state;
    const char *const list_only[4][2] = {{"--share", "0/2"},
                                         {"--experts", "*:0"},
                                         {"--slices", "2"},
                                         {"--weights-from", "127.0.0.1:1"}};
    for (size_t i = 0; i < 4; i++) {
        const char *const both[] = {ETCD, list_only[i][0], list_only[i][1],
                                    NULL};
        expect_whole(ERR_USAGE, both, list_only[i][0]);
    }
    refused("--memory", "1G", "--etcd");
    refused("--zone", "left", "--etcd");
    refused("--weights-listen", "tcp://127.0.0.1:*", "--etcd");
    refused("--etcd-user", "me", "--etcd");
    refused("--slices", "3", "--slices");
    refused("--slices", "16", "--slices");
}

static void names_what_others_have_to_find_in_etcd(void **state) {
    (void)state;
    const char *const name[] = {ETCD, "--name", "left/one", NULL};
    const char *const cluster[] = {ETCD, "--cluster", "left/one", NULL};
    const char *const zone[] = {ETCD, "--zone", "left/one", NULL};
    const char *const any[] = {ETCD, "--listen", "tcp://*:7101", "--insecure",
                               NULL};
    expect_whole(ERR_USAGE, name, "--name");
    expect_whole(ERR_USAGE, cluster, "--cluster");
    expect_whole(ERR_USAGE, zone, "--zone");
    const char *const anywhere[] = {ETCD, "--weights-listen", "tcp://*:7103",
                                    "--insecure", NULL};
    expect_whole(ERR_USAGE, anywhere, "--weights-listen");
    const char *const beyond[] = {ETCD, "--weights-listen", "tcp://192.0.2.1:1",
                                  NULL};
    expect_whole(ERR_USAGE, beyond, "--insecure");
    expect_whole(ERR_USAGE, any, "address");
    taken("--name", "left/one"); /* a static list has no keys */
    const char *const away[] = {"--weights-from", "192.0.2.1:7103", NULL};
    expect_whole(ERR_USAGE, away, "--insecure");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_is_sound),
        cmocka_unit_test(refuses_endpoints_it_may_not_use),
        cmocka_unit_test(refuses_names_that_no_message_can_hold),
        cmocka_unit_test(refuses_what_cannot_work),
        cmocka_unit_test(needs_no_model_in_a_rack_that_has_one),
        cmocka_unit_test(needs_a_model_otherwise_and_one_only),
        cmocka_unit_test(keeps_a_static_list_and_a_rack_apart),
        cmocka_unit_test(names_what_others_have_to_find_in_etcd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
