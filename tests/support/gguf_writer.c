/* gguf_writer.c - see gguf_writer.h.
 *
 * Metadata and tensor table grow in two memory buffers while they are declared;
 * finishing writes header, buffers and data to a temporary name and renames. */
#include "tests/support/gguf_writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/util.h"
#include "engine/weight.h"

typedef struct {
    uint8_t *bytes;
    size_t n;
    size_t capacity;
} buffer;

typedef struct {
    uint64_t bytes;
    const void *data; /* or */
    gguf_fill fill;
    void *context;
} payload;

struct gguf_writer {
    uint32_t version;
    uint32_t alignment;
    buffer keys;
    buffer table;
    uint64_t n_keys;
    uint64_t data_bytes; /* of the tensors declared so far, with padding */
    payload *payloads;
    size_t n_tensors;
    int error; /* the first one */
};

static void fail(gguf_writer *w, int code) {
    if (w->error == 0) w->error = code;
}

static void append(gguf_writer *w, buffer *b, const void *bytes, size_t n) {
    if (w->error != 0) return;
    if (b->n + n > b->capacity) {
        size_t capacity = size_max(2 * b->capacity, b->n + n + 4096);
        uint8_t *grown = realloc(b->bytes, capacity);
        if (grown == NULL) {
            fail(w, -ENOMEM);
            return;
        }
        b->bytes = grown;
        b->capacity = capacity;
    }
    if (n > 0) memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

static void append_u32(gguf_writer *w, buffer *b, uint32_t value) {
    append(w, b, &value, sizeof(value));
}

static void append_u64(gguf_writer *w, buffer *b, uint64_t value) {
    append(w, b, &value, sizeof(value));
}

static void append_text(gguf_writer *w, buffer *b, const char *text) {
    append_u64(w, b, strlen(text));
    append(w, b, text, strlen(text));
}

static size_t value_bytes(gguf_type type) {
    switch (type) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL:
        return 1;
    case GGUF_U16:
    case GGUF_I16:
        return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32:
        return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

gguf_writer *gguf_writer_new(void) {
    gguf_writer *w = calloc(1, sizeof(*w));
    if (w == NULL) return NULL;
    w->version = 3;
    w->alignment = 32;
    return w;
}

void gguf_writer_free(gguf_writer *w) {
    if (w == NULL) return;
    for (size_t i = 0; i < w->n_tensors; i++)
        free(w->payloads[i].context);
    free(w->payloads);
    free(w->keys.bytes);
    free(w->table.bytes);
    free(w);
}

void gguf_writer_version(gguf_writer *w, uint32_t version) {
    w->version = version;
}

void gguf_writer_alignment(gguf_writer *w, uint32_t alignment) {
    w->alignment = alignment;
    gguf_writer_u32(w, "general.alignment", alignment);
}

/* ---- metadata ---- */

static void begin_key(gguf_writer *w, const char *key, uint32_t type) {
    append_text(w, &w->keys, key);
    append_u32(w, &w->keys, type);
    w->n_keys++;
}

void gguf_writer_raw(gguf_writer *w, const char *key, uint32_t type,
                     const void *bytes, size_t n) {
    begin_key(w, key, type);
    append(w, &w->keys, bytes, n);
}

void gguf_writer_value(gguf_writer *w, const char *key, gguf_type type,
                       const void *value) {
    gguf_writer_raw(w, key, (uint32_t)type, value, value_bytes(type));
}

void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t value) {
    gguf_writer_value(w, key, GGUF_U32, &value);
}

void gguf_writer_f32(gguf_writer *w, const char *key, float value) {
    gguf_writer_value(w, key, GGUF_F32, &value);
}

void gguf_writer_bool(gguf_writer *w, const char *key, bool value) {
    uint8_t byte = value;
    gguf_writer_value(w, key, GGUF_BOOL, &byte);
}

void gguf_writer_string(gguf_writer *w, const char *key, const char *value) {
    begin_key(w, key, GGUF_STRING);
    append_text(w, &w->keys, value);
}

static void begin_array(gguf_writer *w, const char *key, gguf_type element,
                        uint64_t n) {
    begin_key(w, key, GGUF_ARRAY);
    append_u32(w, &w->keys, (uint32_t)element);
    append_u64(w, &w->keys, n);
}

void gguf_writer_array(gguf_writer *w, const char *key, gguf_type element,
                       uint64_t n, const void *values) {
    begin_array(w, key, element, n);
    append(w, &w->keys, values, n * value_bytes(element));
}

void gguf_writer_strings(gguf_writer *w, const char *key, uint64_t n,
                         const char *const *values) {
    begin_array(w, key, GGUF_STRING, n);
    for (uint64_t i = 0; i < n; i++)
        append_text(w, &w->keys, values[i]);
}

/* ---- tensors ---- */

/* Takes ownership of p.context, also on failure. */
static void add_tensor(gguf_writer *w, const char *name, uint32_t type,
                       uint32_t n_dims, const uint64_t *dims, payload p) {
    payload *grown =
        realloc(w->payloads, (w->n_tensors + 1) * sizeof(*w->payloads));
    if (grown == NULL) {
        free(p.context);
        fail(w, -ENOMEM);
        return;
    }
    w->payloads = grown;

    size_t block_len = 0, block_bytes = 0;
    weight_type_size(type, &block_len, &block_bytes);
    if (block_len == 0 || block_bytes == 0) {
        block_len = block_bytes = 1;
        fail(w, ERR_UNSUPPORTED);
    }
    p.bytes = block_bytes;
    for (uint32_t i = 0; i < n_dims; i++)
        p.bytes *= i == 0 ? dims[i] / block_len : dims[i];

    append_text(w, &w->table, name);
    append_u32(w, &w->table, n_dims);
    append(w, &w->table, dims, n_dims * sizeof(*dims));
    append_u32(w, &w->table, type);
    append_u64(w, &w->table, w->data_bytes);
    w->data_bytes += round_up(p.bytes, w->alignment);
    w->payloads[w->n_tensors++] = p;
}

void gguf_writer_tensor(gguf_writer *w, const char *name, uint32_t type,
                        uint32_t n_dims, const uint64_t *dims,
                        const void *data) {
    add_tensor(w, name, type, n_dims, dims, (payload){.data = data});
}

void gguf_writer_tensor_fill(gguf_writer *w, const char *name, uint32_t type,
                             uint32_t n_dims, const uint64_t *dims,
                             gguf_fill fill, void *context) {
    add_tensor(w, name, type, n_dims, dims,
               (payload){.fill = fill, .context = context});
}

/* ---- the file ---- */

static void put(gguf_writer *w, FILE *f, const void *bytes, size_t n) {
    if (w->error != 0 || n == 0) return;
    if (fwrite(bytes, 1, n, f) != n) fail(w, -EIO);
}

static void pad(gguf_writer *w, FILE *f, uint64_t written) {
    static const uint8_t zeros[4096];
    size_t n = (size_t)(round_up(written, w->alignment) - written);
    for (; n > 0; n -= size_min(n, sizeof(zeros)))
        put(w, f, zeros, size_min(n, sizeof(zeros)));
}

static void put_payload(gguf_writer *w, FILE *f, const payload *p,
                        void *piece) {
    if (p->fill == NULL) put(w, f, p->data, (size_t)p->bytes);
    for (uint64_t at = 0; p->fill != NULL && at < p->bytes;) {
        size_t n = (size_t)size_min(GGUF_WRITER_PIECE, p->bytes - at);
        p->fill(p->context, n, piece);
        put(w, f, piece, n);
        at += n;
    }
    pad(w, f, p->bytes);
}

static void put_file(gguf_writer *w, FILE *f, void *piece) {
    uint64_t counts[2] = {w->n_tensors, w->n_keys};
    put(w, f, "GGUF", 4);
    put(w, f, &w->version, sizeof(w->version));
    put(w, f, counts, sizeof(counts));
    put(w, f, w->keys.bytes, w->keys.n);
    put(w, f, w->table.bytes, w->table.n);
    pad(w, f, 24 + w->keys.n + w->table.n);
    for (size_t i = 0; i < w->n_tensors; i++)
        put_payload(w, f, &w->payloads[i], piece);
}

int gguf_writer_finish(gguf_writer *w, const char *path) {
    if (w->error != 0) return w->error;

    char *temporary = NULL;
    void *piece = malloc(GGUF_WRITER_PIECE);
    if (asprintf(&temporary, "%s.%ld.tmp", path, (long)getpid()) < 0) {
        temporary = NULL;
    }
    FILE *f = NULL;
    if (piece == NULL || temporary == NULL) {
        fail(w, -ENOMEM);
        goto done;
    }
    f = fopen(temporary, "wb");
    if (f == NULL) {
        fail(w, -errno);
        goto done;
    }
    put_file(w, f, piece);
    if (fclose(f) != 0) fail(w, -errno);
    if (w->error == 0 && rename(temporary, path) < 0) fail(w, -errno);
    if (w->error != 0) unlink(temporary);

done:
    free(piece);
    free(temporary);
    return w->error;
}
