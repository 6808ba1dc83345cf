/* client.h - inside libroster: one connection and the calls that share it.
 *
 * A call is anything that was asked of the coordinator and waits for answers:
 * a generation, an evaluation, a status.  It is known by its request id, gets
 * the messages that carry this id, and ends exactly once: by its own decision,
 * by an error reply, by its deadline, or because the connection was lost.
 * Nothing here is locked: a client belongs to one thread at a time. */
#ifndef CLIENT_LIB_CLIENT_H
#define CLIENT_LIB_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/include/roster.h"
#include "client/lib/config.h"
#include "proto/link.h"
#include "proto/message.h"

#define CLIENT_CALLS_MAX 1024

/* Silence that is borne while the coordinator's own timeout is not known. */
#define CALL_SILENCE_MS 10000

typedef struct call call;

typedef struct {
    /* A message for this call.  An error ends the call with it; `why` is the
     * sentence.  May end the call itself. */
    int (*on_message)(call *c, const message *m, frames *f, char *why,
                      size_t why_size);
    void (*on_end)(call *c); /* has left the client; may be NULL */
} call_kind;

/* Embedded, as the first member, in what makes the call. */
struct call {
    const call_kind *kind;
    roster_client *client;
    call *next;
    uint64_t id;
    int result;           /* -EINPROGRESS while in flight */
    uint32_t timeout_ms;  /* longest time without news, before grace */
    uint64_t deadline_ms; /* by now_ms() */
    bool cancelling;
    char why[ROSTER_WHY_BYTES];
};

struct roster_client {
    roster_config config;
    void *zmq; /* NULL when the link was given */
    struct link *link;
    message_arena *arena;
    char endpoint[ENDPOINT_MAX + 8];

    /* from WELCOME */
    char model[MESSAGE_NAME_MAX + 1];
    char cluster[MESSAGE_NAME_MAX + 1];
    uint8_t fingerprint[MESSAGE_FINGERPRINT];
    bool has_fingerprint;
    uint32_t n_vocab, n_context;
    uint64_t peer_boot_id;
    uint64_t peer_progress; /* batch steps, by its last pong */

    uint64_t boot_id;
    uint64_t last_id;
    uint64_t heard_ms; /* last message or probe */
    bool lost;
    bool stale; /* the link's descriptor may have been consumed */
    call *calls;
    size_t n_calls;

    int callbacks;                  /* of the user's, now running */
    roster_generation *generations; /* all that the user holds */
    roster_generation *dead; /* destroyed inside a callback: freed after it */

    char *status;                  /* latest roster_status() */
    struct evaluation *evaluation; /* latest roster_eval(), for its figures */
    char why[ROSTER_WHY_BYTES];
};

/* A client over a link that exists already (taken over, also on failure), for
 * tests over memory: roster_client_create() without the socket. */
int client_create_over(roster_client **out, struct link *l,
                       const roster_config *config, char *why, size_t why_size);

/* Note a failure as the client's latest and return its code. */
int client_fail(roster_client *c, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Fill what every header of ours says. */
void client_header(const roster_client *c, message *m, message_kind kind,
                   uint64_t request_id);

/* Send a message without payloads.  -EAGAIN: full or not connected. */
int client_send(roster_client *c, const message *m);

/* May the user start or wait for something now? */
int client_ready(roster_client *c, bool waits);

/* Send `m` as a new call and put it in flight.  On failure the call is not. */
int call_start(call *c, const call_kind *kind, roster_client *client,
               message *m, uint32_t timeout_ms);

/* End it, if it is in flight.  `why` may be NULL or the call's own. */
void call_end(call *c, int result, const char *why);

/* Ask the coordinator to stop it; it ends with ERR_CANCELLED. */
void call_cancel(call *c);

/* Take it out of flight without a word to its owner. */
void call_drop(call *c);

/* Wait until the link or the interrupting descriptor (if any) is readable, or
 * `wait_ms` have passed.  -EINTR: the descriptor is, or a signal arrived. */
int client_poll(const roster_client *c, int wait_ms);

/* Process until the call has ended; its result. */
int call_wait(call *c);

/* generation.c: free what the user destroyed inside callbacks, or everything */
void generations_reap(roster_client *c);
void generations_free_all(roster_client *c);

/* eval.c */
void evaluation_free(struct evaluation *e);

/* input.c: copy a struct of `size` bytes, as the caller was compiled with, into
 * ours of `own` bytes; members it does not know are zero.  ERR_USAGE if `size`
 * was not set, ERR_UNSUPPORTED if it sets members that we do not know. */
int client_input_copy(void *to, size_t own, const void *from, char *why,
                      size_t why_size);

#endif
