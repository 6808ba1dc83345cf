/* test_etcd_options.c - how a program is told of its rack's etcd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/etcd_options.h"
#include "engine/err.h"
#include "engine/util.h"

#define MOST_ARGS 80

typedef struct {
    etcd_options o;
    options *parsed;
    char why[512];
} rig;

/* Parse and check; what the check says. */
static int parse(rig *r, const char *const *given) {
    option table[ETCD_OPTIONS_ROWS + 1];
    bool other = false;
    *r = (rig){0};
    etcd_options_init(&r->o);
    table[0] = (option){"other", 0, OPTION_FLAG, &other, NULL, "Another."};
    const option_set set = {.program = "test",
                            .usage = "",
                            .about = "",
                            .table = table,
                            .count = etcd_options_append(&r->o, table, 1)};
    assert_int_equal(set.count, ETCD_OPTIONS_ROWS + 1);
    char *argv[MOST_ARGS] = {"test"};
    int argc = 1;
    for (; *given != NULL; given++) {
        assert_true(argc < MOST_ARGS);
        argv[argc++] = (char *)*given; /* which nobody writes to */
    }
    int rc =
        options_parse(&r->parsed, &set, argc, argv, r->why, sizeof(r->why));
    if (rc != OPTIONS_RUN) fail_msg("%s", r->why);
    return etcd_options_check(&r->o, r->why, sizeof(r->why));
}

static void finish(rig *r) {
    etcd_options_fini(&r->o);
    options_free(r->parsed);
}

static void expect_refusal(const char *const *given, const char *part) {
    rig r;
    int rc = parse(&r, given);
    if (rc != ERR_USAGE || strstr(r.why, part) == NULL)
        fail_msg("%d, '%s': no '%s'", rc, r.why, part);
    finish(&r);
}

static void knows_of_no_etcd_unless_told(void **state) {
    (void)state;
    rig r;
    char text[100];
    assert_int_equal(parse(&r, (const char *[]){NULL}), 0);
    assert_false(etcd_options_given(&r.o));
    assert_string_equal(etcd_options_text(&r.o, text, sizeof(text)), "");
    finish(&r);
}

static void takes_several_endpoints_with_commas_or_repeated(void **state) {
    (void)state;
    rig r;
    char text[200];
    const char *const given[] = {"--etcd", "http://a:1,https://b:2", "--etcd",
                                 "http://c:3", NULL};
    assert_int_equal(parse(&r, given), 0);
    const etcd_config c = etcd_options_config(&r.o);
    assert_int_equal(c.n_endpoints, 3);
    assert_string_equal(c.endpoints[0], "http://a:1");
    assert_string_equal(c.endpoints[1], "https://b:2");
    assert_string_equal(c.endpoints[2], "http://c:3");
    assert_null(c.user);
    assert_null(c.password);
    assert_string_equal(etcd_options_text(&r.o, text, sizeof(text)),
                        "http://a:1, https://b:2, http://c:3");
    assert_string_equal(etcd_options_text(&r.o, text, 8), "http://");
    assert_int_equal(etcd_options_ttl_s(&r.o), 5);
    finish(&r);
}

static void refuses_what_is_no_endpoint(void **state) {
    (void)state;
    char longest[300] = "http://";
    expect_refusal((const char *[]){"--etcd", "a:1", NULL}, "a:1");
    expect_refusal((const char *[]){"--etcd", "http://a:1,", NULL}, "--etcd");
    expect_refusal((const char *[]){"--etcd", "tcp://a:1", NULL}, "http://");
    memset(longest + 7, 'x', 290);
    expect_refusal((const char *[]){"--etcd", longest, NULL}, "longer");
    const char *many[2 * (ETCD_OPTIONS_MAX_ENDPOINTS + 1) + 1] = {NULL};
    for (size_t i = 0; i <= ETCD_OPTIONS_MAX_ENDPOINTS; i++) {
        many[2 * i] = "--etcd";
        many[2 * i + 1] = "http://a:1";
    }
    expect_refusal(many, "at most");
}

/* A log is no place for it, and neither is a command line. */
static void
refuses_a_password_in_an_endpoint_without_repeating_it(void **state) {
    static const char *const urls[] = {"http://me:secret@a:1", "me:secret@a:1"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        rig r;
        const char *const given[] = {"--etcd", urls[i], NULL};
        assert_int_equal(parse(&r, given), ERR_USAGE);
        assert_non_null(strstr(r.why, "--etcd-password-file"));
        assert_null(strstr(r.why, "secret"));
        finish(&r);
    }
}

static void refuses_halves_of_pairs(void **state) {
    (void)state;
#define E "--etcd", "http://a:1"
    expect_refusal((const char *[]){"--etcd-ca", "ca.pem", NULL}, "--etcd");
    expect_refusal((const char *[]){E, "--etcd-user", "me", NULL},
                   "--etcd-password-file");
    expect_refusal((const char *[]){E, "--etcd-cert", "c", NULL}, "--etcd-key");
    expect_refusal((const char *[]){E, "--etcd-key", "c", NULL}, "--etcd-cert");
    expect_refusal((const char *[]){E, "--etcd-ttl", "1s", NULL}, "--etcd-ttl");
    expect_refusal((const char *[]){E, "--etcd-ttl", "11m", NULL},
                   "--etcd-ttl");
    rig r;
    const char *const given[] = {E,    "--etcd-cert", "c",      "--etcd-key",
                                 "k",  "--etcd-ttl",  "2500ms", "--etcd-ca",
                                 "ca", NULL};
    assert_int_equal(parse(&r, given), 0);
    const etcd_config c = etcd_options_config(&r.o);
    assert_string_equal(c.cert_file, "c");
    assert_string_equal(c.key_file, "k");
    assert_string_equal(c.ca_file, "ca");
    assert_int_equal(etcd_options_ttl_s(&r.o), 3);
    finish(&r);
}

static void with_password(const char *text, size_t bytes, const char *wanted) {
    char path[] = "/tmp/roster-password-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    fwrite(text, 1, bytes, file);
    fclose(file);
    const char *const given[] = {
        E, "--etcd-user", "me", "--etcd-password-file", path, NULL};
    if (wanted == NULL) {
        expect_refusal(given, "--etcd-password-file");
    } else {
        rig r;
        assert_int_equal(parse(&r, given), 0);
        const etcd_config c = etcd_options_config(&r.o);
        assert_string_equal(c.user, "me");
        assert_string_equal(c.password, wanted);
        finish(&r);
        assert_int_equal(r.o.password[0], 0); /* nothing stays behind */
    }
    remove(path);
}

static void reads_the_password_from_the_first_line_of_a_file(void **state) {
    (void)state;
    char most[ETCD_OPTIONS_PASSWORD_MAX + 2];
    memset(most, 'p', sizeof(most));
    with_password("secret", 6, "secret");
    with_password("two words\nmore\n", 15, "two words");
    with_password("dos\r\n", 5, "dos");
    with_password("", 0, NULL);
    with_password("\nsecret", 7, NULL);
    with_password("a\0b", 3, NULL);
    with_password(most, ETCD_OPTIONS_PASSWORD_MAX + 1, NULL);
    most[ETCD_OPTIONS_PASSWORD_MAX] = '\0';
    with_password(most, ETCD_OPTIONS_PASSWORD_MAX, most);
    expect_refusal((const char *[]){E, "--etcd-user", "me",
                                    "--etcd-password-file", "/nowhere/x", NULL},
                   "/nowhere/x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_of_no_etcd_unless_told),
        cmocka_unit_test(takes_several_endpoints_with_commas_or_repeated),
        cmocka_unit_test(refuses_what_is_no_endpoint),
        cmocka_unit_test(
            refuses_a_password_in_an_endpoint_without_repeating_it),
        cmocka_unit_test(refuses_halves_of_pairs),
        cmocka_unit_test(reads_the_password_from_the_first_line_of_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
