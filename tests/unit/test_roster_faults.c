/* test_roster_faults.c - libroster against a scripted coordinator that refuses,
 * errs, falls silent or goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "engine/err.h"
#include "tests/support/over_tcp.h"
#include "tests/unit/client_rig.h"

/* ---- a coordinator that fails ---- */

static void refuse(peer *p) {
    peer_welcome(p);
    if (peer_take(p, MESSAGE_GENERATE))
        peer_error(p, ERR_OVERLOADED, "8 requests wait already");
}

static void an_error_reply_is_typed_and_told(void **state) {
    rig r;
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, refuse);
    assert_int_equal(generate(&r, NULL, NULL, &g), ROSTER_ERR_OVERLOADED);
    assert_non_null(strstr(roster_client_error(r.client), "8 requests wait"));
    assert_non_null(strstr(roster_generation_error(g), "8 requests wait"));
    roster_stats s;
    roster_stats_init(&s);
    assert_int_equal(roster_generation_stats(g, &s), ROSTER_ERR_USAGE);
    rig_close(&r);
}

static void fall_silent(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_take(p, MESSAGE_CANCEL); /* it is told that nobody waits any more */
}

static void silence_ends_at_the_deadline(void **state) {
    rig r;
    (void)state;

    rig_start(&r, fall_silent);
    set(r.config, "timeout_ms", "50");
    assert_int_equal(rig_connect(&r, NULL, 0), 0);
    assert_int_equal(generate(&r, NULL, NULL, NULL), ROSTER_ERR_DEADLINE);
    assert_non_null(strstr(roster_client_error(r.client), "150 ms"));
    rig_close(&r);
}

/* Its batch steps go on, but give this request nothing for a long time. */
static void work_long(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    uint64_t request_id = p->m.request_id;
    peer_accept(p);
    for (uint64_t steps = 1; steps <= 4; steps++) {
        if (!peer_take(p, MESSAGE_PING)) return;
        message m = peer_answer(p, MESSAGE_PONG);
        m.pong.progress = steps;
        peer_send(p, &m);
    }
    p->m.request_id = request_id;
    peer_finish(p, FINISH_END, "");
}

static void steps_that_go_on_are_no_silence(void **state) {
    rig r;
    (void)state;

    rig_start(&r, work_long);
    set(r.config, "timeout_ms", "3000"); /* a ping comes every second */
    assert_int_equal(rig_connect(&r, NULL, 0), 0);
    assert_int_equal(generate(&r, NULL, NULL, NULL), 0);
    rig_close(&r);
}

static void send_garbage(peer *p) {
    frames f;
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    frames_init(&f);
    void *part = frames_add(&f, 12);
    if (part == NULL) return;
    memset(part, 0xee, 12);
    peer_send_frames(p, &f);
}

static void bytes_that_are_no_message_end_the_request(void **state) {
    rig r;
    (void)state;

    rig_open(&r, send_garbage);
    assert_int_equal(generate(&r, NULL, NULL, NULL), ROSTER_ERR_MALFORMED);
    rig_close(&r);
}

/* The number that stands for `still running` here. */
static void answer_in_progress(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_error(p, -EINPROGRESS, "later");
}

static void an_error_of_any_number_ends_the_request(void **state) {
    rig r;
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, answer_in_progress);
    assert_int_equal(generate(&r, NULL, NULL, &g), ROSTER_ERR_INTERNAL);
    assert_int_equal(roster_generation_result(g), ROSTER_ERR_INTERNAL);
    assert_non_null(strstr(roster_client_error(r.client), "later"));
    roster_generation_destroy(&g);
    rig_close(&r);
}

static void skip_a_token(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, 1, "a");
    peer_token(p, 2, 1, "c");
    peer_take(p, MESSAGE_CANCEL);
}

static void a_missing_token_is_noticed(void **state) {
    rig r;
    (void)state;

    rig_open(&r, skip_a_token);
    assert_int_equal(generate(&r, NULL, NULL, NULL), ROSTER_ERR_MALFORMED);
    assert_non_null(strstr(roster_client_error(r.client), "token 2 where 1"));
    rig_close(&r);
}

static void invent_a_token(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    peer_token(p, 0, PEER_VOCAB, "?");
    peer_take(p, MESSAGE_CANCEL);
}

static void a_token_outside_the_vocabulary_is_refused(void **state) {
    rig r;
    (void)state;

    rig_open(&r, invent_a_token);
    assert_int_equal(generate(&r, NULL, NULL, NULL), ROSTER_ERR_MALFORMED);
    rig_close(&r);
}

static void answer_with_status(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    message m = peer_answer(p, MESSAGE_STATUS);
    m.status.json.data = "{}";
    m.status.json.len = 2;
    peer_send(p, &m);
    peer_take(p, MESSAGE_CANCEL);
}

static void a_message_of_the_wrong_kind_is_refused(void **state) {
    rig r;
    (void)state;

    rig_open(&r, answer_with_status);
    assert_int_equal(generate(&r, NULL, NULL, NULL), ROSTER_ERR_MALFORMED);
    rig_close(&r);
}

static void restart(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    p->boot_id++;
    peer_error(p, ERR_WRONG_BOOT, "who are you?");
}

static void a_restarted_coordinator_is_a_lost_connection(void **state) {
    rig r;
    roster_generation *g = NULL;
    (void)state;

    rig_open(&r, restart);
    assert_int_equal(generate(&r, NULL, NULL, &g), ROSTER_ERR_CLOSED);
    assert_non_null(strstr(roster_client_error(r.client), "restarted"));
    assert_int_equal(roster_generation_result(g), ROSTER_ERR_CLOSED);
    /* and stays one */
    assert_int_equal(generate(&r, NULL, NULL, NULL), ROSTER_ERR_CLOSED);
    assert_int_equal(roster_process(r.client, 0), ROSTER_ERR_CLOSED);
    assert_non_null(strstr(roster_client_error(r.client), "restarted"));
    rig_close(&r);
}

/* ---- greeting ---- */

static void welcome_as_node(peer *p) {
    if (!peer_take(p, MESSAGE_HELLO)) return;
    message m = peer_answer(p, MESSAGE_WELCOME);
    m.welcome.role = ROLE_NODE;
    m.welcome.name = m.welcome.data_endpoint = m.welcome.cpu = m.welcome.model =
        "";
    peer_send(p, &m);
}

static void refuses_a_peer_that_is_no_coordinator(void **state) {
    rig r;
    char why[ROSTER_WHY_BYTES] = "";
    (void)state;

    rig_start(&r, welcome_as_node);
    assert_int_equal(rig_connect(&r, why, sizeof(why)), ROSTER_ERR_USAGE);
    assert_null(r.client);
    assert_non_null(strstr(why, "expert node"));
    rig_close(&r);
}

static void refuses_another_cluster(void **state) {
    rig r;
    char why[ROSTER_WHY_BYTES] = "";
    (void)state;

    rig_start(&r, peer_welcome);
    set(r.config, "cluster", "other");
    assert_int_equal(rig_connect(&r, why, sizeof(why)),
                     ROSTER_ERR_WRONG_CLUSTER);
    assert_non_null(strstr(why, "'test', not 'other'"));
    rig_close(&r);
}

static void refuse_hello(peer *p) {
    if (peer_take(p, MESSAGE_HELLO))
        peer_error(p, ERR_WRONG_VERSION, "too old");
}

static void tells_why_it_was_refused(void **state) {
    rig r;
    char why[ROSTER_WHY_BYTES] = "";
    (void)state;

    rig_start(&r, refuse_hello);
    assert_int_equal(rig_connect(&r, why, sizeof(why)),
                     ROSTER_ERR_WRONG_VERSION);
    assert_non_null(strstr(why, "too old"));
    rig_close(&r);
}

static void take_hello(peer *p) {
    peer_take(p, MESSAGE_HELLO);
}

static void a_greeting_without_answer_has_a_deadline(void **state) {
    rig r;
    (void)state;

    rig_start(&r, take_hello);
    set(r.config, "connect_timeout_ms", "100");
    assert_int_equal(rig_connect(&r, NULL, 0), ROSTER_ERR_DEADLINE);
    rig_close(&r);
}

/* ---- over TCP ---- */

static void leave_after_the_request(peer *p) {
    peer_welcome(p);
    if (!peer_take(p, MESSAGE_GENERATE)) return;
    peer_accept(p);
    link_close(p->link);
    p->link = NULL;
}

static void a_coordinator_that_goes_is_a_lost_connection(void **state) {
    void *zmq = zmq_ctx_new();
    const link_config lc = {
        .zmq = zmq, .max_part_bytes = MESSAGE_PART_MAX, .queue_messages = 64};
    char why[ROSTER_WHY_BYTES] = "";
    struct link *server;
    roster_client *client;
    peer p;
    (void)state;

    assert_int_equal(
        link_bind(&server, &lc, "tcp://127.0.0.1:*", why, sizeof(why)), 0);
    /* The environment's endpoint is used where none is set. */
    setenv("ROSTER_ENDPOINT", link_endpoint(server), 1);
    peer_start(&p, server, leave_after_the_request);
    assert_int_equal(roster_client_create(&client, NULL, why, sizeof(why)), 0);
    unsetenv("ROSTER_ENDPOINT");
    roster_request q = ask_for("x");
    q.timeout_ms = 60000; /* far beyond: the loss itself is noticed */
    assert_int_equal(roster_generate(client, &q, NULL, NULL, NULL),
                     ROSTER_ERR_CLOSED);
    peer_join(&p);
    roster_client_destroy(&client);
    peer_close(&p);
    zmq_ctx_term(zmq);
}

static void endpoints_are_checked(void **state) {
    static const struct {
        const char *endpoint;
        int code;
    } cases[] = {
        {"", ROSTER_ERR_USAGE}, /* and none in the environment */
        {"tcp://127.0.0.1", ROSTER_ERR_USAGE},
        {"tcp://192.0.2.1:7000", ROSTER_ERR_USAGE}, /* not loopback */
        {"tcp://127.0.0.1:1", ROSTER_ERR_DEADLINE}, /* nobody there */
    };
    (void)state;

    unsetenv("ROSTER_ENDPOINT");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        roster_config *c = NULL;
        roster_client *client;
        char why[ROSTER_WHY_BYTES] = "";
        assert_int_equal(roster_config_create(&c), 0);
        set(c, "endpoint", cases[i].endpoint);
        set(c, "connect_timeout_ms", "100");
        assert_int_equal(roster_client_create(&client, c, why, sizeof(why)),
                         cases[i].code);
        assert_null(client);
        assert_string_not_equal(why, "");
        roster_config_destroy(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_reply_is_typed_and_told),
        cmocka_unit_test(silence_ends_at_the_deadline),
        cmocka_unit_test(steps_that_go_on_are_no_silence),
        cmocka_unit_test(bytes_that_are_no_message_end_the_request),
        cmocka_unit_test(an_error_of_any_number_ends_the_request),
        cmocka_unit_test(a_missing_token_is_noticed),
        cmocka_unit_test(a_token_outside_the_vocabulary_is_refused),
        cmocka_unit_test(a_message_of_the_wrong_kind_is_refused),
        cmocka_unit_test(a_restarted_coordinator_is_a_lost_connection),
        cmocka_unit_test(refuses_a_peer_that_is_no_coordinator),
        cmocka_unit_test(refuses_another_cluster),
        cmocka_unit_test(tells_why_it_was_refused),
        cmocka_unit_test(a_greeting_without_answer_has_a_deadline),
        over_tcp(a_coordinator_that_goes_is_a_lost_connection),
        over_tcp(endpoints_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
