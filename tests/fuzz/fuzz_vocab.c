/* fuzz_vocab.c - hostile vocabularies: an input is a vocabulary and a text.
 *
 *   first byte   the model (BPE, SPM, unigram, one nobody knows) and options
 *   second       bytes of the text, which follow
 *   then         { what, length, bytes... } again and again: a token of each
 *                type, a merge, or the rules of unigram
 *
 * What must hold: the vocabulary is refused with a sentence, or a text is
 * tokenized within the promised room, into ids of the vocabulary that can be
 * turned back to bytes. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/gguf_memory.h"

enum { MAX_INPUT = 4096, MAX_ENTRIES = 512 };

typedef struct {
    const uint8_t *data;
    size_t len;
    uint8_t what;
} entry;

typedef struct {
    entry tokens[MAX_ENTRIES], merges[MAX_ENTRIES], rules;
    size_t n_tokens, n_merges;
} entries;

/* ---- a GGUF file in memory ---- */

typedef struct {
    uint8_t bytes[1 << 17];
    size_t n;
    uint64_t n_keys;
} file;

static void put(file *f, const void *data, size_t n) {
    assert(n <= sizeof(f->bytes) - f->n);
    if (n > 0) memcpy(f->bytes + f->n, data, n);
    f->n += n;
}

static void put_u32(file *f, uint32_t value) {
    put(f, &value, sizeof(value));
}

static void put_text(file *f, const void *data, size_t n) {
    put(f, &(uint64_t){n}, sizeof(uint64_t));
    put(f, data, n);
}

static void put_key(file *f, const char *name, gguf_type type) {
    put_text(f, name, strlen(name));
    put_u32(f, type);
    f->n_keys++;
}

static void put_array(file *f, const char *name, gguf_type type, uint64_t n) {
    put_key(f, name, GGUF_ARRAY);
    put_u32(f, type);
    put(f, &n, sizeof(n));
}

static void put_words(file *f, const char *name, const char *text) {
    put_key(f, name, GGUF_STRING);
    put_text(f, text, strlen(text));
}

static void put_flag(file *f, const char *name, bool value) {
    put_key(f, name, GGUF_BOOL);
    put(f, &(uint8_t){value}, 1);
}

static void put_strings(file *f, const char *name, const entry *all, size_t n) {
    put_array(f, name, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_text(f, all[i].data, all[i].len);
}

/* Scores go with the type's byte, so that ties and order are the fuzzer's. */
static float score_of(uint8_t what) {
    static const float odd[] = {0.0f, -1e30f, 1e30f, 3.4e38f};
    uint8_t bits = what >> 3;
    return bits < 28 ? -(float)bits / 4 : odd[bits - 28];
}

static void write_file(file *f, uint8_t choice, const entries *e) {
    static const char *const models[] = {"gpt2", "llama", "t5", "none"};
    static const char *const pres[] = {"gpt-2", "llama-bpe", "qwen2", "?"};

    put_u32(f, 0x46554747);
    put_u32(f, 3);
    put(f, (uint64_t[2]){0, 0}, 16); /* tensors, and keys, known at the end */
    put_words(f, "tokenizer.ggml.model", models[choice & 3]);
    put_words(f, "tokenizer.ggml.pre", pres[choice >> 2 & 3]);
    put_flag(f, "tokenizer.ggml.add_space_prefix", (choice & 16) != 0);
    put_flag(f, "tokenizer.ggml.remove_extra_whitespaces", (choice & 32) != 0);
    put_strings(f, "tokenizer.ggml.tokens", e->tokens, e->n_tokens);
    put_array(f, "tokenizer.ggml.scores", GGUF_F32, e->n_tokens);
    for (size_t i = 0; i < e->n_tokens; i++)
        put(f, &(float){score_of(e->tokens[i].what)}, sizeof(float));
    put_array(f, "tokenizer.ggml.token_type", GGUF_I32, e->n_tokens);
    for (size_t i = 0; i < e->n_tokens; i++)
        put_u32(f, (e->tokens[i].what & 7) + 1u);
    put_strings(f, "tokenizer.ggml.merges", e->merges, e->n_merges);
    if (e->rules.data != NULL) {
        put_array(f, "tokenizer.ggml.precompiled_charsmap", GGUF_U8,
                  e->rules.len);
        put(f, e->rules.data, e->rules.len);
    }
    memcpy(f->bytes + 16, &f->n_keys, sizeof(f->n_keys));
}

/* ---- what an input says ---- */

static void take_entries(entries *e, const uint8_t *data, size_t size) {
    for (size_t at = 0; at + 2 <= size;) {
        entry one = {.what = data[at]};
        one.len = size_min(data[at + 1], size - at - 2);
        one.data = data + at + 2;
        at += 2 + one.len;
        uint8_t kind = one.what & 7;
        if (kind == 7)
            e->rules = (entry){one.data, size - (size_t)(one.data - data), 7};
        else if (kind == 6 && e->n_merges < MAX_ENTRIES)
            e->merges[e->n_merges++] = one;
        else if (kind < 6 && e->n_tokens < MAX_ENTRIES)
            e->tokens[e->n_tokens++] = one;
        if (kind == 7) return; /* they go on to the end */
    }
}

static void check_ids(const tokenizer *t, const int32_t *ids, size_t n) {
    utf8_stream stream = {0};
    for (size_t i = 0; i < n; i++) {
        assert(ids[i] >= 0 && ids[i] < tokenizer_n_vocab(t));
        gguf_string piece = tokenizer_piece(t, ids[i], true);
        char *out = malloc(piece.len + 4);
        if (out == NULL) abort();
        size_t made = utf8_stream_push(&stream, piece.data, piece.len, out);
        assert(made <= piece.len + 4);
        free(out);
    }
    size_t need;
    int rc = tokenizer_decode(t, ids, n, true, NULL, 0, &need);
    assert(rc == 0 || need > 0);
}

static void use(const tokenizer *t, const char *text, size_t len,
                bool parse_special) {
    size_t room = tokenizer_room(t, len), n;
    int32_t *ids = malloc(room * sizeof(*ids));
    if (ids == NULL) abort();
    int rc = tokenizer_encode(t, text, len, true, parse_special, ids, room, &n);
    assert(rc == 0 && n <= room);
    check_ids(t, ids, n);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static file f;
    static entries e;
    if (size < 2 || size > MAX_INPUT) return 0;
    size_t len = size_min(data[1], size - 2);

    f.n = 0;
    f.n_keys = 0;
    memset(&e, 0, sizeof(e));
    take_entries(&e, data + 2 + len, size - 2 - len);
    write_file(&f, data[0], &e);

    gguf *g;
    char why[512] = "";
    if (gguf_memory_open(&g, f.bytes, f.n, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    tokenizer *t;
    int rc = tokenizer_new(&t, g, why, sizeof(why));
    gguf_memory_close(g);
    if (rc < 0) {
        assert(t == NULL && why[0] != '\0');
        return 0;
    }
    use(t, (const char *)data + 2, len, (data[0] & 64) != 0);
    tokenizer_free(t);
    return 0;
}
