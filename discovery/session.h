/* session.h - a process's lease in etcd and the keys that live by it: a plain
 * state machine.
 *
 * It wants: a lease, kept alive; the process's own record under a key that no
 * other live process has; for a node its ready record; for a coordinator that
 * campaigns, the leader key.  Events and the time go in, actions come out; no
 * socket, no clock.  One request is under way at a time for each of: lease,
 * record, ready, leader.
 *
 * Rules it keeps (each has a test):
 *   - the record is put only where there is none, or over one's own (equal boot
 *     id), or over a dead predecessor's (equal control endpoint, which only one
 *     living process can have bound; should that be untrue, once in a lease's
 *     time at most); else it is refused, and tried again;
 *   - after an unknown outcome it reads before it writes again;
 *   - a lease is lost when etcd says so, or when its time has passed since the
 *     last answered request was sent; then everything is registered anew;
 *   - leadership ends, for the one who has it, before its lease can run out:
 *     when 2/3 of its time has passed without an answer. */
#ifndef DISCOVERY_SESSION_H
#define DISCOVERY_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t ttl_ms;   /* of the lease; at least 2,000 */
    uint32_t retry_ms; /* after a failure; doubles up to 8 times that */
    uint64_t boot;
    bool campaign; /* a coordinator */
} session_config;

typedef struct session session;
int session_new(session **out, const session_config *c);
void session_free(session *s);

typedef enum {
    SESSION_GRANT,   /* a lease of ttl_ms */
    SESSION_KEEP,    /* keep `lease` alive */
    SESSION_REVOKE,  /* at the end */
    SESSION_READ,    /* read `slot`'s key */
    SESSION_WRITE,   /* put `slot`'s key with `lease` if its mod_revision is
                        `mod_revision` (0: if there is none) */
    SESSION_RELEASE, /* delete `slot`'s key if its mod_revision is
                        `mod_revision` */
    SESSION_WAIT     /* nothing before an event or wake_ms */
} session_kind;

typedef enum {
    SLOT_RECORD,
    SLOT_READY,
    SLOT_LEADER,
    SESSION_SLOTS
} session_slot;

typedef struct {
    session_kind kind;
    session_slot slot;
    int64_t lease, mod_revision;
    uint64_t wake_ms;
} session_action;

/* The next thing to do; call until WAIT. */
void session_next(session *s, uint64_t now_ms, session_action *out);

/* A slot has (new) contents to be written; before that nothing is.  The leader
 * slot needs none. */
void session_want(session *s, session_slot slot);

/* ---- answers.  Codes are those of libetcd, reduced to what matters. ---- */
typedef enum {
    SESSION_DONE,  /* it worked */
    SESSION_NOT,   /* certainly did not: compare, refusal, nobody there */
    SESSION_MAYBE, /* a write whose outcome nobody knows */
    SESSION_LOST   /* the lease is gone */
} session_outcome;
void session_granted(session *s, uint64_t now_ms, session_outcome o,
                     int64_t lease, uint32_t ttl_ms);
void session_kept(session *s, uint64_t now_ms, session_outcome o);
void session_wrote(session *s, uint64_t now_ms, session_slot slot,
                   session_outcome o, int64_t revision);

/* The answer to a RELEASE; `revision` is that of the deletion. */
void session_released(session *s, uint64_t now_ms, session_slot slot,
                      session_outcome o, int64_t revision);

/* What stands under a slot's key.  boot 0: nothing, and mod_revision is then
 * the revision at which that was so (of the deletion, of the read).
 * `same_place`: it names our own endpoint. */
typedef struct {
    uint64_t boot;
    int64_t create_revision, mod_revision, lease;
    bool same_place;
} session_found;
/* The answer to a READ; `found` counts only with SESSION_DONE. */
void session_read(session *s, uint64_t now_ms, session_slot slot,
                  session_outcome o, const session_found *found);
/* From the watch, at any time.  What is older than what is known is ignored. */
void session_seen(session *s, session_slot slot, const session_found *found);
/* The store is not the one it was (wiped, restored): what was seen of it counts
 * no more, and revisions may have gone back.  The keys are read again. */
void session_forget(session *s);
/* etcd was out of reach, and answers again: what failed meanwhile says nothing
 * of what comes, so nothing waits because of it. */
void session_reachable(session *s);

/* Give everything up: REVOKE, then only WAIT. */
void session_end(session *s);
/* Stop (or resume) wanting the leader key.  One that is held is RELEASEd, and
 * the term ends at once. */
void session_campaign(session *s, bool wants);

/* ---- reports ---- */
bool session_registered(const session *s);
/* Somebody else lives under our name. */
bool session_name_taken(const session *s);
/* There is a lease to be given back, or there will be. */
bool session_leased(const session *s);
/* The term (the leader key's create_revision) while we may act as leader, else
 * 0. */
int64_t session_term(const session *s, uint64_t now_ms);

#endif
