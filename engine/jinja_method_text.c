/* jinja_method_text.c - methods of str that give other text or ask what a text
 * is made of. */
#include <string.h>
#include "engine/err.h"
#include "engine/jinja_builtin.h"
#include "engine/jinja_chars.h"
#include "engine/jinja_format.h"
#include "engine/jinja_words.h"
#include "engine/util.h"

#define METHOD(name)                                                           \
    static int name(run *r, value self, const value *args,                     \
                    const call_args *all, value *out)
#define UNUSED (void)r, (void)self, (void)args, (void)all

/* ---- case ---- */

METHOD(upper) {
    UNUSED;
    return words_upper(r, self, out);
}

METHOD(lower) {
    UNUSED;
    return words_lower(r, self, out);
}

METHOD(capitalize) {
    UNUSED;
    return words_capitalize(r, self, out);
}

/* str.title(): a letter behind a letter is small. */
METHOD(title) {
    UNUSED;
    size_t mark = run_mark(r);
    bool inside = false;
    int rc = run_steps(r, self.len / 16);
    for (size_t at = 0; rc == 0 && at < self.len;) {
        int32_t c, changed[CHARS_MAX_CASE];
        size_t bytes = chars_at(self.as.text + at, self.len - at, &c);
        size_t n = c < 0    ? 0
                   : inside ? chars_lower(c, changed)
                            : chars_title(c, changed);
        if (c < 0) rc = run_put(r, self.as.text + at, bytes);
        for (size_t i = 0; rc == 0 && i < n; i++)
            rc = run_put_char(r, changed[i]);
        inside = c >= 0 && chars_is_cased(c);
        at += bytes;
    }
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = self.safe;
    return rc;
}

METHOD(swapcase) {
    UNUSED;
    size_t mark = run_mark(r);
    int rc = run_steps(r, self.len / 16);
    for (size_t at = 0; rc == 0 && at < self.len;) {
        int32_t c, changed[CHARS_MAX_CASE];
        size_t bytes = chars_at(self.as.text + at, self.len - at, &c);
        size_t n = chars_is_upper(c)   ? chars_lower(c, changed)
                   : chars_is_lower(c) ? chars_upper(c, changed)
                                       : 0;
        if (n == 0) rc = run_put(r, self.as.text + at, bytes);
        for (size_t i = 0; rc == 0 && i < n; i++)
            rc = run_put_char(r, changed[i]);
        at += bytes;
    }
    return rc < 0 ? rc : run_take(r, mark, out);
}

/* ---- stripping, replacing ---- */

static int strip_by(run *r, const char *name, value self, value chars,
                    bool left, bool right, value *out) {
    if (arg_given(chars) && chars.type != VALUE_NONE &&
        chars.type != VALUE_TEXT)
        return run_raise(r, "%s arg must be None or str", name);
    return words_strip(r, self, chars, left, right, out);
}

METHOD(strip) {
    UNUSED;
    return strip_by(r, "strip", self, args[0], true, true, out);
}

METHOD(lstrip) {
    UNUSED;
    return strip_by(r, "lstrip", self, args[0], true, false, out);
}

METHOD(rstrip) {
    UNUSED;
    return strip_by(r, "rstrip", self, args[0], false, true, out);
}

METHOD(replace) {
    UNUSED;
    value old, by;
    int64_t count;
    int rc = arg_text(r, "replace()", args[0], NULL, &old);
    if (rc == 0) rc = arg_text(r, "replace()", args[1], NULL, &by);
    if (rc == 0) rc = arg_integer(r, "replace()", args[2], -1, &count);
    if (rc == 0 && self.safe) rc = run_escaped(r, by, &by);
    return rc < 0 ? rc : words_replace(r, self, old, by, count, out);
}

static int without(run *r, value self, value part, bool prefix, value *out) {
    value v;
    int rc = arg_text(r, prefix ? "removeprefix()" : "removesuffix()", part,
                      NULL, &v);
    *out = self;
    if (rc < 0 || v.len > self.len) return rc;
    size_t at = prefix ? 0 : self.len - v.len;
    if (memcmp(self.as.text + at, v.as.text, v.len) != 0) return 0;
    if (prefix) out->as.text += v.len;
    out->len -= v.len;
    return 0;
}

METHOD(removeprefix) {
    UNUSED;
    return without(r, self, args[0], true, out);
}

METHOD(removesuffix) {
    UNUSED;
    return without(r, self, args[0], false, out);
}

/* ---- in a width ---- */

static int justify(run *r, value self, const value *args, char align,
                   value *out) {
    int64_t width;
    value fill;
    size_t mark = run_mark(r);
    field f = {.align = align, .precision = -1};
    int rc = arg_integer(r, "width", args[0], 0, &width);
    if (rc == 0) rc = arg_text(r, "fillchar", args[1], " ", &fill);
    if (rc < 0) return rc;
    if (fill.len == 0 || chars_at(fill.as.text, fill.len, &f.fill) != fill.len)
        return run_raise(r, "The fill character must be exactly one character "
                            "long");
    if (width > FORMAT_MAX)
        return run_fail(r, ERR_TOO_LARGE, "a field wider than %d", FORMAT_MAX);
    f.width = width > 0 ? (int)width : 0;
    if (align == '^') { /* Python puts an odd space to the left or right */
        size_t n = chars_count(self.as.text, self.len);
        size_t pad = (size_t)f.width > n ? (size_t)f.width - n : 0;
        size_t left = pad / 2 + (pad & (size_t)f.width & 1);
        for (size_t i = 0; rc == 0 && i < left; i++)
            rc = run_put_char(r, f.fill);
        f.align = '<';
        f.width -= (int)left;
    }
    if (rc == 0) rc = format_text(r, &f, self);
    return rc < 0 ? rc : run_take(r, mark, out);
}

METHOD(ljust) {
    UNUSED;
    return justify(r, self, args, '<', out);
}

METHOD(rjust) {
    UNUSED;
    return justify(r, self, args, '>', out);
}

METHOD(center) {
    UNUSED;
    return justify(r, self, args, '^', out);
}

METHOD(zfill) {
    UNUSED;
    int64_t width;
    size_t mark = run_mark(r), n = chars_count(self.as.text, self.len);
    int rc = arg_integer(r, "zfill()", args[0], 0, &width);
    if (rc < 0) return rc;
    if (width > FORMAT_MAX)
        return run_fail(r, ERR_TOO_LARGE, "a field wider than %d", FORMAT_MAX);
    bool sign =
        self.len > 0 && (self.as.text[0] == '-' || self.as.text[0] == '+');
    rc = run_put(r, self.as.text, sign);
    if (rc == 0 && width > (int64_t)n)
        rc = run_put_times(r, '0', (size_t)width - n);
    if (rc == 0) rc = run_put(r, self.as.text + sign, self.len - sign);
    return rc < 0 ? rc : run_take(r, mark, out);
}

/* ---- what it is made of ---- */

static int all_chars(run *r, value self, bool (*is)(int32_t c), value *out) {
    bool all = self.len > 0;
    for (size_t at = 0; all && at < self.len;) {
        int32_t c;
        at += chars_at(self.as.text + at, self.len - at, &c);
        all = c >= 0 && is(c);
    }
    *out = value_bool(all);
    return run_steps(r, self.len / 16);
}

static bool is_alnum(int32_t c) {
    return chars_is_alpha(c) || chars_is_numeric(c);
}

static bool is_ascii(int32_t c) {
    return c < 0x80;
}

METHOD(all_alpha) {
    UNUSED;
    return all_chars(r, self, chars_is_alpha, out);
}

METHOD(all_alnum) {
    UNUSED;
    return all_chars(r, self, is_alnum, out);
}

METHOD(all_digit) {
    UNUSED;
    return all_chars(r, self, chars_is_digit, out);
}

METHOD(all_decimal) {
    UNUSED;
    return all_chars(r, self, chars_is_decimal, out);
}

METHOD(all_numeric) {
    UNUSED;
    return all_chars(r, self, chars_is_numeric, out);
}

METHOD(all_ascii) {
    UNUSED;
    int rc = all_chars(r, self, is_ascii, out);
    if (self.len == 0) *out = value_bool(true);
    return rc;
}

METHOD(all_space) {
    UNUSED;
    const char *s = self.as.text;
    size_t n = self.len;
    chars_strip(&s, &n, true, false);
    *out = value_bool(self.len > 0 && n == 0);
    return run_steps(r, self.len / 16);
}

/* At least one letter of the case, and none of the other one. */
static int is_case(run *r, value self, bool (*is)(int32_t c), value *out) {
    bool some = false, other = false;
    for (size_t at = 0; at < self.len;) {
        int32_t c;
        at += chars_at(self.as.text + at, self.len - at, &c);
        some |= is(c);
        other |= !is(c) && chars_is_cased(c);
    }
    *out = value_bool(some && !other);
    return run_steps(r, self.len / 16);
}

METHOD(all_upper) {
    UNUSED;
    return is_case(r, self, chars_is_upper, out);
}

METHOD(all_lower) {
    UNUSED;
    return is_case(r, self, chars_is_lower, out);
}

static const builtin items[] = {
    {"upper", "", 0, upper},
    {"lower", "", 0, lower},
    {"casefold", "", 0, NULL},
    {"capitalize", "", 0, capitalize},
    {"title", "", 0, title},
    {"swapcase", "", 0, swapcase},
    {"strip", "chars", 0, strip},
    {"lstrip", "chars", 0, lstrip},
    {"rstrip", "chars", 0, rstrip},
    {"replace", "old new count", 2, replace},
    {"removeprefix", "prefix", 1, removeprefix},
    {"removesuffix", "suffix", 1, removesuffix},
    {"ljust", "width fillchar", 1, ljust},
    {"rjust", "width fillchar", 1, rjust},
    {"center", "width fillchar", 1, center},
    {"zfill", "width", 1, zfill},
    {"isalpha", "", 0, all_alpha},
    {"isalnum", "", 0, all_alnum},
    {"isdigit", "", 0, all_digit},
    {"isdecimal", "", 0, all_decimal},
    {"isnumeric", "", 0, all_numeric},
    {"isascii", "", 0, all_ascii},
    {"isspace", "", 0, all_space},
    {"isupper", "", 0, all_upper},
    {"islower", "", 0, all_lower},
    {"istitle", "", 0, NULL},
    {"isidentifier", "", 0, NULL},
    {"isprintable", "", 0, NULL},
    {"encode", "*", 0, NULL},
    {"expandtabs", "*", 0, NULL},
    {"translate", "*", 0, NULL},
    {"maketrans", "*", 0, NULL},
};

const builtin_table builtin_text_methods = {items, ARRAY_LEN(items)};
