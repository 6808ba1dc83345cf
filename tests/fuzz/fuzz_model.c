/* fuzz_model.c - damaged model files through all that the programs do with one.
 *
 * An input is not a file but a list of changes to a good one, so that mutations
 * meet the few kilobytes of metadata and not the weights behind them:
 *
 *   first byte   which model
 *   then         { op, place in the metadata (u16), length, bytes... } again
 * and again
 *
 * The models are the small golden ones under tests/golden/data, looked for from
 * the working directory.  What must hold: it serves, or it says why not; no
 * single allocation is above 256 MB. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/gguf_memory.h"
#include "tests/support/whole_model.h"

#define MAX_GROWTH 4096

enum { OP_WRITE, OP_INSERT, OP_REMOVE, OP_CUT, OPS };

static const char *const paths[] = {
    "tests/golden/data/logits/mixtral-q8_0/model.gguf",
    "tests/golden/data/logits/qwen3moe-q8_0/model.gguf",
    "tests/golden/data/logits/llama-dense-q8_0/model.gguf",
    "tests/golden/data/logits/mixtral-bf16/model.gguf",
};

typedef struct {
    uint8_t *bytes; /* NULL: not read yet */
    size_t n;
    size_t head_bytes; /* metadata and tensor table */
} model;

static model models[ARRAY_LEN(paths)];

static const model *find_model(uint8_t choice) {
    size_t which = choice % ARRAY_LEN(paths);
    model *m = &models[which];
    if (m->bytes != NULL) return m;

    gguf *g;
    char why[256] = "";
    m->bytes = fixture_read(paths[which], &m->n);
    if (gguf_memory_open(&g, m->bytes, m->n, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    gguf_head(g, 0, &m->head_bytes);
    gguf_memory_close(g);
    return m;
}

const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "max_allocation_size_mb=256";
}

/* Apply one change at `at`, with up to `len` bytes of `data`. */
static void apply(uint8_t op, size_t at, const uint8_t *data, size_t len,
                  uint8_t *file, size_t *n) {
    if (at >= *n) return; /* it was cut off before */
    switch (op % OPS) {
    case OP_WRITE:
        memcpy(file + at, data, size_min(len, *n - at));
        return;
    case OP_INSERT:
        memmove(file + at + len, file + at, *n - at);
        memcpy(file + at, data, len);
        *n += len;
        return;
    case OP_REMOVE:
        len = size_min(len, *n - at);
        memmove(file + at, file + at + len, *n - at - len);
        *n -= len;
        return;
    case OP_CUT:
        *n = at;
        return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 5 || size > MAX_GROWTH) return 0; /* nothing is changed */
    const model *m = find_model(data[0]);
    size_t n = m->n;
    uint8_t *file = malloc(n + MAX_GROWTH);
    if (file == NULL) abort();
    memcpy(file, m->bytes, n);
    for (size_t i = 1; i + 4 <= size;) {
        size_t at = data[i + 1] | (size_t)data[i + 2] << 8;
        size_t len = size_min(data[i + 3], size - i - 4);
        apply(data[i], at % m->head_bytes, data + i + 4, len, file, &n);
        i += 4 + len;
    }

    char why[512];
    int rc = whole_model_try(file, n, why, sizeof(why));
    free(file);
    if (rc < 0 && why[0] == '\0') {
        fprintf(stderr, "%s without a sentence\n", err_name(rc));
        abort();
    }
    return 0;
}
