/* test_records.c - documents of etcd: what is written is read back, and what
 * cannot be right is refused with the member's name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/records.h"
#include "engine/err.h"
#include "engine/util.h"

static const record_profile sample_profile = {
    .version = 1, .activation = "a8", .rows = "f32"};

static node_record sample_node(void) {
    node_record r = {.boot = 0xfedcba9876543210,
                     .control = "tcp://10.0.0.7:7000",
                     .memory_bytes = (uint64_t)1 << 40,
                     .zone = "rack 2",
                     .cpu = "avx512",
                     .version = "0.1.0",
                     .threads = 64,
                     .protocol = 1,
                     .has_model = true,
                     .profile = sample_profile};
    for (int i = 0; i < RECORD_MODEL; i++)
        r.model[i] = (uint8_t)(i * 9);
    return r;
}

static epoch_record sample_epoch(void) {
    static char nodes[3][RECORD_NAME] = {"one", "", "two"};
    epoch_record r = {.incarnation = 2,
                      .epoch = 12,
                      .n_layers = 61,
                      .n_experts = 256,
                      .slices = 4,
                      .min_replicas = 2,
                      .nodes = nodes,
                      .n_nodes = 3,
                      .writer = "coordinator",
                      .term = 77};
    memset(r.model, 0xab, sizeof(r.model));
    return r;
}

/* `text` with the first `from` replaced by `to`; malloc'ed, frees text. */
static char *edited(char *text, const char *from, const char *to) {
    char *at = strstr(text, from);
    assert_non_null(at);
    size_t bytes = strlen(text) + strlen(to) + 1;
    char *out = malloc(bytes);
    assert_non_null(out);
    snprintf(out, bytes, "%.*s%s%s", (int)(at - text), text, to,
             at + strlen(from));
    free(text);
    return out;
}

static void reads_back_a_node(void **state) {
    node_record r = sample_node(), back;
    char *text = node_record_pack(&r), why[160] = "";
    (void)state;
    assert_non_null(text);
    assert_int_equal(
        node_record_unpack(&back, text, strlen(text), why, sizeof(why)), 0);
    assert_true(back.boot == r.boot);
    assert_string_equal(back.control, r.control);
    assert_true(back.memory_bytes == r.memory_bytes);
    assert_string_equal(back.zone, r.zone);
    assert_string_equal(back.cpu, r.cpu);
    assert_string_equal(back.version, r.version);
    assert_int_equal(back.threads, 64);
    assert_int_equal(back.protocol, 1);
    assert_true(back.has_model);
    assert_memory_equal(back.model, r.model, RECORD_MODEL);
    assert_memory_equal(&back.profile, &r.profile, sizeof(r.profile));
    free(text);

    r.has_model = false;
    text = node_record_pack(&r);
    assert_non_null(strstr(text, "\"model\":\"\""));
    assert_int_equal(node_record_unpack(&back, text, strlen(text), NULL, 0), 0);
    assert_false(back.has_model);
    free(text);
}

static void reads_back_a_coordinator(void **state) {
    coordinator_record r = {.boot = 3,
                            .client = "tcp://[::1]:7100",
                            .weights = "tcp://host-1:7101",
                            .http = "http://10.0.0.1:8080",
                            .version = "0.1.0",
                            .protocol = 1,
                            .has_model = true,
                            .profile = sample_profile,
                            .incarnation = 2,
                            .epoch = ((uint64_t)1 << EPOCH_BITS) - 1,
                            .placement = UINT64_MAX},
                       back;
    (void)state;
    strcpy(r.profile.blas, "haswell");
    char *text = coordinator_record_pack(&r);
    assert_int_equal(
        coordinator_record_unpack(&back, text, strlen(text), NULL, 0), 0);
    assert_string_equal(back.client, r.client);
    assert_string_equal(back.weights, r.weights);
    assert_string_equal(back.http, r.http);
    assert_string_equal(back.profile.blas, "haswell");
    assert_true(back.has_model);
    assert_true(back.incarnation == r.incarnation && back.epoch == r.epoch);
    assert_true(back.placement == r.placement);
    free(text);
}

static void reads_back_leader_ready_and_drain(void **state) {
    leader_record leader = {.name = "a", .boot = 5}, leader_back;
    ready_record ready = {.boot = 6,
                          .incarnation = 1,
                          .epoch = 12,
                          .digest = UINT64_MAX,
                          .bytes = (uint64_t)1 << 41,
                          .units = 100,
                          .waiting = 2},
                 ready_back;
    drain_record drain = {.by = "root@host", .at = "2026-01-02T03:04:05Z"},
                 drain_back;
    (void)state;
    char *text = leader_record_pack(&leader);
    assert_int_equal(
        leader_record_unpack(&leader_back, text, strlen(text), NULL, 0), 0);
    assert_memory_equal(&leader_back, &leader, sizeof(leader));
    free(text);
    text = ready_record_pack(&ready);
    assert_int_equal(
        ready_record_unpack(&ready_back, text, strlen(text), NULL, 0), 0);
    assert_true(ready_back.digest == UINT64_MAX);
    assert_true(ready_back.bytes == ready.bytes);
    assert_int_equal(ready_back.units, 100);
    assert_int_equal(ready_back.waiting, 2);
    free(text);
    text = drain_record_pack(&drain);
    assert_int_equal(
        drain_record_unpack(&drain_back, text, strlen(text), NULL, 0), 0);
    assert_string_equal(drain_back.by, drain.by);
    assert_string_equal(drain_back.at, drain.at);
    free(text);
}

static void reads_back_what_was_recovered(void **state) {
    recovered_record r = {.by = "root@host",
                          .was = "1.12",
                          .became = "2.1",
                          .writer = "c1"},
                     back;
    char key[RECORD_KEY], name[RECORD_NAME];
    uint32_t layer;
    (void)state;
    record_time(r.at);
    assert_int_equal(strlen(r.at), strlen("2026-01-02T03:04:05Z"));
    char *text = recovered_record_pack(&r);
    assert_int_equal(
        recovered_record_unpack(&back, text, strlen(text), NULL, 0), 0);
    assert_memory_equal(&back, &r, sizeof(r));
    free(text);
    record_key("rack", RECORD_RECOVERED, "2", 0, key);
    assert_string_equal(key, "/roster/rack/recovered/2");
    const char *rest = strstr(key, "recovered");
    assert_int_equal(record_parse_key(rest, strlen(rest), name, &layer),
                     RECORD_RECOVERED);
    assert_string_equal(name, "2");
}

static void reads_back_an_epoch_with_a_free_place(void **state) {
    epoch_record r = sample_epoch(), back;
    char *text = epoch_record_pack(&r);
    (void)state;
    assert_int_equal(epoch_record_unpack(&back, text, strlen(text), NULL, 0),
                     0);
    assert_true(epoch_pack(back.incarnation, back.epoch) ==
                ((uint64_t)2 << 40 | 12));
    assert_int_equal(back.n_nodes, 3);
    assert_string_equal(back.nodes[0], "one");
    assert_string_equal(back.nodes[1], "");
    assert_string_equal(back.nodes[2], "two");
    assert_string_equal(back.writer, "coordinator");
    assert_true(back.term == 77);
    assert_int_equal(back.slices, 4);
    epoch_record_fini(&back);
    epoch_record_fini(&back);
    epoch_record_fini(NULL);
    free(text);
}

static void passes_over_members_it_does_not_know(void **state) {
    node_record r = sample_node(), back;
    char *text = edited(node_record_pack(&r), "{",
                        "{\"later\":[1,{\"x\":null}],\"exact\":false,");
    (void)state;
    assert_int_equal(node_record_unpack(&back, text, strlen(text), NULL, 0), 0);
    free(text);
}

static void takes_what_may_lack_as_empty(void **state) {
    static const char least[] =
        "{\"boot\":\"0000000000000001\",\"control\":\"tcp://h:1\","
        "\"memory\":0,\"protocol\":1,\"profile\":{\"version\":1,"
        "\"activation\":\"a8\",\"rows\":\"f32\"}}";
    node_record r;
    (void)state;
    assert_int_equal(node_record_unpack(&r, least, strlen(least), NULL, 0), 0);
    assert_string_equal(r.zone, "");
    assert_int_equal(r.threads, 0);
    assert_false(r.has_model);
}

/* Each edit makes one member wrong; the sentence names it. */
static void refuses_a_node_and_names_the_member(void **state) {
    static const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"\"boot\":\"fedcba9876543210\",", "", "boot"},
        {"fedcba9876543210", "fedcba987654321", "boot"},
        {"fedcba9876543210", "fedcba98765432zz", "boot"},
        {"fedcba9876543210", "0000000000000000", "boot"},
        {"tcp://10.0.0.7:7000", "ipc:///etc/x", "control"},
        {"tcp://10.0.0.7:7000", "tcp://*:7000", "control"},
        {"tcp://10.0.0.7:7000", "tcp://10.0.0.7:*", "control"},
        {"tcp://10.0.0.7:7000", "10.0.0.7:7000", "control"},
        {"tcp://10.0.0.7:7000", "", "control"},
        {"1099511627776", "-1", "memory"},
        {"1099511627776", "1.5", "memory"},
        {"1099511627776", "\"1\"", "memory"},
        {"\"threads\":64", "\"threads\":65537", "threads"},
        {"rack 2", "rack\\n2", "zone"},
        {"rack 2",
         "r\xc3\xa4"
         "ck",
         "zone"},
        {"\"zone\":\"rack 2\"", "\"zone\":7", "zone"},
        {"\"cpu\":\"avx512\"",
         "\"cpu\":\"0123456789012345678901234567890123456789\"", "cpu"},
        {"\"model\":\"0009", "\"model\":\"00", "model"},
        {"\"model\":\"0009", "\"model\":\"zz09", "model"},
        {"\"activation\":\"a8\"", "\"activation\":\"\"", "profile.activation"},
        {"\"activation\":\"a8\"",
         "\"activation\":\"aaaaaaaaaaaaaaaaaaaaaaaaaa\"", "profile.activation"},
        {"\"profile\":{", "\"profiles\":{", "profile.version"},
        {"\"protocol\":1", "\"protocol\":0", "protocol"},
        {"\"protocol\":1", "\"protocol\":4294967296", "protocol"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        node_record r = sample_node(), back;
        char *text = edited(node_record_pack(&r), cases[i].from, cases[i].to);
        char why[160] = "";
        int rc =
            node_record_unpack(&back, text, strlen(text), why, sizeof(why));
        if (rc != ERR_FORMAT || strstr(why, cases[i].named) == NULL) {
            fail_msg("%s -> %s: %d, %s", cases[i].from, cases[i].to, rc, why);
        }
        free(text);
    }
}

static void refuses_an_epoch_and_names_the_member(void **state) {
    static const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"\"incarnation\":2", "\"incarnation\":16777216", "incarnation"},
        {"\"epoch\":12", "\"epoch\":0", "epoch"},
        {"\"epoch\":12", "\"epoch\":1099511627776", "epoch"},
        {"\"n_layers\":61", "\"n_layers\":0", "n_layers"},
        {"\"n_layers\":61", "\"n_layers\":1025", "n_layers"},
        {"\"n_experts\":256", "\"n_experts\":65537", "n_experts"},
        {"\"slices\":4", "\"slices\":3", "slices"},
        {"\"slices\":4", "\"slices\":16", "slices"},
        {"\"min_replicas\":2", "\"min_replicas\":0", "min_replicas"},
        {"\"min_replicas\":2", "\"min_replicas\":65", "min_replicas"},
        {"\"term\":77", "\"term\":-1", "term"},
        {"\"writer\":\"coordinator\"", "\"writer\":\"a/b\"", "writer"},
        {"\"writer\":\"coordinator\"", "\"writer\":\"\"", "writer"},
        {"\"two\"", "\"one\"", "twice"},
        {"\"two\"", "\"t/wo\"", "node 2"},
        {"\"two\"", "2", "node 2"},
        {"[\"one\",\"\",\"two\"]", "{}", "nodes"},
        {"\"nodes\"", "\"knots\"", "nodes"},
        {"\"abab", "\"ab", "model"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        epoch_record r = sample_epoch(), back;
        char *text = edited(epoch_record_pack(&r), cases[i].from, cases[i].to);
        char why[160] = "";
        int rc =
            epoch_record_unpack(&back, text, strlen(text), why, sizeof(why));
        if (rc != ERR_FORMAT || strstr(why, cases[i].named) == NULL) {
            fail_msg("%s -> %s: %d, %s", cases[i].from, cases[i].to, rc, why);
        }
        assert_null(back.nodes);
        free(text);
    }
}

static void refuses_more_nodes_than_the_limit(void **state) {
    char(*nodes)[RECORD_NAME] = calloc(RECORD_NODES_MAX + 1, sizeof(*nodes));
    epoch_record r = sample_epoch(), back;
    (void)state;
    assert_non_null(nodes);
    for (int i = 0; i <= RECORD_NODES_MAX; i++) {
        snprintf(nodes[i], sizeof(nodes[i]), "node-%d", i);
    }
    r.nodes = nodes;
    r.n_nodes = RECORD_NODES_MAX;
    char *text = epoch_record_pack(&r);
    assert_int_equal(epoch_record_unpack(&back, text, strlen(text), NULL, 0),
                     0);
    epoch_record_fini(&back);
    free(text);
    r.n_nodes++;
    text = epoch_record_pack(&r);
    assert_int_equal(epoch_record_unpack(&back, text, strlen(text), NULL, 0),
                     ERR_FORMAT);
    free(text);
    free(nodes);
}

static void refuses_bytes_that_are_no_document(void **state) {
    static const char *const texts[] = {
        "",
        "null",
        "[]",
        "{",
        "\xff",
        "{}x",
        "{\"boot\":}",
        "\"text\"",
        "{\"by\":\"a\",\"by\":\"b\"}",
        "{\"by\":\"a\\u0000b\"}",
        "{\"by\":\"\xc3\"}",
        "{\"by\":\"\\ud800\"}",
    };
    drain_record r;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char why[160] = "";
        assert_int_equal(drain_record_unpack(&r, texts[i], strlen(texts[i]),
                                             why, sizeof(why)),
                         ERR_FORMAT);
        assert_true(why[0] != '\0');
    }
    assert_int_equal(drain_record_unpack(&r, NULL, 0, NULL, 0), ERR_FORMAT);
    assert_int_equal(drain_record_unpack(&r, "{}\0", 3, NULL, 0), ERR_FORMAT);
    assert_int_equal(drain_record_unpack(&r, "{}", 2, NULL, 0), 0);
}

static void refuses_documents_above_the_limit_and_deep_ones(void **state) {
    size_t bytes = RECORD_BYTES_MAX + 1;
    char *text = malloc(bytes);
    drain_record r;
    (void)state;
    assert_non_null(text);
    memset(text, ' ', bytes);
    text[0] = '{';
    text[1] = '}';
    assert_int_equal(drain_record_unpack(&r, text, bytes, NULL, 0), ERR_FORMAT);
    assert_int_equal(drain_record_unpack(&r, text, bytes - 1, NULL, 0), 0);
    memset(text, '[', bytes);
    assert_int_equal(drain_record_unpack(&r, text, bytes - 1, NULL, 0),
                     ERR_FORMAT);
    free(text);
}

static void knows_names(void **state) {
    char longest[RECORD_NAME + 1];
    (void)state;
    memset(longest, 'x', sizeof(longest));
    longest[RECORD_NAME] = '\0';
    assert_false(record_is_name(longest));
    longest[RECORD_NAME - 1] = '\0';
    assert_true(record_is_name(longest));
    assert_true(record_is_name("node 1"));
    assert_false(record_is_name(""));
    assert_false(record_is_name("a/b"));
    assert_false(record_is_name("a\nb"));
    assert_false(record_is_name("\xc3\xa4"));
}

static void makes_keys_and_reads_them_back(void **state) {
    static const struct {
        record_kind kind;
        const char *name;
        uint32_t layer;
        const char *key;
    } cases[] = {
        {RECORD_NODE, "one", 0, "/roster/c 1/nodes/one"},
        {RECORD_COORDINATOR, "a", 0, "/roster/c 1/coordinators/a"},
        {RECORD_LEADER, "", 0, "/roster/c 1/leader"},
        {RECORD_EPOCH, "", 0, "/roster/c 1/placement/epoch"},
        {RECORD_LAYER, "", 60, "/roster/c 1/placement/layer/60"},
        {RECORD_READY, "one", 0, "/roster/c 1/ready/one"},
        {RECORD_DRAIN, "one", 0, "/roster/c 1/drain/one"},
    };
    char key[RECORD_KEY], name[RECORD_NAME];
    uint32_t layer;
    (void)state;
    size_t prefix = record_prefix("c 1", key);
    assert_string_equal(key, "/roster/c 1/");
    assert_int_equal(prefix, strlen(key));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        record_key("c 1", cases[i].kind, cases[i].name, cases[i].layer, key);
        assert_string_equal(key, cases[i].key);
        assert_int_equal(
            record_parse_key(key + prefix, strlen(key) - prefix, name, &layer),
            cases[i].kind);
        assert_string_equal(name, cases[i].name);
        assert_int_equal(layer, cases[i].layer);
    }
}

static void takes_other_keys_for_nobodys(void **state) {
    static const char *const keys[] = {
        "",
        "nodes/",
        "nodes/a/b",
        "nodes",
        "nodes/a\nb",
        "leader/x",
        "leade",
        "placement/layer/",
        "placement/layer/01",
        "placement/layer/-1",
        "placement/layer/1x",
        "placement/layer/1024",
        "placement/layer/99999999999",
        "placement/epoch2",
        "audit/5",
    };
    char name[RECORD_NAME];
    uint32_t layer;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        assert_int_equal(
            record_parse_key(keys[i], strlen(keys[i]), name, &layer),
            RECORD_KINDS);
    }
    assert_int_equal(record_parse_key("leader\0x", 8, name, &layer),
                     RECORD_KINDS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_a_node),
        cmocka_unit_test(reads_back_a_coordinator),
        cmocka_unit_test(reads_back_leader_ready_and_drain),
        cmocka_unit_test(reads_back_what_was_recovered),
        cmocka_unit_test(reads_back_an_epoch_with_a_free_place),
        cmocka_unit_test(passes_over_members_it_does_not_know),
        cmocka_unit_test(takes_what_may_lack_as_empty),
        cmocka_unit_test(refuses_a_node_and_names_the_member),
        cmocka_unit_test(refuses_an_epoch_and_names_the_member),
        cmocka_unit_test(refuses_more_nodes_than_the_limit),
        cmocka_unit_test(refuses_bytes_that_are_no_document),
        cmocka_unit_test(refuses_documents_above_the_limit_and_deep_ones),
        cmocka_unit_test(knows_names),
        cmocka_unit_test(makes_keys_and_reads_them_back),
        cmocka_unit_test(takes_other_keys_for_nobodys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
