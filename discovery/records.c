/* records.c - see records.h.
 *
 * A document is a table of members: what each is called, what it may be, and
 * where it lies in the struct.  One loop packs by the table and one unpacks, so
 * that a member is never written without being checked when it is read.  What
 * comes from etcd may have been put there by anybody: no text is taken that
 * could not stand in a log line, and no number outside its range. */
#include "discovery/records.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "discovery/holdings.h"
#include "discovery/layer_map.h"
#include "engine/err.h"
#include "engine/util.h"
#include "proto/endpoint.h"

#define U32_MOST ((int64_t)UINT32_MAX)
#define THREADS_MOST 65536
#define INCARNATION_MOST (((int64_t)1 << (64 - EPOCH_BITS)) - 1)
#define EPOCH_MOST (((int64_t)1 << EPOCH_BITS) - 1)

typedef enum {
    MEMBER_NAME,     /* record_is_name() */
    MEMBER_TEXT,     /* printable ASCII */
    MEMBER_ENDPOINT, /* tcp://HOST:PORT */
    MEMBER_HEX,      /* uint64_t as 16 hex digits, `low` or more */
    MEMBER_U32,
    MEMBER_U64, /* at most INT64_MAX, the largest of our JSON library */
    MEMBER_I64,
    MEMBER_MODEL /* 64 hex digits; "" if `flag` says none */
} member_kind;

typedef struct {
    const char *group; /* the object inside the document that it is in */
    const char *name;
    member_kind kind;
    bool required;     /* else it may be missing, or "" */
    size_t at, size;   /* in the struct */
    int64_t low, high; /* of numbers */
    size_t flag;       /* of a model that may be none: its bool; else 0 */
} member;

#define AT(type, field) offsetof(type, field), sizeof(((type *)NULL)->field)
#define NEEDED true
#define MAY_LACK false

/* clang-format off */
#define PROFILE(type)                                                          \
    {"profile", "version", MEMBER_U32, NEEDED,                                 \
     AT(type, profile.version), 1, U32_MOST, 0},                               \
    {"profile", "activation", MEMBER_TEXT, NEEDED,                             \
     AT(type, profile.activation), 0, 0, 0},                                   \
    {"profile", "rows", MEMBER_TEXT, NEEDED, AT(type, profile.rows), 0, 0, 0}, \
    {"profile", "kv", MEMBER_TEXT, MAY_LACK, AT(type, profile.kv), 0, 0, 0},   \
    {"profile", "mla", MEMBER_TEXT, MAY_LACK, AT(type, profile.mla), 0, 0, 0}, \
    {"profile", "blas", MEMBER_TEXT, MAY_LACK, AT(type, profile.blas), 0, 0, 0}

/* A process that runs has a boot id; 0 is what a reader takes for none. */
#define NODE(field) AT(node_record, field)
static const member node_members[] = {
    {NULL, "boot", MEMBER_HEX, NEEDED, NODE(boot), 1, 0, 0},
    {NULL, "control", MEMBER_ENDPOINT, NEEDED, NODE(control), 0, 0, 0},
    {NULL, "weights", MEMBER_ENDPOINT, MAY_LACK, NODE(weights), 0, 0, 0},
    {NULL, "memory", MEMBER_U64, NEEDED, NODE(memory_bytes), 0, INT64_MAX, 0},
    {NULL, "zone", MEMBER_TEXT, MAY_LACK, NODE(zone), 0, 0, 0},
    {NULL, "cpu", MEMBER_TEXT, MAY_LACK, NODE(cpu), 0, 0, 0},
    {NULL, "threads", MEMBER_U32, MAY_LACK, NODE(threads), 0, THREADS_MOST, 0},
    {NULL, "model", MEMBER_MODEL, MAY_LACK, NODE(model), 0, 0,
     offsetof(node_record, has_model)},
    PROFILE(node_record),
    {NULL, "version", MEMBER_TEXT, MAY_LACK, NODE(version), 0, 0, 0},
    {NULL, "protocol", MEMBER_U32, NEEDED, NODE(protocol), 1, U32_MOST, 0},
};

#define COORD(field) AT(coordinator_record, field)
static const member coordinator_members[] = {
    {NULL, "boot", MEMBER_HEX, NEEDED, COORD(boot), 1, 0, 0},
    {NULL, "client", MEMBER_ENDPOINT, NEEDED, COORD(client), 0, 0, 0},
    {NULL, "weights", MEMBER_ENDPOINT, MAY_LACK, COORD(weights), 0, 0, 0},
    {NULL, "http", MEMBER_TEXT, MAY_LACK, COORD(http), 0, 0, 0},
    {NULL, "model", MEMBER_MODEL, MAY_LACK, COORD(model), 0, 0,
     offsetof(coordinator_record, has_model)},
    PROFILE(coordinator_record),
    {NULL, "version", MEMBER_TEXT, MAY_LACK, COORD(version), 0, 0, 0},
    {NULL, "protocol", MEMBER_U32, NEEDED, COORD(protocol), 1, U32_MOST, 0},
    {NULL, "drained", MEMBER_U32, MAY_LACK, COORD(drained), 0, 1, 0},
    {NULL, "incarnation", MEMBER_U64, MAY_LACK, COORD(incarnation),
     0, INCARNATION_MOST, 0},
    {NULL, "epoch", MEMBER_U64, MAY_LACK, COORD(epoch), 0, EPOCH_MOST, 0},
    {NULL, "placement", MEMBER_HEX, MAY_LACK, COORD(placement), 0, 0, 0},
};

#define LEADER(field) AT(leader_record, field)
static const member leader_members[] = {
    {NULL, "name", MEMBER_NAME, NEEDED, LEADER(name), 0, 0, 0},
    {NULL, "boot", MEMBER_HEX, NEEDED, LEADER(boot), 1, 0, 0},
};

#define EPOCH(field) AT(epoch_record, field)
static const member epoch_members[] = {
    {NULL, "incarnation", MEMBER_U64, NEEDED, EPOCH(incarnation),
     0, INCARNATION_MOST, 0},
    {NULL, "epoch", MEMBER_U64, NEEDED, EPOCH(epoch), 1, EPOCH_MOST, 0},
    {NULL, "model", MEMBER_MODEL, NEEDED, EPOCH(model), 0, 0, 0},
    {NULL, "n_layers", MEMBER_U32, NEEDED, EPOCH(n_layers),
     1, HOLDINGS_MAX_LAYERS, 0},
    {NULL, "n_experts", MEMBER_U32, NEEDED, EPOCH(n_experts),
     0, HOLDINGS_MAX_EXPERTS, 0},
    {NULL, "slices", MEMBER_U32, NEEDED, EPOCH(slices),
     1, LAYER_MAP_MAX_SLICES, 0},
    {NULL, "min_replicas", MEMBER_U32, NEEDED, EPOCH(min_replicas),
     1, LAYER_MAP_MAX_HOLDERS, 0},
    {NULL, "writer", MEMBER_NAME, NEEDED, EPOCH(writer), 0, 0, 0},
    {NULL, "term", MEMBER_I64, NEEDED, EPOCH(term), 0, INT64_MAX, 0},
};

#define READY(field) AT(ready_record, field)
static const member ready_members[] = {
    {NULL, "boot", MEMBER_HEX, NEEDED, READY(boot), 1, 0, 0},
    {NULL, "incarnation", MEMBER_U64, NEEDED, READY(incarnation),
     0, INCARNATION_MOST, 0},
    {NULL, "epoch", MEMBER_U64, NEEDED, READY(epoch), 0, EPOCH_MOST, 0},
    {NULL, "digest", MEMBER_HEX, NEEDED, READY(digest), 0, 0, 0},
    {NULL, "units", MEMBER_U32, NEEDED, READY(units), 0, U32_MOST, 0},
    {NULL, "bytes", MEMBER_U64, NEEDED, READY(bytes), 0, INT64_MAX, 0},
    {NULL, "waiting", MEMBER_U32, NEEDED, READY(waiting), 0, U32_MOST, 0},
};

#define DRAIN(field) AT(drain_record, field)
static const member drain_members[] = {
    {NULL, "by", MEMBER_TEXT, MAY_LACK, DRAIN(by), 0, 0, 0},
    {NULL, "at", MEMBER_TEXT, MAY_LACK, DRAIN(at), 0, 0, 0},
};

#define RECOVERED(field) AT(recovered_record, field)
static const member recovered_members[] = {
    {NULL, "by", MEMBER_TEXT, MAY_LACK, RECOVERED(by), 0, 0, 0},
    {NULL, "at", MEMBER_TEXT, MAY_LACK, RECOVERED(at), 0, 0, 0},
    {NULL, "was", MEMBER_TEXT, MAY_LACK, RECOVERED(was), 0, 0, 0},
    {NULL, "became", MEMBER_TEXT, NEEDED, RECOVERED(became), 0, 0, 0},
    {NULL, "writer", MEMBER_NAME, NEEDED, RECOVERED(writer), 0, 0, 0},
};
/* clang-format on */

typedef struct {
    const char *what; /* for sentences */
    const member *members;
    size_t n_members;
    size_t bytes; /* of the struct */
} document;

#define DOCUMENT(what, table, type)                                            \
    { what, table, ARRAY_LEN(table), sizeof(type) }
static const document node_document =
    DOCUMENT("node", node_members, node_record);
static const document coordinator_document =
    DOCUMENT("coordinator", coordinator_members, coordinator_record);
static const document leader_document =
    DOCUMENT("leader", leader_members, leader_record);
static const document epoch_document =
    DOCUMENT("epoch", epoch_members, epoch_record);
static const document ready_document =
    DOCUMENT("ready", ready_members, ready_record);
static const document drain_document =
    DOCUMENT("drain", drain_members, drain_record);
static const document recovered_document =
    DOCUMENT("recovered", recovered_members, recovered_record);

/* ---- texts ---- */

static bool is_printable(const char *text) {
    for (; *text != '\0'; text++) {
        if (*text < 0x20 || *text > 0x7e) return false;
    }
    return true;
}

void record_time(char out[32]) {
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

bool record_is_name(const char *name) {
    size_t len = strnlen(name, RECORD_NAME);
    return len > 0 && len < RECORD_NAME && strchr(name, '/') == NULL &&
           is_printable(name);
}

/* Somewhere to connect to: "any host" and "any port" are not. */
static bool is_endpoint(const char *text) {
    endpoint e;
    return strncmp(text, "tcp://", 6) == 0 &&
           endpoint_parse(&e, text, NULL, 0) == 0 && e.port != 0 &&
           strcmp(e.host, "*") != 0;
}

/* -1: not a digit.  Upper case is not what we write, but reads as well. */
static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool hex_read(const char *text, uint8_t *out, size_t n) {
    if (strlen(text) != 2 * n) return false;
    for (size_t i = 0; i < n; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static void hex_write(const uint8_t *bytes, size_t n, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

/* ---- packing ---- */

static json_t *pack_member(const member *m, const void *record) {
    const uint8_t *at = (const uint8_t *)record + m->at;
    char text[2 * RECORD_MODEL + 1] = "";
    uint32_t small;
    uint64_t large;
    int64_t number;

    switch (m->kind) {
    case MEMBER_NAME:
    case MEMBER_TEXT:
    case MEMBER_ENDPOINT:
        return json_string((const char *)at);
    case MEMBER_HEX:
        memcpy(&large, at, sizeof(large));
        snprintf(text, sizeof(text), "%016llx", (unsigned long long)large);
        return json_string(text);
    case MEMBER_U32:
        memcpy(&small, at, sizeof(small));
        return json_integer(small);
    case MEMBER_U64:
        memcpy(&large, at, sizeof(large));
        assert(large <= INT64_MAX);
        return json_integer((json_int_t)large);
    case MEMBER_I64:
        memcpy(&number, at, sizeof(number));
        return json_integer(number);
    case MEMBER_MODEL:
        if (m->flag == 0 ||
            *(const bool *)((const uint8_t *)record + m->flag)) {
            hex_write(at, RECORD_MODEL, text);
        }
        return json_string(text);
    }
    return NULL;
}

/* NULL without memory. */
static json_t *pack_members(const document *d, const void *record) {
    json_t *root = json_object();
    if (root == NULL) return NULL;

    for (size_t i = 0; i < d->n_members; i++) {
        const member *m = &d->members[i];
        json_t *into = root;
        if (m->group != NULL) {
            into = json_object_get(root, m->group);
            if (into == NULL) {
                into = json_object();
                if (json_object_set_new(root, m->group, into) < 0) goto fail;
            }
        }
        if (json_object_set_new(into, m->name, pack_member(m, record)) < 0) {
            goto fail;
        }
    }
    return root;

fail:
    json_decref(root);
    return NULL;
}

/* Takes ownership of `root`, which may be NULL. */
static char *print_json(json_t *root) {
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

static char *pack(const document *d, const void *record) {
    return print_json(pack_members(d, record));
}

/* ---- unpacking ---- */

/* The value into its place.  false: it is not what the member may be. */
static bool unpack_text(const member *m, const char *text, void *record) {
    uint8_t *at = (uint8_t *)record + m->at;
    bool empty = *text == '\0';
    if (empty && m->required) return false;

    switch (m->kind) {
    case MEMBER_NAME:
        if (!record_is_name(text)) return false;
        break;
    case MEMBER_TEXT:
        if (!is_printable(text)) return false;
        break;
    case MEMBER_ENDPOINT:
        if (!empty && !is_endpoint(text)) return false;
        break;
    case MEMBER_HEX: {
        uint8_t bytes[sizeof(uint64_t)];
        uint64_t number = 0;
        if (!hex_read(text, bytes, sizeof(bytes))) return false;
        for (size_t i = 0; i < sizeof(bytes); i++) {
            number = number << 8 | bytes[i];
        }
        memcpy(at, &number, sizeof(number));
        return number >= (uint64_t)m->low;
    }
    case MEMBER_MODEL:
        if (empty) return true; /* and the flag says so: it is false */
        if (m->flag != 0) *(bool *)((uint8_t *)record + m->flag) = true;
        return hex_read(text, at, RECORD_MODEL);
    default:
        return false; /* a number was expected */
    }
    size_t len = strlen(text);
    if (len >= m->size) return false;
    memcpy(at, text, len + 1);
    return true;
}

static bool unpack_number(const member *m, int64_t number, void *record) {
    uint8_t *at = (uint8_t *)record + m->at;
    uint32_t small = (uint32_t)number;

    if (m->kind != MEMBER_U32 && m->kind != MEMBER_U64 &&
        m->kind != MEMBER_I64) {
        return false; /* a text was expected */
    }
    if (number < m->low || number > m->high) return false;
    if (m->kind == MEMBER_U32) {
        memcpy(at, &small, sizeof(small));
    } else {
        memcpy(at, &number, sizeof(number));
    }
    return true;
}

static int unpack_member(const document *d, const member *m, const json_t *root,
                         void *record, char *why, size_t why_size) {
    const json_t *from = root;
    if (m->group != NULL) from = json_object_get(root, m->group);
    const json_t *value = json_object_get(from, m->name);
    const char *dot = m->group != NULL ? "." : "";
    const char *group = m->group != NULL ? m->group : "";

    if (value == NULL) {
        if (!m->required) return 0;
        return err_why(why, why_size, ERR_FORMAT,
                       "%s record: no member '%s%s%s'", d->what, group, dot,
                       m->name);
    }
    bool good = json_is_string(value)
                    ? unpack_text(m, json_string_value(value), record)
                    : json_is_integer(value) &&
                          unpack_number(m, json_integer_value(value), record);
    if (good) return 0;
    return err_why(why, why_size, ERR_FORMAT,
                   "%s record: member '%s%s%s' is not what it may be", d->what,
                   group, dot, m->name);
}

/* *root is the parsed document, the caller's to release; NULL on failure. */
static int unpack_members(const document *d, void *record, const void *data,
                          size_t bytes, json_t **root, char *why,
                          size_t why_size) {
    json_error_t error;

    *root = NULL;
    memset(record, 0, d->bytes);
    if (bytes > RECORD_BYTES_MAX) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s record: %zu bytes are too many", d->what, bytes);
    }
    *root = json_loadb(data != NULL ? data : "", bytes, JSON_REJECT_DUPLICATES,
                       &error);
    if (*root == NULL && json_error_code(&error) == json_error_out_of_memory) {
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    int rc = 0;
    if (!json_is_object(*root)) {
        rc = err_why(why, why_size, ERR_FORMAT, "%s record: not a JSON object",
                     d->what);
    }
    for (size_t i = 0; rc == 0 && i < d->n_members; i++) {
        rc = unpack_member(d, &d->members[i], *root, record, why, why_size);
    }
    if (rc == 0) return 0;
    json_decref(*root);
    *root = NULL;
    memset(record, 0, d->bytes);
    return rc;
}

static int unpack(const document *d, void *record, const void *data,
                  size_t bytes, char *why, size_t why_size) {
    json_t *root;
    int rc = unpack_members(d, record, data, bytes, &root, why, why_size);
    json_decref(root);
    return rc;
}

/* ---- the documents ---- */

char *node_record_pack(const node_record *r) {
    return pack(&node_document, r);
}

int node_record_unpack(node_record *r, const void *data, size_t bytes,
                       char *why, size_t why_size) {
    return unpack(&node_document, r, data, bytes, why, why_size);
}

char *coordinator_record_pack(const coordinator_record *r) {
    return pack(&coordinator_document, r);
}

int coordinator_record_unpack(coordinator_record *r, const void *data,
                              size_t bytes, char *why, size_t why_size) {
    return unpack(&coordinator_document, r, data, bytes, why, why_size);
}

char *leader_record_pack(const leader_record *r) {
    return pack(&leader_document, r);
}

int leader_record_unpack(leader_record *r, const void *data, size_t bytes,
                         char *why, size_t why_size) {
    return unpack(&leader_document, r, data, bytes, why, why_size);
}

char *ready_record_pack(const ready_record *r) {
    return pack(&ready_document, r);
}

int ready_record_unpack(ready_record *r, const void *data, size_t bytes,
                        char *why, size_t why_size) {
    return unpack(&ready_document, r, data, bytes, why, why_size);
}

char *drain_record_pack(const drain_record *r) {
    return pack(&drain_document, r);
}

int drain_record_unpack(drain_record *r, const void *data, size_t bytes,
                        char *why, size_t why_size) {
    return unpack(&drain_document, r, data, bytes, why, why_size);
}

char *recovered_record_pack(const recovered_record *r) {
    return pack(&recovered_document, r);
}

int recovered_record_unpack(recovered_record *r, const void *data, size_t bytes,
                            char *why, size_t why_size) {
    return unpack(&recovered_document, r, data, bytes, why, why_size);
}

/* ---- the epoch: the one with a list ---- */

char *epoch_record_pack(const epoch_record *r) {
    json_t *root = pack_members(&epoch_document, r);
    json_t *nodes = json_array();
    if (json_object_set_new(root, "nodes", nodes) < 0) goto fail;
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (json_array_append_new(nodes, json_string(r->nodes[i])) < 0) {
            goto fail;
        }
    }
    return print_json(root);

fail:
    json_decref(root);
    return NULL;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Two places of one name would make it hold units twice. */
static bool all_distinct(const epoch_record *r, char (*sorted)[RECORD_NAME]) {
    memcpy(sorted, r->nodes, r->n_nodes * sizeof(*sorted));
    qsort(sorted, r->n_nodes, sizeof(*sorted), compare_names);
    for (uint32_t i = 1; i < r->n_nodes; i++) {
        if (sorted[i][0] != '\0' && strcmp(sorted[i - 1], sorted[i]) == 0) {
            return false;
        }
    }
    return true;
}

static int unpack_nodes(epoch_record *r, const json_t *list, char *why,
                        size_t why_size) {
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > RECORD_NODES_MAX) {
        return err_why(why, why_size, ERR_FORMAT,
                       "epoch record: member 'nodes' is not a list of at most "
                       "%d names",
                       RECORD_NODES_MAX);
    }
    r->nodes = calloc(n + 1, sizeof(*r->nodes));
    if (r->nodes == NULL) {
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name == NULL || (*name != '\0' && !record_is_name(name))) {
            return err_why(why, why_size, ERR_FORMAT,
                           "epoch record: node %zu of 'nodes' is not a name",
                           i);
        }
        strcpy(r->nodes[i], name);
    }
    r->n_nodes = (uint32_t)n;

    char(*sorted)[RECORD_NAME] = calloc(n + 1, sizeof(*sorted));
    if (sorted == NULL) {
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    bool distinct = all_distinct(r, sorted);
    free(sorted);
    if (distinct) return 0;
    return err_why(why, why_size, ERR_FORMAT,
                   "epoch record: a name stands twice in 'nodes'");
}

int epoch_record_unpack(epoch_record *r, const void *data, size_t bytes,
                        char *why, size_t why_size) {
    json_t *root;
    int rc =
        unpack_members(&epoch_document, r, data, bytes, &root, why, why_size);
    if (rc < 0) return rc;

    if ((r->slices & (r->slices - 1)) != 0) {
        rc = err_why(why, why_size, ERR_FORMAT,
                     "epoch record: member 'slices' is not a power of two");
    } else {
        rc = unpack_nodes(r, json_object_get(root, "nodes"), why, why_size);
    }
    json_decref(root);
    if (rc < 0) epoch_record_fini(r);
    return rc;
}

void epoch_record_fini(epoch_record *r) {
    if (r == NULL) return;
    free(r->nodes);
    memset(r, 0, sizeof(*r));
}

/* ---- keys ---- */

/* clang-format off */
static const struct {
    const char *folder; /* or the whole key */
    bool named;         /* a name follows */
} key_forms[RECORD_KINDS] = {
    [RECORD_NODE]        = {"nodes/", true},
    [RECORD_COORDINATOR] = {"coordinators/", true},
    [RECORD_LEADER]      = {"leader", false},
    [RECORD_EPOCH]       = {"placement/epoch", false},
    [RECORD_LAYER]       = {"placement/layer/", true},
    [RECORD_READY]       = {"ready/", true},
    [RECORD_DRAIN]       = {"drain/", true},
    [RECORD_RECOVERED]   = {"recovered/", true},
};
/* clang-format on */

size_t record_prefix(const char *cluster, char out[RECORD_KEY]) {
    assert(record_is_name(cluster));
    return (size_t)snprintf(out, RECORD_KEY, "/roster/%s/", cluster);
}

char *record_key(const char *cluster, record_kind kind, const char *name,
                 uint32_t layer, char out[RECORD_KEY]) {
    size_t used = record_prefix(cluster, out);
    char *rest = out + used;
    size_t left = RECORD_KEY - used;

    assert(kind < RECORD_KINDS);
    const char *folder = key_forms[kind].folder;
    if (kind == RECORD_LAYER) {
        snprintf(rest, left, "%s%u", folder, layer);
    } else if (key_forms[kind].named) {
        assert(record_is_name(name));
        snprintf(rest, left, "%s%s", folder, name);
    } else {
        snprintf(rest, left, "%s", folder);
    }
    return out;
}

/* A layer's number as we write it: no sign, no zeros before it. */
static bool read_layer(const char *text, uint32_t *layer) {
    size_t len = strlen(text);
    uint32_t number = 0;
    if (len == 0 || len > 4 || (text[0] == '0' && len > 1)) return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        number = number * 10 + (uint32_t)(text[i] - '0');
    }
    *layer = number;
    return number < HOLDINGS_MAX_LAYERS;
}

record_kind record_parse_key(const void *rest, size_t bytes,
                             char name[RECORD_NAME], uint32_t *layer) {
    char text[RECORD_KEY];
    name[0] = '\0';
    *layer = 0;
    if (bytes == 0 || bytes >= sizeof(text)) return RECORD_KINDS;
    memcpy(text, rest, bytes);
    text[bytes] = '\0';
    if (strlen(text) != bytes) return RECORD_KINDS;

    for (int kind = 0; kind < RECORD_KINDS; kind++) {
        const char *folder = key_forms[kind].folder;
        size_t len = strlen(folder);
        if (!key_forms[kind].named) {
            if (strcmp(text, folder) == 0) return (record_kind)kind;
            continue;
        }
        if (strncmp(text, folder, len) != 0) continue;
        if (kind == RECORD_LAYER) {
            return read_layer(text + len, layer) ? RECORD_LAYER : RECORD_KINDS;
        }
        if (!record_is_name(text + len)) return RECORD_KINDS;
        strcpy(name, text + len);
        return (record_kind)kind;
    }
    return RECORD_KINDS;
}
