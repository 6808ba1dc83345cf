/* test_options.c - sources and their precedence, values, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/options.h"
#include "engine/util.h"
#include "tests/support/fixture.h"

#define MAX_ARGS 16

static char why[1024];

/* One of each kind. */
static struct {
    bool fast;
    const char *listen;
    option_list peers;
    uint32_t count;
    uint64_t seed;
    uint64_t memory;
    uint32_t timeout_ms;
    float temp;
} v;

/* clang-format off */
static const option table[] = {
    {"fast", 'f', OPTION_FLAG, &v.fast, NULL, "Go faster."},
    {"listen", 0, OPTION_STRING, &v.listen, "HOST:PORT", "Where to listen."},
    {"peer", 0, OPTION_LIST, &v.peers, "ENDPOINT", "A peer."},
    {"count", 'n', OPTION_U32, &v.count, "N",
     "How many there shall be, a sentence that is long enough for more than "
     "one line of the help text that is printed."},
    {"seed", 0, OPTION_U64, &v.seed, "N", "Seed."},
    {"max-memory", 0, OPTION_SIZE, &v.memory, "BYTES", "Memory."},
    {"an-option-with-a-very-long-name", 0, OPTION_MS, &v.timeout_ms, "TIME",
     "Time."},
    {"temp", 0, OPTION_F32, &v.temp, "T", "Temperature."},
};
/* clang-format on */
#define LONG_NAME "an-option-with-a-very-long-name"
#define LONG_VARIABLE "ROSTER_AN_OPTION_WITH_A_VERY_LONG_NAME"

static const option_set daemon_set = {
    .program = "roster-test",
    .usage = "[options] MODEL",
    .about = "Tests options.",
    .table = table,
    .count = ARRAY_LEN(table),
    .daemon = true,
};

static int set_defaults(void **state) {
    (void)state;
    memset(&v, 0, sizeof(v));
    v.listen = "127.0.0.1:1";
    v.count = 3;
    v.memory = (uint64_t)16 << 20;
    v.timeout_ms = 10000;
    v.temp = 0.8f;
    static const char *const names[] = {"FAST", "LISTEN",     "PEER", "COUNT",
                                        "SEED", "MAX_MEMORY", "TEMP", "CONFIG"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char variable[64];
        snprintf(variable, sizeof(variable), "ROSTER_%s", names[i]);
        unsetenv(variable);
    }
    unsetenv(LONG_VARIABLE);
    why[0] = '\0';
    return 0;
}

/* Parse a NULL-terminated list of arguments. */
static int parse_set(options **o, const option_set *set, va_list list) {
    char *argv[MAX_ARGS] = {(char *)(uintptr_t) "roster-test"};
    int argc = 1;
    char *arg;
    while ((arg = va_arg(list, char *)) != NULL) {
        assert_true(argc < MAX_ARGS - 1);
        argv[argc++] = arg;
    }
    return options_parse(o, set, argc, argv, why, sizeof(why));
}

static int parse(options **o, ...) {
    va_list list;
    va_start(list, o);
    int rc = parse_set(o, &daemon_set, list);
    va_end(list);
    return rc;
}

/* `part` must be in the sentence. */
static void assert_usage(int rc, const char *part) {
    assert_int_equal(rc, ERR_USAGE);
    if (strstr(why, part) == NULL) print_message("said: %s\n", why);
    assert_non_null(strstr(why, part));
}

static const char *config(const char *text) {
    const char *path = fixture_path("test.conf");
    fixture_write(path, text, strlen(text));
    return path;
}

/* What a call prints to stdout; the caller frees it. */
static char *printed(int *rc, const char *a, const char *b) {
    const char *path = fixture_path("stdout");
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_non_null(freopen(path, "w", stdout));
    options *o = NULL;
    *rc = parse(&o, a, b, NULL);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_null(o);
    size_t n;
    char *text = (char *)fixture_read(path, &n);
    text[n] = '\0';
    return text;
}

/* ---- the command line ---- */

static void keeps_defaults_when_nothing_is_given(void **state) {
    (void)state;
    options *o;
    const char *const *args;
    assert_int_equal(parse(&o, NULL), OPTIONS_RUN);
    assert_string_equal(v.listen, "127.0.0.1:1");
    assert_int_equal(v.count, 3);
    assert_false(options_given(o, "count"));
    assert_int_equal(options_args(o, &args), 0);
    options_free(o);
}

static void takes_values_in_every_form(void **state) {
    (void)state;
    options *o;
    assert_int_equal(parse(&o, "--listen", "a:1", "--count=7", "-f", "--seed",
                           "18446744073709551615", "--max-memory", "2G",
                           "--" LONG_NAME "=5s", "--temp", "0.25", NULL),
                     OPTIONS_RUN);
    assert_string_equal(v.listen, "a:1");
    assert_int_equal(v.count, 7);
    assert_true(v.fast);
    assert_true(v.seed == UINT64_MAX);
    assert_true(v.memory == (uint64_t)2 << 30);
    assert_int_equal(v.timeout_ms, 5000);
    assert_true(v.temp == 0.25f);
    assert_true(options_given(o, "fast"));
    options_free(o);

    assert_int_equal(parse(&o, "-n", "8", "--fast=no", NULL), OPTIONS_RUN);
    assert_int_equal(v.count, 8);
    assert_false(v.fast);
    options_free(o);
    assert_int_equal(parse(&o, "-n9", NULL), OPTIONS_RUN);
    assert_int_equal(v.count, 9);
    options_free(o);
}

static void keeps_arguments_in_order(void **state) {
    (void)state;
    options *o;
    const char *const *args;
    assert_int_equal(parse(&o, "one", "-f", "-", "--", "--count", "-x", NULL),
                     OPTIONS_RUN);
    assert_int_equal(options_args(o, &args), 4);
    assert_string_equal(args[0], "one");
    assert_string_equal(args[1], "-");
    assert_string_equal(args[2], "--count");
    assert_string_equal(args[3], "-x");
    assert_int_equal(v.count, 3);
    options_free(o);
}

static void collects_a_repeated_list(void **state) {
    (void)state;
    options *o;
    assert_int_equal(parse(&o, "--peer", "a,b", "--peer=c", NULL), OPTIONS_RUN);
    assert_int_equal(v.peers.count, 2);
    assert_string_equal(v.peers.items[0], "a,b");
    assert_string_equal(v.peers.items[1], "c");
    options_free(o);
}

static void lets_the_last_of_two_values_hold(void **state) {
    (void)state;
    options *o;
    assert_int_equal(parse(&o, "--count", "1", "--count", "2", NULL),
                     OPTIONS_RUN);
    assert_int_equal(v.count, 2);
    options_free(o);
}

static void refuses_options_it_does_not_have(void **state) {
    (void)state;
    options *o;
    assert_usage(parse(&o, "--nothing", NULL), "unknown option '--nothing'");
    assert_usage(parse(&o, "--nothing=1", NULL), "unknown option '--nothing'");
    assert_usage(parse(&o, "--coun", "1", NULL), "unknown option '--coun'");
    assert_usage(parse(&o, "-x", NULL), "unknown option '-x'");
    assert_usage(parse(&o, "--help=1", NULL), "unknown option '--help'");
    assert_usage(parse(&o, "--count", NULL), "--count needs a value");
    assert_usage(parse(&o, "-n", NULL), "-n needs a value");
    assert_null(o);
}

static void refuses_values_that_are_none(void **state) {
    (void)state;
    static const struct {
        const char *argument;
        const char *part;
    } cases[] = {
        {"--count=", "--count: '' is not a whole number"},
        {"--count=-1", "'-1' is not"},
        {"--count=+1", "'+1' is not"},
        {"--count= 1", "' 1' is not"},
        {"--count=1x", "'1x' is not"},
        {"--count=0x10", "'0x10' is not"},
        {"--count=4294967296", "0 to 4294967295"},
        {"--seed=18446744073709551616", "--seed"},
        {"--max-memory=1.5G", "--max-memory"},
        {"--max-memory=5X", "--max-memory"},
        {"--max-memory=16777216T", "--max-memory"},
        {"--" LONG_NAME "=4294968s", LONG_NAME},
        {"--" LONG_NAME "=5h", LONG_NAME},
        {"--temp=nan", "--temp: 'nan' is not a number"},
        {"--temp=1e99", "--temp"},
        {"--temp=0x1", "--temp"},
        {"--temp=1,5", "--temp"},
        {"--fast=maybe", "--fast: 'maybe' is not true or false"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        options *o;
        assert_usage(parse(&o, cases[i].argument, NULL), cases[i].part);
    }
}

/* ---- environment and file ---- */

static void prefers_command_line_to_environment_to_file(void **state) {
    (void)state;
    options *o;
    const char *path = config("count = 10\nseed = 10\ntemp = 10\n");
    setenv("ROSTER_COUNT", "20", 1);
    setenv("ROSTER_SEED", "20", 1);
    assert_int_equal(parse(&o, "--config", path, "--count", "30", NULL),
                     OPTIONS_RUN);
    assert_int_equal(v.count, 30);
    assert_int_equal(v.seed, 20);
    assert_true(v.temp == 10.0f);
    assert_true(options_given(o, "temp"));
    options_free(o);
}

static void replaces_a_list_of_a_lower_source(void **state) {
    (void)state;
    options *o;
    const char *path = config("peer = a, b\npeer = c\n");
    assert_int_equal(parse(&o, "--config", path, NULL), OPTIONS_RUN);
    assert_int_equal(v.peers.count, 3);
    assert_string_equal(v.peers.items[1], "b");
    options_free(o);

    setenv("ROSTER_PEER", "d,e", 1);
    assert_int_equal(parse(&o, "--config", path, NULL), OPTIONS_RUN);
    assert_int_equal(v.peers.count, 2);
    assert_string_equal(v.peers.items[0], "d");
    options_free(o);

    assert_int_equal(parse(&o, "--peer=f", NULL), OPTIONS_RUN);
    assert_int_equal(v.peers.count, 1);
    assert_string_equal(v.peers.items[0], "f");
    options_free(o);
}

static void reads_comments_quotes_and_blanks(void **state) {
    (void)state;
    options *o;
    const char *path = config("# a comment\n"
                              "\n"
                              "  count=5   # five\r\n"
                              "listen = \"a # b \" # quoted\n"
                              "\tfast = yes\n"
                              "max-memory = 512k");
    assert_int_equal(parse(&o, "--config", path, NULL), OPTIONS_RUN);
    assert_int_equal(v.count, 5);
    assert_string_equal(v.listen, "a # b ");
    assert_true(v.fast);
    assert_true(v.memory == 512 << 10);
    options_free(o);
}

static void finds_the_file_by_the_environment(void **state) {
    (void)state;
    options *o;
    setenv("ROSTER_CONFIG", config("count = 6\n"), 1);
    assert_int_equal(parse(&o, NULL), OPTIONS_RUN);
    assert_int_equal(v.count, 6);
    options_free(o);
}

static void names_the_source_of_a_bad_value(void **state) {
    (void)state;
    options *o;
    const char *path = config("\ncount = many\n");
    assert_usage(parse(&o, "--config", path, NULL),
                 "test.conf:2: count: 'many' is not a whole number");
    setenv("ROSTER_COUNT", "few", 1);
    assert_usage(parse(&o, NULL), "ROSTER_COUNT: 'few' is not");
}

static void refuses_a_file_it_cannot_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *part;
    } cases[] = {
        {"count 5\n", "test.conf:1: 'count 5' is not of the form"},
        {"# x\nwidth = 5\n", "test.conf:2: unknown option 'width'"},
        {"count = 1\ncount = 2\n", "test.conf:2: 'count' is set twice"},
        {"listen = \"a\n", "the quotes of 'listen' do not match"},
        {"listen = \"a\" b\n", "the quotes of 'listen' do not match"},
        {"peer = a,,b\n", "list without empty items"},
        {"peer = a,\n", "list without empty items"},
        {"config = x\n", "unknown option 'config'"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        options *o;
        assert_usage(parse(&o, "--config", config(cases[i].text), NULL),
                     cases[i].part);
    }
    options *o;
    assert_int_equal(parse(&o, "--config", fixture_path("absent.conf"), NULL),
                     -ENOENT);
    assert_non_null(strstr(why, "absent.conf: cannot open"));
}

static void refuses_a_line_of_endless_length(void **state) {
    (void)state;
    options *o;
    char *text = malloc(100000);
    assert_non_null(text);
    memset(text, 'x', 99999);
    text[99999] = '\0';
    assert_usage(parse(&o, "--config", config(text), NULL), "too long");
    free(text);

    const char *path = fixture_path("zero.conf");
    fixture_write(path, "count = 1\0\ncount = 2\n", 21);
    assert_usage(parse(&o, "--config", path, NULL), "no text");
}

static void ignores_the_environment_unless_a_daemon(void **state) {
    (void)state;
    option_set set = daemon_set;
    set.daemon = false;
    setenv("ROSTER_COUNT", "20", 1);
    char *argv[] = {(char *)(uintptr_t) "roster", NULL, NULL};
    options *o;
    assert_int_equal(options_parse(&o, &set, 1, argv, why, sizeof(why)),
                     OPTIONS_RUN);
    assert_int_equal(v.count, 3);
    options_free(o);
    argv[1] = (char *)(uintptr_t) "--check-config";
    assert_usage(options_parse(&o, &set, 2, argv, why, sizeof(why)),
                 "unknown option");
}

/* ---- what is printed ---- */

static void wraps_the_help_to_80_columns(void **state) {
    (void)state;
    int rc;
    char *text = printed(&rc, "--help", NULL);
    assert_int_equal(rc, OPTIONS_EXIT);
    assert_non_null(strstr(text, "Usage: roster-test [options] MODEL\n"));
    assert_non_null(strstr(text, "  -n, --count N "));
    assert_non_null(strstr(text, "(default 3)"));
    assert_non_null(strstr(text, "(default 16M)"));
    assert_non_null(strstr(text, "(default 10s)"));
    assert_non_null(strstr(text, "--check-config"));
    for (char *line = strtok(text, "\n"); line != NULL;
         line = strtok(NULL, "\n")) {
        assert_true(strlen(line) <= 80);
        assert_true(line[strlen(line) - 1] != ' ');
    }
    free(text);
}

static void prints_program_and_version(void **state) {
    (void)state;
    int rc;
    char *text = printed(&rc, "--version", NULL);
    assert_int_equal(rc, OPTIONS_EXIT);
    assert_string_equal(text, "roster-test " ROSTER_VERSION "\n");
    free(text);
}

static void says_that_a_configuration_is_valid(void **state) {
    (void)state;
    int rc;
    char argument[4096];
    snprintf(argument, sizeof(argument), "--config=%s", config("count = 6\n"));
    char *text = printed(&rc, argument, "--check-config");
    assert_int_equal(rc, OPTIONS_EXIT);
    assert_non_null(strstr(text, "test.conf: the configuration is valid\n"));
    free(text);

    options *o;
    config("count = six\n");
    assert_usage(parse(&o, argument, "--check-config", NULL), "test.conf:1");
    assert_usage(parse(&o, "--check-config", NULL), "needs --config");
}

#define TEST(name) cmocka_unit_test_setup(name, set_defaults)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(keeps_defaults_when_nothing_is_given),
        TEST(takes_values_in_every_form),
        TEST(keeps_arguments_in_order),
        TEST(collects_a_repeated_list),
        TEST(lets_the_last_of_two_values_hold),
        TEST(refuses_options_it_does_not_have),
        TEST(refuses_values_that_are_none),
        TEST(prefers_command_line_to_environment_to_file),
        TEST(replaces_a_list_of_a_lower_source),
        TEST(reads_comments_quotes_and_blanks),
        TEST(finds_the_file_by_the_environment),
        TEST(names_the_source_of_a_bad_value),
        TEST(refuses_a_file_it_cannot_read),
        TEST(refuses_a_line_of_endless_length),
        TEST(ignores_the_environment_unless_a_daemon),
        TEST(wraps_the_help_to_80_columns),
        TEST(prints_program_and_version),
        TEST(says_that_a_configuration_is_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
