/* vocab_gen.h - small vocabularies for tests, written as GGUF files.
 *
 * A vocab is filled by value: begin with vocab_bpe(), vocab_spm() or
 * vocab_unigram(), add tokens, then open a tokenizer from it.  Texts are
 * borrowed.  More tokens than there is room for is a mistake in a test and
 * aborts. */
#ifndef TESTS_SUPPORT_VOCAB_GEN_H
#define TESTS_SUPPORT_VOCAB_GEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/tokenizer.h"

/* tokenizer.ggml.token_type */
enum {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN,
    TYPE_CONTROL,
    TYPE_USER,
    TYPE_UNUSED,
    TYPE_BYTE
};

enum { VOCAB_TOKENS = 320, VOCAB_MERGES = 32, VOCAB_KEYS = 8 };

typedef struct {
    const char *model, *pre, *name; /* NULL: the key is left out */
    const char *tokens[VOCAB_TOKENS];
    int32_t types[VOCAB_TOKENS];
    float scores[VOCAB_TOKENS];
    size_t n;
    const char *merges[VOCAB_MERGES];
    size_t n_merges;
    const char *ids[VOCAB_KEYS]; /* keys of token ids */
    uint32_t id_values[VOCAB_KEYS];
    size_t n_ids;
    const char *flags[VOCAB_KEYS]; /* keys of booleans */
    bool flag_values[VOCAB_KEYS];
    size_t n_flags;
    const uint8_t *rules; /* precompiled_charsmap; NULL: the key is left out */
    size_t rules_bytes;
    bool no_types, no_merges, no_tokens, no_scores; /* leave the array out */
    size_t types_short; /* leave out its last entries */
} vocab;

/* The 256 bytes as tokens 0 to 255. */
vocab vocab_bpe(const char *pre);
/* <unk>, <s>, </s>, then the 256 bytes. */
vocab vocab_spm(void);
/* <pad>, </s>, <unk>, and nothing else: ids go on with 3. */
vocab vocab_unigram(void);

uint32_t vocab_add(vocab *v, const char *text, int32_t type, float score);
void vocab_merge(vocab *v, const char *merge);
void vocab_id(vocab *v, const char *key, uint32_t id);
void vocab_flag(vocab *v, const char *key, bool value);

/* Write the GGUF file; gguf_writer_finish()'s code. */
int vocab_write(const vocab *v, const char *path);

/* Write a file, open the tokenizer, remove the file.  tokenizer_new()'s code;
 * a failure before that aborts. */
int vocab_open(const vocab *v, tokenizer **out, char *why, size_t why_size);

#endif
