/* jinja_words.c - see jinja_words.h. */
#include "engine/jinja_words.h"

#include <string.h>
#include "engine/err.h"
#include "engine/jinja_chars.h"
#include "engine/util.h"

/* ---- case ---- */

typedef size_t (*casing)(int32_t c, int32_t out[CHARS_MAX_CASE]);

/* Characters that casing looks through when it asks what stands beside one. */
static bool is_ignorable(int32_t c) {
    return c == '\'' || c == '.' || c == ':' || c == '^' || c == '`' ||
           c == 0xA8 || c == 0xAD || c == 0xAF || c == 0xB4 || c == 0xB7 ||
           c == 0xB8 || c == 0x2019 || (c >= 0x2B0 && c < 0x370);
}

/* A capital sigma that ends a word has a small form of its own. */
static bool ends_word(const char *s, size_t n, bool after_cased) {
    int32_t c;
    if (!after_cased) return false;
    for (size_t at = 0; at < n;) {
        at += chars_at(s + at, n - at, &c);
        if (!is_ignorable(c)) return !chars_is_cased(c);
    }
    return true;
}

static int put_cased(run *r, const char *s, size_t n, casing change,
                     bool *after_cased, size_t *used) {
    int32_t c, changed[CHARS_MAX_CASE];
    *used = chars_at(s, n, &c);
    if (c < 0) return run_put(r, s, *used);
    size_t count = change(c, changed);
    if (c == 0x3A3 && change == chars_lower &&
        ends_word(s + *used, n - *used, *after_cased))
        changed[0] = 0x3C2;
    if (!is_ignorable(c)) *after_cased = chars_is_cased(c);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = run_put_char(r, changed[i]);
    return rc;
}

/* The first character through `first`, the others through `rest`. */
static int change_case(run *r, value text, casing first, casing rest,
                       value *out) {
    size_t mark = run_mark(r), used;
    bool after_cased = false, safe = text.safe;
    int rc = run_steps(r, text.len / 16);
    for (size_t at = 0; rc == 0 && at < text.len; at += used)
        rc = put_cased(r, text.as.text + at, text.len - at,
                       at == 0 ? first : rest, &after_cased, &used);
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = safe;
    return rc;
}

int words_upper(run *r, value text, value *out) {
    return change_case(r, text, chars_upper, chars_upper, out);
}

int words_lower(run *r, value text, value *out) {
    return change_case(r, text, chars_lower, chars_lower, out);
}

int words_capitalize(run *r, value text, value *out) {
    return change_case(r, text, chars_title, chars_lower, out);
}

/* ---- stripping ---- */

/* Is the character (of `bytes`) in the set? */
static bool in_set(const char *c, size_t bytes, value set) {
    for (size_t at = 0; at < set.len;) {
        int32_t ignored;
        size_t n = chars_at(set.as.text + at, set.len - at, &ignored);
        if (n == bytes && memcmp(set.as.text + at, c, n) == 0) return true;
        at += n;
    }
    return false;
}

static size_t last_char_bytes(const char *s, size_t n) {
    size_t bytes = 1;
    int32_t c;
    while (bytes < 4 && bytes < n && ((uint8_t)s[n - bytes] & 0xC0) == 0x80)
        bytes++;
    return chars_at(s + n - bytes, bytes, &c) == bytes ? bytes : 1;
}

int words_strip(run *r, value text, value chars, bool left, bool right,
                value *out) {
    const char *s = text.as.text;
    size_t n = text.len;
    uint64_t looked = 0;

    *out = text;
    if (chars.type != VALUE_TEXT) {
        chars_strip(&s, &n, left, right);
    } else {
        while (left && n > 0) {
            int32_t c;
            size_t bytes = chars_at(s, n, &c);
            looked += chars.len;
            if (!in_set(s, bytes, chars)) break;
            s += bytes;
            n -= bytes;
        }
        while (right && n > 0) {
            size_t bytes = last_char_bytes(s, n);
            looked += chars.len;
            if (!in_set(s + n - bytes, bytes, chars)) break;
            n -= bytes;
        }
    }
    out->as.text = s;
    out->len = (uint32_t)n;
    return run_steps(r, (text.len - n + looked) / 16);
}

/* ---- replacing ---- */

/* `by` before every character and at the end. */
static int spread(run *r, value text, value by, uint64_t most) {
    int rc = 0;
    for (size_t at = 0; rc == 0 && at <= text.len && most > 0; most--) {
        int32_t c;
        size_t bytes = 1;
        rc = run_put_text(r, by);
        if (rc == 0 && at < text.len) {
            bytes = chars_at(text.as.text + at, text.len - at, &c);
            rc = run_put(r, text.as.text + at, bytes);
        }
        at += bytes;
        if (rc == 0 && most == 1 && at < text.len)
            rc = run_put(r, text.as.text + at, text.len - at);
    }
    return rc < 0 ? rc : run_steps(r, text.len);
}

static int replace_each(run *r, value text, value old, value by,
                        uint64_t most) {
    const char *s = text.as.text;
    size_t left = text.len;
    int rc = 0;
    for (; rc == 0 && most > 0; most--) {
        size_t at = chars_find(s, left, old.as.text, old.len);
        if (at == left) break;
        rc = run_put(r, s, at);
        if (rc == 0) rc = run_put_text(r, by);
        if (rc == 0) rc = run_steps(r, 1);
        s += at + old.len;
        left -= at + old.len;
    }
    return rc < 0 ? rc : run_put(r, s, left);
}

int words_replace(run *r, value text, value old, value by, int64_t count,
                  value *out) {
    uint64_t most = count < 0 ? UINT64_MAX : (uint64_t)count;
    size_t mark = run_mark(r);
    bool safe = text.safe;
    int rc = run_steps(r, text.len / 64);
    if (rc < 0) return rc;
    if (most == 0)
        rc = run_put_text(r, text);
    else if (old.len == 0)
        rc = spread(r, text, by, most);
    else
        rc = replace_each(r, text, old, by, most);
    if (rc == 0) rc = run_take(r, mark, out);
    out->safe = safe;
    return rc;
}

/* ---- lines, joining ---- */

int words_lines(run *r, value text, bool keep, value *out) {
    size_t begin = 0;
    int rc = value_seq(r, VALUE_LIST, 0, out);
    for (size_t at = 0; rc == 0 && at < text.len;) {
        size_t end = chars_line_end(text.as.text + at, text.len - at);
        if (end > 0) {
            size_t n = at - begin + (keep ? end : 0);
            rc = value_append(r, *out, value_text(text.as.text + begin, n));
            begin = at + end;
        }
        int32_t c;
        at += end > 0 ? end : chars_at(text.as.text + at, text.len - at, &c);
    }
    if (rc == 0 && begin < text.len)
        rc = value_append(r, *out,
                          value_text(text.as.text + begin, text.len - begin));
    return rc < 0 ? rc : run_steps(r, text.len / 16);
}

int words_join(run *r, value glue, const seq *items, value *out) {
    size_t mark = run_mark(r);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < items->n; i++) {
        if (i > 0) rc = run_put_text(r, glue);
        if (rc == 0) rc = run_print(r, items->items[i]);
        if (rc == 0) rc = run_steps(r, 1);
    }
    return rc < 0 ? rc : run_take(r, mark, out);
}
