/* options_internal.h - what the option parser's files share. */
#ifndef ENGINE_OPTIONS_INTERNAL_H
#define ENGINE_OPTIONS_INTERNAL_H

#include <stdio.h>
#include "engine/options.h"

/* Where a value came from, lowest precedence first. */
typedef enum {
    SOURCE_DEFAULT,
    SOURCE_FILE,
    SOURCE_ENVIRONMENT,
    SOURCE_COMMAND_LINE
} option_source;

struct options {
    const option_set *set;
    option_source *sources; /* [set->count]: who set it last */
    char **texts;           /* every string that a target may point to */
    size_t n_texts;
    const char ***lists; /* every item array that a target may point to */
    size_t n_lists;
    const char **args;
    size_t n_args;
    const char *config; /* --config, before the file is read */
    bool check_config;
};

/* The option of that name of `len` bytes; NULL if the table has none. */
const option *option_find(const option_set *set, const char *name, size_t len);

/* Convert `text` and store it in the option's target.  A source replaces what a
 * lower one has set; lists grow within one source.  `where` names the place in
 * the sentence of a failure: "--port", "roster.conf:3: port". */
int option_assign(options *o, const option *opt, option_source source,
                  const char *text, const char *where, char *why,
                  size_t why_size);

/* Apply a configuration file. */
int options_read_file(options *o, const char *path, char *why, size_t why_size);

/* Print --help.  The targets still hold the defaults. */
void options_print_help(const option_set *set, FILE *out);

#endif
