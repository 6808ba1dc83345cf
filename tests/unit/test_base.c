/* test_base.c - the modules that all others stand on: error texts, sizes,
 * memory, CPU levels, failpoints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"

static char why[256];

/* ---- err ---- */

static void has_a_name_and_a_text_for_every_code(void **state) {
    (void)state;
#define CHECK(code, number, text)                                              \
    assert_int_equal(code, number);                                            \
    assert_string_equal(err_name(code), #code);                                \
    assert_string_equal(err_text(code), text);
    ERR_LIST(CHECK)
#undef CHECK
    assert_string_equal(err_name(0), "OK");
    assert_string_equal(err_name(-ENOENT), "ENOENT");
    assert_string_equal(err_text(-ENOENT), strerror(ENOENT));
    assert_non_null(err_name(-9999));
    assert_non_null(err_text(-999999));
}

/* A code may come from a peer. */
static void knows_what_to_say_of_any_number(void **state) {
    (void)state;
    static const int codes[] = {INT_MIN, INT_MIN + 1, -100000,
                                -4096,   1,           INT_MAX};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        assert_string_not_equal(err_name(codes[i]), "");
        assert_string_not_equal(err_text(codes[i]), "");
    }
}

static void gives_no_two_codes_one_number(void **state) {
    (void)state;
#define NUMBER(code, number, text) number,
    static const int numbers[] = {ERR_LIST(NUMBER)};
#undef NUMBER
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        assert_true(numbers[i] <= ERR_FIRST);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(numbers[i], numbers[j]);
    }
}

static void writes_a_sentence_and_returns_the_code(void **state) {
    (void)state;
    char small[8];
    assert_int_equal(err_why(why, sizeof(why), ERR_RANGE, "%d is %s", 7, "odd"),
                     ERR_RANGE);
    assert_string_equal(why, "7 is odd");
    assert_int_equal(err_why(small, sizeof(small), -EIO, "a long sentence"),
                     -EIO);
    assert_string_equal(small, "a long ");
    assert_int_equal(err_why(NULL, 0, ERR_RANGE, "nobody listens"), ERR_RANGE);
    assert_int_equal(err_why(small, 0, ERR_RANGE, "no room"), ERR_RANGE);
}

/* ---- util ---- */

static void sees_sizes_that_overflow(void **state) {
    (void)state;
    size_t out;
    assert_true(size_mul(SIZE_MAX / 2, 2, &out));
    assert_true(out == SIZE_MAX - 1);
    assert_false(size_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_true(size_add(SIZE_MAX - 1, 1, &out));
    assert_false(size_add(SIZE_MAX, 1, &out));
    assert_int_equal(round_up(0, 32), 0);
    assert_int_equal(round_up(1, 32), 32);
    assert_int_equal(round_up(64, 32), 64);
}

static void gives_zeroed_aligned_memory(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 4097, (size_t)5 << 20};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t *p = aligned_alloc_zero(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t j = 0; j < sizes[i]; j += 61)
            assert_int_equal(p[j], 0);
        aligned_release(p);
    }
    assert_null(aligned_alloc_zero(SIZE_MAX));
    assert_null(aligned_alloc_zero(SIZE_MAX - 32));
    aligned_release(NULL);
}

static void tells_a_time_that_never_goes_back(void **state) {
    (void)state;
    uint64_t last = now_us();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = now_us();
        assert_true(now >= last);
        last = now;
    }
    assert_true(now_ms() >= last / 1000);
}

static void *look_at_oneself(void *arg) {
    char name[32] = "";
    int *nice_value = arg;
    thread_in_background("quiet");
    pthread_getname_np(pthread_self(), name, sizeof(name));
    assert_string_equal(name, "quiet");
    *nice_value = getpriority(PRIO_PROCESS, 0);
    return NULL;
}

static void lets_one_thread_give_way_to_the_others(void **state) {
    pthread_t thread;
    int before = getpriority(PRIO_PROCESS, 0), there = 0;
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, look_at_oneself, &there), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(getpriority(PRIO_PROCESS, 0), before);
    assert_int_equal(there, before < 10 ? before + 10 : 19);
}

static void gives_other_random_bytes_each_time(void **state) {
    (void)state;
    uint8_t a[32], b[32];
    random_bytes(a, sizeof(a));
    random_bytes(b, sizeof(b));
    assert_true(memcmp(a, b, sizeof(a)) != 0);
}

static void shows_no_control_characters(void **state) {
    (void)state;
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"", ""},
        {"plain, M\xC3\xA4rchen, \xE4\xB8\x80", "plain, M\xC3\xA4rchen, "
                                                "\xE4\xB8\x80"},
        {"two\nlines\r\n", "two?lines??"},
        {"\x1b[31mred\x7f", "?[31mred?"},
        {"\xC2\x9B"
         "31mred\xC2\xA0",
         "??31mred\xC2\xA0"}, /* U+009B */
        {"cut off \xC2", "cut off \xC2"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[64];
        strcpy(text, cases[i].text);
        make_printable(text);
        assert_string_equal(text, cases[i].shown);
    }
}

/* In a child: no descriptor of ours may pass for a standard stream. */
static int opens_beside_closed_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        close(fd);
    standard_streams_keep();
    int fd = open("/dev/null", O_RDWR);
    char byte = 0;
    bool right = fd == 3 && read(0, &byte, 1) < 0 && write(1, "x", 1) < 0 &&
                 write(2, "x", 1) < 0;
    return right ? 0 : 1;
}

static void keeps_the_numbers_of_closed_streams(void **state) {
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        _exit(opens_beside_closed_streams());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- log ---- */

static void reads_the_names_of_log_levels(void **state) {
    (void)state;
    assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
    assert_int_equal(log_level_parse("error"), LOG_ERROR);
    assert_int_equal(log_level_parse("loud"), -1);
    assert_int_equal(log_level_parse(""), -1);
}

/* A line longer than the buffer ends in a newline all the same. */
static void writes_one_line_however_long(void **state) {
    (void)state;
    static char text[10000];
    static char got[20000];
    int pipe_ends[2];
    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(pipe(pipe_ends), 0);
    int saved = dup(STDERR_FILENO);
    dup2(pipe_ends[1], STDERR_FILENO);
    log_error("%s", text);
    log_debug("dropped");
    log_warn("sh\nort\x1b");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pipe_ends[1]);

    size_t n = 0;
    for (ssize_t r; (r = read(pipe_ends[0], got + n, sizeof(got) - 1 - n)) > 0;)
        n += (size_t)r;
    close(pipe_ends[0]);
    got[n] = '\0';
    char *first_end = strchr(got, '\n');
    assert_non_null(first_end);
    assert_non_null(strstr(got, "error"));
    assert_null(strstr(got, "dropped"));
    assert_non_null(strstr(first_end, "warn  test_base: sh?ort?\n"));
}

/* ---- cpu ---- */

static void takes_the_best_level_by_itself(void **state) {
    (void)state;
    unsetenv("ROSTER_CPU");
    assert_int_equal(cpu_setup(why, sizeof(why)), 0);
    assert_int_equal(cpu_current(), cpu_best());
    setenv("ROSTER_CPU", "", 1);
    assert_int_equal(cpu_setup(why, sizeof(why)), 0);
    assert_int_equal(cpu_current(), cpu_best());
}

static void takes_the_level_that_the_environment_names(void **state) {
    (void)state;
    for (int level = 0; level < CPU_LEVELS; level++) {
        setenv("ROSTER_CPU", cpu_name((cpu_level)level), 1);
        int rc = cpu_setup(why, sizeof(why));
        if (level <= (int)cpu_best()) {
            assert_int_equal(rc, 0);
            assert_int_equal(cpu_current(), level);
        } else {
            assert_int_equal(rc, ERR_UNSUPPORTED);
            assert_non_null(strstr(why, cpu_name(cpu_best())));
            assert_int_equal(cpu_force((cpu_level)level), ERR_UNSUPPORTED);
        }
    }
    unsetenv("ROSTER_CPU");
}

static void refuses_a_level_that_is_none(void **state) {
    (void)state;
    static const char *const bad[] = {"sse2", "AVX2", "avx", "avx2 ", "2"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        setenv("ROSTER_CPU", bad[i], 1);
        assert_int_equal(cpu_setup(why, sizeof(why)), ERR_USAGE);
        assert_non_null(strstr(why, "expected scalar, avx2 or avx512"));
    }
    unsetenv("ROSTER_CPU");
}

/* ---- failpoints: each in a child, since they are armed once ---- */

/* Arm `text` and run `body` in a child; its wait status. */
static int in_child(const char *text, int (*body)(void)) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("ROSTER_FAILPOINTS", text, 1);
        _exit(body());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    if (WIFSTOPPED(status)) {
        kill(pid, SIGKILL);
        int end;
        assert_int_equal(waitpid(pid, &end, 0), pid);
    }
    return status;
}

static int setup_fails(void) {
    int rc = failpoint_setup(why, sizeof(why));
    return rc == ERR_USAGE && strstr(why, "ROSTER_FAILPOINTS") != NULL &&
                   !failpoint("a")
               ? 0
               : 1;
}

static void refuses_failpoints_it_cannot_read(void **state) {
    (void)state;
    static const char *const bad[] = {
        "a",
        "a=explode",
        "a=kill,b",
        "=",
        "a=kill@",
        "a=kill@soon",
        "a=kill@2x",
        "a=kill@0",
        "a=kill@-1",
        "a=kill@99999999999999999999",
        "a-name-that-is-far-too-long-for-the-table-of-failpoints=kill",
        "a=kill,a=kill,a=kill,a=kill,a=kill,a=kill,a=kill,a=kill,a=kill,"
        "a=kill,a=kill,a=kill,a=kill,a=kill,a=kill,a=kill,a=kill"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(in_child(bad[i], setup_fails), 0);
}

static int fails_from_the_third_visit(void) {
    if (failpoint_setup(why, sizeof(why)) != 0) return 1;
    bool right = !failpoint("other") && !failpoint("a") && !failpoint("a") &&
                 failpoint("a") && failpoint("a") && failpoint("b");
    return right ? 0 : 2;
}

static void fails_from_the_visit_that_is_named(void **state) {
    (void)state;
    assert_int_equal(in_child("a=fail@3,b=fail", fails_from_the_third_visit),
                     0);
}

static int visits_twice(void) {
    if (failpoint_setup(why, sizeof(why)) != 0) return 1;
    failpoint("a");
    failpoint("a");
    return 2;
}

static void kills_and_stops_the_process(void **state) {
    (void)state;
    int status = in_child("a=kill@2", visits_twice);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = in_child("a=stop", visits_twice);
    assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
}

static int nothing_happens(void) {
    if (failpoint_setup(why, sizeof(why)) != 0) return 1;
    return failpoints_armed || failpoint("a") ? 2 : 0;
}

static void does_nothing_when_nothing_is_armed(void **state) {
    (void)state;
    assert_int_equal(in_child("", nothing_happens), 0);
}

int main(void) {
    log_setup("test_base", LOG_INFO);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_a_name_and_a_text_for_every_code),
        cmocka_unit_test(knows_what_to_say_of_any_number),
        cmocka_unit_test(gives_no_two_codes_one_number),
        cmocka_unit_test(writes_a_sentence_and_returns_the_code),
        cmocka_unit_test(sees_sizes_that_overflow),
        cmocka_unit_test(gives_zeroed_aligned_memory),
        cmocka_unit_test(tells_a_time_that_never_goes_back),
        cmocka_unit_test(lets_one_thread_give_way_to_the_others),
        cmocka_unit_test(gives_other_random_bytes_each_time),
        cmocka_unit_test(shows_no_control_characters),
        cmocka_unit_test(keeps_the_numbers_of_closed_streams),
        cmocka_unit_test(reads_the_names_of_log_levels),
        cmocka_unit_test(writes_one_line_however_long),
        cmocka_unit_test(takes_the_best_level_by_itself),
        cmocka_unit_test(takes_the_level_that_the_environment_names),
        cmocka_unit_test(refuses_a_level_that_is_none),
        cmocka_unit_test(refuses_failpoints_it_cannot_read),
        cmocka_unit_test(fails_from_the_visit_that_is_named),
        cmocka_unit_test(kills_and_stops_the_process),
        cmocka_unit_test(does_nothing_when_nothing_is_armed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
