/* cli.c - see cli.h. */
#include "client/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/util.h"

#define READ_BYTES ((size_t)64 << 10)

/* ---- failing ---- */

static void say(const char *command, const char *fmt, va_list args) {
    char line[CLI_WHY];

    vsnprintf(line, sizeof(line), fmt, args);
    make_printable(line); /* it may quote a peer */
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", command, line);
}

int cli_fail(const char *command, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    say(command, fmt, args);
    va_end(args);
    return CLI_FAILED;
}

int cli_usage(const char *command, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    say(command, fmt, args);
    va_end(args);
    return CLI_USAGE;
}

int cli_parse(options **o, const option_set *set, int argc, char **argv,
              size_t least, size_t most, const char *const **args,
              size_t *n_args) {
    char why[CLI_WHY] = "";

    int rc = options_parse(o, set, argc, argv, why, sizeof(why));
    if (rc == OPTIONS_EXIT) {
        bool written = fflush(stdout) == 0 && !ferror(stdout);
        return written ? CLI_OK
                       : cli_fail(set->program, "cannot write to stdout: %s",
                                  strerror(errno));
    }
    if (rc < 0) return cli_usage(set->program, "%s", why);

    *n_args = options_args(*o, args);
    if (*n_args >= least && *n_args <= most) return CLI_RUN;
    int status =
        *n_args < least
            ? cli_usage(set->program, "too few arguments; usage: %s %s",
                        set->program, set->usage)
            : cli_usage(set->program, "unexpected argument '%s'; usage: %s %s",
                        (*args)[most], set->program, set->usage);
    options_free(*o);
    *o = NULL;
    return status;
}

/* ---- standard streams ---- */

int cli_write(const char *data, size_t bytes) {
    while (bytes > 0) {
        ssize_t n = write(STDOUT_FILENO, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* Everything from a descriptor, zero-terminated. */
static int read_all(int fd, char **out, size_t *bytes) {
    char *data = NULL;
    size_t n = 0, capacity = 0;

    for (;;) {
        if (capacity - n < READ_BYTES + 1) {
            capacity = capacity * 2 + READ_BYTES + 1;
            char *grown = realloc(data, capacity);
            if (grown == NULL) {
                free(data);
                return -ENOMEM;
            }
            data = grown;
        }
        ssize_t got = read(fd, data + n, READ_BYTES);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            int rc = -errno;
            free(data);
            return rc;
        }
        if (got == 0) break;
        n += (size_t)got;
    }
    data[n] = '\0';
    *out = data;
    *bytes = n;
    return 0;
}

int cli_read_stdin(char **data, size_t *bytes) {
    return read_all(STDIN_FILENO, data, bytes);
}

int cli_read_file(const char *path, char **data, size_t *bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : read_all(fd, data, bytes);
    if (fd >= 0) close(fd);
    return rc;
}

int cli_read_head(const char *path, char *out, size_t bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int rc = read(fd, out, bytes) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

/* ---- token ids ---- */

static bool is_separator(char c) {
    return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* One number that ends at a separator or at the end of the text. */
static bool take_id(const char **at, const char *end, uint32_t *id) {
    uint64_t value = 0;
    const char *p = *at;

    while (p < end && is_digit(*p) && value <= UINT32_MAX)
        value = value * 10 + (uint64_t)(*p++ - '0');
    bool good = p > *at && value < UINT32_MAX && (p == end || is_separator(*p));
    *at = p;
    *id = (uint32_t)value;
    return good;
}

int cli_parse_ids(const char *text, size_t len, uint32_t **ids, size_t *n,
                  char *why, size_t why_size) {
    const char *end = text + len, *at = text;

    *n = 0;
    *ids = malloc((len / 2 + 1) * sizeof(**ids)); /* a digit and a separator */
    if (*ids == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    for (;;) {
        while (at < end && is_separator(*at))
            at++;
        if (at == end) return 0;

        const char *word = at;
        if (take_id(&at, end, &(*ids)[*n])) {
            (*n)++;
            continue;
        }
        size_t shown = 0;
        while (word + shown < end && shown < 20 && !is_separator(word[shown]))
            shown++;
        free(*ids);
        *ids = NULL;
        return err_why(why, why_size, ERR_USAGE,
                       "'%.*s' (number %zu of the list) is not a token id",
                       (int)shown, word, *n + 1);
    }
}

int cli_parse_ids_arg(const char *arg, uint32_t **ids, size_t *n, char *why,
                      size_t why_size) {
    if (arg[0] != '@')
        return cli_parse_ids(arg, strlen(arg), ids, n, why, why_size);

    char *text = NULL;
    size_t bytes = 0;
    int rc = cli_read_file(arg + 1, &text, &bytes);
    if (rc < 0) {
        return err_why(why, why_size, rc, "cannot read %s: %s", arg + 1,
                       err_text(rc));
    }
    char what[CLI_WHY] = "";
    rc = cli_parse_ids(text, bytes, ids, n, what, sizeof(what));
    free(text);
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", arg + 1, what) : 0;
}

/* ---- figures ---- */

void cli_format_bytes(uint64_t bytes, char *out, size_t size) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 999.95 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1000;
        unit++;
    }
    snprintf(out, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}
