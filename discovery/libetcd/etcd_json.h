/* etcd_json.h - the pieces of etcd's answers, read from JSON.
 *
 * What a server sends is not trusted: nesting and the number of values are
 * bounded before a tree is built, and each field is checked when it is read.
 * Absent means zero, as protobuf has it. */
#ifndef DISCOVERY_LIBETCD_ETCD_JSON_H
#define DISCOVERY_LIBETCD_ETCD_JSON_H

#include <jansson.h>
#include "discovery/libetcd/etcd.h"

#define ETCD_JSON_DEPTH_MAX 16          /* etcd's answers have 8 */
#define ETCD_JSON_VALUES_MAX (1u << 20) /* about 100 MB of tree */

/* A sentence of why an answer is nonsense. */
typedef struct {
    char text[160];
} etcd_why;

typedef struct {
    uint64_t cluster_id, member_id;
    int64_t revision;
} etcd_header;

/* Keys and values in memory of their own, from etcd_keys_init() to
 * etcd_keys_fini(). */
typedef struct {
    void *bytes;
    size_t used, room;
} etcd_keys;

/* All return 0, -EINVAL with a sentence, or -ENOMEM. */

/* The caller frees *root by json_decref().  It is an object. */
int etcd_json_load(const char *text, size_t n, json_t **root, etcd_why *why);
int etcd_json_header(const json_t *answer, etcd_header *out, etcd_why *why);
int etcd_json_int(const json_t *o, const char *name, int64_t *out,
                  etcd_why *why);
/* A cluster's or member's: a number above 0. */
int etcd_json_id(const json_t *o, const char *name, uint64_t *out,
                 etcd_why *why);
int etcd_json_bool(const json_t *o, const char *name, bool *out, etcd_why *why);
/* NULL in *out if absent; borrowed from o. */
int etcd_json_object(const json_t *o, const char *name, const json_t **out,
                     etcd_why *why);
int etcd_json_array(const json_t *o, const char *name, const json_t **out,
                    size_t *n, etcd_why *why);
int etcd_json_string(const json_t *o, const char *name, const char **out,
                     size_t *len, etcd_why *why);

/* Room for all keys and values of an answer of `text_len` bytes with up to
 * n_kvs keys. */
int etcd_keys_init(etcd_keys *k, size_t text_len, size_t n_kvs);
void etcd_keys_fini(etcd_keys *k);
/* One key; what it points to is k's.  A key must have bytes and a revision. */
int etcd_json_kv(const json_t *o, etcd_keys *k, etcd_kv *out, etcd_why *why);

#endif
