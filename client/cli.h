/* cli.h - what every subcommand of `roster` shares: its options, how it fails,
 * how it writes and reads.
 *
 * Exit status: 0 the whole result was delivered; 1 a failure whose last line on
 * stderr says what and where; 2 usage. */
#ifndef CLIENT_CLI_H
#define CLIENT_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/options.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_RUN = -1 };

#define CLI_WHY 1024

/* Parse.  CLI_RUN: go on, the caller frees *o.  Otherwise the exit status, and
 * what there is to say was said.  From `least` to `most` arguments that are no
 * options must be there; they are in *args, borrowed from *o. */
int cli_parse(options **o, const option_set *set, int argc, char **argv,
              size_t least, size_t most, const char *const **args,
              size_t *n_args);

/* Say why on stderr, as the last line, and return CLI_FAILED or CLI_USAGE. */
int cli_fail(const char *command, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
int cli_usage(const char *command, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Write all bytes to stdout now.  -errno; nothing is buffered in between. */
int cli_write(const char *data, size_t bytes);

/* Everything that stdin has, zero-terminated; *data is the caller's to free. */
int cli_read_stdin(char **data, size_t *bytes);
/* The same of a file. */
int cli_read_file(const char *path, char **data, size_t *bytes);
/* The first bytes of a file, if it has so many. */
int cli_read_head(const char *path, char *out, size_t bytes);

/* Token ids separated by commas or white space; *ids is the caller's to free.
 * ERR_USAGE names the word that is none.  An empty text gives none. */
int cli_parse_ids(const char *text, size_t len, uint32_t **ids, size_t *n,
                  char *why, size_t why_size);

/* The same from "1,2,3", or from the file named after '@'. */
int cli_parse_ids_arg(const char *arg, uint32_t **ids, size_t *n, char *why,
                      size_t why_size);

/* 1234567 as "1.2 MB" (powers of 1000). */
void cli_format_bytes(uint64_t bytes, char *out, size_t size);

#endif
