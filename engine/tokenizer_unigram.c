/* tokenizer_unigram.c - the unigram language model, as T5 uses it: of all ways
 * to cut a text into tokens, the one whose scores have the largest sum.
 *
 * A text is rewritten first: the file's rules, a space before it, runs of
 * spaces made one.  Then the best way to every place is kept while the text is
 * walked from left to right (Viterbi).  Where a place is that no token reaches
 * across, as between most words, whatever follows does not change the way to
 * it: the tokens up to there are given out, and the next stretch begins with an
 * empty table, so memory follows the longest word instead of the text.
 *
 * Sums are of doubles, which hold those of the file's floats exactly, so a tie
 * is a tie wherever it stands; it goes to the way whose last token begins
 * first.  A character that is no token becomes its bytes' tokens if the
 * vocabulary has them, else the unknown token, and a run of those is one. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

#define SPACES_KEY "tokenizer.ggml.remove_extra_whitespaces"

/* How much worse than the worst token an unknown character is. */
static const double unknown_penalty = 10.0;
/* What a byte that belongs to no character is read as: U+FFFD. */
static const gguf_string replacement = {"\xEF\xBF\xBD", 3};

/* ---- loading ---- */

static size_t n_chars(gguf_string s) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++)
        n += ((uint8_t)s.data[i] & 0xC0) != 0x80;
    return n;
}

/* The least and the largest score of a token that is only text. */
static void score_range(const tokenizer *t, double *least, double *most) {
    bool first = true;
    *least = *most = 0.0;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (t->flags[id] != TOKEN_NORMAL || id == t->unknown) continue;
        double score = (double)t->scores[id];
        *least = first ? score : fmin(*least, score);
        *most = first ? score : fmax(*most, score);
        first = false;
    }
}

/* User-defined tokens are cut out before the text is rewritten; what the rules
 * turn into one is found here, and always preferred. */
static int add_piece(tokenizer *t, int32_t id, double most) {
    bool user = (t->flags[id] & TOKEN_USER) != 0;
    bool plain = t->flags[id] == TOKEN_NORMAL && id != t->unknown;
    gguf_string s = symbols_bytes(&t->symbols, (uint32_t)id);

    if ((!user && !plain) || s.len == 0) return 0;
    if (user) t->scores[id] = (float)((double)n_chars(s) * most - 0.1);
    return trie_add(&t->pieces, s.data, s.len, id);
}

static int unigram_load(tokenizer *t, const gguf *g, char *why,
                        size_t why_size) {
    double least, most;

    int rc = spm_load_scores(t, g, true, why, why_size);
    if (rc == 0) rc = spm_load_prefix(t, g, why, why_size);
    if (rc == 0) rc = charsmap_load(&t->rules, g, why, why_size);
    t->remove_extra_spaces = true;
    if (rc == 0 && gguf_has(g, SPACES_KEY))
        rc = gguf_get_bool(g, SPACES_KEY, &t->remove_extra_spaces, why,
                           why_size);
    if (rc < 0) return rc;

    spm_find_bytes(t);
    score_range(t, &least, &most);
    t->unknown_score = least - unknown_penalty;
    for (int32_t id = 0; rc == 0 && id < t->n_vocab; id++)
        rc = add_piece(t, id, most);
    return rc;
}

/* ---- rewriting ---- */

typedef struct {
    char *bytes;
    size_t n, room;
    bool begun;       /* the space before the text was dealt with */
    bool after_space; /* another one is an extra one */
} rewriting;

static int put(rewriting *r, const char *bytes, size_t n) {
    void *array = r->bytes;
    bool grown = grow_array(&array, &r->room, r->n + n, 1);
    r->bytes = array;
    if (!grown) return -ENOMEM;
    memcpy(r->bytes + r->n, bytes, n);
    r->n += n;
    return 0;
}

/* What the text's first bytes are rewritten to; returns how many they are. */
static size_t next_part(const tokenizer *t, const char *text, size_t len,
                        gguf_string *part) {
    size_t n = charsmap_match(&t->rules, text, len, part);
    if (n > 0) return n;

    int length = utf8_length(text, len);
    *part = length > 0 ? (gguf_string){text, (size_t)length} : replacement;
    return length > 0 ? (size_t)length : 1;
}

static int add_part(const tokenizer *t, rewriting *r, gguf_string part) {
    bool extra = t->remove_extra_spaces && gguf_string_is(part, " ");
    if (!r->begun && extra) return 0;
    if (!r->begun && t->add_space_prefix) {
        int rc = put(r, " ", 1);
        if (rc < 0) return rc;
    }
    r->begun = true;

    while (r->after_space && part.len > 0 && part.data[0] == ' ') {
        part.data++;
        part.len--;
    }
    if (part.len == 0) return 0;
    r->after_space = t->remove_extra_spaces && part.data[part.len - 1] == ' ';
    /* U+2581 stands for a space in the vocabulary, and so it does in a text. */
    size_t begin = r->n;
    int rc = put(r, part.data, part.len);
    if (rc < 0) return rc;
    part.data = r->bytes + begin;
    r->n = begin + spm_token_bytes(part, r->bytes + begin);
    return 0;
}

/* `r` is zeroed; its bytes are the caller's to free. */
static int rewrite(const tokenizer *t, const char *text, size_t len,
                   rewriting *r) {
    r->after_space = t->remove_extra_spaces;
    for (size_t at = 0; at < len;) {
        gguf_string part;
        at += next_part(t, text + at, len - at, &part);
        int rc = add_part(t, r, part);
        if (rc < 0) return rc;
    }
    while (t->remove_extra_spaces && r->n > 0 && r->bytes[r->n - 1] == ' ')
        r->n--;
    return 0;
}

/* ---- the best way ---- */

/* The best way to a place: its sum, and its last token. */
typedef struct {
    double sum;
    uint32_t begin; /* of the token, in the stretch */
    int32_t id;     /* UNKNOWN: a character that is no token */
} way;

enum { UNKNOWN = -1 };

typedef struct {
    const char *text;
    size_t len;
    way *ways; /* of a stretch, by its places; the first is where it begins */
    size_t room;
    size_t reach;       /* how far a token of the stretch goes */
    bool after_unknown; /* the id given out last was the unknown one */
} lattice;

static int offer(lattice *l, size_t begin, size_t end, double score,
                 int32_t id) {
    if (end > l->reach) {
        void *array = l->ways;
        bool grown = grow_array(&array, &l->room, end + 1, sizeof(*l->ways));
        l->ways = array;
        if (!grown) return -ENOMEM;
        for (; l->reach < end; l->reach++)
            l->ways[l->reach + 1].sum = -INFINITY;
    }
    double sum = l->ways[begin].sum + score;
    if (sum > l->ways[end].sum) l->ways[end] = (way){sum, (uint32_t)begin, id};
    return 0;
}

/* Offer every token at text[origin + begin], whose first character has `length`
 * bytes. */
static int offer_tokens(const tokenizer *t, lattice *l, size_t origin,
                        size_t begin, size_t length) {
    const char *text = l->text + origin;
    size_t len = l->len - origin;
    uint32_t node = 0;
    bool whole = false; /* is the character itself a token? */

    for (size_t i = begin; i < len; i++) {
        node = trie_step(&t->pieces, node, (uint8_t)text[i]);
        if (node == 0) break;
        int32_t id = t->pieces.values[node];
        if (id < 0) continue;
        if (i + 1 - begin == length) whole = true;
        int rc = offer(l, begin, i + 1, (double)t->scores[id], id);
        if (rc < 0) return rc;
    }
    return whole ? 0
                 : offer(l, begin, begin + length, t->unknown_score, UNKNOWN);
}

/* Find the ways from text[origin] to the first place that no token reaches
 * across; its distance is put into *len. */
static int walk_stretch(const tokenizer *t, lattice *l, size_t origin,
                        size_t *len) {
    void *array = l->ways;
    bool grown = grow_array(&array, &l->room, 1, sizeof(*l->ways));
    l->ways = array;
    if (!grown) return -ENOMEM;
    l->ways[0].sum = 0.0;
    l->reach = 0;

    size_t at = 0;
    do {
        size_t place = origin + at;
        int length = utf8_length(l->text + place, l->len - place);
        size_t n = length > 0 ? (size_t)length : 1;
        int rc = offer_tokens(t, l, origin, at, n);
        if (rc < 0) return rc;
        at += n;
    } while (at < l->reach);
    *len = at;
    return 0;
}

/* Turn the way to `end` around: each place on it learns where the next is. */
static void turn_around(lattice *l, size_t end) {
    uint32_t next = (uint32_t)end;
    int32_t id = l->ways[end].id;
    uint32_t at = l->ways[end].begin;

    for (;;) {
        way here = l->ways[at];
        l->ways[at].begin = next;
        l->ways[at].id = id;
        if (at == 0) return;
        next = at;
        id = here.id;
        at = here.begin;
    }
}

static void push_stretch(const tokenizer *t, lattice *l, size_t origin,
                         size_t end, id_sink *out) {
    turn_around(l, end);
    for (size_t at = 0; at < end; at = l->ways[at].begin) {
        int32_t id = l->ways[at].id;
        size_t n = l->ways[at].begin - at;
        bool unknown =
            id == UNKNOWN && !spm_push_bytes(t, l->text + origin + at, n, out);
        if (id != UNKNOWN) id_push(out, id);
        if (unknown && !l->after_unknown && t->unknown >= 0)
            id_push(out, t->unknown);
        l->after_unknown = unknown;
    }
}

static int unigram_encode(const tokenizer *t, const char *text, size_t len,
                          id_sink *out) {
    rewriting r = {0};
    int rc = rewrite(t, text, len, &r);
    lattice l = {.text = r.bytes, .len = r.n};

    if (r.n > UINT32_MAX) rc = ERR_TOO_LARGE;
    for (size_t at = 0, n; rc == 0 && at < r.n; at += n) {
        rc = walk_stretch(t, &l, at, &n);
        if (rc == 0) push_stretch(t, &l, at, n, out);
    }
    free(l.ways);
    free(r.bytes);
    return rc;
}

const tokenizer_kind unigram_kind = {
    .model = "t5",
    .bos = -1,
    .eos = 1,
    .unknown = 2,
    .adds_eos = true,
    .has_bytes = true,
    .load = unigram_load,
    .encode = unigram_encode,
    .token_bytes = spm_token_bytes,
};
