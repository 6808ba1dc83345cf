/* test_zmq_watch.c - a loop hears of every message on a link, in both forms.
 * Every test would hang, and end by its timer, if a wake-up were lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "proto/zmq_watch.h"
#include "tests/unit/link_forms.h"

#define QUEUE 200
#define PATIENCE_MS 60000 /* reached only when a test fails */

/* One for all tests: ending it waits for sockets, which a failed test leaves.
 */
static void *zmq;

typedef struct {
    struct link *server, *client;
    uv_loop_t loop;
    uv_timer_t patience;
    bool ran_out;
    zmq_watch *watch, *other;
    int seen, wanted;
    int seen_at_timer; /* messages before the timer's first turn */
} fixture;

static void on_patience(uv_timer_t *timer) {
    fixture *x = timer->data;
    x->ran_out = true;
    uv_stop(&x->loop);
}

static fixture *open_fixture(bool memory) {
    fixture *x = calloc(1, sizeof(*x));
    assert_non_null(x);
    uv_loop_init(&x->loop);
    uv_timer_init(&x->loop, &x->patience);
    x->patience.data = x;
    uv_timer_start(&x->patience, on_patience, PATIENCE_MS, 0);
    if (memory) {
        assert_int_equal(link_memory(&x->client, &x->server, QUEUE), 0);
        return x;
    }
    link_config c = {
        .zmq = zmq, .max_part_bytes = 1 << 20, .queue_messages = QUEUE};
    assert_int_equal(link_bind(&x->server, &c, "tcp://127.0.0.1:*", NULL, 0),
                     0);
    assert_int_equal(
        link_connect(&x->client, &c, link_endpoint(x->server), NULL, 0), 0);
    return x;
}

static int open_memory(void **state) {
    *state = open_fixture(true);
    return 0;
}

static int open_zmq(void **state) {
    *state = open_fixture(false);
    return 0;
}

static int close_fixture(void **state) {
    fixture *x = *state;
    zmq_watch_close(x->watch);
    zmq_watch_close(x->other);
    uv_close((uv_handle_t *)&x->patience, NULL);
    uv_run(&x->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&x->loop);
    link_close(x->client);
    link_close(x->server);
    free(x);
    return rc; /* a handle was left behind */
}

/* Connecting takes ZeroMQ some time, in which sends say -EAGAIN. */
static int send_soon(struct link *l) {
    uint64_t end = uv_hrtime() + PATIENCE_MS * 1000000ull;
    frames f;
    frames_init(&f);
    if (frames_add(&f, 10) == NULL) return -ENOMEM;
    memset(frames_data(&f, 0), 1, 10);
    int rc = link_send(l, &f);
    while (rc == -EAGAIN && uv_hrtime() < end) {
        uv_sleep(1);
        rc = link_send(l, &f);
    }
    frames_fini(&f);
    return rc;
}

static void count(void *ctx, frames *f) {
    fixture *x = ctx;
    assert_int_equal(f->count, 1);
    if (++x->seen == x->wanted) uv_stop(&x->loop);
}

static void run(fixture *x) {
    uv_run(&x->loop, UV_RUN_DEFAULT);
    assert_false(x->ran_out);
}

/* ---- */

static void *send_from_elsewhere(void *arg) {
    fixture *x = arg;
    for (int i = 0; i < x->wanted; i++) {
        if (send_soon(x->client) < 0) return (void *)1;
    }
    return NULL;
}

static void hears_messages_that_come_while_it_sleeps(void **state) {
    fixture *x = *state;
    x->wanted = 3000; /* many more than a batch and than fit the queue */
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, count, x),
                     0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_from_elsewhere, x), 0);
    run(x);
    void *failed;
    pthread_join(thread, &failed);
    assert_null(failed);
    assert_int_equal(x->seen, x->wanted);
}

static void hears_messages_that_were_there_before(void **state) {
    fixture *x = *state;
    x->wanted = 5;
    for (int i = 0; i < 5; i++)
        assert_int_equal(send_soon(x->client), 0);
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, count, x),
                     0);
    run(x);
}

static void on_turn(uv_timer_t *timer) {
    fixture *x = timer->data;
    x->seen_at_timer = x->seen;
    uv_close((uv_handle_t *)timer, NULL);
}

/* In memory, where all 100 messages are surely waiting: a timer that is
 * due gets its turn after one batch. */
static void gives_others_their_turn_after_a_batch(void **state) {
    fixture *x = *state;
    x->wanted = 100;
    for (int i = 0; i < 100; i++)
        assert_int_equal(send_soon(x->client), 0);
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, count, x),
                     0);
    assert_int_equal(uv_run(&x->loop, UV_RUN_NOWAIT), 1);
    assert_int_equal(x->seen, ZMQ_WATCH_BATCH);

    uv_timer_t timer;
    timer.data = x;
    uv_timer_init(&x->loop, &timer);
    uv_timer_start(&timer, on_turn, 0, 0);
    run(x);
    assert_int_equal(x->seen_at_timer, ZMQ_WATCH_BATCH);
}

static void answer(void *ctx, frames *f) {
    fixture *x = ctx;
    assert_int_equal(link_send(x->server, f), 0);
}

static void ask_again(void *ctx, frames *f) {
    fixture *x = ctx;
    if (++x->seen == x->wanted) {
        uv_stop(&x->loop);
        return;
    }
    f->address_bytes = 0;
    assert_int_equal(link_send(x->client, f), 0);
}

/* Both ends on one loop: sends from callbacks use up wake-ups all the time. */
static void plays_ping_pong_on_one_loop(void **state) {
    fixture *x = *state;
    x->wanted = 500;
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, answer, x),
                     0);
    assert_int_equal(
        zmq_watch_open(&x->other, &x->loop, x->client, ask_again, x), 0);
    assert_int_equal(send_soon(x->client), 0);
    zmq_watch_kick(x->other);
    run(x);
    assert_int_equal(x->seen, 500);
}

static void take(void *ctx, frames *f) {
    fixture *x = ctx;
    frames mine;
    frames_init(&mine);
    frames_move(&mine, f);
    assert_int_equal(mine.count, 1);
    frames_fini(&mine);
    x->seen++;
    zmq_watch_close(x->watch);
    x->watch = NULL;
    link_close(x->server); /* at once: the watch no longer looks at it */
    x->server = NULL;
    uv_stop(&x->loop);
}

static void may_be_closed_by_its_callback(void **state) {
    fixture *x = *state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(send_soon(x->client), 0);
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, take, x),
                     0);
    run(x);
    assert_int_equal(x->seen, 1);
}

static void counts_what_the_link_refused(void **state) {
    fixture *x = *state;
    void *sock = zmq_socket(zmq, ZMQ_DEALER);
    assert_int_equal(zmq_connect(sock, link_endpoint(x->server)), 0);
    for (int i = 0; i <= FRAMES_MAX; i++) {
        zmq_send(sock, "x", 1, i < FRAMES_MAX ? ZMQ_SNDMORE : 0);
    }
    zmq_send(sock, "y", 1, 0);
    x->wanted = 1;
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, count, x),
                     0);
    run(x);
    assert_int_equal(x->seen, 1);
    assert_true(zmq_watch_dropped(x->watch) == 1);
    zmq_close(sock);
}

static void watches_no_link_twice_on_a_loop(void **state) {
    fixture *x = *state;
    assert_int_equal(zmq_watch_open(&x->watch, &x->loop, x->server, count, x),
                     0);
    assert_int_equal(zmq_watch_open(&x->other, &x->loop, x->server, count, x),
                     -EEXIST);
    assert_null(x->other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        BOTH(hears_messages_that_come_while_it_sleeps),
        BOTH(hears_messages_that_were_there_before),
        MEMORY(gives_others_their_turn_after_a_batch),
        BOTH(plays_ping_pong_on_one_loop),
        BOTH(may_be_closed_by_its_callback),
        ZMQ(counts_what_the_link_refused),
        BOTH(watches_no_link_twice_on_a_loop),
    };
    zmq = zmq_ctx_new();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed == 0) zmq_ctx_term(zmq);
    return failed;
}
