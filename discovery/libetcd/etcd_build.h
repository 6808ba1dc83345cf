/* etcd_build.h - the requests, as etcd's JSON gateway wants them.
 *
 * etcd ignores fields that it does not know, so a misspelt name does not fail:
 * it changes the meaning (a transaction without `compare` writes always).  That
 * is why all of them are written here, and tested byte for byte.
 *
 * Everything appends to the caller's text; ask t->failed at the end. */
#ifndef DISCOVERY_LIBETCD_ETCD_BUILD_H
#define DISCOVERY_LIBETCD_ETCD_BUILD_H

#include "discovery/libetcd/etcd.h"
#include "discovery/libetcd/etcd_text.h"

/* A page of keys from `key` on. */
typedef struct {
    const void *key; /* length 0: the first of all keys */
    size_t key_len;
    const void *prefix; /* NULL: `key` alone, else those that begin like this */
    size_t prefix_len;
    int64_t revision; /* 0: now */
    int64_t limit;    /* 0: none */
    bool serializable;
} etcd_page;
void etcd_build_page(etcd_text *t, const etcd_page *p);

/* The newest key under the prefix that was written after `revision`, if any. */
void etcd_build_newer(etcd_text *t, const void *prefix, size_t prefix_len,
                      int64_t revision);

/* When a key was made and changed, without its value. */
void etcd_build_stamp(etcd_text *t, const void *key, size_t key_len);

/* -EINVAL without a compare, or with an empty key or unknown kind; -E2BIG above
 * etcd's limits. */
int etcd_build_txn(etcd_text *t, const etcd_txn *txn);

void etcd_build_grant(etcd_text *t, int64_t ttl_s);
void etcd_build_lease(etcd_text *t, int64_t lease);
/* `physical`: answered when it is done, not when it is agreed on. */
void etcd_build_compaction(etcd_text *t, int64_t revision, bool physical);
/* Which alarms there are. */
void etcd_build_alarms(etcd_text *t);
void etcd_build_disarm(etcd_text *t, uint64_t member);
void etcd_build_watch(etcd_text *t, const void *prefix, size_t prefix_len,
                      int64_t revision);
void etcd_build_login(etcd_text *t, const char *user, const char *password);

#endif
