/* etcd_parse.c - see etcd_parse.h. */
#include "discovery/libetcd/etcd_parse.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_text.h"

static int nonsense(etcd_why *why, const char *text) {
    snprintf(why->text, sizeof(why->text), "%s", text);
    return -EINVAL;
}

/* Cut to fit, and without what a log should not have. */
static void copy_printable(char *out, size_t out_size, const char *in,
                           size_t len) {
    if (len >= out_size) len = out_size - 1;
    memcpy(out, in, len);
    out[len] = '\0';
    etcd_text_clean(out);
}

/* A stream's item, or what is not one itself. */
static const json_t *unwrap(const json_t *root) {
    const json_t *result = json_object_get(root, "result");
    return json_is_object(result) ? result : root;
}

/* ---- range ---- */

/* Keys of a "kvs" list into `kvs`, which has room for them. */
static int read_kvs(const json_t *list, size_t n, etcd_keys *keys, etcd_kv *kvs,
                    etcd_why *why) {
    for (size_t i = 0; i < n; i++) {
        int rc = etcd_json_kv(json_array_get(list, i), keys, &kvs[i], why);
        if (rc < 0) return rc;
    }
    return 0;
}

static int read_range(const json_t *root, size_t len, etcd_parse_range_out *out,
                      etcd_why *why) {
    const json_t *list;
    int rc = etcd_json_header(root, &out->header, why);
    if (rc == 0) rc = etcd_json_bool(root, "more", &out->more, why);
    if (rc == 0) rc = etcd_json_array(root, "kvs", &list, &out->n, why);
    if (rc < 0) return rc;

    out->kvs = calloc(out->n + 1, sizeof(*out->kvs));
    if (out->kvs == NULL) return -ENOMEM;
    rc = etcd_keys_init(&out->keys, len, out->n);
    if (rc < 0) return rc;
    return read_kvs(list, out->n, &out->keys, out->kvs, why);
}

int etcd_parse_range(const char *text, size_t len, etcd_parse_range_out *out,
                     etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;

    rc = read_range(root, len, out, why);
    json_decref(root);
    if (rc < 0) etcd_parse_range_fini(out);
    return rc;
}

void etcd_parse_range_fini(etcd_parse_range_out *out) {
    free(out->kvs);
    etcd_keys_fini(&out->keys);
    memset(out, 0, sizeof(*out));
}

/* ---- transaction ---- */

static const char *const response_names[] = {
    [ETCD_PUT] = "response_put",
    [ETCD_DELETE] = "response_delete_range",
    [ETCD_DELETE_PREFIX] = "response_delete_range",
    [ETCD_READ] = "response_range",
};

static int read_one(const json_t *range, etcd_keys *keys, etcd_kv *out,
                    etcd_why *why) {
    const json_t *list;
    size_t n;
    int rc = etcd_json_array(range, "kvs", &list, &n, why);
    if (rc < 0) return rc;
    if (n > 1) return nonsense(why, "several keys where one was asked for");
    memset(out, 0, sizeof(*out));
    out->key = out->value = "";
    return read_kvs(list, n, keys, out, why);
}

/* etcd answers each operation of the branch it took, in order. */
static int read_responses(const json_t *list, size_t n, const uint8_t *kinds,
                          etcd_parse_txn_out *out, etcd_why *why) {
    for (size_t i = 0; i < n; i++) {
        const json_t *response = json_array_get(list, i), *inner;
        if (!json_is_object(response) || json_object_size(response) != 1)
            return nonsense(why, "a response that is no object of one");
        int rc =
            etcd_json_object(response, response_names[kinds[i]], &inner, why);
        if (rc < 0) return rc;
        if (inner == NULL)
            return nonsense(why, "a response of another kind than asked for");
        if (kinds[i] != ETCD_READ) continue;
        rc = read_one(inner, &out->keys, &out->reads[out->n_reads], why);
        if (rc < 0) return rc;
        out->n_reads++;
    }
    return 0;
}

static int read_txn(const json_t *root, size_t len,
                    const etcd_parse_asked *asked, etcd_parse_txn_out *out,
                    etcd_why *why) {
    const json_t *list;
    size_t n;
    int rc = etcd_json_header(root, &out->header, why);
    if (rc == 0) rc = etcd_json_bool(root, "succeeded", &out->succeeded, why);
    if (rc == 0) rc = etcd_json_array(root, "responses", &list, &n, why);
    if (rc < 0) return rc;
    if (n != (out->succeeded ? asked->n_then : asked->n_otherwise))
        return nonsense(why, "another number of responses than asked for");

    out->reads = calloc(n + 1, sizeof(*out->reads));
    if (out->reads == NULL) return -ENOMEM;
    rc = etcd_keys_init(&out->keys, len, n);
    if (rc < 0) return rc;
    return read_responses(
        list, n, out->succeeded ? asked->then : asked->otherwise, out, why);
}

int etcd_parse_txn(const char *text, size_t len, const etcd_parse_asked *asked,
                   etcd_parse_txn_out *out, etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;

    rc = read_txn(root, len, asked, out, why);
    json_decref(root);
    if (rc < 0) etcd_parse_txn_fini(out);
    return rc;
}

void etcd_parse_txn_fini(etcd_parse_txn_out *out) {
    free(out->reads);
    etcd_keys_fini(&out->keys);
    memset(out, 0, sizeof(*out));
}

/* ---- what fits in a struct ---- */

static int read_lease(const json_t *root, etcd_parse_lease_out *out,
                      etcd_why *why) {
    const json_t *lease = unwrap(root);
    int rc = etcd_json_header(lease, &out->header, why);
    if (rc == 0) rc = etcd_json_int(lease, "ID", &out->id, why);
    if (rc == 0) rc = etcd_json_int(lease, "TTL", &out->ttl_s, why);
    if (rc < 0) return rc;
    if (out->id == 0) return nonsense(why, "a lease without an \"ID\"");
    if (out->ttl_s < 0) out->ttl_s = 0; /* -1: expired, for some versions */
    return 0;
}

int etcd_parse_lease(const char *text, size_t len, etcd_parse_lease_out *out,
                     etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;
    rc = read_lease(root, out, why);
    json_decref(root);
    return rc;
}

int etcd_parse_plain(const char *text, size_t len, etcd_header *out,
                     etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;
    rc = etcd_json_header(root, out, why);
    json_decref(root);
    return rc;
}

static int read_alarm(const json_t *o, uint64_t members[ETCD_ALARMS_MAX],
                      size_t *n, etcd_why *why) {
    const char *kind;
    size_t len;
    if (!json_is_object(o)) return nonsense(why, "an alarm is no object");
    int rc = etcd_json_string(o, "alarm", &kind, &len, why);
    if (rc < 0 || strcmp(kind, "NOSPACE") != 0) return rc;
    if (*n == ETCD_ALARMS_MAX) return nonsense(why, "too many alarms");
    rc = etcd_json_id(o, "memberID", &members[*n], why);
    if (rc == 0) (*n)++;
    return rc;
}

int etcd_parse_alarms(const char *text, size_t len,
                      uint64_t members[ETCD_ALARMS_MAX], size_t *n,
                      etcd_why *why) {
    json_t *root;
    const json_t *list;
    size_t count;
    *n = 0;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;
    rc = etcd_json_array(root, "alarms", &list, &count, why);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = read_alarm(json_array_get(list, i), members, n, why);
    json_decref(root);
    if (rc < 0) *n = 0;
    return rc;
}

/* The token becomes a line of a later request's head. */
static int read_token(const json_t *root, etcd_parse_login_out *out,
                      etcd_why *why) {
    const char *token;
    size_t len;
    int rc = etcd_json_string(root, "token", &token, &len, why);
    if (rc < 0) return rc;
    if (len == 0 || len >= sizeof(out->token))
        return nonsense(why, "no token of a sensible length");
    for (size_t i = 0; i < len; i++) {
        if (token[i] <= ' ' || token[i] > '~')
            return nonsense(why, "a token that cannot stand in a header");
    }
    memcpy(out->token, token, len + 1);
    return 0;
}

int etcd_parse_login(const char *text, size_t len, etcd_parse_login_out *out,
                     etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;
    rc = read_token(root, out, why);
    json_decref(root);
    return rc;
}

/* {"error":"...","message":"...","code":14}, from newer etcds without "error";
 * in a stream {"error":{"grpc_code":14,"message":"...",...}}, there "code". */
static int read_error(const json_t *root, etcd_parse_error_out *out,
                      etcd_why *why) {
    const json_t *nested = json_object_get(root, "error");
    bool in_stream = json_is_object(nested);
    const json_t *o = in_stream ? nested : root;
    bool renamed = in_stream && json_object_get(o, "grpc_code") != NULL;
    const char *message;
    size_t len;
    if (nested == NULL && json_object_get(root, "code") == NULL)
        return nonsense(why, "neither \"error\" nor \"code\"");
    int rc = etcd_json_int(o, renamed ? "grpc_code" : "code", &out->code, why);
    if (rc == 0) rc = etcd_json_string(o, "message", &message, &len, why);
    if (rc == 0 && len == 0 && !in_stream)
        rc = etcd_json_string(o, "error", &message, &len, why);
    if (rc < 0) return rc;
    copy_printable(out->message, sizeof(out->message), message, len);
    return 0;
}

int etcd_parse_error(const char *text, size_t len, etcd_parse_error_out *out,
                     etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;
    rc = read_error(root, out, why);
    json_decref(root);
    return rc;
}

/* ---- a watch's line ---- */

static int read_event(const json_t *o, etcd_keys *keys, etcd_event *out,
                      etcd_why *why) {
    const json_t *kv;
    const char *type;
    size_t len;
    if (!json_is_object(o)) return nonsense(why, "an event is no object");
    int rc = etcd_json_string(o, "type", &type, &len, why);
    if (rc == 0) rc = etcd_json_object(o, "kv", &kv, why);
    if (rc < 0) return rc;
    if (kv == NULL) return nonsense(why, "an event without a key");
    out->deleted = strcmp(type, "DELETE") == 0;
    if (!out->deleted && len > 0 && strcmp(type, "PUT") != 0)
        return nonsense(why, "an event that is neither PUT nor DELETE");
    return etcd_json_kv(kv, keys, &out->kv, why);
}

static int read_events(const json_t *result, size_t len,
                       etcd_parse_watch_out *out, etcd_why *why) {
    const json_t *list;
    size_t n;
    int rc = etcd_json_array(result, "events", &list, &n, why);
    if (rc < 0) return rc;
    out->events = calloc(n + 1, sizeof(*out->events));
    if (out->events == NULL) return -ENOMEM;
    rc = etcd_keys_init(&out->keys, len, n);
    if (rc < 0) return rc;

    int64_t last = 0;
    for (size_t i = 0; i < n; i++) {
        etcd_event *event = &out->events[i];
        rc = read_event(json_array_get(list, i), &out->keys, event, why);
        if (rc < 0) return rc;
        if (event->kv.mod_revision < last)
            return nonsense(why, "events out of order");
        last = event->kv.mod_revision;
    }
    out->n = n;
    if (n > 0 && out->header.revision < last)
        return nonsense(why, "events newer than their header");
    return 0;
}

static int read_result(const json_t *result, size_t len,
                       etcd_parse_watch_out *out, etcd_why *why) {
    const char *reason;
    size_t reason_len;
    bool fragment = false;
    int rc = etcd_json_header(result, &out->header, why);
    if (rc == 0) rc = etcd_json_bool(result, "created", &out->created, why);
    if (rc == 0) rc = etcd_json_bool(result, "canceled", &out->canceled, why);
    if (rc == 0) rc = etcd_json_bool(result, "fragment", &fragment, why);
    if (rc == 0)
        rc = etcd_json_int(result, "compact_revision", &out->compact_revision,
                           why);
    if (rc == 0)
        rc = etcd_json_string(result, "cancel_reason", &reason, &reason_len,
                              why);
    if (rc < 0) return rc;
    copy_printable(out->reason, sizeof(out->reason), reason, reason_len);
    /* Pieces of a revision come only to who asks for them; we do not. */
    if (fragment) return nonsense(why, "a piece of a revision");
    return read_events(result, len, out, why);
}

static int read_line(const json_t *root, size_t len, etcd_parse_watch_out *out,
                     etcd_why *why) {
    const json_t *result;
    out->is_error = json_object_get(root, "error") != NULL;
    if (out->is_error) return read_error(root, &out->error, why);
    int rc = etcd_json_object(root, "result", &result, why);
    if (rc < 0) return rc;
    if (result == NULL) return nonsense(why, "neither a result nor an error");
    return read_result(result, len, out, why);
}

int etcd_parse_watch(const char *text, size_t len, etcd_parse_watch_out *out,
                     etcd_why *why) {
    memset(out, 0, sizeof(*out));
    json_t *root;
    int rc = etcd_json_load(text, len, &root, why);
    if (rc < 0) return rc;
    rc = read_line(root, len, out, why);
    json_decref(root);
    if (rc < 0) etcd_parse_watch_fini(out);
    return rc;
}

void etcd_parse_watch_fini(etcd_parse_watch_out *out) {
    free(out->events);
    etcd_keys_fini(&out->keys);
    memset(out, 0, sizeof(*out));
}
