/* options_file.c - reads a configuration file: `name = value` lines.
 *
 * A '#' at the start of a line or after a blank begins a comment.  A value in
 * double quotes is taken as it stands between them.  A name that the program
 * does not have, or one that stands there twice (lists apart), is an error:
 * either is a setting that would silently not hold. */
#include "engine/options_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

#define LINE_MAX_BYTES 65536

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Cut blanks off both ends, in place. */
static char *trim(char *text) {
    while (is_blank(*text))
        text++;
    size_t len = strlen(text);
    while (len > 0 && is_blank(text[len - 1]))
        text[--len] = '\0';
    return text;
}

/* The value of a trimmed text; NULL if a quote does not end. */
static char *read_value(char *text) {
    if (*text == '"') {
        char *end = strchr(text + 1, '"');
        if (end == NULL) return NULL;
        const char *rest = end + 1 + strspn(end + 1, " \t");
        if (*rest != '\0' && *rest != '#') return NULL;
        *end = '\0';
        return text + 1;
    }
    for (char *at = text; *at != '\0'; at++) {
        if (*at == '#' && (at == text || is_blank(at[-1]))) {
            *at = '\0';
            break;
        }
    }
    return trim(text);
}

/* One line, "PATH:LINE" being `place`. */
static int read_line(options *o, char *line, const char *place, char *why,
                     size_t why_size) {
    char *name = trim(line);
    if (*name == '\0' || *name == '#') return 0;

    char *equals = strchr(name, '=');
    if (equals == NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "%s: '%.60s' is not of the form name = value", place,
                       name);
    }
    *equals = '\0';
    name = trim(name);
    const option *opt = option_find(o->set, name, strlen(name));
    if (opt == NULL) {
        return err_why(why, why_size, ERR_USAGE, "%s: unknown option '%.60s'",
                       place, name);
    }
    if (opt->kind != OPTION_LIST &&
        o->sources[opt - o->set->table] == SOURCE_FILE) {
        return err_why(why, why_size, ERR_USAGE, "%s: '%s' is set twice", place,
                       name);
    }
    char *value = read_value(trim(equals + 1));
    if (value == NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "%s: the quotes of '%s' do not match", place, name);
    }
    char where[4096 + 128];
    snprintf(where, sizeof(where), "%s: %s", place, name);
    return option_assign(o, opt, SOURCE_FILE, value, where, why, why_size);
}

static int read_lines(options *o, FILE *f, const char *path, char *why,
                      size_t why_size) {
    char place[4096], *line = malloc(LINE_MAX_BYTES);
    if (line == NULL) return err_why(why, why_size, -ENOMEM, "no memory");

    int rc = 0;
    for (unsigned number = 1; rc == 0 && fgets(line, LINE_MAX_BYTES, f) != NULL;
         number++) {
        snprintf(place, sizeof(place), "%s:%u", path, number);
        /* A line that does not end is too long, or holds a zero byte. */
        if (strchr(line, '\n') == NULL && !feof(f)) {
            rc = err_why(why, why_size, ERR_USAGE,
                         "%s: the line is too long or no text", place);
            break;
        }
        rc = read_line(o, line, place, why, why_size);
    }
    if (rc == 0 && ferror(f)) {
        rc = err_why(why, why_size, -EIO, "%s: cannot read", path);
    }
    free(line);
    return rc;
}

int options_read_file(options *o, const char *path, char *why,
                      size_t why_size) {
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        int rc = -errno;
        return err_why(why, why_size, rc, "%s: cannot open: %s", path,
                       err_text(rc));
    }
    int rc = read_lines(o, f, path, why, why_size);
    fclose(f);
    return rc;
}
