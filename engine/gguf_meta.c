/* gguf_meta.c - typed access to metadata.
 *
 * The parser has checked that every value lies inside the file; what is left to
 * check here is that it has the type, range and length the caller needs. */
#include <string.h>
#include "engine/err.h"
#include "engine/gguf_internal.h"
#include "engine/util.h"

/* clang-format off */
static const char *const type_names[] = {
    [GGUF_U8] = "u8",     [GGUF_I8] = "i8",         [GGUF_U16] = "u16",
    [GGUF_I16] = "i16",   [GGUF_U32] = "u32",       [GGUF_I32] = "i32",
    [GGUF_F32] = "f32",   [GGUF_BOOL] = "bool",     [GGUF_STRING] = "string",
    [GGUF_ARRAY] = "array", [GGUF_U64] = "u64",     [GGUF_I64] = "i64",
    [GGUF_F64] = "f64",
};
/* clang-format on */

/* An integer of any width: its bits, sign-extended, and its sign. */
typedef struct {
    uint64_t bits;
    bool negative;
} integer;

#define SIGNED_INTEGER(type, at, out)                                          \
    do {                                                                       \
        type value;                                                            \
        memcpy(&value, at, sizeof(value));                                     \
        *(out) = (integer){(uint64_t)(int64_t)value, value < 0};               \
    } while (0)
#define UNSIGNED_INTEGER(type, at, out)                                        \
    do {                                                                       \
        type value;                                                            \
        memcpy(&value, at, sizeof(value));                                     \
        *(out) = (integer){value, false};                                      \
    } while (0)

/* Bytes of the type; 0 if it is no integer type. */
static size_t read_integer(const uint8_t *at, gguf_type type, integer *out) {
    /* clang-format off */
    switch (type) {
    case GGUF_U8:  UNSIGNED_INTEGER(uint8_t, at, out);  return 1;
    case GGUF_I8:  SIGNED_INTEGER(int8_t, at, out);     return 1;
    case GGUF_U16: UNSIGNED_INTEGER(uint16_t, at, out); return 2;
    case GGUF_I16: SIGNED_INTEGER(int16_t, at, out);    return 2;
    case GGUF_U32: UNSIGNED_INTEGER(uint32_t, at, out); return 4;
    case GGUF_I32: SIGNED_INTEGER(int32_t, at, out);    return 4;
    case GGUF_U64: UNSIGNED_INTEGER(uint64_t, at, out); return 8;
    case GGUF_I64: SIGNED_INTEGER(int64_t, at, out);    return 8;
    default: return 0;
    }
    /* clang-format on */
}

static bool fits_i32(integer v) {
    return v.negative ? (int64_t)v.bits >= INT32_MIN : v.bits <= INT32_MAX;
}

static int find(const gguf_file *f, const char *key, const gguf_key **out,
                char *why, size_t why_size) {
    *out = gguf_file_key(f, key);
    if (*out != NULL) return 0;
    return err_why(why, why_size, ERR_NOT_HERE, "%s: the key '%s' is missing",
                   f->path, key);
}

static int wrong_type(const gguf_file *f, const gguf_key *k, const char *wanted,
                      char *why, size_t why_size) {
    bool array = k->type == GGUF_ARRAY;
    return err_why(why, why_size, ERR_FORMAT,
                   "%s: the key '%s' is %s%s, not %s", f->path,
                   gguf_quote(k->key).text, array ? "an array of " : "",
                   type_names[k->element], wanted);
}

/* Find a key and insist on its type. */
static int find_typed(const gguf_file *f, const char *key, gguf_type type,
                      const gguf_key **out, char *why, size_t why_size) {
    int rc = find(f, key, out, why, why_size);
    if (rc < 0 || (*out)->type == type) return rc;
    return wrong_type(f, *out, type_names[type], why, why_size);
}

/* Find an array of exactly n elements. */
static int find_array(const gguf_file *f, const char *key, uint64_t n,
                      const gguf_key **out, char *why, size_t why_size) {
    int rc = find_typed(f, key, GGUF_ARRAY, out, why, why_size);
    if (rc < 0 || (*out)->n == n) return rc;
    return err_why(why, why_size, ERR_FORMAT,
                   "%s: the key '%s' has %llu elements, not %llu", f->path, key,
                   (unsigned long long)(*out)->n, (unsigned long long)n);
}

static int find_unsigned(const gguf_file *f, const char *key, uint64_t most,
                         uint64_t *out, char *why, size_t why_size) {
    const gguf_key *k;
    integer v;
    int rc = find(f, key, &k, why, why_size);
    if (rc < 0) return rc;
    if (k->type == GGUF_ARRAY || read_integer(k->data, k->type, &v) == 0) {
        return wrong_type(f, k, "an integer", why, why_size);
    }
    if (v.negative || v.bits > most) {
        return err_why(why, why_size, ERR_FORMAT,
                       "%s: the key '%s' is %s%llu, not in 0 to %llu", f->path,
                       key, v.negative ? "-" : "",
                       (unsigned long long)(v.negative ? 0 - v.bits : v.bits),
                       (unsigned long long)most);
    }
    *out = v.bits;
    return 0;
}

static gguf_string string_at(const uint8_t *at) {
    uint64_t len;
    memcpy(&len, at, sizeof(len));
    return (gguf_string){(const char *)at + sizeof(len), (size_t)len};
}

int gguf_file_u64(const gguf_file *f, const char *key, uint64_t *out, char *why,
                  size_t why_size) {
    return find_unsigned(f, key, UINT64_MAX, out, why, why_size);
}

/* ---- public: the first file's metadata is the model's ---- */

bool gguf_has(const gguf *g, const char *key) {
    return gguf_file_key(&g->files[0], key) != NULL;
}

int gguf_get_u32(const gguf *g, const char *key, uint32_t *out, char *why,
                 size_t why_size) {
    uint64_t value;
    int rc =
        find_unsigned(&g->files[0], key, UINT32_MAX, &value, why, why_size);
    if (rc == 0) *out = (uint32_t)value;
    return rc;
}

int gguf_get_u64(const gguf *g, const char *key, uint64_t *out, char *why,
                 size_t why_size) {
    return gguf_file_u64(&g->files[0], key, out, why, why_size);
}

int gguf_get_f32(const gguf *g, const char *key, float *out, char *why,
                 size_t why_size) {
    const gguf_key *k;
    int rc = find_typed(&g->files[0], key, GGUF_F32, &k, why, why_size);
    if (rc == 0) memcpy(out, k->data, sizeof(*out));
    return rc;
}

int gguf_get_bool(const gguf *g, const char *key, bool *out, char *why,
                  size_t why_size) {
    const gguf_key *k;
    int rc = find_typed(&g->files[0], key, GGUF_BOOL, &k, why, why_size);
    if (rc == 0) *out = *k->data != 0;
    return rc;
}

int gguf_get_string(const gguf *g, const char *key, gguf_string *out, char *why,
                    size_t why_size) {
    const gguf_key *k;
    int rc = find_typed(&g->files[0], key, GGUF_STRING, &k, why, why_size);
    if (rc == 0) *out = string_at(k->data);
    return rc;
}

int gguf_get_array(const gguf *g, const char *key, gguf_type *type, uint64_t *n,
                   char *why, size_t why_size) {
    const gguf_key *k;
    int rc = find_typed(&g->files[0], key, GGUF_ARRAY, &k, why, why_size);
    if (rc < 0) return rc;
    *type = k->element;
    *n = k->n;
    return 0;
}

int gguf_array_i32(const gguf *g, const char *key, int32_t *out, uint64_t n,
                   char *why, size_t why_size) {
    const gguf_file *f = &g->files[0];
    const gguf_key *k;
    int rc = find_array(f, key, n, &k, why, why_size);
    if (rc < 0) return rc;

    const uint8_t *at = k->data;
    for (uint64_t i = 0; i < n; i++) {
        integer v;
        size_t width = read_integer(at, k->element, &v);
        if (width == 0) {
            return wrong_type(f, k, "an array of integers", why, why_size);
        }
        if (!fits_i32(v)) {
            return err_why(why, why_size, ERR_FORMAT,
                           "%s: element %llu of the key '%s' does not fit 32 "
                           "bits",
                           f->path, (unsigned long long)i, key);
        }
        out[i] = (int32_t)(int64_t)v.bits;
        at += width;
    }
    return 0;
}

int gguf_array_f32(const gguf *g, const char *key, float *out, uint64_t n,
                   char *why, size_t why_size) {
    const gguf_file *f = &g->files[0];
    const gguf_key *k;
    int rc = find_array(f, key, n, &k, why, why_size);
    if (rc < 0) return rc;
    if (k->element != GGUF_F32) {
        return wrong_type(f, k, "an array of f32", why, why_size);
    }
    if (n > 0) memcpy(out, k->data, (size_t)n * sizeof(*out));
    return 0;
}

int gguf_array_strings(const gguf *g, const char *key, gguf_string *out,
                       uint64_t n, char *why, size_t why_size) {
    const gguf_file *f = &g->files[0];
    const gguf_key *k;
    int rc = find_array(f, key, n, &k, why, why_size);
    if (rc < 0) return rc;
    if (k->element != GGUF_STRING) {
        return wrong_type(f, k, "an array of strings", why, why_size);
    }
    const uint8_t *at = k->data;
    for (uint64_t i = 0; i < n; i++) {
        out[i] = string_at(at);
        at = (const uint8_t *)out[i].data + out[i].len;
    }
    return 0;
}

size_t gguf_n_keys(const gguf *g) {
    return g->files[0].n_keys;
}

gguf_string gguf_key_at(const gguf *g, size_t index, gguf_type *type) {
    const gguf_key *k = &g->files[0].keys[index];
    *type = k->type;
    return k->key;
}
