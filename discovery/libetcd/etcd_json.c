/* etcd_json.c - see etcd_json.h. */
#include "discovery/libetcd/etcd_json.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_text.h"

__attribute__((format(printf, 2, 3))) static int
nonsense(etcd_why *why, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    return -EINVAL;
}

/* jansson needs about 100 bytes for a value that takes two in the text, and one
 * C frame for a level: both are counted here first. */
static int check_size(const char *text, size_t n, etcd_why *why) {
    size_t depth = 0, values = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            if (c == '"') quoted = false;
            continue;
        }
        if (c == '"') quoted = true;
        if (c == '{' || c == '[') {
            depth++;
            values++;
        }
        if (c == ',') values++;
        if ((c == '}' || c == ']') && depth > 0) depth--;
        if (depth > ETCD_JSON_DEPTH_MAX)
            return nonsense(why, "nested deeper than %d", ETCD_JSON_DEPTH_MAX);
        if (values > ETCD_JSON_VALUES_MAX)
            return nonsense(why, "more than %u values", ETCD_JSON_VALUES_MAX);
    }
    return 0;
}

int etcd_json_load(const char *text, size_t n, json_t **root, etcd_why *why) {
    *root = NULL;
    int rc = check_size(text, n, why);
    if (rc < 0) return rc;

    json_error_t error;
    *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (*root == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory) return -ENOMEM;
        return nonsense(why, "no JSON: %.100s", error.text);
    }
    if (!json_is_object(*root)) {
        json_decref(*root);
        *root = NULL;
        return nonsense(why, "no JSON object");
    }
    return 0;
}

/* NULL if absent, which an explicit null says too. */
static const json_t *find(const json_t *o, const char *name) {
    const json_t *v = json_object_get(o, name);
    return json_is_null(v) ? NULL : v;
}

/* 64-bit numbers are decimal strings in protobuf's JSON, 32-bit ones plain. */
int etcd_json_int(const json_t *o, const char *name, int64_t *out,
                  etcd_why *why) {
    const json_t *v = find(o, name);
    *out = 0;
    if (v == NULL) return 0;
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return 0;
    }
    const char *digits = json_string_value(v);
    if (digits == NULL) return nonsense(why, "\"%s\" is no number", name);
    char *end;
    errno = 0;
    long long value = strtoll(digits, &end, 10);
    bool begins = *digits == '-' || (*digits >= '0' && *digits <= '9');
    if (errno != 0 || !begins || end == digits || *end != '\0' ||
        (size_t)(end - digits) != json_string_length(v))
        return nonsense(why, "\"%s\" is no number", name);
    *out = value;
    return 0;
}

int etcd_json_id(const json_t *o, const char *name, uint64_t *out,
                 etcd_why *why) {
    const char *digits = json_string_value(json_object_get(o, name));
    char *end;
    if (digits == NULL || *digits < '0' || *digits > '9')
        return nonsense(why, "\"%s\" is no number", name);
    errno = 0;
    *out = strtoull(digits, &end, 10);
    if (errno != 0 || *end != '\0' || *out == 0)
        return nonsense(why, "\"%s\" is no number", name);
    return 0;
}

int etcd_json_bool(const json_t *o, const char *name, bool *out,
                   etcd_why *why) {
    const json_t *v = find(o, name);
    *out = json_is_true(v);
    if (v != NULL && !json_is_boolean(v))
        return nonsense(why, "\"%s\" is neither true nor false", name);
    return 0;
}

int etcd_json_object(const json_t *o, const char *name, const json_t **out,
                     etcd_why *why) {
    *out = find(o, name);
    if (*out != NULL && !json_is_object(*out))
        return nonsense(why, "\"%s\" is no object", name);
    return 0;
}

int etcd_json_array(const json_t *o, const char *name, const json_t **out,
                    size_t *n, etcd_why *why) {
    *out = find(o, name);
    if (*out != NULL && !json_is_array(*out))
        return nonsense(why, "\"%s\" is no list", name);
    *n = json_array_size(*out);
    return 0;
}

int etcd_json_string(const json_t *o, const char *name, const char **out,
                     size_t *len, etcd_why *why) {
    const json_t *v = find(o, name);
    *out = "";
    *len = 0;
    if (v == NULL) return 0;
    if (!json_is_string(v)) return nonsense(why, "\"%s\" is no text", name);
    *out = json_string_value(v);
    *len = json_string_length(v);
    return 0;
}

int etcd_json_header(const json_t *answer, etcd_header *out, etcd_why *why) {
    const json_t *header;
    int rc = etcd_json_object(answer, "header", &header, why);
    if (rc < 0) return rc;
    if (header == NULL) return nonsense(why, "no \"header\"");

    rc = etcd_json_id(header, "cluster_id", &out->cluster_id, why);
    if (rc == 0) rc = etcd_json_id(header, "member_id", &out->member_id, why);
    if (rc == 0) rc = etcd_json_int(header, "revision", &out->revision, why);
    if (rc < 0) return rc;
    if (out->revision < 0) return nonsense(why, "a negative revision");
    return 0;
}

/* Base64 is longer than what it says, but for the two zeros that end a key and
 * its value. */
int etcd_keys_init(etcd_keys *k, size_t text_len, size_t n_kvs) {
    memset(k, 0, sizeof(*k));
    k->room = text_len + 2 * n_kvs + 1;
    k->bytes = malloc(k->room);
    return k->bytes == NULL ? -ENOMEM : 0;
}

void etcd_keys_fini(etcd_keys *k) {
    free(k->bytes);
    memset(k, 0, sizeof(*k));
}

static int read_bytes(const json_t *o, const char *name, etcd_keys *k,
                      const void **out, size_t *out_len, etcd_why *why) {
    const char *text;
    size_t len;
    int rc = etcd_json_string(o, name, &text, &len, why);
    if (rc < 0) return rc;
    if (k->room - k->used < len / 4 * 3 + 1)
        return nonsense(why, "more bytes than the answer has");
    uint8_t *at = (uint8_t *)k->bytes + k->used;
    if (etcd_text_unbase64(text, len, at, out_len) < 0)
        return nonsense(why, "\"%s\" is no base64", name);
    at[*out_len] = '\0';
    k->used += *out_len + 1;
    *out = at;
    return 0;
}

int etcd_json_kv(const json_t *o, etcd_keys *k, etcd_kv *out, etcd_why *why) {
    memset(out, 0, sizeof(*out));
    if (!json_is_object(o)) return nonsense(why, "a key is no object");

    int rc = read_bytes(o, "key", k, &out->key, &out->key_len, why);
    if (rc == 0)
        rc = read_bytes(o, "value", k, &out->value, &out->value_len, why);
    if (rc == 0)
        rc = etcd_json_int(o, "create_revision", &out->create_revision, why);
    if (rc == 0) rc = etcd_json_int(o, "mod_revision", &out->mod_revision, why);
    if (rc == 0) rc = etcd_json_int(o, "version", &out->version, why);
    if (rc == 0) rc = etcd_json_int(o, "lease", &out->lease, why);
    if (rc < 0) return rc;
    if (out->key_len == 0) return nonsense(why, "a key without bytes");
    if (out->mod_revision <= 0 || out->create_revision < 0 ||
        out->version < 0 || out->create_revision > out->mod_revision)
        return nonsense(why, "a key without sensible revisions");
    return 0;
}
