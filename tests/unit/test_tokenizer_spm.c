/* test_tokenizer_spm.c - SentencePiece's BPE over small vocabularies: order of
 * scores, spaces, bytes.  Ids 0 to 2 are <unk>, <s>, </s>, then come the 256
 * bytes; what a test adds begins with 259. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/tokenizer.h"
#include "tests/support/token_check.h"

static void joins_the_best_score_first(void **state) {
    vocab v = vocab_spm();
    (void)state;
    vocab_add(&v, "\xE2\x96\x81", TYPE_NORMAL, -9.0f); /* 259 */
    vocab_add(&v, "a", TYPE_NORMAL, -9.0f);            /* 260 */
    vocab_add(&v, "b", TYPE_NORMAL, -9.0f);            /* 261 */
    vocab_add(&v, "ab", TYPE_NORMAL, -2.0f);           /* 262 */
    vocab_add(&v,
              "\xE2\x96\x81"
              "a",
              TYPE_NORMAL, -1.0f);           /* 263 */
    vocab_add(&v, "aa", TYPE_NORMAL, -3.0f); /* 264 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "ab", IDS(263, 261));
    tokens_are(t, "bab", IDS(259, 261, 262));
    tokens_are(t, "baaa", IDS(259, 261, 264, 260)); /* a tie: the left one */
    tokens_decode_to(t, IDS(263, 261), false, "ab");
    tokens_decode_to(t, IDS(1, 263, 263), false, "a a");
    tokens_decode_to(t, IDS(1, 263, 263), true, "<s>a a");
    tokens_are_as(t, "ab", 2, true, false, IDS(1, 263, 261));
    text_comes_back(t, " a  b ", 6);
    text_comes_back(t, "", 0);
    tokenizer_free(t);
}

static void puts_no_space_before_a_text_if_told_so(void **state) {
    vocab v = vocab_spm();
    (void)state;
    vocab_add(&v, "\xE2\x96\x81", TYPE_NORMAL, -9.0f); /* 259 */
    vocab_add(&v, "a", TYPE_NORMAL, -9.0f);            /* 260 */
    vocab_flag(&v, "tokenizer.ggml.add_space_prefix", false);
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "a a", IDS(260, 259, 260));
    tokens_decode_to(t, IDS(259, 260), false, " a");
    tokenizer_free(t);
}

static void falls_back_to_bytes(void **state) {
    vocab v = vocab_spm();
    char all[256];
    (void)state;
    vocab_add(&v, "\xE2\x96\x81", TYPE_NORMAL, -9.0f); /* 259 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "\xC3\xA9", IDS(259, 3 + 0xC3, 3 + 0xA9));
    /* What looks like a byte's name is text. */
    tokens_are(t, "<0x41>",
               IDS(259, 3 + '<', 3 + '0', 3 + 'x', 3 + '4', 3 + '1', 3 + '>'));
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    text_comes_back(t, all, sizeof(all));
    tokenizer_free(t);
}

static void knows_bytes_by_name_without_kinds(void **state) {
    vocab v = vocab_spm();
    (void)state;
    v.no_types = true;
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "A", IDS(3 + ' ', 3 + 'A'));
    tokens_decode_to(t, IDS(3 + 'A'), false, "A");
    tokenizer_free(t);
}

static void gives_one_unknown_for_a_character_without_bytes(void **state) {
    vocab v = {.model = "llama"};
    (void)state;
    vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0.0f);
    vocab_add(&v, "<s>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "</s>", TYPE_CONTROL, 0.0f);
    vocab_add(&v, "\xE2\x96\x81", TYPE_NORMAL, 0.0f); /* 3 */
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "\xE4\xBD\xA0 x", IDS(3, 0, 3, 0));
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_free(t);
}

static void never_joins_text_into_a_control_token(void **state) {
    vocab v = vocab_spm();
    (void)state;
    vocab_add(&v, "<s", TYPE_NORMAL, -1.0f); /* 259 */
    vocab_add(&v, "\xE2\x96\x81", TYPE_NORMAL, -9.0f);
    tokenizer *t = tokens_open(&v);
    tokens_are(t, "<s>", IDS(260, 259, 3 + '>'));
    tokens_parsed_are(t, "<s>a", IDS(1, 260, 3 + 'a'));
    tokenizer_free(t);
}

static void drops_blanks_after_the_special_tokens_of_phi3(void **state) {
    vocab v = vocab_spm();
    (void)state;
    vocab_add(&v, "\xE2\x96\x81", TYPE_NORMAL, -9.0f); /* 259 */
    vocab_add(&v, "<|user|>", TYPE_CONTROL, 0.0f);     /* 260 */
    tokenizer *t = tokens_open(&v);
    tokens_parsed_are(t, "<|user|>\n a", IDS(260, 259, 3 + '\n', 259, 3 + 'a'));
    tokenizer_free(t);
    v.name = "Phi3 mini";
    t = tokens_open(&v);
    tokens_parsed_are(t, "<|user|>\n a", IDS(260, 259, 3 + 'a'));
    tokens_parsed_are(t, "<s> a", IDS(1, 259, 259, 3 + 'a'));
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_the_best_score_first),
        cmocka_unit_test(puts_no_space_before_a_text_if_told_so),
        cmocka_unit_test(falls_back_to_bytes),
        cmocka_unit_test(knows_bytes_by_name_without_kinds),
        cmocka_unit_test(gives_one_unknown_for_a_character_without_bytes),
        cmocka_unit_test(never_joins_text_into_a_control_token),
        cmocka_unit_test(drops_blanks_after_the_special_tokens_of_phi3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
