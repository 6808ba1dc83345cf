/* test_tokenizer.c - tokenizers over small vocabularies written for each test,
 * and over the story model's own.
 *
 * Ids in the small BPE vocabularies: 0 to 255 are the bytes, more tokens
 * follow from 256 in the order in which a test adds them.  SPM ones begin with
 * <unk>, <s>, </s> and the 256 bytes, so that theirs follow from 259. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/util.h"
#include "tests/support/gguf_writer.h"

#define STORY_MODEL "models/stories-moe.q8_0.gguf"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };
enum { MAX_TOKENS = 320, MAX_MERGES = 32, MAX_IDS = 4096 };

/* ---- a vocabulary in the making ---- */

typedef struct {
    const char *model, *pre, *name;
    const char *tokens[MAX_TOKENS];
    int32_t types[MAX_TOKENS];
    float scores[MAX_TOKENS];
    size_t n;
    const char *merges[MAX_MERGES];
    size_t n_merges;
    const char *ids[8]; /* keys of token ids */
    uint32_t id_values[8];
    size_t n_ids;
    const char *flags[4]; /* keys of booleans */
    bool flag_values[4];
    size_t n_flags;
    bool no_types, no_merges, no_tokens;
    size_t types_short; /* by how many the list of kinds is too short */
} vocab;

static char byte_names[256][7];

static uint32_t add(vocab *v, const char *text, int32_t type, float score) {
    assert_true(v->n < MAX_TOKENS);
    v->tokens[v->n] = text;
    v->types[v->n] = type;
    v->scores[v->n] = score;
    return (uint32_t)v->n++;
}

static void add_merge(vocab *v, const char *merge) {
    assert_true(v->n_merges < MAX_MERGES);
    v->merges[v->n_merges++] = merge;
}

static void set_id(vocab *v, const char *key, uint32_t id) {
    v->ids[v->n_ids] = key;
    v->id_values[v->n_ids++] = id;
}

static void set_flag(vocab *v, const char *key, bool value) {
    v->flags[v->n_flags] = key;
    v->flag_values[v->n_flags++] = value;
}

/* GPT-2's character for a byte. */
static const char *name_of_byte(int b) {
    bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    uint32_t c = (uint32_t)b;
    if (!itself) {
        c = 0x100;
        for (int i = 0; i < b; i++)
            c += !((i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i != 0xAD));
    }
    char *out = byte_names[b];
    if (c < 0x80) {
        snprintf(out, 7, "%c", (char)c);
    } else {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        out[2] = '\0';
    }
    return out;
}

static vocab bpe_vocab(const char *pre) {
    vocab v = {.model = "gpt2", .pre = pre};
    for (int b = 0; b < 256; b++)
        add(&v, name_of_byte(b), NORMAL, 0.0f);
    return v;
}

static vocab spm_vocab(void) {
    vocab v = {.model = "llama", .pre = "default"};
    add(&v, "<unk>", UNKNOWN, 0.0f);
    add(&v, "<s>", CONTROL, 0.0f);
    add(&v, "</s>", CONTROL, 0.0f);
    for (int b = 0; b < 256; b++) {
        snprintf(byte_names[b], sizeof(byte_names[b]), "<0x%02X>", (unsigned)b);
        add(&v, byte_names[b], BYTE, 0.0f);
    }
    return v;
}

static void write_vocab(const vocab *v, const char *path) {
    gguf_writer *w = gguf_writer_new();
    assert_non_null(w);
    gguf_writer_string(w, "general.architecture", "llama");
    if (v->name != NULL) gguf_writer_string(w, "general.name", v->name);
    if (v->model != NULL)
        gguf_writer_string(w, "tokenizer.ggml.model", v->model);
    if (v->pre != NULL) gguf_writer_string(w, "tokenizer.ggml.pre", v->pre);
    if (!v->no_tokens)
        gguf_writer_strings(w, "tokenizer.ggml.tokens", v->n, v->tokens);
    if (!v->no_types)
        gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32,
                          v->n - v->types_short, v->types);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, v->n, v->scores);
    if (!v->no_merges)
        gguf_writer_strings(w, "tokenizer.ggml.merges", v->n_merges, v->merges);
    for (size_t i = 0; i < v->n_ids; i++)
        gguf_writer_u32(w, v->ids[i], v->id_values[i]);
    for (size_t i = 0; i < v->n_flags; i++)
        gguf_writer_bool(w, v->flags[i], v->flag_values[i]);
    assert_int_equal(gguf_writer_finish(w, path), 0);
    gguf_writer_free(w);
}

static int open_vocab(const vocab *v, tokenizer **out, char *why,
                      size_t why_size) {
    char path[] = "/tmp/roster-vocab-XXXXXX";
    gguf *g;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_vocab(v, path);
    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) fail_msg("%s", why);
    rc = tokenizer_new(out, g, why, why_size);
    /* The tokenizer owns what it keeps. */
    gguf_close(g);
    unlink(path);
    return rc;
}

static tokenizer *must_open(const vocab *v) {
    char why[256] = "";
    tokenizer *t;
    if (open_vocab(v, &t, why, sizeof(why)) < 0) fail_msg("%s", why);
    return t;
}

/* ---- checking ---- */

#define IDS(...)                                                               \
    (const int32_t[]){__VA_ARGS__},                                            \
        sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static void check_as(const tokenizer *t, const char *text, size_t len,
                     bool add_special, bool parse_special, const int32_t *want,
                     size_t n_want) {
    int32_t got[MAX_IDS];
    size_t n;
    assert_int_equal(tokenizer_encode(t, text, len, add_special, parse_special,
                                      got, MAX_IDS, &n),
                     0);
    if (n == n_want && memcmp(got, want, n * sizeof(*got)) == 0) return;
    print_error("\"%s\" gave", text);
    for (size_t i = 0; i < n; i++)
        print_error(" %d", got[i]);
    print_error(", not");
    for (size_t i = 0; i < n_want; i++)
        print_error(" %d", want[i]);
    print_error("\n");
    fail();
}

static void check(const tokenizer *t, const char *text, const int32_t *want,
                  size_t n_want) {
    check_as(t, text, strlen(text), false, false, want, n_want);
}

static void check_parsed(const tokenizer *t, const char *text,
                         const int32_t *want, size_t n_want) {
    check_as(t, text, strlen(text), false, true, want, n_want);
}

static void check_decoded(const tokenizer *t, const int32_t *ids, size_t n,
                          bool with_special, const char *want) {
    char text[1024];
    size_t len;
    assert_int_equal(
        tokenizer_decode(t, ids, n, with_special, text, sizeof(text), &len), 0);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(text, want, len);
}

static void comes_back(const tokenizer *t, const char *text, size_t len) {
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

static void check_refused(const vocab *v, int code, const char *sentence) {
    char why[256] = "";
    tokenizer *t;
    assert_int_equal(open_vocab(v, &t, why, sizeof(why)), code);
    assert_null(t);
    if (strstr(why, sentence) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", why, sentence);
}

/* ---- BPE ---- */

static void merges_the_lowest_rank_first(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "ab", NORMAL, 0.0f); /* 256 */
    add(&v, "bc", NORMAL, 0.0f); /* 257 */
    add(&v, "abc", NORMAL, 0.0f);
    add_merge(&v, "b c");
    add_merge(&v, "a b");
    tokenizer *t = must_open(&v);
    check(t, "abc", IDS('a', 257));
    check(t, "ab", IDS(256));
    check(t, "abab", IDS(256, 256));
    tokenizer_free(t);
}

static void merges_equal_ranks_from_left_to_right(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "aa", NORMAL, 0.0f);   /* 256 */
    add(&v, "aaaa", NORMAL, 0.0f); /* 257 */
    add_merge(&v, "a a");
    add_merge(&v, "aa aa");
    tokenizer *t = must_open(&v);
    check(t, "aaa", IDS(256, 'a'));
    check(t, "aaaaaaa", IDS(257, 256, 'a'));
    tokenizer_free(t);
}

static void merges_through_parts_that_are_no_tokens(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "xyz", NORMAL, 0.0f); /* 256 */
    add_merge(&v, "x y");
    add_merge(&v, "xy z");
    tokenizer *t = must_open(&v);
    check(t, "xyz", IDS(256));
    check(t, "xy", IDS('x', 'y'));
    tokenizer_free(t);
}

static void merges_within_words_only(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "a\xC4\xA0", NORMAL, 0.0f); /* "a " */
    add(&v,
        "\xC4\xA0"
        "a",
        NORMAL, 0.0f); /* 257: " a" */
    add_merge(&v, "a \xC4\xA0");
    add_merge(&v, "\xC4\xA0 a");
    tokenizer *t = must_open(&v);
    check(t, "a a", IDS('a', 257));
    tokenizer_free(t);
}

static void takes_whole_words_where_merges_are_ignored(void **state) {
    vocab plain = bpe_vocab("gpt-2"), whole = bpe_vocab("llama-bpe");
    (void)state;
    add(&plain, "word", NORMAL, 0.0f);
    add(&whole, "word", NORMAL, 0.0f); /* 256, and no merge leads to it */
    tokenizer *t = must_open(&plain);
    check(t, "word", IDS('w', 'o', 'r', 'd'));
    tokenizer_free(t);
    t = must_open(&whole);
    check(t, "word", IDS(256));
    tokenizer_free(t);
}

static void uses_the_default_splitting_if_the_file_names_none(void **state) {
    vocab v = bpe_vocab(NULL);
    (void)state;
    add(&v, "12", NORMAL, 0.0f);   /* 256 */
    add(&v, "1212", NORMAL, 0.0f); /* never: digits go in threes */
    add_merge(&v, "1 2");
    add_merge(&v, "12 12");
    tokenizer *t = must_open(&v);
    check(t, "1212", IDS(256, '1', '2'));
    tokenizer_free(t);
}

static void gives_back_every_byte(void **state) {
    vocab v = bpe_vocab("deepseek-v3");
    char text[512];
    (void)state;
    add(&v, "aa", NORMAL, 0.0f);
    add_merge(&v, "a a");
    tokenizer *t = must_open(&v);
    for (int i = 0; i < 512; i++)
        text[i] = (char)(i < 256 ? i : i * 7 + i / 256);
    comes_back(t, text, sizeof(text));
    comes_back(t, "\xED\xA0\x80 surrogate \xC0\xAF overlong \xF4\x90", 28);
    comes_back(t, "cut \xE4\xBD", 6);
    comes_back(t, "", 0);
    tokenizer_free(t);
}

static void leaves_out_bytes_that_the_vocabulary_lacks(void **state) {
    vocab v = {.model = "gpt2", .pre = "gpt-2"};
    (void)state;
    add(&v, "a", NORMAL, 0.0f);
    tokenizer *t = must_open(&v);
    check(t, "abba", IDS(0, 0));
    tokenizer_free(t);

    add(&v, "<unk>", UNKNOWN, 0.0f);
    set_id(&v, "tokenizer.ggml.unknown_token_id", 1);
    t = must_open(&v);
    check(t, "abba", IDS(0, 1, 1, 0));
    tokenizer_free(t);
}

static void tokenizes_a_megabyte_of_one_letter(void **state) {
    enum { LEN = 1 << 20 };
    vocab v = bpe_vocab("gpt-4o");
    char *text = malloc(LEN);
    (void)state;
    add(&v, "aa", NORMAL, 0.0f);
    add(&v, "aaaa", NORMAL, 0.0f);
    add_merge(&v, "a a");
    add_merge(&v, "aa aa");
    tokenizer *t = must_open(&v);
    assert_non_null(text);
    memset(text, 'a', LEN);
    comes_back(t, text, LEN);
    memset(text, ' ', LEN - 1);
    comes_back(t, text, LEN);
    memset(text, 'A', LEN);
    comes_back(t, text, LEN);
    free(text);
    tokenizer_free(t);
}

/* ---- normal form C ---- */

static vocab qwen_vocab(void) {
    vocab v = bpe_vocab("qwen2");
    add(&v, "\xC3\x83\xC2\xA9", NORMAL, 0.0f); /* 256: U+00E9 */
    add_merge(&v, "\xC3\x83 \xC2\xA9");
    return v;
}

static void composes_characters_for_qwen(void **state) {
    vocab v = qwen_vocab();
    (void)state;
    tokenizer *t = must_open(&v);
    check(t, "\xC3\xA9", IDS(256));
    check(t, "e\xCC\x81", IDS(256));
    /* Hangul: U+1100 U+1161 is U+AC00. */
    check(t, "\xE1\x84\x80\xE1\x85\xA1", IDS(0xEA, 0xB0, 0x80));
    /* Marks are put in order first: cedilla (202) before acute (230). */
    check(t, "e\xCC\x81\xCC\xA7", IDS(0xC8, 0xA9, 0xCC, 0x81));
    /* Invalid bytes stay and part what would combine. */
    check(t, "e\xFF\xCC\x81", IDS('e', 0xFF, 0xCC, 0x81));
    tokenizer_free(t);
}

static void lengthens_a_text_at_most_threefold(void **state) {
    vocab v = qwen_vocab();
    int32_t ids[64];
    size_t n;
    (void)state;
    tokenizer *t = must_open(&v);
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
    tokenizer *t = must_open(&v);
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

/* ---- special tokens ---- */

static void parses_control_tokens_only_on_request(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "<x>", CONTROL, 0.0f); /* 256 */
    tokenizer *t = must_open(&v);
    check(t, "a<x>", IDS('a', '<', 'x', '>'));
    check_parsed(t, "a<x>b<x><x", IDS('a', 256, 'b', 256, '<', 'x'));
    tokenizer_free(t);
}

static void takes_the_longest_special_token_of_a_place(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "<x>", CONTROL, 0.0f);   /* 256 */
    add(&v, "<x>yz", CONTROL, 0.0f); /* 257 */
    add(&v, "<x", CONTROL, 0.0f);    /* 258 */
    tokenizer *t = must_open(&v);
    check_parsed(t, "<x>yz<x>y<x<", IDS(257, 256, 'y', 258, '<'));
    tokenizer_free(t);
}

static void always_finds_user_defined_tokens(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "<think>", USER, 0.0f);  /* 256 */
    add(&v, "\xC3\xB5", USER, 0.0f); /* 257: a letter, not byte F5 */
    tokenizer *t = must_open(&v);
    check(t, "<think>a", IDS(256, 'a'));
    check(t, "\xC3\xB5", IDS(257));
    check_decoded(t, IDS(256, 257), false, "<think>\xC3\xB5");
    check(t, "\xF5", IDS(0xF5));
    tokenizer_free(t);
}

static void hides_control_tokens_unless_asked(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "<x>", CONTROL, 0.0f); /* 256 */
    tokenizer *t = must_open(&v);
    check_decoded(t, IDS('a', 256, 'b'), false, "ab");
    check_decoded(t, IDS('a', 256, 'b'), true, "a<x>b");
    assert_int_equal(tokenizer_piece(t, 256, false).len, 0);
    assert_int_equal(tokenizer_piece(t, 256, true).len, 3);
    assert_int_equal(tokenizer_piece(t, -1, true).len, 0);
    assert_int_equal(tokenizer_piece(t, 257, true).len, 0);
    tokenizer_free(t);
}

static void adds_what_the_file_asks_for(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    set_id(&v, "tokenizer.ggml.bos_token_id", add(&v, "<b>", CONTROL, 0.0f));
    set_id(&v, "tokenizer.ggml.eos_token_id", add(&v, "<e>", CONTROL, 0.0f));
    tokenizer *t = must_open(&v);
    check_as(t, "a", 1, true, false, IDS('a'));
    assert_false(tokenizer_adds_bos(t));
    tokenizer_free(t);

    set_flag(&v, "tokenizer.ggml.add_bos_token", true);
    set_flag(&v, "tokenizer.ggml.add_eos_token", true);
    t = must_open(&v);
    check_as(t, "a", 1, true, false, IDS(256, 'a', 257));
    check_as(t, "", 0, true, false, IDS(256, 257));
    check_as(t, "a", 1, false, false, IDS('a'));
    assert_true(tokenizer_adds_bos(t));
    assert_int_equal(tokenizer_bos(t), 256);
    assert_int_equal(tokenizer_eos(t), 257);
    tokenizer_free(t);
}

static void adds_bos_by_default_where_the_family_does(void **state) {
    vocab v = bpe_vocab("llama-bpe");
    (void)state;
    tokenizer *t = must_open(&v);
    assert_false(tokenizer_adds_bos(t)); /* there is none */
    tokenizer_free(t);
    set_id(&v, "tokenizer.ggml.bos_token_id", add(&v, "<b>", CONTROL, 0.0f));
    t = must_open(&v);
    assert_true(tokenizer_adds_bos(t));
    tokenizer_free(t);
}

static void has_no_bos_or_eos_unless_the_file_names_them(void **state) {
    vocab v = bpe_vocab("qwen2");
    (void)state;
    tokenizer *t = must_open(&v);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), -1);
    assert_int_equal(tokenizer_n_vocab(t), 256);
    tokenizer_free(t);
}

static void knows_the_ends_of_a_generation(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "<|im_end|>", CONTROL, 0.0f); /* 256 */
    add(&v, "<|eot_id|>", USER, 0.0f);    /* 257: is made control */
    add(&v, "<|im_start|>", CONTROL, 0.0f);
    add(&v, "</s>", NORMAL, 0.0f); /* 259: mere text */
    set_id(&v, "tokenizer.ggml.eos_token_id", add(&v, "<e>", CONTROL, 0.0f));
    set_id(&v, "tokenizer.ggml.eot_token_id", add(&v, "<t>", CONTROL, 0.0f));
    tokenizer *t = must_open(&v);
    const bool ends[] = {true, true, false, false, true, true};
    for (int32_t i = 0; i < 6; i++)
        assert_int_equal(tokenizer_is_end(t, 256 + i), ends[i]);
    assert_false(tokenizer_is_end(t, 'a'));
    assert_false(tokenizer_is_end(t, -1));
    assert_false(tokenizer_is_end(t, 10000));
    /* Nobody can write one without asking. */
    assert_int_equal(tokenizer_piece(t, 257, false).len, 0);
    check_parsed(t, "<|eot_id|>", IDS(257));
    tokenizer_free(t);
}

static void lets_a_message_end_where_a_turn_has_several(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    add(&v, "<|end|>", CONTROL, 0.0f); /* 256 */
    tokenizer *t = must_open(&v);
    assert_true(tokenizer_is_end(t, 256));
    tokenizer_free(t);

    add(&v, "<|return|>", CONTROL, 0.0f);
    add(&v, "<|call|>", CONTROL, 0.0f);
    t = must_open(&v);
    assert_false(tokenizer_is_end(t, 256));
    assert_true(tokenizer_is_end(t, 257));
    assert_true(tokenizer_is_end(t, 258));
    tokenizer_free(t);
}

static void does_without_kinds(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    v.no_types = true;
    add(&v, "<|endoftext|>", NORMAL, 0.0f); /* 256 */
    set_id(&v, "tokenizer.ggml.eos_token_id", 256);
    set_id(&v, "tokenizer.ggml.bos_token_id", add(&v, "<b>", NORMAL, 0.0f));
    tokenizer *t = must_open(&v);
    check_parsed(t, "<b>a<|endoftext|>", IDS(257, 'a', 256));
    assert_true(tokenizer_is_end(t, 256));
    check_decoded(t, IDS(257, 'a', 256), false, "a");
    tokenizer_free(t);
}

/* ---- SPM ---- */

static void joins_the_best_score_first(void **state) {
    vocab v = spm_vocab();
    (void)state;
    add(&v, "\xE2\x96\x81", NORMAL, -9.0f); /* 259 */
    add(&v, "a", NORMAL, -9.0f);            /* 260 */
    add(&v, "b", NORMAL, -9.0f);            /* 261 */
    add(&v, "ab", NORMAL, -2.0f);           /* 262 */
    add(&v,
        "\xE2\x96\x81"
        "a",
        NORMAL, -1.0f);           /* 263 */
    add(&v, "aa", NORMAL, -3.0f); /* 264 */
    tokenizer *t = must_open(&v);
    check(t, "ab", IDS(263, 261));
    check(t, "bab", IDS(259, 261, 262));
    check(t, "baaa", IDS(259, 261, 264, 260)); /* a tie: the left one */
    check_decoded(t, IDS(263, 261), false, "ab");
    check_decoded(t, IDS(1, 263, 263), false, "a a");
    check_decoded(t, IDS(1, 263, 263), true, "<s>a a");
    check_as(t, "ab", 2, true, false, IDS(1, 263, 261));
    comes_back(t, " a  b ", 6);
    comes_back(t, "", 0);
    tokenizer_free(t);
}

static void puts_no_space_before_a_text_if_told_so(void **state) {
    vocab v = spm_vocab();
    (void)state;
    add(&v, "\xE2\x96\x81", NORMAL, -9.0f); /* 259 */
    add(&v, "a", NORMAL, -9.0f);            /* 260 */
    set_flag(&v, "tokenizer.ggml.add_space_prefix", false);
    tokenizer *t = must_open(&v);
    check(t, "a a", IDS(260, 259, 260));
    check_decoded(t, IDS(259, 260), false, " a");
    tokenizer_free(t);
}

static void falls_back_to_bytes(void **state) {
    vocab v = spm_vocab();
    char all[256];
    (void)state;
    add(&v, "\xE2\x96\x81", NORMAL, -9.0f); /* 259 */
    tokenizer *t = must_open(&v);
    check(t, "\xC3\xA9", IDS(259, 3 + 0xC3, 3 + 0xA9));
    /* What looks like a byte's name is text. */
    check(t, "<0x41>",
          IDS(259, 3 + '<', 3 + '0', 3 + 'x', 3 + '4', 3 + '1', 3 + '>'));
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    comes_back(t, all, sizeof(all));
    tokenizer_free(t);
}

static void knows_bytes_by_name_without_kinds(void **state) {
    vocab v = spm_vocab();
    (void)state;
    v.no_types = true;
    tokenizer *t = must_open(&v);
    check(t, "A", IDS(3 + ' ', 3 + 'A'));
    check_decoded(t, IDS(3 + 'A'), false, "A");
    tokenizer_free(t);
}

static void gives_one_unknown_for_a_character_without_bytes(void **state) {
    vocab v = {.model = "llama"};
    (void)state;
    add(&v, "<unk>", UNKNOWN, 0.0f);
    add(&v, "<s>", CONTROL, 0.0f);
    add(&v, "</s>", CONTROL, 0.0f);
    add(&v, "\xE2\x96\x81", NORMAL, 0.0f); /* 3 */
    tokenizer *t = must_open(&v);
    check(t, "\xE4\xBD\xA0 x", IDS(3, 0, 3, 0));
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_free(t);
}

static void never_joins_text_into_a_control_token(void **state) {
    vocab v = spm_vocab();
    (void)state;
    add(&v, "<s", NORMAL, -1.0f); /* 259 */
    add(&v, "\xE2\x96\x81", NORMAL, -9.0f);
    tokenizer *t = must_open(&v);
    check(t, "<s>", IDS(260, 259, 3 + '>'));
    check_parsed(t, "<s>a", IDS(1, 260, 3 + 'a'));
    tokenizer_free(t);
}

static void drops_blanks_after_the_special_tokens_of_phi3(void **state) {
    vocab v = spm_vocab();
    (void)state;
    add(&v, "\xE2\x96\x81", NORMAL, -9.0f); /* 259 */
    add(&v, "<|user|>", CONTROL, 0.0f);     /* 260 */
    tokenizer *t = must_open(&v);
    check_parsed(t, "<|user|>\n a", IDS(260, 259, 3 + '\n', 259, 3 + 'a'));
    tokenizer_free(t);
    v.name = "Phi3 mini";
    t = must_open(&v);
    check_parsed(t, "<|user|>\n a", IDS(260, 259, 3 + 'a'));
    check_parsed(t, "<s> a", IDS(1, 259, 259, 3 + 'a'));
    tokenizer_free(t);
}

/* ---- capacities ---- */

static void says_how_much_room_is_needed(void **state) {
    vocab v = bpe_vocab("gpt-2");
    int32_t ids[3] = {0, 0, 77};
    char text[3] = "__";
    size_t n;
    (void)state;
    tokenizer *t = must_open(&v);
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
    vocab v = bpe_vocab("from-mars");
    (void)state;
    check_refused(&v, ERR_UNSUPPORTED, "from-mars");
    v.model = "t5";
    check_refused(&v, ERR_UNSUPPORTED, "t5");
    v.model = NULL;
    check_refused(&v, ERR_FORMAT, "tokenizer.ggml.model");
}

static void refuses_malformed_merges_by_index(void **state) {
    static const char *const bad[] = {"ab", "", " ", "a ", " b", "a"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        vocab v = bpe_vocab("gpt-2");
        add_merge(&v, "a b");
        add_merge(&v, bad[i]);
        check_refused(&v, ERR_FORMAT, "merges[1]");
    }
    vocab v = bpe_vocab("gpt-2");
    v.no_merges = true;
    check_refused(&v, ERR_FORMAT, "merges");
}

static void refuses_lists_that_do_not_fit_each_other(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    v.types_short = 1;
    check_refused(&v, ERR_FORMAT, "token_type has 255 entries for 256");
    v.types_short = 0;
    v.no_tokens = true;
    check_refused(&v, ERR_FORMAT, "tokenizer.ggml.tokens");
    vocab empty = {.model = "gpt2", .pre = "gpt-2"};
    check_refused(&empty, ERR_FORMAT, "tokens has 0 entries");
}

static void refuses_ids_outside_the_vocabulary(void **state) {
    static const char *const keys[] = {
        "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        vocab v = bpe_vocab("gpt-2");
        set_id(&v, keys[i], 256);
        check_refused(&v, ERR_FORMAT, keys[i]);
    }
}

static void refuses_to_add_a_token_that_is_not_there(void **state) {
    vocab v = bpe_vocab("gpt-2");
    (void)state;
    set_flag(&v, "tokenizer.ggml.add_bos_token", true);
    check_refused(&v, ERR_FORMAT, "add_bos_token");
}

static void refuses_odd_tokens(void **state) {
    static char endless[5000];
    (void)state;
    memset(endless, 'x', sizeof(endless) - 1);
    vocab v = bpe_vocab("gpt-2");
    add(&v, endless, NORMAL, 0.0f);
    check_refused(&v, ERR_FORMAT, "tokens[256]");

    v = spm_vocab();
    add(&v, "<0xZZ>", BYTE, 0.0f);
    check_refused(&v, ERR_FORMAT, "tokens[259]");

    v = spm_vocab();
    add(&v, "a", NORMAL, NAN);
    check_refused(&v, ERR_FORMAT, "scores[259]");
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
    comes_back(t, text, sizeof(text) - 1);
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
        cmocka_unit_test(joins_the_best_score_first),
        cmocka_unit_test(puts_no_space_before_a_text_if_told_so),
        cmocka_unit_test(falls_back_to_bytes),
        cmocka_unit_test(knows_bytes_by_name_without_kinds),
        cmocka_unit_test(gives_one_unknown_for_a_character_without_bytes),
        cmocka_unit_test(never_joins_text_into_a_control_token),
        cmocka_unit_test(drops_blanks_after_the_special_tokens_of_phi3),
        cmocka_unit_test(says_how_much_room_is_needed),
        cmocka_unit_test(refuses_unknown_kinds_by_name),
        cmocka_unit_test(refuses_malformed_merges_by_index),
        cmocka_unit_test(refuses_lists_that_do_not_fit_each_other),
        cmocka_unit_test(refuses_ids_outside_the_vocabulary),
        cmocka_unit_test(refuses_to_add_a_token_that_is_not_there),
        cmocka_unit_test(refuses_odd_tokens),
        cmocka_unit_test(holds_an_unfinished_character_back),
        cmocka_unit_test(passes_bytes_that_can_become_no_character),
        cmocka_unit_test(speaks_the_story_models_language),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
