/* options.h - one table describes a program's options; command line,
 * environment, configuration file and --help all come from it.
 *
 * Precedence: command line, environment (ROSTER_ + the name in upper case, '-'
 * as '_'), file (--config FILE: `name = value` lines, '#' comments), default.
 * Long options only, GNU style: --name VALUE, --name=VALUE, --flag; `-n VALUE`
 * for the few with a letter.  `--help`, `--version`, and for daemons `--config`
 * and `--check-config` are provided. */
#ifndef ENGINE_OPTIONS_H
#define ENGINE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    OPTION_FLAG, /* bool: --x; in file and environment true/false/1/0/yes/no */
    OPTION_STRING, /* const char * (kept until options_free()) */
    OPTION_LIST, /* option_list: may be repeated; comma-separated in file/env */
    OPTION_U32,  /* uint32_t */
    OPTION_U64,  /* uint64_t */
    OPTION_SIZE, /* uint64_t bytes; suffix K, M, G, T (1024) */
    OPTION_MS,   /* uint32_t milliseconds; suffix ms, s, m */
    OPTION_F32,  /* float */
} option_kind;

typedef struct {
    const char **items;
    size_t count;
} option_list;

typedef struct {
    const char *name; /* "listen" */
    char letter;      /* 'n', or 0 */
    option_kind kind;
    void *target;     /* default in, value out; its type by kind */
    const char *arg;  /* "HOST:PORT" in --help; NULL for flags */
    const char *help; /* one or more sentences; wrapped to 80 columns */
} option;

typedef struct {
    const char *program; /* "roster-coordinator" */
    const char *usage;   /* "MODEL [options]" */
    const char *about;   /* first lines of --help */
    const option *table;
    size_t count;
    bool daemon; /* takes --config, --check-config and the environment */
} option_set;

typedef struct options options;

enum { OPTIONS_RUN = 0, OPTIONS_EXIT = 1 };

/* Parse.  Returns OPTIONS_RUN; OPTIONS_EXIT after --help, --version or a good
 * --check-config (already printed); or ERR_USAGE / -errno with a sentence in
 * `why` that names the option, its source and the value.  Arguments that are no
 * options are in options_args().  Abbreviations are refused; `--` ends
 * options. */
int options_parse(options **out, const option_set *set, int argc, char **argv,
                  char *why, size_t why_size);
size_t options_args(const options *o, const char *const **args);
/* Was it given anywhere, or is it the default? */
bool options_given(const options *o, const char *name);
void options_free(options *o);

#endif
