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
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/vocab_gen.h"

typedef struct {
    const char *pre; /* NULL: SPM */
    bool gives_back; /* every text, byte for byte */
} kind;

static const kind kinds[] = {
    {"gpt-2", true},        {"llama-bpe", true},      {"default", true},
    {"deepseek-llm", true}, {"kimi-k2", true},        {"deepseek-v3", true},
    {"gpt-4o", true},       {"deepseek-coder", true}, {"tekken", true},
    {"qwen35", true},       {"qwen2", false},         {NULL, false},
};

static tokenizer *tokenizers[ARRAY_LEN(kinds)];

static const char *const words[] = {"ab", "abab", "bc",  "aa", "aaaa",
                                    "12", "123",  "the", "th"};

static const char *const merges[] = {"a b", "ab ab", "b c", "a a", "aa aa",
                                     "1 2", "12 3",  "t h", "th e"};

static tokenizer *open_kind(const kind *k) {
    char why[256];
    tokenizer *t;
    vocab v = k->pre != NULL ? vocab_bpe(k->pre) : vocab_spm();

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        vocab_add(&v, words[i], TYPE_NORMAL, -(float)i);
    vocab_add(&v, "<|x|>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "<|x|>y", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "<tool>", TYPE_USER, 0.0f);
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        vocab_merge(&v, merges[i]);
    vocab_id(&v, "tokenizer.ggml.bos_token_id",
             vocab_add(&v, "<|b|>", TYPE_CONTROL, 0.0f));
    vocab_id(&v, "tokenizer.ggml.eos_token_id",
             vocab_add(&v, "<|e|>", TYPE_CONTROL, 0.0f));
    vocab_flag(&v, "tokenizer.ggml.add_bos_token", true);
    vocab_flag(&v, "tokenizer.ggml.add_eos_token", true);
    if (vocab_open(&v, &t, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
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
        assert(ids[i] >= 0 && ids[i] < tokenizer_n_vocab(t));
    check_stream(t, ids, n);
    size_t skip = add_special ? 1 : 0;
    if (kinds[which].gives_back)
        check_decoded(t, ids + skip, n - 2 * skip, text, len);
    free(ids);
    return 0;
}
