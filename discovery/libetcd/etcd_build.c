/* etcd_build.c - see etcd_build.h. */
#include "discovery/libetcd/etcd_build.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define OP_OVERHEAD 64 /* what etcd adds to keys and values, generously */

static void field(etcd_text *t, const char *name) {
    char last = t->len > 0 ? t->data[t->len - 1] : '{';
    if (last != '{' && last != '[') etcd_text_add(t, ",");
    etcd_text_add(t, "\"");
    etcd_text_add(t, name);
    etcd_text_add(t, "\":");
}

static void bytes_field(etcd_text *t, const char *name, const void *bytes,
                        size_t n) {
    field(t, name);
    etcd_text_base64(t, bytes, n);
}

static void number_field(etcd_text *t, const char *name, int64_t number) {
    field(t, name);
    etcd_text_number(t, number);
}

static void word_field(etcd_text *t, const char *name, const char *word) {
    field(t, name);
    etcd_text_add(t, word);
}

/* etcd has no empty key; "\0" is the first key, and as an end it means
 * "to the last". */
static void key_field(etcd_text *t, const void *key, size_t n) {
    if (n == 0) {
        bytes_field(t, "key", "", 1);
    } else {
        bytes_field(t, "key", key, n);
    }
}

/* The first key behind all that begin with the prefix: its last byte that can
 * still rise is raised, and what follows is cut. */
static void prefix_end_field(etcd_text *t, const void *prefix, size_t n) {
    const uint8_t *bytes = prefix;
    while (n > 0 && bytes[n - 1] == 0xFF)
        n--;
    if (n == 0) {
        bytes_field(t, "range_end", "", 1);
        return;
    }
    etcd_text end = {0};
    etcd_text_bytes(&end, prefix, n);
    if (end.failed) {
        t->failed = true;
        return;
    }
    end.data[n - 1] = (char)(bytes[n - 1] + 1);
    bytes_field(t, "range_end", end.data, n);
    etcd_text_fini(&end);
}

static void key_and_end(etcd_text *t, const void *prefix, size_t n) {
    key_field(t, prefix, n);
    prefix_end_field(t, prefix, n);
}

void etcd_build_page(etcd_text *t, const etcd_page *p) {
    etcd_text_add(t, "{");
    key_field(t, p->key, p->key_len);
    if (p->prefix != NULL) prefix_end_field(t, p->prefix, p->prefix_len);
    if (p->limit > 0) number_field(t, "limit", p->limit);
    if (p->revision > 0) number_field(t, "revision", p->revision);
    if (p->serializable) word_field(t, "serializable", "true");
    etcd_text_add(t, "}");
}

void etcd_build_newer(etcd_text *t, const void *prefix, size_t prefix_len,
                      int64_t revision) {
    etcd_text_add(t, "{");
    key_and_end(t, prefix, prefix_len);
    number_field(t, "limit", 1);
    word_field(t, "sort_order", "\"DESCEND\"");
    word_field(t, "sort_target", "\"MOD\"");
    word_field(t, "keys_only", "true");
    number_field(t, "min_mod_revision", revision + 1);
    etcd_text_add(t, "}");
}

void etcd_build_stamp(etcd_text *t, const void *key, size_t key_len) {
    etcd_text_add(t, "{");
    key_field(t, key, key_len);
    word_field(t, "keys_only", "true");
    etcd_text_add(t, "}");
}

typedef struct {
    const char *target, *field;
} target_name;

static const target_name targets[] = {
    [ETCD_CREATE_REVISION] = {"\"CREATE\"", "create_revision"},
    [ETCD_MOD_REVISION] = {"\"MOD\"", "mod_revision"},
    [ETCD_VERSION] = {"\"VERSION\"", "version"},
    [ETCD_LEASE] = {"\"LEASE\"", "lease"},
    [ETCD_VALUE] = {"\"VALUE\"", "value"},
};

static const char *const relations[] = {
    [ETCD_EQUAL] = "\"EQUAL\"",
    [ETCD_NOT_EQUAL] = "\"NOT_EQUAL\"",
    [ETCD_GREATER] = "\"GREATER\"",
    [ETCD_LESS] = "\"LESS\"",
};

static void add_compare(etcd_text *t, const etcd_compare *c) {
    etcd_text_add(t, "{");
    word_field(t, "result", relations[c->relation]);
    word_field(t, "target", targets[c->target].target);
    key_field(t, c->key, c->key_len);
    if (c->target == ETCD_VALUE) {
        bytes_field(t, targets[c->target].field, c->value, c->value_len);
    } else {
        number_field(t, targets[c->target].field, c->number);
    }
    etcd_text_add(t, "}");
}

static void add_put(etcd_text *t, const etcd_op *op) {
    etcd_text_add(t, "{\"request_put\":{");
    key_field(t, op->key, op->key_len);
    bytes_field(t, "value", op->value, op->value_len);
    if (op->lease != 0) number_field(t, "lease", op->lease);
    etcd_text_add(t, "}}");
}

static void add_op(etcd_text *t, const etcd_op *op) {
    switch (op->kind) {
    case ETCD_PUT:
        add_put(t, op);
        return;
    case ETCD_DELETE:
        etcd_text_add(t, "{\"request_delete_range\":{");
        key_field(t, op->key, op->key_len);
        break;
    case ETCD_DELETE_PREFIX:
        etcd_text_add(t, "{\"request_delete_range\":{");
        key_and_end(t, op->key, op->key_len);
        break;
    case ETCD_READ:
        etcd_text_add(t, "{\"request_range\":{");
        key_field(t, op->key, op->key_len);
        break;
    }
    etcd_text_add(t, "}}");
}

static void add_ops(etcd_text *t, const char *name, const etcd_op *ops,
                    size_t n) {
    field(t, name);
    etcd_text_add(t, "[");
    for (size_t i = 0; i < n; i++) {
        if (i > 0) etcd_text_add(t, ",");
        add_op(t, &ops[i]);
    }
    etcd_text_add(t, "]");
}

/* Adds to *bytes what the compare takes of a request. */
static int check_compare(const etcd_compare *c, size_t *bytes) {
    if ((size_t)c->target >= ARRAY_LEN(targets) ||
        (size_t)c->relation >= ARRAY_LEN(relations) || c->key_len == 0)
        return -EINVAL;
    size_t value_len = c->target == ETCD_VALUE ? c->value_len : 0;
    if (c->key_len > ETCD_REQUEST_BYTES_MAX ||
        value_len > ETCD_REQUEST_BYTES_MAX)
        return -E2BIG;
    *bytes += c->key_len + value_len + OP_OVERHEAD;
    return 0;
}

static int check_op(const etcd_op *op, size_t *bytes) {
    if (op->kind > ETCD_READ) return -EINVAL;
    if (op->key_len == 0 && op->kind != ETCD_DELETE_PREFIX) return -EINVAL;
    size_t value_len = op->kind == ETCD_PUT ? op->value_len : 0;
    if (op->key_len > ETCD_REQUEST_BYTES_MAX ||
        value_len > ETCD_REQUEST_BYTES_MAX)
        return -E2BIG;
    *bytes += op->key_len + value_len + OP_OVERHEAD;
    return 0;
}

static int check_txn(const etcd_txn *txn) {
    if (txn->n_compares == 0) return -EINVAL;
    if (txn->n_compares > ETCD_TXN_OPS_MAX || txn->n_then > ETCD_TXN_OPS_MAX ||
        txn->n_otherwise > ETCD_TXN_OPS_MAX)
        return -E2BIG;
    size_t bytes = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < txn->n_compares; i++)
        rc = check_compare(&txn->compares[i], &bytes);
    for (size_t i = 0; rc == 0 && i < txn->n_then; i++)
        rc = check_op(&txn->then[i], &bytes);
    for (size_t i = 0; rc == 0 && i < txn->n_otherwise; i++)
        rc = check_op(&txn->otherwise[i], &bytes);
    if (rc < 0) return rc;
    return bytes > ETCD_REQUEST_BYTES_MAX ? -E2BIG : 0;
}

int etcd_build_txn(etcd_text *t, const etcd_txn *txn) {
    int rc = check_txn(txn);
    if (rc < 0) return rc;

    etcd_text_add(t, "{\"compare\":[");
    for (size_t i = 0; i < txn->n_compares; i++) {
        if (i > 0) etcd_text_add(t, ",");
        add_compare(t, &txn->compares[i]);
    }
    etcd_text_add(t, "]");
    add_ops(t, "success", txn->then, txn->n_then);
    add_ops(t, "failure", txn->otherwise, txn->n_otherwise);
    etcd_text_add(t, "}");
    return t->failed ? -ENOMEM : 0;
}

void etcd_build_grant(etcd_text *t, int64_t ttl_s) {
    etcd_text_add(t, "{");
    number_field(t, "TTL", ttl_s);
    etcd_text_add(t, "}");
}

void etcd_build_lease(etcd_text *t, int64_t lease) {
    etcd_text_add(t, "{");
    number_field(t, "ID", lease);
    etcd_text_add(t, "}");
}

void etcd_build_compaction(etcd_text *t, int64_t revision, bool physical) {
    etcd_text_add(t, "{");
    number_field(t, "revision", revision);
    if (physical) word_field(t, "physical", "true");
    etcd_text_add(t, "}");
}

void etcd_build_alarms(etcd_text *t) {
    etcd_text_add(t, "{");
    word_field(t, "action", "\"GET\"");
    etcd_text_add(t, "}");
}

void etcd_build_disarm(etcd_text *t, uint64_t member) {
    char id[32];
    snprintf(id, sizeof(id), "\"%" PRIu64 "\"", member);
    etcd_text_add(t, "{");
    word_field(t, "action", "\"DEACTIVATE\"");
    word_field(t, "memberID", id);
    word_field(t, "alarm", "\"NOSPACE\"");
    etcd_text_add(t, "}");
}

void etcd_build_watch(etcd_text *t, const void *prefix, size_t prefix_len,
                      int64_t revision) {
    etcd_text_add(t, "{\"create_request\":{");
    key_and_end(t, prefix, prefix_len);
    number_field(t, "start_revision", revision);
    word_field(t, "progress_notify", "true");
    etcd_text_add(t, "}}");
}

void etcd_build_login(etcd_text *t, const char *user, const char *password) {
    etcd_text_add(t, "{");
    field(t, "name");
    etcd_text_quoted(t, user);
    field(t, "password");
    etcd_text_quoted(t, password);
    etcd_text_add(t, "}");
}
