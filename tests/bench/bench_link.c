/* bench_link.c - what the wire costs: round trips of a message over TCP on
 * loopback and in memory, and packing and opening batches and replies.
 * Prints a table; takes about two seconds. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"
#include "proto/link.h"
#include "proto/message.h"

#define WARM_UP 200
#define ROUNDS 2000
#define PACK_ROUNDS 20000

#define PAIRS 512
#define EXPERTS 128
#define ROWS 64
#define WIDTH 2048

static void fail(const char *what) {
    fprintf(stderr, "bench_link: %s\n", what);
    exit(EXIT_FAILURE);
}

/* ---- round trips ---- */

static void receive(struct link *l, frames *f) {
    frames_init(f);
    int rc;
    while ((rc = link_recv(l, f)) == -EAGAIN) {
        struct pollfd p = {.fd = link_fd(l), .events = POLLIN};
        poll(&p, 1, 10);
    }
    if (rc < 0) fail("a message was refused");
}

static void deliver(struct link *l, frames *f) {
    int rc;
    while ((rc = link_send(l, f)) == -EAGAIN)
        poll(NULL, 0, 1);
    if (rc < 0) fail("a peer has gone");
}

typedef struct {
    struct link *server;
    int rounds;
} echoing;

static void *echo(void *arg) {
    const echoing *e = arg;
    for (int i = 0; i < e->rounds; i++) {
        frames f;
        receive(e->server, &f);
        deliver(e->server, &f);
    }
    return NULL;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void measure_link(const char *name, struct link *client,
                         struct link *server, size_t bytes) {
    static uint64_t us[ROUNDS];
    echoing e = {server, WARM_UP + ROUNDS};
    pthread_t thread;
    if (pthread_create(&thread, NULL, echo, &e) != 0) fail("no thread");

    for (int i = 0; i < WARM_UP + ROUNDS; i++) {
        frames f;
        frames_init(&f);
        void *header = frames_add(&f, 100), *payload = frames_add(&f, bytes);
        if (header == NULL || payload == NULL) fail("no memory");
        memset(header, 1, 100);
        memset(payload, 1, bytes);
        uint64_t start = now_us();
        deliver(client, &f);
        receive(client, &f);
        if (i >= WARM_UP) us[i - WARM_UP] = now_us() - start;
        frames_fini(&f);
    }
    pthread_join(thread, NULL);
    qsort(us, ROUNDS, sizeof(*us), by_size);
    printf("%-8s %8zu B   round trip %6llu us median, %6llu us p99\n", name,
           bytes, (unsigned long long)us[ROUNDS / 2],
           (unsigned long long)us[ROUNDS * 99 / 100]);
}

static void measure_links(void) {
    const size_t sizes[] = {64, 64 << 10};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        link_config c = {.zmq = zmq_ctx_new(),
                         .max_part_bytes = MESSAGE_PART_MAX,
                         .queue_messages = 64};
        struct link *client, *server = NULL;
        char why[256];
        if (link_bind(&server, &c, "tcp://127.0.0.1:*", why, sizeof(why)) < 0 ||
            link_connect(&client, &c, link_endpoint(server), why, sizeof(why)) <
                0) {
            fail(why);
        }
        measure_link("tcp", client, server, sizes[i]);
        link_close(client);
        link_close(server);
        zmq_ctx_term(c.zmq);

        server = NULL;
        if (link_memory(&client, &server, 64) < 0) fail("no memory");
        measure_link("memory", client, server, sizes[i]);
        link_close(client);
        link_close(server);
    }
}

/* ---- packing ---- */

static uint32_t experts[EXPERTS], counts[EXPERTS], pair_rows[PAIRS];

static void batch_message(message *m) {
    *m = (message){.kind = MESSAGE_BATCH,
                   .cluster = "bench",
                   .has_fingerprint = true,
                   .boot_id = 1,
                   .to_boot_id = 2,
                   .request_id = 1 << 20,
                   .remaining_ms = 10000};
    for (uint32_t i = 0; i < EXPERTS; i++) {
        experts[i] = i;
        counts[i] = PAIRS / EXPERTS;
    }
    for (uint32_t i = 0; i < PAIRS; i++)
        pair_rows[i] = i % ROWS;
    m->batch.layer = 30;
    m->batch.form = 1;
    m->batch.width = WIDTH;
    m->batch.n_rows = ROWS;
    m->batch.experts = (message_u32s){experts, EXPERTS};
    m->batch.counts = (message_u32s){counts, EXPERTS};
    m->batch.rows = (message_u32s){pair_rows, PAIRS};
}

static void rows_message(message *m, uint32_t n_pairs) {
    batch_message(m);
    m->kind = MESSAGE_ROWS;
    memset(&m->rows, 0, sizeof(m->rows));
    m->rows.layer = 30;
    m->rows.n_pairs = n_pairs;
    m->rows.width = WIDTH;
}

/* The payload's checksum is part of both; its bytes are given beside. */
static void measure_packing(const char *name, const message *m,
                            size_t payload_bytes) {
    message_arena *arena;
    frames f;
    frames_init(&f);
    if (frames_add(&f, 0) == NULL) fail("no memory");
    void *payload = frames_add(&f, payload_bytes);
    if (payload == NULL || message_arena_new(&arena, MESSAGE_ARENA_MAX) < 0) {
        fail("no memory");
    }
    memset(payload, 1, payload_bytes);

    uint64_t start = now_us();
    for (int i = 0; i < PACK_ROUNDS; i++) {
        if (message_seal(&f, m) < 0) fail("cannot seal");
    }
    uint64_t sealed = now_us();
    for (int i = 0; i < PACK_ROUNDS; i++) {
        message out;
        char why[128];
        if (message_open(&f, arena, &out, why, sizeof(why)) < 0) fail(why);
    }
    uint64_t opened = now_us();
    printf("%-24s seal %6.2f us, open %6.2f us, header %zu B, payload %zu B\n",
           name, (double)(sealed - start) / PACK_ROUNDS,
           (double)(opened - sealed) / PACK_ROUNDS, frames_bytes(&f, 0),
           payload_bytes);
    message_arena_free(arena);
    frames_fini(&f);
}

/* A payload of one byte does not pass message_open(), so the smallest one that
 * fits shows the header's share. */
static void measure_messages(void) {
    message m;
    batch_message(&m);
    measure_packing("batch, 512 pairs", &m, message_rows_bytes(1, ROWS, WIDTH));
    m.batch.width = 32;
    measure_packing("batch, 512 pairs, narrow", &m,
                    message_rows_bytes(1, ROWS, 32));
    rows_message(&m, 8);
    measure_packing("rows, 8 pairs", &m, message_rows_bytes(0, 8, WIDTH));
    m.rows.width = 1;
    measure_packing("rows, 8 pairs, narrow", &m, message_rows_bytes(0, 8, 1));
}

int main(void) {
    measure_messages();
    measure_links();
    return EXIT_SUCCESS;
}
