/* fuzz_tokenizer.c - arbitrary bytes through tokenizers that have all bytes.
 *
 * The first byte of an input chooses the vocabulary and the options, the rest
 * is the text.  What must hold: encoding stays within the promised number of
 * tokens, every id is in the vocabulary, and decoding gives the text back,
 * except where the tokenizer rewrites it (normal form C; U+2581 in SPM).  The
 * pieces through a utf8_stream, cut anywhere, give the same bytes. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/gguf_writer.h"

typedef struct {
    const char *model, *pre;
    bool gives_back; /* every text, byte for byte */
} kind;

static const kind kinds[] = {
    {"gpt2", "gpt-2", true},   {"gpt2", "llama-bpe", true},
    {"gpt2", "default", true}, {"gpt2", "deepseek-llm", true},
    {"gpt2", "kimi-k2", true}, {"gpt2", "deepseek-v3", true},
    {"gpt2", "gpt-4o", true},  {"gpt2", "deepseek-coder", true},
    {"gpt2", "tekken", true},  {"gpt2", "qwen35", true},
    {"gpt2", "qwen2", false},  {"llama", NULL, false},
};

static tokenizer *tokenizers[ARRAY_LEN(kinds)];

enum { N_EXTRA = 12, N_TOKENS = 3 + 256 + N_EXTRA };

static const char *const extra[N_EXTRA] = {"ab",   "abab",  "bc",     "aa",
                                           "aaaa", "12",    "123",    "the",
                                           "th",   "<|x|>", "<|x|>y", "<tool>"};

static const char *const merges[] = {"a b", "ab ab", "b c", "a a", "aa aa",
                                     "1 2", "12 3",  "t h", "th e"};

/* The byte-level alphabet's character, or SPM's name, of a byte. */
static void name_byte(bool bpe, int b, char *out, size_t size) {
    if (!bpe) {
        snprintf(out, size, "<0x%02X>", (unsigned)b);
        return;
    }
    uint32_t c = 0x100, seen = 0;
    for (int i = 0; i <= b; i++) {
        bool itself = (i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i != 0xAD);
        c = itself ? (uint32_t)i : 0x100 + seen++;
    }
    if (c < 0x80)
        snprintf(out, size, "%c", (char)c);
    else
        snprintf(out, size, "%c%c", (char)(0xC0 | c >> 6),
                 (char)(0x80 | (c & 0x3F)));
}

static void write_vocab(const kind *k, const char *path) {
    static char names[256][7];
    const char *tokens[N_TOKENS] = {"<unk>", "<s>", "</s>"};
    int32_t types[N_TOKENS] = {2, 3, 3};
    float scores[N_TOKENS] = {0};
    bool bpe = strcmp(k->model, "gpt2") == 0;

    for (int b = 0; b < 256; b++) {
        name_byte(bpe, b, names[b], sizeof(names[b]));
        tokens[3 + b] = names[b];
        types[3 + b] = bpe ? 1 : 6;
    }
    for (int i = 0; i < N_EXTRA; i++) {
        tokens[3 + 256 + i] = extra[i];
        types[3 + 256 + i] = i < 9 ? 1 : i < 11 ? 3 : 4;
        scores[3 + 256 + i] = (float)-i;
    }

    gguf_writer *w = gguf_writer_new();
    gguf_writer_string(w, "general.architecture", "llama");
    gguf_writer_string(w, "tokenizer.ggml.model", k->model);
    if (k->pre != NULL) gguf_writer_string(w, "tokenizer.ggml.pre", k->pre);
    gguf_writer_strings(w, "tokenizer.ggml.tokens", N_TOKENS, tokens);
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, N_TOKENS,
                      types);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, N_TOKENS, scores);
    gguf_writer_strings(w, "tokenizer.ggml.merges", ARRAY_LEN(merges), merges);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", true);
    if (gguf_writer_finish(w, path) != 0) abort();
    gguf_writer_free(w);
}

static tokenizer *open_kind(const kind *k) {
    char path[] = "/tmp/roster-fuzz-XXXXXX", why[256];
    tokenizer *t;
    gguf *g;
    int fd = mkstemp(path);
    if (fd < 0) abort();
    close(fd);
    write_vocab(k, path);
    if (gguf_open(&g, path, why, sizeof(why)) < 0 ||
        tokenizer_new(&t, g, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    gguf_close(g);
    unlink(path);
    return t;
}

/* The text must come back from `ids`, through one call. */
static void check_decoded(const tokenizer *t, const int32_t *ids, size_t n,
                          const char *text, size_t len) {
    char *back = malloc(len + 1);
    size_t n_back;
    if (back == NULL) abort();
    int rc = tokenizer_decode(t, ids, n, true, back, len, &n_back);
    assert(rc == 0);
    assert(n_back == len && memcmp(back, text, len) == 0);
    free(back);
}

/* Streaming the pieces loses and adds nothing. */
static void check_stream(const tokenizer *t, const int32_t *ids, size_t n) {
    utf8_stream stream = {0};
    uint64_t in = 0, out = 0; /* sums that know the order */

    for (size_t i = 0; i < n; i++) {
        char text[64];
        gguf_string piece = tokenizer_piece(t, ids[i], true);
        assert(piece.len + 4 <= sizeof(text));
        for (size_t b = 0; b < piece.len; b++)
            in = in * 31 + (uint8_t)piece.data[b];
        size_t made = utf8_stream_push(&stream, piece.data, piece.len, text);
        assert(made <= piece.len + 4);
        for (size_t b = 0; b < made; b++)
            out = out * 31 + (uint8_t)text[b];
    }
    char rest[4];
    size_t made = utf8_stream_flush(&stream, rest);
    assert(made < 4);
    for (size_t b = 0; b < made; b++)
        out = out * 31 + (uint8_t)rest[b];
    assert(in == out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    size_t which = (data[0] & 0x3F) % ARRAY_LEN(kinds);
    bool add_special = (data[0] & 0x40) != 0;
    bool parse_special = (data[0] & 0x80) != 0;
    const char *text = (const char *)data + 1;
    size_t len = size - 1, room = 3 * len + 4, n;

    if (tokenizers[which] == NULL) tokenizers[which] = open_kind(&kinds[which]);
    const tokenizer *t = tokenizers[which];
    int32_t *ids = malloc(room * sizeof(*ids));
    if (ids == NULL) abort();
    int rc = tokenizer_encode(t, text, len, add_special, parse_special, ids,
                              room, &n);
    assert(rc == 0 && n <= room);
    for (size_t i = 0; i < n; i++)
        assert(ids[i] >= 0 && ids[i] < N_TOKENS);
    check_stream(t, ids, n);
    size_t skip = add_special ? 1 : 0;
    if (kinds[which].gives_back)
        check_decoded(t, ids + skip, n - 2 * skip, text, len);
    free(ids);
    return 0;
}
