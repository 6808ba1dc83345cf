/* words.h - a command line that is put together word by word. */
#ifndef CLIENT_WORDS_H
#define CLIENT_WORDS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char **items; /* owned, ends with NULL */
    size_t count, capacity;
    bool failed; /* memory ran out once: words_argv() gives NULL */
} words;

/* Append a copy.  Start from words w = {0}. */
void words_add(words *w, const char *text);
void words_format(words *w, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* For exec(); NULL if any of it could not be stored.  Valid until
 * words_fini(). */
char *const *words_argv(const words *w);
void words_fini(words *w);

#endif
