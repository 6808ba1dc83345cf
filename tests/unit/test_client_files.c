/* test_client_files.c - what the `roster` command reads and writes: id lists,
 * output files, routing as JSON, token ids, the table of a status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/routing.h"
#include "client/status_table.h"
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/vocab_gen.h"

/* ---- lists of ids ---- */

static void reads_ids_between_commas_and_white_space(void **state) {
    static const char text[] = " 1,2\n30 ,, 4294967294\t";
    uint32_t *ids;
    size_t n;
    (void)state;

    assert_int_equal(cli_parse_ids(text, strlen(text), &ids, &n, NULL, 0), 0);
    assert_int_equal(n, 4);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[2], 30);
    assert_int_equal(ids[3], 4294967294u);
    free(ids);
    assert_int_equal(cli_parse_ids("", 0, &ids, &n, NULL, 0), 0);
    assert_int_equal(n, 0);
    free(ids);
}

static void names_the_word_that_is_no_id(void **state) {
    static const char *const bad[] = {"1,-2", "1,2x", "1,0x2", "1,4294967295",
                                      "1,99999999999999999999999"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint32_t *ids = NULL;
        size_t n;
        char why[CLI_WHY] = "";
        assert_int_equal(
            cli_parse_ids(bad[i], strlen(bad[i]), &ids, &n, why, sizeof(why)),
            ERR_USAGE);
        assert_null(ids);
        assert_non_null(strstr(why, "(number 2 of the list)"));
    }
}

static void a_missing_file_of_ids_is_named(void **state) {
    uint32_t *ids;
    size_t n;
    char why[CLI_WHY] = "";
    (void)state;

    assert_int_equal(
        cli_parse_ids_arg("@/nonexistent/ids", &ids, &n, why, sizeof(why)),
        -ENOENT);
    assert_non_null(strstr(why, "/nonexistent/ids"));
}

static void byte_counts_are_short(void **state) {
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {999, "999 B"},
                 {1500, "1.5 kB"},
                 {999999, "1.0 MB"},
                 {22300000, "22.3 MB"}};
    char text[32];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cli_format_bytes(cases[i].bytes, text, sizeof(text));
        assert_string_equal(text, cases[i].text);
    }
}

/* ---- output files ---- */

typedef struct {
    char folder[64], path[128];
} place;

static void place_init(place *p) {
    snprintf(p->folder, sizeof(p->folder), "/tmp/roster-test-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    snprintf(p->path, sizeof(p->path), "%s/out", p->folder);
}

/* Fails if a temporary file was left. */
static void place_fini(place *p) {
    (void)unlink(p->path);
    assert_int_equal(rmdir(p->folder), 0);
}

static void an_output_appears_when_it_is_complete(void **state) {
    place p;
    output o;
    struct stat st;
    (void)state;

    place_init(&p);
    assert_int_equal(output_open(&o, p.path, NULL, 0), 0);
    assert_true(fputs("whole", o.file) >= 0);
    assert_int_equal(stat(p.path, &st), -1);
    assert_int_equal(output_commit(&o, NULL, 0), 0);
    assert_int_equal(stat(p.path, &st), 0);
    assert_int_equal(st.st_size, 5);
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(st.st_mode & 0777, 0666 & ~mask);
    place_fini(&p);
}

static void a_discarded_output_leaves_the_old_file(void **state) {
    place p;
    output o;
    struct stat st;
    (void)state;

    place_init(&p);
    assert_int_equal(output_open(&o, p.path, NULL, 0), 0);
    assert_true(fputs("old", o.file) >= 0);
    assert_int_equal(output_commit(&o, NULL, 0), 0);
    assert_int_equal(output_open(&o, p.path, NULL, 0), 0);
    assert_true(fputs("something new", o.file) >= 0);
    output_discard(&o);
    assert_int_equal(stat(p.path, &st), 0);
    assert_int_equal(st.st_size, 3);
    place_fini(&p);
}

static void a_device_is_written_in_place(void **state) {
    output o;
    struct stat st;
    char why[CLI_WHY] = "";
    (void)state;

    assert_int_equal(output_open(&o, "/dev/full", why, sizeof(why)), 0);
    assert_true(fputs("x", o.file) >= 0);
    assert_int_equal(output_commit(&o, why, sizeof(why)), -ENOSPC);
    assert_non_null(strstr(why, "/dev/full"));
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

static void a_folder_that_is_not_there_is_told(void **state) {
    output o;
    char why[CLI_WHY] = "";
    (void)state;

    assert_int_equal(output_open(&o, "/nonexistent/out", why, sizeof(why)),
                     -ENOENT);
    assert_non_null(strstr(why, "/nonexistent/out"));
    output_discard(&o);
}

/* ---- routing ---- */

static roster_rows piece(uint32_t first, uint32_t n_rows,
                         const uint32_t *experts, const float *weights) {
    static const uint32_t layers[] = {1, 4};
    return (roster_rows){
        .first = first,
        .n_rows = n_rows,
        .n_moe_layers = 2,
        .k = 2,
        .moe_layers = layers,
        .experts = experts,
        .weights = weights,
    };
}

static char *written(const routing *r, int *rc) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    assert_non_null(f);
    *rc = routing_write(r, f, NULL, 0);
    fclose(f);
    return text;
}

static void routing_pieces_become_lists_per_layer(void **state) {
    static const uint32_t first[] = {2, 1, 3, 0, 5, 4, 6, 7};
    static const uint32_t last[] = {0, 3, 4, 6};
    static const float weights[] = {0.5f, 0.5f, 0.75f, 0.25f,
                                    0.1f, 0.9f, 1.0f,  0.0f};
    routing r = {0};
    int rc;
    (void)state;

    roster_rows rows = piece(0, 2, first, weights);
    assert_int_equal(routing_add(&r, 3, &rows, NULL, 0), 0);
    rows = piece(2, 1, last, weights);
    assert_int_equal(routing_add(&r, 3, &rows, NULL, 0), 0);
    char *text = written(&r, &rc);
    assert_int_equal(rc, 0);
    assert_string_equal(
        text, "[{\"layer\":1,\"topk\":[[2,1],[3,0],[0,3]],\"weights\":[[0.5,"
              "0.5],[0.75,0.25],[0.5,0.5]]},\n"
              "{\"layer\":4,\"topk\":[[5,4],[6,7],[4,6]],\"weights\":["
              "[0.100000001,0.899999976],[1,0],[0.75,0.25]]}]\n");
    free(text);
    routing_fini(&r);
}

static void
routing_refuses_another_shape_and_what_json_cannot_say(void **state) {
    static const uint32_t experts[4] = {0};
    const float weights[4] = {0.5f, NAN, 0.5f, 0.5f};
    routing r = {0};
    int rc;
    (void)state;

    roster_rows rows = piece(0, 1, experts, weights);
    assert_int_equal(routing_add(&r, 2, &rows, NULL, 0), 0);
    rows.first = 1;
    rows.k = 1;
    assert_int_equal(routing_add(&r, 2, &rows, NULL, 0), ERR_MALFORMED);
    free(written(&r, &rc));
    assert_int_equal(rc, ERR_RANGE);
    routing_fini(&r);
}

/* ---- tokenize ---- */

/* Run `roster tokenize MODEL < input > to` in a child. */
static int run_tokenize(const char *model, const char *input, const char *to) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char name[] = "tokenize", path[192];
        char *argv[] = {name, path, NULL};
        assert_true(strlen(model) < sizeof(path));
        strcpy(path, model);
        int in = open(input, O_RDONLY);
        int out = open(to, O_WRONLY | O_CREAT, 0600);
        dup2(in, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        _exit(cmd_tokenize(2, argv));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* U+1D160 has four bytes; normalized it is three characters of four. */
static void tokenizes_a_text_that_grows_when_normalized(void **state) {
    enum { NOTES = 100, IDS_OF_ONE = 12 };
    vocab v = vocab_bpe("qwen2");
    char model[192], input[192];
    place p;
    (void)state;

    place_init(&p);
    snprintf(model, sizeof(model), "%s/model", p.folder);
    snprintf(input, sizeof(input), "%s/input", p.folder);
    assert_int_equal(vocab_write(&v, model), 0);
    FILE *f = fopen(input, "w");
    assert_non_null(f);
    for (int i = 0; i < NOTES; i++)
        fputs("\xF0\x9D\x85\xA0", f);
    assert_int_equal(fclose(f), 0);

    assert_int_equal(run_tokenize(model, input, p.path), 0);
    f = fopen(p.path, "r");
    assert_non_null(f);
    int n = 0;
    for (unsigned id; fscanf(f, "%u", &id) == 1;)
        n++;
    fclose(f);
    assert_int_equal(n, NOTES * IDS_OF_ONE);
    unlink(model);
    unlink(input);
    place_fini(&p);
}

/* ---- status ---- */

static char *table(const char *json, int want) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    assert_non_null(f);
    assert_int_equal(status_table_print(f, json, true, NULL, 0), want);
    fclose(f);
    return text;
}

static void a_status_names_nodes_and_their_state(void **state) {
    (void)state;
    char *text = table("{\"model\":\"toy\",\"uptime_s\":3720,"
                       "\"requests\":{\"active\":1,\"queued\":2},"
                       "\"nodes\":[{\"name\":\"node-1\",\"state\":\"lost\","
                       "\"why\":\"no answer\",\"latency_us\":1500}]}",
                       0);
    assert_non_null(strstr(text, "toy"));
    assert_non_null(strstr(text, "1 h 02 min"));
    assert_non_null(strstr(text, "1 active, 2 queued, - done"));
    assert_non_null(strstr(text, "node-1"));
    assert_non_null(strstr(text, "1.5 ms"));
    assert_non_null(strstr(text, "no answer"));
    free(text);
}

static void a_status_tells_of_etcd_and_the_placement(void **state) {
    (void)state;
    char *text = table(
        "{\"leader\":\"c1\",\"min_replicas\":2,"
        "\"etcd\":{\"connected\":true,\"endpoint\":\"http://e:2379\","
        "\"revision\":77},"
        "\"placement\":{\"units\":96,\"single\":3,\"unplaced\":1,\"moving\":5,"
        "\"survives_largest\":false,\"weakest\":\"two\",\"lost_units\":3},"
        "\"coordinators\":[{\"name\":\"c1\",\"client\":\"tcp://h:1\","
        "\"state\":\"up\",\"leader\":true}],"
        "\"nodes\":[{\"name\":\"two\",\"state\":\"up\",\"draining\":true,"
        "\"assigned\":4,\"held\":9,\"why\":\"\"}],"
        "\"layers\":[{\"layer\":3,\"slices\":2,\"units\":32,"
        "\"min_holders\":1,\"max_holders\":2,"
        "\"held\":{\"one\":\"f1\",\"two\":7,\"three\":\"0c\"}}]}",
        0);
    assert_non_null(
        strstr(text, "http://e:2379, revision 77, the leader is c1"));
    assert_non_null(strstr(text,
                           "96 units, 2 replicas wanted: 3 with one holder, "
                           "1 with none, 5 on the move"));
    assert_non_null(
        strstr(text, "3 of the units would have no holder without two"));
    assert_non_null(strstr(text, "leads"));
    assert_non_null(strstr(text, "  draining\n"));
    assert_non_null(strstr(text, "holds 9 units, is to hold 4\n"));
    assert_non_null(strstr(text, "1 to 2"));
    assert_non_null(strstr(text, "one          0.0-2.0\n"));
    assert_non_null(strstr(text, "three        3.0-3.1\n"));
    free(text);

    text = table("{\"etcd\":{\"connected\":false,\"why\":\"refused\","
                 "\"rolled_back\":true},\"frozen\":\"of another model\","
                 "\"placement\":{\"survives_largest\":true}}",
                 0);
    assert_non_null(strstr(text, "away; the last placement stays: refused"));
    assert_non_null(strstr(text, "nothing is changed"));
    assert_non_null(strstr(text, "frozen       of another model\n"));
    assert_non_null(strstr(text, "any one may be lost"));
    free(text);
}

static void a_status_tells_how_evenly_the_nodes_are_used(void **state) {
    (void)state;
    char *text = table(
        "{\"balance\":{\"imbalance\":1.237,\"worst\":2.5,\"worst_layer\":3,"
        "\"predicted\":1.04,\"moves\":{\"moving\":true,\"to_load\":12,"
        "\"to_drop\":5,\"bytes_left\":2500000,\"since_ms\":4100}},"
        "\"nodes\":[{\"name\":\"one\",\"pairs_per_s\":1234.5,"
        "\"busy\":0.456}],"
        "\"layers\":[{\"layer\":3,\"slices\":1,\"units\":32,"
        "\"min_holders\":1,\"max_holders\":2,\"heat\":77.2,"
        "\"imbalance\":2.5,\"hottest\":[[17,0.125],[3,0.09]]}]}",
        0);
    assert_non_null(strstr(text, "imbalance    1.24; the worst layer is 3 with "
                                 "2.50; predicted 1.04\n"));
    assert_non_null(strstr(text, "moves        12 units to load (2.5 MB), 5 to "
                                 "give up, for 4 s\n"));
    assert_non_null(strstr(text, " 1234   46% "));
    assert_non_null(strstr(text, " 77       2.50  17 12%, 3 9%\n"));
    free(text);
    text = table("{\"balance\":{\"imbalance\":null,\"worst\":null}}", 0);
    assert_non_null(strstr(text, "nothing was computed of late"));
    free(text);
}

static void no_line_of_a_status_is_longer_than_a_terminal(void **state) {
    (void)state;
    char *text =
        table("{\"nodes\":[{\"name\":\"node-seventy\",\"state\":\"up\","
              "\"endpoint\":\"tcp://10.100.10.1:7101\",\"experts\":123456,"
              "\"resident_bytes\":123400000000,\"pairs_per_s\":12345678,"
              "\"busy\":1.0,\"latency_us\":12345,\"missing\":true,"
              "\"draining\":true,\"assigned\":123456,\"held\":123455,"
              "\"why\":\"it is away\"}],"
              "\"layers\":[{\"layer\":1000,\"slices\":8,\"units\":32768,"
              "\"min_holders\":1000,\"max_holders\":1024,\"heat\":12345678,"
              "\"imbalance\":100.1,\"hottest\":[[4095,0.5],[4094,0.1],"
              "[4093,0.1],[4092,0.1]]}]}",
              0);
    for (char *line = strtok(text, "\n"); line != NULL;
         line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 100);
    free(text);
}

static void a_status_moves_no_cursor(void **state) {
    (void)state;
    char *text = table("{\"model\":\"\\u001b[2J\","
                       "\"profile\":{\"\\n\":\"\\u009b\"},"
                       "\"nodes\":[{\"name\":\"a\\nb\"}]}",
                       0);
    assert_null(strchr(text, '\x1b'));
    assert_null(strstr(text, "\xC2\x9B"));
    assert_non_null(strstr(text, "?[2J"));
    assert_non_null(strstr(text, "a?b"));
    free(text);
}

static void a_status_may_lack_anything_or_mean_something_else(void **state) {
    static const char *const odd[] = {
        "{}", "{\"nodes\":[{}]}", "{\"nodes\":[1,null]}",
        "{\"nodes\":{},\"profile\":3,\"requests\":[],\"model\":[]}",
        "{\"local_experts\":{\"resident_bytes\":-1},\"coverage\":{}}"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(odd); i++)
        free(table(odd[i], 0));
    free(table("[]", ERR_MALFORMED));
    free(table("{", ERR_MALFORMED));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_ids_between_commas_and_white_space),
        cmocka_unit_test(names_the_word_that_is_no_id),
        cmocka_unit_test(a_missing_file_of_ids_is_named),
        cmocka_unit_test(byte_counts_are_short),
        cmocka_unit_test(an_output_appears_when_it_is_complete),
        cmocka_unit_test(a_discarded_output_leaves_the_old_file),
        cmocka_unit_test(a_device_is_written_in_place),
        cmocka_unit_test(a_folder_that_is_not_there_is_told),
        cmocka_unit_test(routing_pieces_become_lists_per_layer),
        cmocka_unit_test(
            routing_refuses_another_shape_and_what_json_cannot_say),
        cmocka_unit_test(a_status_names_nodes_and_their_state),
        cmocka_unit_test(tokenizes_a_text_that_grows_when_normalized),
        cmocka_unit_test(a_status_tells_of_etcd_and_the_placement),
        cmocka_unit_test(a_status_tells_how_evenly_the_nodes_are_used),
        cmocka_unit_test(no_line_of_a_status_is_longer_than_a_terminal),
        cmocka_unit_test(a_status_moves_no_cursor),
        cmocka_unit_test(a_status_may_lack_anything_or_mean_something_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
