/* registry_internal.h - what the parts of a registry share.
 *
 * registry.c opens, closes and publishes; registry_session.c carries out what
 * the session asks for; registry_watch.c lists and watches; registry_write.c
 * writes for the rack; registry_space.c gets etcd out of want of space. */
#ifndef DISCOVERY_REGISTRY_INTERNAL_H
#define DISCOVERY_REGISTRY_INTERNAL_H

#include "discovery/registry.h"
#include "discovery/session.h"

#define REGISTRY_RETRY_MS 200
#define REGISTRY_RETRY_MOST_MS 2000
#define REGISTRY_WHY 512

/* A key of our own: what is to stand there, and a request about it. */
typedef struct {
    registry *registry;
    session_slot slot;
    char key[RECORD_KEY];
    size_t key_len;
    char *text; /* NULL: nothing to say yet */
} own_key;

typedef enum {
    REGISTRY_RUNNING,
    REGISTRY_LEAVING, /* revoking the lease */
    REGISTRY_CLOSING  /* libetcd is being closed */
} registry_phase;

/* What the last words about etcd in the log were. */
typedef enum { ETCD_NEVER_SEEN, ETCD_HERE, ETCD_NOT_HERE } etcd_seen;

typedef struct reclaim reclaim;

struct registry {
    uv_loop_t *loop;
    registry_role role;
    uint64_t boot;
    uint32_t ttl_s;
    char cluster[RECORD_NAME], name[RECORD_NAME];
    void (*on_change)(void *ctx);
    void *ctx;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
    registry_phase phase;

    etcd *etcd;
    session *session;
    own_key own[SESSION_SLOTS];
    char place[RECORD_ENDPOINT]; /* the endpoint that our record names */

    rack_view *view;
    char prefix[RECORD_KEY];
    size_t prefix_len;
    etcd_watch *watch;
    bool listed;
    bool listing;
    bool listing_anew; /* the watch was lost: nothing that was seen counts */
    uint32_t list_retry_ms;
    int64_t revision; /* the newest that the view covers */
    uint64_t live_since;

    etcd_seen seen;
    uint64_t away_since;
    bool waiting_told; /* that it is not there, at the start */
    bool told_rolled_back;
    char why[REGISTRY_WHY];     /* what is wrong now, or "" */
    char refusal[REGISTRY_WHY]; /* of the last write; "": it was not refused */

    bool no_space;
    uint64_t space_looked_ms;
    reclaim *reclaiming; /* under way; NULL: none */

    /* what was reported last */
    bool registered, name_taken;
    int64_t term;

    uv_timer_t session_timer, list_timer, notify_timer, close_timer;
    int open_handles;
};

/* on_change() soon, from the loop; many calls make one. */
void registry_notify(registry *r);

/* ---- registry_session.c ---- */

/* The session's time; for nothing else. */
uint64_t registry_now_ms(void);

/* Do what the session asks for, and look again when it wants that. */
void registry_drive(registry *r);
/* Show the session what stands under a key of ours; value NULL: nothing, since
 * `revision`. */
void registry_sight(registry *r, own_key *own, const etcd_kv *kv,
                    int64_t revision);
/* The lease is gone for good, or nobody knows: go on with closing. */
void registry_left(registry *r);

/* ---- registry_space.c ---- */

/* What a write's outcome says of etcd's space. */
void registry_note_space(registry *r, const etcd_answer *a);
/* From time to time: look whether somebody else has done something about it. */
void registry_look_for_space(registry *r);

/* ---- registry_watch.c ---- */

/* The store may be another one: nothing that was seen of it counts, and all is
 * listed anew. */
void registry_list_anew(registry *r);

void registry_list(registry *r);
void registry_on_list_timer(uv_timer_t *timer);

#endif
