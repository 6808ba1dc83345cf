/* test_tokenizer.c - what all kinds of tokenizer share: special tokens, ends,
 * capacities, refused files, streaming; and the story model's vocabulary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/token_check.h"

#define STORY_MODEL "models/stories-moe.q8_0.gguf"

/* ---- special tokens ---- */

static void parses_control_tokens_only_on_request(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "<x>", TYPE_CONTROL, 0.0f); /* 256 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "a<x>", IDS('a', '<', 'x', '>'));
    tokens_parsed_are(t, "a<x>b<x><x", IDS('a', 256, 'b', 256, '<', 'x'));
    tokenizer_free(t);
}

static void takes_the_longest_special_token_of_a_place(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "<x>", TYPE_CONTROL, 0.0f);   /* 256 */
    vocab_add(&v, "<x>yz", TYPE_CONTROL, 0.0f); /* 257 */
    vocab_add(&v, "<x", TYPE_CONTROL, 0.0f);    /* 258 */
    tokenizer *t = tokens_open(&v);
    tokens_parsed_are(t, "<x>yz<x>y<x<", IDS(257, 256, 'y', 258, '<'));
    tokenizer_free(t);
}

static void always_finds_user_defined_tokens(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "<think>", TYPE_USER, 0.0f);  /* 256 */
    vocab_add(&v, "\xC3\xB5", TYPE_USER, 0.0f); /* 257: a letter, not byte F5 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "<think>a", IDS(256, 'a'));
    tokens_are(t, "\xC3\xB5", IDS(257));
    tokens_decode_to(t, IDS(256, 257), false, "<think>\xC3\xB5");
    tokens_are(t, "\xF5", IDS(0xF5));
    tokenizer_free(t);
}

static void hides_control_tokens_unless_asked(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "<x>", TYPE_CONTROL, 0.0f); /* 256 */
    tokenizer *t = tokens_open(&v);
    tokens_decode_to(t, IDS('a', 256, 'b'), false, "ab");
    tokens_decode_to(t, IDS('a', 256, 'b'), true, "a<x>b");
    assert_int_equal(tokenizer_piece(t, 256, false).len, 0);
    assert_int_equal(tokenizer_piece(t, 256, true).len, 3);
    assert_int_equal(tokenizer_piece(t, -1, true).len, 0);
    assert_int_equal(tokenizer_piece(t, 257, true).len, 0);
    tokenizer_free(t);
}

static void adds_what_the_file_asks_for(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_id(&v, "tokenizer.ggml.bos_token_id",
             vocab_add(&v, "<b>", TYPE_CONTROL, 0.0f));
    vocab_id(&v, "tokenizer.ggml.eos_token_id",
             vocab_add(&v, "<e>", TYPE_CONTROL, 0.0f));
    tokenizer *t = tokens_open(&v);
    tokens_are_as(t, "a", 1, true, false, IDS('a'));
    assert_false(tokenizer_adds_bos(t));
    tokenizer_free(t);

    vocab_flag(&v, "tokenizer.ggml.add_bos_token", true);
    vocab_flag(&v, "tokenizer.ggml.add_eos_token", true);
    t = tokens_open(&v);
    tokens_are_as(t, "a", 1, true, false, IDS(256, 'a', 257));
    tokens_are_as(t, "", 0, true, false, IDS(256, 257));
    tokens_are_as(t, "a", 1, false, false, IDS('a'));
    assert_true(tokenizer_adds_bos(t));
    assert_int_equal(tokenizer_bos(t), 256);
    assert_int_equal(tokenizer_eos(t), 257);
    tokenizer_free(t);
}

static void adds_bos_by_default_where_the_family_does(void **state) {
    vocab v = vocab_bpe("llama-bpe");
    (void)state;
    tokenizer *t = tokens_open(&v);
    assert_false(tokenizer_adds_bos(t)); /* there is none */
    tokenizer_free(t);
    vocab_id(&v, "tokenizer.ggml.bos_token_id",
             vocab_add(&v, "<b>", TYPE_CONTROL, 0.0f));
    t = tokens_open(&v);
    assert_true(tokenizer_adds_bos(t));
    tokenizer_free(t);
}

static void has_no_bos_or_eos_unless_the_file_names_them(void **state) {
    vocab v = vocab_bpe("qwen2");
    (void)state;
    tokenizer *t = tokens_open(&v);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), -1);
    assert_int_equal(tokenizer_n_vocab(t), 256);
    tokenizer_free(t);
}

static void knows_the_ends_of_a_generation(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "<|im_end|>", TYPE_CONTROL, 0.0f); /* 256 */
    vocab_add(&v, "<|eot_id|>", TYPE_USER, 0.0f);    /* 257: is made control */
    vocab_add(&v, "<|im_start|>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "</s>", TYPE_NORMAL, 0.0f); /* 259: mere text */
    vocab_id(&v, "tokenizer.ggml.eos_token_id",
             vocab_add(&v, "<e>", TYPE_CONTROL, 0.0f));
    vocab_id(&v, "tokenizer.ggml.eot_token_id",
             vocab_add(&v, "<t>", TYPE_CONTROL, 0.0f));
    tokenizer *t = tokens_open(&v);
    const bool ends[] = {true, true, false, false, true, true};
    for (int32_t i = 0; i < 6; i++)
        assert_int_equal(tokenizer_is_end(t, 256 + i), ends[i]);
    assert_false(tokenizer_is_end(t, 'a'));
    assert_false(tokenizer_is_end(t, -1));
    assert_false(tokenizer_is_end(t, 10000));
    /* Nobody can write one without asking. */
    assert_int_equal(tokenizer_piece(t, 257, false).len, 0);
    tokens_parsed_are(t, "<|eot_id|>", IDS(257));
    tokenizer_free(t);
}

static void lets_a_message_end_where_a_turn_has_several(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_add(&v, "<|end|>", TYPE_CONTROL, 0.0f); /* 256 */
    tokenizer *t = tokens_open(&v);
    assert_true(tokenizer_is_end(t, 256));
    tokenizer_free(t);

    vocab_add(&v, "<|return|>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "<|call|>", TYPE_CONTROL, 0.0f);
    t = tokens_open(&v);
    assert_false(tokenizer_is_end(t, 256));
    assert_true(tokenizer_is_end(t, 257));
    assert_true(tokenizer_is_end(t, 258));
    tokenizer_free(t);
}

static void does_without_kinds(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    v.no_types = true;
    vocab_add(&v, "<|endoftext|>", TYPE_NORMAL, 0.0f); /* 256 */
    vocab_id(&v, "tokenizer.ggml.eos_token_id", 256);
    vocab_id(&v, "tokenizer.ggml.bos_token_id",
             vocab_add(&v, "<b>", TYPE_NORMAL, 0.0f));
    tokenizer *t = tokens_open(&v);
    tokens_parsed_are(t, "<b>a<|endoftext|>", IDS(257, 'a', 256));
    assert_true(tokenizer_is_end(t, 256));
    tokens_decode_to(t, IDS(257, 'a', 256), false, "a");
    tokenizer_free(t);
}

/* ---- capacities ---- */

static void says_how_much_room_is_needed(void **state) {
    vocab v = vocab_bpe("gpt-2");
    int32_t ids[3] = {0, 0, 77};
    char text[3] = "__";
    size_t n;
    (void)state;
    tokenizer *t = tokens_open(&v);
    assert_int_equal(tokenizer_encode(t, "abcd", 4, false, false, ids, 2, &n),
                     ERR_RANGE);
    assert_int_equal(n, 4);
    assert_int_equal(ids[2], 77);
    assert_int_equal(tokenizer_encode(t, "abcd", 4, false, false, NULL, 0, &n),
                     ERR_RANGE);
    assert_int_equal(n, 4);

    assert_int_equal(tokenizer_decode(t, (const int32_t[]){'a', 'b', 'c'}, 3,
                                      false, text, 2, &n),
                     ERR_RANGE);
    assert_int_equal(n, 3);
    assert_int_equal(text[2], '\0');
    assert_int_equal(
        tokenizer_decode(t, (const int32_t[]){256}, 1, false, text, 2, &n),
        ERR_RANGE);
    assert_int_equal(
        tokenizer_decode(t, (const int32_t[]){-1}, 1, false, text, 2, &n),
        ERR_RANGE);
    tokenizer_free(t);
}

/* ---- files that are refused ---- */

static void refuses_unknown_kinds_by_name(void **state) {
    vocab v = vocab_bpe("from-mars");
    (void)state;
    vocab_is_refused(&v, ERR_UNSUPPORTED, "from-mars");
    v.model = "rwkv";
    vocab_is_refused(&v, ERR_UNSUPPORTED, "rwkv");
    v.model = NULL;
    vocab_is_refused(&v, ERR_FORMAT, "tokenizer.ggml.model");
}

static void refuses_malformed_merges_by_index(void **state) {
    static const char *const bad[] = {"ab", "", " ", "a ", " b", "a"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        vocab v = vocab_bpe("gpt-2");
        vocab_merge(&v, "a b");
        vocab_merge(&v, bad[i]);
        vocab_is_refused(&v, ERR_FORMAT, "merges[1]");
    }
    vocab v = vocab_bpe("gpt-2");
    v.no_merges = true;
    vocab_is_refused(&v, ERR_FORMAT, "merges");
}

static void refuses_lists_that_do_not_fit_each_other(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    v.types_short = 1;
    vocab_is_refused(&v, ERR_FORMAT, "token_type has 255 entries for 256");
    v.types_short = 0;
    v.no_tokens = true;
    vocab_is_refused(&v, ERR_FORMAT, "tokenizer.ggml.tokens");
    vocab empty = {.model = "gpt2", .pre = "gpt-2"};
    vocab_is_refused(&empty, ERR_FORMAT, "tokens has 0 entries");
}

static void refuses_ids_outside_the_vocabulary(void **state) {
    static const char *const keys[] = {
        "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        vocab v = vocab_bpe("gpt-2");
        vocab_id(&v, keys[i], 256);
        vocab_is_refused(&v, ERR_FORMAT, keys[i]);
    }
}

static void refuses_to_add_a_token_that_is_not_there(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    vocab_flag(&v, "tokenizer.ggml.add_bos_token", true);
    vocab_is_refused(&v, ERR_FORMAT, "add_bos_token");
}

static void refuses_odd_tokens(void **state) {
    static char endless[5000];
    (void)state;
    memset(endless, 'x', sizeof(endless) - 1);
    vocab v = vocab_bpe("gpt-2");
    vocab_add(&v, endless, TYPE_NORMAL, 0.0f);
    vocab_is_refused(&v, ERR_FORMAT, "tokens[256]");

    v = vocab_spm();
    vocab_add(&v, "<0xZZ>", TYPE_BYTE, 0.0f);
    vocab_is_refused(&v, ERR_FORMAT, "tokens[259]");

    v = vocab_spm();
    vocab_add(&v, "a", TYPE_NORMAL, NAN);
    vocab_is_refused(&v, ERR_FORMAT, "scores[259]");
}

/* ---- streaming ---- */

static void holds_an_unfinished_character_back(void **state) {
    utf8_stream s = {0};
    char out[16];
    (void)state;
    assert_int_equal(utf8_stream_push(&s, "a\xE4", 2, out), 1);
    assert_int_equal(out[0], 'a');
    assert_int_equal(utf8_stream_push(&s, "\xBD", 1, out), 0);
    assert_int_equal(utf8_stream_push(&s,
                                      "\xA0"
                                      "b\xF0\x9F\x99",
                                      5, out),
                     4);
    assert_memory_equal(out,
                        "\xE4\xBD\xA0"
                        "b",
                        4);
    assert_int_equal(utf8_stream_push(&s, "\x82", 1, out), 4);
    assert_memory_equal(out, "\xF0\x9F\x99\x82", 4);
    assert_int_equal(utf8_stream_flush(&s, out), 0);
}

static void passes_bytes_that_can_become_no_character(void **state) {
    utf8_stream s = {0};
    char out[16];
    (void)state;
    assert_int_equal(utf8_stream_push(&s, "\xFF\x80\xC0", 3, out), 3);
    assert_memory_equal(out, "\xFF\x80\xC0", 3);
    assert_int_equal(utf8_stream_push(&s, "\xE4\xBD", 2, out), 0);
    assert_int_equal(utf8_stream_push(&s, "x", 1, out), 3);
    assert_memory_equal(out,
                        "\xE4\xBD"
                        "x",
                        3);
    assert_int_equal(utf8_stream_push(&s, "\xED\xA0", 2, out), 2);
    assert_int_equal(utf8_stream_push(&s, "\xF0\x9F", 2, out), 0);
    assert_int_equal(utf8_stream_flush(&s, out), 2);
    assert_memory_equal(out, "\xF0\x9F", 2);
    assert_int_equal(utf8_stream_flush(&s, out), 0);
}

/* The place where the character at text[at] ends; a byte of none is one. */
static size_t next_place(const char *text, size_t len, size_t at) {
    int length = utf8_length(text + at, len - at);
    if (length == 0) return len;
    return at + (length > 0 ? (size_t)length : 1);
}

/* Pieces of characters, whole ones and what can be none, cut anywhere: what is
 * out ends where a character ends, and in the end everything is. */
static void never_lets_half_a_character_out(void **state) {
    static const char *const parts[] = {
        "a",        "\xC3\xA9", "\xE4\xBD\xA0", "\xF0\x9F\x99\x82", "\x80",
        "\xE4\xBD", "\xF0\x9F", "\xFF",         "\xED\xA0\x80",     " "};
    uint32_t seed = 7;
    (void)state;
    for (int round = 0; round < 2000; round++) {
        utf8_stream s = {0};
        char text[64] = "", out[72];
        size_t n_out = 0, place = 0;
        for (int i = 0; i < 12; i++) {
            seed = seed * 1664525u + 1013904223u;
            strcat(text, parts[(seed >> 16) % ARRAY_LEN(parts)]);
        }
        size_t len = strlen(text);
        for (size_t at = 0, n; at < len; at += n) {
            seed = seed * 1664525u + 1013904223u;
            n = size_min((seed >> 16) % 5, len - at);
            n_out += utf8_stream_push(&s, text + at, n, out + n_out);
            while (place < n_out)
                place = next_place(text, len, place);
            assert_int_equal(place, n_out);
            assert_true(at + n - n_out < 4);
        }
        n_out += utf8_stream_flush(&s, out + n_out);
        assert_int_equal(n_out, len);
        assert_memory_equal(out, text, len);
    }
}

/* ---- hostile vocabularies ---- */

static void bears_tokens_without_text(void **state) {
    vocab v = {.model = "gpt2", .pre = "gpt-2"};
    (void)state;
    vocab_add(&v, "", TYPE_NORMAL, 0.0f);
    vocab_add(&v, "", TYPE_CONTROL, 0.0f);
    tokenizer *t = tokens_open(&v);
    assert_int_equal(tokenizer_piece(t, 0, true).len, 0);
    tokens_parsed_are(t, "a", (const int32_t[]){0}, 0);
    tokenizer_free(t);
}

static void finds_the_first_of_equal_special_tokens(void **state) {
    vocab v = vocab_bpe("gpt-2");
    (void)state;
    for (int i = 0; i < 60; i++)
        vocab_add(&v, "<x>", TYPE_USER, 0.0f); /* 256 and on */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "<x>a<x>", IDS(256, 'a', 256));
    tokenizer_free(t);
}

/* Every merge makes two parts one, so merges that seem to go in a circle end
 * with the text. */
static void ends_where_merges_go_in_a_circle(void **state) {
    vocab v = vocab_bpe("gpt-2");
    char text[2048];
    int32_t ids[sizeof(text)];
    size_t n;
    (void)state;
    vocab_merge(&v, "a b");
    vocab_merge(&v, "b a");
    vocab_merge(&v, "ab a");
    vocab_merge(&v, "a ba");
    vocab_merge(&v, "aba b");
    vocab_merge(&v, "abab abab");
    vocab_merge(&v, "abababab abababab");
    tokenizer *t = tokens_open(&v);
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 2 == 0 ? 'a' : 'b';
    assert_int_equal(tokenizer_encode(t, text, sizeof(text), false, false, ids,
                                      ARRAY_LEN(ids), &n),
                     0);
    assert_true(n <= sizeof(text));
    text_comes_back(t, text, sizeof(text));
    tokenizer_free(t);
}

/* ---- the story model ---- */

static void speaks_the_story_models_language(void **state) {
    static const char text[] =
        "Once upon a time, there was a little girl named Lily.\n\"Oh, no!\" "
        "she said. \xF0\x9F\x99\x82 1234  don't\t\xFF";
    char why[256] = "";
    int32_t ids[128];
    size_t n;
    gguf *g;
    tokenizer *t;
    (void)state;

    if (gguf_open(&g, STORY_MODEL, why, sizeof(why)) < 0 ||
        tokenizer_new(&t, g, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    gguf_close(g);
    assert_int_equal(tokenizer_n_vocab(t), 4096);
    assert_int_equal(tokenizer_bos(t), 0);
    assert_int_equal(tokenizer_eos(t), 0);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_end(t, 0));
    text_comes_back(t, text, sizeof(text) - 1);
    assert_int_equal(tokenizer_encode(t, "Once upon a time", 16, true, true,
                                      ids, ARRAY_LEN(ids), &n),
                     0);
    assert_int_equal(ids[0], 0);
    assert_int_equal(n, 5); /* common words are one token each */
    assert_int_equal(tokenizer_encode(t, "<|endoftext|>", 13, false, true, ids,
                                      ARRAY_LEN(ids), &n),
                     0);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 0);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_control_tokens_only_on_request),
        cmocka_unit_test(takes_the_longest_special_token_of_a_place),
        cmocka_unit_test(always_finds_user_defined_tokens),
        cmocka_unit_test(hides_control_tokens_unless_asked),
        cmocka_unit_test(adds_what_the_file_asks_for),
        cmocka_unit_test(adds_bos_by_default_where_the_family_does),
        cmocka_unit_test(has_no_bos_or_eos_unless_the_file_names_them),
        cmocka_unit_test(knows_the_ends_of_a_generation),
        cmocka_unit_test(lets_a_message_end_where_a_turn_has_several),
        cmocka_unit_test(does_without_kinds),
        cmocka_unit_test(says_how_much_room_is_needed),
        cmocka_unit_test(refuses_unknown_kinds_by_name),
        cmocka_unit_test(refuses_malformed_merges_by_index),
        cmocka_unit_test(refuses_lists_that_do_not_fit_each_other),
        cmocka_unit_test(refuses_ids_outside_the_vocabulary),
        cmocka_unit_test(refuses_to_add_a_token_that_is_not_there),
        cmocka_unit_test(refuses_odd_tokens),
        cmocka_unit_test(holds_an_unfinished_character_back),
        cmocka_unit_test(passes_bytes_that_can_become_no_character),
        cmocka_unit_test(never_lets_half_a_character_out),
        cmocka_unit_test(bears_tokens_without_text),
        cmocka_unit_test(finds_the_first_of_equal_special_tokens),
        cmocka_unit_test(ends_where_merges_go_in_a_circle),
        cmocka_unit_test(speaks_the_story_models_language),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
