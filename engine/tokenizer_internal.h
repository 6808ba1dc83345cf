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

typedef enum { TOKENIZER_BPE, TOKENIZER_SPM } tokenizer_kind;

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
};

/* Tokens that are looked for in a text as a whole, sorted by their bytes. */
typedef struct {
    int32_t *ids;
    size_t n;
} special_list;

typedef struct {
    uint32_t left, right; /* symbols; SYMBOL_NONE in left: an empty slot */
    uint32_t rank, result;
} bpe_merge;

typedef struct pre_tokenizer pre_tokenizer; /* tokenizer_pre.c */

struct tokenizer {
    tokenizer_kind kind;
    int32_t n_vocab;
    symbol_table symbols;
    size_t longest;            /* bytes of the longest normal token */
    uint8_t *flags;            /* [n_vocab] TOKEN_* */
    float *scores;             /* [n_vocab], SPM only */
    special_list special;      /* control and user-defined */
    special_list user_defined; /* the second kind alone */
    int32_t bos, eos, unknown; /* -1: none */
    bool add_bos, add_eos;

    /* BPE */
    pre_tokenizer *pre;
    bpe_merge *merges; /* open addressing by (left, right) */
    size_t n_merge_slots;
    uint32_t byte_symbol[256];

    /* SPM */
    bool add_space_prefix;
    int32_t byte_token[256]; /* -1: none */
};

/* Fill everything that both kinds have from the file; `t` is zeroed but for
 * kind, and keeps what was built when it fails. */
int vocab_load(tokenizer *t, const gguf *g, char *why, size_t why_size);

/* The longest special token that stands at text[at]; -1 if none does. */
int32_t special_match(const tokenizer *t, const special_list *list,
                      const char *text, size_t len, size_t at);

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

/* ---- the two algorithms: ids of a text without special tokens ---- */

int bpe_load(tokenizer *t, const gguf *g, char *why, size_t why_size);
void bpe_fini(tokenizer *t);
int bpe_encode(const tokenizer *t, const char *text, size_t len, id_sink *out);

int spm_load(tokenizer *t, const gguf *g, char *why, size_t why_size);
int spm_encode(const tokenizer *t, const char *text, size_t len, id_sink *out);

/* One character of the byte-level alphabet for each byte: the bytes that a
 * token of the file stands for, or the text as it is if it has a character
 * outside the alphabet.  `out` has room for s.len; the length is returned. */
size_t bpe_token_bytes(gguf_string s, char *out);
/* SPM's U+2581 back to a space, likewise. */
size_t spm_token_bytes(gguf_string s, char *out);

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
