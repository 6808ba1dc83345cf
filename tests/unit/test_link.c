/* test_link.c - all forms of link keep the same promises: whole messages,
 * bounded, addressed, awake.  The ZeroMQ form runs over TCP on loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/util.h"
#include "proto/link.h"
#include "tests/unit/link_forms.h"

#define QUEUE 8
#define PART_MAX ((uint64_t)1 << 20)
#define PATIENCE_MS 60000 /* reached only when a test fails */

/* ---- all forms, one set of tests ---- */

/* One for all tests: ending it waits for sockets, which a failed test leaves.
 */
static void *zmq;

typedef struct {
    bool memory, shared;
    struct link *server;
} fixture;

static link_config config(void) {
    return (link_config){
        .zmq = zmq, .max_part_bytes = PART_MAX, .queue_messages = QUEUE};
}

static struct link *new_client(fixture *x) {
    struct link *client = NULL;
    char why[256];
    if (x->memory) {
        assert_int_equal(link_memory(&client, &x->server, QUEUE), 0);
        return client;
    }
    link_config c = config();
    c.local = x->shared;
    if (x->server == NULL) {
        /* An address of our own: nobody else's connection can take the port
         * while it is free for a moment. */
        unsigned pid = (unsigned)getpid();
        char where[64];
        snprintf(where, sizeof(where), "tcp://127.%u.%u.%u:*", 1 + pid % 200,
                 pid / 200 % 250, 1 + pid / 50000 % 200);
        assert_int_equal(link_bind(&x->server, &c, where, why, sizeof(why)), 0);
    }
    assert_int_equal(
        link_connect(&client, &c, link_endpoint(x->server), why, sizeof(why)),
        0);
    return client;
}

static fixture *open_fixture(bool memory) {
    fixture *x = calloc(1, sizeof(*x));
    assert_non_null(x);
    x->memory = memory;
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

static int open_shared(void **state) {
    fixture *x = open_fixture(false);
    x->shared = true;
    *state = x;
    return 0;
}

static int close_fixture(void **state) {
    fixture *x = *state;
    link_close(x->server);
    free(x);
    return 0;
}

/* ---- messages ---- */

/* A message of parts of `bytes` bytes that can be told from others. */
static void make(frames *f, size_t parts, size_t bytes, uint8_t mark) {
    frames_init(f);
    for (size_t i = 0; i < parts; i++) {
        uint8_t *part = frames_add(f, bytes);
        assert_non_null(part);
        memset(part, mark + (int)i, bytes);
    }
}

static void check(frames *f, size_t parts, size_t bytes, uint8_t mark) {
    assert_int_equal(f->count, parts);
    for (size_t i = 0; i < parts; i++) {
        const uint8_t *part = frames_data(f, i);
        assert_int_equal(frames_bytes(f, i), bytes);
        if (bytes == 0) continue;
        assert_int_equal(part[0], (uint8_t)(mark + i));
        assert_memory_equal(part, part + 1, bytes - 1);
    }
}

static void wait_for_news(struct link *l) {
    struct pollfd p = {.fd = link_fd(l), .events = POLLIN};
    poll(&p, 1, 20); /* what counts is looking again */
}

static int receive(struct link *l, frames *f) {
    uint64_t end = now_ms() + PATIENCE_MS;
    frames_init(f);
    int rc = link_recv(l, f);
    while (rc == -EAGAIN && now_ms() < end) {
        wait_for_news(l);
        rc = link_recv(l, f);
    }
    return rc;
}

/* A DEALER that is not connected yet says -EAGAIN. */
static int send_soon(struct link *l, frames *f) {
    uint64_t end = now_ms() + PATIENCE_MS;
    int rc = link_send(l, f);
    while (rc == -EAGAIN && now_ms() < end) {
        wait_for_news(l);
        rc = link_send(l, f);
    }
    return rc;
}

/* ---- promises of all forms ---- */

static void carries_whole_messages_both_ways(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    const size_t sizes[] = {0, 1, 30, 64, 4096, 300000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        frames f;
        make(&f, 1 + i % FRAMES_MAX, sizes[i], (uint8_t)i);
        assert_int_equal(send_soon(client, &f), 0);
        assert_int_equal(f.count, 0);
        assert_int_equal(receive(x->server, &f), 0);
        check(&f, 1 + i % FRAMES_MAX, sizes[i], (uint8_t)i);
        assert_true(f.address_bytes > 0);

        assert_int_equal(link_send(x->server, &f), 0); /* to where it is from */
        assert_int_equal(receive(client, &f), 0);
        check(&f, 1 + i % FRAMES_MAX, sizes[i], (uint8_t)i);
        frames_fini(&f);
    }
    link_close(client);
}

static void aligns_payloads_whatever_their_sizes(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    for (size_t bytes = 1; bytes < 400; bytes += 13) {
        frames f;
        make(&f, 3, bytes, 9);
        assert_int_equal(send_soon(client, &f), 0);
        assert_int_equal(receive(x->server, &f), 0);
        check(&f, 3, bytes, 9);
        for (size_t i = 1; i < f.count; i++) {
            assert_int_equal((uintptr_t)frames_data(&f, i) % FRAMES_ALIGN, 0);
        }
        frames_fini(&f);
    }
    link_close(client);
}

static void answers_each_client_by_its_address(void **state) {
    fixture *x = *state;
    struct link *clients[3];
    frames f[3];
    for (int i = 0; i < 3; i++) {
        clients[i] = new_client(x);
        make(&f[i], 2, 10, (uint8_t)(10 * i));
        assert_int_equal(send_soon(clients[i], &f[i]), 0);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(receive(x->server, &f[i]), 0);
    for (int i = 2; i >= 0; i--) {
        assert_int_equal(link_send(x->server, &f[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(receive(clients[i], &f[i]), 0);
        check(&f[i], 2, 10, (uint8_t)(10 * i));
        frames_fini(&f[i]);
        link_close(clients[i]);
    }
}

/* Parts near the limit: the system's buffers hold few of them. */
static void says_again_when_full_and_loses_nothing(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    frames f;
    int sent = 0, rc = 0;
    make(&f, 3, PART_MAX, 0);
    assert_int_equal(send_soon(client, &f), 0);
    for (sent = 1; sent < 100; sent++) {
        make(&f, 3, PART_MAX, (uint8_t)sent);
        rc = link_send(client, &f);
        if (rc < 0) break;
    }
    assert_int_equal(rc, -EAGAIN);
    if (x->memory) assert_int_equal(sent, QUEUE);
    check(&f, 3, PART_MAX, (uint8_t)sent); /* unchanged */
    frames_fini(&f);

    for (int i = 0; i < sent; i++) {
        assert_int_equal(receive(x->server, &f), 0);
        check(&f, 3, PART_MAX, (uint8_t)i);
        frames_fini(&f);
    }
    make(&f, 1, 1, 77); /* there is room again, and nothing stands between */
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    check(&f, 1, 1, 77);
    frames_fini(&f);
    link_close(client);
}

static void a_client_that_stops_reading_stops_no_other(void **state) {
    fixture *x = *state;
    struct link *deaf = new_client(x), *good = new_client(x);
    frames f, to_deaf, to_good;
    make(&f, 1, 1, 1);
    assert_int_equal(send_soon(deaf, &f), 0);
    assert_int_equal(receive(x->server, &to_deaf), 0);
    make(&f, 1, 1, 2);
    assert_int_equal(send_soon(good, &f), 0);
    assert_int_equal(receive(x->server, &to_good), 0);

    int rc = 0;
    for (int i = 0; i < 100 && rc == 0; i++) {
        make(&f, 2, PART_MAX, 3);
        memcpy(f.address, to_deaf.address, FRAMES_ADDRESS);
        f.address_bytes = to_deaf.address_bytes;
        rc = link_send(x->server, &f);
    }
    assert_int_equal(rc, -EAGAIN);
    assert_int_equal(f.count, 2);
    frames_fini(&f);
    assert_int_equal(link_send(x->server, &to_good), 0);
    assert_int_equal(receive(good, &f), 0);
    check(&f, 1, 1, 2);
    frames_fini(&f);
    frames_fini(&to_deaf);
    link_close(deaf);
    link_close(good);
}

static void tells_the_server_that_a_client_has_gone(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    frames f;
    make(&f, 2, 100, 5);
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    link_close(client);

    /* Until the news is here a send may still be taken. */
    uint64_t end = now_ms() + PATIENCE_MS;
    frames reply;
    int rc = 0;
    while (rc != -EHOSTUNREACH && now_ms() < end) {
        make(&reply, 2, 100, 6);
        memcpy(reply.address, f.address, FRAMES_ADDRESS);
        reply.address_bytes = f.address_bytes;
        rc = link_send(x->server, &reply);
        if (rc < 0) check(&reply, 2, 100, 6);
        frames_fini(&reply);
        frames none;
        frames_init(&none);
        assert_int_equal(link_recv(x->server, &none), -EAGAIN);
    }
    assert_int_equal(rc, -EHOSTUNREACH);
    frames_fini(&f);
}

static void refuses_an_address_that_never_was(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    frames f;
    make(&f, 1, 1, 1);
    assert_int_equal(link_send(x->server, &f), -EHOSTUNREACH);
    memset(f.address, 0x77, FRAMES_ADDRESS);
    f.address_bytes = 5;
    assert_int_equal(link_send(x->server, &f), -EHOSTUNREACH);
    assert_int_equal(f.count, 1);
    frames_fini(&f);
    link_close(client);
}

static void queues_nothing_for_a_server_that_has_gone(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    frames f;
    make(&f, 1, 10, 1);
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    frames_fini(&f);
    link_close(x->server);
    x->server = NULL;

    uint64_t end = now_ms() + PATIENCE_MS;
    int rc = 0;
    while (rc != -EAGAIN && now_ms() < end) {
        make(&f, 1, 10, 1);
        rc = link_send(client, &f);
        frames_fini(&f);
    }
    assert_int_equal(rc, -EAGAIN);
    if (x->memory) assert_int_equal(link_recv(client, &f), -ECONNRESET);
    assert_int_equal(link_recv(client, &f), -EAGAIN);
    link_close(client);
}

/* Drained, the descriptor is quiet; a message makes it readable. */
static void wakes_the_receiver_by_its_descriptor(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    frames f;
    make(&f, 1, 10, 1);
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    frames_fini(&f);
    assert_int_equal(link_recv(x->server, &f), -EAGAIN);

    make(&f, 2, 10, 2);
    assert_int_equal(send_soon(client, &f), 0);
    struct pollfd p = {.fd = link_fd(x->server), .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    assert_int_equal(receive(x->server, &f), 0);
    check(&f, 2, 10, 2);
    frames_fini(&f);
    link_close(client);
}

/* A header and an empty payload: what a peer sees of a reply cut short. */
static void cuts_a_message_at_the_failpoint(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    frames f;
    make(&f, 1, 10, 4);
    assert_int_equal(send_soon(client, &f), 0); /* no payload: untouched */
    assert_int_equal(receive(x->server, &f), 0);
    frames_fini(&f);

    failpoints_armed = true;
    make(&f, 3, 10, 4);
    int rc = send_soon(client, &f);
    failpoints_armed = false;
    assert_int_equal(rc, 0);
    assert_int_equal(receive(x->server, &f), 0);
    assert_int_equal(f.count, 2);
    assert_int_equal(frames_bytes(&f, 0), 10);
    assert_int_equal(frames_bytes(&f, 1), 0);
    frames_fini(&f);

    make(&f, 3, 10, 5); /* and the next one is whole */
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    check(&f, 3, 10, 5);
    frames_fini(&f);
    link_close(client);
}

/* ---- memory: its ends in different threads ---- */

#define ROUNDS 5000

static void *echo(void *arg) {
    struct link *server = arg;
    for (int i = 0; i < 2 * ROUNDS; i++) {
        frames f;
        int rc = receive(server, &f);
        if (rc == 0) rc = link_send(server, &f);
        frames_fini(&f);
        if (rc < 0) return (void *)1;
    }
    return NULL;
}

static void *ask(void *arg) {
    struct link *client = arg;
    for (int i = 0; i < ROUNDS; i++) {
        frames f;
        frames_init(&f);
        uint8_t *part = frames_add(&f, 100);
        if (part == NULL) return (void *)1;
        memset(part, i, 100);
        if (link_send(client, &f) < 0) return (void *)1;
        if (receive(client, &f) < 0) return (void *)1;
        uint8_t seen = *(uint8_t *)frames_data(&f, 0);
        frames_fini(&f);
        if (seen != (uint8_t)i) return (void *)1;
    }
    link_close(client);
    return NULL;
}

static void serves_clients_in_threads_of_their_own(void **state) {
    fixture *x = *state;
    pthread_t threads[3];
    struct link *a = new_client(x), *b = new_client(x);
    assert_int_equal(pthread_create(&threads[0], NULL, echo, x->server), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, ask, a), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, ask, b), 0);
    for (int i = 0; i < 3; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

static void takes_the_clients_of_a_server_in_turn(void **state) {
    fixture *x = *state;
    struct link *a = new_client(x), *b = new_client(x);
    frames f;
    for (int i = 0; i < 3; i++) {
        make(&f, 1, 1, 1);
        assert_int_equal(link_send(a, &f), 0);
        make(&f, 1, 1, 2);
        assert_int_equal(link_send(b, &f), 0);
    }
    uint8_t last = 0;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(link_recv(x->server, &f), 0);
        uint8_t now = *(uint8_t *)frames_data(&f, 0);
        assert_int_not_equal(now, last);
        last = now;
        frames_fini(&f);
    }
    link_close(a);
    link_close(b);
}

static void refuses_a_channel_without_room(void **state) {
    struct link *client, *server = NULL;
    (void)state;
    assert_int_equal(link_memory(&client, &server, 0), ERR_RANGE);
}

/* ---- ZeroMQ: what strangers send, and endpoints ---- */

/* A socket that knows nothing of our limits. */
static void *stranger(fixture *x) {
    void *sock = zmq_socket(zmq, ZMQ_DEALER);
    assert_non_null(sock);
    int linger = 0;
    zmq_setsockopt(sock, ZMQ_LINGER, &linger, sizeof(linger));
    assert_int_equal(zmq_connect(sock, link_endpoint(x->server)), 0);
    return sock;
}

static void drops_a_message_with_too_many_parts(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    void *sock = stranger(x);
    for (int i = 0; i <= FRAMES_MAX; i++) {
        zmq_send(sock, "x", 1, i < FRAMES_MAX ? ZMQ_SNDMORE : 0);
    }
    zmq_send(sock, "y", 1, 0);
    frames f;
    assert_int_equal(receive(x->server, &f), ERR_MALFORMED);
    assert_int_equal(f.count, 0);
    assert_int_equal(receive(x->server, &f), 0);
    check(&f, 1, 1, 'y');
    frames_fini(&f);
    zmq_close(sock);
    link_close(client);
}

static void drops_a_message_with_too_long_an_address(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    void *sock = zmq_socket(zmq, ZMQ_DEALER);
    char name[FRAMES_ADDRESS + 1];
    memset(name, 'n', sizeof(name));
    zmq_setsockopt(sock, ZMQ_ROUTING_ID, name, sizeof(name));
    assert_int_equal(zmq_connect(sock, link_endpoint(x->server)), 0);
    zmq_send(sock, "x", 1, 0);
    frames f;
    assert_int_equal(receive(x->server, &f), ERR_MALFORMED);
    int linger = 0;
    zmq_setsockopt(sock, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_close(sock);
    link_close(client);
}

static void cuts_off_who_sends_too_large_a_part(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x);
    void *sock = stranger(x);
    char *large = calloc(1, PART_MAX + 1);
    assert_non_null(large);
    zmq_send(sock, large, PART_MAX + 1, 0);
    free(large);
    frames f; /* others are served; the large part never comes */
    for (int i = 0; i < 20; i++) {
        make(&f, 1, 1, 3);
        assert_int_equal(send_soon(client, &f), 0);
        assert_int_equal(receive(x->server, &f), 0);
        check(&f, 1, 1, 3);
        frames_fini(&f);
    }
    zmq_close(sock);
    link_close(client);
}

/* An endpoint where nobody listens, and nobody did a moment ago either: a
 * closed link's listener goes away behind our back. */
static void silent_endpoint(char *out, size_t size) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t at_size = sizeof(at);
    at.sin_addr.s_addr = htonl(0x7f000000u + 0x020000u + (uint32_t)getpid());
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(sock >= 0);
    assert_int_equal(bind(sock, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(sock, (struct sockaddr *)&at, &at_size), 0);
    close(sock);

    char host[INET_ADDRSTRLEN];
    assert_non_null(inet_ntop(AF_INET, &at.sin_addr, host, sizeof(host)));
    snprintf(out, size, "tcp://%s:%u", host, ntohs(at.sin_port));
}

static void connects_before_the_server_is_there(void **state) {
    fixture *x = *state;
    struct link *client = NULL;
    char where[64], why[256];
    silent_endpoint(where, sizeof(where));

    link_config c = config();
    assert_int_equal(link_connect(&client, &c, where, why, sizeof(why)), 0);
    frames f;
    make(&f, 1, 1, 1);
    assert_int_equal(link_send(client, &f), -EAGAIN);
    assert_int_equal(link_bind(&x->server, &c, where, why, sizeof(why)), 0);
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    frames_fini(&f);
    link_close(client);
}

static void binds_no_endpoint_twice(void **state) {
    fixture *x = *state;
    struct link *client = new_client(x), *second = (struct link *)1;
    link_config c = config();
    char why[256];
    assert_int_equal(
        link_bind(&second, &c, link_endpoint(x->server), why, sizeof(why)),
        -EADDRINUSE);
    assert_null(second);
    assert_non_null(strstr(why, link_endpoint(x->server)));
    link_close(client);
}

static void leaves_loopback_only_when_allowed(void **state) {
    (void)state;
    struct link *l;
    link_config c = config();
    char why[256];
    const char *outside[] = {"tcp://*:0", "tcp://0.0.0.0:0", "tcp://[::]:0"};
    for (size_t i = 0; i < ARRAY_LEN(outside); i++) {
        assert_int_equal(link_bind(&l, &c, outside[i], why, sizeof(why)),
                         ERR_USAGE);
        assert_null(l);
        assert_non_null(strstr(why, "--insecure"));
    }
    assert_int_equal(
        link_connect(&l, &c, "tcp://192.0.2.1:7000", why, sizeof(why)),
        ERR_USAGE);
    assert_int_equal(
        link_connect(&l, &c, "tcp://node.example:7000", why, sizeof(why)),
        ERR_USAGE);

    c.insecure = true;
    assert_int_equal(link_bind(&l, &c, "tcp://0.0.0.0:0", why, sizeof(why)), 0);
    link_close(l);
}

static void knows_localhost_and_refuses_what_it_cannot_read(void **state) {
    (void)state;
    struct link *l;
    link_config c = config();
    char why[256];
    assert_int_equal(link_bind(&l, &c, "localhost:0", why, sizeof(why)), 0);
    assert_int_equal(strncmp(link_endpoint(l), "tcp://127.0.0.1:", 16), 0);
    link_close(l);

    const char *bad[] = {"", "7000", "ipc:///tmp/x", "tcp://127.0.0.1:0",
                         "tcp://127.0.0.1:*"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(link_connect(&l, &c, bad[i], why, sizeof(why)),
                         ERR_USAGE);
        assert_null(l);
    }
}

static void works_within_the_process(void **state) {
    fixture *x = *state;
    struct link *client;
    link_config c = config();
    char why[256];
    assert_int_equal(
        link_bind(&x->server, &c, "inproc://here", why, sizeof(why)), 0);
    assert_int_equal(
        link_connect(&client, &c, "inproc://here", why, sizeof(why)), 0);
    frames f;
    make(&f, 2, 50, 8);
    assert_int_equal(send_soon(client, &f), 0);
    assert_int_equal(receive(x->server, &f), 0);
    check(&f, 2, 50, 8);
    frames_fini(&f);
    link_close(client);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ALL(carries_whole_messages_both_ways),
        ALL(aligns_payloads_whatever_their_sizes),
        ALL(answers_each_client_by_its_address),
        ALL(says_again_when_full_and_loses_nothing),
        ALL(a_client_that_stops_reading_stops_no_other),
        ALL(tells_the_server_that_a_client_has_gone),
        ALL(refuses_an_address_that_never_was),
        ALL(queues_nothing_for_a_server_that_has_gone),
        ALL(wakes_the_receiver_by_its_descriptor),
        ALL(cuts_a_message_at_the_failpoint),
        MEMORY(serves_clients_in_threads_of_their_own),
        SHARED(serves_clients_in_threads_of_their_own),
        MEMORY(takes_the_clients_of_a_server_in_turn),
        SHARED(takes_the_clients_of_a_server_in_turn),
        MEMORY(refuses_a_channel_without_room),
        ZMQ(drops_a_message_with_too_many_parts),
        ZMQ(drops_a_message_with_too_long_an_address),
        ZMQ(cuts_off_who_sends_too_large_a_part),
        ZMQ(connects_before_the_server_is_there),
        ZMQ(binds_no_endpoint_twice),
        ZMQ(leaves_loopback_only_when_allowed),
        ZMQ(knows_localhost_and_refuses_what_it_cannot_read),
        ZMQ(works_within_the_process),
    };
    setenv("ROSTER_FAILPOINTS", "link.send.half=fail", 1);
    if (failpoint_setup(NULL, 0) < 0) return EXIT_FAILURE;
    failpoints_armed = false; /* one test arms them */
    zmq = zmq_ctx_new();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed == 0) zmq_ctx_term(zmq);
    return failed;
}
