/* test_worker_limits.c - a node's worker when coordinators ask too much, do not
 * read, leave or restart, and when it stops or fails itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "tests/support/node_rig.h"

/* ---- limits ---- */

static void refuses_a_reply_beyond_its_limit(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    r.config.max_reply_bytes = 10 * 64 * sizeof(float);
    node_rig_connect(&r, 1, 8);
    node_rig_start(&r);
    node_rig_request q = node_rig_make_request(&r, 1, 0, 11, 1);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_refusal(r.clients[0], 1, ERR_TOO_LARGE, "limit");
    node_rig_request_fini(&q);

    q = node_rig_make_request(&r, 2, 0, 10, 1);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_rows(&r, r.clients[0], &q);
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

static void refuses_a_coordinator_that_asks_and_does_not_read(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    uint64_t one = 64 * sizeof(float);
    r.config.max_reply_bytes = 4 * 4 * one;
    assert_int_equal(worker_peer_bytes(r.config.max_reply_bytes), 4 * one);
    node_rig_connect(&r, 2, 32);
    for (uint64_t id = 0; id < 10; id++) {
        node_rig_request q = node_rig_make_request(&r, id, 0, 1, 1);
        node_rig_send_request(r.clients[0], &q);
        node_rig_request_fini(&q);
    }
    node_rig_start(&r);
    /* The other one is served all the same. */
    node_rig_request other = node_rig_make_request(&r, 1, 0, 2, 1);
    other.m.boot_id = 6;
    node_rig_send_request(r.clients[1], &other);
    node_rig_expect_rows(&r, r.clients[1], &other);
    node_rig_request_fini(&other);

    int rows = 0, refused = 0;
    for (int i = 0; i < 10; i++) {
        node_rig_answer a;
        node_rig_wait_answer(r.clients[0], &a);
        if (a.m.kind == MESSAGE_ROWS) rows++;
        if (a.m.kind == MESSAGE_ERROR) {
            assert_int_equal(a.m.error.code, ERR_OVERLOADED);
            refused++;
        }
        node_rig_answer_fini(&a);
    }
    assert_int_equal(rows, 4);
    assert_int_equal(refused, 6);
    node_rig_fini(&r);
}

static void keeps_replies_for_a_peer_that_reads_late(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 2, 2); /* two replies fill the link */
    node_rig_start(&r);
    for (uint64_t id = 0; id < 20; id++) {
        node_rig_request q = node_rig_make_request(&r, id, 0, 1, 2);
        node_rig_send_request(r.clients[0], &q);
        node_rig_request_fini(&q);
    }
    for (uint64_t id = 0; id < 5; id++) { /* nobody waits for the first */
        node_rig_request q = node_rig_make_request(&r, id, 1, 3, 2);
        q.m.boot_id = 6;
        node_rig_send_request(r.clients[1], &q);
        node_rig_expect_rows(&r, r.clients[1], &q);
        node_rig_request_fini(&q);
    }
    for (uint64_t id = 0; id < 20; id++) {
        node_rig_answer a;
        node_rig_wait_answer(r.clients[0], &a);
        node_rig_request q = node_rig_make_request(&r, a.m.request_id, 0, 1, 2);
        node_rig_assert_right_rows(&r, &q, &a);
        node_rig_request_fini(&q);
        node_rig_answer_fini(&a);
    }
    node_rig_fini(&r);
}

static void goes_on_when_a_peer_has_gone(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 2, 4);
    for (uint64_t id = 0; id < 4; id++) {
        node_rig_request q = node_rig_make_request(&r, id, 0, 1, 2);
        node_rig_send_request(r.clients[0], &q);
        node_rig_request_fini(&q);
    }
    link_close(r.clients[0]);
    r.clients[0] = NULL;
    node_rig_start(&r);

    node_rig_request q = node_rig_make_request(&r, 1, 1, 3, 2);
    q.m.boot_id = 6;
    node_rig_send_request(r.clients[1], &q);
    node_rig_expect_rows(&r, r.clients[1], &q);
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

static void answers_no_restarted_coordinator_for_its_predecessor(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 8);
    node_rig_request before = node_rig_make_request(&r, 1, 0, 2, 2);
    node_rig_request after = node_rig_make_request(&r, 1, 0, 2, 2);
    before.m.boot_id = 1000;
    after.m.boot_id = 1001;
    node_rig_send_request(r.clients[0], &before);
    node_rig_send_request(r.clients[0], &after);
    node_rig_start(&r);

    node_rig_expect_rows(&r, r.clients[0], &after);
    node_rig_stop(&r);
    node_rig_assert_no_answer(r.clients[0]);
    node_rig_request_fini(&before);
    node_rig_request_fini(&after);
    node_rig_fini(&r);
}

/* Both links are the same process's; the worker reads the second one first. */
static void computes_nothing_for_a_connection_that_is_gone(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 2, 8);
    node_rig_request before = node_rig_make_request(&r, 1, 0, 2, 2);
    node_rig_request after = node_rig_make_request(&r, 2, 0, 2, 2);
    node_rig_send_request(r.clients[1], &before);
    node_rig_send_request(r.clients[0], &after);
    node_rig_start(&r);

    node_rig_expect_rows(&r, r.clients[0], &after);
    node_rig_stop(&r);
    node_rig_assert_no_answer(r.clients[1]);
    tally_totals t;
    tally_read(r.tally, &t);
    assert_int_equal(t.pairs, 4);
    node_rig_request_fini(&before);
    node_rig_request_fini(&after);
    node_rig_fini(&r);
}

/* ---- stopping and failing ---- */

static void stops_while_it_is_busy(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 64);
    for (uint64_t id = 0; id < 40; id++) {
        node_rig_request q = node_rig_make_request(&r, id, id % 2, 40, 3);
        node_rig_send_request(r.clients[0], &q);
        node_rig_request_fini(&q);
    }
    node_rig_start(&r);
    node_rig_answer a;
    node_rig_wait_answer(r.clients[0], &a); /* it is in the middle of them */
    node_rig_answer_fini(&a);
    node_rig_stop(&r);

    /* What was answered is whole: rows, or that it is closing. */
    frames f;
    frames_init(&f);
    while (link_recv(r.clients[0], &f) == 0) {
        char why[256];
        message m;
        message_arena *arena;
        assert_int_equal(message_arena_new(&arena, MESSAGE_ARENA_MAX), 0);
        assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
        assert_true(m.kind == MESSAGE_ROWS ||
                    (m.kind == MESSAGE_ERROR && m.error.code == ERR_CLOSED));
        message_arena_free(arena);
        frames_fini(&f);
    }
    node_rig_fini(&r);
}

static void stops_when_it_has_nothing_to_do(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 4);
    node_rig_start(&r);
    poll(NULL, 0, 5); /* asleep or about to be: both must do */
    node_rig_stop(&r);
    node_rig_fini(&r);
}

/* Last: failpoints stay armed. */
static void says_so_when_computing_fails(void **state) {
    (void)state;
    node_rig r;
    char why[256];
    model_shape shape = model_shape_small();
    setenv("ROSTER_FAILPOINTS", "node.compute=fail", 1);
    assert_int_equal(failpoint_setup(why, sizeof(why)), 0);
    node_rig_make(&r, &shape);
    node_rig_connect(&r, 1, 4);
    node_rig_start(&r);
    node_rig_request q = node_rig_make_request(&r, 1, 0, 1, 1);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_refusal(r.clients[0], 1, ERR_INTERNAL, "");
    node_rig_request_fini(&q);
    node_rig_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_a_reply_beyond_its_limit),
        cmocka_unit_test(refuses_a_coordinator_that_asks_and_does_not_read),
        cmocka_unit_test(keeps_replies_for_a_peer_that_reads_late),
        cmocka_unit_test(goes_on_when_a_peer_has_gone),
        cmocka_unit_test(answers_no_restarted_coordinator_for_its_predecessor),
        cmocka_unit_test(computes_nothing_for_a_connection_that_is_gone),
        cmocka_unit_test(stops_while_it_is_busy),
        cmocka_unit_test(stops_when_it_has_nothing_to_do),
        cmocka_unit_test(says_so_when_computing_fails),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
