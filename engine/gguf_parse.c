/* gguf_parse.c - reads the head of one GGUF file: header, metadata, tensors.
 *
 * A cursor walks the map and is the only thing that moves: every read asks it
 * for bytes, and it refuses what the file does not have.  A count is compared
 * with the bytes that its elements need at least before anything is allocated
 * or looped over, so memory and time stay proportional to the file.  Values
 * stay where they are; an entry records where.  Versions 2 and 3 differ only in
 * that 3 may be big-endian, which is refused. */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/gguf_internal.h"
#include "engine/util.h"
#include "engine/weight.h"

#define VERSION_MIN 2
#define VERSION_MAX 3
#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT ((uint32_t)1 << 20)
#define MAX_KEYS ((uint64_t)1 << 20)
#define MAX_TENSORS ((uint64_t)1 << 24)
#define MAX_NAME 1024 /* bytes of a key or of a tensor's name */
#define MAX_DEPTH 4   /* arrays in arrays */

/* The least that an entry takes in the file. */
#define MIN_STRING_BYTES 8
#define MIN_ARRAY_BYTES 12
#define MIN_KEY_BYTES (MIN_STRING_BYTES + 4 + 1)
#define MIN_TENSOR_BYTES (MIN_STRING_BYTES + 4 + 8 + 4 + 8)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values are read as they stand in the file");

/* Bytes of a value; 0 for those that say their own length. */
/* clang-format off */
static const uint8_t value_bytes[] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,    [GGUF_I16] = 2,
    [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4,    [GGUF_BOOL] = 1,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,    [GGUF_STRING] = 0,
    [GGUF_ARRAY] = 0,
};
/* clang-format on */

typedef struct {
    gguf_file *file;
    const uint8_t *at;
    const uint8_t *end;
    uint32_t alignment;
    char *why;
    size_t why_size;
} cursor;

static int fail(const cursor *c, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(const cursor *c, int code, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return err_why(c->why, c->why_size, code, "%s: %s", c->file->path, text);
}

gguf_quoted gguf_quote(gguf_string s) {
    gguf_quoted q;
    size_t n = size_min(s.len, sizeof(q.text) - 4);
    for (size_t i = 0; i < n; i++) {
        char ch = s.data[i];
        q.text[i] = ch >= ' ' && ch <= '~' ? ch : '?';
    }
    strcpy(q.text + n, n < s.len ? "..." : "");
    return q;
}

int gguf_string_compare(gguf_string a, gguf_string b) {
    size_t n = size_min(a.len, b.len);
    int order = n > 0 ? memcmp(a.data, b.data, n) : 0;
    if (order != 0) return order;
    return (a.len > b.len) - (a.len < b.len);
}

/* ---- the cursor ---- */

static uint64_t remaining(const cursor *c) {
    return (uint64_t)(c->end - c->at);
}

/* `what` names the field that the file ends in.  *out is set in any case. */
static int take(cursor *c, uint64_t n, const char *what, const uint8_t **out) {
    *out = c->at;
    if (n > remaining(c)) {
        return fail(c, ERR_FORMAT,
                    "the file ends inside %s (at byte %llu it needs %llu more "
                    "and has %llu)",
                    what, (unsigned long long)(c->at - c->file->map),
                    (unsigned long long)n, (unsigned long long)remaining(c));
    }
    c->at += n;
    return 0;
}

static int take_u32(cursor *c, const char *what, uint32_t *out) {
    *out = 0;
    const uint8_t *p;
    int rc = take(c, sizeof(*out), what, &p);
    if (rc == 0) memcpy(out, p, sizeof(*out));
    return rc;
}

static int take_u64(cursor *c, const char *what, uint64_t *out) {
    *out = 0;
    const uint8_t *p;
    int rc = take(c, sizeof(*out), what, &p);
    if (rc == 0) memcpy(out, p, sizeof(*out));
    return rc;
}

static int take_string(cursor *c, const char *what, gguf_string *out) {
    uint64_t len;
    const uint8_t *p = c->at;
    int rc = take_u64(c, what, &len);
    if (rc == 0) rc = take(c, len, what, &p);
    if (rc < 0) return rc;
    *out = (gguf_string){(const char *)p, (size_t)len};
    return 0;
}

/* A key or a tensor's name: short and not empty. */
static int take_name(cursor *c, const char *what, gguf_string *out) {
    int rc = take_string(c, what, out);
    if (rc < 0) return rc;
    if (out->len == 0 || out->len > MAX_NAME) {
        return fail(c, ERR_FORMAT, "%s has %zu bytes, not 1 to %d", what,
                    out->len, MAX_NAME);
    }
    return 0;
}

/* ---- values ---- */

static int take_type(cursor *c, gguf_string key, gguf_type *out) {
    uint32_t type;
    int rc = take_u32(c, "a value's type", &type);
    if (rc < 0) return rc;
    if (type >= ARRAY_LEN(value_bytes)) {
        return fail(c, ERR_FORMAT, "the key '%s' has the unknown type %u",
                    gguf_quote(key).text, type);
    }
    *out = (gguf_type)type;
    return 0;
}

/* Values of a fixed size; a bool is one byte, 0 or 1. */
static int take_fixed(cursor *c, gguf_string key, gguf_type type, uint64_t n) {
    const uint8_t *p;
    int rc = take(c, n * value_bytes[type], "a value", &p);
    if (rc < 0 || type != GGUF_BOOL) return rc;
    for (uint64_t i = 0; i < n; i++) {
        if (p[i] > 1) {
            return fail(c, ERR_FORMAT, "the key '%s' has a bool of %u",
                        gguf_quote(key).text, p[i]);
        }
    }
    return 0;
}

static int take_array(cursor *c, gguf_string key, int depth, gguf_type *element,
                      uint64_t *n, const uint8_t **data) {
    if (depth > MAX_DEPTH) {
        return fail(c, ERR_UNSUPPORTED,
                    "the key '%s' nests arrays more than %d deep",
                    gguf_quote(key).text, MAX_DEPTH);
    }
    int rc = take_type(c, key, element);
    if (rc == 0) rc = take_u64(c, "an array's length", n);
    if (rc < 0) return rc;

    uint64_t least = value_bytes[*element];
    if (*element == GGUF_STRING) least = MIN_STRING_BYTES;
    if (*element == GGUF_ARRAY) least = MIN_ARRAY_BYTES;
    if (*n > remaining(c) / least) {
        return fail(c, ERR_FORMAT,
                    "the key '%s' is an array of %llu, more than the file's "
                    "remaining %llu bytes hold",
                    gguf_quote(key).text, (unsigned long long)*n,
                    (unsigned long long)remaining(c));
    }

    *data = c->at;
    if (value_bytes[*element] != 0) return take_fixed(c, key, *element, *n);
    for (uint64_t i = 0; i < *n && rc == 0; i++) {
        gguf_string text;
        gguf_type inner;
        uint64_t inner_n;
        const uint8_t *inner_data;
        rc = *element == GGUF_STRING
                 ? take_string(c, "a string of an array", &text)
                 : take_array(c, key, depth + 1, &inner, &inner_n, &inner_data);
    }
    return rc;
}

static int take_key(cursor *c, gguf_key *k) {
    int rc = take_name(c, "a key", &k->key);
    if (rc == 0) rc = take_type(c, k->key, &k->type);
    if (rc < 0) return rc;

    k->element = k->type;
    k->n = 1;
    k->data = c->at;
    gguf_string text;
    if (k->type == GGUF_STRING) return take_string(c, "a string", &text);
    if (k->type == GGUF_ARRAY) {
        return take_array(c, k->key, 1, &k->element, &k->n, &k->data);
    }
    return take_fixed(c, k->key, k->type, 1);
}

/* ---- keys ---- */

static int by_key(const void *a, const void *b, void *context) {
    const gguf_key *keys = context;
    return gguf_string_compare(keys[*(const uint32_t *)a].key,
                               keys[*(const uint32_t *)b].key);
}

static int sort_keys(cursor *c) {
    gguf_file *f = c->file;
    for (size_t i = 0; i < f->n_keys; i++)
        f->key_order[i] = (uint32_t)i;
    qsort_r(f->key_order, f->n_keys, sizeof(*f->key_order), by_key, f->keys);

    for (size_t i = 1; i < f->n_keys; i++) {
        gguf_string key = f->keys[f->key_order[i]].key;
        if (gguf_string_compare(key, f->keys[f->key_order[i - 1]].key) == 0) {
            return fail(c, ERR_FORMAT, "the key '%s' is there twice",
                        gguf_quote(key).text);
        }
    }
    return 0;
}

const gguf_key *gguf_file_key(const gguf_file *f, const char *key) {
    const gguf_string wanted = {key, strlen(key)};
    size_t low = 0, high = f->n_keys;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const gguf_key *k = &f->keys[f->key_order[middle]];
        int order = gguf_string_compare(wanted, k->key);
        if (order == 0) return k;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int take_keys(cursor *c, uint64_t n) {
    gguf_file *f = c->file;
    if (n > MAX_KEYS || n > remaining(c) / MIN_KEY_BYTES) {
        return fail(c, ERR_FORMAT,
                    "the header claims %llu keys, more than fit the file",
                    (unsigned long long)n);
    }
    f->keys = calloc((size_t)n + 1, sizeof(*f->keys));
    f->key_order = calloc((size_t)n + 1, sizeof(*f->key_order));
    if (f->keys == NULL || f->key_order == NULL) {
        return fail(c, -ENOMEM, "no memory for %llu keys",
                    (unsigned long long)n);
    }
    for (; f->n_keys < n; f->n_keys++) {
        int rc = take_key(c, &f->keys[f->n_keys]);
        if (rc < 0) return rc;
    }
    return sort_keys(c);
}

/* Where tensors begin, and each of them: a power of two. */
static int find_alignment(cursor *c) {
    c->alignment = DEFAULT_ALIGNMENT;
    if (gguf_file_key(c->file, "general.alignment") == NULL) return 0;

    uint64_t value;
    int rc = gguf_file_u64(c->file, "general.alignment", &value, c->why,
                           c->why_size);
    if (rc < 0) return rc;
    if (value == 0 || value > MAX_ALIGNMENT || (value & (value - 1)) != 0) {
        return fail(c, ERR_FORMAT,
                    "general.alignment is %llu, not a power of two up to %u",
                    (unsigned long long)value, MAX_ALIGNMENT);
    }
    c->alignment = (uint32_t)value;
    return 0;
}

/* ---- tensors ---- */

static int take_dims(cursor *c, gguf_tensor *t, uint64_t *n_values) {
    *n_values = 1;
    int rc = take_u32(c, "a tensor's number of dimensions", &t->n_dims);
    if (rc < 0) return rc;
    if (t->n_dims == 0 || t->n_dims > GGUF_MAX_DIMS) {
        return fail(c, ERR_FORMAT, "the tensor '%s' has %u dimensions",
                    gguf_quote(t->name).text, t->n_dims);
    }
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
        t->dims[i] = 1;
        if (i >= t->n_dims) continue;
        rc = take_u64(c, "a tensor's dimension", &t->dims[i]);
        if (rc < 0) return rc;
        if (t->dims[i] == 0 ||
            __builtin_mul_overflow(*n_values, t->dims[i], n_values)) {
            return fail(c, ERR_FORMAT,
                        "the tensor '%s' has an impossible dimension %u of "
                        "%llu",
                        gguf_quote(t->name).text, i,
                        (unsigned long long)t->dims[i]);
        }
    }
    return 0;
}

/* Bytes of data, from the block sizes of the tensor's type. */
static int measure(const cursor *c, gguf_tensor *t, uint64_t n_values) {
    size_t block_len, block_bytes;
    if (!weight_type_size(t->type, &block_len, &block_bytes)) {
        return fail(c, ERR_UNSUPPORTED,
                    "the tensor '%s' has the unknown type %u",
                    gguf_quote(t->name).text, t->type);
    }
    if (t->dims[0] % block_len != 0) {
        return fail(c, ERR_FORMAT,
                    "the tensor '%s' has rows of %llu values, no multiple of "
                    "the %zu in a block of %s",
                    gguf_quote(t->name).text, (unsigned long long)t->dims[0],
                    block_len, weight_type_name(t->type));
    }
    if (__builtin_mul_overflow(n_values / block_len, block_bytes, &t->bytes)) {
        return fail(c, ERR_FORMAT, "the tensor '%s' is impossibly large",
                    gguf_quote(t->name).text);
    }
    return 0;
}

static int take_tensor(cursor *c, gguf_tensor *t) {
    uint64_t n_values = 0;
    int rc = take_name(c, "a tensor's name", &t->name);
    if (rc == 0) rc = take_dims(c, t, &n_values);
    if (rc == 0) rc = take_u32(c, "a tensor's type", &t->type);
    if (rc == 0) rc = take_u64(c, "a tensor's offset", &t->offset);
    if (rc == 0) rc = measure(c, t, n_values);
    return rc;
}

/* Offsets count from the data section; make them count from the file. */
static int place_tensors(const cursor *c) {
    gguf_file *f = c->file;
    uint64_t data_at = round_up(f->head_bytes, c->alignment);
    uint64_t room = data_at < f->bytes ? f->bytes - data_at : 0;

    for (size_t i = 0; i < f->n_tensors; i++) {
        gguf_tensor *t = &f->tensors[i];
        if (t->offset % c->alignment != 0) {
            return fail(c, ERR_FORMAT,
                        "the tensor '%s' is at %llu, not aligned to %u",
                        gguf_quote(t->name).text, (unsigned long long)t->offset,
                        c->alignment);
        }
        if (t->offset > room || t->bytes > room - t->offset) {
            return fail(c, ERR_FORMAT,
                        "the tensor '%s' (%llu bytes at %llu) reaches past the "
                        "end of the data (%llu bytes); is the file complete?",
                        gguf_quote(t->name).text, (unsigned long long)t->bytes,
                        (unsigned long long)t->offset,
                        (unsigned long long)room);
        }
        t->offset += data_at;
    }
    return 0;
}

static int take_tensors(cursor *c, uint64_t n) {
    gguf_file *f = c->file;
    if (n > MAX_TENSORS || n > remaining(c) / MIN_TENSOR_BYTES) {
        return fail(c, ERR_FORMAT,
                    "the header claims %llu tensors, more than fit the file",
                    (unsigned long long)n);
    }
    f->tensors = calloc((size_t)n + 1, sizeof(*f->tensors));
    if (f->tensors == NULL) {
        return fail(c, -ENOMEM, "no memory for %llu tensors",
                    (unsigned long long)n);
    }
    for (; f->n_tensors < n; f->n_tensors++) {
        int rc = take_tensor(c, &f->tensors[f->n_tensors]);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- the whole head ---- */

static int take_version(cursor *c) {
    const uint8_t *magic;
    uint32_t version;
    int rc = take(c, 4, "the magic", &magic);
    if (rc < 0) return rc;
    if (memcmp(magic, "GGUF", 4) != 0) {
        return fail(c, ERR_FORMAT, "not a GGUF file: it begins with '%s'",
                    gguf_quote((gguf_string){(const char *)magic, 4}).text);
    }
    rc = take_u32(c, "the version", &version);
    if (rc < 0) return rc;
    if (version != 0 && (version & 0xffff) == 0) {
        return fail(c, ERR_UNSUPPORTED, "big-endian GGUF is not supported");
    }
    if (version < VERSION_MIN || version > VERSION_MAX) {
        return fail(c, ERR_UNSUPPORTED,
                    "GGUF version %u is not supported, only %d and %d", version,
                    VERSION_MIN, VERSION_MAX);
    }
    return 0;
}

int gguf_parse(gguf_file *f, char *why, size_t why_size) {
    assert(f->keys == NULL && f->tensors == NULL);
    cursor c = {.file = f,
                .at = f->map,
                .end = f->map + f->bytes,
                .why = why,
                .why_size = why_size};
    uint64_t n_tensors = 0, n_keys = 0;

    int rc = take_version(&c);
    if (rc == 0) rc = take_u64(&c, "the number of tensors", &n_tensors);
    if (rc == 0) rc = take_u64(&c, "the number of keys", &n_keys);
    if (rc == 0) rc = take_keys(&c, n_keys);
    if (rc == 0) rc = find_alignment(&c);
    if (rc == 0) rc = take_tensors(&c, n_tensors);
    if (rc < 0) return rc;

    f->head_bytes = (uint64_t)(c.at - f->map);
    return place_tensors(&c);
}
