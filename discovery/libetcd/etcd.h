/* etcd.h - a client for etcd v3 over its JSON gateway: libcurl on a libuv loop.
 *
 * Ranges, transactions that must carry a compare, leases, watches; several
 * endpoints, TLS, passwords.  It knows nothing of who uses it and includes no
 * header but its own and those of libuv.
 *
 * Everything happens on the loop's thread: calls begin something and return at
 * once; its callback runs later, from the loop, exactly once (a watch's: again
 * and again), never from inside the call that began it.  Keys and values are
 * any bytes.  What a call is given is copied; what a callback is given is
 * borrowed until it returns.
 *
 * What a write's failure means is part of the answer: ETCD_REFUSED says that
 * nothing was written, ETCD_UNKNOWN that nobody knows (a timeout, a broken
 * connection, lost quorum): read before writing again.
 *
 * Answers are bounded (body, line of a stream, keys) and checked: a server that
 * answers nonsense is an error that names it, and the next endpoint is asked.
 *
 * The process ignores SIGPIPE: TLS may write to a connection that has ended.
 *
 * Quirks of etcd that are met here, so that callers need not know them, are
 * listed in etcd.c. */
#ifndef DISCOVERY_LIBETCD_ETCD_H
#define DISCOVERY_LIBETCD_ETCD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef enum {
    ETCD_OK,
    ETCD_FALSE,    /* a transaction whose compare did not hold: not written */
    ETCD_REFUSED,  /* not written; see `why` (bad request, no right) */
    ETCD_NO_SPACE, /* not written: etcd's quota is used up (see upkeep) */
    ETCD_UNKNOWN,  /* a write whose outcome nobody knows */
    ETCD_AWAY,     /* no endpoint answers, or no quorum; a write was not sent */
    ETCD_GONE,     /* the lease does not exist (any more): not written */
    ETCD_BAD_ANSWER, /* an answer that is not what etcd says; not a write */
    ETCD_CANCELLED,  /* etcd_close(); a write may have been done */
    ETCD_NO_MEMORY,  /* not written */
} etcd_code;
const char *etcd_code_text(etcd_code code);

typedef struct {
    uv_loop_t *loop;
    const char *const *endpoints; /* "http://127.0.0.1:2379", https:// */
    size_t n_endpoints;
    const char *user, *password; /* NULL: none */
    /* PEM files; NULL: the system's certificate authorities, no client
     * certificate. */
    const char *ca_file, *cert_file, *key_file;
    uint32_t connect_ms; /* 0: 1000; until the next endpoint is tried */
    uint32_t request_ms; /* 0: 5000; of one request over all its endpoints */
    uint64_t max_body;   /* 0: 64 MiB; of one answer */
    uint64_t max_line;   /* 0: 16 MiB; of one event of a watch */
} etcd_config;

typedef struct etcd etcd;

/* Calls under way at once; one more is -EAGAIN. */
#define ETCD_CALLS_MAX 256

/* ERR-like negative errno values with a sentence in `why`: a bad URL, an
 * unreadable file, no memory.  Nothing is asked of etcd yet. */
int etcd_open(etcd **out, const etcd_config *c, char *why, size_t why_size);

/* Ends everything: each callback that is due comes with ETCD_CANCELLED, from
 * the loop, and then on_closed, after which the etcd is freed.  A watch that is
 * still open ends without a callback and is freed along; closing it is fine
 * until on_closed begins.  Calls that are made meanwhile are -ECANCELED.  NULL
 * is fine (on_closed is not called then). */
void etcd_close(etcd *e, void (*on_closed)(void *ctx), void *ctx);

/* ---- what answers carry ---- */

typedef struct {
    const void *key, *value;
    size_t key_len, value_len; /* zero-terminated as well */
    int64_t create_revision, mod_revision, version, lease;
} etcd_kv;

typedef struct {
    etcd_code code;
    const char *why; /* a sentence naming the endpoint; "" if OK */
    uint64_t cluster_id, member_id;
    int64_t revision; /* of the store when it answered; 0: not known */
} etcd_answer;

/* ---- reading ---- */

typedef struct {
    const void *key;
    size_t key_len;
    bool prefix;       /* every key that begins like this */
    bool serializable; /* may be old; also without quorum */
    int64_t revision;  /* 0: now */
    int64_t limit;     /* 0: none */
} etcd_range;
typedef void (*etcd_range_cb)(void *ctx, const etcd_answer *a,
                              const etcd_kv *kvs, size_t n, bool more);
/* A large range is asked for in pages of one revision and handed over whole
 * (unless `limit`), ascending by key. */
int etcd_get(etcd *e, const etcd_range *r, etcd_range_cb cb, void *ctx);

/* ---- transactions ---- */

typedef enum {
    ETCD_CREATE_REVISION, /* 0: the key does not exist */
    ETCD_MOD_REVISION,
    ETCD_VERSION,
    ETCD_LEASE,
    ETCD_VALUE
} etcd_target;
typedef enum {
    ETCD_EQUAL,
    ETCD_NOT_EQUAL,
    ETCD_GREATER,
    ETCD_LESS
} etcd_relation;

typedef struct {
    const void *key;
    size_t key_len;
    etcd_target target;
    etcd_relation relation;
    int64_t number; /* but for ETCD_VALUE */
    const void *value;
    size_t value_len;
} etcd_compare;

typedef enum {
    ETCD_PUT,
    ETCD_DELETE,
    ETCD_DELETE_PREFIX,
    ETCD_READ
} etcd_op_kind;
typedef struct {
    etcd_op_kind kind;
    const void *key, *value;
    size_t key_len, value_len;
    int64_t lease; /* PUT; 0: none */
} etcd_op;

/* Limits of etcd's defaults, checked before sending. */
#define ETCD_TXN_OPS_MAX 128
#define ETCD_REQUEST_BYTES_MAX 1500000

/* `then` if all compares hold, else `otherwise`.  At least one compare: etcd
 * takes a transaction without any for an unconditional write, so -EINVAL.
 * -E2BIG above the limits.  The server's answer is checked against what was
 * asked (as many responses, of these kinds).  `reads` are the results of the
 * ETCD_READ ops of the branch taken, in order, each one key or none
 * (key_len 0). */
typedef struct {
    const etcd_compare *compares;
    size_t n_compares;
    const etcd_op *then, *otherwise;
    size_t n_then, n_otherwise;
} etcd_txn;
typedef void (*etcd_txn_cb)(void *ctx, const etcd_answer *a,
                            const etcd_kv *reads, size_t n_reads);
int etcd_commit(etcd *e, const etcd_txn *t, etcd_txn_cb cb, void *ctx);

/* ---- leases ---- */

typedef void (*etcd_lease_cb)(void *ctx, const etcd_answer *a, int64_t lease,
                              int64_t ttl_s);
/* The smallest TTL that etcd keeps is 2 s. */
int etcd_grant(etcd *e, int64_t ttl_s, etcd_lease_cb cb, void *ctx);
/* One keepalive, one answer; ETCD_GONE if it has expired. */
int etcd_keep_alive(etcd *e, int64_t lease, etcd_lease_cb cb, void *ctx);
/* Its keys go with it. */
int etcd_revoke(etcd *e, int64_t lease, etcd_lease_cb cb, void *ctx);

/* ---- watching ---- */

typedef struct {
    bool deleted;
    etcd_kv kv; /* of a deletion: key and mod_revision */
} etcd_event;

typedef enum {
    /* Events of one or several revisions; those of one revision are never cut
     * apart.  a->revision is the newest that is known to be covered. */
    ETCD_WATCH_EVENTS,
    /* Connected (again) and up to date: from a->revision on nothing was missed.
     * Also called from time to time while nothing happens (progress). */
    ETCD_WATCH_LIVE,
    /* The connection broke, or the member lost its leader; it is being made
     * again by itself, from the last revision seen.  Once per break. */
    ETCD_WATCH_AWAY,
    /* Events are missing: the revision was compacted, the store's revision went
     * back, it is another cluster (restored, wiped), or they are more than
     * max_line.  The watch has ended: read everything anew, then watch from
     * there; not in a hurry, since that may be lost again. */
    ETCD_WATCH_LOST
} etcd_watch_what;
typedef struct etcd_watch etcd_watch;
/* a->code is ETCD_OK, of AWAY ETCD_AWAY, of LOST ETCD_REFUSED, with `why`. */
typedef void (*etcd_watch_cb)(void *ctx, etcd_watch_what what,
                              const etcd_answer *a, const etcd_event *events,
                              size_t n);

/* All changes of keys with this prefix from `revision` on (the one after a
 * range's).  `cluster_id` is the one that the range named; 0: any. */
int etcd_watch_open(etcd_watch **out, etcd *e, const void *prefix,
                    size_t prefix_len, int64_t revision, uint64_t cluster_id,
                    etcd_watch_cb cb, void *ctx);
/* A key under the prefix to keep an eye on, as the range had it (mod_revision
 * 0: it was not there); copied.  Call once, before the loop goes on.  -ENOMEM.
 * It serves twice.  Looking at one key tells that the watch is up to date at a
 * fraction of what a look at all keys costs, which then is rare.  And the key
 * tells of a store that was replaced unseen: wiped or restored with the same
 * cluster id, and written to until its revision had passed the old one.  A key
 * with another history is ETCD_WATCH_LOST. */
int etcd_watch_anchor(etcd_watch *w, const etcd_kv *key);
/* No callback follows.  NULL is fine.  Also needed after LOST. */
void etcd_watch_close(etcd_watch *w);

/* ---- upkeep ---- */

typedef void (*etcd_done_cb)(void *ctx, const etcd_answer *a);
/* Forget revisions before this one. */
int etcd_compact(etcd *e, int64_t revision, etcd_done_cb cb, void *ctx);

/* An etcd whose quota is used up raises the alarm NOSPACE, and refuses every
 * put and every new lease from then on (ETCD_NO_SPACE), also when there is room
 * again.  The way out, in this order: compact up to now and wait until that is
 * done, defragment every member, disarm the alarm of each member that has it.
 * Deletions and keepalives work all the time. */
int etcd_compact_fully(etcd *e, int64_t revision, etcd_done_cb cb, void *ctx);
/* The member behind this endpoint (0 .. etcd_endpoints()) gives back what was
 * compacted.  It answers nobody else meanwhile; seconds, for a large one. */
int etcd_defragment(etcd *e, size_t endpoint, etcd_done_cb cb, void *ctx);
/* Which members have the alarm. */
typedef void (*etcd_alarms_cb)(void *ctx, const etcd_answer *a,
                               const uint64_t *members, size_t n);
int etcd_no_space_alarms(etcd *e, etcd_alarms_cb cb, void *ctx);
/* The alarm of one member; without a member nothing would happen. */
int etcd_disarm(etcd *e, uint64_t member, etcd_done_cb cb, void *ctx);

size_t etcd_endpoints(const etcd *e);

/* The endpoint that answered last, for status; "" if none has. */
const char *etcd_endpoint(const etcd *e);

#endif
