/* fuzz_etcd.c - any bytes as what etcd answers.
 *
 * The first byte chooses what was asked, the rest is the answer; with its high
 * bit set, the rest stands behind a good header, of a stream or not.  What must
 * hold: it is refused with a sentence, or everything that it gave can be read
 * and is within what libetcd promises its users. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void require(bool holds) {
    if (!holds) abort();
}

static void read_bytes(const void *bytes, size_t n) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i <= n; i++)
        sink += at[i];
    require(at[n] == 0);
}

static void check_kv(const etcd_kv *kv) {
    read_bytes(kv->key, kv->key_len);
    read_bytes(kv->value, kv->value_len);
    require(kv->key_len > 0 && kv->mod_revision > 0);
    require(kv->create_revision >= 0 && kv->version >= 0);
    require(kv->create_revision <= kv->mod_revision);
}

static void check_header(const etcd_header *h) {
    require(h->cluster_id != 0 && h->member_id != 0 && h->revision >= 0);
}

static void check_printable(const char *text) {
    for (; *text != '\0'; text++)
        require((unsigned char)*text >= 0x20);
}

static int range(const char *text, size_t n, etcd_why *why) {
    etcd_parse_range_out out;
    int rc = etcd_parse_range(text, n, &out, why);
    if (rc < 0) return rc;
    check_header(&out.header);
    for (size_t i = 0; i < out.n; i++)
        check_kv(&out.kvs[i]);
    etcd_parse_range_fini(&out);
    return 0;
}

static int txn(const char *text, size_t n, etcd_why *why) {
    static const etcd_parse_asked asked = {
        .then = {ETCD_PUT, ETCD_READ, ETCD_DELETE, ETCD_READ},
        .n_then = 4,
        .otherwise = {ETCD_READ, ETCD_DELETE_PREFIX},
        .n_otherwise = 2,
    };
    etcd_parse_txn_out out;
    int rc = etcd_parse_txn(text, n, &asked, &out, why);
    if (rc < 0) return rc;
    check_header(&out.header);
    require(out.n_reads == (out.succeeded ? 2 : 1));
    for (size_t i = 0; i < out.n_reads; i++) {
        read_bytes(out.reads[i].key, out.reads[i].key_len);
        if (out.reads[i].key_len > 0) check_kv(&out.reads[i]);
    }
    etcd_parse_txn_fini(&out);
    return 0;
}

static int lease(const char *text, size_t n, etcd_why *why) {
    etcd_parse_lease_out out;
    int rc = etcd_parse_lease(text, n, &out, why);
    if (rc < 0) return rc;
    check_header(&out.header);
    require(out.id != 0 && out.ttl_s >= 0);
    return 0;
}

static int plain(const char *text, size_t n, etcd_why *why) {
    etcd_header header;
    int rc = etcd_parse_plain(text, n, &header, why);
    if (rc == 0) check_header(&header);
    return rc;
}

static int login(const char *text, size_t n, etcd_why *why) {
    etcd_parse_login_out out;
    int rc = etcd_parse_login(text, n, &out, why);
    if (rc < 0) return rc;
    check_printable(out.token);
    require(strlen(out.token) > 0 && strchr(out.token, ' ') == NULL);
    return 0;
}

static int error(const char *text, size_t n, etcd_why *why) {
    etcd_parse_error_out out;
    int rc = etcd_parse_error(text, n, &out, why);
    if (rc == 0) check_printable(out.message);
    return rc;
}

static int watch(const char *text, size_t n, etcd_why *why) {
    etcd_parse_watch_out out;
    int rc = etcd_parse_watch(text, n, &out, why);
    if (rc < 0) return rc;
    require(!out.is_error || out.n == 0);
    if (!out.is_error) check_header(&out.header);
    check_printable(out.reason);
    int64_t last = 0;
    for (size_t i = 0; i < out.n; i++) {
        check_kv(&out.events[i].kv);
        require(out.events[i].kv.mod_revision >= last);
        last = out.events[i].kv.mod_revision;
    }
    require(out.is_error || last <= out.header.revision || out.n == 0);
    etcd_parse_watch_fini(&out);
    return 0;
}

/* A heap block of exactly its size, so that one byte too many is seen. */
static char *compose(const uint8_t *data, size_t size, size_t *n) {
    static const char *const heads[] = {
        "{\"header\":{\"cluster_id\":\"7\",\"member_id\":\"8\",\"revision\":"
        "\"9\"},",
        "{\"result\":{\"header\":{\"cluster_id\":\"7\",\"member_id\":\"8\","
        "\"revision\":\"9\"},",
    };
    const char *head = "";
    if (data[0] & 0x80) head = heads[data[0] >> 6 & 1];
    size_t head_len = strlen(head);
    *n = head_len + size - 1;
    char *text = malloc(*n > 0 ? *n : 1);
    require(text != NULL);
    memcpy(text, head, head_len);
    memcpy(text + head_len, data + 1, size - 1);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int (*const parsers[])(const char *, size_t, etcd_why *) = {
        range, txn, lease, plain, login, error, watch};
    if (size == 0) return 0;
    size_t which = (data[0] & 0x3F) % (sizeof(parsers) / sizeof(parsers[0]));
    size_t n;
    char *text = compose(data, size, &n);
    etcd_why why = {""};
    int rc = parsers[which](text, n, &why);
    require(rc == 0 || (rc == -EINVAL && why.text[0] != '\0'));
    free(text);
    return 0;
}
