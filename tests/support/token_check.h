/* token_check.h - assertions about tokenizers, with messages that show ids. */
#ifndef TESTS_SUPPORT_TOKEN_CHECK_H
#define TESTS_SUPPORT_TOKEN_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/tokenizer.h"
#include "tests/support/vocab_gen.h"

/* A list and its length, as two arguments. */
#define IDS(...)                                                               \
    (const int32_t[]){__VA_ARGS__},                                            \
        sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

/* Fails with the reason if the vocabulary is refused. */
tokenizer *tokens_open(const vocab *v);
/* Fails unless it is, with this code and a reason that contains `sentence`. */
void vocab_is_refused(const vocab *v, int code, const char *sentence);

/* Encoding gives these ids; no special tokens are added, and none parsed but
 * in the second. */
void tokens_are(const tokenizer *t, const char *text, const int32_t *want,
                size_t n_want);
void tokens_parsed_are(const tokenizer *t, const char *text,
                       const int32_t *want, size_t n_want);
void tokens_are_as(const tokenizer *t, const char *text, size_t len,
                   bool add_special, bool parse_special, const int32_t *want,
                   size_t n_want);

void tokens_decode_to(const tokenizer *t, const int32_t *ids, size_t n,
                      bool with_special, const char *want);
/* Encoding and decoding give the same bytes. */
void text_comes_back(const tokenizer *t, const char *text, size_t len);

#endif
