/* options.c - walks the command line and joins the sources.
 *
 * The command line is walked twice: first to check its shape and to find
 * --help, --version and --config, which act before anything is converted; then,
 * after file and environment, to assign its values, which beat theirs.  So each
 * source simply overwrites the one before.  options_value.c converts,
 * options_file.c reads files, options_help.c prints. */
#include "engine/options_internal.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define ENVIRONMENT_NAME_MAX 128

const option *option_find(const option_set *set, const char *name, size_t len) {
    for (size_t i = 0; i < set->count; i++) {
        const option *opt = &set->table[i];
        if (strlen(opt->name) == len && memcmp(opt->name, name, len) == 0) {
            return opt;
        }
    }
    return NULL;
}

static const option *find_letter(const option_set *set, char letter) {
    for (size_t i = 0; i < set->count; i++) {
        if (letter != '\0' && set->table[i].letter == letter) {
            return &set->table[i];
        }
    }
    return NULL;
}

/* ---- one argument ---- */

/* What an argument is: an option of the table, one of ours, or neither. */
typedef struct {
    const option *opt;
    const char *dashes; /* "-" or "--" */
    const char *name;   /* as typed, without dashes and value */
    size_t name_len;
    const char *value; /* in the same argument; NULL if there is none */
} argument;

static bool named(const argument *a, const char *name) {
    return a->dashes[1] == '-' && a->name_len == strlen(name) &&
           memcmp(a->name, name, a->name_len) == 0;
}

/* `text` begins with '-' and is longer than it. */
static argument read_argument(const option_set *set, const char *text) {
    argument a = {0};
    if (text[1] != '-') {
        a.opt = find_letter(set, text[1]);
        a.dashes = "-";
        a.name = text + 1;
        a.name_len = 1;
        if (text[2] != '\0') a.value = text + 2;
        return a;
    }
    a.dashes = "--";
    a.name = text + 2;
    a.name_len = strcspn(a.name, "=");
    if (a.name[a.name_len] == '=') a.value = a.name + a.name_len + 1;
    a.opt = option_find(set, a.name, a.name_len);
    return a;
}

static bool is_option(const char *text) {
    return text[0] == '-' && text[1] != '\0';
}

/* ---- the command line ---- */

typedef enum { PASS_SCAN, PASS_ASSIGN } walk_pass;

static int print_version(const option_set *set) {
    printf("%s %s\n", set->program, ROSTER_VERSION);
    return OPTIONS_EXIT;
}

static int print_help(const option_set *set) {
    options_print_help(set, stdout);
    return OPTIONS_EXIT;
}

/* --help, --version, --config, --check-config.  *takes_value: it is --config
 * and its value is still to come. */
static int provided(options *o, const argument *a, bool *takes_value, char *why,
                    size_t why_size) {
    *takes_value = false;
    bool daemon = o->set->daemon;
    if (a->value == NULL && named(a, "help")) return print_help(o->set);
    if (a->value == NULL && named(a, "version")) return print_version(o->set);
    if (daemon && a->value == NULL && named(a, "check-config")) {
        o->check_config = true;
        return OPTIONS_RUN;
    }
    if (daemon && named(a, "config")) {
        *takes_value = true;
        return OPTIONS_RUN;
    }
    return err_why(why, why_size, ERR_USAGE,
                   "unknown option '%s%.*s'; see --help", a->dashes,
                   (int)size_min(a->name_len, 60), a->name);
}

/* One option with its value, which may be the next argument: *used is the
 * number of arguments it took. */
static int take_option(options *o, walk_pass pass, char **argv, int left,
                       int *used, char *why, size_t why_size) {
    argument a = read_argument(o->set, argv[0]);
    bool is_config = false;
    *used = 1;
    if (a.opt == NULL) {
        int rc = provided(o, &a, &is_config, why, why_size);
        if (rc != OPTIONS_RUN || !is_config) return rc;
    } else if (a.opt->kind == OPTION_FLAG && a.value == NULL) {
        a.value = "true";
    }

    if (a.value == NULL) {
        if (left < 2) {
            return err_why(why, why_size, ERR_USAGE, "%s needs a value",
                           argv[0]);
        }
        a.value = argv[1];
        *used = 2;
    }
    if (is_config) o->config = a.value;
    if (is_config || pass == PASS_SCAN) return OPTIONS_RUN;

    char where[80];
    snprintf(where, sizeof(where), "--%s", a.opt->name);
    return option_assign(o, a.opt, SOURCE_COMMAND_LINE, a.value, where, why,
                         why_size);
}

static int walk(options *o, walk_pass pass, int argc, char **argv, char *why,
                size_t why_size) {
    bool options_end = false;
    o->n_args = 0;
    for (int i = 1; i < argc;) {
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
            i++;
            continue;
        }
        if (options_end || !is_option(argv[i])) {
            o->args[o->n_args++] = argv[i++];
            continue;
        }
        int used;
        int rc = take_option(o, pass, argv + i, argc - i, &used, why, why_size);
        if (rc != OPTIONS_RUN) return rc;
        i += used;
    }
    return OPTIONS_RUN;
}

/* ---- the environment ---- */

/* ROSTER_ and the name in upper case; '-' becomes '_'. */
static const char *from_environment(const char *name, char *variable) {
    int len = snprintf(variable, ENVIRONMENT_NAME_MAX, "ROSTER_%s", name);
    assert(len < ENVIRONMENT_NAME_MAX);
    for (char *at = variable; *at != '\0'; at++)
        *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
    const char *value = getenv(variable);
    return value != NULL && *value != '\0' ? value : NULL;
}

static int apply_environment(options *o, char *why, size_t why_size) {
    for (size_t i = 0; i < o->set->count; i++) {
        const option *opt = &o->set->table[i];
        char variable[ENVIRONMENT_NAME_MAX];
        const char *value = from_environment(opt->name, variable);
        if (value == NULL) continue;
        int rc = option_assign(o, opt, SOURCE_ENVIRONMENT, value, variable, why,
                               why_size);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- all sources ---- */

static int apply_file_and_environment(options *o, char *why, size_t why_size) {
    if (!o->set->daemon) return 0;

    char variable[ENVIRONMENT_NAME_MAX];
    if (o->config == NULL) o->config = from_environment("config", variable);
    if (o->check_config && o->config == NULL) {
        return err_why(why, why_size, ERR_USAGE,
                       "--check-config needs --config FILE");
    }
    if (o->config != NULL) {
        int rc = options_read_file(o, o->config, why, why_size);
        if (rc < 0) return rc;
    }
    return apply_environment(o, why, why_size);
}

static int parse(options *o, int argc, char **argv, char *why,
                 size_t why_size) {
    int rc = walk(o, PASS_SCAN, argc, argv, why, why_size);
    if (rc != OPTIONS_RUN) return rc;
    rc = apply_file_and_environment(o, why, why_size);
    if (rc < 0) return rc;
    rc = walk(o, PASS_ASSIGN, argc, argv, why, why_size);
    if (rc != OPTIONS_RUN) return rc;
    if (!o->check_config) return OPTIONS_RUN;
    printf("%s: the configuration is valid\n", o->config);
    return OPTIONS_EXIT;
}

int options_parse(options **out, const option_set *set, int argc, char **argv,
                  char *why, size_t why_size) {
    *out = NULL;
    options *o = calloc(1, sizeof(*o));
    if (o == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    o->set = set;
    o->sources = calloc(set->count + 1, sizeof(*o->sources));
    o->args = calloc((size_t)argc + 1, sizeof(*o->args));
    int rc = o->sources != NULL && o->args != NULL
                 ? parse(o, argc, argv, why, why_size)
                 : err_why(why, why_size, -ENOMEM, "no memory");
    if (rc != OPTIONS_RUN) {
        options_free(o);
        return rc;
    }
    *out = o;
    return OPTIONS_RUN;
}

size_t options_args(const options *o, const char *const **args) {
    *args = o->args;
    return o->n_args;
}

bool options_given(const options *o, const char *name) {
    const option *opt = option_find(o->set, name, strlen(name));
    assert(opt != NULL);
    return o->sources[opt - o->set->table] != SOURCE_DEFAULT;
}

void options_free(options *o) {
    if (o == NULL) return;
    for (size_t i = 0; i < o->n_texts; i++)
        free(o->texts[i]);
    for (size_t i = 0; i < o->n_lists; i++)
        free(o->lists[i]);
    free(o->texts);
    free(o->lists);
    free(o->sources);
    free(o->args);
    free(o);
}
