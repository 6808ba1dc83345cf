/* fuzz_tokenizer.c - arbitrary bytes through tokenizers that have all bytes.
 *
 * The first byte of an input chooses the vocabulary and the options, the rest
 * is the text.  What must hold: encoding stays within the promised number of
 * tokens, every id is in the vocabulary, and decoding gives the text back,
 * except where the tokenizer rewrites it (normal form C; U+2581 in SPM; spaces
 * and bytes of no character in unigram).  The text through a utf8_stream, cut
 * by tokens or anywhere, comes out the same and in whole characters. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/vocab_gen.h"

typedef struct {
    vocab (*make)(void); /* NULL: BPE */
    const char *pre;     /* of BPE */
    bool gives_back;     /* every text, byte for byte */
} kind;

static vocab unigram_with_bytes(void) {
    vocab v = vocab_spm();
    v.model = "t5";
    v.pre = NULL;
    vocab_id(&v, "tokenizer.ggml.unknown_token_id", 0);
    return v;
}

static vocab unigram_with_unknowns(void) {
    vocab v = vocab_unigram();
    vocab_flag(&v, "tokenizer.ggml.add_space_prefix", false);
    vocab_flag(&v, "tokenizer.ggml.remove_extra_whitespaces", false);
    return v;
}

static const kind kinds[] = {
    {NULL, "gpt-2", true},
    {NULL, "llama-bpe", true},
    {NULL, "default", true},
    {NULL, "deepseek-llm", true},
    {NULL, "kimi-k2", true},
    {NULL, "deepseek-v3", true},
    {NULL, "gpt-4o", true},
    {NULL, "deepseek-coder", true},
    {NULL, "tekken", true},
    {NULL, "qwen35", true},
    {NULL, "youtu", true},
    {NULL, "viking", true},
    {NULL, "qwen2", false},
    {vocab_spm, NULL, false},
    {unigram_with_bytes, NULL, false},
    {unigram_with_unknowns, NULL, false},
};

static tokenizer *tokenizers[ARRAY_LEN(kinds)];

static const char *const words[] = {
    "ab",  "abab", "bc", "aa",           "aaaa",           "12",
    "123", "the",  "th", "\xE2\x96\x81", "\xE2\x96\x81the"};

static const char *const merges[] = {"a b", "ab ab", "b c", "a a", "aa aa",
                                     "1 2", "12 3",  "t h", "th e"};

static tokenizer *open_kind(const kind *k) {
    char why[256];
    tokenizer *t;
    vocab v = k->make != NULL ? k->make() : vocab_bpe(k->pre);

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

/* The place where the character at text[at] ends. */
static size_t next_place(const char *text, size_t len, size_t at) {
    int length = utf8_length(text + at, len - at);
    if (length == 0) return len; /* the begin of one, and then nothing */
    return at + (length > 0 ? (size_t)length : 1);
}

/* Streaming loses and adds nothing, and what is out at any time ends where a
 * character ends.  `cuts` says how many bytes come at a time. */
static void check_stream(const char *text, size_t len, const uint8_t *cuts,
                         size_t n_cuts) {
    utf8_stream stream = {0};
    char *out = malloc(len + 8);
    size_t n_out = 0, place = 0;
    if (out == NULL) abort();

    for (size_t at = 0, i = 0; at < len; i++) {
        size_t n = size_min(cuts[i % n_cuts] % 9, len - at);
        n_out += utf8_stream_push(&stream, text + at, n, out + n_out);
        at += n;
        while (place < n_out)
            place = next_place(text, len, place);
        assert(n_out <= at && place == n_out);
        if (n == 0 && i > len + n_cuts) break; /* nothing but zeros */
    }
    n_out += utf8_stream_flush(&stream, out + n_out);
    assert(n_out <= len && memcmp(out, text, n_out) == 0);
    free(out);
}

/* The same by tokens: the whole text must come. */
static void check_pieces(const tokenizer *t, const int32_t *ids, size_t n) {
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
    size_t len = size - 1, n;

    if (tokenizers[which] == NULL) tokenizers[which] = open_kind(&kinds[which]);
    const tokenizer *t = tokenizers[which];
    size_t room = tokenizer_room(t, len);
    int32_t *ids = malloc(room * sizeof(*ids));
    if (ids == NULL) abort();
    int rc = tokenizer_encode(t, text, len, add_special, parse_special, ids,
                              room, &n);
    assert(rc == 0 && n <= room);
    for (size_t i = 0; i < n; i++)
        assert(ids[i] >= 0 && ids[i] < tokenizer_n_vocab(t));
    check_pieces(t, ids, n);
    check_stream(text, len, data, size);
    size_t skip = add_special ? 1 : 0;
    if (kinds[which].gives_back)
        check_decoded(t, ids + skip, n - 2 * skip, text, len);
    free(ids);
    return 0;
}
