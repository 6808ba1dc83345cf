/* sim_etcd.h - a model of etcd, and a process's side of it.
 *
 * One linear history; leases; transactions with compares; watches.  It behaves
 * as etcd 3.4 was seen to: a keepalive of a lease that ran out says so without
 * an error; a watch from a compacted revision is told so when it begins;
 * without a quorum nothing is answered, watches break off after 3 seconds, and
 * a write may be carried out later; out of space it refuses what would add to
 * it; a restart gives every lease its full time again; restored from a snapshot
 * or wiped it is another cluster, and its revisions go back. */
#ifndef TESTS_SIM_SIM_ETCD_H
#define TESTS_SIM_SIM_ETCD_H

#include "discovery/rack_view.h"
#include "discovery/session.h"
#include "tests/sim/sim_base.h"

#define SIM_TIMEOUT_MS 1500 /* of a request to etcd */
#define SIM_CUT_OFF_MS 3000 /* until a watch without a leader breaks off */
#define SIM_KEYS 64
#define SIM_LEASES 64

typedef struct {
    char key[40];      /* without the cluster's prefix */
    const void *value; /* NULL: deleted */
    size_t bytes;
    int64_t create_revision, mod_revision, lease;
} sim_kv;

typedef enum {
    REQUEST_GRANT,
    REQUEST_KEEP,
    REQUEST_READ,
    REQUEST_WRITE, /* puts[0], if its mod_revision is `expected` */
    REQUEST_LIST,
    REQUEST_WATCH, /* from the revision after `expected` on, of `cluster` */
    REQUEST_STEP,  /* puts, if term and revision fit; planned from `cluster` */
    REQUEST_COMPACT
} sim_request_kind;

typedef struct {
    sim_request_kind kind;
    uint32_t member, life;
    session_slot slot;
    int64_t lease, expected, term;
    uint64_t cluster;
    int64_t seen;  /* STEP: the revision that the writer's view covers */
    uint64_t told; /* STEP: the newest placement that a node told the writer */
    sim_kv *puts;  /* WRITE, STEP; READ: the key */
    uint32_t n_puts;
    bool releases; /* WRITE: a deletion */
    bool recovers; /* STEP: an operator's */
    bool stuck;    /* the answer is never sent */
    bool decided;  /* whether a write under way when etcd hung is carried out */

    bool answered; /* or given up */
    session_outcome outcome;
    bool lost; /* WATCH: the history cannot be followed */
    int64_t revision, granted;
    sim_kv *found; /* READ, LIST */
    uint32_t n_found;
} sim_request;

typedef struct {
    int64_t id;
    uint64_t ends_us;
} sim_lease;

typedef struct {
    sim_kv keys[SIM_KEYS];
    uint32_t n_keys;
    sim_lease leases[SIM_LEASES];
    uint32_t n_leases;
    int64_t revision, compacted;
    uint32_t n_history;
} sim_store;

typedef enum { STORE_UP, STORE_DEAD, STORE_HUNG } sim_store_state;

typedef struct {
    sim_store now, saved;
    bool has_saved;
    sim_store_state state;
    bool full;
    uint64_t cluster;
    int64_t next_lease;
    sim_kv *history; /* every change, ascending by mod_revision */
    uint32_t history_room;
    uint64_t newest_epoch; /* packed, that it has; 0: none */
    uint64_t replaced_us;  /* when it was wiped or restored last; 0: never */
} sim_etcd;

/* A process, as etcd knows it. */
typedef struct {
    char name[16];
    bool started, alive, frozen;
    bool gone;   /* for good */
    bool cut;    /* from etcd */
    bool asleep; /* with its machine: its clock stands still */
    uint32_t life;
    uint64_t boot, died_us, frozen_us, asleep_us; /* all sleep, so far */
    session *session;
    rack_view *view;
    uint64_t epoch; /* the highest taken up in this life */
    bool listed, listing, listing_anew;
    uint64_t live_ms;  /* since when the view is known to be true; 0: is not */
    uint64_t cluster;  /* that was listed */
    int64_t seen;      /* revision that the view covers */
    bool watching;     /* etcd sends to it */
    bool rewatching;   /* it has asked */
    uint32_t watch;    /* which; an earlier one's events are void */
    uint64_t watch_us; /* its events come in order */
    uint64_t slow_us;  /* by which they come late */
    char *texts[SESSION_SLOTS];
    uint32_t timer; /* the newest counts */
} sim_member;

/* ---- sim_etcd.c ---- */

/* Carry out a request and fill in its answer. */
void sim_etcd_do(sim *s, sim_request *r);
void sim_etcd_expire(sim *s);
/* As somebody with etcdctl would; etcd must be up. */
void sim_etcd_put(sim *s, const char *key, const char *text);
void sim_etcd_delete(sim *s, const char *key);
const sim_kv *sim_etcd_find(const sim_etcd *e, const char *key);
void sim_etcd_compact(sim *s, int64_t revision);
/* Faults. */
void sim_etcd_stop(sim *s, sim_store_state state);
void sim_etcd_start(sim *s, bool renew_leases);
void sim_etcd_save(sim *s);
void sim_etcd_restore(sim *s, bool wipe);
void sim_etcd_cut(sim *s, uint32_t member, bool cut);

/* ---- sim_member.c ---- */

uint64_t sim_mono_us(const sim *s,
                     uint32_t member); /* stops with its machine */
uint64_t sim_mono_ms(const sim *s, uint32_t member);
uint64_t sim_boot_ms(const sim *s, uint32_t member); /* goes on */
void sim_member_start(sim *s, uint32_t member);
void sim_member_stop(sim *s, uint32_t member);
void sim_member_want(sim *s, uint32_t member, session_slot slot, char *text);
/* Do what its session asks for; when to come back, in microseconds from now. */
uint64_t sim_member_act(sim *s, uint32_t member);
void sim_member_send(sim *s, uint32_t member, sim_request *r);
/* A request reaches etcd; its answer the process; its time is up. */
void sim_member_request(sim *s, sim_request *r);
void sim_member_answer(sim *s, uint32_t member, sim_request *r);
void sim_member_timeout(sim *s, uint32_t member, sim_request *r);
void sim_member_watched(sim *s, uint32_t member, const sim_event *e);
void sim_member_cut_off(sim *s, uint32_t member, const sim_event *e);
void sim_member_rewatch(sim *s, uint32_t member);
void sim_member_list(sim *s, uint32_t member);

#endif
