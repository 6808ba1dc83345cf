/* test_tokenizer_unigram.c - the unigram model over small vocabularies: the
 * best cut, unknown characters, spaces, rules.  Ids 0 to 2 are <pad>, </s> and
 * <unk>; what a test adds begins with 3. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/token_check.h"

#define SPACE "\xE2\x96\x81" /* U+2581 */
#define PREFIX_KEY "tokenizer.ggml.add_space_prefix"
#define EXTRA_KEY "tokenizer.ggml.remove_extra_whitespaces"
#define NO_IDS (const int32_t[]){0}, 0

/* Without a space before the text and with all spaces kept, so that a test sees
 * nothing but the cut. */
static vocab bare_vocab(void) {
    vocab v = vocab_unigram();
    vocab_flag(&v, PREFIX_KEY, false);
    vocab_flag(&v, EXTRA_KEY, false);
    return v;
}

/* ---- the best cut ---- */

static void takes_the_cut_with_the_best_sum(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -2.0f);   /* 3 */
    vocab_add(&v, "b", TYPE_NORMAL, -2.0f);   /* 4 */
    vocab_add(&v, "c", TYPE_NORMAL, -2.0f);   /* 5 */
    vocab_add(&v, "ab", TYPE_NORMAL, -3.0f);  /* 6 */
    vocab_add(&v, "bc", TYPE_NORMAL, -2.5f);  /* 7 */
    vocab_add(&v, "abc", TYPE_NORMAL, -5.0f); /* 8 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "ab", IDS(6));     /* -3 over -4 */
    tokens_are(t, "abc", IDS(3, 7)); /* -4.5 over -5 of abc and of ab c */
    tokens_are(t, "abcab", IDS(3, 7, 6));
    tokens_are(t, "", NO_IDS);
    text_comes_back(t, "abcabc", 6);
    tokenizer_free(t);
}

static void gives_a_tie_to_the_longer_last_token(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -1.1f);  /* 3 */
    vocab_add(&v, "aa", TYPE_NORMAL, -1.3f); /* 4 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "aaa", IDS(3, 4));
    tokens_are(t, "aaaaa", IDS(3, 4, 4));
    tokenizer_free(t);
}

/* A stretch ends where no token reaches across; one token over the whole text
 * forbids that until it has lost. */
static void looks_as_far_ahead_as_a_token_goes(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -1.0f); /* 3 */
    vocab_add(&v, "b", TYPE_NORMAL, -1.0f); /* 4 */
    uint32_t whole = vocab_add(&v, "abababab", TYPE_NORMAL, -7.5f);
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "abababab", (const int32_t[]){(int32_t)whole}, 1);
    tokens_are(t, "abababa", IDS(3, 4, 3, 4, 3, 4, 3));
    tokens_are(t, "babababab", IDS(4, 5));
    tokenizer_free(t);

    v.scores[whole] = -8.5f;
    t = tokens_open(&v);
    tokens_are(t, "abababab", IDS(3, 4, 3, 4, 3, 4, 3, 4));
    tokenizer_free(t);
}

/* ---- unknown characters ---- */

static void makes_a_run_of_unknown_characters_one(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -1.0f);            /* 3 */
    vocab_add(&v, "\xE4\xBD\xA0", TYPE_NORMAL, -2.0f); /* 4 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "xyza", IDS(2, 3));
    tokens_are(t, "axaxx", IDS(3, 2, 3, 2));
    tokens_are(t, "\xE5\xA5\xBD\xE5\xA5\xBD\xE4\xBD\xA0", IDS(2, 4));
    tokens_are(t, "\xFF\xFE", IDS(2));
    /* The token's text is nothing that can be written. */
    tokens_are(t, "<unk>", IDS(2));
    tokens_decode_to(t, IDS(3, 2, 3), false, "aa");
    tokenizer_free(t);
}

/* 10 below the worst score: enough to prefer any token. */
static void avoids_unknown_characters(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "ab", TYPE_NORMAL, -1.0f); /* 3 */
    vocab_add(&v, "bc", TYPE_NORMAL, -9.0f); /* 4 */
    vocab_add(&v, "c", TYPE_NORMAL, -8.0f);  /* 5 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "abc", IDS(3, 5));
    tokens_are(t, "abbc", IDS(3, 4));
    tokens_are(t, "bbc", IDS(2, 4));
    tokenizer_free(t);
}

static void falls_back_to_bytes(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "<0xC3>", TYPE_BYTE, 0.0f); /* 3 */
    vocab_add(&v, "<0xA9>", TYPE_BYTE, 0.0f); /* 4 */
    vocab_add(&v, "a", TYPE_NORMAL, -1.0f);   /* 5 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "\xC3\xA9\xC3\xA9", IDS(3, 4, 3, 4));
    tokens_are(t, "x\xC3\xA9x", IDS(2, 3, 4, 2));
    tokens_are(t, "\xC3\xA8", IDS(2)); /* A8 has no token */
    text_comes_back(t, "a\xC3\xA9", 3);
    tokenizer_free(t);
}

static void never_produces_unused_or_control_tokens(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -5.0f); /* 3 */
    vocab_add(&v, "aa", TYPE_UNUSED, 0.0f); /* 4 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "aa", IDS(3, 3));
    tokens_are(t, "</s>", IDS(2));
    tokens_parsed_are(t, "aa</s>", IDS(3, 3, 1));
    assert_int_equal(tokenizer_piece(t, 4, false).len, 2);
    tokenizer_free(t);
}

static void cuts_out_user_defined_tokens_first(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -1.0f);   /* 3 */
    vocab_add(&v, "b", TYPE_NORMAL, -1.0f);   /* 4 */
    vocab_add(&v, "aba", TYPE_NORMAL, -0.5f); /* 5 */
    vocab_add(&v, "ab", TYPE_USER, 0.0f);     /* 6 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "abaab", IDS(6, 3, 6));
    tokenizer_free(t);
}

static void ends_a_text_by_default(void **state) {
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -1.0f); /* 3 */
    tokenizer *t = tokens_open(&v);
    tokens_are_as(t, "a", 1, true, false, IDS(3, 1));
    assert_false(tokenizer_adds_bos(t));
    assert_int_equal(tokenizer_bos(t), -1);
    assert_true(tokenizer_is_end(t, 1));
    tokenizer_free(t);
}

/* ---- spaces ---- */

static vocab space_vocab(void) {
    vocab v = vocab_unigram();
    vocab_add(&v, SPACE, TYPE_NORMAL, -3.0f);     /* 3 */
    vocab_add(&v, SPACE "a", TYPE_NORMAL, -1.0f); /* 4 */
    vocab_add(&v, "a", TYPE_NORMAL, -2.0f);       /* 5 */
    vocab_add(&v, "b", TYPE_NORMAL, -2.0f);       /* 6 */
    return v;
}

static void puts_a_space_first_and_drops_extra_ones(void **state) {
    vocab v = space_vocab();
    (void)state;
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "a a", IDS(4, 4));
    tokens_are(t, "   a   a  ", IDS(4, 4));
    tokens_are(t, "b", IDS(3, 6));
    tokens_are(t, "    ", NO_IDS);
    /* Its own space is one, too: only runs of plain ones are extra. */
    tokens_are(t, "a" SPACE "a", IDS(4, 4));
    tokens_are(t, "a " SPACE "a", IDS(4, 3, 4));
    tokens_decode_to(t, IDS(4, 4), false, "a a");
    tokens_decode_to(t, IDS(3, 6), false, "b");
    tokenizer_free(t);
}

static void keeps_spaces_if_told_so(void **state) {
    vocab v = space_vocab();
    (void)state;
    vocab_flag(&v, EXTRA_KEY, false);
    tokenizer *t = tokens_open(&v);
    tokens_are(t, " a ", IDS(3, 4, 3));
    text_comes_back(t, "  a  b ", 7);
    tokenizer_free(t);

    vocab_flag(&v, PREFIX_KEY, false);
    t = tokens_open(&v);
    tokens_are(t, "a a", IDS(5, 4));
    tokens_are(t, " a", IDS(4));
    text_comes_back(t, "  a  b ", 7);
    tokenizer_free(t);
}

/* ---- rules ---- */

/* Two rules, A to a and AB to b, as a double array and their texts:
 *
 *   0     the root: its children stand at 256 ^ byte
 *   321   'A' of the root ('A' is 0x41: 256 ^ 0x41 = 0x141), ends a rule:
 *         its value and children stand at 512 ^ byte
 *   512   value: text at 0
 *   578   'B' of that, ends a rule: its value stands at 768
 *   768   value: text at 2 */
enum { UNITS = 1024, TEXTS = 4 };

static uint32_t unit(uint8_t label, uint32_t offset, bool leaf) {
    return label | (uint32_t)leaf << 8 | offset << 10;
}

static size_t make_rules(uint8_t *out) {
    static uint32_t units[UNITS];
    uint32_t n_bytes = sizeof(units);

    memset(units, 0, sizeof(units));
    units[0] = unit(0, 256, false);
    units[256 ^ 'A'] = unit('A', (256 ^ 'A') ^ 512, true);
    units[512] = 1u << 31 | 0;
    units[512 ^ 'B'] = unit('B', (512 ^ 'B') ^ 768, true);
    units[768] = 1u << 31 | 2;
    memcpy(out, &n_bytes, 4);
    memcpy(out + 4, units, sizeof(units));
    memcpy(out + 4 + sizeof(units), "a\0b", TEXTS);
    return 4 + sizeof(units) + TEXTS;
}

static void rewrites_by_the_longest_rule(void **state) {
    static uint8_t rules[8192];
    vocab v = bare_vocab();
    (void)state;
    vocab_add(&v, "a", TYPE_NORMAL, -1.0f); /* 3 */
    vocab_add(&v, "b", TYPE_NORMAL, -1.0f); /* 4 */
    vocab_add(&v, "A", TYPE_NORMAL, -1.0f); /* 5: never met */
    v.rules = rules;
    v.rules_bytes = make_rules(rules);
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "A", IDS(3));
    tokens_are(t, "AAB", IDS(3, 4));
    tokens_are(t, "ABB", IDS(4, 2));
    tokens_are(t, "aAb", IDS(3, 3, 4));
    tokenizer_free(t);
}

static void refuses_rules_that_are_cut_off(void **state) {
    static uint8_t rules[8192];
    vocab v = bare_vocab();
    (void)state;
    size_t n = make_rules(rules);
    v.rules = rules;
    v.rules_bytes = 3;
    vocab_is_refused(&v, ERR_FORMAT, "precompiled_charsmap");
    v.rules_bytes = n - TEXTS - 1; /* the array is longer than what is there */
    vocab_is_refused(&v, ERR_FORMAT, "array of 4096");
    v.rules_bytes = n - 1; /* the last text has no end */
    vocab_is_refused(&v, ERR_FORMAT, "no end");
    rules[0] = 2;
    v.rules_bytes = n;
    vocab_is_refused(&v, ERR_FORMAT, "precompiled_charsmap");
}

/* Whatever the array says, a walk stays inside and ends. */
static void survives_rules_of_random_bytes(void **state) {
    static uint8_t rules[4096];
    uint32_t seed = 1;
    (void)state;
    for (int round = 0; round < 50; round++) {
        vocab v = bare_vocab();
        uint32_t n_bytes = 2048;
        for (size_t i = 0; i < sizeof(rules); i++) {
            seed = seed * 1664525u + 1013904223u;
            /* Many units that lead on, few that stop. */
            rules[i] = round % 2 == 0 ? (uint8_t)(seed >> 24)
                                      : (uint8_t)(i % 4 == 0 ? i / 4 : 0);
        }
        memcpy(rules, &n_bytes, 4);
        for (size_t i = 4 + n_bytes; i < sizeof(rules); i += 16)
            rules[i] = 0;
        rules[sizeof(rules) - 1] = 0;
        v.rules = rules;
        v.rules_bytes = sizeof(rules);
        vocab_add(&v, "a", TYPE_NORMAL, -1.0f);
        tokenizer *t = tokens_open(&v);
        char text[256];
        for (size_t i = 0; i < sizeof(text); i++)
            text[i] = (char)(i * 7);
        size_t room = tokenizer_room(t, sizeof(text)), n;
        int32_t *ids = calloc(room, sizeof(*ids));
        assert_non_null(ids);
        assert_int_equal(
            tokenizer_encode(t, text, sizeof(text), true, true, ids, room, &n),
            0);
        free(ids);
        tokenizer_free(t);
    }
}

/* ---- files that are refused ---- */

static void refuses_scores_that_cannot_be_added(void **state) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        vocab v = bare_vocab();
        vocab_add(&v, "a", TYPE_NORMAL, bad[i]);
        vocab_is_refused(&v, ERR_FORMAT, "scores[3]");
    }
    vocab v = bare_vocab();
    v.no_scores = true;
    vocab_is_refused(&v, ERR_FORMAT, "tokenizer.ggml.scores");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_the_cut_with_the_best_sum),
        cmocka_unit_test(gives_a_tie_to_the_longer_last_token),
        cmocka_unit_test(looks_as_far_ahead_as_a_token_goes),
        cmocka_unit_test(makes_a_run_of_unknown_characters_one),
        cmocka_unit_test(avoids_unknown_characters),
        cmocka_unit_test(falls_back_to_bytes),
        cmocka_unit_test(never_produces_unused_or_control_tokens),
        cmocka_unit_test(cuts_out_user_defined_tokens_first),
        cmocka_unit_test(ends_a_text_by_default),
        cmocka_unit_test(puts_a_space_first_and_drops_extra_ones),
        cmocka_unit_test(keeps_spaces_if_told_so),
        cmocka_unit_test(rewrites_by_the_longest_rule),
        cmocka_unit_test(refuses_rules_that_are_cut_off),
        cmocka_unit_test(survives_rules_of_random_bytes),
        cmocka_unit_test(refuses_scores_that_cannot_be_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
