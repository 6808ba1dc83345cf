/* tokenizer_utf8.c - normal form C, and the stream that holds an unfinished
 * character back.
 *
 * Text is never rejected: a byte that belongs to no character passes every
 * function here as itself.  Normalisation is done in three steps, decompose,
 * order, compose, because ordering a long run of combining marks must not cost
 * its square (utf8proc's own does). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

/* ---- normal form C ---- */

/* A mark's place among the marks of its character. */
static int order_class(int32_t c) {
    return utf8proc_get_property(c)->combining_class;
}

static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Stable order of one run of marks by class.  Runs are short in any language;
 * only an odd text pays for the sort. */
static int order_marks(int32_t *marks, size_t n) {
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = order_class(marks[i - 1]) <= order_class(marks[i]);
    if (sorted) return 0;

    uint64_t *keys = malloc(n * sizeof(*keys));
    int32_t *copy = malloc(n * sizeof(*copy));
    if (keys == NULL || copy == NULL) {
        free(keys);
        free(copy);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        copy[i] = marks[i];
        keys[i] = (uint64_t)order_class(marks[i]) << 32 | i;
    }
    qsort(keys, n, sizeof(*keys), by_key);
    for (size_t i = 0; i < n; i++)
        marks[i] = copy[keys[i] & UINT32_MAX];
    free(keys);
    free(copy);
    return 0;
}

/* Above what any character decomposes to (4). */
enum { MOST_PARTS = 16 };

/* Characters of valid text, decomposed; the number of them or an error. */
static ptrdiff_t decompose(const char *text, size_t len, int32_t **out) {
    void *array = NULL;
    size_t n = 0, room = 0;
    int boundary = 0;

    *out = NULL;
    for (size_t at = 0; at < len;) {
        if (!grow_array(&array, &room, n + MOST_PARTS, sizeof(**out))) {
            free(array);
            return -ENOMEM;
        }
        int32_t c;
        at += (size_t)utf8proc_iterate((const uint8_t *)text + at,
                                       (utf8proc_ssize_t)(len - at), &c);
        utf8proc_ssize_t parts = utf8proc_decompose_char(
            c, (int32_t *)array + n, MOST_PARTS,
            UTF8PROC_STABLE | UTF8PROC_COMPOSE, &boundary);
        if (parts < 0 || parts > MOST_PARTS) {
            free(array);
            return ERR_INTERNAL;
        }
        n += (size_t)parts;
    }
    *out = array;
    return (ptrdiff_t)n;
}

static int order_all(int32_t *chars, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && order_class(chars[end]) != 0)
            end++;
        int rc = order_marks(chars + i, end - i);
        if (rc < 0) return rc;
        i = end + 1;
    }
    return 0;
}

/* Append valid text in form C to `out`, which has room for 3 * len more: the
 * most that this form can add (Unicode Standard Annex 15). */
static int append_nfc(const char *text, size_t len, char *out, size_t *out_n) {
    int32_t *chars = NULL;
    ptrdiff_t n = decompose(text, len, &chars);
    if (n < 0) return (int)n;

    int rc = order_all(chars, (size_t)n);
    if (rc < 0) goto done;
    n = utf8proc_normalize_utf32(chars, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) {
        rc = ERR_INTERNAL;
        goto done;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        *out_n +=
            (size_t)utf8proc_encode_char(chars[i], (uint8_t *)out + *out_n);
done:
    free(chars);
    return rc;
}

static size_t ascii_run(const char *text, size_t len) {
    size_t n = 0;
    while (n < len && (uint8_t)text[n] < 0x80)
        n++;
    return n;
}

static size_t valid_run(const char *text, size_t len) {
    size_t n = 0;
    while (n < len) {
        int length = utf8_length(text + n, len - n);
        if (length <= 0) break;
        n += (size_t)length;
    }
    return n;
}

int utf8_nfc(const char *text, size_t len, char **out, size_t *out_len) {
    *out = NULL;
    *out_len = 0;
    if (ascii_run(text, len) == len) return 0;

    char *made = malloc(3 * len);
    if (made == NULL) return -ENOMEM;
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        size_t run = valid_run(text + at, len - at);
        if (run > 0) {
            int rc = append_nfc(text + at, run, made, &n);
            if (rc < 0) {
                free(made);
                return rc;
            }
            at += run;
        } else {
            made[n++] = text[at++];
        }
    }
    *out = made;
    *out_len = n;
    return 0;
}

/* ---- streaming ---- */

/* Move what is settled from held to out: whole characters, and bytes that have
 * turned out to begin none. */
static size_t release(utf8_stream *s, char *out) {
    size_t n = 0;
    while (s->n_held > 0) {
        int length = utf8_length((const char *)s->held, s->n_held);
        if (length == 0) break;
        size_t take = length < 0 ? 1 : (size_t)length;
        memcpy(out + n, s->held, take);
        n += take;
        s->n_held -= take;
        memmove(s->held, s->held + take, s->n_held);
    }
    return n;
}

size_t utf8_stream_push(utf8_stream *s, const char *bytes, size_t n,
                        char *out) {
    size_t written = 0;
    for (size_t i = 0; i < n; i++) {
        s->held[s->n_held++] = (uint8_t)bytes[i];
        written += release(s, out + written);
    }
    return written;
}

size_t utf8_stream_flush(utf8_stream *s, char *out) {
    size_t n = s->n_held;
    memcpy(out, s->held, n);
    s->n_held = 0;
    return n;
}
