/* jinja_lexer.c - a template's source to tokens.
 *
 * Between tags the source is data.  What is taken off it: with `-` in a tag all
 * white space on that side; else, before a statement or comment that has only
 * white space before it on its line, that white space (lstrip_blocks); after a
 * statement or comment, one newline (trim_blocks).  `+` keeps both.  A closing
 * tag is only seen where no bracket is open. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/jinja.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_node.h"
#include "engine/util.h"

static const char *const operators[] = {
    [OP_NONE] = "",      [OP_POW] = "**",        [OP_FLOORDIV] = "//",
    [OP_EQ] = "==",      [OP_NE] = "!=",         [OP_GE] = ">=",
    [OP_LE] = "<=",      [OP_ADD] = "+",         [OP_SUB] = "-",
    [OP_MUL] = "*",      [OP_DIV] = "/",         [OP_MOD] = "%",
    [OP_TILDE] = "~",    [OP_GT] = ">",          [OP_LT] = "<",
    [OP_ASSIGN] = "=",   [OP_DOT] = ".",         [OP_COLON] = ":",
    [OP_PIPE] = "|",     [OP_COMMA] = ",",       [OP_SEMICOLON] = ";",
    [OP_LPAREN] = "(",   [OP_RPAREN] = ")",      [OP_LBRACKET] = "[",
    [OP_RBRACKET] = "]", [OP_LBRACE] = "{",      [OP_RBRACE] = "}",
    [OP_IN] = "in",      [OP_NOT_IN] = "not in",
};

const char *op_text(node_op op) {
    return operators[op];
}

typedef struct {
    jinja *t;
    const char *source;
    size_t n, at;
    uint32_t line;
    size_t capacity;              /* of tokens */
    bool line_start;              /* the last token ended a line */
    char open[JINJA_MAX_NESTING]; /* brackets to be closed */
    size_t n_open;
    char *why;
    size_t why_size;
} lexer;

#define refuse(l, ...) lexer_fail(l, ERR_FORMAT, __VA_ARGS__)

static int __attribute__((format(printf, 3, 4)))
lexer_fail(lexer *l, int code, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return err_why(l->why, l->why_size, code, "line %u: %s", l->line, text);
}

/* ---- helpers over the source ---- */

static bool looks_at(const lexer *l, size_t at, const char *text) {
    size_t n = strlen(text);
    return at <= l->n && n <= l->n - at && memcmp(l->source + at, text, n) == 0;
}

static size_t skip_space(const lexer *l, size_t at) {
    size_t n;
    while (at < l->n && (n = chars_space(l->source + at, l->n - at)) > 0)
        at += n;
    return at;
}

/* Go on from `to`, counting lines. */
static void advance(lexer *l, size_t to) {
    for (size_t i = l->at; i < to; i++)
        l->line += l->source[i] == '\n';
    if (to > l->at) l->line_start = l->source[to - 1] == '\n';
    l->at = to;
}

static int add(lexer *l, token_type type, node_op op, value v) {
    jinja *t = l->t;
    if (t->n_tokens == l->capacity) {
        size_t capacity = l->capacity * 2 + 64;
        token *grown = realloc(t->tokens, capacity * sizeof(*grown));
        if (grown == NULL) return lexer_fail(l, -ENOMEM, "no memory");
        t->tokens = grown;
        l->capacity = capacity;
    }
    t->tokens[t->n_tokens++] =
        (token){.type = type, .op = op, .line = l->line, .v = v};
    return 0;
}

/* Data from `at` to `end`, unless there is none. */
static int add_data(lexer *l, size_t at, size_t end) {
    if (end == at) return 0;
    return add(l, TOKEN_DATA, OP_NONE, value_text(l->source + at, end - at));
}

/* ---- between tags ---- */

/* Where the data before a tag ends, the sign of the tag being `sign`. */
static size_t data_end(const lexer *l, size_t from, size_t tag, char sign,
                       bool is_print) {
    size_t n = tag - from;
    if (sign == '-') {
        const char *s = l->source + from;
        chars_strip(&s, &n, false, true);
        return from + n;
    }
    if (sign == '+' || is_print) return tag;
    size_t line = tag;
    while (line > from && l->source[line - 1] != '\n')
        line--;
    if (line == from && !l->line_start) return tag;
    return skip_space(l, line) >= tag ? line : tag;
}

static char sign_at(const lexer *l, size_t at) {
    char c = at < l->n ? l->source[at] : '\0';
    return c == '-' || c == '+' ? c : '\0';
}

/* The end of a tag whose closing `mark` stands at `at`, maybe behind a sign: 0
 * if it does not.  `trims`: a newline behind goes too. */
static size_t tag_end(const lexer *l, size_t at, const char *mark, bool plus,
                      bool trims) {
    char sign = sign_at(l, at);
    if (sign == '+' && !plus) return 0;
    size_t end = at + (sign != '\0');
    if (!looks_at(l, end, mark)) return 0;
    end += 2;
    if (sign == '-') return skip_space(l, end);
    if (sign == '\0' && trims && looks_at(l, end, "\n")) end++;
    return end;
}

/* The end of `{% raw %}` that stands at `at`; 0: something else does. */
static size_t raw_begin(const lexer *l, size_t at) {
    at += 2;
    at += sign_at(l, at) != '\0';
    at = skip_space(l, at);
    if (!looks_at(l, at, "raw")) return 0;
    return tag_end(l, skip_space(l, at + 3), "%}", false, false);
}

static size_t raw_end(const lexer *l, size_t at) {
    if (!looks_at(l, at, "{%")) return 0;
    at += 2;
    at += sign_at(l, at) != '\0';
    at = skip_space(l, at);
    if (!looks_at(l, at, "endraw")) return 0;
    return tag_end(l, skip_space(l, at + 6), "%}", true, true);
}

static int take_raw(lexer *l, size_t begin) {
    uint32_t line = l->line;
    advance(l, begin);
    if (begin == l->n) return 0; /* as Jinja has it */
    for (size_t at = begin; at < l->n; at++) {
        size_t end = raw_end(l, at);
        if (end == 0) continue;
        size_t stop = data_end(l, begin, at, sign_at(l, at + 2), false);
        int rc = add_data(l, begin, stop);
        advance(l, end);
        return rc;
    }
    l->line = line;
    return refuse(l, "'raw' is never ended");
}

static int take_comment(lexer *l) {
    if (l->at == l->n) return 0; /* as Jinja has it */
    for (size_t at = l->at; at < l->n; at++) {
        size_t end = tag_end(l, at, "#}", true, true);
        if (end == 0) continue;
        advance(l, end);
        return 0;
    }
    return refuse(l, "a comment is never ended");
}

/* ---- inside of tags ---- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_word(char c) {
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           is_digit(c) || (unsigned char)c >= 0x80;
}

/* Digits with single underscores between them; where they end. */
static size_t digits_end(const lexer *l, size_t at) {
    while (at < l->n &&
           (is_digit(l->source[at]) ||
            (l->source[at] == '_' && at + 1 < l->n &&
             is_digit(l->source[at - 1]) && is_digit(l->source[at + 1]))))
        at++;
    return at;
}

static bool digit_at(const lexer *l, size_t at) {
    return at < l->n && is_digit(l->source[at]);
}

/* Where a number with point or exponent ends; 0: it has neither. */
static size_t float_end(const lexer *l, size_t at) {
    if (at > 0 && l->source[at - 1] == '.') return 0;
    size_t whole = digits_end(l, at), end = whole;
    if (looks_at(l, end, ".") && digit_at(l, end + 1))
        end = digits_end(l, end + 1);
    size_t e = end;
    if (e < l->n && (l->source[e] | 0x20) == 'e') {
        e += 1 + (sign_at(l, e + 1) != '\0');
        if (digit_at(l, e)) return digits_end(l, e);
    }
    return end > whole ? end : 0;
}

static int take_float(lexer *l, size_t end) {
    char text[128];
    size_t n = 0;
    for (size_t i = l->at; i < end; i++) {
        if (l->source[i] == '_') continue;
        if (n + 1 == sizeof(text)) return refuse(l, "a number is too long");
        text[n++] = l->source[i];
    }
    text[n] = '\0';
    int rc = add(l, TOKEN_FLOAT, OP_NONE, value_float(strtod(text, NULL)));
    advance(l, end);
    return rc;
}

static int digit_value(char c) {
    if (is_digit(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

static int take_integer(lexer *l) {
    static const struct {
        char letter;
        int base;
    } bases[] = {{'b', 2}, {'o', 8}, {'x', 16}};
    size_t at = l->at;
    int base = 10;
    int64_t number = 0;

    for (size_t i = 0; i < ARRAY_LEN(bases) && l->source[at] == '0'; i++) {
        size_t digit = at + 2 + looks_at(l, at + 2, "_");
        if (at + 1 < l->n && (l->source[at + 1] | 0x20) == bases[i].letter &&
            digit < l->n && digit_value(l->source[digit]) < bases[i].base) {
            base = bases[i].base;
            at += 2;
            break;
        }
    }
    for (; at < l->n; at++) {
        if (l->source[at] == '_' && at + 1 < l->n &&
            digit_value(l->source[at + 1]) < base)
            continue;
        int digit = digit_value(l->source[at]);
        if (digit >= base) break;
        if (__builtin_mul_overflow(number, base, &number) ||
            __builtin_add_overflow(number, digit, &number))
            return refuse(l, "an integer of more than 64 bits");
    }
    int rc = add(l, TOKEN_INTEGER, OP_NONE, value_int(number));
    advance(l, at);
    return rc;
}

/* ---- strings ---- */

/* Digits of an escape such as \x41, to a code point. */
static int escape_number(lexer *l, const char *s, size_t n, size_t digits,
                         int base, int32_t *out, size_t *used) {
    int64_t c = 0;
    size_t i = 0;
    while (i < digits && i < n && digit_value(s[i]) < base)
        c = c * base + digit_value(s[i++]);
    if (base == 16 && i < digits)
        return refuse(l, "a string has an escape that is cut off");
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return refuse(l, "a string has an escape that is no character");
    *out = (int32_t)c;
    *used = i;
    return 0;
}

static size_t put_utf8(char *out, int32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00 >> n & 0xFF) | c);
    return n;
}

/* The escape behind a backslash; its bytes to out, *used of s consumed.  What
 * is no escape keeps its backslash. */
static int take_escape(lexer *l, const char *s, size_t n, char *out,
                       size_t *out_n, size_t *used) {
    static const char letters[] = "\\\'\"abfnrtv";
    static const char meanings[] = "\\\'\"\a\b\f\n\r\t\v";
    int32_t c = 0;
    int rc = 0;
    const char *known = memchr(letters, s[0], sizeof(letters) - 1);

    *used = 1;
    *out_n = 1;
    if (known != NULL) {
        out[0] = meanings[known - letters];
        return 0;
    }
    if (s[0] == '\n') {
        *out_n = 0;
        return 0;
    }
    if (s[0] == 'N') return refuse(l, "strings with \\N{...} are unsupported");
    if (s[0] >= '0' && s[0] <= '7') {
        rc = escape_number(l, s, n, 3, 8, &c, used);
    } else if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        rc = escape_number(l, s + 1, n - 1, digits, 16, &c, used);
        *used += 1;
    } else {
        out[0] = '\\';
        out[1] = s[0];
        *out_n = 2;
        return 0;
    }
    if (rc == 0) *out_n = put_utf8(out, c);
    return rc;
}

static int take_string(lexer *l) {
    char quote = l->source[l->at];
    size_t end = l->at + 1;
    bool escapes = false;

    while (end < l->n && l->source[end] != quote) {
        escapes |= l->source[end] == '\\';
        end += l->source[end] == '\\' ? 2 : 1;
    }
    if (end >= l->n) return refuse(l, "a string is never ended");
    const char *s = l->source + l->at + 1;
    size_t n = end - l->at - 1, made = 0;
    char *text = NULL;
    if (escapes) {
        /* no escape is longer than what it stands for */
        text = arena_alloc(&l->t->memory, n + 4, 1);
        if (text == NULL) return lexer_fail(l, -ENOMEM, "no memory");
    }
    for (size_t i = 0; escapes && i < n;) {
        size_t used = 1, put = 1;
        if (s[i] == '\\') {
            int rc =
                take_escape(l, s + i + 1, n - i - 1, text + made, &put, &used);
            if (rc < 0) return rc;
            used++;
        } else {
            text[made] = s[i];
        }
        i += used;
        made += put;
    }
    int rc = add(l, TOKEN_STRING, OP_NONE,
                 escapes ? value_text(text, made) : value_text(s, n));
    advance(l, end + 1);
    return rc;
}

/* ---- operators and names ---- */

/* Keep the brackets balanced. */
static int bracket(lexer *l, char c) {
    static const char pairs[] = "(){}[]";
    const char *found = memchr(pairs, c, sizeof(pairs) - 1);

    if (found == NULL) return 0;
    if ((found - pairs) % 2 == 0) {
        if (l->n_open == sizeof(l->open))
            return lexer_fail(l, ERR_TOO_LARGE, "brackets nest too deep");
        l->open[l->n_open++] = found[1];
        return 0;
    }
    if (l->n_open == 0) return refuse(l, "unexpected '%c'", c);
    char expected = l->open[--l->n_open];
    if (expected != c)
        return refuse(l, "unexpected '%c', expected '%c'", c, expected);
    return 0;
}

static int take_operator(lexer *l) {
    for (node_op op = OP_POW; op <= OP_RBRACE; op++) {
        if (!looks_at(l, l->at, operators[op])) continue;
        int rc = bracket(l, operators[op][0]);
        if (rc == 0) rc = add(l, TOKEN_OPERATOR, op, value_none());
        advance(l, l->at + strlen(operators[op]));
        return rc;
    }
    return refuse(l, "unexpected character 0x%02x",
                  (unsigned char)l->source[l->at]);
}

static int take_token(lexer *l) {
    char c = l->source[l->at];
    size_t space = skip_space(l, l->at);
    if (space > l->at) {
        advance(l, space);
        return 0;
    }
    if (is_digit(c)) {
        size_t end = float_end(l, l->at);
        return end > 0 ? take_float(l, end) : take_integer(l);
    }
    if (is_word(c)) {
        size_t end = l->at;
        while (end < l->n && is_word(l->source[end]))
            end++;
        int rc = add(l, TOKEN_NAME, OP_NONE,
                     value_text(l->source + l->at, end - l->at));
        advance(l, end);
        return rc;
    }
    if (c == '\'' || c == '"') return take_string(l);
    return take_operator(l);
}

/* The inside of a tag, up to its end. */
static int take_tag(lexer *l, bool is_print) {
    const char *mark = is_print ? "}}" : "%}";
    while (l->at < l->n) {
        size_t end = 0;
        if (l->n_open == 0) end = tag_end(l, l->at, mark, !is_print, !is_print);
        if (end > 0) {
            int rc = add(l, is_print ? TOKEN_PRINT_END : TOKEN_BLOCK_END,
                         OP_NONE, value_none());
            advance(l, end);
            return rc;
        }
        int rc = take_token(l);
        if (rc < 0) return rc;
    }
    return refuse(l, "a tag is never ended: '%s' is missing", mark);
}

/* ---- the whole ---- */

static size_t next_tag(const lexer *l) {
    for (size_t at = l->at; at + 1 < l->n; at++) {
        char c = l->source[at + 1];
        if (l->source[at] == '{' && (c == '{' || c == '%' || c == '#'))
            return at;
    }
    return l->n;
}

/* Data, and the tag behind it. */
static int take_part(lexer *l) {
    size_t tag = next_tag(l);
    bool is_tag = tag < l->n;
    char kind = is_tag ? l->source[tag + 1] : '\0';
    char sign = is_tag ? sign_at(l, tag + 2) : '\0';
    size_t end = is_tag ? data_end(l, l->at, tag, sign, kind == '{') : l->n;

    int rc = add_data(l, l->at, end);
    if (rc < 0) return rc;
    advance(l, tag);
    if (!is_tag) return 0;
    size_t raw = kind == '%' ? raw_begin(l, tag) : 0;
    if (raw > 0) return take_raw(l, raw);
    advance(l, tag + 2 + (sign != '\0'));
    if (kind == '#') return take_comment(l);
    rc = add(l, kind == '{' ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN, OP_NONE,
             value_none());
    return rc < 0 ? rc : take_tag(l, kind == '{');
}

int lexer_run(jinja *t, char *why, size_t why_size) {
    lexer l = {.t = t,
               .source = t->source,
               .n = t->source_len,
               .line = 1,
               .line_start = true,
               .why = why,
               .why_size = why_size};
    while (l.at < l.n) {
        int rc = take_part(&l);
        if (rc < 0) return rc;
    }
    return add(&l, TOKEN_END, OP_NONE, value_none());
}
