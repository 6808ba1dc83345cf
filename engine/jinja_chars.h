/* jinja_chars.h - UTF-8 text as the characters that Python's str has.
 *
 * A byte that belongs to no character counts as one of its own. */
#ifndef ENGINE_JINJA_CHARS_H
#define ENGINE_JINJA_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at s (n > 0), and its code point; -1: a stray byte. */
size_t chars_at(const char *s, size_t n, int32_t *code_point);
size_t chars_count(const char *s, size_t n);
/* Where character `index` begins; n if there are no more than that. */
size_t chars_offset(const char *s, size_t n, size_t index);

/* Bytes of the white space character at s, or at the end of the n bytes; 0:
 * there is none. */
size_t chars_space(const char *s, size_t n);
size_t chars_space_before(const char *s, size_t n);
/* The same for what ends a line (str.splitlines): \r\n is one. */
size_t chars_line_end(const char *s, size_t n);

/* Take white space off either end. */
void chars_strip(const char **s, size_t *n, bool left, bool right);

/* Upper, lower and title case; at most 3 code points each; how many. */
#define CHARS_MAX_CASE 3
size_t chars_upper(int32_t c, int32_t out[CHARS_MAX_CASE]);
size_t chars_lower(int32_t c, int32_t out[CHARS_MAX_CASE]);
size_t chars_title(int32_t c, int32_t out[CHARS_MAX_CASE]);

bool chars_is_upper(int32_t c);
bool chars_is_lower(int32_t c);
bool chars_is_title(int32_t c);
bool chars_is_alpha(int32_t c);
bool chars_is_decimal(int32_t c); /* what int() reads */
bool chars_is_digit(int32_t c);   /* superscripts and their like, too */
bool chars_is_numeric(int32_t c);
bool chars_is_printable(int32_t c);
/* Marks that casing looks through: a final sigma. */
bool chars_is_cased(int32_t c);

/* Where `part` begins in s, from the left or the right; n: nowhere. */
size_t chars_find(const char *s, size_t n, const char *part, size_t part_n);
size_t chars_find_last(const char *s, size_t n, const char *part,
                       size_t part_n);

#endif
