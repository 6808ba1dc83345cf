/* jinja_chars.c - see jinja_chars.h. */
#include "engine/jinja_chars.h"

#include <string.h>
#include <utf8proc.h>
#include "engine/util.h"

size_t chars_at(const char *s, size_t n, int32_t *code_point) {
    int length = utf8_length(s, n);
    if (length <= 0) {
        *code_point = -1;
        return 1;
    }
    const uint8_t *b = (const uint8_t *)s;
    int32_t c = length == 1 ? b[0] : b[0] & (0x7F >> length);
    for (int i = 1; i < length; i++)
        c = c << 6 | (b[i] & 0x3F);
    *code_point = c;
    return (size_t)length;
}

static size_t char_bytes(const char *s, size_t n) {
    if ((uint8_t)s[0] < 0x80) return 1;
    int length = utf8_length(s, n);
    return length > 0 ? (size_t)length : 1;
}

size_t chars_count(const char *s, size_t n) {
    size_t count = 0;
    for (size_t at = 0; at < n; count++)
        at += char_bytes(s + at, n - at);
    return count;
}

size_t chars_offset(const char *s, size_t n, size_t index) {
    size_t at = 0;
    for (; at < n && index > 0; index--)
        at += char_bytes(s + at, n - at);
    return at;
}

/* ---- white space ---- */

static bool is_space(int32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 ||
           c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

size_t chars_space(const char *s, size_t n) {
    int32_t c;
    if (n == 0) return 0;
    size_t bytes = chars_at(s, n, &c);
    return is_space(c) ? bytes : 0;
}

size_t chars_space_before(const char *s, size_t n) {
    for (size_t bytes = 1; bytes <= 4 && bytes <= n; bytes++) {
        const char *at = s + n - bytes;
        if (((uint8_t)*at & 0xC0) == 0x80) continue; /* inside a character */
        return chars_space(at, bytes) == bytes ? bytes : 0;
    }
    return 0;
}

size_t chars_line_end(const char *s, size_t n) {
    int32_t c;
    if (n == 0) return 0;
    size_t bytes = chars_at(s, n, &c);
    if (c == '\r' && n > 1 && s[1] == '\n') return 2;
    bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) ||
                c == 0x85 || c == 0x2028 || c == 0x2029;
    return ends ? bytes : 0;
}

void chars_strip(const char **s, size_t *n, bool left, bool right) {
    size_t bytes;
    while (left && (bytes = chars_space(*s, *n)) > 0) {
        *s += bytes;
        *n -= bytes;
    }
    while (right && (bytes = chars_space_before(*s, *n)) > 0)
        *n -= bytes;
}

/* ---- kinds of characters ---- */

static utf8proc_category_t category(int32_t c) {
    return utf8proc_category(c); /* -1 and its like are unassigned */
}

bool chars_is_upper(int32_t c) {
    return c >= 0 && utf8proc_isupper(c);
}

bool chars_is_lower(int32_t c) {
    return c >= 0 && utf8proc_islower(c);
}

bool chars_is_title(int32_t c) {
    return category(c) == UTF8PROC_CATEGORY_LT;
}

bool chars_is_alpha(int32_t c) {
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool chars_is_decimal(int32_t c) {
    return category(c) == UTF8PROC_CATEGORY_ND;
}

bool chars_is_digit(int32_t c) {
    return chars_is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 ||
           c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
           (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468);
}

bool chars_is_numeric(int32_t c) {
    utf8proc_category_t k = category(c);
    return chars_is_digit(c) || k == UTF8PROC_CATEGORY_NL ||
           k == UTF8PROC_CATEGORY_NO;
}

bool chars_is_cased(int32_t c) {
    return chars_is_upper(c) || chars_is_lower(c) || chars_is_title(c);
}

/* repr() shows these as they are; what is assigned may differ by the version of
 * Unicode. */
bool chars_is_printable(int32_t c) {
    if (c == ' ') return true;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    default:
        return true;
    }
}

/* ---- searching ---- */

size_t chars_find(const char *s, size_t n, const char *part, size_t part_n) {
    const char *at = part_n > 0 ? memmem(s, n, part, part_n) : s;
    return at != NULL ? (size_t)(at - s) : n;
}

size_t chars_find_last(const char *s, size_t n, const char *part,
                       size_t part_n) {
    if (part_n > n) return n;
    for (size_t at = n - part_n + 1; at-- > 0;) {
        if (memcmp(s + at, part, part_n) == 0) return at;
    }
    return n;
}
