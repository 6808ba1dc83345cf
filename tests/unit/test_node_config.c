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
static int parse(node_config *c, const char *const *given) {
    char *argv[MOST_ARGS + 1] = {"roster-expert-node", "model.gguf"};
    int argc = 2;
    for (; *given != NULL; given++) {
        assert_true(argc < MOST_ARGS);
        argv[argc++] = (char *)*given; /* which nobody writes to */
    }
    why[0] = '\0';
    return node_config_parse(c, argc, argv, why, sizeof(why));
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
    refused("--log-level", "loud", "loud");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_is_sound),
        cmocka_unit_test(refuses_endpoints_it_may_not_use),
        cmocka_unit_test(refuses_names_that_no_message_can_hold),
        cmocka_unit_test(refuses_what_cannot_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
