/* test_local_rack.c - starting and stopping daemons, with shell scripts in
 * their place: they report, fail, hang and fork, and nothing may be left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "client/child.h"
#include "client/local_rack.h"
#include "client/signals.h"
#include "client/words.h"
#include "engine/err.h"
#include "engine/pool.h"
#include "engine/util.h"

#define NODE "roster-expert-node"
#define COORDINATOR "roster-coordinator"

/* A folder of fake programs.  Each notes its process and arguments in files. */
typedef struct {
    char folder[64];
    local_rack_config config;
    local_rack *rack;
    char why[1024];
} rig;

static void write_program(const rig *r, const char *name, const char *body) {
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", r->folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
            "#!/bin/sh\n"
            "echo $$ >> %s/pids\n"
            "echo \"${0##*/} $*\" >> %s/args\n"
            "%s\n",
            r->folder, r->folder, body);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

/* A daemon as it should be: its port is its process number. */
#define SERVE                                                                  \
    "echo ready tcp://127.0.0.1:$$\n"                                          \
    "exec sleep 1000"

static void rig_init(rig *r) {
    memset(r, 0, sizeof(*r));
    snprintf(r->folder, sizeof(r->folder), "/tmp/roster-test-XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    local_rack_config_init(&r->config);
    r->config.programs = r->folder;
    r->config.model = "model.gguf";
    r->config.nodes = 2;
    r->config.threads = 1;
    r->config.start_timeout_ms = 180000;
    write_program(r, NODE, SERVE);
    write_program(r, COORDINATOR, SERVE);
}

static int rig_open(rig *r) {
    return local_rack_open(&r->rack, &r->config, -1, r->why, sizeof(r->why));
}

static char *read_file(const rig *r, const char *name) {
    char path[128];
    static char text[8192];
    snprintf(path, sizeof(path), "%s/%s", r->folder, name);
    FILE *f = fopen(path, "r");
    size_t n = f != NULL ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (f != NULL) fclose(f);
    text[n] = '\0';
    return text;
}

/* A killed grandchild is reaped by init, if there is one, some time later: a
 * zombie counts as gone. */
static bool is_running(pid_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (f == NULL) return false;
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *state = strrchr(text, ')');
    return state != NULL && state[1] != '\0' && state[2] != 'Z' &&
           state[2] != 'X';
}

/* All that ever noted itself is gone, or will be presently: a kill takes
 * effect a moment after it was sent. */
static void assert_nothing_runs(const rig *r) {
    char *at = read_file(r, "pids");
    while (*at != '\0') {
        pid_t pid = (pid_t)strtol(at, &at, 10);
        uint64_t until = now_ms() + 10000;
        while (is_running(pid) && now_ms() < until)
            (void)poll(NULL, 0, 5);
        assert_false(is_running(pid));
        at += strspn(at, " \n");
    }
}

static void rig_fini(rig *r) {
    static const char *const files[] = {"pids", "args", NODE, COORDINATOR};
    char path[128];

    local_rack_close(r->rack);
    assert_nothing_runs(r);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", r->folder, files[i]);
        (void)unlink(path); /* some tests never made some */
    }
    assert_int_equal(rmdir(r->folder), 0);
}

/* ---- what is started ---- */

static void starts_nodes_and_tells_the_coordinator_where(void **state) {
    rig r;
    char want[256];
    (void)state;

    rig_init(&r);
    r.config.replicas = 2;
    r.config.exact = r.config.no_local_experts = true;
    r.config.kv = "f32";
    r.config.timeout_ms = 1500;
    assert_int_equal(rig_open(&r), 0);
    assert_int_equal(local_rack_n_children(r.rack), 3);
    snprintf(want, sizeof(want), "tcp://127.0.0.1:%d",
             child_pid(local_rack_child(r.rack, 2)));
    assert_string_equal(local_rack_endpoint(r.rack), want);

    const char *args = read_file(&r, "args");
    snprintf(want, sizeof(want),
             NODE " model.gguf --listen tcp://127.0.0.1:* --name node-1 "
                  "--share 0/2x2 --threads 1 --pin %u --exact\n",
             1 + 1 % pool_cpus()); /* the coordinator's thread comes first */
    assert_non_null(strstr(args, want));
    assert_non_null(strstr(args, "--name node-2 --share 1/2x2"));
    snprintf(want, sizeof(want),
             COORDINATOR " model.gguf --listen tcp://127.0.0.1:* --node "
                         "tcp://127.0.0.1:%d --node tcp://127.0.0.1:%d --kv "
                         "f32 --timeout 1500ms --no-local-experts --threads 1 "
                         "--pin 1 --exact\n",
             child_pid(local_rack_child(r.rack, 0)),
             child_pid(local_rack_child(r.rack, 1)));
    assert_non_null(strstr(args, want));
    rig_fini(&r);
}

static void passes_on_what_each_node_holds(void **state) {
    rig r;
    const char *specs[] = {"*:0-1", "0-2,5:2,3"};
    (void)state;

    rig_init(&r);
    r.config.experts = (option_list){specs, 2};
    assert_int_equal(rig_open(&r), 0);
    const char *args = read_file(&r, "args");
    assert_non_null(strstr(args, "--name node-1 --experts *:0-1"));
    assert_non_null(strstr(args, "--name node-2 --experts 0-2,5:2,3"));
    assert_null(strstr(args, "--share"));
    rig_fini(&r);
}

/* A user's environment may be meant for daemons of another rack. */
static void keeps_daemon_settings_of_the_environment_away(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE, "env >> ${0%/*}/args\n" SERVE);
    setenv("ROSTER_SHARE", "1/7", 1);
    setenv("ROSTER_CONFIG", "/nowhere", 1);
    setenv("ROSTER_CPU", "scalar", 1);
    setenv("ROSTER_FAILPOINTS", "node.reply=fail", 1);
    setenv("ROSTERS", "kept", 1);
    int rc = rig_open(&r);
    unsetenv("ROSTER_SHARE");
    unsetenv("ROSTER_CONFIG");
    unsetenv("ROSTER_CPU");
    unsetenv("ROSTER_FAILPOINTS");
    unsetenv("ROSTERS");
    assert_int_equal(rc, 0);
    const char *env = read_file(&r, "args");
    assert_null(strstr(env, "ROSTER_SHARE="));
    assert_null(strstr(env, "ROSTER_CONFIG="));
    assert_non_null(strstr(env, "ROSTER_CPU=scalar\n"));
    assert_non_null(strstr(env, "ROSTER_FAILPOINTS=node.reply=fail\n"));
    assert_non_null(strstr(env, "ROSTERS=kept\n"));
    assert_non_null(strstr(env, "PATH="));
    rig_fini(&r);
}

static void a_rack_without_nodes_is_a_coordinator(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    r.config.nodes = 0;
    assert_int_equal(rig_open(&r), 0);
    assert_int_equal(local_rack_n_children(r.rack), 1);
    rig_fini(&r);
}

static void settings_that_contradict_are_refused(void **state) {
    const char *spec = "*:0";
    const struct {
        local_rack_config config;
        const char *names;
    } cases[] = {
        {{.nodes = 2, .replicas = 3}, "--replicas"},
        {{.nodes = 2, .replicas = 0}, "--replicas"},
        {{.nodes = 2, .replicas = 1, .experts = {&spec, 1}}, "--experts"},
        {{.nodes = 0, .replicas = 1, .no_local_experts = true},
         "--no-local-experts"},
        {{.nodes = 1, .replicas = 1, .kv = "q4_0"}, "--kv"},
        {{.nodes = 9999, .replicas = 1}, "--nodes"},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char why[512] = "";
        assert_int_equal(local_rack_check(&cases[i].config, why, sizeof(why)),
                         ERR_USAGE);
        assert_non_null(strstr(why, cases[i].names));
    }
}

/* ---- what goes wrong at the start ---- */

static void an_early_death_is_told_with_its_last_words(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE,
                  "echo loading >&2; echo 'model.gguf: no such file' >&2\n"
                  "exit 3");
    assert_int_equal(rig_open(&r), ERR_CLOSED);
    assert_non_null(strstr(r.why, "node-1 ended with status 3: model.gguf: "
                                  "no such file"));
    rig_fini(&r);
}

static void a_failing_coordinator_takes_the_nodes_along(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, COORDINATOR, "kill -SEGV $$");
    assert_int_equal(rig_open(&r), ERR_CLOSED);
    assert_non_null(strstr(r.why, "coordinator was killed by signal 11"));
    rig_fini(&r);
}

static void a_daemon_that_never_gets_ready_has_a_deadline(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE, "exec sleep 1000");
    r.config.start_timeout_ms = 100;
    assert_int_equal(rig_open(&r), ERR_DEADLINE);
    assert_non_null(strstr(r.why, "node-1"));
    rig_fini(&r);
}

static void anything_but_ready_is_refused(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE, "echo hello\nexec sleep 1000");
    assert_int_equal(rig_open(&r), ERR_MALFORMED);
    assert_non_null(strstr(r.why, "'hello'"));
    rig_fini(&r);
}

static void a_missing_program_is_named(void **state) {
    rig r;
    char path[128];
    (void)state;

    rig_init(&r);
    snprintf(path, sizeof(path), "%s/%s", r.folder, COORDINATOR);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rig_open(&r), -ENOENT);
    assert_non_null(strstr(r.why, COORDINATOR));
    rig_fini(&r);
}

static void a_signal_ends_the_wait_for_a_slow_start(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE, "exec sleep 1000");
    int stop = eventfd(1, EFD_CLOEXEC);
    assert_true(stop >= 0);
    assert_int_equal(
        local_rack_open(&r.rack, &r.config, stop, r.why, sizeof(r.why)),
        ERR_CANCELLED);
    close(stop);
    rig_fini(&r);
}

/* ---- what goes wrong later ---- */

static void tells_which_process_has_ended(void **state) {
    rig r;
    char how[512];
    (void)state;

    rig_init(&r);
    assert_int_equal(rig_open(&r), 0);
    local_rack_explain(r.rack, how, sizeof(how));
    assert_string_equal(how, "");

    child *node = local_rack_child(r.rack, 1);
    assert_int_equal(kill(child_pid(node), SIGKILL), 0);
    struct pollfd fd = {.fd = child_fd(node), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 10000), 1);
    local_rack_explain(r.rack, how, sizeof(how));
    assert_non_null(strstr(how, "node-2 was killed by signal 9"));
    rig_fini(&r);
}

static void a_flood_of_output_does_not_block(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE,
                  "yes 'many words' | head -c 1000000 >&2\n"
                  "echo; echo last >&2\n"
                  "echo ready tcp://127.0.0.1:1\n"
                  "exit 1");
    r.config.nodes = 1;
    /* The empty line came first. */
    assert_int_equal(rig_open(&r), ERR_MALFORMED);
    rig_fini(&r);
}

static void kills_what_does_not_end_and_what_it_started(void **state) {
    rig r;
    (void)state;

    rig_init(&r);
    write_program(&r, NODE,
                  "trap '' TERM\n"
                  "sh -c 'trap \"\" TERM; echo $$ >> $0/pids; sleep 1000' "
                  "\"$(dirname \"$0\")\" &\n"
                  "echo ready tcp://127.0.0.1:$$\n"
                  "while :; do sleep 1; done");
    r.config.nodes = 1;
    assert_int_equal(rig_open(&r), 0);
    rig_fini(&r); /* asserts that none of them runs */
}

/* In a process of its own: start a rack, report, and hang. */
static void hold_a_rack(rig *r, int report) {
    int rc = rig_open(r);
    ssize_t n = write(report, rc == 0 ? "y" : "n", 1);
    (void)n;
    for (;;)
        pause();
}

static void a_kill_of_the_parent_leaves_nothing(void **state) {
    rig r;
    int report[2];
    char answer = '?';
    (void)state;

    rig_init(&r);
    assert_int_equal(pipe2(report, O_CLOEXEC), 0);
    pid_t holder = fork();
    assert_true(holder >= 0);
    if (holder == 0) hold_a_rack(&r, report[1]);
    assert_int_equal(read(report[0], &answer, 1), 1);
    assert_int_equal(answer, 'y');
    assert_int_equal(kill(holder, SIGKILL), 0);
    assert_int_equal(waitpid(holder, NULL, 0), holder);
    close(report[0]);
    close(report[1]);
    rig_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_nodes_and_tells_the_coordinator_where),
        cmocka_unit_test(passes_on_what_each_node_holds),
        cmocka_unit_test(keeps_daemon_settings_of_the_environment_away),
        cmocka_unit_test(a_rack_without_nodes_is_a_coordinator),
        cmocka_unit_test(settings_that_contradict_are_refused),
        cmocka_unit_test(an_early_death_is_told_with_its_last_words),
        cmocka_unit_test(a_failing_coordinator_takes_the_nodes_along),
        cmocka_unit_test(a_daemon_that_never_gets_ready_has_a_deadline),
        cmocka_unit_test(anything_but_ready_is_refused),
        cmocka_unit_test(a_missing_program_is_named),
        cmocka_unit_test(a_signal_ends_the_wait_for_a_slow_start),
        cmocka_unit_test(tells_which_process_has_ended),
        cmocka_unit_test(a_flood_of_output_does_not_block),
        cmocka_unit_test(kills_what_does_not_end_and_what_it_started),
        cmocka_unit_test(a_kill_of_the_parent_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
