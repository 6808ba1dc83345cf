/* odd_peer.c - sends messages that no honest peer would, and prints what comes
 * back: a line for each case, `CASE ANSWER TEXT`.
 *
 * After every odd message a good status request follows on the same connection,
 * again and again until it is answered.  What was answered before that belongs
 * to the odd message: the name of an error, or of the kind of message, or "-"
 * if nothing came.  So "no answer" needs no waiting, and every line shows that
 * the process still serves.
 *
 *   odd_peer tcp://127.0.0.1:7100 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>
#include "engine/err.h"
#include "engine/options.h"
#include "engine/util.h"
#include "proto/message.h"
#include "tests/support/message_samples.h"

#define EXIT_USAGE 2
#define RESEND_MS 200
#define DEADLINE_MS 60000
#define ODD_REQUEST 1000
#define GOOD_REQUEST 2000
#define EXTRA_PARTS 12

typedef struct {
    void *zmq, *sock;
    message_arena *arena;
    const char *cluster;
} odd_peer;

/* ---- the odd messages ---- */

typedef enum {
    DAMAGE_NONE,
    DAMAGE_FLIP_HEADER,   /* one bit in the middle */
    DAMAGE_FLIP_CHECKSUM, /* one bit of the last byte */
    DAMAGE_HALF_HEADER,
    DAMAGE_EMPTY_HEADER,
    DAMAGE_NOISE,
    DAMAGE_FLIP_PAYLOAD,
    DAMAGE_HALF_PAYLOAD,
    DAMAGE_NO_PAYLOAD,
    DAMAGE_EXTRA_PAYLOAD,
    DAMAGE_MANY_PARTS,
    DAMAGE_LARGE_HEADER, /* above MESSAGE_HEADER_MAX */
    DAMAGE_LARGE_PART,   /* above MESSAGE_PART_MAX */
} damage;

typedef struct {
    const char *name;
    message_kind kind;
    uint32_t protocol;
    const char *cluster; /* NULL: the right one */
    uint64_t to_boot_id;
    damage how;
} odd_case;

/* clang-format off */
static const odd_case cases[] = {
    {"version-99",     MESSAGE_HELLO, 99, NULL, 0, DAMAGE_NONE},
    {"version-next",   MESSAGE_STATUS_REQUEST, PROTOCOL_VERSION + 1, NULL, 0, DAMAGE_NONE},
    {"cluster",        MESSAGE_HELLO, 0, "elsewhere", 0, DAMAGE_NONE},
    {"boot-id",        MESSAGE_STATUS_REQUEST, 0, NULL, 1, DAMAGE_NONE},
    {"no-such-kind",   MESSAGE_WELCOME, 0, NULL, 0, DAMAGE_NONE},
    {"other-model",    MESSAGE_HELLO, 0, NULL, 0, DAMAGE_NONE},
    {"other-batch",    MESSAGE_BATCH, 0, NULL, 0, DAMAGE_NONE},
    {"header-flipped", MESSAGE_HELLO, 0, NULL, 0, DAMAGE_FLIP_HEADER},
    {"sum-flipped",    MESSAGE_HELLO, 0, NULL, 0, DAMAGE_FLIP_CHECKSUM},
    {"header-half",    MESSAGE_HELLO, 0, NULL, 0, DAMAGE_HALF_HEADER},
    {"header-empty",   MESSAGE_HELLO, 0, NULL, 0, DAMAGE_EMPTY_HEADER},
    {"noise",          MESSAGE_HELLO, 0, NULL, 0, DAMAGE_NOISE},
    {"payload-flipped", MESSAGE_BATCH, 0, NULL, 0, DAMAGE_FLIP_PAYLOAD},
    {"payload-half",   MESSAGE_BATCH, 0, NULL, 0, DAMAGE_HALF_PAYLOAD},
    {"payload-none",   MESSAGE_BATCH, 0, NULL, 0, DAMAGE_NO_PAYLOAD},
    {"payload-extra",  MESSAGE_BATCH, 0, NULL, 0, DAMAGE_EXTRA_PAYLOAD},
    {"many-parts",     MESSAGE_HELLO, 0, NULL, 0, DAMAGE_MANY_PARTS},
    {"header-large",   MESSAGE_HELLO, 0, NULL, 0, DAMAGE_LARGE_HEADER},
    {"part-large",     MESSAGE_HELLO, 0, NULL, 0, DAMAGE_LARGE_PART},
};
/* clang-format on */

/* The well-formed message that is going to be damaged. */
static int seal(const odd_peer *p, const odd_case *c, uint64_t request_id,
                frames *f) {
    frames sample;
    frames_init(&sample);
    message m;
    sample_message(c->kind, &m);
    int rc = sample_frames(c->kind, &sample);
    if (rc < 0) return rc;

    m.protocol = c->protocol;
    m.cluster = c->cluster != NULL ? c->cluster : p->cluster;
    m.to_boot_id = c->to_boot_id;
    m.request_id = request_id;
    frames_move(f, &sample);
    return message_seal(f, &m);
}

/* Replace part i by one of another size; its bytes stay as far as they fit. */
static int resize(frames *f, size_t i, size_t bytes) {
    zmq_msg_t made;
    if (zmq_msg_init_size(&made, bytes) != 0) return -ENOMEM;
    memset(zmq_msg_data(&made), 0xa5, bytes);
    memcpy(zmq_msg_data(&made), frames_data(f, i),
           size_min(bytes, frames_bytes(f, i)));
    zmq_msg_move(&f->part[i], &made);
    return zmq_msg_close(&made);
}

static void flip(frames *f, size_t i, size_t at) {
    ((uint8_t *)frames_data(f, i))[at] ^= 0x10;
}

static int apply(damage how, frames *f) {
    size_t header = frames_bytes(f, 0);
    switch (how) {
    case DAMAGE_FLIP_HEADER:
        flip(f, 0, header / 2);
        return 0;
    case DAMAGE_FLIP_CHECKSUM:
        flip(f, 0, header - 1);
        return 0;
    case DAMAGE_HALF_HEADER:
        return resize(f, 0, header / 2);
    case DAMAGE_EMPTY_HEADER:
        return resize(f, 0, 0);
    case DAMAGE_NOISE:
        random_bytes(frames_data(f, 0), header);
        return 0;
    case DAMAGE_FLIP_PAYLOAD:
        flip(f, 1, frames_bytes(f, 1) / 2);
        return 0;
    case DAMAGE_HALF_PAYLOAD:
        return resize(f, 1, frames_bytes(f, 1) / 2);
    case DAMAGE_NO_PAYLOAD:
        return zmq_msg_close(&f->part[--f->count]);
    case DAMAGE_EXTRA_PAYLOAD:
        return frames_add(f, 64) != NULL ? 0 : -ENOMEM;
    case DAMAGE_LARGE_HEADER:
        return resize(f, 0, MESSAGE_HEADER_MAX + 1);
    case DAMAGE_LARGE_PART:
        return resize(f, 0, MESSAGE_PART_MAX + 1);
    case DAMAGE_NONE:
    case DAMAGE_MANY_PARTS:
        return 0;
    }
    return ERR_INTERNAL;
}

/* ---- sending and receiving ---- */

/* Waits for a connection, so that the message is not lost before it left. */
static int send_frames(odd_peer *p, frames *f, int extra_parts) {
    for (size_t i = 0; i < f->count; i++) {
        bool more = i + 1 < f->count || extra_parts > 0;
        if (zmq_msg_send(&f->part[i], p->sock, more ? ZMQ_SNDMORE : 0) < 0)
            return -errno;
    }
    f->count = 0;
    for (int i = 0; i < extra_parts; i++) {
        int more = i + 1 < extra_parts ? ZMQ_SNDMORE : 0;
        if (zmq_send(p->sock, "x", 1, more) < 0) return -errno;
    }
    return 0;
}

static int send_case(odd_peer *p, const odd_case *c, uint64_t request_id) {
    frames f;
    frames_init(&f);
    int rc = seal(p, c, request_id, &f);
    if (rc == 0) rc = apply(c->how, &f);
    if (rc == 0) {
        rc = send_frames(p, &f, c->how == DAMAGE_MANY_PARTS ? EXTRA_PARTS : 0);
    }
    frames_fini(&f);
    return rc;
}

/* The next message within RESEND_MS; -EAGAIN. */
static int receive(odd_peer *p, frames *f, message *m) {
    zmq_pollitem_t item = {.socket = p->sock, .events = ZMQ_POLLIN};
    int rc = zmq_poll(&item, 1, RESEND_MS);
    if (rc <= 0) return rc < 0 ? -errno : -EAGAIN;

    int more = 1;
    size_t size = sizeof(more);
    while (more) {
        if (f->count == FRAMES_MAX) return ERR_MALFORMED;
        zmq_msg_init(&f->part[f->count]);
        if (zmq_msg_recv(&f->part[f->count], p->sock, 0) < 0) return -errno;
        f->count++;
        zmq_getsockopt(p->sock, ZMQ_RCVMORE, &more, &size);
    }
    char why[256];
    return message_open(f, p->arena, m, why, sizeof(why));
}

/* ---- one case ---- */

static void describe(const message *m, char *out, size_t size) {
    if (m->kind == MESSAGE_ERROR) {
        snprintf(out, size, "%s %s", err_name(m->error.code), m->error.text);
    } else {
        snprintf(out, size, "%s", message_kind_name(m->kind));
    }
}

/* Send the odd message, then good ones until one of them is answered. */
static int run_case(odd_peer *p, const odd_case *c, uint64_t good) {
    static const odd_case good_case = {
        "good", MESSAGE_STATUS_REQUEST, 0, NULL, 0, DAMAGE_NONE};
    char answer[MESSAGE_WHY_MAX + 64] = "-";
    uint64_t until = now_ms() + DEADLINE_MS;

    int rc = send_case(p, c, ODD_REQUEST);
    if (rc == 0) rc = send_case(p, &good_case, good);
    while (rc == 0) {
        frames f;
        message m;
        frames_init(&f);
        rc = receive(p, &f, &m);
        bool answered = rc == 0 && m.request_id == good;
        if (rc == 0 && m.request_id < GOOD_REQUEST)
            describe(&m, answer, sizeof(answer));
        frames_fini(&f);
        if (answered) break;
        if (rc != -EAGAIN) continue;
        rc = now_ms() < until ? send_case(p, &good_case, good) : ERR_DEADLINE;
    }
    if (rc < 0) {
        fprintf(stderr, "odd_peer: %s: %s\n", c->name, err_text(rc));
        return rc;
    }
    printf("%s %s\n", c->name, answer);
    return 0;
}

static int run_all(odd_peer *p) {
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(cases) && rc == 0; i++) {
        rc = run_case(p, &cases[i], GOOD_REQUEST + i);
    }
    return rc;
}

static int open_peer(odd_peer *p, const char *endpoint) {
    const int zero = 0, one = 1, wait_ms = DEADLINE_MS;
    int rc = message_arena_new(&p->arena, MESSAGE_ARENA_MAX);
    if (rc < 0) return rc;
    p->zmq = zmq_ctx_new();
    p->sock = p->zmq != NULL ? zmq_socket(p->zmq, ZMQ_DEALER) : NULL;
    if (p->sock == NULL) return -errno;
    zmq_setsockopt(p->sock, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_setsockopt(p->sock, ZMQ_IMMEDIATE, &one, sizeof(one));
    zmq_setsockopt(p->sock, ZMQ_SNDTIMEO, &wait_ms, sizeof(wait_ms));
    return zmq_connect(p->sock, endpoint) == 0 ? 0 : -errno;
}

static void close_peer(odd_peer *p) {
    if (p->sock != NULL) zmq_close(p->sock);
    if (p->zmq != NULL) zmq_ctx_term(p->zmq);
    message_arena_free(p->arena);
}

int main(int argc, char **argv) {
    odd_peer p = {.cluster = "roster"};
    const option table[] = {
        {"cluster", 0, OPTION_STRING, &p.cluster, "NAME",
         "The cluster of the one that is asked."},
    };
    const option_set set = {
        .program = "odd_peer",
        .usage = "tcp://HOST:PORT",
        .about = "Sends damaged and unexpected messages, prints the answers.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    char why[256] = "one endpoint is needed";
    options *o = NULL;
    const char *const *args;
    int rc = options_parse(&o, &set, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) return EXIT_SUCCESS;
    if (rc < 0 || options_args(o, &args) != 1) {
        fprintf(stderr, "odd_peer: %s\n", why);
        options_free(o);
        return EXIT_USAGE;
    }
    rc = open_peer(&p, args[0]);
    if (rc == 0) rc = run_all(&p);
    if (rc < 0) fprintf(stderr, "odd_peer: %s\n", err_text(rc));
    close_peer(&p);
    options_free(o);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
