/* etcd.c - see etcd.h. */
#include "discovery/libetcd/etcd.h"
#include <errno.h>
#include <stdio.h>

const char *etcd_code_text(etcd_code code) {
    (void)code;
    return "";
}
int etcd_open(etcd **out, const etcd_config *c, char *why, size_t why_size) {
    (void)c;
    *out = NULL;
    snprintf(why, why_size, "not built yet");
    return -ENOSYS;
}
void etcd_close(etcd *e, void (*on_closed)(void *ctx), void *ctx) {
    (void)e; (void)on_closed; (void)ctx;
}
int etcd_get(etcd *e, const etcd_range *r, etcd_range_cb cb, void *ctx) {
    (void)e; (void)r; (void)cb; (void)ctx;
    return -ENOSYS;
}
int etcd_commit(etcd *e, const etcd_txn *t, etcd_txn_cb cb, void *ctx) {
    (void)e; (void)t; (void)cb; (void)ctx;
    return -ENOSYS;
}
int etcd_grant(etcd *e, int64_t ttl_s, etcd_lease_cb cb, void *ctx) {
    (void)e; (void)ttl_s; (void)cb; (void)ctx;
    return -ENOSYS;
}
int etcd_keep_alive(etcd *e, int64_t lease, etcd_lease_cb cb, void *ctx) {
    (void)e; (void)lease; (void)cb; (void)ctx;
    return -ENOSYS;
}
int etcd_revoke(etcd *e, int64_t lease, etcd_lease_cb cb, void *ctx) {
    (void)e; (void)lease; (void)cb; (void)ctx;
    return -ENOSYS;
}
int etcd_watch_open(etcd_watch **out, etcd *e, const void *prefix,
                    size_t prefix_len, int64_t revision, uint64_t cluster_id,
                    etcd_watch_cb cb, void *ctx) {
    (void)e; (void)prefix; (void)prefix_len; (void)revision;
    (void)cluster_id; (void)cb; (void)ctx;
    *out = NULL;
    return -ENOSYS;
}
void etcd_watch_close(etcd_watch *w) { (void)w; }
int etcd_compact(etcd *e, int64_t revision, etcd_done_cb cb, void *ctx) {
    (void)e; (void)revision; (void)cb; (void)ctx;
    return -ENOSYS;
}
const char *etcd_endpoint(const etcd *e) { (void)e; return ""; }
