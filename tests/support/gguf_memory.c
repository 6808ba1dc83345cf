/* gguf_memory.c - see gguf_memory.h. */
#include "tests/support/gguf_memory.h"

#include <stdlib.h>
#include <string.h>
#include "engine/gguf_internal.h"

int gguf_memory_open(gguf **out, const void *bytes, size_t n, char *why,
                     size_t why_size) {
    *out = NULL;
    gguf *g = calloc(1, sizeof(*g));
    gguf_file *f = calloc(1, sizeof(*f));
    uint8_t *copy = malloc(n);
    char *path = strdup("memory.gguf");
    if (g == NULL || f == NULL || (copy == NULL && n > 0) || path == NULL) {
        abort();
    }
    if (n > 0) memcpy(copy, bytes, n);
    *f = (gguf_file){.path = path, .fd = -1, .map = copy, .bytes = n};
    g->files = f;
    g->n_files = 1;

    int rc = gguf_parse(f, why, why_size);
    if (rc == 0) rc = gguf_join(g, why, why_size);
    if (rc < 0)
        gguf_memory_close(g);
    else
        *out = g;
    return rc;
}

void gguf_memory_close(gguf *g) {
    if (g == NULL) return;
    free((void *)(uintptr_t)g->files[0].map);
    g->files[0].map = NULL;
    gguf_close(g);
}

static unsigned sum_bytes(const void *bytes, size_t n) {
    const uint8_t *at = bytes;
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += at[i];
    return sum;
}

/* Every getter on every key: most refuse it. */
static unsigned walk_key(const gguf *g, const char *key) {
    uint32_t u32 = 0;
    uint64_t u64 = 0, n = 0;
    float f32 = 0;
    bool flag = false;
    gguf_string text = {0};
    gguf_type element = GGUF_U8;
    char why[256];

    gguf_get_u32(g, key, &u32, why, sizeof(why));
    gguf_get_u64(g, key, &u64, why, sizeof(why));
    gguf_get_f32(g, key, &f32, why, sizeof(why));
    gguf_get_bool(g, key, &flag, why, sizeof(why));
    gguf_get_string(g, key, &text, why, sizeof(why));
    unsigned sum = sum_bytes(text.data, text.len) + u32 + (unsigned)u64 + flag;
    if (gguf_get_array(g, key, &element, &n, why, sizeof(why)) < 0) return sum;

    int32_t *ints = calloc(n + 1, sizeof(*ints));
    float *floats = calloc(n + 1, sizeof(*floats));
    gguf_string *texts = calloc(n + 1, sizeof(*texts));
    if (ints == NULL || floats == NULL || texts == NULL) abort();
    gguf_array_i32(g, key, ints, n, why, sizeof(why));
    gguf_array_f32(g, key, floats, n, why, sizeof(why));
    gguf_array_strings(g, key, texts, n, why, sizeof(why));
    for (uint64_t i = 0; i < n; i++)
        sum += (unsigned)ints[i] + sum_bytes(texts[i].data, texts[i].len);
    free(ints);
    free(floats);
    free(texts);
    return sum;
}

unsigned gguf_memory_walk(const gguf *g) {
    unsigned sum = 0;
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        gguf_type type;
        gguf_string name = gguf_key_at(g, i, &type);
        char *key = strndup(name.data, name.len);
        if (key == NULL) abort();
        sum += walk_key(g, key);
        free(key);
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        char *name = strndup(t->name.data, t->name.len);
        if (name == NULL) abort();
        sum += gguf_find_tensor(g, name) != NULL;
        sum += sum_bytes(gguf_data(g, t), (size_t)t->bytes);
        free(name);
    }
    return sum;
}
