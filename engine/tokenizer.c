/* tokenizer.c - the public side: opening, special tokens in a text, decoding.
 *
 * Encoding cuts the text at special tokens (the longest that begins at a place
 * wins) and hands what lies between them to the
 * algorithm.  User-defined tokens
 * are always cut out, control tokens only when asked, so that nobody can write
 * one into a prompt. */
#include "engine/tokenizer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

/* ---- opening ---- */

static const tokenizer_kind *const kinds[] = {&bpe_kind, &spm_kind,
                                              &unigram_kind};

static int load_kind(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    gguf_string model;
    int rc = gguf_get_string(g, "tokenizer.ggml.model", &model, why, why_size);
    if (rc == ERR_NOT_HERE)
        return err_why(why, why_size, ERR_FORMAT,
                       "the file has no tokenizer (tokenizer.ggml.model)");
    if (rc < 0) return rc;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!gguf_string_is(model, kinds[i]->model)) continue;
        t->kind = kinds[i];
        return 0;
    }
    return err_why(why, why_size, ERR_UNSUPPORTED,
                   "unknown tokenizer model '%s' (tokenizer.ggml.model)",
                   gguf_quote(model).text);
}

static int load_pre(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    const char *key = "tokenizer.ggml.pre";
    gguf_string name = {"default", 7};

    if (gguf_has(g, key)) {
        int rc = gguf_get_string(g, key, &name, why, why_size);
        if (rc < 0) return rc;
    }
    return pre_open(&t->pre, name, why, why_size);
}

int tokenizer_new(tokenizer **out, const gguf *g, char *why, size_t why_size) {
    *out = NULL;
    tokenizer *t = calloc(1, sizeof(*t));
    if (t == NULL) return -ENOMEM;

    int rc = load_kind(t, g, why, why_size);
    if (rc == 0 && t->kind == &bpe_kind) rc = load_pre(t, g, why, why_size);
    if (rc == 0) rc = vocab_load(t, g, why, why_size);
    if (rc == 0) rc = t->kind->load(t, g, why, why_size);
    if (rc < 0) {
        tokenizer_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void tokenizer_free(tokenizer *t) {
    if (t == NULL) return;
    bpe_fini(t);
    symbols_fini(&t->symbols);
    free(t->flags);
    free(t->scores);
    trie_fini(&t->special);
    trie_fini(&t->user_defined);
    trie_fini(&t->pieces);
    charsmap_fini(&t->rules);
    free(t);
}

/* ---- encoding ---- */

static bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Text from `begin` on: up to the next special token, and that one.  Returns
 * where to go on, or an error. */
static ptrdiff_t encode_stretch(const tokenizer *t, const byte_trie *list,
                                const char *text, size_t len, size_t begin,
                                id_sink *out) {
    size_t at = begin;
    int32_t id = -1;
    while (list->n > 0 && at < len) {
        id = trie_longest(list, text + at, len - at);
        if (id >= 0) break;
        at++;
    }
    if (id < 0) at = len;

    size_t n = at - begin;
    int rc = n > 0 ? t->kind->encode(t, text + begin, n, out) : 0;
    if (rc < 0) return rc;
    if (id < 0) return (ptrdiff_t)len;

    id_push(out, id);
    at += symbols_bytes(&t->symbols, (uint32_t)id).len;
    if ((t->flags[id] & TOKEN_RSTRIP) != 0) {
        while (at < len && is_blank(text[at]))
            at++;
    }
    return (ptrdiff_t)at;
}

/* Normal form C makes at most three bytes of one, and so does a byte that is
 * read as U+FFFD; rules may do worse.  A stretch between two special tokens may
 * get a space of its own. */
size_t tokenizer_room(const tokenizer *t, size_t len) {
    size_t each = size_max(3, t->rules.longest + 1);
    return each * size_min(len, TOKENIZER_MAX_TEXT) + 4;
}

int tokenizer_encode(const tokenizer *t, const char *text, size_t len,
                     bool add_special, bool parse_special, int32_t *out,
                     size_t capacity, size_t *n_out) {
    id_sink sink = {.ids = out, .capacity = capacity};
    const byte_trie *list = parse_special ? &t->special : &t->user_defined;

    *n_out = 0;
    if (len > TOKENIZER_MAX_TEXT) return ERR_TOO_LARGE;
    if (add_special && t->add_bos) id_push(&sink, t->bos);
    for (size_t at = 0; at < len;) {
        ptrdiff_t next = encode_stretch(t, list, text, len, at, &sink);
        if (next < 0) return (int)next;
        at = (size_t)next;
    }
    if (add_special && t->add_eos) id_push(&sink, t->eos);
    *n_out = sink.n;
    return sink.n > capacity ? ERR_RANGE : 0;
}

/* ---- decoding ---- */

static bool in_vocab(const tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab;
}

gguf_string tokenizer_piece(const tokenizer *t, int32_t id, bool with_special) {
    if (!in_vocab(t, id)) return (gguf_string){"", 0};
    if ((t->flags[id] & TOKEN_CONTROL) != 0 && !with_special)
        return (gguf_string){"", 0};
    return symbols_bytes(&t->symbols, (uint32_t)id);
}

int tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n,
                     bool with_special, char *out, size_t capacity,
                     size_t *n_out) {
    /* Encoding put a space before the text; control tokens may precede it. */
    bool strip = t->add_space_prefix;

    *n_out = 0;
    for (size_t i = 0; i < n; i++) {
        if (!in_vocab(t, ids[i])) return ERR_RANGE;
        gguf_string piece = tokenizer_piece(t, ids[i], with_special);
        if (strip && (t->flags[ids[i]] & TOKEN_CONTROL) == 0) {
            strip = false;
            if ((t->flags[ids[i]] & TOKEN_NORMAL) != 0 && piece.len > 0 &&
                piece.data[0] == ' ') {
                piece.data++;
                piece.len--;
            }
        }
        if (piece.len > 0 && *n_out <= capacity &&
            piece.len <= capacity - *n_out)
            memcpy(out + *n_out, piece.data, piece.len);
        *n_out += piece.len;
    }
    return *n_out > capacity ? ERR_RANGE : 0;
}

/* ---- facts ---- */

int32_t tokenizer_n_vocab(const tokenizer *t) {
    return t->n_vocab;
}

int32_t tokenizer_bos(const tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const tokenizer *t) {
    return t->eos;
}

bool tokenizer_adds_bos(const tokenizer *t) {
    return t->add_bos;
}

bool tokenizer_is_end(const tokenizer *t, int32_t id) {
    return in_vocab(t, id) && (t->flags[id] & TOKEN_END) != 0;
}
