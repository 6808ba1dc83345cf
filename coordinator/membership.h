/* membership.h - which nodes can be used: a plain state machine.
 *
 * Every node is greeted until it answers, then pinged.  A node whose answers
 * stop, or whose pool stands still while work waits, goes down; one that
 * answers again comes up again; one that restarted (another boot id) is greeted
 * anew; one that refuses us (another model, profile, cluster or version) is
 * asked again at long intervals, its reason kept for `status`.  Request
 * deadlines notice a fault long before; this is what keeps a dead node from
 * being asked again and again.
 *
 * A node that keeps crashing would be asked, lost and asked again without end.
 * So one that went down too often lately is in quarantine for a while: it is
 * greeted and pinged as ever, and up when it answers, but not to be relied on
 * where others can be.
 *
 * Nodes are places, numbered from 0.  A static list fills the first ones; nodes
 * that come and go take the lowest free place and leave it again.  Only places
 * up to the highest one in use cost anything. */
#ifndef COORDINATOR_MEMBERSHIP_H
#define COORDINATOR_MEMBERSHIP_H

#include <stddef.h>
#include <stdint.h>
#include "coordinator/placement.h"

#define MEMBERSHIP_MAX_NODES PLACEMENT_MAX_NODES

typedef enum {
    NODE_GREETING, /* no answer yet */
    NODE_UP,
    NODE_DOWN,    /* was up, fell silent or stands still */
    NODE_REFUSED, /* answered that it will not work with us */
} node_state;

typedef struct {
    uint32_t n_nodes;    /* there from the start, in places 0 to n_nodes - 1 */
    uint32_t hello_ms;   /* between greetings */
    uint32_t ping_ms;    /* between pings */
    uint32_t silent_ms;  /* without a pong, though pinged: down */
    uint32_t stuck_ms;   /* without progress while jobs wait: down */
    uint32_t refused_ms; /* between greetings of a node that refused */
    /* So many times down within the window: quarantine, which doubles from the
     * first time to the longest while there is a next one.  0: never. */
    uint32_t crashes; /* at most MEMBERSHIP_MAX_CRASHES */
    uint32_t crash_window_ms, quarantine_ms, quarantine_most_ms;
} membership_config;

#define MEMBERSHIP_MAX_CRASHES 8

typedef struct membership membership;
int membership_new(membership **out, const membership_config *config);
void membership_free(membership *m);

/* A node that has joined: its place.  ERR_OVERLOADED: MEMBERSHIP_MAX_NODES are
 * there already; -ENOMEM. */
int membership_add(membership *m, uint32_t *node);
/* It has left: nothing more is said of it, and its place is free. */
void membership_remove(membership *m, uint32_t node);

typedef enum {
    MEMBER_HELLO, /* greet `node` */
    MEMBER_PING,  /* ping `node` */
    MEMBER_UP,    /* `node` can be used: its last welcome counts */
    MEMBER_GONE,  /* `node` cannot be used any more: `reason` */
    MEMBER_TRUST, /* membership_trust() of `node` is another one now */
    MEMBER_WAIT   /* nothing before an event or wake_ms */
} member_kind;

typedef struct {
    member_kind kind;
    uint32_t node;
    const char *reason; /* static text */
    uint64_t wake_ms;
} member_action;

/* The next thing to do; call until WAIT. */
void membership_next(membership *m, uint64_t now_ms, member_action *out);

void membership_welcome(membership *m, uint64_t now_ms, uint32_t node,
                        uint64_t boot_id);
void membership_refused(membership *m, uint64_t now_ms, uint32_t node,
                        int code);
/* A pong of a boot id other than the welcomed one means a restart. */
void membership_pong(membership *m, uint64_t now_ms, uint32_t node,
                     uint64_t boot_id, uint64_t progress, uint32_t queued_jobs);
/* Any other answer to a ping: it lives, and no more is known. */
void membership_heard(membership *m, uint64_t now_ms, uint32_t node,
                      uint64_t boot_id);

/* The connection to it broke: it is down until it answers a greeting. */
void membership_broken(membership *m, uint64_t now_ms, uint32_t node);
/* The process with this boot id computes what others do not: until it is
 * restarted it is trusted with what nobody else holds only.  ERR_NOT_HERE: it
 * is not there any more. */
int membership_condemn(membership *m, uint32_t node, uint64_t boot_id,
                       const char *reason);
/* In quarantine: *reason and *until_ms (UINT64_MAX: until it is restarted) say
 * more; either may be NULL. */
node_trust membership_trust(const membership *m, uint32_t node,
                            const char **reason, uint64_t *until_ms);

node_state membership_state(const membership *m, uint32_t node);
uint64_t membership_boot(const membership *m, uint32_t node);
int membership_refusal(const membership *m, uint32_t node);
const char *node_state_name(node_state s);

#endif
