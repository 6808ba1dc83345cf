/* tokenizer_internal.h - what the tokenizer's files share.
 *
 * Everything works on bytes.  The strings of a file are turned into the bytes
 * they stand for when it is loaded (byte-level BPE writes every byte as one of
 * 256 printable characters, SPM writes a space as U+2581), so encoding looks up
 * slices of the text itself and a token's piece is a loan from one pool. */
#ifndef ENGINE_TOKENIZER_INTERNAL_H
#define ENGINE_TOKENIZER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"
#include "engine/tokenizer.h"

/* Far above any published vocabulary (about 260,000 tokens, 400 bytes). */
#define VOCAB_MAX_TOKENS ((uint64_t)1 << 22)
#define VOCAB_MAX_TOKEN_BYTES ((size_t)4096)
/* A text's positions are kept in 32 bits. */
#define TOKENIZER_MAX_TEXT ((size_t)1 << 30)

#define SYMBOL_NONE UINT32_MAX

/* Two numbers into the place of a hash table.  The seed is drawn anew for each
 * table, so the author of a file cannot choose what collides. */
static inline uint64_t hash_pair(uint64_t seed, uint32_t a, uint32_t b) {
    uint64_t h = (seed ^ ((uint64_t)a << 32 | b)) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

/* ---- strings by number, and numbers by string (tokenizer_vocab.c) ---- */

/* Symbols 0 .. n_tokens-1 are the tokens; BPE appends the parts of merges that
 * are no token.  Several symbols may have the same bytes: only one is found. */
typedef struct {
    char *pool;
    size_t pool_bytes, pool_room;
    size_t *end; /* [n] where a symbol's bytes end; it begins at the former's */
    uint32_t n, room;
    uint32_t *slots; /* open addressing: symbol + 1, 0 is empty */
    uint32_t n_slots, n_used;
    uint64_t seed;
} symbol_table;

void symbols_fini(symbol_table *s);
gguf_string symbols_bytes(const symbol_table *s, uint32_t symbol);
/* SYMBOL_NONE if nothing indexed has these bytes. */
uint32_t symbols_find(const symbol_table *s, const char *bytes, size_t n);
/* Append without indexing; -ENOMEM. */
int symbols_append(symbol_table *s, const char *bytes, size_t n);
/* Make a symbol findable; the first of equal ones stays.  -ENOMEM. */
int symbols_index(symbol_table *s, uint32_t symbol);

/* ---- what a token is ---- */

enum {
    TOKEN_NORMAL = 1 << 0,  /* text: the algorithm may produce it */
    TOKEN_CONTROL = 1 << 1, /* only from parse_special; hidden in text */
    TOKEN_USER = 1 << 2,    /* always found in a text, before anything else */
    TOKEN_BYTE = 1 << 3,    /* SPM's <0xNN> */
    TOKEN_END = 1 << 4,     /* ends a generation */
    TOKEN_RSTRIP = 1 << 5,  /* swallows the white space after it */
    TOKEN_UNUSED = 1 << 6,  /* also normal, but training never met it */
};

/* ---- a set of strings, walked byte by byte (tokenizer_trie.c) ---- */

typedef struct {
    uint32_t node, child; /* child 0: an empty slot */
    uint8_t byte;
} trie_link;

typedef struct {
    int32_t *values;     /* [n] of the string that ends at a node; -1: none */
    size_t n, room;      /* nodes; the first is the root */
    uint32_t first[256]; /* the root's children */
    trie_link *steps;    /* open addressing by (node, byte) */
    size_t n_slots;
    uint64_t seed;
} byte_trie;

void trie_fini(byte_trie *t);
/* -ENOMEM, ERR_TOO_LARGE.  The first of equal strings keeps its value. */
int trie_add(byte_trie *t, const char *bytes, size_t n, int32_t value);
/* The node below `node`; 0 if there is none.  Walks begin at 0. */
uint32_t trie_step(const byte_trie *t, uint32_t node, uint8_t byte);
/* Value of the longest string that these bytes begin with; -1 if none does. */
int32_t trie_longest(const byte_trie *t, const char *bytes, size_t n);

/* ---- rules that rewrite a text (tokenizer_charsmap.c) ---- */

typedef struct {
    uint32_t *units; /* a double array of the rules' left sides */
    size_t n_units;
    char *texts; /* their right sides, each ended by a zero */
    size_t n_texts;
    size_t longest; /* bytes of the longest right side */
} charsmap;

/* Read tokenizer.ggml.precompiled_charsmap; without the key, no rules. */
int charsmap_load(charsmap *m, const gguf *g, char *why, size_t why_size);
void charsmap_fini(charsmap *m);
/* Bytes of the longest left side that the text begins with, and what stands for
 * it (borrowed); 0 if there is none. */
size_t charsmap_match(const charsmap *m, const char *text, size_t len,
                      gguf_string *out);

/* ---- where token ids go ---- */

/* Counts what does not fit, so that the caller learns the size needed. */
typedef struct {
    int32_t *ids;
    size_t n, capacity;
} id_sink;

static inline void id_push(id_sink *s, int32_t id) {
    if (s->n < s->capacity) s->ids[s->n] = id;
    s->n++;
}

/* ---- the tokenizer ---- */

typedef struct {
    uint32_t left, right; /* symbols; SYMBOL_NONE in left: an empty slot */
    uint32_t rank, result;
} bpe_merge;

typedef struct pre_tokenizer pre_tokenizer; /* tokenizer_pre.c */

/* An algorithm: what tokenizer.ggml.model names. */
typedef struct {
    const char *model;
    /* What the file does not name, by the custom of the models that have this
     * algorithm; an id counts only if the vocabulary has it, -1 is none. */
    int32_t bos, eos, unknown;
    bool adds_bos, adds_eos;
    bool has_bytes; /* tokens named <0xNN>, known by name in old files */
    /* Read what is this algorithm's own, once the vocabulary is loaded. */
    int (*load)(tokenizer *t, const gguf *g, char *why, size_t why_size);
    /* Ids of a text without special tokens; len > 0. */
    int (*encode)(const tokenizer *t, const char *text, size_t len,
                  id_sink *out);
    /* The bytes that a token's text in the file stands for.  `out` has room for
     * s.len; the length is returned. */
    size_t (*token_bytes)(gguf_string s, char *out);
} tokenizer_kind;

extern const tokenizer_kind bpe_kind, spm_kind, unigram_kind;

struct tokenizer {
    const tokenizer_kind *kind;
    int32_t n_vocab;
    symbol_table symbols;
    size_t longest;            /* bytes of the longest normal token */
    uint8_t *flags;            /* [n_vocab] TOKEN_* */
    float *scores;             /* [n_vocab], SPM and unigram */
    byte_trie special;         /* control and user-defined */
    byte_trie user_defined;    /* the second kind alone */
    int32_t bos, eos, unknown; /* -1: none */
    bool add_bos, add_eos;
    bool add_space_prefix; /* before a text, and off again when decoding */

    /* BPE */
    pre_tokenizer *pre;
    bpe_merge *merges; /* open addressing by (left, right) */
    size_t n_merge_slots;
    uint64_t merge_seed;
    uint32_t byte_symbol[256];

    /* SPM and unigram */
    int32_t byte_token[256]; /* -1: none */

    /* unigram */
    byte_trie pieces;
    charsmap rules;
    bool remove_extra_spaces;
    double unknown_score;
};

/* Fill everything that all kinds have from the file; `t` is zeroed but for kind
 * and pre, and keeps what was built when it fails. */
int vocab_load(tokenizer *t, const gguf *g, char *why, size_t why_size);

void bpe_fini(tokenizer *t);

/* What SPM and unigram share (tokenizer_spm.c): the scores, which must be
 * there if `must`; add_space_prefix, true without its key; and which token is
 * which byte. */
int spm_load_scores(tokenizer *t, const gguf *g, bool must, char *why,
                    size_t why_size);
int spm_load_prefix(tokenizer *t, const gguf *g, char *why, size_t why_size);
void spm_find_bytes(tokenizer *t);
/* U+2581 back to a space; tokenizer_kind.token_bytes.  Works in place, too. */
size_t spm_token_bytes(gguf_string s, char *out);
/* The tokens of a character's bytes.  false, and nothing pushed, if one of them
 * has none. */
bool spm_push_bytes(const tokenizer *t, const char *bytes, size_t n,
                    id_sink *out);

/* ---- splitting into words (tokenizer_pre.c) ---- */

typedef struct {
    uint32_t *end; /* [n] where each word ends */
    size_t n, room;
} word_list;

/* ERR_UNSUPPORTED names an unknown pre-tokenizer; ERR_INTERNAL if a pattern
 * does not compile. */
int pre_open(pre_tokenizer **out, gguf_string name, char *why, size_t why_size);
void pre_close(pre_tokenizer *p);
/* A word that is a token as a whole is taken without merging. */
bool pre_ignores_merges(const pre_tokenizer *p);
bool pre_adds_bos(const pre_tokenizer *p);
bool pre_normalizes(const pre_tokenizer *p); /* to NFC */
/* Words of `text` in order, without gaps; *words is zeroed or used before. */
int pre_split(const pre_tokenizer *p, const char *text, size_t len,
              word_list *words);

/* ---- UTF-8 (tokenizer_utf8.c) ---- */

/* `text` in Unicode's form C; bytes that are no characters stay as they are.
 * *out is NULL if the text is in that form already, else the caller frees it.
 */
int utf8_nfc(const char *text, size_t len, char **out, size_t *out_len);

/* ---- merging (tokenizer_heap.c) ---- */

/* A candidate merge of the node `key & UINT32_MAX` with its right neighbour;
 * the upper half of the key orders, so equal ones go from left to right.  The
 * stamp tells whether the two nodes are still what they were. */
typedef struct {
    uint64_t key;
    uint64_t stamp;
} merge_item;

typedef struct {
    merge_item *items;
    size_t n, room;
} merge_heap;

void heap_fini(merge_heap *h);
int heap_push(merge_heap *h, merge_item item); /* -ENOMEM */
/* The smallest key; false if there is none. */
bool heap_pop(merge_heap *h, merge_item *out);

/* Make room for `need` elements, at least doubling; NULL-safe like realloc.
 * false leaves everything as it was. */
bool grow_array(void **array, size_t *room, size_t need, size_t element);

#endif
