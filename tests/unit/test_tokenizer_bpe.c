/* test_tokenizer_bpe.c - byte pair encoding over small vocabularies: order of
 * merges, words, bytes, normal form C.  Ids 0 to 255 are the bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/token_check.h"

static void merges_the_lowest_rank_first(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "ab", TYPE_NORMAL, 0.0f); /* 256 */
    vocab_add(&v, "bc", TYPE_NORMAL, 0.0f); /* 257 */
    vocab_add(&v, "abc", TYPE_NORMAL, 0.0f);
    vocab_merge(&v, "b c");
    vocab_merge(&v, "a b");
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "abc", IDS('a', 257));
    tokens_are(t, "ab", IDS(256));
    tokens_are(t, "abab", IDS(256, 256));
    tokenizer_free(t);
}

static void merges_equal_ranks_from_left_to_right(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "aa", TYPE_NORMAL, 0.0f);   /* 256 */
    vocab_add(&v, "aaaa", TYPE_NORMAL, 0.0f); /* 257 */
    vocab_merge(&v, "a a");
    vocab_merge(&v, "aa aa");
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "aaa", IDS(256, 'a'));
    tokens_are(t, "aaaaaaa", IDS(257, 256, 'a'));
    tokenizer_free(t);
}

static void merges_through_parts_that_are_no_tokens(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "xyz", TYPE_NORMAL, 0.0f); /* 256 */
    vocab_merge(&v, "x y");
    vocab_merge(&v, "xy z");
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "xyz", IDS(256));
    tokens_are(t, "xy", IDS('x', 'y'));
    tokenizer_free(t);
}

static void merges_within_words_only(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "a\xC4\xA0", TYPE_NORMAL, 0.0f); /* "a " */
    vocab_add(&v,
              "\xC4\xA0"
              "a",
              TYPE_NORMAL, 0.0f); /* 257: " a" */
    vocab_merge(&v, "a \xC4\xA0");
    vocab_merge(&v, "\xC4\xA0 a");
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "a a", IDS('a', 257));
    tokenizer_free(t);
}

static void takes_whole_words_where_merges_are_ignored(void **state) {
    vocab plain = vocab_bpe("gpt-2"), whole = vocab_bpe("llama-bpe");
    (void)state;
    vocab_add(&plain, "word", TYPE_NORMAL, 0.0f);
    vocab_add(&whole, "word", TYPE_NORMAL,
              0.0f); /* 256, and no merge leads to it */
    tokenizer *t = tokens_open(&plain);
    tokens_are(t, "word", IDS('w', 'o', 'r', 'd'));
    tokenizer_free(t);
    t = tokens_open(&whole);
    tokens_are(t, "word", IDS(256));
    tokenizer_free(t);
}

static void uses_the_default_splitting_if_the_file_names_none(void **state) {
    vocab v = vocab_bpe(NULL);
    (void)state;
    vocab_add(&v, "12", TYPE_NORMAL, 0.0f);   /* 256 */
    vocab_add(&v, "1212", TYPE_NORMAL, 0.0f); /* never: digits go in threes */
    vocab_merge(&v, "1 2");
    vocab_merge(&v, "12 12");
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "1212", IDS(256, '1', '2'));
    tokenizer_free(t);
}

static void gives_back_every_byte(void **state) {
    vocab v = vocab_bpe("deepseek-v3");
    char text[512];
    (void)state;
    vocab_add(&v, "aa", TYPE_NORMAL, 0.0f);
    vocab_merge(&v, "a a");
    tokenizer *t = tokens_open(&v);
    for (int i = 0; i < 512; i++)
        text[i] = (char)(i < 256 ? i : i * 7 + i / 256);
    text_comes_back(t, text, sizeof(text));
    text_comes_back(t, "\xED\xA0\x80 surrogate \xC0\xAF overlong \xF4\x90", 28);
    text_comes_back(t, "cut \xE4\xBD", 6);
    text_comes_back(t, "", 0);
    tokenizer_free(t);
}

static void leaves_out_bytes_that_the_vocabulary_lacks(void **state) {
    vocab v = {.model = "gpt2", .pre = "gpt-2"};
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, 0.0f);
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "abba", IDS(0, 0));
    tokenizer_free(t);

    vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0.0f);
    vocab_id(&v, "tokenizer.ggml.unknown_token_id", 1);
    t = tokens_open(&v);
    tokens_are(t, "abba", IDS(0, 1, 1, 0));
    tokenizer_free(t);
}

static void tokenizes_a_megabyte_of_one_letter(void **state) {
    enum { LEN = 1 << 20 };
    vocab v = vocab_bpe("gpt-4o");
    char *text = malloc(LEN);
    (void)state;
    vocab_add(&v, "aa", TYPE_NORMAL, 0.0f);
    vocab_add(&v, "aaaa", TYPE_NORMAL, 0.0f);
    vocab_merge(&v, "a a");
    vocab_merge(&v, "aa aa");
    tokenizer *t = tokens_open(&v);
    assert_non_null(text);
    memset(text, 'a', LEN);
    text_comes_back(t, text, LEN);
    memset(text, ' ', LEN - 1);
    text_comes_back(t, text, LEN);
    memset(text, 'A', LEN);
    text_comes_back(t, text, LEN);
    free(text);
    tokenizer_free(t);
}

/* ---- normal form C ---- */

static vocab qwen_vocab(void) {
    vocab v = vocab_bpe("qwen2");
    vocab_add(&v, "\xC3\x83\xC2\xA9", TYPE_NORMAL, 0.0f); /* 256: U+00E9 */
    vocab_merge(&v, "\xC3\x83 \xC2\xA9");
    return v;
}

static void composes_characters_for_qwen(void **state) {
    vocab v = qwen_vocab();
    (void)state;
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "\xC3\xA9", IDS(256));
    tokens_are(t, "e\xCC\x81", IDS(256));
    /* Hangul: U+1100 U+1161 is U+AC00. */
    tokens_are(t, "\xE1\x84\x80\xE1\x85\xA1", IDS(0xEA, 0xB0, 0x80));
    /* Marks are put in order first: cedilla (202) before acute (230). */
    tokens_are(t, "e\xCC\x81\xCC\xA7", IDS(0xC8, 0xA9, 0xCC, 0x81));
    /* Invalid bytes stay and part what would combine. */
    tokens_are(t, "e\xFF\xCC\x81", IDS('e', 0xFF, 0xCC, 0x81));
    tokenizer_free(t);
}

static void lengthens_a_text_at_most_threefold(void **state) {
    vocab v = qwen_vocab();
    int32_t ids[64];
    size_t n;
    (void)state;
    tokenizer *t = tokens_open(&v);
    /* U+1D160, a note, becomes three characters of four bytes. */
    assert_int_equal(tokenizer_encode(t, "\xF0\x9D\x85\xA0", 4, false, false,
                                      ids, ARRAY_LEN(ids), &n),
                     0);
    assert_int_equal(n, 12);
    tokenizer_free(t);
}

static void orders_a_long_run_of_marks(void **state) {
    enum { PAIRS = 100000 };
    vocab v = qwen_vocab();
    size_t len = 4 * PAIRS, n;
    char *text = malloc(len);
    int32_t *ids = malloc((3 * len + 4) * sizeof(*ids));
    (void)state;
    assert_non_null(text);
    assert_non_null(ids);
    tokenizer *t = tokens_open(&v);
    for (size_t i = 0; i < PAIRS; i++)
        memcpy(text + 4 * i, "\xCC\x81\xCC\x96", 4); /* 230, 220 */
    assert_int_equal(
        tokenizer_encode(t, text, len, false, false, ids, 3 * len + 4, &n), 0);
    assert_int_equal(n, len);
    for (size_t i = 0; i < n; i += 2)
        assert_int_equal(ids[i + 1], i < len / 2 ? 0x96 : 0x81);
    free(text);
    free(ids);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_the_lowest_rank_first),
        cmocka_unit_test(merges_equal_ranks_from_left_to_right),
        cmocka_unit_test(merges_through_parts_that_are_no_tokens),
        cmocka_unit_test(merges_within_words_only),
        cmocka_unit_test(takes_whole_words_where_merges_are_ignored),
        cmocka_unit_test(uses_the_default_splitting_if_the_file_names_none),
        cmocka_unit_test(gives_back_every_byte),
        cmocka_unit_test(leaves_out_bytes_that_the_vocabulary_lacks),
        cmocka_unit_test(tokenizes_a_megabyte_of_one_letter),
        cmocka_unit_test(composes_characters_for_qwen),
        cmocka_unit_test(lengthens_a_text_at_most_threefold),
        cmocka_unit_test(orders_a_long_run_of_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
