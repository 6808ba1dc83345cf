/* client.h - inside libroster: one connection and the calls that share it.
 *
 * A call is anything that was asked of the coordinator and waits for answers:
 * a generation, an evaluation, a status.  It is known by its request id, gets
 * the messages that carry this id, and ends exactly once: by its own decision,
 * by an error reply, by its deadline, or because the connection was lost and
 * no other coordinator took over (move.c).
 *
 *   client.c    sending, receiving, deadlines, the end of calls
 *   connect.c   greeting a coordinator; a client's beginning and end
 *   move.c      from a coordinator that is lost or leaving to another one
 *   failover.c  which one that is
 *
 * Nothing here is locked: a client belongs to one thread at a time. */
#ifndef CLIENT_LIB_CLIENT_H
#define CLIENT_LIB_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/include/roster.h"
#include "client/lib/config.h"
#include "client/lib/failover.h"
#include "proto/link.h"
#include "proto/message.h"

#define CLIENT_CALLS_MAX 1024

/* Silence that is borne while the coordinator's own timeout is not known. */
#define CALL_SILENCE_MS 10000

/* Coordinators in a row that took a call over and gave it nothing. */
#define CALL_MOVES_MAX 16

typedef struct call call;

typedef struct {
    /* A message for this call.  An error ends the call with it; `why` is the
     * sentence.  May end the call itself. */
    int (*on_message)(call *c, const message *m, frames *f, char *why,
                      size_t why_size);
    void (*on_end)(call *c); /* has left the client; may be NULL */
    /* Fill in kind and body of the message that asks another coordinator for
     * what is still missing.  NULL: such a call ends with its coordinator. */
    int (*again)(call *c, message *m, char *why, size_t why_size);
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
    bool homeless;      /* no coordinator has it: it waits for the next one */
    bool asked;         /* a coordinator has, or had it */
    uint32_t moves;     /* from one coordinator to another */
    uint32_t fruitless; /* of them, since the last news of substance */
    char why[ROSTER_WHY_BYTES];
};

/* Who serves us, as WELCOME said. */
typedef struct {
    char model[MESSAGE_NAME_MAX + 1];
    char cluster[MESSAGE_NAME_MAX + 1];
    char profile[6 * (MESSAGE_NAME_MAX + 1)]; /* "": not said */
    uint8_t fingerprint[MESSAGE_FINGERPRINT];
    bool has_fingerprint;
    uint32_t n_vocab, n_context;
    uint64_t boot_id;
} coordinator_info;

/* An attempt to be welcomed by a coordinator. */
typedef struct {
    struct link *link; /* NULL: none is under way */
    char endpoint[FAILOVER_ENDPOINT];
    bool sent; /* HELLO is under way */
    uint32_t limit_ms;
    uint64_t until_ms;
} greeting;

/* Opens a link to an endpoint: over ZeroMQ, or whatever a test likes. */
typedef int (*client_opener)(void *opaque, struct link **out,
                             const char *endpoint, char *why, size_t why_size);

struct roster_client {
    roster_config config;
    void *zmq;          /* NULL when the link was given */
    client_opener open; /* NULL: there is one link and never another */
    void *open_opaque;
    struct link *link; /* NULL: to nobody just now */
    int poll_fd;       /* epoll over `link` and the greeting's: never changes */
    message_arena *arena;
    char endpoint[FAILOVER_ENDPOINT];
    char cluster[MESSAGE_NAME_MAX + 1]; /* "": any */

    coordinator_info peer;
    bool known;             /* `peer` was filled: others must be equal */
    uint64_t peer_progress; /* batch steps, by its last pong */

    /* moving */
    failover members;
    greeting greeting;
    bool moving; /* a coordinator is looked for, or greeted */
    bool gone;   /* ours has gone: to be seen at the next turn */
    int waiters; /* calls that wait for the move before they begin */
    uint64_t ask_members_ms;
    uint64_t move_until_ms; /* the end of a search that no call bounds */
    char move_why[ROSTER_WHY_BYTES];

    uint64_t boot_id;
    uint64_t last_id;
    uint64_t heard_ms;   /* last message */
    uint64_t pinged_ms;  /* last ping */
    uint32_t unanswered; /* pings since the last message */
    bool lost;           /* no coordinator, and nobody looks for one */
    bool stale;          /* the link's descriptor may have been consumed */
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
/* The same with links from `open`, and with the moves between them. */
int client_create_with(roster_client **out, client_opener open, void *opaque,
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

/* Send `m` as a new call and put it in flight; while there is no coordinator,
 * one that can be asked again waits for the next.  On failure the call is not
 * in flight. */
int call_start(call *c, const call_kind *kind, roster_client *client,
               message *m, uint32_t timeout_ms);

/* End it, if it is in flight.  `why` may be NULL or the call's own. */
void call_end(call *c, int result, const char *why);

/* Ask the coordinator to stop it; it ends with ERR_CANCELLED. */
void call_cancel(call *c);

/* Take it out of flight without a word to its owner. */
void call_drop(call *c);

/* The next call in flight that is not homeless, of those up to `last_id`; NULL:
 * none.  For loops whose body may run callbacks. */
call *call_with_home(roster_client *c, uint64_t last_id);

/* Wait until the link or the interrupting descriptor (if any) is readable, or
 * `wait_ms` have passed.  -EINTR: the descriptor is, or a signal arrived. */
int client_poll(const roster_client *c, int wait_ms);

/* Is the interrupting descriptor readable? */
bool client_interrupted(const roster_client *c);

/* Process until the call has ended; its result. */
int call_wait(call *c);

/* ---- connect.c ---- */

/* Begin to greet somebody.  0, or why that cannot even begin. */
int greeting_begin(roster_client *c, const char *endpoint, uint32_t limit_ms,
                   char *why, size_t why_size);
/* -EINPROGRESS: wait.  0: welcome, and *info is who that is; the link waits for
 * client_adopt().  Else the attempt has failed and is over. */
int greeting_look(roster_client *c, coordinator_info *info, char *why,
                  size_t why_size);
void greeting_end(roster_client *c);

/* Go on with the coordinator that was greeted; closes the earlier link. */
void client_adopt(roster_client *c, const coordinator_info *info);
/* Close the link, if there is one. */
void client_disconnect(roster_client *c);

/* ---- move.c ---- */

/* May another coordinator take over, as far as the settings go? */
bool client_can_move(const roster_client *c);
/* The coordinator is lost: `why` is a sentence.  Calls may end inside. */
void move_lost(roster_client *c, const char *why);
/* It refuses this call because it is leaving.  false: there is nobody else. */
bool move_refused(call *c, const char *why);
/* A new call waits for a coordinator. */
void move_wanted(roster_client *c);
/* Process until there is a coordinator: for calls that cannot wait in flight.
 */
int move_wait(roster_client *c);
/* One look; how much was done. */
int move_look(roster_client *c);
/* When to look again, by now_ms(); UINT64_MAX: no need. */
uint64_t move_due(const roster_client *c);
/* A homeless call has waited long enough. */
void move_expired(call *c);
/* A message of substance has come: the coordinator does its work. */
void move_settled(call *c);
/* Ask who else there is, if it is time. */
void move_ask_members(roster_client *c);
/* MEMBERS has come. */
void move_learn(roster_client *c, const message *m);

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
