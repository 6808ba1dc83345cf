/* etcd_parse.h - what etcd's gateway answers, read and checked.
 *
 * Pure functions of bytes: no network, no clock.  Each returns 0, -EINVAL with
 * a sentence of what is wrong with the answer, or -ENOMEM; after 0 the caller
 * frees what the comment says. */
#ifndef DISCOVERY_LIBETCD_ETCD_PARSE_H
#define DISCOVERY_LIBETCD_ETCD_PARSE_H

#include "discovery/libetcd/etcd_json.h"

/* ---- a range ---- */

typedef struct {
    etcd_header header;
    etcd_kv *kvs; /* [n] */
    size_t n;
    bool more;
    etcd_keys keys; /* what kvs point to */
} etcd_parse_range_out;
int etcd_parse_range(const char *text, size_t len, etcd_parse_range_out *out,
                     etcd_why *why);
void etcd_parse_range_fini(etcd_parse_range_out *out);

/* ---- a transaction ---- */

/* What was asked: the kinds of the operations of both branches. */
typedef struct {
    uint8_t then[ETCD_TXN_OPS_MAX], otherwise[ETCD_TXN_OPS_MAX];
    size_t n_then, n_otherwise;
} etcd_parse_asked;

typedef struct {
    etcd_header header;
    bool succeeded;
    etcd_kv *reads; /* [n_reads]; key_len 0: no such key */
    size_t n_reads;
    etcd_keys keys;
} etcd_parse_txn_out;
int etcd_parse_txn(const char *text, size_t len, const etcd_parse_asked *asked,
                   etcd_parse_txn_out *out, etcd_why *why);
void etcd_parse_txn_fini(etcd_parse_txn_out *out);

/* ---- what fits in a struct; nothing to free ---- */

typedef struct {
    etcd_header header;
    int64_t id, ttl_s; /* ttl_s 0: the lease has expired */
} etcd_parse_lease_out;
/* A grant, or one keepalive, which comes wrapped as the one item of a stream.
 */
int etcd_parse_lease(const char *text, size_t len, etcd_parse_lease_out *out,
                     etcd_why *why);
/* Answers that are only a header. */
int etcd_parse_plain(const char *text, size_t len, etcd_header *out,
                     etcd_why *why);

/* The members that have the alarm NOSPACE; others of theirs are passed over.
 * No header comes with them. */
#define ETCD_ALARMS_MAX 64
int etcd_parse_alarms(const char *text, size_t len,
                      uint64_t members[ETCD_ALARMS_MAX], size_t *n,
                      etcd_why *why);

typedef struct {
    char token[1024];
} etcd_parse_login_out;
int etcd_parse_login(const char *text, size_t len, etcd_parse_login_out *out,
                     etcd_why *why);

/* gRPC's code and sentence. */
typedef struct {
    int64_t code;
    char message[200]; /* cut if longer; printable */
} etcd_parse_error_out;
int etcd_parse_error(const char *text, size_t len, etcd_parse_error_out *out,
                     etcd_why *why);

/* ---- one line of a watch ---- */

typedef struct {
    etcd_header header;
    bool is_error; /* `error` ends the stream; nothing else is set */
    etcd_parse_error_out error;
    bool created, canceled;
    int64_t compact_revision;
    char reason[200];   /* of a cancellation */
    etcd_event *events; /* [n]; whole revisions in ascending order */
    size_t n;
    etcd_keys keys;
} etcd_parse_watch_out;
int etcd_parse_watch(const char *text, size_t len, etcd_parse_watch_out *out,
                     etcd_why *why);
void etcd_parse_watch_fini(etcd_parse_watch_out *out);

#endif
