/* tokenizer_spm.c - SentencePiece's BPE, as Llama 2 and Mixtral use it.
 *
 * A text begins as its characters; the neighbours that together are the token
 * with the best score are joined until none are, and a character that is no
 * token becomes its bytes' tokens.  There is no splitting into words: a token's
 * own bytes say where it may stand, so a space is put before the text. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

#define SCORES_KEY "tokenizer.ggml.scores"
#define PREFIX_KEY "tokenizer.ggml.add_space_prefix"

/* U+2581, which SPM writes for a space. */
static const char escaped_space[] = "\xE2\x96\x81";

/* `out` may be where s is: what is written never is ahead of what is read. */
size_t spm_token_bytes(gguf_string s, char *out) {
    size_t n = 0;
    for (size_t at = 0; at < s.len;) {
        if (s.len - at >= 3 && memcmp(s.data + at, escaped_space, 3) == 0) {
            out[n++] = ' ';
            at += 3;
        } else {
            out[n++] = s.data[at++];
        }
    }
    return n;
}

int spm_load_scores(tokenizer *t, const gguf *g, bool must, char *why,
                    size_t why_size) {
    size_t n = (size_t)t->n_vocab;
    t->scores = calloc(n, sizeof(*t->scores));
    if (t->scores == NULL) return -ENOMEM;
    if (!gguf_has(g, SCORES_KEY) && !must) return 0;

    gguf_type type;
    uint64_t n_scores;
    int rc = gguf_get_array(g, SCORES_KEY, &type, &n_scores, why, why_size);
    if (rc == ERR_NOT_HERE)
        return err_why(why, why_size, ERR_FORMAT,
                       "the vocabulary has no scores (" SCORES_KEY ")");
    if (rc < 0) return rc;
    if (n_scores != n)
        return err_why(why, why_size, ERR_FORMAT,
                       SCORES_KEY " has %llu entries for %zu tokens",
                       (unsigned long long)n_scores, n);
    rc = gguf_array_f32(g, SCORES_KEY, t->scores, n, why, why_size);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (isnan(t->scores[i]) || (must && isinf(t->scores[i])))
            rc = err_why(why, why_size, ERR_FORMAT, SCORES_KEY "[%zu] is %g", i,
                         (double)t->scores[i]);
    }
    return rc;
}

int spm_load_prefix(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    t->add_space_prefix = true;
    if (!gguf_has(g, PREFIX_KEY)) return 0;
    return gguf_get_bool(g, PREFIX_KEY, &t->add_space_prefix, why, why_size);
}

/* Of several tokens for a byte, the first. */
void spm_find_bytes(tokenizer *t) {
    memset(t->byte_token, -1, sizeof(t->byte_token));
    for (int32_t id = t->n_vocab - 1; id >= 0; id--) {
        gguf_string s = symbols_bytes(&t->symbols, (uint32_t)id);
        if ((t->flags[id] & TOKEN_BYTE) != 0)
            t->byte_token[(uint8_t)s.data[0]] = id;
    }
}

static int spm_load(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    int rc = spm_load_scores(t, g, false, why, why_size);
    if (rc == 0) rc = spm_load_prefix(t, g, why, why_size);
    if (rc < 0) return rc;

    spm_find_bytes(t);
    for (int32_t id = 0; rc == 0 && id < t->n_vocab; id++) {
        if ((t->flags[id] & TOKEN_NORMAL) != 0)
            rc = symbols_index(&t->symbols, (uint32_t)id);
    }
    return rc;
}

/* ---- encoding ---- */

typedef struct {
    uint32_t begin, len; /* len 0: joined to its left neighbour */
    uint32_t prev, next;
} spm_node;

typedef struct {
    char *text; /* with the space before it */
    spm_node *nodes;
    merge_heap heap;
} spm_scratch;

/* Ascending in the order of descending scores. */
static uint32_t score_key(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof(bits));
    return (bits & 0x80000000u) != 0 ? bits : ~(bits | 0x80000000u);
}

/* Queue a node with its right neighbour if together they are a token. */
static int offer(const tokenizer *t, spm_scratch *s, uint32_t left) {
    const spm_node *node = &s->nodes[left];
    if (node->next == SYMBOL_NONE) return 0;

    size_t len = (size_t)node->len + s->nodes[node->next].len;
    if (len > t->longest) return 0;
    uint32_t id = symbols_find(&t->symbols, s->text + node->begin, len);
    if (id == SYMBOL_NONE) return 0;
    uint64_t key = (uint64_t)score_key(t->scores[id]) << 32 | left;
    return heap_push(&s->heap, (merge_item){key, len});
}

/* Joins what is still as it was when it was queued: two nodes that begin where
 * they did and are as long are the same. */
static int join(const tokenizer *t, spm_scratch *s, merge_item item) {
    uint32_t left = (uint32_t)item.key;
    spm_node *node = &s->nodes[left];
    if (node->len == 0 || node->next == SYMBOL_NONE) return 0;
    spm_node *gone = &s->nodes[node->next];
    if ((uint64_t)node->len + gone->len != item.stamp) return 0;

    node->len += gone->len;
    gone->len = 0;
    node->next = gone->next;
    if (node->next != SYMBOL_NONE) s->nodes[node->next].prev = left;

    int rc = node->prev != SYMBOL_NONE ? offer(t, s, node->prev) : 0;
    return rc < 0 ? rc : offer(t, s, left);
}

static int merge_all(const tokenizer *t, spm_scratch *s, size_t n_nodes) {
    for (size_t i = 0; i + 1 < n_nodes; i++) {
        int rc = offer(t, s, (uint32_t)i);
        if (rc < 0) return rc;
    }
    merge_item item;
    while (heap_pop(&s->heap, &item)) {
        int rc = join(t, s, item);
        if (rc < 0) return rc;
    }
    return 0;
}

/* One node a character; a byte that belongs to none is a node of its own. */
static size_t make_nodes(spm_scratch *s, size_t len) {
    size_t n = 0;
    for (size_t at = 0; at < len; n++) {
        int length = utf8_length(s->text + at, len - at);
        if (length <= 0) length = 1;
        s->nodes[n] = (spm_node){
            .begin = (uint32_t)at,
            .len = (uint32_t)length,
            .prev = n > 0 ? (uint32_t)(n - 1) : SYMBOL_NONE,
            .next = (uint32_t)(n + 1),
        };
        at += (size_t)length;
    }
    s->nodes[n - 1].next = SYMBOL_NONE;
    return n;
}

bool spm_push_bytes(const tokenizer *t, const char *bytes, size_t n,
                    id_sink *out) {
    for (size_t i = 0; i < n; i++) {
        if (t->byte_token[(uint8_t)bytes[i]] < 0) return false;
    }
    for (size_t i = 0; i < n; i++)
        id_push(out, t->byte_token[(uint8_t)bytes[i]]);
    return true;
}

static void push_nodes(const tokenizer *t, const spm_scratch *s, id_sink *out) {
    for (uint32_t i = 0; i != SYMBOL_NONE; i = s->nodes[i].next) {
        const char *bytes = s->text + s->nodes[i].begin;
        size_t n = s->nodes[i].len;
        uint32_t id = symbols_find(&t->symbols, bytes, n);
        if (id != SYMBOL_NONE)
            id_push(out, (int32_t)id);
        else if (!spm_push_bytes(t, bytes, n, out) && t->unknown >= 0)
            id_push(out, t->unknown);
    }
}

static int spm_encode(const tokenizer *t, const char *text, size_t len,
                      id_sink *out) {
    spm_scratch s = {.text = malloc(len + 1),
                     .nodes = calloc(len + 1, sizeof(*s.nodes))};
    int rc = s.text == NULL || s.nodes == NULL ? -ENOMEM : 0;

    if (rc == 0) {
        size_t prefix = t->add_space_prefix ? 1 : 0;
        s.text[0] = ' ';
        /* A text may contain U+2581 itself: to SPM that is a space. */
        size_t n = spm_token_bytes((gguf_string){text, len}, s.text + prefix);
        rc = merge_all(t, &s, make_nodes(&s, prefix + n));
    }
    if (rc == 0) push_nodes(t, &s, out);
    free(s.text);
    free(s.nodes);
    heap_fini(&s.heap);
    return rc;
}

const tokenizer_kind spm_kind = {
    .model = "llama",
    .bos = 1,
    .eos = 2,
    .unknown = 0,
    .adds_bos = true,
    .has_bytes = true,
    .load = spm_load,
    .encode = spm_encode,
    .token_bytes = spm_token_bytes,
};
