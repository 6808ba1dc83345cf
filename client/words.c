/* words.c - see words.h. */
#include "client/words.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_WORDS 32

/* Takes ownership of `text`. */
static void add_owned(words *w, char *text) {
    if (text == NULL) {
        w->failed = true;
        return;
    }
    if (w->count + 2 > w->capacity) {
        size_t capacity = w->capacity > 0 ? w->capacity * 2 : FIRST_WORDS;
        char **grown = realloc(w->items, capacity * sizeof(*grown));
        if (grown == NULL) {
            w->failed = true;
            free(text);
            return;
        }
        w->items = grown;
        w->capacity = capacity;
    }
    w->items[w->count++] = text;
    w->items[w->count] = NULL;
}

void words_add(words *w, const char *text) {
    add_owned(w, strdup(text));
}

void words_format(words *w, const char *fmt, ...) {
    char *text = NULL;
    va_list args;

    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    add_owned(w, n < 0 ? NULL : text);
}

char *const *words_list(words *w) {
    if (w->items == NULL) w->items = calloc(1, sizeof(*w->items));
    return w->failed ? NULL : w->items;
}

void words_fini(words *w) {
    for (size_t i = 0; i < w->count; i++)
        free(w->items[i]);
    free(w->items);
    *w = (words){0};
}
