/* test_etcd_upkeep.c - libetcd's way out of an etcd whose quota is used up. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "discovery/libetcd/etcd_build.h"
#include "discovery/libetcd/etcd_parse.h"
#include "tests/support/etcd_pair.h"
#include "tests/support/etcd_words.h"

#define ALARM "/v3/maintenance/alarm"
#define DEFRAGMENT "/v3/maintenance/defragment"
#define COMPACT "/v3/kv/compaction"
#define FULL                                                                   \
    "{\"error\":\"etcdserver: mvcc: database space exceeded\",\"code\":8}"

typedef struct {
    bool done;
    etcd_code code;
    uint64_t members[8];
    size_t n;
} seen;

static void on_done(void *ctx, const etcd_answer *a) {
    seen *s = ctx;
    s->done = true;
    s->code = a->code;
}

static void on_alarms(void *ctx, const etcd_answer *a, const uint64_t *members,
                      size_t n) {
    seen *s = ctx;
    on_done(ctx, a);
    s->n = n;
    memcpy(s->members, members, n * sizeof(*members));
}

static void open_one(etcd_pair *f) {
    etcd_pair_open(f, &(etcd_config){.n_endpoints = 1});
}

static void says_which_members_have_no_space(void **state) {
    etcd_pair f;
    seen s = {0};
    (void)state;
    open_one(&f);
    etcd_script_say(f.server[0], ALARM, 200,
                    "{\"alarms\":[{\"memberID\":\"18446744073709551615\","
                    "\"alarm\":\"NOSPACE\"},{\"memberID\":\"5\",\"alarm\":"
                    "\"CORRUPT\"}]}");
    assert_int_equal(etcd_no_space_alarms(f.sync.etcd, on_alarms, &s), 0);
    etcd_sync_until(&f.sync, &s.done);
    assert_int_equal(s.code, ETCD_OK);
    assert_int_equal(s.n, 1);
    assert_true(s.members[0] == UINT64_MAX);
    assert_string_equal(etcd_script_body(f.server[0], ALARM),
                        "{\"action\":\"GET\"}");
    etcd_pair_close(&f);
}

static void reads_alarms_with_care(void **state) {
    static const struct {
        const char *text;
        int rc;
        size_t n;
    } cases[] = {
        {"{}", 0, 0},
        {"{\"alarms\":[]}", 0, 0},
        {"{\"alarms\":[{\"memberID\":\"1\",\"alarm\":\"NOSPACE\"}]}", 0, 1},
        {"{\"alarms\":[{\"alarm\":\"NOSPACE\"}]}", -EINVAL, 0},
        {"{\"alarms\":[{\"memberID\":\"0\",\"alarm\":\"NOSPACE\"}]}", -EINVAL,
         0},
        {"{\"alarms\":[7]}", -EINVAL, 0},
        {"{\"alarms\":{}}", -EINVAL, 0},
        {"[]", -EINVAL, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t members[ETCD_ALARMS_MAX];
        size_t n = 9;
        etcd_why why;
        int rc = etcd_parse_alarms(cases[i].text, strlen(cases[i].text),
                                   members, &n, &why);
        assert_int_equal(rc, cases[i].rc);
        assert_int_equal(n, cases[i].n);
    }
}

/* Without the member etcd would answer as if all were well, and do nothing. */
static void disarms_one_member(void **state) {
    etcd_pair f;
    seen s = {0};
    (void)state;
    open_one(&f);
    assert_int_equal(etcd_disarm(f.sync.etcd, 0, on_done, &s), -EINVAL);
    etcd_script_say(f.server[0], ALARM, 200, "{}");
    assert_int_equal(etcd_disarm(f.sync.etcd, UINT64_MAX, on_done, &s), 0);
    etcd_sync_until(&f.sync, &s.done);
    assert_int_equal(s.code, ETCD_OK);
    assert_string_equal(
        etcd_script_body(f.server[0], ALARM),
        "{\"action\":\"DEACTIVATE\",\"memberID\":\"18446744073709551615\","
        "\"alarm\":\"NOSPACE\"}");
    etcd_pair_close(&f);
}

static void defragments_the_endpoint_that_is_named(void **state) {
    etcd_pair f;
    seen s = {0};
    (void)state;
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 2});
    assert_int_equal(etcd_endpoints(f.sync.etcd), 2);
    assert_int_equal(etcd_defragment(f.sync.etcd, 2, on_done, &s), -EINVAL);
    etcd_script_say(f.server[1], DEFRAGMENT, 200, "{}");
    assert_int_equal(etcd_defragment(f.sync.etcd, 1, on_done, &s), 0);
    etcd_sync_until(&f.sync, &s.done);
    assert_int_equal(s.code, ETCD_OK);
    assert_int_equal(etcd_script_asked(f.server[0], DEFRAGMENT), 0);
    etcd_pair_close(&f);
}

/* Another member's success is not this one's. */
static void asks_no_other_endpoint_to_defragment(void **state) {
    etcd_pair f;
    seen s = {0};
    (void)state;
    etcd_pair_open(&f, &(etcd_config){.n_endpoints = 2});
    etcd_script_say(f.server[0], DEFRAGMENT, 503,
                    "{\"error\":\"etcdserver: no leader\",\"code\":14}");
    etcd_script_say(f.server[1], DEFRAGMENT, 200, "{}");
    assert_int_equal(etcd_defragment(f.sync.etcd, 0, on_done, &s), 0);
    etcd_sync_until(&f.sync, &s.done);
    assert_int_not_equal(s.code, ETCD_OK);
    assert_int_equal(etcd_script_asked(f.server[1], DEFRAGMENT), 0);
    etcd_pair_close(&f);
}

static void waits_for_a_compaction_that_is_to_be_done(void **state) {
    etcd_pair f;
    seen s = {0};
    (void)state;
    open_one(&f);
    assert_int_equal(etcd_compact_fully(f.sync.etcd, 0, on_done, &s), -EINVAL);
    etcd_script_say(f.server[0], COMPACT, 400,
                    "{\"error\":\"etcdserver: mvcc: required revision has "
                    "been compacted\",\"code\":11}");
    assert_int_equal(etcd_compact_fully(f.sync.etcd, 12, on_done, &s), 0);
    etcd_sync_until(&f.sync, &s.done);
    assert_int_equal(s.code, ETCD_OK);
    assert_string_equal(etcd_script_body(f.server[0], COMPACT),
                        "{\"revision\":\"12\",\"physical\":true}");
    etcd_pair_close(&f);
}

static void knows_that_there_is_no_space_for_a_lease(void **state) {
    etcd_pair f;
    (void)state;
    open_one(&f);
    etcd_script_say(f.server[0], GRANT, 429, FULL);
    etcd_sync_grant(&f.sync, 5);
    etcd_sync_expect(&f.sync, ETCD_NO_SPACE);
    assert_string_equal(etcd_code_text(ETCD_NO_SPACE), "etcd is out of space");
    etcd_pair_close(&f);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_which_members_have_no_space),
        cmocka_unit_test(reads_alarms_with_care),
        cmocka_unit_test(disarms_one_member),
        cmocka_unit_test(defragments_the_endpoint_that_is_named),
        cmocka_unit_test(asks_no_other_endpoint_to_defragment),
        cmocka_unit_test(waits_for_a_compaction_that_is_to_be_done),
        cmocka_unit_test(knows_that_there_is_no_space_for_a_lease),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
