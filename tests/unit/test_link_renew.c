/* test_link_renew.c - a link that ZeroMQ gave up is made anew: whatever a peer
 * or the wire did to it, a good peer at the same address is found again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <zmq.h>
#include "engine/util.h"
#include "proto/link.h"
#include "proto/link_monitor.h"
#include "tests/unit/link_forms.h"

#define QUEUE 8
#define PATIENCE_MS 20000 /* reached only when a test fails */
#define GREETING 64
#define MARK 42

static void *zmq;

/* Somebody who speaks, or does not speak, ZMTP by hand; and in its place,
 * later, a good server. */
typedef struct {
    int listener, peer;
    struct sockaddr_in at;
    struct link *server, *client;
} fixture;

static link_config config(void) {
    return (link_config){.zmq = zmq,
                         .max_part_bytes = 1 << 20,
                         .queue_messages = QUEUE,
                         .tell_broken = true};
}

static void listen_by_hand(fixture *x) {
    unsigned pid = (unsigned)getpid();
    int yes = 1;
    socklen_t size = sizeof(x->at);
    x->at.sin_family = AF_INET;
    x->at.sin_addr.s_addr = htonl(0x7f000001 + pid % 60000 * 256);
    x->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(x->listener >= 0);
    assert_int_equal(
        setsockopt(x->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)),
        0);
    assert_int_equal(bind(x->listener, (struct sockaddr *)&x->at, size), 0);
    assert_int_equal(listen(x->listener, 8), 0);
    assert_int_equal(getsockname(x->listener, (struct sockaddr *)&x->at, &size),
                     0);
}

static void where(const fixture *x, char *out, size_t room) {
    char host[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &x->at.sin_addr, host, sizeof(host));
    snprintf(out, room, "tcp://%s:%u", host, ntohs(x->at.sin_port));
}

static int open_zmq(void **state) {
    fixture *x = calloc(1, sizeof(*x));
    assert_non_null(x);
    x->peer = -1;
    listen_by_hand(x);
    link_config c = config();
    char at[64], why[256];
    where(x, at, sizeof(at));
    assert_int_equal(link_connect(&x->client, &c, at, why, sizeof(why)), 0);
    *state = x;
    return 0;
}

static int close_fixture(void **state) {
    fixture *x = *state;
    link_close(x->client);
    link_close(x->server);
    if (x->peer >= 0) close(x->peer);
    if (x->listener >= 0) close(x->listener);
    free(x);
    return 0;
}

/* ---- by hand ---- */

static void accept_by_hand(fixture *x) {
    struct timeval t = {.tv_sec = PATIENCE_MS / 1000};
    struct pollfd p = {.fd = x->listener, .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    if (x->peer >= 0) close(x->peer);
    x->peer = accept(x->listener, NULL, NULL);
    assert_true(x->peer >= 0);
    setsockopt(x->peer, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

static void say(const fixture *x, const void *bytes, size_t n) {
    assert_int_equal(send(x->peer, bytes, n, MSG_NOSIGNAL), n);
}

static void say_greeting(const fixture *x, const char *mechanism) {
    uint8_t g[GREETING] = {[0] = 0xff, [8] = 1, [9] = 0x7f, [10] = 3};
    memcpy(g + 12, mechanism, strlen(mechanism));
    say(x, g, sizeof(g));
}

static void hear(const fixture *x, void *bytes, size_t n) {
    assert_int_equal(recv(x->peer, bytes, n, MSG_WAITALL), n);
}

/* Both sides have said READY: before that a message would be a mistake. */
static void shake_hands(const fixture *x) {
    uint8_t heard[GREETING + 256];
    static const char ready[] = "\x04\x1c"
                                "\x05READY"
                                "\x0bSocket-Type\0\0\0\x06ROUTER";
    say_greeting(x, "NULL");
    say(x, ready, sizeof(ready) - 1);
    hear(x, heard, GREETING + 2);
    hear(x, heard, heard[GREETING + 1]);
}

static void say_mark(const fixture *x) {
    say(x, "\x00\x01\x2a", 3);
}

/* The link hung up: it has seen what was wrong. */
static void wait_for_the_end(const fixture *x) {
    char bytes[256];
    ssize_t n;
    do {
        n = recv(x->peer, bytes, sizeof(bytes), 0);
    } while (n > 0);
    assert_true(n == 0 || errno == ECONNRESET);
}

static void put_a_good_server(fixture *x) {
    link_config c = config();
    char at[64], why[256];
    close(x->listener);
    x->listener = -1;
    where(x, at, sizeof(at));
    assert_int_equal(link_bind(&x->server, &c, at, why, sizeof(why)), 0);
}

/* ---- by the link ---- */

static void wait_for_news(struct link *l, int ms) {
    struct pollfd p = {.fd = link_fd(l), .events = POLLIN};
    poll(&p, 1, ms);
}

static int receive(struct link *l, frames *f) {
    uint64_t end = now_ms() + PATIENCE_MS;
    int rc;
    frames_init(f);
    while ((rc = link_recv(l, f)) == -EAGAIN && now_ms() < end)
        wait_for_news(l, 20);
    return rc;
}

static void take_mark(struct link *l) {
    frames f;
    assert_int_equal(receive(l, &f), 0);
    assert_int_equal(*(uint8_t *)frames_data(&f, 0), MARK);
    frames_fini(&f);
}

static void send_mark(struct link *l, const frames *to) {
    frames f;
    uint64_t end = now_ms() + PATIENCE_MS;
    frames_init(&f);
    *(uint8_t *)frames_add(&f, 1) = MARK;
    if (to != NULL) frames_copy_address(&f, to);
    while (link_send(l, &f) == -EAGAIN && now_ms() < end)
        wait_for_news(l, 1);
    assert_int_equal(f.count, 0);
}

static void meet_the_good_server(fixture *x) {
    frames f;
    send_mark(x->client, NULL);
    assert_int_equal(receive(x->server, &f), 0);
    send_mark(x->server, &f);
    frames_fini(&f);
    take_mark(x->client);
}

static void expect_no_news(struct link *l) {
    for (int i = 0; i < 20; i++) {
        frames f;
        frames_init(&f);
        assert_int_equal(link_recv(l, &f), -EAGAIN);
        wait_for_news(l, 1);
    }
}

static void connects_again_after_a_damaged_greeting(void **state) {
    fixture *x = *state;
    accept_by_hand(x);
    say_greeting(x, "NULM");
    wait_for_the_end(x);
    put_a_good_server(x);
    meet_the_good_server(x);
    expect_no_news(x->client); /* nothing that was relied on broke */
}

static void connects_again_after_a_damaged_handshake(void **state) {
    fixture *x = *state;
    accept_by_hand(x);
    say_greeting(x, "NULL");
    say(x,
        "\x04\x05\x05"
        "READZ",
        8);
    wait_for_the_end(x);
    put_a_good_server(x);
    meet_the_good_server(x);
}

/* A part that would be larger than the link allows. */
static void connects_again_after_a_damaged_frame(void **state) {
    fixture *x = *state;
    frames f;
    accept_by_hand(x);
    shake_hands(x);
    say_mark(x);
    say(x, "\x02\x7f\xff\xff\xff\xff\xff\xff\xff", 9);
    wait_for_the_end(x);
    take_mark(x->client); /* what came before is told before */
    assert_int_equal(receive(x->client, &f), -ECONNRESET);
    expect_no_news(x->client);
    put_a_good_server(x);
    meet_the_good_server(x);
    expect_no_news(x->client);
}

/* ZeroMQ speaks versions that know neither handshakes nor heartbeats, and a
 * damaged greeting is one of those: it stays connected to nobody. */
static void connects_again_when_it_took_the_peer_for_an_old_one(void **state) {
    fixture *x = *state;
    accept_by_hand(x);
    say(x, "\x01\x00", 2);
    put_a_good_server(x);
    meet_the_good_server(x);
}

/* Each time a little later, and never given up. */
static void connects_again_after_many_damaged_greetings(void **state) {
    fixture *x = *state;
    for (int i = 0; i < 2; i++) {
        frames f;
        struct pollfd p = {.fd = x->listener, .events = POLLIN};
        uint64_t end = now_ms() + PATIENCE_MS;
        frames_init(&f);
        while (poll(&p, 1, 20) == 0 && now_ms() < end)
            assert_int_equal(link_recv(x->client, &f), -EAGAIN);
        accept_by_hand(x);
        say_greeting(x, "NULM");
        wait_for_the_end(x);
    }
    put_a_good_server(x);
    meet_the_good_server(x);
}

/* Who waits holds a descriptor, which stays. */
static void keeps_its_descriptor(void **state) {
    fixture *x = *state;
    int before = link_fd(x->client);
    connects_again_after_a_damaged_greeting(state);
    assert_int_equal(link_fd(x->client), before);
    frames f;
    send_mark(x->client, NULL);
    assert_int_equal(receive(x->server, &f), 0);
    while (link_recv(x->client, &(frames){0}) == 0) {}
    send_mark(x->server, &f);
    frames_fini(&f);
    struct pollfd p = {.fd = before, .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    take_mark(x->client);
}

/* ---- the monitor ---- */

/* More than ZeroMQ keeps by default, while nobody looks: its I/O thread must
 * not wait for us, nor our end for it. */
#define MANY_BREAKS 2500

static void may_be_closed_after_breaks_that_nobody_looked_at(void **state) {
    fixture *x = *state;
    link_monitor *m;
    char at[64];
    int soon = 1, no = 0;
    link_close(x->client);
    x->client = NULL;
    void *sock = zmq_socket(zmq, ZMQ_DEALER);
    assert_non_null(sock);
    zmq_setsockopt(sock, ZMQ_RECONNECT_IVL, &soon, sizeof(soon));
    zmq_setsockopt(sock, ZMQ_LINGER, &no, sizeof(no));
    assert_int_equal(link_monitor_open(&m, zmq, sock), 0);
    where(x, at, sizeof(at));
    assert_int_equal(zmq_connect(sock, at), 0);
    for (int i = 0; i < MANY_BREAKS; i++) {
        accept_by_hand(x);
        close(x->peer);
        x->peer = -1;
    }
    assert_false(link_monitor_connected(m));
    link_monitor_close(m);
    zmq_close(sock);
}

int main(void) {
    zmq = zmq_ctx_new();
    const struct CMUnitTest tests[] = {
        ZMQ(connects_again_after_a_damaged_greeting),
        ZMQ(connects_again_after_a_damaged_handshake),
        ZMQ(connects_again_after_a_damaged_frame),
        ZMQ(connects_again_when_it_took_the_peer_for_an_old_one),
        ZMQ(connects_again_after_many_damaged_greetings),
        ZMQ(keeps_its_descriptor),
        ZMQ(may_be_closed_after_breaks_that_nobody_looked_at),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    zmq_ctx_term(zmq);
    return rc;
}
