/* etcd_words.h - paths of etcd's gateway, and how its answers begin: what tests
 * give an etcd_script to say. */
#ifndef TESTS_SUPPORT_ETCD_WORDS_H
#define TESTS_SUPPORT_ETCD_WORDS_H

#define RANGE "/v3/kv/range"
#define TXN "/v3/kv/txn"
#define WATCH "/v3/watch"
#define GRANT "/v3/lease/grant"
#define KEEP "/v3/lease/keepalive"
#define LOGIN "/v3/auth/authenticate"

/* Of cluster 7. */
#define IDS "\"cluster_id\":\"7\",\"member_id\":\"8\""
#define HEADER(revision) "\"header\":{" IDS ",\"revision\":\"" #revision "\"}"
/* A range without keys. */
#define STORE_AT(revision) "{" HEADER(revision) "}"
#define LINE(revision, rest) "{\"result\":{" HEADER(revision) rest "}}\n"
#define CREATED(revision) LINE(revision, ",\"created\":true")

#endif
