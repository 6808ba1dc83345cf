/* token_check.c - see token_check.h. */
#include "tests/support/token_check.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IDS = 4096 };

tokenizer *tokens_open(const vocab *v) {
    char why[256] = "";
    tokenizer *t;
    if (vocab_open(v, &t, why, sizeof(why)) < 0) fail_msg("%s", why);
    return t;
}

void vocab_is_refused(const vocab *v, int code, const char *sentence) {
    char why[256] = "";
    tokenizer *t;
    assert_int_equal(vocab_open(v, &t, why, sizeof(why)), code);
    assert_null(t);
    if (strstr(why, sentence) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", why, sentence);
}

static void print_ids(const char *what, const int32_t *ids, size_t n) {
    print_error("%s", what);
    for (size_t i = 0; i < n; i++)
        print_error(" %d", ids[i]);
    print_error("\n");
}

void tokens_are_as(const tokenizer *t, const char *text, size_t len,
                   bool add_special, bool parse_special, const int32_t *want,
                   size_t n_want) {
    int32_t got[MAX_IDS];
    size_t n;
    assert_int_equal(tokenizer_encode(t, text, len, add_special, parse_special,
                                      got, MAX_IDS, &n),
                     0);
    if (n == n_want && memcmp(got, want, n * sizeof(*got)) == 0) return;
    print_error("\"%s\"\n", text);
    print_ids("  expected", want, n_want);
    print_ids("  got", got, n);
    fail();
}

void tokens_are(const tokenizer *t, const char *text, const int32_t *want,
                size_t n_want) {
    tokens_are_as(t, text, strlen(text), false, false, want, n_want);
}

void tokens_parsed_are(const tokenizer *t, const char *text,
                       const int32_t *want, size_t n_want) {
    tokens_are_as(t, text, strlen(text), false, true, want, n_want);
}

void tokens_decode_to(const tokenizer *t, const int32_t *ids, size_t n,
                      bool with_special, const char *want) {
    char text[1024];
    size_t len;
    assert_int_equal(
        tokenizer_decode(t, ids, n, with_special, text, sizeof(text), &len), 0);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(text, want, len);
}

void text_comes_back(const tokenizer *t, const char *text, size_t len) {
    size_t room = 3 * len + 4, n, n_back;
    int32_t *ids = malloc(room * sizeof(*ids));
    char *back = malloc(len + 1);
    assert_non_null(ids);
    assert_non_null(back);
    assert_int_equal(
        tokenizer_encode(t, text, len, false, false, ids, room, &n), 0);
    assert_int_equal(tokenizer_decode(t, ids, n, false, back, len, &n_back), 0);
    assert_int_equal(n_back, len);
    assert_memory_equal(back, text, len);
    free(ids);
    free(back);
}
