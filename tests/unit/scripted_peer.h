/* scripted_peer.h - a coordinator's end of a link that does what a test says,
 * in a thread of its own.
 *
 * A script runs in that thread: it takes messages, and answers them well or
 * badly.  What goes wrong there is kept, and asserted by peer_close() in the
 * test's thread, where assertions work. */
#ifndef TESTS_SCRIPTED_PEER_H
#define TESTS_SCRIPTED_PEER_H

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "engine/util.h"
#include "proto/link.h"
#include "proto/message.h"

#define PEER_WAIT_MS 60000
#define PEER_VOCAB 8

typedef struct peer peer;
typedef void (*peer_script)(peer *p);

struct peer {
    struct link *link;
    message_arena *arena;
    pthread_t thread;
    peer_script script;
    uint64_t boot_id;
    frames in; /* the message taken last */
    message m; /* the same, opened; borrows from in and arena */
    char failed[200];
};

static inline void peer_fail(peer *p, const char *what) {
    if (p->failed[0] == '\0')
        snprintf(p->failed, sizeof(p->failed), "%s", what);
}

/* The next message must be of this kind; pings before it are passed over, and
 * so are questions who else there is. */
static inline bool peer_take(peer *p, message_kind kind) {
    uint64_t until = now_ms() + PEER_WAIT_MS;
    char why[200] = "";

    if (p->failed[0] != '\0') return false;
    while (now_ms() < until) {
        frames_fini(&p->in);
        frames_init(&p->in);
        int rc = link_recv(p->link, &p->in);
        if (rc < 0) {
            struct pollfd fd = {.fd = link_fd(p->link), .events = POLLIN};
            (void)poll(&fd, 1, 20);
            continue;
        }
        rc = message_open(&p->in, p->arena, &p->m, why, sizeof(why));
        if (rc < 0) {
            peer_fail(p, why);
            return false;
        }
        if (p->m.kind == kind) return true;
        if (p->m.kind == MESSAGE_PING) continue;
        if (p->m.kind == MESSAGE_MEMBERS_REQUEST) continue;
        snprintf(why, sizeof(why), "%s came instead of %s",
                 message_kind_name(p->m.kind), message_kind_name(kind));
        peer_fail(p, why);
        return false;
    }
    snprintf(why, sizeof(why), "no %s came", message_kind_name(kind));
    peer_fail(p, why);
    return false;
}

/* A header that answers the message taken last. */
static inline message peer_answer(const peer *p, message_kind kind) {
    message m;
    memset(&m, 0, sizeof(m));
    m.kind = kind;
    m.cluster = "test";
    m.boot_id = p->boot_id;
    m.to_boot_id = p->m.boot_id;
    m.request_id = p->m.request_id;
    return m;
}

static inline void peer_send_frames(peer *p, frames *f) {
    frames_copy_address(f, &p->in);
    if (link_send(p->link, f) < 0) peer_fail(p, "a reply could not be sent");
    frames_fini(f);
}

static inline void peer_send(peer *p, const message *m) {
    frames f;
    frames_init(&f);
    if (frames_add(&f, 0) == NULL || message_seal(&f, m) < 0)
        peer_fail(p, "a reply could not be sealed");
    peer_send_frames(p, &f);
}

/* Take HELLO and answer it as the coordinator of a model of PEER_VOCAB ids. */
static inline void peer_welcome(peer *p) {
    if (!peer_take(p, MESSAGE_HELLO)) return;
    message m = peer_answer(p, MESSAGE_WELCOME);
    m.welcome.role = ROLE_COORDINATOR;
    m.welcome.name = "scripted";
    m.welcome.data_endpoint = "";
    m.welcome.cpu = "";
    m.welcome.model = "toy";
    m.welcome.n_vocab = PEER_VOCAB;
    m.welcome.n_context = 64;
    peer_send(p, &m);
}

static inline void peer_accept(peer *p) {
    static const uint32_t prompt[] = {1, 5, 3};
    message m = peer_answer(p, MESSAGE_ACCEPTED);
    m.accepted.sampling.seed = 77;
    m.accepted.sampling.has_seed = true;
    m.accepted.prompt_tokens.items = prompt;
    m.accepted.prompt_tokens.count = 3;
    peer_send(p, &m);
}

static inline void peer_token(peer *p, uint32_t index, uint32_t id,
                              const char *text) {
    message m = peer_answer(p, MESSAGE_TOKEN);
    m.token.index = index;
    m.token.id = id;
    m.token.text.data = text;
    m.token.text.len = strlen(text);
    peer_send(p, &m);
}

static inline void peer_finish(peer *p, finish_reason reason,
                               const char *rest) {
    static const message_share shares[] = {{"node-1", 30}, {"local", 10}};
    message m = peer_answer(p, MESSAGE_FINISHED);
    m.finished.reason = reason;
    m.finished.prompt_tokens = 3;
    m.finished.generated_tokens = 2;
    m.finished.experts_per_token = 4;
    m.finished.experts_stored = 16;
    m.finished.shares = shares;
    m.finished.n_shares = 2;
    m.finished.text.data = rest;
    m.finished.text.len = strlen(rest);
    peer_send(p, &m);
}

static inline void peer_error(peer *p, int code, const char *text) {
    message m = peer_answer(p, MESSAGE_ERROR);
    m.error.code = code;
    m.error.text = text;
    peer_send(p, &m);
}

static inline void *peer_run(void *opaque) {
    peer *p = opaque;
    p->script(p);
    return NULL;
}

/* Run `script` at the server's end of `link`, which it takes over. */
static inline void peer_start_as(peer *p, struct link *link, peer_script script,
                                 uint64_t boot_id) {
    memset(p, 0, sizeof(*p));
    p->link = link;
    p->script = script;
    p->boot_id = boot_id;
    frames_init(&p->in);
    assert_int_equal(message_arena_new(&p->arena, (size_t)1 << 20), 0);
    assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
}

static inline void peer_start(peer *p, struct link *link, peer_script script) {
    peer_start_as(p, link, script, 4711);
}

/* Wait for the end of the script. */
static inline void peer_join(peer *p) {
    pthread_join(p->thread, NULL);
}

/* After peer_join(), and after the client's end was closed. */
static inline void peer_close(peer *p) {
    frames_fini(&p->in);
    message_arena_free(p->arena);
    link_close(p->link);
    assert_string_equal(p->failed, "");
}

#endif
