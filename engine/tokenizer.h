/* tokenizer.h - text to token ids and back, as the model's file defines it.
 *
 * tokenizer.ggml.model "gpt2" is byte-level BPE whose splitting pattern is
 * chosen by tokenizer.ggml.pre (PCRE2); "llama" is SPM (scores, byte fallback);
 * "t5" is unigram (the most probable cut, of a text that is rewritten first).
 * A tokenizer is immutable after tokenizer_new(); any thread may use it.  Text
 * is bytes: invalid UTF-8 is tokenized, never rejected, and detokenizes to the
 * same bytes wherever the vocabulary has them (unigram reads a byte that
 * belongs to no character as U+FFFD). */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/gguf.h"

typedef struct tokenizer tokenizer;

/* Read the vocabulary.  The strings are copied: `g` may be closed after.
 * ERR_UNSUPPORTED names an unknown model or pre-tokenizer. */
int tokenizer_new(tokenizer **out, const gguf *g, char *why, size_t why_size);
void tokenizer_free(tokenizer *t);

/* The most ids that a text of `len` bytes can give, special ones included. */
size_t tokenizer_room(const tokenizer *t, size_t len);

/* Token ids of `text` into `out`.  *n_out is how many there are, also with
 * ERR_RANGE, which says that they are more than `capacity`.  ERR_TOO_LARGE
 * above 1 GiB; ERR_INTERNAL if a splitting pattern gave up.  add_special: the
 * BOS/EOS that the file asks for.  parse_special: control tokens written out in
 * the text become those tokens. */
int tokenizer_encode(const tokenizer *t, const char *text, size_t len,
                     bool add_special, bool parse_special, int32_t *out,
                     size_t capacity, size_t *n_out);

/* Exact bytes of a list of ids, as one text (SPM and unigram: the space that
 * encoding put before the first word is taken off again).  Control tokens give
 * nothing unless `with_special`.  *n_out is the size needed; ERR_RANGE if it
 * exceeds `capacity`, ERR_RANGE too for an id outside the vocabulary. */
int tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n,
                     bool with_special, char *out, size_t capacity,
                     size_t *n_out);

/* The bytes of one token in the middle of a text (a leading space is kept);
 * borrowed.  Empty for control tokens unless with_special, and for ids
 * outside the vocabulary. */
gguf_string tokenizer_piece(const tokenizer *t, int32_t id, bool with_special);

int32_t tokenizer_n_vocab(const tokenizer *t);
int32_t tokenizer_bos(const tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const tokenizer *t); /* -1: none */
bool tokenizer_adds_bos(const tokenizer *t);

/* Does this token end a generation (EOS, EOT, end of message)? */
bool tokenizer_is_end(const tokenizer *t, int32_t id);

/* A text that comes in pieces cut anywhere, as tokens cut it: what goes out are
 * whole characters, and no half of one while the other half may still come.
 * Zeroed at the begin; what went out, put together, is what was put in. */
typedef struct {
    uint8_t held[4];
    size_t n_held;
} utf8_stream;

/* Append the token's bytes; the complete characters go to `out` (room for
 * piece length + 4), their number of bytes is returned.  Bytes that can never
 * become a character pass through as they are. */
size_t utf8_stream_push(utf8_stream *s, const char *bytes, size_t n, char *out);
/* What is still held when the text ends: the begin of a character whose rest
 * never came.  At most 3 bytes. */
size_t utf8_stream_flush(utf8_stream *s, char *out);

#endif
