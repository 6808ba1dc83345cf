/* gguf_edit.c - see gguf_edit.h.
 *
 * Keys are copied as the bytes between their name and the next one's, so the
 * types of their values do not matter. */
#include "tests/support/gguf_edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/gguf_internal.h"

struct gguf_edit {
    gguf *base;
    gguf_writer *writer;
    const char *dropped[GGUF_EDIT_MAX];
    size_t n_dropped;
};

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "gguf_edit: %s: %s\n", what, why);
    abort();
}

gguf_edit *gguf_edit_new(const char *base) {
    char why[256] = "";
    gguf_edit *e = calloc(1, sizeof(*e));
    if (e == NULL) abort();
    if (gguf_open(&e->base, base, why, sizeof(why)) < 0) die(base, why);
    e->writer = gguf_writer_new();
    if (e->writer == NULL) abort();
    return e;
}

gguf_writer *gguf_edit_drop(gguf_edit *e, const char *name) {
    if (e->n_dropped == GGUF_EDIT_MAX) abort();
    e->dropped[e->n_dropped++] = name;
    return e->writer;
}

static void fill_zeros(void *context, size_t bytes, void *out) {
    (void)context;
    memset(out, 0, bytes);
}

void gguf_edit_zeros(gguf_edit *e, const char *name, uint32_t type,
                     uint32_t n_dims, const uint64_t *dims) {
    gguf_writer_tensor_fill(gguf_edit_drop(e, name), name, type, n_dims, dims,
                            fill_zeros, NULL);
}

static bool is_dropped(const gguf_edit *e, const char *name) {
    for (size_t i = 0; i < e->n_dropped; i++) {
        if (strcmp(e->dropped[i], name) == 0) return true;
    }
    return false;
}

/* Where key `index` ends: names begin with a length of 8 bytes. */
static const uint8_t *key_end(const gguf_file *f, size_t index,
                              const gguf *base) {
    if (index + 1 < f->n_keys) {
        return (const uint8_t *)f->keys[index + 1].key.data - 8;
    }
    if (base->n_tensors > 0) {
        return (const uint8_t *)base->tensors[0].name.data - 8;
    }
    return f->map + f->head_bytes;
}

static void copy_keys(gguf_edit *e) {
    const gguf_file *f = &e->base->files[0];
    for (size_t i = 0; i < f->n_keys; i++) {
        const gguf_key *k = &f->keys[i];
        char *name = strndup(k->key.data, k->key.len);
        if (name == NULL) abort();
        const uint8_t *value =
            (const uint8_t *)k->key.data + k->key.len + sizeof(uint32_t);
        if (!is_dropped(e, name)) {
            gguf_writer_raw(e->writer, name, (uint32_t)k->type, value,
                            (size_t)(key_end(f, i, e->base) - value));
        }
        free(name);
    }
}

static void copy_tensors(gguf_edit *e) {
    for (size_t i = 0; i < gguf_n_tensors(e->base); i++) {
        const gguf_tensor *t = gguf_tensor_at(e->base, i);
        char *name = strndup(t->name.data, t->name.len);
        if (name == NULL) abort();
        if (!is_dropped(e, name)) {
            gguf_writer_tensor(e->writer, name, t->type, t->n_dims, t->dims,
                               gguf_data(e->base, t));
        }
        free(name);
    }
}

void gguf_edit_finish(gguf_edit *e, const char *path) {
    copy_keys(e);
    copy_tensors(e);
    int rc = gguf_writer_finish(e->writer, path);
    if (rc < 0) die(path, err_text(rc));
    gguf_writer_free(e->writer);
    gguf_close(e->base);
    free(e);
}
