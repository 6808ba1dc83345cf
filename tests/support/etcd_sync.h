/* etcd_sync.h - libetcd for tests: a loop, one client, and calls that wait.
 *
 * Waiting runs the loop until the callback has come; a wait of more than
 * ETCD_SYNC_PATIENCE_S ends the test program.  Failures of a call are results:
 * its code and sentence are kept until the next call. */
#ifndef TESTS_SUPPORT_ETCD_SYNC_H
#define TESTS_SUPPORT_ETCD_SYNC_H

#include "discovery/libetcd/etcd.h"

#define ETCD_SYNC_PATIENCE_S 180
#define ETCD_SYNC_EVENTS 4096

typedef struct {
    char key[64], value[64]; /* cut to fit */
    size_t value_len;
    int64_t create_revision, mod_revision, lease;
    bool deleted; /* of an event */
} etcd_sync_kv;

typedef struct {
    uv_loop_t loop;
    etcd *etcd; /* NULL: closed */
    bool closed;

    /* of the last call */
    unsigned n_calls_back;
    etcd_code code;
    char why[512];
    uint64_t cluster_id;
    int64_t revision, lease, ttl_s;
    bool more;
    size_t n;
    etcd_sync_kv *kvs; /* [n] */

    /* of the watch */
    etcd_watch *watch;
    unsigned n_live, n_away, n_lost, n_lines;
    int64_t covered;
    char watch_why[512];
    size_t n_events;
    etcd_sync_kv *events; /* [ETCD_SYNC_EVENTS] */
} etcd_sync;

void etcd_sync_open(etcd_sync *s, const etcd_config *config);
/* With one endpoint or more and the defaults. */
void etcd_sync_open_at(etcd_sync *s, const char *const *endpoints, size_t n);
/* Closes the client and the loop, which must be empty then.  Fine on a zeroed
 * or closed one. */
void etcd_sync_close(etcd_sync *s);

/* Runs the loop until *flag, or for so many milliseconds. */
void etcd_sync_until(etcd_sync *s, const bool *flag);
void etcd_sync_until_more(etcd_sync *s, const unsigned *counter, unsigned than);
void etcd_sync_for(etcd_sync *s, uint64_t ms);

etcd_code etcd_sync_get(etcd_sync *s, const char *key, bool prefix);
etcd_code etcd_sync_range(etcd_sync *s, const etcd_range *r);
etcd_code etcd_sync_commit(etcd_sync *s, const etcd_txn *t);
/* Writes whatever was there. */
etcd_code etcd_sync_put(etcd_sync *s, const char *key, const char *value);
etcd_code etcd_sync_put_leased(etcd_sync *s, const char *key, int64_t lease);
/* Writes if the key is not there. */
etcd_code etcd_sync_create(etcd_sync *s, const char *key, const char *value);
etcd_code etcd_sync_delete(etcd_sync *s, const char *key);
etcd_code etcd_sync_grant(etcd_sync *s, int64_t ttl_s);
etcd_code etcd_sync_keep_alive(etcd_sync *s, int64_t lease);
etcd_code etcd_sync_revoke(etcd_sync *s, int64_t lease);
etcd_code etcd_sync_compact(etcd_sync *s, int64_t revision);

/* The last call ended like this, and said why if it did not succeed. */
void etcd_sync_expect(const etcd_sync *s, etcd_code code);

void etcd_sync_watch(etcd_sync *s, const char *prefix, int64_t revision,
                     uint64_t cluster_id);
void etcd_sync_unwatch(etcd_sync *s);

/* A TCP port of the loopback that nobody listens on, nor will but for us. */
int etcd_sync_free_port(void);

#endif
