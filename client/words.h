/* words.h - a command line or environment that is put together word by word. */
#ifndef CLIENT_WORDS_H
#define CLIENT_WORDS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char **items; /* owned, ends with NULL */
    size_t count, capacity;
    bool failed; /* memory ran out once: words_list() gives NULL */
} words;

/* Append a copy.  Start from words w = {0}. */
void words_add(words *w, const char *text);
void words_format(words *w, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* For exec(), ends with NULL; NULL itself if a word could not be stored.  Valid
 * until words_fini() or the next word. */
char *const *words_list(words *w);
void words_fini(words *w);

#endif
