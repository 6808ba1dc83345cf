/* tokenizer_pre.c - splits a text into the words that BPE merges within.
 *
 * tokenizer.ggml.pre names a list of patterns.  Each splits what the former
 * ones left: its matches become pieces of their own, and so does the text
 * between them.  A pattern sees one piece at a time, so a look-ahead ends where
 * the piece ends; published tokenizers work the same way.
 *
 * White space is the Unicode property, which PCRE2's \s is not (it adds U+180E,
 * common in Mongolian).  No pattern can run into its own square: repeated
 * groups are single classes, and a run that may fail is entered at its begin
 * only.
 *
 * The patterns give every golden id at hand: the published tokenizer's where
 * that is known, else llama.cpp's.  The second have two traits that the models'
 * own tokenizers do not: llama4, minimax-m2, tekken and kimi-k2 know letter
 * case in ASCII alone and take no combining marks into words (CASED_WORDS with
 * UPPER and LOWER, as in gpt-4o, does both), and qwen35 is not normalized. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <assert.h>
#include <errno.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

#define MAX_PATTERNS 6

typedef struct {
    const char *name;
    const char *const *patterns; /* NULL-terminated */
    bool ignore_merges, add_bos, nfc;
} pre_row;

struct pre_tokenizer {
    const pre_row *row;
    pcre2_code *codes[MAX_PATTERNS];
    size_t n_codes;
};

/* ---- patterns ---- */

/* clang-format off */
#define WS  "\\p{WSpace}"
#define NWS "\\P{WSpace}"
#define CONTRACTION                                                            \
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define BLANKS "|" WS "*[\\r\\n]+|" WS "+(?!" NWS ")|" WS "+"
#define SIGNS(tail) "| ?[^" WS "\\p{L}\\p{N}]+" tail

/* A letter word may begin with one sign or space. */
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define GPT2                                                                   \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|"     \
    WS "+(?!" NWS ")"
#define GPT4(digits)                                                           \
    CONTRACTION "|" WORD "|" digits SIGNS("[\\r\\n]*") BLANKS

/* Words that also end where lower case turns to upper. */
#define CASED_WORDS(upper, lower, tail, digits)                                \
    "[^\\r\\n\\p{L}\\p{N}]?" upper "*" lower "+" tail                          \
    "|[^\\r\\n\\p{L}\\p{N}]?" upper "+" lower "*" tail                         \
    "|" digits SIGNS("[\\r\\n/]*") BLANKS
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define ASCII_UPPER "[^\\P{L}a-z]" /* a letter, but not a to z */
#define ASCII_LOWER "[^\\P{L}A-Z]"

#define DIGITS3 "\\p{N}{1,3}"
#define DIGIT "\\p{N}"

/* Latin, Greek, Cyrillic and other letters with case, by DeepSeek's list. */
#define DEEPSEEK_LETTERS                                                       \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}"              \
    "\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}"     \
    "\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}"       \
    "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"              \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                    \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"                \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"                \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"       \
    "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"                 \
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"       \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                 \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"        \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}"                 \
    "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"        \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"                \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"                 \
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}"                \
    "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"              \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"          \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_SIGNS                                                         \
    "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"          \
    "\\x{3000}-\\x{3002}"
#define DEEPSEEK_CJK                                                           \
    "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* Hangul, full-width signs, Bopomofo, Han with Kana: runs of each. */
#define YOUTU_CJK                                                              \
    "[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+"                              \
    "|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}"      \
    "\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+"     \
    "|[\\x{3105}-\\x{312f}]+|[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+"
/* Whatever is not punctuation of many scripts, a space before it. */
#define BLOOM                                                                  \
    " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}"     \
    "\\x{60c})]+"
/* clang-format on */

static const char *const gpt2[] = {GPT2, NULL};
static const char *const gpt2_digit[] = {DIGIT, GPT2, NULL};
static const char *const gpt4_digit[] = {GPT4(DIGIT), NULL};
static const char *const gpt4_digits3[] = {GPT4(DIGITS3), NULL};
static const char *const falcon[] = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9]{3}",
                                     NULL};
static const char *const fallback[] = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+",
                                       "[0-9]{3}", NULL};
static const char *const qwen35[] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS
                "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" BLANKS,
    NULL};
static const char *const gpt4o[] = {
    CASED_WORDS(UPPER, LOWER, CONTRACTION "?", DIGITS3), NULL};
static const char *const gpt4o_ascii[] = {
    CASED_WORDS(ASCII_UPPER, ASCII_LOWER, CONTRACTION "?", DIGITS3), NULL};
static const char *const tekken[] = {
    CASED_WORDS(ASCII_UPPER, ASCII_LOWER, "", DIGIT), NULL};
static const char *const kimi_k2[] = {
    "\\p{sc:Han}+|[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}\\p{sc:Han}]+" CONTRACTION
    "?|" DIGITS3 SIGNS("[\\r\\n]*") BLANKS,
    NULL};
static const char *const bailing[] = {
    CONTRACTION "|" WORD "|" DIGIT SIGNS("[\\r\\n]*") "|" WS "*[\\r\\n]|" WS
                                                      "+(?!" NWS ")|" WS "+",
    NULL};
static const char *const seed_coder[] = {
    CONTRACTION "|" WORD "|" DIGIT "| ?[^" WS "\\p{L}\\p{N}]+" BLANKS, NULL};
static const char *const deepseek_v3[] = {
    DIGITS3, "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+",
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" BLANKS,
    NULL};
static const char *const deepseek_coder[] = {
    "[\\r\\n]", WS "?\\p{L}+", WS "?\\p{P}+", DEEPSEEK_CJK, DIGIT, NULL};
static const char *const deepseek_llm[] = {"[\\r\\n]",
                                           WS "?[" DEEPSEEK_LETTERS "]+",
                                           WS "?[" DEEPSEEK_SIGNS "]+",
                                           "(?<!" WS ")" WS "+\\z",
                                           DEEPSEEK_CJK,
                                           "\\p{N}+",
                                           NULL};

static const char *const youtu[] = {
    YOUTU_CJK, CASED_WORDS(UPPER, LOWER, CONTRACTION "?", DIGIT), NULL};
static const char *const bloom[] = {BLOOM, NULL};
static const char *const bloom_digit[] = {BLOOM, DIGIT, NULL};

/* ---- which name means which ---- */

enum { IGNORE_MERGES = 1, ADD_BOS = 2, NFC = 4 };

#define ROW(name, patterns, options)                                           \
    {                                                                          \
        name, patterns, ((options)&IGNORE_MERGES) != 0,                        \
            ((options)&ADD_BOS) != 0, ((options)&NFC) != 0                     \
    }

static const pre_row rows[] = {
    ROW("a.x-4.0", gpt2, 0),
    ROW("bailingmoe", bailing, 0),
    ROW("bailingmoe2", bailing, 0),
    ROW("bloom", bloom, 0),
    ROW("chatglm-bpe", gpt4_digits3, 0),
    ROW("codeshell", gpt2_digit, 0),
    ROW("command-r", gpt2_digit, 0),
    ROW("dbrx", gpt4_digits3, 0),
    ROW("deepseek-coder", deepseek_coder, 0),
    ROW("deepseek-llm", deepseek_llm, 0),
    ROW("deepseek-r1-qwen", gpt4_digit, 0),
    ROW("deepseek-v3", deepseek_v3, 0),
    ROW("default", fallback, 0),
    ROW("exaone", gpt2_digit, 0),
    ROW("exaone4", gpt2, 0),
    ROW("falcon", falcon, 0),
    ROW("falcon-h1", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("falcon3", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("gigachat", gpt2, 0),
    ROW("glm4", gpt4_digits3, 0),
    ROW("gpt-2", gpt2, 0),
    ROW("gpt-4o", gpt4o, 0),
    ROW("gpt3-finnish", bloom, 0),
    ROW("granite-docling", gpt2, 0),
    ROW("grok-2", gpt4_digit, 0),
    ROW("hunyuan", gpt4_digit, 0),
    ROW("hunyuan-dense", deepseek_v3, 0),
    ROW("jais", gpt2, 0),
    ROW("joyai-llm", deepseek_v3, 0),
    ROW("kanana2", gpt4o, 0),
    ROW("kimi-k2", kimi_k2, 0),
    ROW("lfm2", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("llada-moe", bailing, 0),
    ROW("llama-bpe", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("llama-v3", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("llama3", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("llama4", gpt4o_ascii, 0),
    ROW("megrez", gpt4_digit, 0),
    ROW("mellum", gpt2, 0),
    ROW("mellum2", gpt2_digit, 0),
    ROW("midm-2.0", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("minerva-7b", gpt2_digit, 0),
    ROW("minimax-m2", gpt4o_ascii, 0),
    ROW("mpt", gpt2, 0),
    ROW("olmo", gpt2, 0),
    ROW("phi-2", gpt2, 0),
    ROW("pixtral", gpt4_digits3, IGNORE_MERGES | ADD_BOS),
    ROW("poro-chat", bloom, 0),
    ROW("qwen2", gpt4_digit, NFC),
    ROW("qwen35", qwen35, 0),
    ROW("refact", gpt2_digit, 0),
    ROW("seed-coder", seed_coder, 0),
    ROW("smaug-bpe", gpt4_digits3, 0),
    ROW("smollm", gpt2_digit, 0),
    ROW("solar-open", gpt4_digit, 0),
    ROW("stablelm2", gpt4_digit, 0),
    ROW("starcoder", gpt2_digit, 0),
    ROW("tekken", tekken, IGNORE_MERGES | ADD_BOS),
    ROW("trillion", gpt2, 0),
    ROW("viking", bloom_digit, 0),
    ROW("youtu", youtu, IGNORE_MERGES),
};

static const pre_row *find_row(gguf_string name) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (gguf_string_is(name, rows[i].name)) return &rows[i];
    }
    return NULL;
}

/* ---- opening ---- */

static int compile(const char *pattern, pcre2_code **out, char *why,
                   size_t why_size) {
    int error;
    PCRE2_SIZE offset;

    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    if (*out == NULL) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(error, text, sizeof(text));
        return err_why(why, why_size, ERR_INTERNAL,
                       "PCRE2 refuses a splitting pattern at %zu: %s", offset,
                       (const char *)text);
    }
    /* Without a compiler for this machine PCRE2 interprets: slower, same. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return 0;
}

int pre_open(pre_tokenizer **out, gguf_string name, char *why,
             size_t why_size) {
    *out = NULL;
    const pre_row *row = find_row(name);
    if (row == NULL)
        return err_why(why, why_size, ERR_UNSUPPORTED,
                       "unknown pre-tokenizer '%s'", gguf_quote(name).text);

    pre_tokenizer *p = calloc(1, sizeof(*p));
    if (p == NULL) return -ENOMEM;
    p->row = row;
    for (; row->patterns[p->n_codes] != NULL; p->n_codes++) {
        assert(p->n_codes < MAX_PATTERNS);
        int rc = compile(row->patterns[p->n_codes], &p->codes[p->n_codes], why,
                         why_size);
        if (rc < 0) {
            pre_close(p);
            return rc;
        }
    }
    *out = p;
    return 0;
}

void pre_close(pre_tokenizer *p) {
    if (p == NULL) return;
    for (size_t i = 0; i < p->n_codes; i++)
        pcre2_code_free(p->codes[i]);
    free(p);
}

bool pre_ignores_merges(const pre_tokenizer *p) {
    return p->row->ignore_merges;
}

bool pre_adds_bos(const pre_tokenizer *p) {
    return p->row->add_bos;
}

bool pre_normalizes(const pre_tokenizer *p) {
    return p->row->nfc;
}

/* ---- splitting ---- */

/* What one split needs besides the patterns: they are shared between threads,
 * this is not. */
typedef struct {
    const char *text; /* valid UTF-8 */
    pcre2_match_data *match;
    pcre2_match_context *limits;
    word_list *words; /* the pieces made by the pattern at work */
} splitter;

static int add_word(word_list *words, size_t end) {
    void *array = words->end;
    bool grown =
        grow_array(&array, &words->room, words->n + 1, sizeof(*words->end));
    words->end = array;
    if (!grown) return -ENOMEM;
    words->end[words->n++] = (uint32_t)end;
    return 0;
}

static int next_match(const splitter *s, const pcre2_code *code,
                      const char *piece, size_t len, size_t from) {
    PCRE2_SPTR subject = (PCRE2_SPTR)piece;
    int rc = pcre2_match(code, subject, len, from, PCRE2_NO_UTF_CHECK, s->match,
                         s->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc =
            pcre2_match(code, subject, len, from,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, s->limits);
    return rc;
}

/* Split text[begin, end) by one pattern. */
static int split_piece(splitter *s, const pcre2_code *code, size_t begin,
                       size_t end) {
    const char *piece = s->text + begin;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match);
    size_t done = 0, len = end - begin;

    while (done < len) {
        int rc = next_match(s, code, piece, len, done);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc == PCRE2_ERROR_NOMEMORY) return -ENOMEM;
        if (rc < 0 || range[1] <= range[0]) return ERR_INTERNAL;

        rc = range[0] > done ? add_word(s->words, begin + range[0]) : 0;
        if (rc == 0) rc = add_word(s->words, begin + range[1]);
        if (rc < 0) return rc;
        done = range[1];
    }
    return done < len ? add_word(s->words, end) : 0;
}

/* A copy in which each byte that belongs to no character is a control
 * character: PCRE2 needs valid text, offsets must stay.  *out is NULL if the
 * text is valid. */
static int mask_invalid(const char *text, size_t len, char **out) {
    *out = NULL;
    for (size_t at = 0; at < len;) {
        int length = utf8_length(text + at, len - at);
        if (length > 0) {
            at += (size_t)length;
            continue;
        }
        if (*out == NULL) {
            *out = malloc(len);
            if (*out == NULL) return -ENOMEM;
            memcpy(*out, text, len);
        }
        (*out)[at++] = '\x01';
    }
    return 0;
}

/* Every pattern in turn over the pieces the former one made. */
static int split_all(const pre_tokenizer *p, splitter *s, size_t len) {
    word_list former = {0};
    int rc = add_word(s->words, len);

    for (size_t i = 0; rc == 0 && i < p->n_codes; i++) {
        word_list made = *s->words;
        *s->words = former;
        former = made;
        s->words->n = 0;
        size_t begin = 0;
        for (size_t w = 0; rc == 0 && w < former.n; w++) {
            rc = split_piece(s, p->codes[i], begin, former.end[w]);
            begin = former.end[w];
        }
    }
    free(former.end);
    return rc;
}

int pre_split(const pre_tokenizer *p, const char *text, size_t len,
              word_list *words) {
    words->n = 0;
    if (len == 0) return 0;

    char *masked;
    int rc = mask_invalid(text, len, &masked);
    if (rc < 0) return rc;
    splitter s = {.text = masked != NULL ? masked : text,
                  .match = pcre2_match_data_create(1, NULL),
                  .limits = pcre2_match_context_create(NULL),
                  .words = words};
    if (s.match == NULL || s.limits == NULL) {
        rc = -ENOMEM;
    } else {
        /* Linear in the text: what the patterns need, and no more. */
        pcre2_set_match_limit(
            s.limits, 10000000u + 16u * (uint32_t)size_min(len, 1u << 27));
        rc = split_all(p, &s, len);
    }
    pcre2_match_context_free(s.limits);
    pcre2_match_data_free(s.match);
    free(masked);
    return rc;
}
