/* tokenizer_bpe.c - byte-level byte pair encoding (GPT-2 and its successors).
 *
 * A text is split into words (tokenizer_pre.c); a word begins as its bytes, and
 * the neighbours whose merge has the lowest rank are joined until no merge is
 * left.  Candidates wait in a heap, so a word of n bytes costs n log n.
 *
 * Merges are stored between symbols, not strings.  Their parts need not be
 * tokens (a vocabulary may have been cut): such symbols stand behind the tokens
 * and, if one is left at the end, fall apart into its bytes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

#define MERGES_KEY "tokenizer.ggml.merges"
#define MAX_MERGES ((uint64_t)1 << 23)

/* ---- the alphabet ---- */

/* Printable characters of Latin-1 stand for themselves; the other 68 bytes, in
 * ascending order, for U+0100 and up. */
static bool stands_for_itself(uint32_t c) {
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) ||
           (c >= 0xAE && c <= 0xFF);
}

/* The byte of a character; -1 outside the alphabet. */
static int byte_of_char(uint32_t c) {
    if (stands_for_itself(c)) return (int)c;
    if (c < 0x100) return -1;
    uint32_t left = c - 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        if (stands_for_itself(b)) continue;
        if (left-- == 0) return (int)b;
    }
    return -1;
}

/* The text as it is if it has a character outside the alphabet. */
static size_t bpe_token_bytes(gguf_string s, char *out) {
    size_t n = 0;
    for (size_t at = 0; at < s.len;) {
        uint8_t first = (uint8_t)s.data[at];
        int length = utf8_length(s.data + at, s.len - at);
        uint32_t c = length == 1 ? first : UINT32_MAX;
        if (length == 2)
            c = (uint32_t)(first & 0x1F) << 6 | (s.data[at + 1] & 0x3F);
        int byte = byte_of_char(c);
        if (byte < 0) {
            memcpy(out, s.data, s.len);
            return s.len;
        }
        out[n++] = (char)byte;
        at += (size_t)length;
    }
    return n;
}

/* ---- merges ---- */

/* The slot of a pair, or the empty one where it belongs. */
static bpe_merge *merge_slot(const tokenizer *t, uint32_t left,
                             uint32_t right) {
    size_t at =
        (size_t)hash_pair(t->merge_seed, left, right) & (t->n_merge_slots - 1);
    while (t->merges[at].left != SYMBOL_NONE &&
           (t->merges[at].left != left || t->merges[at].right != right))
        at = (at + 1) & (t->n_merge_slots - 1);
    return &t->merges[at];
}

/* The symbol of some bytes, new if need be. */
static int intern(tokenizer *t, const char *bytes, size_t n, uint32_t *out) {
    *out = symbols_find(&t->symbols, bytes, n);
    if (*out != SYMBOL_NONE) return 0;

    *out = t->symbols.n;
    int rc = symbols_append(&t->symbols, bytes, n);
    return rc < 0 ? rc : symbols_index(&t->symbols, *out);
}

/* "left right": the first space that is not the first byte parts them.
 * `buffer` has room for both. */
static int load_merge(tokenizer *t, uint32_t rank, gguf_string s, char *buffer,
                      char *why, size_t why_size) {
    if (s.len > 2 * VOCAB_MAX_TOKEN_BYTES)
        return err_why(why, why_size, ERR_FORMAT,
                       MERGES_KEY "[%u] is longer than %zu bytes", rank,
                       2 * VOCAB_MAX_TOKEN_BYTES);
    const char *space = s.len > 2 ? memchr(s.data + 1, ' ', s.len - 2) : NULL;
    if (space == NULL)
        return err_why(why, why_size, ERR_FORMAT,
                       MERGES_KEY "[%u] is not two parts with a space between",
                       rank);

    size_t n_left = (size_t)(space - s.data);
    gguf_string first = {s.data, n_left};
    gguf_string second = {space + 1, s.len - n_left - 1};
    bpe_merge m = {.rank = rank};
    n_left = bpe_token_bytes(first, buffer);
    size_t n_right = bpe_token_bytes(second, buffer + n_left);

    int rc = intern(t, buffer, n_left, &m.left);
    if (rc == 0) rc = intern(t, buffer + n_left, n_right, &m.right);
    if (rc == 0) rc = intern(t, buffer, n_left + n_right, &m.result);
    if (rc < 0) return rc;

    bpe_merge *slot = merge_slot(t, m.left, m.right);
    if (slot->left == SYMBOL_NONE) *slot = m;
    return 0;
}

static int make_merge_slots(tokenizer *t, uint64_t n) {
    t->n_merge_slots = 64;
    while (t->n_merge_slots < 2 * n)
        t->n_merge_slots *= 2;
    t->merges = malloc(t->n_merge_slots * sizeof(*t->merges));
    if (t->merges == NULL) return -ENOMEM;
    for (size_t i = 0; i < t->n_merge_slots; i++)
        t->merges[i].left = SYMBOL_NONE;
    t->merge_seed = random_boot_id();
    return 0;
}

static int load_merges(tokenizer *t, const gguf *g, char *why,
                       size_t why_size) {
    gguf_type type;
    uint64_t n;
    int rc = gguf_get_array(g, MERGES_KEY, &type, &n, why, why_size);
    if (rc == ERR_NOT_HERE)
        return err_why(why, why_size, ERR_FORMAT,
                       "the vocabulary has no merges (" MERGES_KEY ")");
    if (rc < 0) return rc;
    if (type != GGUF_STRING || n > MAX_MERGES)
        return err_why(why, why_size, ERR_FORMAT,
                       MERGES_KEY " is not an array of at most %llu strings",
                       (unsigned long long)MAX_MERGES);

    rc = make_merge_slots(t, n);
    if (rc < 0) return rc;
    gguf_string *strings = calloc((size_t)n + 1, sizeof(*strings));
    char *buffer = malloc(2 * VOCAB_MAX_TOKEN_BYTES);
    rc = strings == NULL || buffer == NULL ? -ENOMEM : 0;
    if (rc == 0)
        rc = gguf_array_strings(g, MERGES_KEY, strings, n, why, why_size);
    for (uint64_t i = 0; rc == 0 && i < n; i++)
        rc = load_merge(t, (uint32_t)i, strings[i], buffer, why, why_size);
    free(strings);
    free(buffer);
    return rc;
}

static int bpe_load(tokenizer *t, const gguf *g, char *why, size_t why_size) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if ((t->flags[id] & TOKEN_NORMAL) == 0) continue;
        int rc = symbols_index(&t->symbols, (uint32_t)id);
        if (rc < 0) return rc;
    }
    for (int b = 0; b < 256; b++) {
        int rc = intern(t, &(char){(char)b}, 1, &t->byte_symbol[b]);
        if (rc < 0) return rc;
    }
    return load_merges(t, g, why, why_size);
}

void bpe_fini(tokenizer *t) {
    pre_close(t->pre);
    free(t->merges);
}

/* ---- encoding ---- */

typedef struct {
    uint32_t symbol; /* SYMBOL_NONE: joined to its left neighbour */
    uint32_t prev, next;
} bpe_node;

typedef struct {
    word_list words;
    bpe_node *nodes;
    size_t room;
    merge_heap heap;
} bpe_scratch;

static uint64_t stamp(const bpe_scratch *s, uint32_t left, uint32_t right) {
    return (uint64_t)s->nodes[left].symbol << 32 | s->nodes[right].symbol;
}

/* Queue the merge of a node with its right neighbour, if there is one. */
static int offer(const tokenizer *t, bpe_scratch *s, uint32_t left) {
    uint32_t right = s->nodes[left].next;
    if (right == SYMBOL_NONE) return 0;
    const bpe_merge *m =
        merge_slot(t, s->nodes[left].symbol, s->nodes[right].symbol);
    if (m->left == SYMBOL_NONE) return 0;
    return heap_push(&s->heap, (merge_item){(uint64_t)m->rank << 32 | left,
                                            stamp(s, left, right)});
}

static int join(const tokenizer *t, bpe_scratch *s, uint32_t left) {
    bpe_node *node = &s->nodes[left];
    bpe_node *gone = &s->nodes[node->next];

    node->symbol = merge_slot(t, node->symbol, gone->symbol)->result;
    gone->symbol = SYMBOL_NONE;
    node->next = gone->next;
    if (node->next != SYMBOL_NONE) s->nodes[node->next].prev = left;

    int rc = node->prev != SYMBOL_NONE ? offer(t, s, node->prev) : 0;
    return rc < 0 ? rc : offer(t, s, left);
}

static int merge_word(const tokenizer *t, bpe_scratch *s, const char *word,
                      size_t n) {
    void *array = s->nodes;
    bool grown = grow_array(&array, &s->room, n, sizeof(*s->nodes));
    s->nodes = array;
    if (!grown) return -ENOMEM;

    for (size_t i = 0; i < n; i++) {
        s->nodes[i].symbol = t->byte_symbol[(uint8_t)word[i]];
        s->nodes[i].prev = i > 0 ? (uint32_t)(i - 1) : SYMBOL_NONE;
        s->nodes[i].next = i + 1 < n ? (uint32_t)(i + 1) : SYMBOL_NONE;
    }
    s->heap.n = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        int rc = offer(t, s, (uint32_t)i);
        if (rc < 0) return rc;
    }

    merge_item item;
    while (heap_pop(&s->heap, &item)) {
        uint32_t left = (uint32_t)item.key;
        uint32_t right = s->nodes[left].next;
        if (s->nodes[left].symbol == SYMBOL_NONE || right == SYMBOL_NONE ||
            stamp(s, left, right) != item.stamp)
            continue;
        int rc = join(t, s, left);
        if (rc < 0) return rc;
    }
    return 0;
}

/* A symbol that is no token: the tokens of its bytes, as far as there are. */
static void push_bytes(const tokenizer *t, uint32_t symbol, id_sink *out) {
    gguf_string b = symbols_bytes(&t->symbols, symbol);
    for (size_t i = 0; i < b.len; i++) {
        uint32_t id = t->byte_symbol[(uint8_t)b.data[i]];
        if (id < (uint32_t)t->n_vocab)
            id_push(out, (int32_t)id);
        else if (t->unknown >= 0)
            id_push(out, t->unknown);
    }
}

static int encode_word(const tokenizer *t, bpe_scratch *s, const char *word,
                       size_t n, id_sink *out) {
    if (pre_ignores_merges(t->pre)) {
        uint32_t id = symbols_find(&t->symbols, word, n);
        if (id < (uint32_t)t->n_vocab) {
            id_push(out, (int32_t)id);
            return 0;
        }
    }
    int rc = merge_word(t, s, word, n);
    if (rc < 0) return rc;
    for (uint32_t i = 0; i != SYMBOL_NONE; i = s->nodes[i].next) {
        if (s->nodes[i].symbol < (uint32_t)t->n_vocab)
            id_push(out, (int32_t)s->nodes[i].symbol);
        else
            push_bytes(t, s->nodes[i].symbol, out);
    }
    return 0;
}

static int bpe_encode(const tokenizer *t, const char *text, size_t len,
                      id_sink *out) {
    bpe_scratch s = {0};
    char *normal = NULL;
    int rc = 0;

    if (pre_normalizes(t->pre)) {
        size_t n;
        rc = utf8_nfc(text, len, &normal, &n);
        if (normal != NULL) {
            text = normal;
            len = n;
        }
    }
    if (rc == 0) rc = pre_split(t->pre, text, len, &s.words);

    size_t begin = 0;
    for (size_t i = 0; rc == 0 && i < s.words.n; i++) {
        rc = encode_word(t, &s, text + begin, s.words.end[i] - begin, out);
        begin = s.words.end[i];
    }
    free(s.words.end);
    free(s.nodes);
    heap_fini(&s.heap);
    free(normal);
    return rc;
}

const tokenizer_kind bpe_kind = {
    .model = "gpt2",
    .bos = -1,
    .eos = -1,
    .unknown = -1,
    .load = bpe_load,
    .encode = bpe_encode,
    .token_bytes = bpe_token_bytes,
};
