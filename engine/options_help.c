/* options_help.c - prints --help, wrapped to 80 columns. */
#include "engine/options_internal.h"

#include <inttypes.h>
#include <string.h>
#include "engine/util.h"

#define COLUMNS 80
#define HELP_COLUMN 28

/* Continue at `column` and wrap words; later lines begin at `indent`. */
static void print_wrapped(FILE *out, const char *text, size_t column,
                          size_t indent) {
    bool line_empty = true;
    while (*text != '\0') {
        if (*text == '\n') {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            line_empty = true;
            text++;
            continue;
        }
        size_t len = strcspn(text, " \n");
        if (!line_empty && column + 1 + len > COLUMNS) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            line_empty = true;
        }
        fprintf(out, "%s%.*s", line_empty ? "" : " ", (int)len, text);
        column += len + (line_empty ? 0 : 1);
        line_empty = false;
        text += len;
        while (*text == ' ')
            text++;
    }
    fputc('\n', out);
}

/* "16M"; the largest unit that divides. */
static void format_size(uint64_t bytes, char *out, size_t size) {
    static const char units[] = {'K', 'M', 'G', 'T'};
    size_t unit = 0;
    while (unit < ARRAY_LEN(units) && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, size, "%" PRIu64 "%.*s", bytes, unit > 0,
             unit > 0 ? &units[unit - 1] : "");
}

/* The default as it would be typed; empty if there is none to show. */
static void format_default(const option *opt, char *out, size_t size) {
    out[0] = '\0';
    switch (opt->kind) {
    case OPTION_FLAG:
    case OPTION_LIST:
        return;
    case OPTION_STRING: {
        const char *text = *(const char **)opt->target;
        if (text != NULL) snprintf(out, size, "%s", text);
        return;
    }
    case OPTION_U32:
        snprintf(out, size, "%" PRIu32, *(uint32_t *)opt->target);
        return;
    case OPTION_U64:
        snprintf(out, size, "%" PRIu64, *(uint64_t *)opt->target);
        return;
    case OPTION_SIZE:
        format_size(*(uint64_t *)opt->target, out, size);
        return;
    case OPTION_MS: {
        uint32_t ms = *(uint32_t *)opt->target;
        bool whole = ms % 1000 == 0;
        snprintf(out, size, "%" PRIu32 "%s", whole ? ms / 1000 : ms,
                 ms == 0 ? ""
                 : whole ? "s"
                         : "ms");
        return;
    }
    case OPTION_F32:
        snprintf(out, size, "%g", (double)*(float *)opt->target);
        return;
    }
}

static void print_option(FILE *out, char letter, const char *name,
                         const char *arg, const char *help) {
    char left[160], letter_text[8] = "    ";
    if (letter != '\0')
        snprintf(letter_text, sizeof(letter_text), "-%c, ", letter);
    int n = snprintf(left, sizeof(left), "  %s--%s%s%s", letter_text, name,
                     arg != NULL ? " " : "", arg != NULL ? arg : "");
    size_t column = (size_t)n;
    fputs(left, out);
    if (column + 2 > HELP_COLUMN) {
        fputc('\n', out);
        column = 0;
    }
    fprintf(out, "%*s", (int)(HELP_COLUMN - column), "");
    print_wrapped(out, help, HELP_COLUMN, HELP_COLUMN);
}

static void print_table_option(FILE *out, const option *opt) {
    char text[1024], shown[160];
    format_default(opt, shown, sizeof(shown));
    if (shown[0] == '\0') {
        snprintf(text, sizeof(text), "%s", opt->help);
    } else {
        snprintf(text, sizeof(text), "%s (default %s)", opt->help, shown);
    }
    print_option(out, opt->letter, opt->name, opt->arg, text);
}

void options_print_help(const option_set *set, FILE *out) {
    fprintf(out, "Usage: %s %s\n\n", set->program, set->usage);
    if (set->about != NULL) {
        print_wrapped(out, set->about, 0, 0);
        fputc('\n', out);
    }
    fputs("Options:\n", out);
    for (size_t i = 0; i < set->count; i++)
        print_table_option(out, &set->table[i]);
    if (set->daemon) {
        print_option(out, '\0', "config", "FILE",
                     "Read options from FILE: `name = value` lines, '#' begins "
                     "a comment.");
        print_option(out, '\0', "check-config", NULL,
                     "Say whether the configuration is valid, and exit.");
    }
    print_option(out, '\0', "help", NULL, "Print this text and exit.");
    print_option(out, '\0', "version", NULL, "Print the version and exit.");
    if (!set->daemon) return;
    fputc('\n', out);
    print_wrapped(out,
                  "Each option can also be set in the environment: ROSTER_ and "
                  "its name in upper case, '-' as '_'. The command line goes "
                  "before the environment, which goes before the file.",
                  0, 0);
}
